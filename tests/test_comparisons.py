"""One comparison has one verdict, and it follows from numbers whose truth is known."""

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired
from synthetic import CHOSEN, CONTRASTS, ORACLE, TRUTH, runs, transfer

from know.analysis import units
from know.analysis.comparisons import Comparisons, compare
from know.analysis.starts import MORE_DATA, NAIVE, SCRATCH, Start, starts
from know.analysis.statistics import mean_interval

MARGIN = 0.1


def comparisons(table: pd.DataFrame, **more: object) -> Comparisons:
    return Comparisons(table, 0.95, MARGIN, CONTRASTS, **more)


# --- starts and units ---------------------------------------------------------------------------------------------


def test_starts_come_from_rows_in_one_order():
    found = starts(transfer().sample(frac=1, random_state=0))
    assert [str(start.name) for start in found if start.step <= 1] == [
        "scratch", "naive", "more_data", "known", "scale_free", "linear", "task_vector", "shrunk", "shrink", "trained_on",
        "my_own",
    ]  # fmt: skip
    assert found == sorted(reversed(found)) and {start: start.role for start in found}[Start("shrunk", 2)] == "control"
    assert Start("known", 2).written(0.5) == "KNOWN ×4" and Start("shrink", 1).written(0.5) == "Θ₀ × λ"
    assert Start("my_own", 1).written(1 / 3) == "my own ×3" and MORE_DATA.data(0.5) == "×2" and NAIVE.data(0.5) == ""


def test_the_outcome_is_one_number_a_source_seed_with_all_labels():
    table = transfer()
    own = table[(table.method == "known") & (table.steps == 2) & (table.labels == 50)]
    by_hand = own.groupby("source_seed").accuracy.mean()
    found = units.runs(table)
    assert found.shape == (len(TRUTH), 15)
    assert units.by_source(found.loc[Start("known", 2)]).to_numpy() == pytest.approx(by_hand.to_numpy())


def test_what_lacks_a_number_of_labels_or_a_draw_is_not_compared():
    table = transfer()
    lacking = table[~((table.method == "linear") & (table.labels == 50))]
    found = units.runs(lacking)
    assert Start("linear", 1) not in found.index and Start("known", 1) in found.index
    # A missing draw is missing from both sides, so that a level is not taken for a difference.
    gap = transfer(noise=0)[lambda t: ~((t.method == "known") & (t.downstream_seed == 2) & (t.source_seed == 0))]
    assert units.difference(units.runs(gap), Start("known", 1), NAIVE).to_numpy() == pytest.approx([0.01] * 5)


def test_a_summary_is_over_source_seeds():
    found = units.summary(transfer(noise=0), ["method", "labels"], ["accuracy"], 0.95).set_index(["method", "labels"])
    levels = [0.7 + 0.02 * source + 0.01 + 0.04 for source in range(5)]  # downstream seeds add 0, 0.01 and 0.02
    naive, expected = found.loc[("naive", 20)], mean_interval(levels)
    assert (naive.accuracy, naive.accuracy_half_width) == pytest.approx((expected.mean, expected.half_width))
    assert naive.n == 5


# --- a family -----------------------------------------------------------------------------------------------------


def test_a_family_is_corrected_and_tested_for_equivalence_together():
    pattern = 0.01 * np.array([-1, -0.6, -0.2, 0.2, 0.6, 1])
    differences = {name: mean + pattern for name, mean in {"a": 0.03, "b": 0.009, "c": 0.0, "d": -0.004}.items()}
    found = compare({name: mean_interval(values) for name, values in differences.items()}, 0.015, "family")
    zero, p, equal = np.zeros(6), [], []
    for values in differences.values():
        equal.append(ttost_paired(values, zero, -0.015, 0.015)[0])
        p.append(ttost_paired(values, zero, 0, 9)[1][1])  # one side, of which two-sided follows
    both = [2 * min(one, 1 - one) for one in p]
    assert [one.p_holm for one in found.values()] == pytest.approx(multipletests(both, method="holm")[1].tolist())
    assert [one.p_equal for one in found.values()] == pytest.approx(multipletests(equal, method="holm")[1].tolist())
    assert {one.size for one in found.values()} == {4} and any(one.p < 0.05 < one.p_holm for one in found.values())


@pytest.mark.parametrize(
    ("mean", "spread", "verdict"),
    [
        (0.03, 0.005, "better"),
        (-0.03, 0.005, "worse"),
        (0.0, 0.005, "excludes the paper's effect"),
        (0.0, 0.05, "not clear"),
    ],
)
def test_the_four_verdicts(mean, spread, verdict):
    values = mean + spread * np.array([-1, -0.5, 0, 0.5, 1])
    one = compare({"x": mean_interval(values)}, 0.02, "x")["x"]
    turned = {"better": "worse", "worse": "better"}.get(verdict, verdict)
    assert one.verdict == verdict and one.reversed.verdict == turned and one.reversed.gain.mean == -one.gain.mean
    assert compare({"x": mean_interval(values)}, 0.02, "x", headroom=False)["x"].verdict == "no headroom"


def test_holm_keeps_the_family_wise_error():
    """Of ten true null hypotheses, no more than 5 % of families call any better or worse; uncorrected it is 40 %."""
    generator, corrected, raw = np.random.default_rng(0), [], []
    for _ in range(300):
        family = compare({i: mean_interval(generator.normal(size=6)) for i in range(10)}, 0.0, "null").values()
        corrected.append(any(one.verdict in ("better", "worse") for one in family))
        raw.append(any(one.p < 0.05 for one in family))
    assert np.mean(corrected) < 0.1 and np.mean(raw) > 0.3


