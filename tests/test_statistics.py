import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

from know.analysis.statistics import (
    Estimate,
    Interval,
    effect_size,
    holm,
    mean_interval,
    mixed_model,
    nested_bootstrap,
    p_different,
    p_equivalent,
    ratio_interval,
    recovery,
    unpaired,
)
from know.tasks.measures import Calibration


def test_interval_is_students():
    values = np.array([1.0, 2.0, 4.0, 5.0])
    low, high = stats.t.interval(0.9, 3, values.mean(), stats.sem(values))
    found = mean_interval(values, 0.9)
    assert found.mean - found.half_width == pytest.approx(low) and found.mean + found.half_width == pytest.approx(high)
    assert found.units == 4


def test_coverage_is_what_it_says():
    generator = np.random.default_rng(0)
    hits = [abs((e := mean_interval(generator.normal(3, 2, 5), 0.95)).mean - 3) <= e.half_width for _ in range(4000)]
    assert np.mean(hits) == pytest.approx(0.95, abs=0.015)


def p_of(values: list[float]) -> float:
    return p_different(mean_interval(values))


def test_one_unit_decides_nothing():
    assert mean_interval([2.0]).half_width == np.inf and p_of([2.0]) == 1 and p_equivalent(mean_interval([0.0]), 9) == 1
    assert p_of([0.0, 0.0]) == 1 and p_of([0.1 + 0.2, 0.3]) == 0
    assert p_equivalent(mean_interval([0.1, 0.1]), 0.2) == 0 and p_equivalent(mean_interval([0.1, 0.1]), 0.05) == 1


@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_p_values_are_scipys_and_statsmodels(confidence):
    for seed in range(5):
        a, b = np.random.default_rng(seed).normal(size=(2, 6))
        found = mean_interval(a - b, confidence)
        assert p_different(found) == pytest.approx(stats.ttest_rel(a, b).pvalue)
        for margin in (0.2, 1.0, 3.0):
            assert p_equivalent(found, margin) == pytest.approx(ttost_paired(a, b, -margin, margin)[0])


FINITE = st.floats(-1, 1).map(lambda x: round(x, 6))


@given(st.lists(FINITE, min_size=3, max_size=9), st.floats(0.01, 2))
def test_to_be_equivalent_is_to_lie_within_the_margin(values, margin):
    """TOST at α = 0.05 is the 90 % interval within ± the margin, and the test is the interval's that excludes 0."""
    ninety, found = mean_interval(values, 0.9), mean_interval(values)
    ends = max(abs(ninety.low), abs(ninety.high))
    if abs(ends - margin) > 1e-6:
        assert (p_equivalent(ninety, margin) < 0.05) == (ends < margin)
    if abs(abs(found.mean) - found.half_width) > 1e-9:
        assert (p_different(found) < 0.05) == found.excludes_zero


def test_separate_experiments_add_their_errors():
    one, other = Estimate(0.5, 0.3, 6), Estimate(0.1, 0.4, 4)
    assert unpaired(one, other) == Estimate(0.4, pytest.approx(0.5), 4)


def nested(generator: np.random.Generator, sources: int, downstreams: int, between: float, within: float) -> np.ndarray:
    """Values of mean 3 that share a part of each source seed."""
    return 3 + generator.normal(0, between, (sources, 1)) + generator.normal(0, within, (sources, downstreams))


@pytest.mark.parametrize(("between", "within"), [(0.0, 1.0), (1.0, 1.0), (1.0, 0.1)])
def test_coverage_over_nested_seeds(between, within):
    """The interval over source seeds covers 95 %, however the variance divides; pooling all runs does not."""
    generator, hits, pooled = np.random.default_rng(0), [], []
    for _ in range(2000):
        values = nested(generator, 5, 3, between, within)
        for found, estimate in ((hits, mean_interval(values.mean(1))), (pooled, mean_interval(values.ravel()))):
            found.append(abs(estimate.mean - 3) <= estimate.half_width)
    assert 0.93 < np.mean(hits) < 0.97
    assert between == 0 or np.mean(pooled) < 0.85


def test_the_interval_over_source_seeds_is_the_mixed_models():
    """In a balanced design REML has the same estimate and standard error; its quantile is the normal one."""
    values = nested(np.random.default_rng(4), 6, 3, 1.0, 0.5)
    table = pd.DataFrame(
        [(source, y) for source, row in enumerate(values) for y in row], columns=["source", "accuracy"]
    )
    model = smf.mixedlm("accuracy ~ 1", table, groups=table.source).fit(reml=True)
    found = mean_interval(values.mean(1))
    assert model.cov_re.iloc[0, 0] > 0.1
    assert found.mean == pytest.approx(model.params["Intercept"], rel=1e-6)
    assert found.half_width / stats.t.ppf(0.975, 5) == pytest.approx(model.bse["Intercept"], rel=1e-3)
    low, high = model.conf_int().loc["Intercept"]
    assert (high - low) / 2 == pytest.approx(found.half_width * 1.95996 / stats.t.ppf(0.975, 5), rel=1e-3)


