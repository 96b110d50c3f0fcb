"""Verdicts on the paper's claims follow from numbers whose truth is known."""

import pandas as pd
import pytest
from synthetic import CONTRASTS, TRUTH, ablations, cost, forgetting, transfer

from know import params
from know.analysis.claims import CLAIMS, HERE, THERE, Evidence, sentence, together
from know.report.results import Results

PARAMS = params.load()


def results(truth=TRUTH, noise=0.001, drop=0.02, setting=("cnn", "mnist:0-1", "mnist:2-3"), **tables) -> Results:
    arch, source, downstream = setting
    table = transfer(truth, noise).assign(arch=arch, source=source, downstream=downstream)
    report = PARAMS.report.model_copy(update={"contrasts": CONTRASTS})
    of = PARAMS.model_copy(update={"report": report})
    return Results(of, {"transfer": table, "forgetting": forgetting(drop)} | tables)


def row(of: Results, start: str) -> pd.Series:
    return of.claims[of.claims.claim.str.startswith(start)].iloc[0]


def test_parts_decide_together():
    assert together(["holds", "holds"]) == "holds" and together(["holds", "not clear"]) == "not clear"
    assert together(["holds", "does not hold", "not clear"]) == "does not hold" and together([]) == "not tested"
    assert together(["holds", "no headroom"]) == "no headroom"
    assert together(["excludes the paper's effect"] * 2) == "excludes the paper's effect"


@pytest.mark.parametrize(
    ("gain", "noise", "verdict"),
    [
        (0.02, 0.002, "holds"),
        (-0.02, 0.002, "does not hold"),
        (0.0, 0.002, "excludes the paper's effect"),
        (0.0, 0.06, "not clear"),
    ],
)
def test_known_against_naive(gain, noise, verdict):
    of = results({**TRUTH, ("known", 2): gain, ("more_data", 1): 0.2}, noise)
    found = row(of, "KNOWN beats naïve transfer")
    assert found[HERE] == verdict and found["in this run"].startswith("×4: ")
    assert found["in this run"].endswith("points (n=5)")


def test_the_truth_of_each_start_is_found():
    of = results()
    for start, verdict in {
        "Fine-tuning on ever": "holds", "Its gain grows": "holds", "KNOWN beats the task vector": "holds",
        "KNOWN beats task singular": "not tested", "Far out the task vector falls": "holds",
        "One step beats really": "does not hold", "A longer history": "not tested", "Other tasks gain": "not tested",
    }.items():  # fmt: skip
        assert row(of, start)[HERE] == verdict, start


def test_a_claim_of_a_small_effect_is_not_excluded_by_a_large_margin():
    of = results({**TRUTH, ("known", 1): TRUTH["more_data", 1]}, noise=0.002)
    assert row(of, "One step beats really")[HERE] == "not clear"


def test_claims_of_a_fall():
    assert row(results(drop=-0.02), "Fine-tuning on ever")[HERE] == "does not hold"
    up = {**TRUTH, ("task_vector", 3): 0.02}
    assert row(results(up), "Far out the task vector")[HERE] == "does not hold"


def test_only_the_papers_network_and_data_test_what_it_says_of_them():
    here = results()
    for setting in (("cnn", "cifar100:0-1", "cifar10:0-1"), ("resnet18", "mnist:0-1", "cifar10:0-1")):
        assert row(results(setting=setting), "KNOWN beats naïve")[THERE] == "not tested"
    there = results(setting=("resnet18", "cifar100:0-1", "cifar10:0-1"))
    assert row(here, "KNOWN beats naïve")[THERE] == "not tested" and row(there, "KNOWN beats naïve")[THERE] == "holds"
    assert row(here, "Fine-tuning on ever")[THERE] == "not tested"


def test_without_headroom_no_claim_about_starts_is_judged():
    of = results({**TRUTH, ("more_data", 1): 0.0}, noise=0.002, ablations=ablations())
    rows = of.claims.set_index("claim")[HERE]
    assert rows["KNOWN beats naïve transfer"] == rows["A longer history helps"] == "no headroom"
    assert rows["Fine-tuning on ever smaller subsets forgets"] == "holds"
    assert set(rows[rows.index.str.contains("beats|falls|grows")]) == {"no headroom", "not tested"}


def test_ablations_are_read():
    of = results(ablations=ablations())
    longer = row(of, "A longer history")
    assert longer[HERE] == "holds" and longer["in this run"].startswith("S = 2 to 5, step 2: +0.9 ± 0.3 points")
    rates = row(of, "KNOWN gains at every")
    assert rates[HERE] == "does not hold" and rates["in this run"].startswith("r = 0.33: +1.0 ± 0.2 points")
    assert "r = 0.7: -1.0" in rates["in this run"] and row(of, "… with other networks")[HERE] == "holds"
    rows = ablations()
    rows.loc[(rows.method == "more_data") & (rows.value == "0.7"), "gain"] = -0.01
    assert row(results(ablations=rows), "KNOWN gains at every")[HERE] == "no headroom"


def test_costs_are_held_to_the_papers():
    of = results(cost=cost())
    assert row(of, "Forgetting costs")[HERE] == "holds" and row(of, "Prediction takes")[HERE] == "not tested"
    assert row(results(), "Forgetting costs")[HERE] == "not tested"


def test_the_table_has_a_row_a_claim_and_the_sentence_counts_them():
    table = results().claims
    assert 10 <= len(table) == len(CLAIMS) <= 14 and table.claim.is_unique
    counts = table[HERE].value_counts()
    assert f"In this run: holds {counts['holds']}, does not hold {counts['does not hold']}" in sentence(table)
    assert f"not tested {(table[THERE] == 'not tested').sum()}." in sentence(table)


@pytest.mark.parametrize(
    ("metric", "held_out", "kind"),
    [
        ("mean IoU", False, "segmentation"),
        ("masked accuracy", False, "captioning"),
        ("accuracy", True, "domains"),
    ],
)
def test_the_claim_of_other_tasks_is_judged_where_one_is_the_run(metric, held_out, kind):
    of, none = results(), pd.DataFrame(columns=["quantity", "value"])
    (claim,) = (one for one in CLAIMS if one.text.startswith("Other tasks"))
    evidence = Evidence(of.comparisons, of.forgetting, 0.5, 5, 0.1, False, none, none, metric, held_out)
    found = claim.judge(evidence)
    assert found.verdict == "holds" and found.numbers.startswith(f"{kind}, ×4: +")
    assert row(of, "Other tasks")[HERE] == "not tested"
