"""The benchmark of inverse problems, in small."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from benchmarks import inpainting


def test_the_table_and_the_picture_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Gaussian data "jacobian" comes closer to the exact mean than a method that is told of another noise."""
    few = ("Replacement", '"none" (DPS)', '"jacobian", flow')
    monkeypatch.setattr(inpainting, "METHODS", {name: inpainting.METHODS[name] for name in few})
    assert inpainting.main(["--colour", "--images", "2", "--draws", "40", "--out", str(tmp_path)]) == 0
    with (tmp_path / "colourisation.csv").open(newline="") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["exact", *few]
    assert [row["calls"] for row in rows.values()] == ["0", "100", "100", "20"]
    assert [row["passes"] for row in rows.values()][:3] == ["0", "0", "100"]
    assert float(rows["exact"]["known off"]) < 1e-6
    assert float(rows['"jacobian", flow']["distance"]) < float(rows['"none" (DPS)']["distance"])
    assert (tmp_path / "colourisation.png").stat().st_size > 1000


def test_what_cannot_be_followed_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inpainting.main(["--colour", "--model", "x"]) == 2
    assert "--model or --colour" in capsys.readouterr().err
    assert inpainting.main(["--model", str(tmp_path / "none")]) == 2
    assert "is not there" in capsys.readouterr().err
    assert inpainting.main(["--images", "0"]) == 2
