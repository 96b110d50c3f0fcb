"""The released hyper-model as a source: recognised by its digest, and left out where it cannot be had."""

import hashlib

import h5py
import numpy as np
import pytest

from know import paths
from know.params import load
from know.prediction import released as source
from know.prediction.keras import FILES, LAYERS
from know.prediction.known import KNOWN
from know.prediction.predictors import predictor


@pytest.fixture(autouse=True)
def afresh(tmp_path, monkeypatch):
    """No network, an empty folder, nothing remembered."""
    monkeypatch.setattr(source, "ADDRESS", "http://127.0.0.1:9/{file}")
    monkeypatch.setattr(paths, "RAW", tmp_path / "raw")
    monkeypatch.delenv(source.VARIABLE, raising=False)
    yield
    source.released.cache_clear()
    source.missing.cache_clear()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A stand-in in the released layout, whose digests are taken for the released ones."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    for name in FILES.values():
        known = KNOWN(5)
        with h5py.File(folder / name, "w") as file:
            for number, layer in enumerate(LAYERS):
                keras = f"dense_{number}" if number else "dense"
                for theirs, ours in (("kernel:0", "weight"), ("bias:0", "bias")):
                    values = known.get_parameter(f"{layer}.{ours}").detach().numpy()
                    file[f"{keras}/{keras}/{theirs}"] = np.ascontiguousarray(values.T)
    digests = {kind: hashlib.sha256((folder / name).read_bytes()).hexdigest() for kind, name in FILES.items()}
    monkeypatch.setattr(source, "SHA256", digests)
    return folder


def test_it_is_found_where_the_user_says_and_in_the_usual_folder(folder, monkeypatch):
    monkeypatch.setenv(source.VARIABLE, str(folder))
    assert source.missing() is None and predictor("known", hypermodel="released").model.history_length == 5
    source.released.cache_clear()
    source.missing.cache_clear()
    monkeypatch.delenv(source.VARIABLE)
    paths.RAW.mkdir()
    folder.rename(paths.RAW / "known-released")
    assert source.missing() is None


def test_other_files_are_refused(folder, monkeypatch):
    (folder / "KNOWN_FC.h5").write_bytes(b"something else")
    monkeypatch.setenv(source.VARIABLE, str(folder))
    with pytest.raises(source.MissingError, match=r"KNOWN_FC.h5 is not the released one \(SHA-256 differs\)"):
        source.released()


def test_it_is_fetched_where_it_can_be(folder, monkeypatch):
    monkeypatch.setattr(source, "ADDRESS", folder.as_uri() + "/{file}")
    assert source.missing() is None
    assert sorted(path.name for path in (paths.RAW / "known-released").iterdir()) == sorted(FILES.values())


def test_where_it_is_not_to_be_fetched_only_what_the_user_names_counts(folder, monkeypatch):
    monkeypatch.setattr(source, "ADDRESS", folder.as_uri() + "/{file}")
    asked = predictor("known", hypermodel="released", fetch=False)
    assert predictor("known", hypermodel="released").missing is None  # fetched, and now in data/raw
    assert asked.missing.startswith("KNOW_RELEASED names no folder with KNOWN_Conv.h5, ")
    monkeypatch.setenv(source.VARIABLE, str(folder))
    source.missing.cache_clear()
    source.released.cache_clear()
    assert asked.missing is None and asked.model.history_length == 5
    with pytest.raises(ValueError, match=r"^known: fetch: got false; allowed: true, or hypermodel: released"):
        predictor("known", fetch=False)


def test_the_default_has_it_only_where_the_user_names_it(folder, monkeypatch):
    monkeypatch.setattr(source, "ADDRESS", folder.as_uri() + "/{file}")
    given = load().predict
    assert set(given.methods_by_name) - set(given.runnable) == {"released"}
    monkeypatch.setenv(source.VARIABLE, str(folder))
    source.missing.cache_clear()
    assert set(given.methods_by_name) == set(given.runnable)


def test_without_it_what_needs_it_is_left_out_and_said(monkeypatch):
    message = source.missing()
    assert message.startswith("the released hyper-model cannot be had (folder ") and source.VARIABLE in message
    assert "\n" not in message and not (paths.RAW / "known-released").exists()
    theirs = predictor("known", hypermodel="released", name="released")
    given = load().predict
    ours = tuple(one for one in given.methods if one[0].start != "released")
    both = given.model_copy(update={"methods": ((theirs,), *ours), "candidate": "released"})
    assert "released" not in both.runnable and both.judged == "known"
