"""Tables, findings and files of the report, from results whose truth is known."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.multitest import multipletests
from synthetic import HEADROOM, ORACLE, TRUTH, every_table, forgetting, geometry, headroom, oracle_source, transfer

from know import paths
from know.analysis import ablations, oracle
from know.analysis.statistics import mean_interval
from know.report import pages as render
from know.report import tables as report
from know.report.figures import label
from know.stages import report as tell
from know.stages.results import write_csv


def gained(text: str) -> float:
    """The mean in "+1.0 ± 0.1"."""
    return float(text.split(" ± ")[0])


# --- units and text ---------------------------------------------------------------------------------------------


def test_units_are_source_seeds():
    summary = report.summarise(transfer(noise=0), 50, 0.95)
    naive = summary[(summary.method == "naive") & (summary.labels == 20)].iloc[0]
    levels = [0.7 + 0.02 * source + 0.01 + 0.04 for source in range(5)]  # downstream seeds add 0, 0.01 and 0.02
    assert set(summary.units) == {5} and set(summary.runs) == {15} and set(summary["labels"]) == {20, 50}
    assert naive["mean"] == pytest.approx(np.mean(levels))
    assert naive.half_width == pytest.approx(mean_interval(levels).half_width)


def test_gains_are_paired():
    summary = report.summarise(transfer(noise=0), 50, 0.95)
    for row in summary.itertuples():
        assert row.gain == pytest.approx(TRUTH[row.method, row.steps])
        assert row.gain_half_width == pytest.approx(0, abs=1e-12)  # though the levels differ between seeds


def test_pooled_is_one_number_a_source_seed():
    table = transfer()
    by_hand = (
        table[(table.method == "known") & (table.steps == 2)]
        .assign(source=lambda t: t.seed // 1000)
        .groupby(["source", "fraction"])
        .accuracy.mean()
        .groupby("source")
        .mean()
    )
    assert report.pooled(table).loc[("known", 2)].to_numpy() == pytest.approx(by_hand.to_numpy())
    assert report.pooled_runs(table).shape == (len(TRUTH), 15)


def test_what_lacks_a_number_of_labels_is_not_pooled():
    table = transfer()
    lacking = table[~((table.method == "linear") & (table.fraction == 1))]
    assert ("linear", 1) not in report.pooled(lacking).index and ("known", 1) in report.pooled(lacking).index
    assert "–" in set(report.transfer_table(report.summarise(lacking, 50, 0.95), 0.5)["50 labels"])


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (report.percent(0.84123, 0.006), "84.1 ± 0.6"), (report.percent(-0.0001, 0.001, True), "+0.0 ± 0.1"),
        (report.percent(0.02, np.inf, True), "+2.0"), (report.number(np.nan), "–"), (report.p_text(0.0004), "< 0.001"),
        (report.name_of(("known", 2), 0.5), "KNOWN ×4"), (report.data_of(("shrink_perturb", 1), 0.5), "–"),
    ],
)  # fmt: skip
def test_numbers_as_text(found, text):
    assert found == text


# --- comparisons ------------------------------------------------------------------------------------------------


def test_every_start_is_compared_with_naive_once_a_step():
    table = report.comparisons(transfer(), 0.5, 0.95)
    starts = [start for start in TRUTH if start[0] not in ("naive", "scratch", "more_data")]
    assert len(table) == len(starts) and set(table.n) == {5}
    at = table.set_index(["start", "data"])
    for method, steps in starts:
        row, truth = at.loc[(label(method), report.data_of((method, steps), 0.5))], TRUTH[method, steps]
        assert gained(row.difference) == pytest.approx(100 * truth, abs=0.11)
        assert row.verdict == ("better" if truth > 0 else "worse" if truth < 0 else "no clear difference")


def test_holms_correction_is_over_the_table():
    pairs = [(start, report.NAIVE) for start in TRUTH if start[0] in ("known", "scale_free", "linear")]
    found = report.compare(transfer(noise=0.02), pairs, 0.95)
    assert found.p_holm.to_numpy() == pytest.approx(multipletests(found.p, method="holm")[1])
    assert ((found.p_holm < 0.05) == (found.verdict != "no clear difference")).all() and (found.p < found.p_holm).any()


def test_known_and_scale_free_are_compared_with_all_others_at_their_step():
    table = transfer()
    pairs = report.control_pairs(table)
    assert len(pairs) == len(set(pairs)) == len(set(map(frozenset, pairs)))
    assert {other for start, other in pairs if start == ("known", 3)} == {
        ("scale_free", 3), ("linear", 3), ("task_vector", 3), ("shrunk", 3), ("my_own", 3),
        ("shrink_perturb", 1), ("trained_on", 1),
    }  # fmt: skip
    found = report.controls_by_step(table, 0.5, 0.95)
    shrunk = found[(found.start == "KNOWN") & (found.against == label("shrunk"))]
    assert list(shrunk.data) == ["×2", "×4", "×8"] and set(shrunk.verdict) == {"worse"}
    assert [gained(text) for text in shrunk.difference] == pytest.approx([-1, -1.5, -2], abs=0.11)


def test_controls_are_held_against_the_mean_over_steps():
    """TRUTH: KNOWN gains 1.5 points in the mean over steps, its shrinking 3, the task vector loses 3.33."""
    table = transfer(noise=0.003)
    found = report.controls(table, 0.95)
    known = found[found.start == "KNOWN"].set_index("against")
    assert set(known.index) == {
        label(m) for m in ("naive", "scale_free", "linear", "task_vector", "shrunk", "shrink_perturb", "trained_on", "my_own")
    }  # fmt: skip
    for rival, gain in (("naive", 1.5), ("shrunk", -1.5), ("task_vector", 4.83), ("shrink_perturb", -0.5)):
        assert gained(known.difference[label(rival)]) == pytest.approx(gain, abs=0.15)
    assert known.verdict[label("shrunk")] == "worse" and known.verdict[label("naive")] == "better"
    raw = report.mean_comparisons(table, "known", 0.95)
    assert raw.p_holm.tolist() == pytest.approx(multipletests(raw.p, method="holm")[1].tolist())
    assert label("known") not in set(found[found.start == label("scale_free")].against)


@pytest.mark.filterwarnings("error")
def test_other_analyses_agree_and_never_fail():
    table = report.robustness(transfer(noise=0.004), 0.5, 0.95)
    for row in table.itertuples():
        for text in (row[5], row[6]):
            low, high = map(float, text.split(" to "))
            assert low - 0.051 <= gained(row.t) <= high + 0.051
    exact = report.robustness(transfer(noise=0, sources=1), 0.5, 0.95)
    assert set(exact["mixed model"]) == {"–"} and not exact.t.str.contains("±").any()
    gap = transfer()[lambda t: ~((t.method == "known") & (t.seed == 2001))]
    assert "–" in set(report.robustness(gap, 0.5, 0.95)["nested bootstrap"])


# --- forgetting, headroom, findings -----------------------------------------------------------------------------


def test_the_pair_of_tasks_is_checked():
    fair, _ = report.check_pair(report.summarise(transfer(), 50, 0.95))
    assert fair.startswith("20 labels: naïve transfer beats scratch (+8.0")
    assert "there is headroom, the real Θ₋₁ gains +2.0" in fair
    unfair = report.check_pair(report.summarise(transfer({**TRUTH, ("scratch", 0): 0.01}), 50, 0.95))[0]
    assert "WARNING: naïve transfer does not clearly beat scratch (-1.0" in unfair
    only = {start: gain for start, gain in TRUTH.items() if start[0] in ("naive", "known")}
    assert report.check_pair(report.summarise(transfer(only), 50, 0.95)) == []


@pytest.mark.parametrize(
    ("gains", "words"),
    [
        ((0.02, 0.02, 0.02), "KNOWN beats naïve transfer at ×2, ×4, ×8"),
        ((0.02, 0.0, -0.02), "KNOWN beats naïve transfer at ×2, and does worse at ×8"),
        ((0.0, 0.0, -0.02), "KNOWN does worse than naïve transfer at ×8, and beats it nowhere"),
        ((0.0, 0.0, 0.0), "KNOWN and naïve transfer do not clearly differ"),
    ],
)
def test_the_bottom_line_follows_the_numbers(gains, words):
    truth = {("naive", 0): 0.0} | {("known", step): gain for step, gain in enumerate(gains, start=1)}
    line = report.bottom_line(transfer(truth, noise=0.002), 50, 0.5, 0.95)
    assert line.startswith(f"**{words}**: ×2 ") and line.endswith(
        "(mean over 20, 50 labels, 5 source seeds, 95 % intervals)."
    )


def test_the_best_start_is_named_with_the_real_one_beside_it():
    line = report.best_start(transfer(noise=0), 0.5, 0.95)
    best = f"The largest gain over naïve transfer, of 20 starts, has {label('shrunk')} ×8: +4.0 ± 0.0 points (better)"
    assert line == f"{best}; the real Θ₋₁ gains +2.0 ± 0.0 (better)."
    alone = report.best_start(transfer({("naive", 0): 0, ("known", 1): 0.0}, sources=2), 0.5, 0.95)
    assert "of 1 starts, has KNOWN ×2" in alone and alone.endswith("(no clear difference).")


def test_one_source_seed_decides_nothing():
    table = transfer(sources=1)
    assert "do not clearly differ**: ×2 +1.0, ×4" in report.bottom_line(table, 50, 0.5, 0.95)
    assert set(report.comparisons(table, 0.5, 0.95).verdict) == {"no clear difference"}
    assert all("better" not in line.replace("better than none", "") for line in report.findings(table, 0.5, 0.95))


def test_findings_answer_the_sceptic():
    lines = report.findings(transfer(), 0.5, 0.95)
    assert lines[0].startswith(f"KNOWN against {label('shrunk')}: ×2 ") and lines[0].count("(worse)") == 3
    assert lines[2].startswith("KNOWN against linear") and lines[2].count("(better)") == 3
    assert lines[3].count("(no clear difference)") == 3 and label("scale_free") in lines[3]
    better = ", ".join(label(m) for m in ("naive", "scale_free", "linear", "task_vector", "trained_on"))
    worse = ", ".join((label("shrunk"), label("shrink_perturb"), "my own"))
    assert lines[-1].startswith("Of 8 comparisons") and f"better than {better}, and worse than {worse}." in lines[-1]
    assert report.findings(transfer({("naive", 0): 0, ("known", 1): 0.01}), 0.5, 0.95) == []


def test_forgetting_is_measured_and_warned_of():
    def learning(*unfinished: int) -> pd.DataFrame:
        return pd.DataFrame({"seed": range(5), "k": 0, "converged": [seed not in unfinished for seed in range(5)]})

    observed, text = report.forgetting_verdict(forgetting(0.02), learning(), 0.95)
    assert observed and text.startswith("Forgetting observed") and "falls by 7.2 ± " in text
    observed, text = report.forgetting_verdict(forgetting(-0.02), learning(3), 0.95)
    assert not observed and text.startswith("WARNING: no clear forgetting") and "seeds [3] had not converged" in text


def test_headroom_is_paired_by_source_seed():
    table = headroom(HEADROOM, noise=0)
    rows = oracle.headroom_table(table, 50, 0.95).set_index("source images")
    assert list(rows["gain over the row above"]) == ["–", "+10.0 ± 0.0", "+1.0 ± 0.0", "+2.0 ± 0.0", "+0.1 ± 0.0"]
    images, gain = oracle.more_images(table, 2000, 0.5, 0.95)
    assert images == 4000 and gain.mean == pytest.approx(0.02) and gain.units == 5
    text = oracle.headroom_sentence(table, 2000, 0.5, 0.95)
    assert "From 2,000 to 4,000 source images" in text and "+2.0 ± 0.0 points: there is headroom" in text
    assert "no net was trained" in oracle.headroom_sentence(table, 2000, 1 / 3, 0.95)
    flat = oracle.headroom_sentence(headroom({2000: 0.0, 4000: 0.0}, noise=0.01), 2000, 0.5, 0.95)
    assert "WARNING: no clear headroom" in flat


# --- the oracle -------------------------------------------------------------------------------------------------


def test_recovery_of_a_known_share():
    ratios = oracle.recovery_ratios(transfer(ORACLE, noise=0), 0.95)
    assert list(ratios) == [("known", 1), ("scale_free", 1), ("linear", 1)]
    for start, ratio in ratios.items():
        truth = ORACLE[start] / ORACLE["more_data", 1]
        assert (ratio.value, ratio.low, ratio.high) == pytest.approx((truth, truth, truth), abs=1e-6)
    table = oracle.oracle_table(transfer(ORACLE), 50, 0.95).set_index("start")
    assert table["recovery ratio"]["KNOWN"].startswith("0.5") and table["recovery ratio"][label("naive")] == "–"
    assert table.gain[label("more_data")].startswith("+4.0 ± ")


def test_nothing_to_recover_is_unbounded():
    flat = transfer({**ORACLE, ("more_data", 1): 0.0}, noise=0.01)
    assert set(oracle.recovery_table(flat, 0.5, 0.95)["recovery ratio"]) == {"unbounded"}
    without = transfer({("naive", 0): 0.0, ("known", 1): 0.02})
    assert oracle.recovery_table(without, 0.5, 0.95).empty


def test_calibration_and_loss_stand_beside_accuracy():
    table = oracle.calibration_table(oracle_source(ORACLE), transfer(ORACLE), 0.95)
    assert list(table) == [
        "start", "source accuracy (%)", "source recovery", "source loss", "source ECE (%)", "downstream loss", "downstream ECE (%)",
    ]  # fmt: skip
    known = table.set_index("start").loc["KNOWN"]
    assert known["source accuracy (%)"].startswith("86.") and known["source loss"].startswith("0.1")
    assert re.match(r"0\.[45]\d \(", known["source recovery"])
    assert list(oracle.calibration_table(None, transfer(ORACLE), 0.95)) == [
        "start",
        "downstream loss",
        "downstream ECE (%)",
    ]


def test_geometry_is_a_mean_over_source_seeds():
    table = geometry({"known": 0.1, "linear": -0.1})
    rows = oracle.geometry_table(table, 0.95).set_index("start")
    half = mean_interval(0.1 + 0.01 * np.arange(-2, 3)).half_width
    assert rows["cosine, net"]["KNOWN"] == f"+0.10 ± {half:.2f}" and rows["cosine, conv"]["linear"] == "-0.10"
    layers = oracle.layers_table(table, 0.95)
    assert list(layers.layer) == ["body.0.weight", "head.weight"] and set(layers.start) == {"KNOWN"}


def test_a_step_without_a_direction_has_no_cosine():
    table = geometry({"known": 0.1})
    table["cosine"] = np.nan
    assert oracle.geometry_table(table, 0.95)["cosine, net"].item() == "–"


# --- files ------------------------------------------------------------------------------------------------------


def test_tables_in_three_formats(tmp_path):
    table = pd.DataFrame({"start": ["a_b", "Θ₋₁ × 50 %"], "p": ["0.010", "2.0 ± 0.2"], "long": ["word " * 30, "x"]})
    report.write_table(table, tmp_path, "t")
    assert pd.read_csv(tmp_path / "t.csv").equals(table)
    assert "| a_b" in (tmp_path / "t.md").read_text() and "| 0.010" in (tmp_path / "t.md").read_text()
    tex = (tmp_path / "t.tex").read_text()
    assert r"\toprule" in tex and r"a\_b" in tex and r"\ensuremath{\Theta}\textsubscript{--}\textsubscript{1}" in tex
    assert r"50 \%" in tex and re.search(r"\\begin\{tabular\}\{llp\{0\.\d+\\linewidth\}\}", tex) and tex.isascii()


@pytest.fixture
def results(micro, monkeypatch, tmp_path):
    """Every table in place of a run's; ``micro`` with as many labels and steps as they have."""
    monkeypatch.setattr(ablations, "FILE", tmp_path / "ablations.csv")
    monkeypatch.setattr(tell, "COST", tmp_path / "cost.csv")
    for name, table in every_table().items():
        write_csv(table, f"{name}.csv")
    evaluate = micro.evaluate.model_copy(update={"labels": 50, "fractions": (0.4, 1.0)})
    downsize = micro.downsize.model_copy(update={"source_images": 2000})
    return micro.model_copy(update={"evaluate": evaluate, "downsize": downsize})