@pytest.mark.parametrize("between", [0.0, 0.3, 1.0])
@pytest.mark.filterwarnings("error")
def test_the_mixed_model_is_remls_closed_form(between):
    """Of a balanced design: the variance of the mean is MSB/(nm), or that of independent values where MSB < MSW."""
    for seed in range(6):
        values = 0.01 * nested(np.random.default_rng(seed), 5, 3, between, 1.0)
        between_squares = 3 * values.mean(1).var(ddof=1)
        within = ((values - values.mean(1, keepdims=True)) ** 2).sum() / 10
        variance = between_squares / 15 if between_squares >= within else values.var(ddof=1) / 15
        found = mixed_model(values, 0.9)
        assert found.value == pytest.approx(values.mean())
        assert (found.high - found.low) / 2 == pytest.approx(stats.norm.ppf(0.95) * variance**0.5, rel=0.05)


@pytest.mark.filterwarnings("error")
def test_the_mixed_model_never_fails():
    assert mixed_model(np.full((3, 2), 0.1)) == Interval(pytest.approx(0.1), pytest.approx(0.1), pytest.approx(0.1), 3)
    assert not mixed_model([[1.0, 2.0]]).bounded and not mixed_model([[1.0], [2.0], [4.0]]).bounded
    gaps = mixed_model([[1.0, 1.2, np.nan], [2.0, 2.1, 2.2], [1.5, np.nan, 1.4]])
    assert gaps.bounded and 0.9 < gaps.low < gaps.value < gaps.high < 2.5


def test_nested_bootstrap_covers_with_many_source_seeds_and_not_with_few():
    def coverage(sources: int) -> float:
        generator, hits = np.random.default_rng(0), []
        for seed in range(400):
            found = nested_bootstrap(nested(generator, sources, 3, 1.0, 0.5), resamples=400, seed=seed)
            hits.append(found.low <= 3 <= found.high)
        return float(np.mean(hits))

    assert coverage(40) > 0.92 and coverage(5) < 0.91


