"""The picture of an advice: error against network calls, on a logarithmic scale, what to use drawn through."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from .advice import Advice
from .durable import write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(advice: Advice, path: str | Path) -> None:
    """Write the picture; the ending of the path says in which format. Raises: ImportError without matplotlib."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    plain = [one for one in advice.choices if not one.tuned]
    axes.scatter([one.nfe for one in plain], [one.rmse for one in plain], 12, "0.7", label="published solvers")
    best = [advice.best(nfe, tuned=False) for nfe in advice.nfe]
    axes.plot([one.nfe for one in best], [one.rmse for one in best], "o-", color="C0", label="the best of them")
    tuned = [one for one in advice.choices if one.tuned]
    if tuned:
        axes.plot([one.nfe for one in tuned], [one.rmse for one in tuned], "D-", color="C3", label="tuned")
    for one in best:
        axes.annotate(one.solver, (one.nfe, one.rmse), (4, 5), textcoords="offset points", fontsize=7, color="C0")
    axes.set(xscale="log", yscale="log", xlabel="network calls", ylabel="error (root mean square)")
    axes.set_xticks(advice.nfe)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, frameon=False)
    axes.set_title(f"{advice.facts['tuned_on']}: error against its converged flow", fontsize=9, loc="left")
    save(figure, Path(path))


def save(figure: Figure, path: Path) -> None:
    """Write a figure in the format of the name: the file is whole, or as it was. Raises: ValueError, OSError."""
    file = io.BytesIO()
    figure.savefig(file, dpi=150, format=path.suffix[1:])
    write_file(path, file.getvalue())
