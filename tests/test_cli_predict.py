"""``know predict`` as its user meets it: exit codes, one line on stderr, and nothing half-written."""

import errno
import io
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from know import paths, retrodict
from know.prediction.controls import control
from know.prediction.known import HyperModel, load_hypermodel, save_hypermodel
from know.prediction.predictors import linear

# Each command in a process of its own; they are forked from one that has imported what they need and run nothing yet.
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload([__name__, "know.cli", "know.weights.files"])


@dataclass(frozen=True)
class Ended:
    code: int
    stdout: str
    stderr: str


def _child(arguments: list[str], folder: Path, prepare: Callable[[], None]) -> None:
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), number)
    sys.argv = ["know", *arguments]
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell may have told the tests to ignore
    prepare()
    from know.cli import main

    main()


def nothing() -> None:
    pass


@pytest.fixture
def know(tmp_path_factory) -> Callable[..., Ended]:
    def run(*arguments: object, prepare: Callable[[], None] = nothing) -> Ended:
        folder = tmp_path_factory.mktemp("streams")
        process = FORKSERVER.Process(target=_child, args=([str(part) for part in arguments], folder, prepare))
        process.start()
        process.join()
        assert process.exitcode is not None
        return Ended(process.exitcode, (folder / "stdout").read_text(), (folder / "stderr").read_text())

    return run


def weights(k: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(k)
    return {
        "conv.weight": torch.randn(4, 3, 3, 3, generator=generator) * 0.1,
        "fc.weight": (torch.randn(300, 5, generator=generator) * 0.1).half(),
        "fc.bias": torch.randn(300, generator=generator) * 0.1,
        "bn.num_batches_tracked": torch.tensor(k),
    }


@pytest.fixture
def folder(tmp_path) -> Path:
    """Checkpoints 0 … 4 in both formats, a hyper-model, and a file that must not be lost."""
    torch.manual_seed(0)
    save_hypermodel(HyperModel(5), tmp_path / "hyper")
    for k in range(5):
        save_file(weights(k), tmp_path / f"{k}.safetensors")
        torch.save(weights(k), tmp_path / f"{k}.pt")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept.safetensors").write_bytes(b"precious")
    return tmp_path


def files(folder: Path, suffix: str = "safetensors") -> list[Path]:
    return [folder / f"{k}.{suffix}" for k in range(5)]


def assert_predicted(out: Path, folder: Path) -> None:
    wanted = retrodict([weights(k) for k in range(5)], load_hypermodel(folder / "hyper"), steps=3, compiled=True)[2]
    predicted = load_file(out)
    assert predicted.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert predicted[name].dtype == tensor.dtype and torch.equal(predicted[name], tensor), name


def test_the_command_writes_what_retrodict_computes(folder):
    out = folder / "out" / "new.safetensors"
    command = [sys.executable, "-m", "know", "predict", *files(folder), "--out", out, "--steps", "3"]
    run = subprocess.run([*command, "--hypermodel", folder / "hyper"], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, f"{out}\n")
    assert run.stderr.startswith(f"relative distance to Θ_0 = {folder / '4.safetensors'}: 0.safetensors ")
    assert_predicted(out, folder)


def test_from_archives_too(know, folder):
    out = folder / "out" / "new.safetensors"
    run = know("predict", *files(folder, "pt"), "--out", out, "--steps", "3", "--hypermodel", folder / "hyper")
    assert (run.code, run.stdout) == (0, f"{out}\n")
    assert_predicted(out, folder)


def test_formats_and_dtypes_may_be_mixed(know, folder):
    save_file({name: tensor.double() for name, tensor in weights(1).items()}, folder / "1.safetensors")
    mixed = [folder / "0.pt", folder / "1.safetensors", folder / "2.pt"]
    assert know("predict", *mixed, "--out", folder / "new.safetensors", "--method", "linear").code == 0
    predicted = load_file(folder / "new.safetensors")
    assert {name: tensor.dtype for name, tensor in predicted.items()} == {n: t.dtype for n, t in weights(2).items()}
    torch.testing.assert_close(
        predicted["conv.weight"], retrodict([weights(k) for k in range(3)], linear)[0]["conv.weight"]
    )


def test_dtype_of_the_output(know, folder):
    out = folder / "new.safetensors"
    assert know("predict", *files(folder), "--out", out, "--method", "linear", "--dtype", "bfloat16").code == 0
    dtypes = {name: tensor.dtype for name, tensor in load_file(out).items()}
    assert dtypes == {name: t.dtype if name.startswith("bn") else torch.bfloat16 for name, t in weights(0).items()}


def test_of_more_checkpoints_the_last_count_and_the_user_is_told(know, folder):
    out = folder / "new.safetensors"
    more = [folder / "3.safetensors", *files(folder)]
    run = know("predict", *more, "--out", out, "--hypermodel", folder / "hyper")
    assert run.code == 0 and run.stderr.startswith("known reads the last 5 of 6 checkpoints\n")
    wanted = retrodict([weights(k) for k in range(5)], load_hypermodel(folder / "hyper"), compiled=True)[0]
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in load_file(out).items())


