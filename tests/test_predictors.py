import subprocess
import sys
from typing import get_args

import numpy as np
import pytest
import torch
from conftest import write_params
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import BaseModel, ValidationError
from torch import Tensor

from know.params import ParamError, load, sections
from know.params import given as given_sections
from know.prediction.controls import control
from know.prediction.known import HyperModel, Scale, load_hypermodel, save_hypermodel
from know.prediction.predictors import PREDICTORS, TSV, AnyPredictor, Known, predictor
from know.prediction.retrodict import retrodict
from know.weights.kinds import kind_of

LENGTH = 5
LEARNED = {"known", "wnn", "linear_map"}
CLOSED = [name for name in PREDICTORS if name not in LEARNED]
VARIANTS = [predictor(name) for name in CLOSED] + [
    predictor("linear", anchored=True),
    predictor("linear", abscissa="samples", rate=0.5),
    predictor("log", anchored=True),
    predictor("average", last=2),
    predictor("tsv", rank_share=1.0),
]
MOVING = [p for p in VARIANTS if p.method not in ("naive", "average")]


def named(p: object) -> str:
    return str(p).replace("name=None ", "").replace("method=", "")


# Multiples of 2⁻¹²: a difference of 10⁻⁴⁰ would be lost in a shift by 1, and with it what a predictor reads off it.
steps = st.integers(-10 * 2**12, 10 * 2**12).map(lambda n: n / 2**12)
windows = hnp.arrays(np.float64, (3, LENGTH), elements=steps).map(torch.from_numpy)


def one(method: str, path: list[float], *, ahead: int = 1, **options: object) -> float:
    """The prediction for a single path."""
    window = torch.tensor([path], dtype=torch.float64)
    chosen = predictor(method, **options)
    return (chosen(window, "conv") if ahead == 1 else chosen(window, "conv", ahead)).item()


