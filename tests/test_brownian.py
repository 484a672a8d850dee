"""Brownian paths that are refined: the bridge's law, and that a path is one path however it is explored."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

import scoresolve as ss
from scoresolve import brownian
from scoresolve.brownian import BrownianWalk, halves, whole
from scoresolve.noise import CORRECTOR, PATH, SOLVER

ROOT = torch.tensor([[1.0, 1 / 2], [1 / 2, 1 / 3]], dtype=torch.float64)
"""Covariance of (W, I) on an interval of length 1."""
SHARES = [1e-6, 0.1, 0.269, 0.5, 0.8]


def linear_map(theta: float) -> Tensor:
    """The matrix that takes (W, I, z_1, z_2) to the increments of the left half, then of the right one."""
    unit = torch.eye(4, dtype=torch.float64)
    left, right = halves(torch.full((4,), theta, dtype=torch.float64), unit[:, :2, None], unit[:, 2:, None])
    return torch.cat([left, right], dim=1)[..., 0].T


@pytest.mark.property(20)
@pytest.mark.parametrize("theta", SHARES)
def test_halves_have_the_law_of_intervals_and_make_up_the_whole(theta: float) -> None:
    """Exactly: independent halves of covariance ROOT each, and W and I of the parent are those of its parts."""
    matrix = linear_map(theta)
    inputs = torch.block_diag(ROOT, torch.eye(2, dtype=torch.float64))
    assert torch.allclose(matrix @ inputs @ matrix.T, torch.block_diag(ROOT, ROOT), rtol=0, atol=1e-9)
    left, right = matrix[:2], matrix[2:]
    rest = 1 - theta
    total = theta**0.5 * left[0] + rest**0.5 * right[0]
    area = theta**1.5 * left[1] + rest**1.5 * right[1] + rest * theta**0.5 * left[0]
    assert torch.allclose(torch.stack([total, area]), torch.eye(4, dtype=torch.float64)[:2], rtol=0, atol=1e-12)


@pytest.mark.parametrize("theta", SHARES)
def test_halves_of_increments_alone_are_a_rotation(theta: float) -> None:
    """Exactly: W and z, independent and of unit variance, become halves that are, and that make up W."""
    unit = torch.eye(2, dtype=torch.float64)
    left, right = halves(torch.full((2,), theta, dtype=torch.float64), unit[:, :1, None], unit[:, 1:, None])
    matrix = torch.cat([left, right], dim=1)[..., 0].T
    assert torch.allclose(matrix @ matrix.T, unit, rtol=0, atol=1e-14)
    assert theta**0.5 * matrix[0] + (1 - theta) ** 0.5 * matrix[1] == pytest.approx([1.0, 0.0], abs=1e-14)


@pytest.mark.parametrize("theta", SHARES[1:])
def test_the_bridge_is_gaussian_conditioning(theta: float) -> None:
    """Against the covariances of B(theta), its integral, B(1) and its integral, by quadrature of min(u, v)."""

    def covariance(a: tuple[bool, float], b: tuple[bool, float]) -> float:
        """Of B(u) or its integral up to u (if True), for two such."""

        def with_point(v: float) -> float:
            return quad(lambda u: min(u, v), 0, a[1], points=[min(v, a[1])])[0] if a[0] else min(a[1], v)

        return quad(with_point, 0, b[1], points=[min(a[1], b[1])])[0] if b[0] else with_point(b[1])

    names = [(False, theta), (True, theta), (False, 1.0), (True, 1.0)]
    full = torch.tensor([[covariance(a, b) for b in names] for a in names], dtype=torch.float64)
    gain = full[:2, 2:] @ torch.linalg.inv(full[2:, 2:])
    spread = full[:2, :2] - gain @ full[2:, :2]
    back = torch.diag(torch.tensor([theta**0.5, theta**1.5], dtype=torch.float64))
    matrix = back @ linear_map(theta)[:2]
    assert torch.allclose(matrix[:, :2], gain, atol=1e-7)
    assert torch.allclose(matrix[:, 2:] @ matrix[:, 2:].T, spread, atol=1e-7)
    alone = halves(torch.tensor([theta]), torch.ones(1, 1, 1, dtype=torch.float64), torch.zeros(1, 1, 1))
    assert theta**0.5 * alone[0].item() == pytest.approx(theta)  # without I: in proportion to the lengths


def walk(indices: range | list[int] = range(4), roots: int = 3, d: int = 5, **options: object) -> BrownianWalk:
    """A walk on the clock V = e^{2 u}, its roots of length 1/2 in u."""
    edges = 0.5 * torch.arange(roots + 1, dtype=torch.float64)
    like = torch.empty(len(indices), d, dtype=torch.float64)
    return BrownianWalk(
        ss.SampleStreams(3, indices), edges, lambda a, b: torch.sigmoid(a - b), like, bool(options.get("integrals", 1))
    )


def leaves(path: BrownianWalk, level: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(start, length in V, increments) of the nodes of a level, left to right, for all samples."""
    found = []
    rows = torch.arange(len(path.node))
    while bool(path.active().all()):
        while int(path.level[0]) < level:
            path.split(rows)
        a, b = path.ends()
        found.append((a, (2 * b).exp() - (2 * a).exp(), path.increments.clone()))
        path.advance(rows)
    return found


