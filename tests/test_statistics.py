import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats

from know import report
from know.experiment.evaluate import paired_seed
from know.statistics import (
    Interval,
    calibration_error,
    effect_size,
    holm,
    mean_interval,
    nested_bootstrap,
    paired_p,
    ratio_interval,
    recovery,
)


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


def test_one_unit_has_no_interval():
    assert mean_interval([2.0]).half_width == np.inf and not mean_interval([2.0]).excludes_zero
    assert paired_p([2.0]) == 1.0 and paired_p([0.0, 0.0]) == 1.0


def test_paired_p_is_scipys():
    a, b = np.random.default_rng(1).normal(size=(2, 6))
    assert paired_p(a - b) == pytest.approx(stats.ttest_rel(a, b).pvalue)


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


def test_effect_size_by_hand():
    differences = [1.0, 2.0, 3.0, 4.0, 5.0]  # d_z = 3 / √2.5; J(4) = Γ(2) / (√2 Γ(3/2)) = √(2/π)
    assert effect_size(differences) == pytest.approx(3 / 2.5**0.5 * (2 / np.pi) ** 0.5)
    assert effect_size(np.negative(differences)) == -effect_size(differences)
    assert np.isnan(effect_size([1.0, 2.0])) and np.isnan(effect_size([1.0, 1.0, 1.0]))


def test_the_effect_sizes_correction_takes_off_the_bias():
    samples = np.random.default_rng(0).normal(0.8, 1, (4000, 5))
    assert np.mean([effect_size(row) for row in samples]) == pytest.approx(0.8, abs=0.05)
    assert (samples.mean(1) / samples.std(1, ddof=1)).mean() > 0.9


# --- calibration ------------------------------------------------------------------------------------------------


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


# --- tables and findings ----------------------------------------------------------------------------------------


def toy_transfer(gain: float, noise: float = 0.0) -> pd.DataFrame:
    """Naïve, scratch and KNOWN over 4 source × 2 downstream seeds; KNOWN is better by ``gain``."""
    generator = np.random.default_rng(0)
    rows = []
    for source in range(4):
        level = 0.7 + 0.02 * source
        for downstream in range(2):
            seed = paired_seed(source, downstream)
            at = level + 0.05 * downstream
            rows += [
                ("naive", 0, seed, at),
                ("scratch", 0, seed, at - 0.1),
                ("known", 1, seed, at + gain + noise * generator.normal()),
                ("shrunk", 1, seed, at),
                ("more_data", 1, seed, at + 0.03),
            ]
    table = pd.DataFrame(rows, columns=["method", "steps", "seed", "accuracy"])
    return table.assign(fraction=0.5)


def test_units_are_source_seeds():
    summary = report.summarise(toy_transfer(0.01), 40, 0.95).set_index("method")
    assert list(summary.units.unique()) == [4] and list(summary.runs.unique()) == [8]
    assert summary.labels.unique() == [20]
    naive = [0.725, 0.745, 0.765, 0.785]
    assert summary["mean"]["naive"] == pytest.approx(np.mean(naive))
    assert summary.half_width["naive"] == pytest.approx(mean_interval(naive).half_width)


def test_gains_are_paired():
    summary = report.summarise(toy_transfer(0.01), 40, 0.95).set_index("method")
    assert summary.gain["known"] == pytest.approx(0.01)
    assert summary.gain_half_width["known"] == pytest.approx(0, abs=1e-12)  # though the levels differ between seeds
    assert summary.gain["scratch"] == pytest.approx(-0.1)


@pytest.mark.parametrize(
    ("gain", "noise", "verdict"),
    [(0.02, 0.001, "better"), (-0.02, 0.001, "worse"), (0.001, 0.05, "no clear difference")],
)
def test_findings_follow_the_numbers(gain, noise, verdict):
    (line,) = report.findings(toy_transfer(gain, noise), 40, 0.5, 0.95)
    assert line.startswith("20 labels, KNOWN ×2: against naïve transfer") and line.count(f"({verdict})") == 2


def test_the_pair_of_tasks_is_checked():
    (line,) = report.check_pair(report.summarise(toy_transfer(0), 40, 0.95))
    assert "naïve transfer beats scratch (+10.0" in line and "there is headroom, the real Θ₋₁ gains +3.0" in line
    bad = toy_transfer(0)
    bad.loc[bad.method == "scratch", "accuracy"] = bad[bad.method == "naive"].accuracy.to_numpy() + 0.01
    (line,) = report.check_pair(report.summarise(bad, 40, 0.95))
    assert "WARNING: naïve transfer does not clearly beat scratch (-1.0" in line


def forgetting(drop: float) -> pd.DataFrame:
    rows = [
        (s, k, part, 1.0, 0.9 - drop * k + 0.001 * s * k)
        for s in range(4)
        for k in range(3)
        for part in ("test", "kept")
    ]
    return pd.DataFrame(rows, columns=["seed", "k", "images", "loss", "accuracy"])


def learning(*unfinished: int) -> pd.DataFrame:
    return pd.DataFrame({"seed": range(4), "k": 0, "converged": [seed not in unfinished for seed in range(4)]})


def test_forgetting_is_measured_and_warned_of():
    observed, text = report.forgetting_verdict(forgetting(0.02), learning(), 0.95)
    assert observed and text.startswith("Forgetting observed") and "falls by 3.7 ± " in text
    observed, text = report.forgetting_verdict(forgetting(-0.02), learning(3), 0.95)
    assert not observed and text.startswith("WARNING: no clear forgetting") and "seeds [3] had not converged" in text


def test_tables_in_three_formats(tmp_path):
    table = pd.DataFrame({"start": ["a_b", "c"], "accuracy": ["1.0 ± 0.1", "2.0 ± 0.2"]})
    report.write_table(table, tmp_path, "t")
    assert pd.read_csv(tmp_path / "t.csv").equals(table)
    assert "| a_b" in (tmp_path / "t.md").read_text()
    tex = (tmp_path / "t.tex").read_text()
    assert r"\toprule" in tex and r"a\_b" in tex


def test_comparisons_are_corrected_for_their_number():
    transfer = toy_transfer(0.02, 0.004)
    summary = report.summarise(transfer, 100, 0.95)
    table = report.comparisons(transfer, summary, 0.5)
    assert set(table.start) == {"KNOWN", "Θ₀ shrunk to KNOWN's norms"} and (table["source seeds"] == 4).all()
    p = np.sort(summary[summary.method.isin(["known", "shrunk"])].p)
    by_hand = np.minimum(np.maximum.accumulate(p * np.arange(len(p), 0, -1)), 1)
    assert len(p) == 2 and sorted(table["p, Holm"].astype(float)) == pytest.approx(list(by_hand), abs=1e-3)
