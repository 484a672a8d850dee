"""Grids from tables: the indices are those of diffusers' schedulers, the noise levels those of Align Your Steps."""

from __future__ import annotations

import numpy as np
import pytest

import scoresolve as ss
from scoresolve.grid_tables import AYS_LEVELS
from scoresolve.grids import make_grid

# DDIMScheduler(num_train_timesteps=1000, timestep_spacing=...).set_timesteps(n).timesteps of diffusers 0.42.1
TIMESTEPS = {
    ("leading", 7): [852, 710, 568, 426, 284, 142, 0],
    ("leading", 10): [900, 800, 700, 600, 500, 400, 300, 200, 100, 0],
    ("leading", 20): [
        950, 900, 850, 800, 750, 700, 650, 600, 550, 500, 450, 400, 350, 300, 250, 200, 150, 100, 50, 0,
    ],
    ("leading", 50): [
        980, 960, 940, 920, 900, 880, 860, 840, 820, 800, 780, 760, 740, 720, 700, 680, 660, 640, 620, 600, 580, 560,
        540, 520, 500, 480, 460, 440, 420, 400, 380, 360, 340, 320, 300, 280, 260, 240, 220, 200, 180, 160, 140, 120,
        100, 80, 60, 40, 20, 0,
    ],
    ("linspace", 7): [999, 832, 666, 500, 333, 166, 0],
    ("linspace", 10): [999, 888, 777, 666, 555, 444, 333, 222, 111, 0],
    ("linspace", 20): [
        999, 946, 894, 841, 789, 736, 684, 631, 578, 526, 473, 421, 368, 315, 263, 210, 158, 105, 53, 0,
    ],
    ("linspace", 50): [
        999, 979, 958, 938, 917, 897, 877, 856, 836, 816, 795, 775, 754, 734, 714, 693, 673, 652, 632, 612, 591, 571,
        550, 530, 510, 489, 469, 449, 428, 408, 387, 367, 347, 326, 306, 285, 265, 245, 224, 204, 183, 163, 143, 122,
        102, 82, 61, 41, 20, 0,
    ],
    ("trailing", 7): [999, 856, 713, 570, 428, 285, 142],
    ("trailing", 10): [999, 899, 799, 699, 599, 499, 399, 299, 199, 99],
    ("trailing", 20): [
        999, 949, 899, 849, 799, 749, 699, 649, 599, 549, 499, 449, 399, 349, 299, 249, 199, 149, 99, 49,
    ],
    ("trailing", 50): [
        999, 979, 959, 939, 919, 899, 879, 859, 839, 819, 799, 779, 759, 739, 719, 699, 679, 659, 639, 619, 599, 579,
        559, 539, 519, 499, 479, 459, 439, 419, 399, 379, 359, 339, 319, 299, 279, 259, 239, 219, 199, 179, 159, 139,
        119, 99, 79, 59, 39, 19,
    ],
    ("leading", 1): [0],
    ("linspace", 1): [0],
    ("trailing", 1): [999],
}  # fmt: skip
INDICES = ["leading", "linspace", "trailing"]


@pytest.mark.parametrize(("grid", "steps"), TIMESTEPS)
def test_the_indices_are_those_of_diffusers(grid: str, steps: int) -> None:
    wanted = [(index + 1) / 1000 for index in TIMESTEPS[grid, steps]] + [0.0]
    for sde in (ss.DiscreteVPSDE.linear(), ss.VPSDE(), ss.RectifiedFlow()):
        assert make_grid(grid, sde, steps, 1.0, 0.0) == pytest.approx(wanted, rel=1e-15)


def test_leading_takes_an_offset() -> None:
    sde = ss.DiscreteVPSDE.scaled_linear()
    times = ss.grids.leading(sde, 20, 1.0, 0.0, offset=1)
    assert times[:-1] * 1000 - 1 == pytest.approx(np.arange(951, 0, -50))
    for offset in (-1, 50):
        with pytest.raises(ValueError, match=f"offset={offset}"):
            ss.grids.leading(sde, 20, 1.0, 0.0, offset=offset)


@pytest.mark.parametrize("grid", INDICES)
def test_indices_are_whole_and_distinct_and_run_out(grid: str) -> None:
    sde = ss.DiscreteVPSDE.linear(steps=60)
    for steps in range(1, 61):
        places = make_grid(grid, sde, steps, 1.0, 0.0) * 60
        assert places == pytest.approx(np.rint(places), abs=1e-9)
        assert (np.diff(places) < -0.5).all()
    with pytest.raises(ValueError, match="61 steps do not fit on the 60 indices"):
        make_grid(grid, sde, 61, 1.0, 0.0)
    with pytest.raises(ValueError, match="1001 steps do not fit on the 1000 indices"):
        make_grid(grid, ss.VPSDE(), 1001, 1.0, 1e-3)