def test_everything_is_written_in_the_papers_order(results, tmp_path, monkeypatch):
    from synthetic import ablations as ablation_rows
    from synthetic import cost

    write_csv(ablation_rows(), "ablations.csv", tmp_path)
    write_csv(cost(), "cost.csv", tmp_path)

    def quickly(figure, folder, name):  # what is drawn has tests of its own
        folder.mkdir(parents=True, exist_ok=True)
        for suffix in ("pdf", "png"):
            (folder / f"{name}.{suffix}").write_bytes(b"")

    monkeypatch.setattr(tell.figures, "save", quickly)
    written = tell.run(results)
    for name in tell.FIGURE_CAPTIONS:
        assert {f"figures/{name}.png", f"figures/{name}.pdf"} <= set(written)
    lacking = {"ablation_batchnorm", "ablation_mode", "ablation_replication"}  # not among the rows
    for name in tell.TABLE_CAPTIONS.keys() - lacking - {"transfer"}:
        assert {f"tables/{name}.csv", f"tables/{name}.md", f"tables/{name}.tex"} <= set(written)
    columns = ["source", "arch", "downstream", "method", "steps", "fraction", "seed", "accuracy"]
    assert list(pd.read_csv(paths.REPORTS / "tables" / "transfer.csv")) == columns

    metrics = json.loads((paths.REPORTS / "metrics.json").read_text())
    assert metrics["gain"]["known_1"]["pooled"]["mean"] == pytest.approx(0.01, abs=0.001)
    assert metrics["gain"]["known_1"].keys() == {"labels_20", "labels_50", "pooled"}
    assert metrics["headroom"]["pooled"]["half_width"] < 0.01
    assert metrics["recovery"]["known"]["low"] < 0.5 < metrics["recovery"]["known"]["high"]
    assert metrics["transfer_accuracy"]["naive_0"]["pooled"]["mean"] == pytest.approx(0.82, abs=0.001)

    render.render([], paths.REPORTS)
    page = (paths.REPORTS / "index.html").read_text()
    shown = re.findall(r'<figure id="(?:figure|table)-(\w+)">', page)
    assert shown == [*tell.FIGURE_CAPTIONS, *(name for name in tell.TABLE_CAPTIONS if name not in lacking)]
    numbers = re.findall(r"<figcaption>(\w+)\. ", page)
    assert numbers[:8] == [f"F{i}" for i in range(1, 9)] and [n for n in numbers if n[0] == "T"] == [
        f"T{i}" for i in range(1, 8)
    ]
    findings = (paths.REPORTS / "findings.md").read_text().splitlines()
    assert findings[0].startswith("- **KNOWN beats naïve transfer at ×2") and "nan" not in page