def test_one_s_own_predictor_as_documented(know, folder, monkeypatch):
    text = (paths.ROOT / "docs" / "methods.md").read_text()
    (code,) = re.findall(r"```python\n# mine.py\n(.*?)```", text, re.DOTALL)
    (folder / "mine.py").write_text(code)
    out, method = folder / "new.safetensors", ["--method", "mine:Halfway", "--option", "back=0.25"]
    run = know("predict", *files(folder), "--out", out, *method, prepare=partial(os.chdir, folder))
    assert run.code == 0, run.stderr
    theta_1, theta_0 = weights(3)["conv.weight"], weights(4)["conv.weight"]
    torch.testing.assert_close(load_file(out)["conv.weight"], theta_0 + 0.25 * (theta_1 - theta_0))
    run = know("predict", *files(folder), "--out", out, "--method", "mine:Third", prepare=partial(os.chdir, folder))
    assert run.code == 2 and "mine has no Third" in run.stderr

    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (start,) = control("mine:Mixed", share=0.25)([weights(k) for k in range(5)], linear)
    (predicted,) = retrodict([weights(k) for k in range(5)], linear)
    torch.testing.assert_close(start["conv.weight"], 0.25 * theta_0 + 0.75 * predicted["conv.weight"])
    sys.modules.pop("mine")


def test_options_of_the_method_and_kinds(know, folder):
    out = folder / "new.safetensors"
    method = ["--method", "task_vector", "--option", "scale=0.5", "--kind", "fc.*=buffer"]
    assert know("predict", *files(folder), "--out", out, *method).code == 0
    predicted, (theta_1, theta_0) = load_file(out), (weights(3), weights(4))
    assert torch.equal(predicted["fc.weight"], theta_0["fc.weight"])
    expected = theta_0["conv.weight"] + 0.5 * (theta_0["conv.weight"] - theta_1["conv.weight"])
    torch.testing.assert_close(predicted["conv.weight"], expected)


def test_what_became_of_batchnorm_is_said(know, folder):
    for k in range(2):
        save_file({"bn.running_mean": torch.ones(3)}, folder / f"{k}.safetensors")
    run = know("predict", *files(folder)[:2], "--out", folder / "new.safetensors", "--method", "linear")
    assert run.code == 0 and "\nBatchNorm statistics: copied from Θ_0" in run.stderr


def test_help_says_what_the_options_mean(know):
    run = know("predict", "--help")
    assert run.code == 0 and all(option in run.stdout for option in ("--method", "--steps", "--device", "--dtype"))


# --- wrong input ------------------------------------------------------------------------------------------------------


