"""Which runs the evaluation makes of the starts, and which of them it judges."""

from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from know.data.images import ImageSet, normalise
from know.options import ParamError
from know.params import load
from know.stages import predict
from know.stages.evaluate import SCRATCH, chosen, draws, select, treated
from know.stages.forget import check_fall
from know.stages.predict import Maker, kept, ruled
from know.stages.results import SavedStart

NAIVE = SavedStart("main", "naive", 0, 0, "reference")
MORE = SavedStart("main", "more_data", 0, 1, "oracle")
KNOWN = [SavedStart("main", "known", 0, step, "method") for step in (1, 2, 3)]
LINEAR = [SavedStart("main", "linear", 0, step, "method") for step in (1, 2, 3)]
SHRINK = [SavedStart("main", "shrink", i, 1, "control", f"shrink={i}") for i in range(2)]
STARTS = [SCRATCH, NAIVE, MORE, *KNOWN, *LINEAR, *SHRINK]


def params(**evaluate):
    p = load()
    plain = {"steps": "chosen", "tuned": (), "learning_rates": (), "head_zero": False}
    plain["fine_tuning"] = p.evaluate.fine_tuning.model_copy(update={"lr": 0.002})
    return p.model_copy(update={"evaluate": p.evaluate.model_copy(update={**plain, **evaluate})})


def test_every_start_is_run_where_validation_images_choose_the_step():
    runs = list(treated(params(), STARTS))
    assert [one.start for one in runs] == STARTS and all(one.weights == one.start and one.lr == 0.002 for one in runs)


def test_at_the_last_step_only_the_candidate_is_run_at_the_others():
    oracle = SavedStart("oracle", "linear", 0, 1, "method")  # where only one step is taken
    runs = [one.start for one in treated(params(steps="last"), [*STARTS, oracle])]
    assert runs == [SCRATCH, NAIVE, MORE, *KNOWN, LINEAR[-1], *SHRINK, oracle]


def test_tuned_starts_are_run_at_every_rate_and_the_head_at_zero():
    options = {"tuned": ("naive", "known"), "learning_rates": (0.001, 0.004), "head_zero": True}
    runs = list(treated(params(steps="last", **options), STARTS))
    tuned = [one for one in runs if one.start.role == "tuned"]
    assert [(one.start.method, one.start.candidate, one.lr) for one in tuned] == [
        (f"{name}_tuned", i, lr) for name in ("naive", "known") for i, lr in enumerate((0.001, 0.002, 0.004))
    ]
    assert {one.weights for one in tuned} == {NAIVE, KNOWN[-1]}
    (zero,) = [one for one in runs if one.head_scale != 1]
    assert zero.start.method == "head_zero" and zero.weights == NAIVE and zero.head_scale == 0


def test_few_labels_have_all_draws_and_all_labels_as_many_as_asked():
    counts = pd.Series([draw.labels for draw in draws(params(fractions=(1.0, 0.2), full_draws=1, labels=50))])
    assert counts.value_counts().to_dict() == {50: 8, 10: 16}


def table(accuracy):
    """Runs of candidates (method, candidate, steps) with these validation accuracies at all labels, and 0 with few."""
    rows = [
        (method, candidate, steps, fraction, seed, value if fraction == 1 else 0.0)
        for (method, candidate, steps), value in accuracy.items()
        for fraction in (1.0, 0.2)
        for seed in (0, 1)
    ]
    found = pd.DataFrame(
        rows, columns=["method", "candidate", "steps", "fraction", "source_seed", "validation_accuracy"]
    )
    return found.assign(role="method", options="", crossed=False)


def test_what_is_chosen_is_chosen_with_all_labels():
    runs = table({("a", 0, 1): 0.5, ("a", 0, 2): 0.7, ("a", 1, 1): 0.6, ("a", 1, 2): 0.65, ("b", 0, 1): 0.9})
    runs.loc[(runs.fraction < 1) & (runs.candidate == 1), "validation_accuracy"] = 1.0
    picked = select(runs, params())
    best = picked[picked.chosen]
    assert best[["method", "candidate", "steps"]].to_numpy().tolist() == [["a", 0, 2]] and len(picked) == 4
    found = chosen(runs, picked)
    assert set(found[found.method == "a"].candidate) == {0} and set(found[found.chosen].steps) == {1, 2}


