"""What ``scripts/measure_cost.py`` measures, on micro parameters."""

import sys

import pytest
import torch

from know import paths

sys.path.insert(0, str(paths.ROOT / "scripts"))
import measure_cost


def test_the_cost_is_of_these_parameters(micro, monkeypatch):
    monkeypatch.setattr(measure_cost, "fresh", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(
        measure_cost.torchvision.models, "resnet18", lambda num_classes: torch.nn.Linear(9, num_classes)
    )
    table = measure_cost.measure(micro, repeats=1)
    assert list(table) == ["quantity", "value", "unit", "note"] and table.quantity.is_unique
    value = table.set_index("quantity").value
    assert value.notna().all() and (value[~value.index.str.endswith("memory")] > 0).all()
    epochs = value["training Θ_0, epochs"]
    assert value["training Θ_0, images seen"] == 192 * epochs and 1 <= epochs <= 3
    assert value["forgetting, images seen"] == 96 + 48 + 24 + 12  # one epoch each
    assert value["forgetting over training, Σ r^k, k ≥ 1"] == pytest.approx((96 + 48 + 24 + 12) / (192 * epochs))
    assert value["forgetting over training, (1 - r^(S-1))/(1 - r)"] == pytest.approx(1.875 / epochs)
    measured = value["forgetting"] / value["training Θ_0"]
    assert value["forgetting over training, same epochs"] == pytest.approx(measured * epochs)
    assert value["prediction per parameter"] == pytest.approx(value["prediction"] / (9 * 100 + 100))