def test_a_run_without_oracle_and_measurements_says_less(results):
    for name in set(every_table()) - set(tell.ALWAYS):
        (paths.RESULTS / f"{name}.csv").unlink()
    kept = transfer({("naive", 0): 0.0, ("known", 1): 0.01, ("known", 2): 0.01})
    write_csv(kept, "transfer.csv")
    written = tell.run(results)
    assert "tables/claims.md" in written and "tables/comparisons.md" in written
    assert not {"tables/oracle.md", "tables/cost.md", "figures/landscape.png", "tables/recovery.md"} & set(written)
    captions = json.loads((paths.REPORTS / "tables" / "captions.json").read_text())
    assert "oracle" not in captions and "claims" in captions
    assert json.loads((paths.REPORTS / "metrics.json").read_text())["recovery"] == {}
    story = tell.read(results)
    assert story.show("oracle") == "oracle: not measured in this run" and story.figure("landscape") is None


def test_only_the_chosen_candidate_is_shown_by_its_methods_name():
    table = pd.DataFrame({"method": ["known", "expo.0", "expo.1", "my.0"], "x": range(4)})
    selection = pd.DataFrame({"method": "expo", "candidate": [0, 1], "chosen": [False, True]})
    assert tell.chosen(table, selection).to_numpy().tolist() == [["known", 0], ["expo", 2], ["my.0", 3]]


