import copy
from typing import get_args

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from know import retrodict
from know.prediction import engine
from know.prediction.engine import Folded, narrowed
from know.prediction.known import KNOWN, HyperModel, Scale
from know.prediction.predictors import TSV, Log, linear, no_change, task_vector
from know.weights.kinds import KINDS


def randomise(module: torch.nn.Module, seed: int = 0) -> None:
    """All parameters matter, biases too."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)


@pytest.fixture
def hypermodel() -> HyperModel:
    model = HyperModel(5)
    randomise(model)
    return model


def walk(shapes: dict[str, tuple[int, ...]], dtype: torch.dtype = torch.float32, length: int = 5) -> list[dict]:
    """A random walk of states."""
    generator = torch.Generator().manual_seed(1)
    start = {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}
    steps = [
        {name: torch.randn(shape, generator=generator) * 0.05 for name, shape in shapes.items()} for _ in range(length)
    ]
    return [
        {name: (start[name] + sum(s[name] for s in steps[: k + 1])).to(dtype) for name in shapes} for k in range(length)
    ]


@pytest.mark.parametrize("length", [2, 3, 5, 7])
@pytest.mark.parametrize("count", [1, 1055, 1056, 1057, 5000])  # a float64 block is 1,056 scalars
def test_folded_is_known(length, count):
    known = KNOWN(length).double()
    randomise(known, length)
    window = torch.randn(count, length, dtype=torch.float64, generator=torch.Generator().manual_seed(count))
    with torch.no_grad():
        torch.testing.assert_close(Folded(known)(window), known.residual(window), rtol=1e-12, atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from([1e-4, 0.1, 1.0]), st.integers(1, 5000))
@example(74, 1.0, 5000)
def test_float32_rounds_no_worse_than_the_plain_module(seed, scale, count):
    """On paths that move by a thousandth of their weights a step, as trained ones do."""
    known, generator = KNOWN(), torch.Generator().manual_seed(seed)
    randomise(known, seed)
    start, moves = torch.randn(count, 1, generator=generator), torch.randn(count, 5, generator=generator)
    window = scale * (start + 1e-3 * moves)
    with torch.no_grad():
        exact = copy.deepcopy(known).double().residual(window.double())
        plain = (known.residual(window) - exact).abs().max().item()
        folded = (Folded(known)(window) - exact).abs().max().item()
    # Maxima of two roundings: in most networks alike, in a few 3.5 times apart. And a few units in the last place of a residual near 1.
    assert folded <= 5 * plain + 4e-7


def test_windows_may_have_any_strides_and_precision(hypermodel):
    folded, window = Folded(hypermodel.fc), torch.randn(3000, 5)
    assert torch.equal(folded(window), folded(window.T.contiguous().T))
    assert torch.equal(folded(window), folded(torch.randn(3000, 9)[:, 2:7].copy_(window)))
    assert torch.equal(folded(window), folded(window.double()))
    assert folded(window.double()).dtype == torch.float32


def test_wrong_windows_are_named(hypermodel):
    with pytest.raises(ValueError, match=r"shape \(N, 5\), got \(12, 4\)"):
        retrodict([{"a": torch.zeros(12)}] * 4, hypermodel)


def test_each_kind_is_folded_on_its_own_and_anew(hypermodel):
    trajectory = walk({"c": (4, 3, 3, 3), "f": (70, 50), "b": (9,)})
    for seed in (0, 1):  # the same object with other weights gives another prediction
        randomise(hypermodel, seed)
        predicted = retrodict(trajectory, hypermodel)[0]
        for name, kind in zip(("c", "f", "b"), KINDS, strict=True):
            window = torch.stack([theta[name].flatten() for theta in trajectory], 1)
            expected = hypermodel(window, kind).view_as(predicted[name])
            torch.testing.assert_close(predicted[name], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("predictor", [None, linear], ids=["known", "linear"])
def test_result_does_not_depend_on_threads_or_pieces(monkeypatch, hypermodel, predictor):
    trajectory = walk({"a": (130, 100), "b": (3, 4096), "c": (7,)})
    results = []
    for count, piece in ((1, engine.PIECE), *((count, 2 * engine.BLOCK) for count in (1, 2, 5))):
        monkeypatch.setattr(engine, "PIECE", piece)
        torch.set_num_threads(count)
        results.append(retrodict(trajectory, predictor or hypermodel, steps=3))
        assert torch.get_num_threads() == count
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert all(torch.equal(one[name], two[name]) for name in one)


def test_gradients_are_neither_needed_nor_kept(hypermodel):
    trajectory = walk({"a": (40, 30)})
    wanted = retrodict(trajectory, hypermodel)[0]["a"]
    with_gradient = [{"a": theta["a"].clone().requires_grad_()} for theta in trajectory]
    got = retrodict(with_gradient, hypermodel)[0]["a"]
    assert torch.equal(got, wanted) and not got.requires_grad


def test_float64_weights_keep_their_digits(hypermodel):
    """The residual is float32, or what the network is; the weight it is added to loses nothing."""
    trajectory = walk({"a": (60, 40)}, torch.float64)
    window = torch.stack([theta["a"].flatten() for theta in trajectory], 1)
    predicted = retrodict(trajectory, hypermodel)[0]["a"].flatten()
    with torch.no_grad():
        torch.testing.assert_close(
            predicted - window[:, -1], hypermodel.fc.residual(window).double(), rtol=0, atol=1e-6
        )
        assert not torch.equal(predicted, predicted.float().double())
        exact = hypermodel.double()(window, "fc")
    torch.testing.assert_close(retrodict(trajectory, hypermodel)[0]["a"].flatten(), exact, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_is_computed_in_float32_and_rounded_once(hypermodel, dtype):
    short = walk({"a": (60, 40)}, dtype)
    exact = retrodict([{"a": theta["a"].float()} for theta in short], hypermodel, steps=2)
    for rounded, wide in zip(retrodict(short, hypermodel, steps=2), exact, strict=True):
        assert torch.equal(rounded["a"], wide["a"].to(dtype))


def test_theta_0_decides_the_dtype():
    trajectory = walk({"a": (6, 4)})
    mixed = [{"a": trajectory[0]["a"].double()}, {"a": trajectory[1]["a"].half()}, {"a": trajectory[2]["a"].bfloat16()}]
    assert retrodict(mixed, linear)[0]["a"].dtype == torch.bfloat16


def test_any_layout_gives_a_contiguous_result(hypermodel):
    trajectory = walk({"a": (6, 4, 5, 5)})
    other = [{"a": theta["a"].to(memory_format=torch.channels_last)} for theta in trajectory]
    one, two = retrodict(trajectory, hypermodel)[0]["a"], retrodict(other, hypermodel)[0]["a"]
    assert torch.equal(one, two) and two.is_contiguous()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_named(value):
    trajectory = walk({"a": (5,), "b": (300, 2000)})
    trajectory[2]["b"][299, 1999] = value
    with pytest.raises(ValueError, match=r"^trajectory\[2\]: b: holds NaN or Inf$"):
        retrodict(trajectory, linear)


def test_a_prediction_that_is_not_finite_is_an_error():
    trajectory = walk({"a": (5,)})
    with pytest.raises(ValueError, match=r"^a: the prediction is not finite"):
        retrodict(trajectory, lambda window, kind: window[:, 0] / 0)


def test_a_prediction_beyond_its_dtype_is_an_error():
    trajectory = [{"a": torch.full((3,), value, dtype=torch.float16)} for value in (1e4, 3e4, 5e4)]
    with pytest.raises(ValueError, match=r"^a: exceeds the range of torch\.float16"):
        retrodict(trajectory, linear)


def test_buffers_are_copied_whatever_they_hold():
    trajectory = [{"bn.running_mean": torch.tensor([float("-inf"), k]), "n": torch.tensor(k)} for k in range(3)]
    predicted = retrodict(trajectory, linear)[0]
    assert predicted["bn.running_mean"].tolist() == [float("-inf"), 2] and predicted["n"] == 2
    assert predicted["n"] is not trajectory[-1]["n"]


def test_empty_and_scalar_tensors():
    trajectory = [{"none": torch.zeros(0, 3), "one": torch.tensor(float(k))} for k in range(4)]
    predicted = retrodict(trajectory, linear)[0]
    assert predicted["none"].shape == (0, 3) and predicted["one"].shape == ()
    assert predicted["one"].item() == pytest.approx(4)


def test_states_must_have_the_same_tensors():
    trajectory = walk({"a": (3,)})
    with pytest.raises(ValueError, match=r"^trajectory\[1\]: the states .* 'extra' is not in all"):
        retrodict([trajectory[0], trajectory[1] | {"extra": torch.zeros(1)}, *trajectory[2:]], no_change)


@pytest.mark.parametrize(
    ("dtype", "largest", "too_large"),
    [(torch.float16, 65519.0, 65520.0), (torch.bfloat16, 3.389e38, 3.4e38), (torch.float64, 3.4e38, None)],
)
def test_narrowing_never_loses_a_finite_number(dtype, largest, too_large):
    kept = torch.tensor([largest, -largest, 1e-30, float("nan"), float("inf")])
    assert narrowed("x", kept, dtype).isfinite().tolist() == kept.isfinite().tolist()
    if too_large is not None:
        with pytest.raises(ValueError, match=r"^x: exceeds the range"):
            narrowed("x", torch.tensor([0, -too_large]), dtype)


class Whole(TSV):
    """Notes the shapes of what it sees."""

    def __call__(self, window: torch.Tensor, kind: str, ahead: int = 1) -> torch.Tensor:
        assert window.shape[:-1] in SHAPES.values(), window.shape
        return super().__call__(window, kind, ahead)


SHAPES = {"c": (8, 4, 3, 3), "f": (700, 400), "b": (9,), "s": ()}


def test_predictors_may_see_whole_tensors():
    trajectory = walk(SHAPES)
    predicted = retrodict(trajectory, Whole(rank_share=1.0), steps=2)
    for one, two in zip(predicted, retrodict(trajectory, task_vector(1.0), steps=2), strict=True):
        for name in SHAPES:
            torch.testing.assert_close(one[name], two[name])


def test_direct_predictors_are_asked_for_every_step_ahead():
    trajectory = walk({"a": (30, 20)})
    first, second = retrodict(trajectory, Log(direct=True), steps=2)
    window = torch.stack([theta["a"] for theta in trajectory], -1)
    for ahead, got in ((1, first), (2, second)):
        torch.testing.assert_close(got["a"], Log(direct=True)(window, "fc", ahead))


@pytest.mark.parametrize("scale", get_args(Scale))
def test_networks_are_folded_inside_their_frame(scale):
    model = HyperModel(5, scale=scale)
    randomise(model)
    trajectory = walk({"a": (50, 60)})
    window = torch.stack([theta["a"].flatten() for theta in trajectory], 1)
    torch.testing.assert_close(
        retrodict(trajectory, model)[0]["a"].flatten(), model(window, "fc"), rtol=1e-5, atol=1e-6
    )


def test_wrapped_names_and_ties():
    trajectory = walk({"e.weight": (6, 4)})
    trajectory[0] = {f"module.{name}": tensor for name, tensor in trajectory[0].items()}
    trajectory[-1]["tied.weight"] = trajectory[-1]["e.weight"]
    for theta in trajectory[1:-1]:
        theta["tied.weight"] = theta["e.weight"]
    trajectory[0]["module.tied.weight"] = trajectory[0]["module.e.weight"]
    predicted = retrodict(trajectory, linear)[0]
    assert list(predicted) == ["e.weight", "tied.weight"] and predicted["tied.weight"] is predicted["e.weight"]
