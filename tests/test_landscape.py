"""The plane of a path's two first principal components."""

import math

import pytest
import torch

from know.models.build import build
from know.weights.landscape import grid, plane_of


def path(corners: list[tuple[float, float]]) -> tuple[list[dict[str, torch.Tensor]], list[dict[str, torch.Tensor]]]:
    """States at these places of a known plane, and its two axes as states of unit norm."""
    base = build("cnn-bn", 1, 4, 0).state_dict()
    weights = [n for n in base if base[n].is_floating_point() and "running" not in n]
    generator = torch.Generator().manual_seed(1)
    axes = [{n: torch.randn(base[n].shape, generator=generator).double() for n in weights} for _ in range(2)]
    dot = sum((axes[0][n] * axes[1][n]).sum() for n in weights) / sum(axes[0][n].square().sum() for n in weights)
    axes[1] = {n: axes[1][n] - dot * axes[0][n] for n in weights}
    for axis in axes:
        norm = sum(tensor.square().sum() for tensor in axis.values()).sqrt()
        axis.update({n: tensor / norm for n, tensor in axis.items()})
    states = [
        {n: t.double() + x * axes[0][n] + y * axes[1][n] if n in weights else t for n, t in base.items()}
        for x, y in corners
    ]
    return states, axes


def test_a_path_in_a_plane_is_found_again():
    corners = [(-4.0, 0.1), (-3.0, 0.9), (-1.5, 1.0), (0.0, 0.0)]
    states, _ = path(corners)
    plane = plane_of(states)
    assert sum(plane.share) == pytest.approx(1, abs=1e-9) and plane.share[0] > plane.share[1]
    assert plane.coordinates(states[-1]) == pytest.approx((0, 0), abs=1e-9)
    places = [plane.coordinates(state) for state in states]
    for (x, y), (u, v) in zip(corners, places, strict=True):  # a rotation keeps distances from Θ_0
        assert x**2 + y**2 == pytest.approx(u**2 + v**2, abs=1e-9)
    assert places[0][0] < 0 and places[0][1] <= 0  # Θ_0 right of and above the most forgotten weights
    for state, place in zip(states, places, strict=True):
        back = plane.state(*place)
        assert all(torch.allclose(back[n], t, atol=1e-9) for n, t in state.items() if "running" not in n)
        assert all(torch.equal(back[n], states[-1][n]) for n in state if "running" in n)


def test_what_lies_off_the_plane_is_a_share_of_the_step():
    states, axes = path([(-4.0, 0.1), (-3.0, 0.9), (-1.5, 1.0), (0.0, 0.0)])
    plane, theta_0 = plane_of(states), states[-1]
    noise = {
        n: torch.randn(t.shape, generator=torch.Generator().manual_seed(len(n))).double() for n, t in axes[0].items()
    }
    for axis in axes:
        dot = sum((noise[n] * axis[n]).sum() for n in noise)
        noise = {n: noise[n] - dot * axis[n] for n in noise}
    norm = sum(t.square().sum() for t in noise.values()).sqrt()
    for on, off in ((3.0, 4.0), (1.0, 0.0), (0.0, 2.0)):
        moved = {n: t + on * axes[0][n] + off / norm * noise[n] if n in noise else t for n, t in theta_0.items()}
        assert plane.off_plane(moved) == pytest.approx(off / (on**2 + off**2) ** 0.5, abs=1e-6)
    assert math.isnan(plane.off_plane(theta_0))


def test_the_grid_holds_the_points_and_calls_the_loss_there():
    states, _ = path([(-4.0, 0.0), (-2.0, 1.0), (0.0, 0.0)])
    plane = plane_of(states)
    points = [plane.coordinates(state) for state in states]
    found = grid(plane, points, lambda state: plane.coordinates(state)[0] + 2 * plane.coordinates(state)[1], size=5)
    xs, ys = {round(x, 9) for x, _, _ in found}, {round(y, 9) for _, y, _ in found}
    assert len(found) == 25 and len(xs) == len(ys) == 5
    assert min(xs) < min(x for x, _ in points) and max(ys) > max(y for _, y in points)
    assert all(loss == pytest.approx(x + 2 * y, abs=1e-6) for x, y, loss in found)


def test_two_states_span_no_plane():
    states, _ = path([(0.0, 0.0), (1.0, 0.0)])
    with pytest.raises(ValueError, match="at least 3"):
        plane_of(states)