# --- of a run -----------------------------------------------------------------------------------------------------


def test_every_start_is_compared_with_naive_and_finds_its_truth():
    found = comparisons(transfer())
    for (name, step), gain in TRUTH.items():
        if name != "naive":
            one = found.of(Start(name, step), NAIVE)
            assert one.gain.mean == pytest.approx(gain, abs=0.001) and one.gain.units == 5
            assert one.verdict == ("better" if gain > 0 else "worse" if gain < 0 else "excludes the paper's effect")
    assert found.named("known", "shrunk").gain.mean == pytest.approx(TRUTH["known", 2] - TRUTH["shrunk", 3], abs=0.001)
    assert {start.name: start.step for start in found.chosen.values()} == CHOSEN | {
        "naive": 0, "scratch": 0, "more_data": 1, "shrink": 1, "trained_on": 1,
    }  # fmt: skip


def test_each_comparison_is_in_one_family():
    found = comparisons(transfer())
    assert list(found.family("contrasts")) == [(found.chosen[one], found.chosen[other]) for one, other in CONTRASTS]
    pairs = [frozenset(pair) for pair in found.family()]
    assert len(pairs) == len(set(pairs))
    controls = {other.name for _, other in found.family("controls")}
    assert controls == {"scale_free", "task_vector", "trained_on", "my_own"}  # not those of the contrasts
    for one in found.family().values():
        assert one.size == len(found.family(one.family))
    assert found.of(NAIVE, Start("known", 2)) == found.of(Start("known", 2), NAIVE).reversed
    assert found.of(Start("linear", 1), Start("shrink", 1)) is None


def test_the_margin_is_a_share_of_naives_error():
    found = comparisons(transfer(noise=0))
    naive = units.runs(transfer(noise=0)).loc[NAIVE].mean()
    assert found.margin == pytest.approx(MARGIN * (1 - naive))


@pytest.mark.parametrize("more", [0.0, -0.02])
def test_without_headroom_nothing_is_judged(more):
    found = comparisons(transfer(TRUTH | {("more_data", 1): more}, noise=0.002))
    assert not found.headroom and found.gate.verdict in ("not clear", "excludes the paper's effect", "worse")
    judged = {pair: one.verdict for pair, one in found.family().items() if one.family not in ("gate", "pair")}
    assert set(judged.values()) == {"no headroom"} and found.of(NAIVE, SCRATCH).verdict == "better"
    assert found.best()[1].verdict == "no headroom"


def test_a_run_without_a_real_next_point_is_judged():
    found = comparisons(transfer({key: gain for key, gain in TRUTH.items() if key[0] != "more_data"}))
    assert found.gate is None and found.named("known", "naive").verdict == "better"


def test_one_source_seed_decides_nothing():
    found = comparisons(transfer({k: v for k, v in TRUTH.items() if k[0] != "more_data"}, sources=1))
    assert {one.verdict for one in found.family().values()} == {"not clear"}


def test_the_best_of_many_says_of_how_many():
    start, one, count = comparisons(transfer(noise=0)).best()
    assert start == Start("shrunk", 3) and one.gain.mean == pytest.approx(0.04)
    assert count == len([key for key in TRUTH if key[0] not in ("naive", "scratch", "more_data")])


def test_crossed_draws_no_longer_decide():
    """Label draws that all source seeds share give a gain that the interval takes for certain; nested ones do not."""
    truth = {("naive", 0): 0.0, ("known", 1): 0.0}
    verdicts = {}
    for nested in (False, True):
        generator, found = np.random.default_rng(1), []
        for seed in range(25):
            table = transfer(truth, noise=0)
            table["accuracy"] += 0.001 * np.random.default_rng(seed).normal(size=len(table))
            known, draws = table.method == "known", generator.normal(0, 0.02, (5, 3))
            luck = (draws if nested else np.repeat(draws[:1], 5, axis=0))[table.source_seed, table.downstream_seed]
            table.loc[known, "accuracy"] += luck[known]
            found.append(comparisons(table).of(Start("known", 1), NAIVE).verdict in ("better", "worse"))
        verdicts[nested] = np.mean(found)
    assert verdicts[False] > 0.5 and verdicts[True] < 0.15


def test_recovery_of_a_known_share():
    found = comparisons(transfer(ORACLE, noise=0))
    for key, gain in ORACLE.items():
        if key[0] not in ("naive", "more_data"):
            ratio, truth = found.recovery(Start(*key)), gain / ORACLE["more_data", 1]
            assert (ratio.value, ratio.low, ratio.high) == pytest.approx((truth, truth, truth), abs=1e-6)
    flat = comparisons(transfer({**ORACLE, ("more_data", 1): 0.0}, noise=0.01))
    assert not flat.recovery(Start("known", 1)).bounded
    harmed = comparisons(
        transfer({**ORACLE, ("more_data", 1): -0.05}, noise=0.001)
    )  # two losses are no share of a gain
    assert not harmed.recovery(Start("known", 1)).bounded
    assert comparisons(transfer({("naive", 0): 0, ("known", 1): 0.01})).recovery(Start("known", 1)) is None


def test_other_tables_have_rows_of_their_own():
    table = runs({("images", 100): 0.0, ("images", 200): 0.02}, noise=0).rename(columns={"steps": "images"})
    found = units.runs(table, ["images"])
    assert list(found.index) == [100, 200]
    assert units.difference(found, 200, 100).to_numpy() == pytest.approx([0.02] * 5)