class Attack:
    """A pickle that runs a command when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.marker}",)


def change(name: str, value: torch.Tensor | None) -> dict[str, torch.Tensor]:
    changed = weights(2) | ({} if value is None else {name: value})
    if value is None:
        del changed[name]
    return changed


def rewrite(file: Path, data: bytes) -> None:
    file.write_bytes(data)


def saved(state: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def with_value(name: str, value: float) -> dict[str, torch.Tensor]:
    state = weights(2)
    state[name].view(-1)[-1] = value
    return state


DAMAGE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "malicious": (
        "2.pt",
        lambda f: rewrite(f, saved({"w": Attack(f.with_name("pwned"))})),
        "more than tensors.*system",
    ),
    "malicious legacy": (
        "2.pt",
        lambda f: torch.save({"w": Attack(f.with_name("pwned"))}, f, _use_new_zipfile_serialization=False),
        "more than tensors.*system",
    ),
    "arguments": (
        "2.pt",
        lambda f: torch.save(weights(2) | {"args": Namespace(lr=1)}, f),
        "more than tensors .argparse.Namespace",
    ),
    "NaN": ("2.safetensors", lambda f: save_file(with_value("fc.bias", float("nan")), f), "fc.bias: holds NaN or Inf"),
    "Inf": ("2.pt", lambda f: torch.save(with_value("fc.weight", float("inf")), f), "fc.weight: holds NaN or Inf"),
    "missing key": (
        "2.pt",
        lambda f: torch.save(change("fc.bias", None), f),
        "2.pt: the states of a .*'fc.bias' is not in all",
    ),
    "extra key": (
        "4.safetensors",
        lambda f: save_file(weights(4) | {"new": torch.zeros(2)}, f),
        "0.safetensors: the states of a .*'new' is not in all",
    ),
    "other shape": (
        "2.safetensors",
        lambda f: save_file(change("fc.bias", torch.zeros(7)), f),
        r"fc.bias: shapes differ along the trajectory: \(7,\) here, \(300,\) in .*4.safetensors",
    ),
    "truncated": ("2.safetensors", lambda f: os.truncate(f, f.stat().st_size - 9), "not a readable state dict: .+"),
    "truncated header": ("2.safetensors", lambda f: os.truncate(f, 40), "not a readable state dict: .+"),
    "truncated archive": ("2.pt", lambda f: os.truncate(f, f.stat().st_size // 2), "not a readable state dict: .+"),
    "empty": ("2.safetensors", lambda f: rewrite(f, b""), "not a readable state dict: .+"),
    "empty archive": ("2.pt", lambda f: rewrite(f, b""), "not a readable state dict"),
    "text": ("2.pt", lambda f: rewrite(f, b"not a checkpoint\n" * 9), "not a readable state dict: .+"),
    "gone": ("2.safetensors", lambda f: f.unlink(), "no such file"),
    "a folder": ("2.safetensors", lambda f: (f.unlink(), f.mkdir()), "a folder without a checkpoint"),
    "training state": (
        "2.pt",
        lambda f: torch.save({"epoch": 3, "model": weights(2), "model_ema": weights(2)}, f),
        r"several state dicts, model \(4 tensors\), model_ema \(4 tensors\): choose with --key",
    ),
    "not tensors": ("2.pt", lambda f: torch.save(weights(2) | {"step": 3}, f), "step: a int, not a tensor"),
    "a list": ("2.pt", lambda f: torch.save([1, 2], f), "not a state dict but a list"),
    "sparse": ("2.pt", lambda f: torch.save(change("fc.bias", torch.eye(3).to_sparse()), f), "holds a sparse tensor"),
    "too large for Θ_0's dtype": (
        "4.pt",
        lambda f: torch.save(weights(4) | {"fc.weight": torch.full((300, 5), 65504.0).half()}, f),
        "fc.weight: exceeds the range of torch.float16; choose a wider dtype",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_input_is_named_and_nothing_is_touched(know, folder, case):
    name, damage, message = DAMAGE[case]
    damage(folder / name)
    out = folder / "out" / "kept.safetensors"
    run = know("predict", *files(folder, name.partition(".")[2]), "--out", out, "--force", "--method", "task_vector")
    assert run.code == 1 and run.stdout == ""
    assert_one_line(run.stderr, message)
    if "Θ_0" not in case:
        assert str(folder) in run.stderr
    assert_untouched(out)
    assert not (folder / "pwned").exists()


def assert_one_line(text: str, message: str) -> None:
    """One line of error, after what was said of the order."""
    text = text[text.index("know: ") :]
    assert text.startswith("know: ") and text.count("\n") == 1 and text.endswith("\n"), text
    assert re.search(message, text), text


def assert_untouched(out: Path) -> None:
    assert out.read_bytes() == b"precious" and [path.name for path in out.parent.iterdir()] == [out.name]


def test_too_few_checkpoints(know, folder):
    out = folder / "out" / "kept.safetensors"
    run = know("predict", *files(folder)[2:], "--out", out, "--hypermodel", folder / "hyper")
    assert run.code == 1
    assert_one_line(run.stderr, "known needs 5 checkpoints, most forgotten first and Θ_0 last; got 3$")
    run = know("predict", folder / "4.pt", "--out", out, "--method", "linear")
    assert run.code == 1
    assert_one_line(run.stderr, "linear needs 2 checkpoints, .*; got 1$")
    assert_untouched(out)


def test_wrong_options_of_the_method(know, folder):
    out = folder / "out" / "kept.safetensors"
    for given, message in (
        ("scale=-1", "task_vector: scale: .*greater than 0"),
        ("rho=1", "task_vector: rho: .*scale"),
    ):
        run = know("predict", *files(folder), "--out", out, "--method", "task_vector", "--option", given)
        assert run.code == 1
        assert_one_line(run.stderr, message)
    assert_untouched(out)


def test_kinds_that_match_nothing(know, folder):
    out = folder / "out" / "kept.safetensors"
    run = know("predict", *files(folder), "--out", out, "--force", "--method", "linear", "--kind", "head.*=fc")
    assert run.code == 1
    assert_one_line(run.stderr, "kind of 'head.*': no tensor")
    assert_untouched(out)


def test_no_such_hypermodel(know, folder):
    out = folder / "out" / "kept.safetensors"
    run = know("predict", *files(folder), "--out", out, "--hypermodel", folder / "nowhere")
    assert run.code == 1
    assert_one_line(run.stderr, "nowhere: no hyper-model")
    assert_untouched(out)


# --- nowhere to write -------------------------------------------------------------------------------------------------


def test_folder_of_the_output_must_exist(know, folder):
    run = know("predict", *files(folder), "--out", folder / "typo" / "a.safetensors", "--method", "linear")
    assert run.code == 1
    assert_one_line(run.stderr, "typo/a.safetensors: its folder does not exist")
    assert not (folder / "typo").exists()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a folder in which not even root can write")
def test_read_only_folder(know, folder):
    run = know("predict", *files(folder), "--out", "/proc/know.safetensors", "--method", "linear")
    assert run.code == 1
    assert_one_line(run.stderr, "/proc/know.safetensors: cannot be written: ")


def test_a_device_is_not_replaced(know, folder):
    run = know("predict", *files(folder), "--out", "/dev/null", "--method", "linear")
    assert run.code == 1 and not Path("/dev/null").is_file()
    assert_one_line(run.stderr, "/dev/null: exists and is not a file")


def limit_file_size() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


def fill_the_disk() -> None:
    """No space when it is claimed."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    os.posix_fallocate = full