def test_at_the_last_step_only_the_candidates_there_are_chosen_among():
    runs = table({("a", 0, 1): 0.9, ("a", 0, 2): 0.5, ("a", 1, 1): 0.8, ("a", 1, 2): 0.6})
    picked = select(runs, params(steps="last"))
    assert picked[picked.chosen][["candidate", "steps"]].to_numpy().tolist() == [[1, 2]] and len(picked) == 2


def test_where_nothing_is_to_choose_every_start_is_kept():
    runs = table({("a", 0, 1): 0.9, ("a", 0, 2): 0.5, ("b", 0, 1): 0.8})
    picked = select(runs, params(steps="last"))
    found = chosen(runs, picked)
    assert picked.empty and len(found) == len(runs) and set(found[found.chosen & (found.method == "a")].steps) == {2}


@pytest.mark.parametrize(("which", "linear"), [("all", [1, 2]), ("last", [2])])
def test_of_what_is_not_judged_the_last_step_alone_may_be_kept(which, linear):
    options = load().predict.model_copy(update={"kept": which})
    states = [{"w": torch.zeros(1)}] * 2
    assert [step for step, _ in kept(options, options.judged, states)] == [1, 2]
    assert [step for step, _ in kept(options, "linear", states)] == linear


def test_batchnorm_is_reset_in_what_was_predicted_and_crossed_where_asked():
    p = load()
    on = SavedStart("main", "trained_on", 0, 1, "control")
    made = {start: {"w": torch.zeros(1)} for start in (NAIVE, MORE, KNOWN[0], *SHRINK, on)}

    def rules(rule, crossed=()):
        options = p.predict.model_copy(update={"batchnorm": rule, "crossed": crossed})
        found = ruled(p.model_copy(update={"predict": options}), made.items())
        return [(start.method, start.batchnorm, start.crossed) for start, _ in found]

    assert {rule for _, rule, _ in rules("copy")} == {"copy"}
    released = {name: rule for name, rule, _ in rules("reset predicted")}
    assert released == dict.fromkeys(["naive", "more_data", "trained_on"], "re-estimate") | dict.fromkeys(
        ["known", "shrink"], "reset"
    )
    both = [row for row in rules("reset predicted", ("naive", "known")) if row[0] in ("naive", "known")]
    assert both == [
        ("naive", "re-estimate", False), ("naive", "reset", True), ("known", "reset", False), ("known", "re-estimate", True),
    ]  # fmt: skip
    assert KNOWN[0].path(0) != SavedStart("main", "known", 0, 1, "method", batchnorm="reset", crossed=True).path(0)


@pytest.mark.parametrize(("side", "sizes"), [(8, [12]), (724, [6, 6])])  # 724² × 8 is 2²² pixels
def test_batchnorm_is_re_estimated_on_the_first_images_as_many_at_once_as_memory_holds(side, sizes, monkeypatch):
    monkeypatch.setattr(predict, "REESTIMATED", 12)
    values = torch.arange(20, dtype=torch.uint8)[:, None, None, None].expand(20, 1, side, side)
    images = ImageSet(values, torch.zeros(20, dtype=torch.int64), ("a",))
    net, seen = torch.nn.Sequential(torch.nn.BatchNorm2d(1)), []
    net.register_forward_pre_hook(lambda net, given: seen.append(len(given[0])))
    source = SimpleNamespace(net=lambda state: net, images_of=lambda size: images.select(torch.arange(size)))
    some = SimpleNamespace(downsize=SimpleNamespace(source_images=20))
    Maker(some, source, net.state_dict()).net(replace(NAIVE, batchnorm="re-estimate"), net.state_dict())
    assert seen == sizes
    assert net[0].running_mean.item() == pytest.approx(normalise(images.images[:12]).mean().item(), rel=1e-4)


def test_the_gate_wants_accuracy_to_fall_at_every_step_and_by_enough():
    def forgetting(*accuracies):
        rows = [(seed, k, "test", a + 0.001 * seed) for seed in (0, 1) for k, a in enumerate(accuracies)]
        return pd.DataFrame([*rows, (0, -1, "test", 0.0)], columns=["source_seed", "k", "images", "accuracy"])

    check_fall(forgetting(0.9, 0.88, 0.87), 0.02)
    for wrong in ((0.9, 0.89, 0.885), (0.9, 0.8, 0.82)):
        with pytest.raises(ParamError, match=r"^forget.must_fall: got 0.02, but source test accuracy goes 90\.\d, "):
            check_fall(forgetting(*wrong), 0.02)
