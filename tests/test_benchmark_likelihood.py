"""The benchmark of likelihoods: its bits against closed forms of an exact law, its errors, its images, its files."""

import csv
import math

import pytest
import torch
from scipy.stats import norm

import scoresolve as ss
from benchmarks import digits, likelihood
from benchmarks.work_precision import Row


def test_bits_are_those_of_the_law() -> None:
    """Both likelihoods of the digits under their empirical law, by plain averages of closed forms; the bound above."""
    sde, law, count, draws = ss.VPSDE(), ss.exact.Empirical(digits.images(), 0.05), 3, 400
    t = sde.time(-math.log(likelihood.UNIFORM))
    rows = {row["estimate"]: row for row in likelihood.bits("law", law.model(sde), t, count, None)}
    k = ((digits.images()[:: 1797 // count][:count] + 1) * 8).repeat_interleave(draws, 0)
    alpha, sigma, density = sde.alpha(t), sde.sigma(t), law.marginal(sde, t).log_prob
    generator = torch.Generator().manual_seed(0)
    uniform = (k + torch.rand(k.shape, generator=generator, dtype=torch.float64) - 0.5) / 8 - 1
    noise = torch.randn(k.shape, generator=generator, dtype=torch.float64)
    x = alpha * (k / 8 - 1) + sigma * noise
    apart, edge = (k / 8 - 1 - x / alpha) * alpha / sigma, alpha / sigma / 16
    low, high = torch.where(k == 0, -math.inf, apart - edge), torch.where(k == 16, math.inf, apart + edge)
    cells = torch.from_numpy(norm.cdf(high.numpy()) - norm.cdf(low.numpy())).log().flatten(1).sum(1)
    forward = torch.distributions.Normal(0.0, sigma).log_prob(sigma * noise).flatten(1).sum(1)
    truth = {
        "flow, dequantised, exact": -density(alpha * uniform) - 64 * math.log(alpha / 8),
        "flow with a decoder, exact": forward - density(x) - cells,
    }
    for way, nats in truth.items():
        error = math.hypot(float(rows[way]["s.e."]), float(nats.std()) / (64 * math.log(2) * len(nats) ** 0.5))
        assert error < 0.1
        assert float(rows[way]["bits/dim"]) == pytest.approx(float(nats.mean()) / (64 * math.log(2)), abs=4 * error)
    decoded, bound = rows["flow with a decoder, exact"], rows["variational, continuous"]
    assert float(bound["bits/dim"]) > float(decoded["bits/dim"]) - 4 * (float(bound["s.e."]) + float(decoded["s.e."]))
    assert rows["flow, dequantised, exact"]["passes"] == 64 * int(rows["flow, dequantised, 1 probe"]["passes"])


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return list(likelihood.precision("vp", "mixture", likelihood.laws()["mixture"], 2, quick=True))


def test_errors_fall_with_tolerance_and_with_calls(rows: list[Row]) -> None:
    for solver in (*likelihood.ADAPTIVE, likelihood.FIXED):
        errors = [row.rmse for row in rows if row.solver == solver]
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] < 0.01 * errors[0]
    (line, *_) = likelihood.at_equal_error(rows)
    assert float(line["adaptive_abm"]) < float(line["scipy RK45"])


def test_the_spectrum_of_images() -> None:
    """Pixels of standard deviation 0.5; what is grey and flat varies most, by far."""
    law = likelihood.natural_images(4)
    assert law.shape == (3, 4, 4)
    variances, axes = torch.linalg.eigh(law.covariance)
    assert variances.mean() == pytest.approx(0.25)
    assert axes[:, -1].abs() == pytest.approx(torch.full((48,), 48**-0.5, dtype=torch.float64))
    shares = [c / (1 + a * a + b * b) for a in range(4) for b in range(4) for c in (1.0, 0.1, 0.02)]
    assert (variances / variances[-1]).tolist() == pytest.approx(sorted(shares))


def test_the_files(tmp_path, monkeypatch: pytest.MonkeyPatch, rows: list[Row]) -> None:
    monkeypatch.setattr(likelihood, "precision", lambda *_: iter(rows))
    monkeypatch.setattr(likelihood, "bits", lambda *_: iter([{"estimate": "a", "bits/dim": 1.23456}]))
    monkeypatch.setattr(likelihood, "probing", lambda *_: iter([{"model": "b"}]))
    monkeypatch.setattr(digits, "QUICK", digits.Training(steps=5, width=16, blocks=1))
    likelihood.main(["--quick", "--out", str(tmp_path), "--cache", str(tmp_path)])
    assert (tmp_path / "likelihood.png").stat().st_size > 10_000
    with (tmp_path / "bits_per_dim.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [{"estimate": "a", "bits/dim": "1.235"}] * 3
    for name in ("likelihood", "likelihood_at_equal_error", "hutchinson"):
        assert (tmp_path / f"{name}.csv").read_text().count("\n") > 1
