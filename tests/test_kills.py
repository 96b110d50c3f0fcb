"""A stage that is killed leaves no process and no half file, and what it had done is not done again.

`python benchmarks/kills.py` does the same at more moments.
"""

import random

from micro_stage import KINDS, RUNS, MicroStage


def test_kills_of_the_group_the_kernel_and_a_worker(tmp_path):
    stage = MicroStage(tmp_path / "stage")
    dice, kept = random.Random(0), {}
    for number, kind in enumerate(KINDS):
        code, said = stage.kill(kind, after=1 + number * RUNS // 4, dice=dice)
        assert code == {"group": -9}.get(kind, 1), said
        assert {"kernel": "the kernel died", "worker": "a cell failed"}.get(kind, "") in said
        before, kept = kept, {record: (record / "record.json").stat().st_mtime_ns for record in stage.records()}
        assert before.items() <= kept.items() and len(kept) < RUNS
    killed = stage.finish()
    assert stage.temporaries() == []
    assert kept.items() <= {record: (record / "record.json").stat().st_mtime_ns for record in stage.records()}.items()
    stage.forget()
    assert stage.finish() == killed and len(stage.records()) == RUNS