def test_nested_bootstrap_is_scipys_without_nesting():
    values = np.random.default_rng(2).normal(size=(12, 1))
    found = nested_bootstrap(values, 0.9, resamples=20_000)
    reference = stats.bootstrap(
        (values[:, 0],),
        np.mean,
        confidence_level=0.9,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(5),
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx(tuple(reference), abs=0.02)
    assert found.value == pytest.approx(values.mean()) and found.units == 12


def test_nested_bootstrap_is_seeded_and_wants_a_full_matrix():
    values = nested(np.random.default_rng(0), 5, 3, 1, 1)
    assert nested_bootstrap(values, seed=1) == nested_bootstrap(values, seed=1) != nested_bootstrap(values, seed=2)
    for wrong in (values[0], np.where(values == values[2, 1], np.nan, values)):
        with pytest.raises(ValueError, match="for each downstream seed of each source seed"):
            nested_bootstrap(wrong)


def crossed(generator: np.random.Generator, sources: int, downstreams: int, draw: float, within: float) -> np.ndarray:
    """As ``nested``, but all source seeds share the same draws of labels, which differ by ``draw``."""
    return 3 + generator.normal(0, draw, (1, downstreams)) + generator.normal(0, within, (sources, downstreams))


def test_draws_that_all_source_seeds_share_cover_too_little():
    """With the same variance of a draw, the interval over source seeds covers where draws are nested, not where crossed."""
    generator, covered = np.random.default_rng(0), {}
    for name in ("crossed", "nested"):
        hits = []
        for _ in range(2000):
            values = (
                crossed(generator, 6, 3, 1.0, 0.5) if name == "crossed" else nested(generator, 6, 3, 0.0, 1.25**0.5)
            )
            found = mean_interval(values.mean(1))
            hits.append(found.low <= 3 <= found.high)
        covered[name] = np.mean(hits)
    assert covered["crossed"] < 0.6 and 0.93 < covered["nested"] < 0.97


# --- ratios -----------------------------------------------------------------------------------------------------


def pairs(generator: np.random.Generator, n: int, ratio: float, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Correlated pairs whose means have this ratio."""
    shared = generator.normal(0, spread, n)
    return ratio + shared + generator.normal(0, spread, n), 1 + shared + generator.normal(0, spread, n)


@pytest.mark.parametrize("ratio", [-0.5, 0.0, 0.7])
def test_a_ratios_ends_are_where_the_paired_test_turns(ratio):
    top, bottom = pairs(np.random.default_rng(3), 7, ratio, 0.2)
    found = ratio_interval(top, bottom)
    assert found.bounded and found.low < found.value < found.high
    for end in (found.low, found.high):
        assert stats.ttest_1samp(top - end * bottom, 0).pvalue == pytest.approx(0.05)


def test_a_ratio_to_a_constant_is_a_scaled_mean():
    top = np.array([1.0, 2.0, 4.0])
    mean, found = mean_interval(top, 0.9), ratio_interval(top, [2.0, 2.0, 2.0], 0.9)
    assert (found.low, found.high) == pytest.approx(
        ((mean.mean - mean.half_width) / 2, (mean.mean + mean.half_width) / 2)
    )


def test_coverage_of_ratios():
    generator = np.random.default_rng(0)
    found = [ratio_interval(*pairs(generator, 6, 0.4, 0.15)) for _ in range(2000)]
    assert np.mean([one.bounded for one in found]) > 0.99
    assert 0.93 < np.mean([one.low <= 0.4 <= one.high for one in found]) < 0.97


def test_nothing_to_recover_has_no_bound():
    unclear = ratio_interval([0.1, 0.2, 0.3], [-0.1, 0.2, 0.1])
    assert unclear == Interval(unclear.value, -np.inf, np.inf, 3) and not unclear.bounded
    assert not ratio_interval([1.0], [2.0]).bounded and ratio_interval([1.0], [2.0]).value == 0.5
    assert np.isnan(ratio_interval([1.0, 2.0], [1.0, -1.0]).value)


def test_recovery_is_the_share_of_the_real_gain():
    naive, real = np.array([0.70, 0.72, 0.71, 0.69]), np.array([0.74, 0.77, 0.75, 0.74])
    half = recovery(naive + (real - naive) / 2, naive, real)
    assert (half.value, half.low, half.high) == pytest.approx((0.5, 0.5, 0.5), abs=1e-6)
    assert recovery(naive, naive, real).value == 0 and recovery(real, naive, real).value == pytest.approx(1)


# --- comparisons ------------------------------------------------------------------------------------------------


def test_holm_by_hand():
    p = pd.Series([0.01, 0.04, np.nan, 0.03, 0.005], index=list("abcde"))
    adjusted = holm(p)  # 4 · 0.005, 3 · 0.01, 2 · 0.03, then at least that
    assert adjusted.drop("c").to_dict() == pytest.approx({"a": 0.03, "b": 0.06, "d": 0.06, "e": 0.02})
    assert np.isnan(adjusted["c"]) and holm(pd.Series([np.nan])).isna().all()
    assert p["a"] == 0.01 and holm(pd.Series([0.6, 0.7])).max() == 1
    assert adjusted.dropna().to_list() == pytest.approx(multipletests(p.dropna(), method="holm")[1].tolist())


def g_of(values: np.ndarray | list[float]) -> float:
    return effect_size(mean_interval(values))


def test_effect_size_by_hand():
    differences = [1.0, 2.0, 3.0, 4.0, 5.0]  # d_z = 3 / √2.5; J(4) = Γ(2) / (√2 Γ(3/2)) = √(2/π)
    assert g_of(differences) == pytest.approx(3 / 2.5**0.5 * (2 / np.pi) ** 0.5)
    assert g_of(np.negative(differences)) == -g_of(differences)
    assert np.isnan(g_of([1.0, 2.0])) and np.isnan(g_of([1.0, 1.0, 1.0]))


def test_the_effect_sizes_correction_takes_off_the_bias():
    samples = np.random.default_rng(0).normal(0.8, 1, (4000, 5))
    assert np.mean([g_of(row) for row in samples]) == pytest.approx(0.8, abs=0.05)
    assert (samples.mean(1) / samples.std(1, ddof=1)).mean() > 0.9


# --- calibration ------------------------------------------------------------------------------------------------


def calibration_error(probabilities, labels, bins=15):
    """Of two batches."""
    calibration, cut = Calibration(bins), len(labels) // 2
    logits, labels = torch.as_tensor(np.asarray(probabilities)).log(), torch.as_tensor(np.asarray(labels))
    calibration.update(logits[:cut], labels[:cut])
    calibration.update(logits[cut:], labels[cut:])
    return calibration.compute()


def test_calibration_error_by_hand():
    probabilities = [[0.9, 0.1], [0.1, 0.9], [0.6, 0.4], [0.35, 0.65]]
    labels = [0, 0, 0, 1]  # right, wrong, right, right
    expected = 2 / 4 * abs(0.5 - 0.9) + 1 / 4 * (1 - 0.6) + 1 / 4 * (1 - 0.65)
    assert calibration_error(probabilities, labels, bins=10) == pytest.approx(expected)
    assert calibration_error(probabilities, labels, bins=1) == pytest.approx(abs(0.75 - 0.7625))


def test_calibration_error_at_its_ends():
    calibrated = np.repeat([[0.8, 0.2], [0.6, 0.4]], 5, axis=0)
    assert calibration_error(calibrated, [0, 0, 0, 0, 1, 0, 0, 0, 1, 1]) == pytest.approx(0, abs=1e-12)
    assert calibration_error(np.eye(3), [1, 2, 0]) == 1 and calibration_error(np.eye(3), [0, 1, 2]) == 0


def test_labels_drawn_from_the_probabilities_are_calibrated():
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet(np.ones(4), 40_000)
    labels = (generator.random((40_000, 1)) > probabilities.cumsum(1)).sum(1)
    assert calibration_error(probabilities, labels) < 0.01
    sharpened = probabilities**2 / (probabilities**2).sum(1, keepdims=True)
    assert calibration_error(sharpened, labels) > 0.1