def fill_the_disk_later() -> None:
    """A file system that cannot claim space, so that writing fails."""

    def unsupported(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    os.posix_fallocate = unsupported
    limit_file_size()


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (limit_file_size, "File too large"),
        (fill_the_disk, "No space left on device"),
        (fill_the_disk_later, "File too large"),
    ],
)
def test_full_disk(know, folder, prepare, reason):
    out = folder / "out" / "kept.safetensors"
    run = know("predict", *files(folder), "--out", out, "--force", "--method", "linear", prepare=prepare)
    assert run.code == 1
    assert_one_line(run.stderr, f"kept.safetensors: cannot be written: {reason}$")
    assert_untouched(out)


def test_interrupted(folder, tmp_path):
    for k in range(5):
        save_file({"w": torch.zeros(3000, 2000)}, folder / f"{k}.safetensors")
    out = folder / "out" / "kept.safetensors"
    arguments = ["predict", *map(str, files(folder)), "--out", str(out), "--hypermodel", str(folder / "hyper")]
    arguments += ["--force", "--steps", "400"]  # long enough to be interrupted on any machine
    process = FORKSERVER.Process(target=_child, args=(arguments, tmp_path, nothing))
    process.start()
    while len(list(out.parent.iterdir())) == 1 and process.is_alive():
        time.sleep(0.01)
    while process.is_alive():  # as one would: CPython may lose an interrupt that comes while C code clears its errors
        os.kill(process.pid, signal.SIGINT)
        process.join(10)
    assert process.exitcode not in (0, None)
    assert_untouched(out)


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a small disk is not allowed here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_really_full_disk(know, folder, small_disk):
    run = know("predict", *files(folder), "--out", small_disk / "a.safetensors", "--method", "linear")
    assert run.code == 1
    assert_one_line(run.stderr, "a.safetensors: cannot be written: No space left on device$")
    assert list(small_disk.iterdir()) == []


# --- wrong usage ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "mentioned"),
    [
        ([], "--out"),
        (["--out", "a", "--method", "magic"], "linear"),
        (["--out", "a", "--method", "linear", "--option", "scale"], "NAME=VALUE"),
        (["--out", "a", "--method", "linear", "--steps", "0"], "--steps"),
        (["--out", "a", "--method", "linear", "--dtype", "int8"], "--dtype"),
        (["--out", "/", "--method", "linear"], "--out"),
    ],
)
def test_wrong_usage(know, folder, options, mentioned):
    run = know("predict", *files(folder), *options)
    assert run.code == 2 and run.stdout == "" and mentioned in run.stderr


def test_a_device_that_is_not_there(know, folder):
    run = know("predict", *files(folder), "--out", folder / "a", "--method", "linear", "--device", "abacus")
    assert run.code == 1
    assert_one_line(run.stderr, "device 'abacus' is not available here; allowed: auto, .*cpu")
