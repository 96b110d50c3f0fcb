"""Kills at random moments: `python benchmarks/kills.py [--kills 24] [--seed 0]`.

A micro stage (a notebook, its kernel, two processes that do forty runs) is killed again and again: all of its process group
by SIGKILL, its kernel alone, one of its workers alone. After each kill nothing of it may run ten seconds later. After a
chain of kills it comes to its end, and what it then made must be, bit for bit, what it makes undisturbed.
"""

import argparse
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from micro_stage import KINDS, RUNS, MicroStage

CHAIN = 6  # kills before the stage may end


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    dice, done = random.Random(options.seed), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        stage = MicroStage(Path(folder) / "stage")
        undisturbed, different, left = stage.finish(), 0, 0
        while done.total() < options.kills:
            stage.forget()
            for after in sorted(dice.randrange(RUNS - 5) for _ in range(CHAIN)):
                kind = KINDS[done.total() % len(KINDS)]
                # What has no kernel or no workers yet cannot lose them: the first record says that they are there.
                stage.kill(kind, after if kind == "group" else max(1, after), dice)
                done[kind] += 1
            different += stage.finish() != undisturbed
            left += len(stage.temporaries())
            print(f"{done.total()} kills, {different} chains with other results, {left} temporaries left", flush=True)
    print(
        ", ".join(f"{kind}: {done[kind]}" for kind in KINDS) + f"; processes left after 10 s: 0; different: {different}"
    )
    return int(bool(different or left))


if __name__ == "__main__":
    sys.exit(main())
