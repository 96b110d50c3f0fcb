"""The profiles for a GPU, by `dvc repro` from end to end on a CPU: shrunk by the documented override, on micro data sets in the
layouts in which the real ones are published."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import copy_to, until, write_params
from layouts import write
from warm import READY

from know import paths
from know.data.catalogue import CIFAR10, dataset
from know.models.build import build
from know.params import load
from know.tasks.options import METRICS
from know.weights.files import save_state

sys.path.insert(0, str(paths.ROOT / "scripts"))
import use_profile

pytest.importorskip("timm")
SMALLER: dict[str, dict[str, object]] = {
    "paper-resnet18": {"downsize": {"image_size": 8}},  # at full resolution in every layer
    "paper-pvtv2-cifar100": {  # the smallest network
        "predict": {"controls": [{"control": "shrunk", "per": "tensor"}, "direction_only", "repeated"], "steps": 2},
        "evaluate": {"tuned": ["naive"], "learning_rates": [0.0002]},
    },
}
"""What is smaller here than the documented override makes it, or there again to be looked at."""
FASTER = {
    "MKL_CBWR": "AUTO",  # the processor's own matrix products, whose bits nothing here is compared with
    "MALLOC_MMAP_THRESHOLD_": str(2**31 - 1),  # the C library keeps a tensor's memory for the next
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
}
"""Half of the time that predictions of large networks take."""
PRETRAINED = "paper-pacs"
"""Begins with a checkpoint of a thousand classes, as the library's own are; the others with fresh weights, for those are not here."""
FIRST = ("paper-pacs", "paper-segmentation")
"""Classes of several domains, and masks; the others take much the same way: `make test-long` does all."""
PROFILES = [
    pytest.param(name, marks=pytest.mark.profile if name in FIRST else [pytest.mark.profile, pytest.mark.long])
    for name in sorted(path.stem for path in (paths.ROOT / "profiles").glob("paper-*.yaml"))
]


def write_batch(file: Path, labels: bytes, count: int, seed: int) -> None:
    """``count`` images of two classes that differ in brightness, as one of CIFAR's batches."""
    right = np.arange(count) % 2
    pixels = np.random.default_rng(seed).integers(0, 100, (count, 3072)) + 100 * right[:, None]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(pickle.dumps({b"data": pixels.astype(np.uint8), labels: right.tolist()}, protocol=2))


def write_set(name: str, raw: Path) -> None:
    """A micro data set of two classes, as it is published."""
    if name == "cifar100":
        for seed, part in enumerate(("train", "test")):
            write_batch(raw / name / "cifar-100-python" / part, b"fine_labels", 60, seed)
    elif name == "cifar10":
        for seed, file in enumerate((*CIFAR10.files["train"], *CIFAR10.files["test"])):
            write_batch(raw / name / "cifar-10-batches-py" / file, b"labels", 40, seed)
    else:
        write(name, raw / name, classes=2, per_class=14)