def test_costs_are_shown_without_gaps(tmp_path):
    cost = pd.DataFrame({"quantity": ["a"], "value": [1234.5], "unit": [np.nan], "note": ["|D_0| = 2"]})
    table = report.cost_table(cost)
    report.write_table(table, tmp_path, "cost")
    assert table.to_numpy().tolist() == [["a", "1,234", "", "|D_0| = 2"]]
    assert r"\|D_0\| = 2" in (tmp_path / "cost.md").read_text() and "nan" not in (tmp_path / "cost.md").read_text()


def test_limitations_are_counted(results):
    lines = tell.read(results).limitations()
    assert "5 source seeds" in lines[1] and "Segmentation" in lines[2]


def test_the_main_table_has_a_row_a_start_and_a_column_an_amount_of_data():
    table = report.main_table(transfer(noise=0), 0.5, 0.95).set_index("start")
    assert list(table) == ["once", "×2", "×4", "×8"] and "naïve transfer (Θ₀)" not in table.index
    assert list(table.loc["KNOWN"]) == ["", "+1.0 ± 0.0", "+1.5 ± 0.0", "+2.0 ± 0.0"]
    assert list(table.loc["shrink and perturb"]) == ["+2.0 ± 0.0", "", "", ""]
    assert list(table.loc["my own"]) == ["", *["+3.0 ± 0.0"] * 3]
