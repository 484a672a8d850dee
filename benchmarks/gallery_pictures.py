"""What ``gallery.py`` draws with: SVG whose points move by themselves, and strips of images as animated WebP."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

FRAMES = 17
BEGIN, END = 0.05, 0.62
"""The part of a round in which things move: they stand still before it, and longer after it."""
SECONDS = 7.0
INK = "#808080"
"""Words and frames in a grey that can be read on white and on black."""
HUES = ("#d81b60", "#d55e00", "#b58900", "#5a9e1b", "#009e73", "#2496d8", "#4f5fe0", "#9b4fd0")
SIDE, GAP, HEAD = 300, 14, 34
"""Of a panel, between panels, and above each, in the picture's own unit."""
SCALE, LABEL = 4, 150
"""Of the images in a strip, and what is left of it for words, in pixels."""

Points = Callable[[Sequence[str]], str]


def flow_picture(rows: Sequence[Sequence[tuple[str, Tensor]]], data: Tensor, moving: Points | None) -> str:
    """Rows of panels (title, states of shape (frames, n, 2)) over the points of the data: an SVG.

    ``moving`` makes an animation of the places of some points at each frame; without it they stand where they end.
    """
    reach = float(data.abs().max()) * 1.12
    width, height = len(rows[0]) * (SIDE + GAP) + GAP, len(rows) * (SIDE + HEAD) + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="19" text-anchor="middle" fill="none" stroke-linecap="round">',
        f'<defs><path id="data" d="{_places(data, reach)}" stroke="{INK}" stroke-opacity=".4" '
        f'stroke-width="4"/></defs>',
    ]
    for line, panels in enumerate(rows):
        for column, (title, states) in enumerate(panels):
            x, y = GAP + column * (SIDE + GAP), HEAD + line * (SIDE + HEAD)
            parts.append(f'<text x="{x + SIDE // 2}" y="{y - 9}" fill="{INK}">{escape(title)}</text>')
            parts.append(f'<svg x="{x}" y="{y}" width="{SIDE}" height="{SIDE}"><use href="#data"/>')
            parts += _particles(states, reach, moving)
            parts.append(f'<path d="M0 0H{SIDE}V{SIDE}H0Z" stroke="{INK}"/></svg>')
    return "\n".join([*parts, "</svg>\n"])


def _particles(states: Tensor, reach: float, moving: Points | None) -> list[str]:
    """A path for each colour, that of the direction in which a particle starts."""
    sector = torch.atan2(states[0, :, 1], states[0, :, 0]) / (2 * math.pi) % 1.0 * len(HUES)
    found = []
    for number, hue in enumerate(HUES):
        chosen = states[:, sector.long() == number]
        if chosen.shape[1]:
            frames = [_places(state, reach) for state in chosen]
            inside = moving(frames) if moving else ""
            found.append(f'<path stroke="{hue}" stroke-width="7" d="{frames[-1]}">{inside}</path>')
    return found


def animated(frames: Sequence[str]) -> str:
    """The animation of a path through its frames, forever."""
    times = [BEGIN + (END - BEGIN) * number / (len(frames) - 1) for number in range(len(frames))]
    marks = ";".join(f"{time:.3f}" for time in [0, *times, 1])
    values = ";".join([frames[0], *frames, frames[-1]])
    return (
        f'<animate attributeName="d" dur="{SECONDS:g}s" repeatCount="indefinite" keyTimes="{marks}" values="{values}"/>'
    )


def _places(points: Tensor, reach: float) -> str:
    """Points of the plane as dots of a path: each a line of no length."""
    x, y = ((points * torch.tensor([1.0, -1.0]) / reach + 1) * (SIDE / 2)).round().long().T.tolist()
    return "".join(f"M{a} {b}h0" for a, b in zip(x, y, strict=True))


def strip(rows: Sequence[Tensor], titles: Sequence[str]) -> Image.Image:
    """A row of images (n, height, width), values in [-1, 1], for each title, in 16 greys on a transparent ground."""
    count, height, width = rows[0].shape
    size = (width + 1) * SCALE, (height + 1) * SCALE
    picture = Image.new("LA", (LABEL + count * size[0], len(rows) * size[1]))
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size=14)
    for line, (images, title) in enumerate(zip(rows, titles, strict=True)):
        pen.text((LABEL - 10, (line + 0.45) * size[1]), title, fill=(128, 255), font=font, anchor="rm")
        grey = ((images.clamp(-1, 1) + 1) * 7.5).round().mul(17).to(torch.uint8)
        for column, pixels in enumerate(grey.numpy()):
            shown = Image.fromarray(pixels).resize((width * SCALE, height * SCALE), Image.Resampling.NEAREST)
            picture.paste(shown.convert("LA"), (LABEL + column * size[0], line * size[1]))
    return picture.convert("RGBA")


def write_frames(pictures: Sequence[Image.Image], moving: Path, still: Path) -> None:
    """The animation, on the clock of the SVGs, and its end."""
    inner = round(1000 * SECONDS * (END - BEGIN) / (len(pictures) - 1))
    durations = [round(1000 * SECONDS * BEGIN) + inner, *[inner] * (len(pictures) - 2)]
    durations.append(round(1000 * SECONDS) - sum(durations))
    pictures[0].save(
        moving, save_all=True, append_images=list(pictures[1:]), duration=durations, loop=0, lossless=True, method=4
    )
    pictures[-1].save(still, lossless=True, method=6)