@pytest.mark.parametrize("grid", INDICES)
def test_a_part_of_a_table_is_a_shorter_table(grid: str) -> None:
    sde = ss.DiscreteVPSDE.linear()
    times = make_grid(grid, sde, 10, 0.6004, 0.2)
    inner = ss.DiscreteVPSDE.linear(steps=400)
    assert times[:-1] == pytest.approx(0.2 + 0.4 * make_grid(grid, inner, 10, 1.0, 0.0)[:-1], rel=1e-12)
    assert times[-1] == 0.2
    assert times[0] == (0.6 if grid != "leading" else pytest.approx(0.561))


@pytest.mark.parametrize("grid", INDICES)
def test_a_network_told_whole_indices_is_asked_at_those(grid: str) -> None:
    asked: list[float] = []

    def net(x: object, index: object) -> object:
        asked.append(float(index[0]))  # type: ignore[index]
        return x

    model = ss.ScoreModel(net, ss.DiscreteVPSDE.linear(), predicts="noise", time="index")
    ss.sample(model, shape=(1, 2), solver="ddim", steps=7, grid=grid, seed=0)
    assert asked == TIMESTEPS[grid, 7]


def test_ten_aligned_steps_are_the_table() -> None:
    scaled = ss.DiscreteVPSDE.scaled_linear()  # rho from 14.6146 to 0.02917: the table's ends before rounding
    for name in ("sd15", "sdxl"):
        levels = scaled.rho(make_grid(f"ays_{name}", scaled, 10, 1.0, 0.0))
        assert levels[1:-1] == pytest.approx(AYS_LEVELS[name][1:-1], rel=1e-12)
        assert levels[[0, -1]] == pytest.approx([scaled.rho(1.0), 0.0])
    for name, levels in AYS_LEVELS.items():
        ve = ss.VESDE(sigma_min=levels[-1], sigma_max=levels[0])
        assert ve.rho(make_grid(f"ays_{name}", ve, 10, 1.0, 0.0)) == pytest.approx(levels, rel=1e-12)
        edm = ss.EDM(sigma_min=levels[-1], sigma_max=levels[0])
        assert make_grid(f"ays_{name}", edm, 10, levels[0], 0.0) == pytest.approx([*levels[:-1], 0.0], rel=1e-12)


def test_the_published_tables() -> None:
    """Pinned apart from the module: the figures of the authors' page, whose last entry is the smallest level."""
    sd15 = "14.615 6.475 3.861 2.697 1.886 1.396 0.963 0.652 0.399 0.152 0.029"
    sdxl = "14.615 6.315 3.771 2.181 1.342 0.862 0.555 0.380 0.234 0.113 0.029"
    svd = "700.00 54.5 15.886 7.977 4.248 1.789 0.981 0.403 0.173 0.034 0.002"
    for name, figures in {"sd15": sd15, "sdxl": sdxl, "svd": svd}.items():
        assert AYS_LEVELS[name] == tuple(map(float, figures.split()))


@pytest.mark.parametrize("steps", [3, 5, 20, 33])
def test_another_number_of_aligned_steps_is_interpolated_in_log_rho(steps: int) -> None:
    levels = np.array(AYS_LEVELS["sd15"])
    sde = ss.VESDE(sigma_min=levels[-1], sigma_max=levels[0])
    wanted = np.exp(np.interp(np.linspace(0, 10, steps + 1), np.arange(11), np.log(levels)))
    assert sde.rho(make_grid("ays_sd15", sde, steps, 1.0, 0.0)) == pytest.approx(wanted, rel=1e-12)


def test_aligned_steps_of_other_ranges_keep_the_density_of_the_table() -> None:
    levels = AYS_LEVELS["sd15"]
    sde = ss.EDM()
    part = make_grid("ays_sd15", sde, 3, levels[2], levels[5])
    assert part == pytest.approx(levels[2:6], rel=1e-12)
    ratio = levels[0] / levels[1]
    longer = make_grid("ays_sd15", sde, 4, levels[0] * ratio**2, levels[2])
    assert longer == pytest.approx([levels[0] * ratio**2, levels[0] * ratio, *levels[:3]], rel=1e-12)
    ratio = levels[-2] / levels[-1]
    longer = make_grid("ays_sd15", sde, 3, levels[-2], levels[-1] / ratio**2)
    assert longer == pytest.approx([levels[-2], levels[-1], levels[-1] / ratio, levels[-1] / ratio**2], rel=1e-12)
