"""The tables of what the sweep collects."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from know.analysis import ablations
from know.analysis.starts import Start


def row(ablation: str, value: object, method: str, steps: int, **values: object) -> dict[str, object]:
    return {
        "ablation": ablation, "value": value, "experiment": f"{ablation}-{value}", "history_length": 5, "rate": 0.5,
        "source_images": 2000, "dataset": "mnist", "architecture": "cnn", "mode": "sequential", "batchnorm": "copy",
        "method": method, "steps": steps, "labels": "all", "gain": np.nan if method == "naive" else 0.0, "half_width": np.nan, "accuracy": 0.8,
        "accuracy_half_width": 0.01, "units": 5,
    } | values  # fmt: skip


ROWS = [
    row("source_images", 2000, "naive", 0),
    row("source_images", 2000, "known", 1, gain=0.004, half_width=0.002, accuracy=0.804),
    row("source_images", 2000, "known", 1, gain=0.1, half_width=0.002, accuracy=0.9, labels="20"),
    row("source_images", 500, "naive", 0, accuracy=0.7, source_images=500),
    row("source_images", 500, "known", 1, gain=-0.001, half_width=0.003, accuracy=0.699, source_images=500),
    row("rate", 0.5, "known", 1, gain=0.01, half_width=0.02, accuracy=np.nan),
    row("rate", 0.25, "known", 2, gain=0.02, half_width=0.02, accuracy=np.nan, rate=0.25),
    row("architecture", "resnet, mnist", "own_method", 1, gain=0.03, half_width=0.01, architecture="resnet"),
]


@pytest.fixture
def table(tmp_path: Path) -> pd.DataFrame:
    pd.DataFrame(ROWS).to_csv(tmp_path / "ablations.csv", index=False)
    return ablations.read(tmp_path / "ablations.csv")


def test_tables_of_known_numbers(table):
    made = {name: ablations.ablation_table(table, name) for name in ablations.ROWS}
    assert list(made) == list(ablations.CAPTIONS)
    assert made["source_images"].to_dict("records") == [
        {"source images": 2000, "share": "100 %", "start": "naïve transfer (Θ₀)", "×1": "80.0", "×2": "–"},
        {"source images": 2000, "share": "100 %", "start": "KNOWN", "×1": "–", "×2": "80.4 (+0.4 ± 0.2)"},
        {"source images": 500, "share": "25 %", "start": "naïve transfer (Θ₀)", "×1": "70.0", "×2": "–"},
        {"source images": 500, "share": "25 %", "start": "KNOWN", "×1": "–", "×2": "69.9 (-0.1 ± 0.3)"},
    ]
    assert made["rate"].to_dict("records") == [
        {"r": 0.5, "start": "KNOWN", "a step": "×2", "1 step": "+1.0 ± 2.0", "2 steps": "–"},
        {"r": 0.25, "start": "KNOWN", "a step": "×4", "1 step": "–", "2 steps": "+2.0 ± 2.0"},
    ]
    assert made["architecture"]["×2"].tolist() == ["80.0 (+3.0 ± 1.0)"]
    assert made["mode"].empty and list(made["mode"]) == ["forgetting", "start"]
    assert "90.0 (+10.0 ± 0.2)" in ablations.ablation_table(table, "source_images", "20").to_string()
    assert "5 source seeds" in ablations.note(table) and "history_length, batchnorm, mode" in ablations.note(table)


def test_a_start_is_compared_with_naive_at_every_value_as_one_family(table):
    known, real = Start("known", 1), row("source_images", 500, "more_data", 1, half_width=0.01)
    found = ablations.comparisons(table, "source_images", known, 0.1, 0.95)
    assert {value: one.verdict for value, one in found.items()} == {
        "2000": "better",
        "500": "excludes the paper's effect",
    }
    t = 0.004 / (0.002 / stats.t.ppf(0.975, 4))
    assert found["2000"].p == pytest.approx(2 * stats.t.sf(t, 4)) and found["2000"].p_holm == pytest.approx(
        2 * found["2000"].p
    )
    dry = pd.concat([table, pd.DataFrame([real | {"value": "500"}])])
    judged = ablations.comparisons(dry, "source_images", known, 0.1, 0.95)
    assert ablations.comparisons(table, "rate", known, 0.1, 0.95) == {}  # without naïve transfer
    assert judged["500"].verdict == "no headroom" and judged["2000"] == found["2000"]


def test_without_the_file_everything_is_empty_and_says_how_to_make_it(tmp_path):
    table = ablations.read(tmp_path / "none.csv")
    assert "python scripts/sweep.py" in ablations.note(table)
    assert all(ablations.ablation_table(table, name).empty for name in ablations.ROWS)
    assert ablations.comparisons(table, "rate", Start("known", 1), 0.1, 0.95) == {}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "not a table"),
        ("{header}\n{row},1,2,3,4\n", "lines have more entries than the header"),
        ("ablation,value\nrate,1\n", "lacks the column experiment"),
        ("{header}\n{row}\n{row}\n", "line 3 is there twice"),
        ("{header}\n{bad}\n", "line 2: gain is 'much', not a number"),
        ("{header}\n{empty}\n", "line 2: units is empty"),
        ("{header}\n{infinite}\n", "line 2: accuracy is 'inf', not a number"),
    ],
)
def test_a_malformed_file_is_refused_with_one_line(tmp_path, text, what):
    def line(**values: object) -> str:
        return pd.DataFrame([ROWS[1] | values]).to_csv(index=False, header=False).strip()

    file = tmp_path / "ablations.csv"
    header = ",".join(ablations.COLUMNS)
    file.write_text(
        text.format(
            header=header,
            row=line(),
            bad=line(gain="much"),
            empty=line(units=None),
            infinite=line(accuracy=float("inf")),
        )
    )
    with pytest.raises(ablations.AblationError) as error:
        ablations.read(file)
    message = str(error.value)
    assert (
        message.startswith(f"{file}: ") and what in message and message.endswith(ablations.MEND) and "\n" not in message
    )
