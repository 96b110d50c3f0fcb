"""Starts are made one after the other: however many there are, a few are in memory."""

import weakref

import torch
from conftest import MICRO, write_params

from know.params import load
from know.stages.predict import predicted_starts

SHARES = [round(0.05 * i, 2) for i in range(1, 20)]


def test_no_more_states_are_alive_than_the_candidates_and_one_methods(tmp_path):
    write_params(tmp_path / "params.yaml", MICRO)
    changes = {
        "methods": ["linear", {"method": "task_vector", "scale": SHARES}],
        "candidate": "linear",
        "controls": ["shrunk", {"control": "shrink", "of": "linear", "name": "linear_shrunk", "shrink": SHARES}],
    }
    write_params(tmp_path / "params.yaml", {"predict": changes}, tmp_path / "params.yaml")
    trajectory = [{"w": torch.randn(4, 4)} for _ in range(5)]
    alive: list[weakref.ref] = []
    made, most = 0, 0
    for _, state in predicted_starts(load(tmp_path / "params.yaml"), "main", trajectory, 2, {}, 0):
        alive = [one for one in (*alive, weakref.ref(state["w"])) if one() is not None]
        made, most = made + 1, max(most, len(alive))
    assert made == 2 * (1 + 19 + 1 + 19) and most <= 5
