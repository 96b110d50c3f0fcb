"""The bench that is in git: its trajectories are those of params.yaml, its scores are theirs."""

import pandas as pd
import pytest

from know import paths
from know.bench.scoring import TRAJECTORY
from know.bench.trajectories import is_made, trajectories
from know.params import Params, load
from know.prediction.predictors import linear
from know.prediction.retrodict import retrodict
from know.weights.geometry import step_geometry


def test_the_committed_trajectories_are_those_of_the_parameters():
    """If this fails: `make bench`, and commit data/bench, reports/bench and docs/bench.md."""
    params: Params = load()
    assert is_made(params.bench)
    for one in trajectories(params.bench):
        states = [*one.states(), one.real()]
        assert len({frozenset(state) for state in states}) == 1


def test_the_committed_scores_are_of_the_committed_trajectories():
    scores = pd.read_csv(paths.REPORTS / "bench" / "trajectories.csv").query("method == 'linear'").set_index(TRAJECTORY)
    for one in trajectories(load().bench)[::7]:
        states = one.states()
        geometry = step_geometry(retrodict(states, linear)[0], one.real(), states[-1])
        whole, row = geometry[geometry.kind == "all"].iloc[0], scores.loc[one.task, one.architecture, one.number]
        assert (row.cosine, row.norm_ratio) == (
            pytest.approx(whole.cosine, rel=1e-4),
            pytest.approx(whole.norm_ratio, rel=1e-4),
        )


def test_the_committed_files_are_small():
    assert sum(path.stat().st_size for path in paths.BENCH.rglob("*")) < 10e6