@pytest.fixture(scope="module")
def warm() -> Iterator[Path]:
    """The folder of a ``python`` that has loaded the libraries, and computes as any."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | FASTER
    variables |= {"PYTHONHASHSEED": "0"}
    with tempfile.TemporaryDirectory(prefix="know-") as folder:  # where a socket's address is short enough
        command = [sys.executable, str(Path(__file__).with_name("warm.py")), folder]
        server = subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True, start_new_session=True)
        try:
            assert server.stdout and READY in (line.strip() for line in server.stdout)
            yield Path(folder)
        finally:
            server.kill()
            server.wait()


@pytest.fixture(scope="module")
def experiments(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, warm: Path
) -> Iterator[dict[str, Path]]:
    """Of each profile that is asked for a copy of the repository in which `dvc repro` has run."""
    own = [item for item in request.session.items if item.path == Path(__file__)]
    asked = [getattr(item, "callspec", None) for item in own if "experiments" in getattr(item, "fixturenames", ())]
    profiles = sorted(
        {"paper-pvtv2-cifar100" if one is None else one.params["profile"] for one in asked},
        key=lambda profile: (profile.startswith("paper-pvtv2"), profile),  # those that take longest come first
    )
    folder, sets = tmp_path_factory.mktemp("profiles"), set()
    copies = {profile: folder / profile for profile in profiles}
    for profile, copy in copies.items():
        copy_to(copy)
        subprocess.run(["git", "init", "-q", copy], check=True)
        use_profile.use(profile, copy, shrink=True)
        write_params(copy / "params.yaml", SMALLER.get(profile, {}), copy / "params.yaml")
        params = load(copy / "params.yaml")
        if profile == PRETRAINED:
            checkpoint = folder / "pretrained.safetensors"
            save_state(build(params.forget.architecture, 3, 1000, seed=0).state_dict(), checkpoint)
            pretrained = {"pretrained": str(checkpoint), "source": {"max_epochs": 0}}
            write_params(copy / "params.yaml", {"forget": pretrained}, copy / "params.yaml")
        sets |= {params.downsize.dataset, params.downsize.downstream_dataset}
    for name in sets:
        write_set(name, folder / "raw")
    # The store is one, for some share a path, and all the meta-dataset.
    places = {"KNOW_DATA": folder / "raw", "KNOW_RUNS": folder / "runs", "KNOW_RELEASED": folder / "nowhere"}
    changed = FASTER | {name: str(place) for name, place in places.items()}
    changed["PATH"] = f"{warm}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    def reproduced(copy: Path) -> None:
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = [sys.executable, "-m", "dvc", "repro"]
        done = subprocess.run(command, cwd=copy, env=inherited | changed, capture_output=True, text=True, timeout=1200)
        (copy / "said.txt").write_text(f"{done.returncode}\n{done.stdout}{done.stderr}")

    with ThreadPoolExecutor(1 if "PYTEST_XDIST_WORKER" in os.environ else os.cpu_count()) as pool:
        list(pool.map(reproduced, copies.values()))
    yield copies
    shutil.rmtree(folder)  # gigabytes


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_runs_from_end_to_end(profile, experiments):
    copy = experiments[profile]
    said = (copy / "said.txt").read_text()
    assert said.startswith("0\n"), said[-4000:]
    runs = copy.parent / "runs"
    assert list(runs.rglob("record.json")) and not list(runs.rglob("*.unfinished"))
    params, transfer = load(copy / "params.yaml"), pd.read_csv(copy / "data" / "results" / "transfer.csv")
    report = copy / params.reports
    assert (report / "figures" / "gains.png").exists()
    assert len(list((report / "notebooks").glob("*.html"))) == len(list(paths.NOTEBOOKS.glob("*.ipynb")))
    assert set(transfer.arch) == {params.forget.architecture}
    assert set(transfer.metric) == {METRICS[dataset(params.downsize.downstream_dataset).kind]}
    assert {"naive", "scratch", "known", "linear", "shrunk"} <= set(transfer.method)
    assert set(transfer.get("held_out", [])) == set(params.evaluate.held_out)
    assert ("bleu" in transfer) == (dataset(params.downsize.downstream_dataset).kind == "captioning")
    assert transfer.accuracy.between(0, 1).all()


@pytest.mark.profile
@pytest.mark.parametrize("killed", ["caller", "fork"])
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_what_is_asked_of_the_warm_python_ends_with_its_caller_and_says_how_it_ended(killed, how, warm, tmp_path):
    told = tmp_path / "pid"
    (tmp_path / "sleeper.py").write_text(
        f"import os, pathlib, time\npathlib.Path({str(told)!r}).write_text(str(os.getpid()))\ntime.sleep(60)\n"
    )
    caller = subprocess.Popen([str(warm / "python"), "-m", "sleeper"], cwd=tmp_path)
    pid = int(until(lambda: told.exists() and told.read_text()))
    os.kill(caller.pid if killed == "caller" else pid, how)
    code = caller.wait(timeout=20)
    assert code == (-how if killed == "caller" and how == signal.SIGKILL else 128 + how)
    until(lambda: not Path(f"/proc/{pid}").exists())


@pytest.mark.long
def test_a_large_network_s_path_makes_no_step_that_none_needs(experiments):
    folder = experiments["paper-pvtv2-cifar100"]
    transfer = pd.read_csv(folder / "data" / "results" / "transfer.csv")
    assert {"scratch", "naive", "known", "linear", "shrunk", "direction_only", "repeated", "naive_tuned"} <= set(
        transfer.method
    )
    assert set(transfer[transfer.method == "known"].steps) == {1, 2}
    assert set(transfer[transfer.method == "linear"].steps) == {2}
    seed = folder / "data" / "predictions" / "main_0"
    assert not list(seed.glob("linear-0-1*")) and list(seed.glob("linear-0-2*"))
