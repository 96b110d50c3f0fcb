"""State dicts as vectors: the laws of a vector space, and what of Θ_0 stays with a result."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from know.models.build import build
from know.weights.algebra import Weights
from know.weights.geometry import step_sizes
from know.weights.kinds import kinds_of

SHAPES = {"c.weight": (2, 1, 3, 3), "p.weight": (2, 2, 1, 1), "f.weight": (3, 2), "f.bias": (3,), "scale": ()}
numbers = st.floats(-8, 8).map(lambda x: round(x * 64) / 64)  # so that sums and products are exact in float32
seeds = st.integers(0, 10_000)


def state(seed: int, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    found = {n: torch.randint(-64, 64, shape, generator=generator).to(dtype) / 64 for n, shape in SHAPES.items()}
    return found | {"bn.running_mean": torch.full((2,), float(seed)), "bn.num_batches_tracked": torch.tensor(seed)}


def equal(one: Weights, other: Weights) -> bool:
    return one.kinds == other.kinds and torch.allclose(one.flat(), other.flat(), rtol=1e-12, atol=1e-12)


@settings(deadline=None, max_examples=50)
@given(seeds, seeds, seeds, numbers, numbers)
def test_a_vector_space_with_an_inner_product(i, j, k, a, b):
    u, v, w = (Weights(state(seed)) for seed in (i, j, k))
    zero = 0 * u
    assert equal(u + v, v + u) and equal((u + v) + w, u + (v + w)) and equal(u + zero, u) and equal(u - u, zero)
    assert equal(a * (u + v), a * u + a * v) and equal((a + b) * u, a * u + b * u) and equal(a * (b * u), (a * b) * u)
    assert equal(1 * u, u) and equal(-u, zero - u) and equal(u / 4, 0.25 * u) and equal(np.float64(a) * u, u * a)
    assert u.dot(v) == pytest.approx(v.dot(u)) and (a * u + w).dot(v) == pytest.approx(a * u.dot(v) + w.dot(v))
    assert u.norm() ** 2 == pytest.approx(u.dot(u)) and abs(u.dot(v)) <= u.norm() * v.norm() * (1 + 1e-12)
    assert u.cosine(u) == pytest.approx(1) and np.isnan(u.cosine(zero))
    assert sum(part.dot(v.by_kind()[kind]) for kind, part in u.by_kind().items()) == pytest.approx(u.dot(v))


@settings(deadline=None, max_examples=50)
@given(seeds, seeds, numbers, st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]))
def test_results_have_the_dtypes_and_buffers_of_the_first(i, j, a, dtype):
    first, second = state(i, dtype), state(j, torch.float32)
    found = (Weights(first) + a * Weights(second)).state()
    assert list(found) == list(first)
    for name, tensor in first.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape
        if name.startswith("bn."):
            assert torch.equal(found[name], tensor) and found[name].data_ptr() != tensor.data_ptr()
        else:  # rounded once, from float32 or wider
            wide = torch.promote_types(dtype, torch.float32)
            assert torch.equal(found[name], (tensor.to(wide) + a * second[name].to(wide)).to(dtype))


def test_the_state_of_weights_is_the_state():
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        theta = state(3, dtype)
        found = Weights(theta).state()
        assert all(torch.equal(found[name], tensor) for name, tensor in theta.items())
        assert all(found[name].data_ptr() != tensor.data_ptr() for name, tensor in theta.items())


def test_what_is_tied_counts_once_and_stays_tied():
    table = torch.arange(6.0).reshape(3, 2)
    tied = {"embedding.weight": table, "out.weight": table, "out.bias": torch.ones(3)}
    apart = {name: tensor.clone() for name, tensor in tied.items()}
    for other in (tied, apart):
        found = 2 * Weights(tied) - Weights(other)
        assert found.norm() ** 2 == pytest.approx(table.square().sum().item() + 3)
        assert found.dot(Weights(other)) == pytest.approx(table.square().sum().item() + 3)
        again = found.state()
        assert again["out.weight"] is again["embedding.weight"] and torch.equal(again["out.weight"], table)
    assert len(Weights(tied).flat()) == 9 and len(Weights(apart).flat()) == 15
    back = Weights(tied).unflat(Weights(tied).flat() + 1).state()
    assert torch.equal(back["out.weight"], table + 1) and back["out.weight"] is back["embedding.weight"]


@given(seeds, seeds)
@settings(deadline=None, max_examples=30)
def test_scaling_keeps_directions_and_takes_norms_kind_by_kind(i, j):
    one, other = (Weights(state(seed)) for seed in (i, j + 20_000))
    for kind, part in one.scaled_to(other).by_kind().items():
        assert part.norm() == pytest.approx(other.by_kind()[kind].norm(), rel=1e-9)
        assert part.cosine(one.by_kind()[kind]) == pytest.approx(1, abs=1e-9)
    assert equal((0 * one).scaled_to(other), 0 * one)  # what is 0 has no direction


def test_noise_is_one_s_seed():
    theta = Weights(build("cnn-bn", 1, 4, 0).state_dict())
    noise = theta.noise(1)
    assert torch.equal(noise.flat(), theta.noise(1).flat()) and not torch.equal(noise.flat(), theta.noise(2).flat())
    assert abs(noise.flat().mean()) < 0.05 and noise.flat().std().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(theta.unflat(noise.flat()).flat(), noise.flat())


def test_kinds_may_be_given():
    theta = state(0)
    assert Weights(theta).kinds["p.weight"] == "conv"
    given_kinds = kinds_of(theta, pointwise="fc")
    parts = Weights(theta, given_kinds).by_kind()
    assert set(parts["fc"].kinds) == {"p.weight", "f.weight"} and set(parts["conv"].kinds) == {"c.weight"}


def test_step_sizes_against_numpy():
    new, old, older = (state(seed) for seed in (1, 2, 3))
    rows = {row.kind: row for row in step_sizes(new, old, older)}
    assert set(rows) == {"conv", "fc", "bias"}
    for kind, names in {"conv": ["c.weight", "p.weight"], "fc": ["f.weight"], "bias": ["f.bias", "scale"]}.items():
        a, b, c = (np.concatenate([theta[name].numpy().ravel() for name in names]) for theta in (new, old, older))
        step, last, norm = a - b, b - c, np.linalg.norm
        assert rows[kind].norm_ratio == pytest.approx(norm(a) / norm(b))
        assert rows[kind].step_ratio == pytest.approx(norm(step) / norm(last))
        assert rows[kind].step_cosine == pytest.approx(step @ last / norm(step) / norm(last))
    assert np.isnan(step_sizes(new, old, old)[0].step_ratio)