def joined(found: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """W and I, not scaled, of the interval that these nodes make up."""
    total, area = 0.0, 0.0
    for _, length, increments in found:
        size = length[:, None]
        area = area + size**1.5 * increments[:, 1] + total * size
        total = total + size**0.5 * increments[:, 0]
    return torch.stack([torch.as_tensor(total), torch.as_tensor(area)])


@pytest.mark.property(20)
def test_refining_changes_nothing_that_was_known() -> None:
    """Nodes of level 2 are made up of those of level 6, W and I."""
    coarse, fine = leaves(walk(), 2), leaves(walk(), 6)
    assert len(coarse) == 3 * 4
    assert len(fine) == 3 * 64
    for number, node in enumerate(coarse):
        assert torch.allclose(joined([node]), joined(fine[16 * number : 16 * number + 16]), rtol=0, atol=1e-12)


REDRAWN = {
    "fresh noise at each split": lambda share, parent, z: (whole(z), whole(z.flip(0))),
    "the tree's middle for the clock's": lambda share, parent, z: halves(torch.full_like(share, 0.5), parent, z),
}


@pytest.mark.parametrize("wrong", REDRAWN.values(), ids=REDRAWN)
def test_a_bridge_that_is_wrong_would_be_noticed(wrong: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """The controls of the test before."""
    monkeypatch.setattr(brownian, "halves", wrong)
    coarse, fine = leaves(walk(), 2), leaves(walk(), 6)
    assert not torch.allclose(joined(coarse[:1]), joined(fine[:16]), atol=0.02)


def test_the_path_of_a_sample_does_not_depend_on_the_batch_or_on_where_the_others_go() -> None:
    alone = leaves(walk([2]), 3)
    batch = walk(range(4))
    batch.split(torch.tensor([0, 1, 3]))
    batch.advance(torch.tensor([0, 3]))
    batch.split(torch.tensor([3]))
    batch.keep(torch.tensor([3, 2]))
    found, mine = [], torch.tensor([1])
    while bool(batch.active()[1]):
        while int(batch.level[1]) < 3:
            batch.split(mine)
        found.append(batch.increments[1].clone())
        batch.advance(mine)
    assert len(found) == len(alone)
    for (_, _, increments), other in zip(alone, found, strict=True):
        assert torch.equal(increments[0], other)


def test_walks_by_chance_cover_the_interval_from_left_to_right() -> None:
    generator = torch.Generator().manual_seed(0)
    one = torch.tensor([0])
    for _ in range(30):
        path, at, edges = walk([0], roots=3, d=1), 0.0, [0]
        while bool(path.active()):
            if torch.rand((), generator=generator) < 0.45 and path.level < 12:
                path.split(one)
                continue
            a, b = path.ends()
            assert a.item() == at
            at = b.item()
            path.advance(one)
            edges += [edge for edge in path.at_edge().tolist() if edge >= 0]
        assert at == 1.5
        assert edges == [0, 1, 2, 3]


def _is_brownian(found: list[tuple[Tensor, Tensor, Tensor]]) -> bool:
    """Covariances of neighbours' W and I within 4.9 standard errors of independent ROOTs; W of the whole in V."""
    n = found[0][2].shape[0] * found[0][2].shape[2]
    expected = torch.block_diag(ROOT, ROOT)
    bound = 4.9 * (expected.diag()[:, None] * expected.diag() + expected**2).sqrt() / math.sqrt(n)
    good = True
    for (_, _, one), (_, _, two) in pairwise(found):
        both = torch.cat([one, two], dim=1).transpose(0, 1).reshape(4, -1)
        good &= bool(((both @ both.T / n - expected).abs() < bound).all())
    total = joined(found)[0].square().mean().item() / (math.exp(1.0) - 1)
    return good and abs(total - 1) < 4.9 * math.sqrt(2 / n)


def test_the_increments_are_brownian_on_a_clock_that_is_not_the_tree_s() -> None:
    assert _is_brownian(leaves(walk(range(500), roots=1, d=40), 3))


def test_a_bridge_that_takes_the_integral_as_known_from_the_increment_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = torch.tensor([1.0, 0.0], dtype=torch.float64)[:, None]
    monkeypatch.setattr(brownian, "halves", lambda share, parent, z: halves(share, parent, fixed * z))
    assert not _is_brownian(leaves(walk(range(500), roots=1, d=40), 3))


def test_draws_of_a_tensor_are_those_of_its_integers_and_rows_can_be_taken() -> None:
    source, like = ss.SampleStreams(5, [7, 8, 9]), torch.empty(3, 4, 2)
    draws = torch.tensor([0, 2**50 + 1, 3])
    together = source.draw(PATH, draws, like)
    for row, draw in enumerate(draws.tolist()):
        assert torch.equal(together[row], source.draw(PATH, draw, like)[row])
    some = source.take(torch.tensor([2, 1])).draw(PATH, draws[[2, 1]], like[:2])
    assert torch.equal(some, together[[2, 1]])
    assert isinstance(source, ss.PathSource)


def test_deep_nodes_meet_no_other_stream() -> None:
    """Streams lie 2^40 draws apart: a path has the last of them."""
    assert max(SOLVER, CORRECTOR) < PATH
    source, like = ss.SampleStreams(0, [0]), torch.empty(1, 4)
    deep = source.draw(PATH, torch.tensor([2**40]), like)
    assert not any(torch.equal(deep, source.draw(stream, 0, like)) for stream in (SOLVER, CORRECTOR, PATH))


def test_what_is_drawn_for_a_root_has_the_covariance_of_increment_and_integral() -> None:
    """The map from normals to (W, I) is linear; times its transpose it is [[1, 1/2], [1/2, 1/3]], to rounding."""
    units = torch.eye(2, dtype=torch.float64)[None]  # channels are the normals, elements the two unit vectors
    factor = whole(units)[0]
    expected = torch.tensor([[1, 1 / 2], [1 / 2, 1 / 3]], dtype=torch.float64)
    torch.testing.assert_close(factor @ factor.T, expected, rtol=1e-14, atol=1e-14)
