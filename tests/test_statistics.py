import numpy as np
import pandas as pd
import pytest
from scipy import stats

from know import report
from know.experiment import paired_seed
from know.statistics import mean_interval, paired_p


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
    assert "naïve transfer beats scratch (+10.0" in line and "leaves headroom (+3.0" in line
    bad = toy_transfer(0)
    bad.loc[bad.method == "scratch", "accuracy"] = bad[bad.method == "naive"].accuracy.to_numpy() + 0.01
    (line,) = report.check_pair(report.summarise(bad, 40, 0.95))
    assert "WARNING: does not clearly beat scratch (-1.0" in line


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
