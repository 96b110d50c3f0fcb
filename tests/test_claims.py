"""Verdicts follow from numbers whose truth is known."""

import pandas as pd
import pytest
from synthetic import HEADROOM, ORACLE, TRUTH, ablations, cost, forgetting, geometry, headroom, transfer

from know.analysis.claims import Results, judged, sentence, table, together
from know.report.figures import label


def results(truth=TRUTH, noise=0.001, sources=5, drop=0.02, **more) -> Results:
    given = {"rate": 0.5, "history_length": 5, "source_images": 2000, "confidence": 0.95} | more
    return Results(transfer(truth, noise, sources), forgetting(drop), **given)


def row(of: Results | pd.DataFrame, start: str) -> pd.Series:
    rows = table(of) if isinstance(of, Results) else of
    return rows[rows.claim.str.startswith(start)].iloc[0]


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.1, 0.2, "holds"), (-0.2, -0.1, "does not hold"), (-0.1, 0.2, "not clear"), (0.0, 0.2, "not clear")],
)
def test_an_interval_decides(low, high, verdict):
    assert judged(low, high) == verdict


def test_parts_decide_together():
    assert together(["holds", "holds"]) == "holds" and together(["holds", "not clear"]) == "not clear"
    assert together(["holds", "does not hold", "not clear"]) == "does not hold" and together([]) == "not tested here"


@pytest.mark.parametrize(("gain", "verdict"), [(0.02, "holds"), (-0.02, "does not hold"), (0.0, "not clear")])
def test_known_against_naive(gain, verdict):
    found = row(results({**TRUTH, ("known", 1): gain}, noise=0.002), "KNOWN ×2 beats naïve transfer")
    assert found.verdict == verdict and found["paper's figure"] == "+0.60 points"
    assert float(found.ours.split()[0]) == pytest.approx(100 * gain, abs=0.2) and found.ours.endswith("points (n=5)")


def test_the_truth_of_each_start_is_found():
    of = table(results())
    for start, verdict in {
        "Test accuracy falls": "holds", "The gain grows": "holds", "KNOWN beats linear": "holds",
        f"KNOWN beats {label('tsv')}": "not tested here", "The task vector falls below": "holds",
        "KNOWN ×2 beats naïve transfer from ×2": "does not hold", "KNOWN has 9,425": "holds",
        f"KNOWN beats {label('shrunk')}": "does not hold", f"KNOWN beats {label('shrink_perturb')}": "does not hold",
        f"KNOWN beats {label('trained_on')}": "holds", "Scale-free KNOWN beats naïve": "not clear",
        "There is headroom": "holds", "Segmentation": "not tested here",
    }.items():  # fmt: skip
        assert row(of, start).verdict == verdict, start


def test_claims_of_a_fall():
    assert row(results(drop=-0.02), "Test accuracy falls").verdict == "does not hold"
    up = {**TRUTH, ("task_vector", 3): 0.02}
    assert row(results(up), "The task vector falls below").verdict == "does not hold"


def test_one_source_seed_decides_nothing():
    rows = table(results(sources=1, noise=0.01))
    tested = rows[rows.ours.str.contains("n=1")]
    assert len(tested) > 8 and set(tested.verdict) == {"not clear"}


def test_without_inputs_nothing_is_tested():
    rows = table(results({("naive", 0): 0.0, ("known", 1): 0.01}))
    assert {"holds", "not tested here"} == set(rows.verdict)
    assert row(results({("naive", 0): 0.0, ("known", 1): 0.01}), "There is headroom").verdict == "not tested here"
    assert not rows.ours[rows.verdict == "not tested here"].ne("–").any()


def test_recovery_is_above_0_only_where_there_is_something_to_recover():
    def verdicts(**changes: float) -> list[str]:
        truth = ORACLE | {start: changes[start[0]] for start in ORACLE if start[0] in changes}
        rows = table(results(oracle=transfer(truth, noise=0.004)))
        return list(rows[rows.claim.str.contains("oracle track")].verdict)

    assert verdicts() == ["holds", "not clear"]
    assert verdicts(known=-0.02)[0] == "does not hold"
    assert verdicts(more_data=0.0)[0] == "not clear"
    assert verdicts(more_data=-0.04, known=-0.02)[0] == "not clear"  # a ratio above 0 of a loss


def test_a_cosine_decides_on_the_direction():
    of = results(geometry=geometry({"known": 0.1, "scale_free": -0.1}))
    rows = table(of)
    assert list(rows[rows.claim.str.contains("steps towards")].verdict) == ["holds", "does not hold"]


def test_ablations_are_read():
    of = table(results(ablations=ablations()))
    longer = row(of, "A longer history")
    assert longer.verdict == "holds" and longer.ours.startswith("S = 5 less S = 2 at 2 steps: +0.9 ± 0.3 points")
    half = row(of, "KNOWN with half the data")
    assert half.verdict == "does not hold" and half.ours.startswith("-4.0 ± 0.4 points")
    rates = row(of, "KNOWN beats naïve transfer at every")
    assert (
        rates.verdict == "does not hold"
        and rates.ours.startswith("r = 0.33: +1.0 ± 0.2 points")
        and "r = 0.7: -1.0" in rates.ours
    )
    assert row(of, "… with other networks").verdict == "holds"


def test_costs_are_held_to_the_papers():
    of = table(results(cost=cost()))
    assert row(of, "Forgetting costs").verdict == "holds" and row(of, "Prediction takes").verdict == "does not hold"


def test_headroom_is_taken_from_the_curve_where_there_is_no_real_next_point():
    truth = {start: gain for start, gain in TRUTH.items() if start[0] != "more_data"}
    found = row(results(truth, headroom=headroom(HEADROOM, noise=0)), "There is headroom")
    assert found.verdict == "holds" and found.ours.startswith("4,000 images: +2.0")


def test_the_sentence_counts():
    rows = table(results())
    counts = rows[rows["claim of"] == "paper"].verdict.value_counts()
    assert f"holds {counts['holds']}, does not hold {counts['does not hold']}" in sentence(rows)