# --- properties of all ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", VARIANTS, ids=named)
@settings(deadline=None, max_examples=30)
@given(window=windows, scale=st.sampled_from([-3.0, 0.5, 20.0]), shift=st.floats(-5, 5))
def test_predictions_are_affine_equivariant(p, window, scale, shift):
    """Of one path at a time; only the truncated SVD is not additive, but scaling and shifting a whole tensor keep it so."""
    found = p(window * scale + shift, "conv")
    torch.testing.assert_close(found, p(window, "conv") * scale + shift, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("p", VARIANTS, ids=named)
@settings(deadline=None, max_examples=20)
@given(value=st.floats(-10, 10, width=32), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_a_path_at_rest_stays_there(p, value, dtype):
    window = torch.full((4, LENGTH), value, dtype=dtype)
    torch.testing.assert_close(p(window, "fc"), window[:, 0], rtol=1e-6, atol=0)


@pytest.mark.parametrize("p", MOVING, ids=named)
def test_a_path_at_rest_stays_there_exactly(p):
    window = torch.randn(50, 1, generator=torch.Generator().manual_seed(0)).expand(-1, LENGTH)
    assert torch.equal(p(window, "fc"), window[:, 0])


@pytest.mark.parametrize("p", [p for p in VARIANTS if not p.whole_tensors], ids=named)
def test_paths_do_not_see_each_other(p):
    window = torch.randn(6, LENGTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(p(window, "conv")[2:3], p(window[2:3], "conv"))


@pytest.mark.parametrize("p", VARIANTS, ids=named)
def test_too_short_a_history_is_an_error(p):
    least = max(p.shortest, getattr(p, "last", None) or 1)
    assert p(torch.zeros(2, least), "conv").shape == (2,)
    if least > 1:
        with pytest.raises(
            ValueError, match=rf"{p.method} needs a history of at least .*{least} weights, got {least - 1}"
        ):
            p(torch.zeros(2, least - 1), "conv")


# --- closed forms -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("anchored", [False, True])
@pytest.mark.parametrize(("abscissa", "rate"), [("index", None), ("samples", 0.5), ("samples", 1 / 3)])
@pytest.mark.parametrize("method", ["linear", "log"])
@settings(deadline=None, max_examples=15)
@given(window=windows, ahead=st.integers(1, 3))
def test_fits_are_numpys_least_squares(method, abscissa, rate, anchored, window, ahead):
    t = np.arange(1, LENGTH + 1) if rate is None else 4000 * rate ** np.arange(LENGTH - 1, -1, -1.0)
    beyond = LENGTH + ahead if rate is None else 4000 * rate**-ahead
    x, target = (np.log(t), np.log(beyond)) if method == "log" else (t, beyond)
    (intercept, slope), *_ = np.linalg.lstsq(np.stack([np.ones(LENGTH), x], 1), window.numpy().T, rcond=None)
    expected = window[:, -1].numpy() + slope * (target - x[-1]) if anchored else intercept + slope * target
    chosen = predictor(method, abscissa=abscissa, rate=rate, anchored=anchored)
    np.testing.assert_allclose(chosen(window, "conv", ahead), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("anchored", [False, True])
def test_lines_and_logarithms_are_continued(anchored):
    assert one("linear", [1, 3, 5, 7], anchored=anchored) == pytest.approx(9)
    assert one("linear", [1, 3, 5, 7], anchored=anchored, ahead=3) == pytest.approx(13)
    log = [2 + 3 * np.log(t) for t in range(1, 8)]
    assert one("log", log[:5], anchored=anchored) == pytest.approx(log[5])
    assert one("log", log[:5], anchored=anchored, ahead=2) == pytest.approx(log[6])
    samples = [0.1 * n for n in (250, 500, 1000, 2000, 4000)]  # proportional to |D_k|
    assert one("linear", samples[:4], abscissa="samples", rate=0.5, anchored=anchored) == pytest.approx(samples[4])


def test_anchoring_keeps_the_slope_and_moves_the_line():
    assert one("linear", [0, 0, 3]) == pytest.approx(4)  # 1 + 1.5 (t - 1) at t = 3
    assert one("linear", [0, 0, 3], anchored=True) == pytest.approx(4.5)


@given(windows)
def test_a_log_fit_over_samples_is_a_linear_fit_over_the_index(window):
    log = predictor("log", abscissa="samples", rate=0.3)
    torch.testing.assert_close(log(window, "fc"), predictor("linear")(window, "fc"), rtol=1e-6, atol=1e-6)


@given(st.floats(-5, 5), st.floats(0.1, 5), st.floats(0.05, 1), st.integers(3, 6), st.integers(1, 4))
def test_geometric_sequences_are_continued(limit, size, ratio, length, ahead):
    path = [limit - size * ratio**t if ratio < 1 else limit + size * t for t in range(length + ahead)]
    assert one("exponential", path[:length], ahead=ahead) == pytest.approx(path[-1], abs=1e-6)


def test_the_decay_ratio_is_clipped():
    assert one("exponential", [0, 1, 3]) == 5  # d doubles: ρ = 1
    assert one("exponential", [0, 1, 0]) == 0  # d changes sign: ρ = 0
    assert one("exponential", [0, 4, 6, 7]) == pytest.approx(7.5)
    assert one("exponential", [0, 1, 3, 4]) == pytest.approx(4 + 4 / 5)  # (2·1 + 1·2) / (1² + 2²)


@given(windows, st.floats(0.1, 2), st.integers(1, 3))
def test_task_vectors_negate_forgetting(window, scale, ahead):
    theta_1, theta_0 = window[:, -2], window[:, -1]
    expected = theta_0 - ahead * scale * (theta_1 - theta_0)
    torch.testing.assert_close(predictor("task_vector", scale=scale)(window, "fc", ahead), expected)
    torch.testing.assert_close(predictor("expo", alpha=scale)(window, "fc", ahead), expected)


def test_averages_are_means_of_the_last():
    assert one("average", [1, 2, 3, 6]) == 3
    assert one("average", [1, 2, 3, 6], last=2) == 4.5
    assert one("average", [1, 2, 3, 6], last=1) == one("naive", [1, 2, 3, 6]) == 6


# --- whole tensors ----------------------------------------------------------------------------------------------


def matrices(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def test_a_rank_one_step_survives_truncation():
    u, v, theta_0 = matrices(6, 1), matrices(1, 18), matrices(6, 2, 3, 3)
    step = (u @ v).reshape(6, 2, 3, 3)
    window = torch.stack([theta_0 - step, theta_0], -1)
    for share in (0.01, 0.2, 1.0):
        torch.testing.assert_close(TSV(rank_share=share)(window, "conv"), theta_0 + step)
    torch.testing.assert_close(TSV(rank_share=0.01, scale=0.3)(window, "conv"), theta_0 + 0.3 * step)


@pytest.mark.parametrize(("share", "kept"), [(0.01, 1), (0.5, 3), (0.7, 4), (1.0, 6)])
def test_truncation_keeps_the_largest_singular_values(share, kept):
    theta_1, theta_0 = matrices(2, 6, 4, 2, 2)
    u, s, vh = np.linalg.svd((theta_0 - theta_1).reshape(6, 16).numpy())
    expected = theta_0.numpy() + ((u[:, :kept] * s[:kept]) @ vh[:kept]).reshape(6, 4, 2, 2)
    found = TSV(rank_share=share)(torch.stack([theta_1, theta_0], -1), "conv")
    np.testing.assert_allclose(found, expected)


def trajectory(length: int = LENGTH) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"c.weight": (6, 3, 3, 3), "f.weight": (5, 4), "f.bias": (5,), "scale": ()}
    return [{name: torch.randn(shape, generator=generator) for name, shape in shapes.items()} for _ in range(length)]


def test_whole_tensors_reach_those_that_ask_for_them():
    states, share = trajectory(), 0.34
    first, second = retrodict(states, TSV(rank_share=share), steps=2)
    for name, theta_0 in states[-1].items():
        step = theta_0 - states[-2][name]
        if kind_of(name, theta_0) != "bias":
            u, s, vh = np.linalg.svd(step.flatten(1).numpy(), full_matrices=False)
            kept = round(share * len(s))
            step = torch.from_numpy((u[:, :kept] * s[:kept]) @ vh[:kept]).reshape(theta_0.shape)
            assert kept < len(s)
        torch.testing.assert_close(first[name], theta_0 + step, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(second[name], theta_0 + 2 * step, rtol=1e-4, atol=1e-5)  # its own step, fed back


@pytest.mark.parametrize("p", VARIANTS, ids=named)
def test_all_predictors_reach_whole_models(p):
    states = trajectory()
    for predicted in retrodict(states, p, steps=3):
        assert {k: v.shape for k, v in predicted.items()} == {k: v.shape for k, v in states[-1].items()}
        assert all(tensor.isfinite().all() for tensor in predicted.values())


# --- several steps ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [p for p in MOVING if p.method != "tsv"], ids=named)
def test_direct_steps_start_from_the_real_weights(p):
    states = trajectory()
    direct = p.model_copy(update={"direct": True})
    fed_back = retrodict(states, p, steps=3)
    at_once = retrodict(states, direct, steps=3)
    for name, theta_0 in states[-1].items():
        window = torch.stack([s[name].flatten() for s in states], 1)
        for k, state in enumerate(at_once, start=1):
            torch.testing.assert_close(state[name].flatten(), p(window, "conv", k))
        torch.testing.assert_close(at_once[0][name], fed_back[0][name])
        assert theta_0.shape == at_once[2][name].shape
    if p.method in ("linear", "log"):
        assert not torch.allclose(at_once[2]["c.weight"], fed_back[2]["c.weight"])


def test_direct_task_vectors_grow_evenly_and_fed_back_ones_geometrically():
    theta = [{"w": torch.tensor([0.0])}, {"w": torch.tensor([1.0])}]
    steps = {
        direct: [s["w"].item() for s in retrodict(theta, predictor("task_vector", scale=0.5, direct=direct), steps=3)]
        for direct in (True, False)
    }
    assert steps == {True: [1.5, 2.0, 2.5], False: [1.5, 1.75, 1.875]}


# --- learned ----------------------------------------------------------------------------------------------------


def test_wnn_is_the_papers_formula_around_known():
    """y = (w - w_0) / (R + 1e-5) / 2, and back."""
    torch.manual_seed(0)
    model = HyperModel(LENGTH, scale="wnn")
    for parameter in model.parameters():
        torch.nn.init.normal_(
            parameter, 0, 0.3
        )  # as initialised, without biases, it would hardly matter what it is fed
    window = torch.randn(20, LENGTH) * 0.03
    spread = window.max(1).values - window.min(1).values + 1e-8
    y = (window - window[:, :1]) / (spread[:, None] + 1e-5) / 2
    with torch.no_grad():
        torch.testing.assert_close(model(window, "fc"), model.fc(y) * 2 * (spread + 1e-5) + window[:, 0])


def test_frames_make_known_affine_equivariant():
    torch.manual_seed(0)
    window = torch.randn(20, LENGTH)
    for scale in get_args(Scale):
        model = HyperModel(LENGTH, scale=scale)
        found, wanted = model(7 * window + 2, "conv"), 7 * model(window, "conv") + 2
        assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-3) == (scale != "none")
        still = torch.full((3, LENGTH), 0.2)
        if scale != "none":
            assert torch.allclose(model(still, "conv"), still[:, 0], atol=1e-4)


@pytest.mark.parametrize(("name", "scale"), [("known", "none"), ("known", "path"), ("wnn", "wnn")])
def test_hyper_models_are_predictors_by_name(name, scale, tmp_path):
    torch.manual_seed(1)
    model = HyperModel(LENGTH, "a test", scale).eval()
    save_hypermodel(model, tmp_path / "model")
    assert load_hypermodel(tmp_path / "model").scale == scale
    chosen = predictor(name, hypermodel=str(tmp_path / "model"))
    states = trajectory()
    for key, tensor in retrodict(states, chosen, steps=2)[1].items():
        assert torch.equal(tensor, retrodict(states, model, steps=2)[1][key])


# --- by name ----------------------------------------------------------------------------------------------------


class Section(BaseModel):
    methods: tuple[AnyPredictor, ...]


def test_names_and_options_are_chosen_in_one_field():
    section = Section.model_validate({"methods": ["linear", {"method": "tsv", "rank_share": 0.2}, "known"]})
    assert section.methods == (predictor("linear"), TSV(rank_share=0.2), Known())
    assert section == Section.model_validate(section.model_dump())


OWN = """
from torch import Tensor
from know.prediction.controls import Control
from know.prediction.predictors import PathPredictor

class Halfway(PathPredictor):
    back: float = 0.5

    def __call__(self, window: Tensor, kind: str) -> Tensor:
        return window[..., -1] + self.back * (window[..., -2] - window[..., -1])

class Negated(Control):
    def starts(self, case):
        return [-case.theta_0]

number = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "halves.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield "halves:Halfway"
    sys.modules.pop("halves", None)


def test_one_s_own_class_is_a_name(own):
    chosen = predictor(own, back=0.25)
    assert chosen(torch.tensor([[9.0, 1, 5]]), "fc").tolist() == [4] and chosen.start == "halfway"
    section = Section.model_validate({"methods": ["linear", own, {"method": own, "back": 0.25, "name": "quarter"}]})
    assert section.methods == (predictor("linear"), predictor(own), predictor(own, back=0.25, name="quarter"))
    dumped = section.model_dump(mode="json")
    assert dumped["methods"][2] == {"name": "quarter", "method": own, "back": 0.25}
    assert Section.model_validate(dumped) == section and "halves" not in PREDICTORS
    theta = {"w": torch.ones(2)}
    assert control("halves:Negated")([theta, theta], chosen)[0]["w"].tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("halves:Half", {}, "method halves:Half: halves has no Half"),
        ("halves:number", {}, r"method halves:number: not a subclass of know\.prediction\.predictors\.PathPredictor"),
        ("halves:Negated", {}, "method halves:Negated: not a subclass of"),
        ("thirds:Third", {}, "method thirds:Third: thirds cannot be imported: ModuleNotFoundError"),
        ("halves:Halfway", {"forth": 1}, "halves:Halfway: forth: .*its options: back"),
    ],
)
def test_what_is_wrong_with_one_s_own_is_said_in_a_line(own, name, options, message):
    for attempt in (
        lambda: predictor(name, **options),
        lambda: Section.model_validate({"methods": [{"method": name, **options}]}),
    ):
        with pytest.raises(ValueError, match=message):
            attempt()


def test_one_s_own_is_a_method_of_the_experiment(own, tmp_path):
    write_params(
        tmp_path / "params.yaml",
        {"predict": {"methods": ["known", {"method": own, "back": [0.1, 0.2]}], "controls": []}},
    )
    params = load(tmp_path / "params.yaml")
    assert [one.back for one in params.predict.starts["halfway"]] == [0.1, 0.2]
    assert given_sections(sections(params, ["predict"])).predict == params.predict
    write_params(
        tmp_path / "params.yaml", {"predict": {"methods": ["known", {"method": own, "forth": 1}], "controls": []}}
    )
    with pytest.raises(ParamError, match=r"^params.yaml: predict.methods.1.*halves:Halfway: forth.*options: back$"):
        load(tmp_path / "params.yaml")


def test_every_predictor_knows_its_name():
    assert all(cls.model_fields["method"].default == name for name, cls in PREDICTORS.items())
    assert {p.method for p in VARIANTS} | LEARNED == set(PREDICTORS)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("cubic", {}, r"method: got 'cubic'; allowed: naive, average, linear"),
        (
            "tsv",
            {"rank_share": 2},
            r"tsv: rank_share: .* less than or equal to 1; its options: direct, rank_share, scale",
        ),
        ("tsv", {"share": 0.2}, r"tsv: share: .* its options: direct, rank_share, scale"),
        ("expo", {"alpha": float("inf")}, r"expo: alpha: .*finite"),
        ("linear", {"abscissa": "samples"}, r"linear: rate: the sampling rate r; needed with abscissa = samples"),
        ("linear", {"rate": 0.5}, r"linear: rate: .* only then"),
        ("known", {"hypermodel": "default", "variant": "path"}, r"known: variant: of the pipeline's own hyper-model"),
        ("known", {"name": "Our Own"}, r"known: name: .*pattern"),
        ("naive", {"steps": 1}, r"naive: steps: .*its options: none"),
    ],
)
def test_wrong_choices_are_named_in_a_line(method, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        predictor(method, **options)
    assert "\n" not in str(caught.value)


def test_options_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        predictor("expo").alpha = 0.1


def test_options_are_checked_without_torch():
    code = "import sys, know.prediction.predictors, know.prediction.controls; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
