"""The compiled kernel: the same function as ``Folded``'s operations, where there is a compiler, and no trouble where not."""

import copy
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from test_engine import randomise, walk

from know import retrodict
from know.prediction import engine, kernel
from know.prediction.engine import Folded
from know.prediction.files import predict_files
from know.prediction.known import KNOWN, HyperModel
from know.weights.files import save_state


def there_is() -> bool:
    try:
        return bool(kernel.library())
    except kernel.Unavailable:
        return False


compiled = pytest.mark.skipif(not there_is(), reason="no C++ compiler, or no processor that the kernel is for")


def anew() -> str:
    """Where the library is that a new process would load; it is built if it must be."""
    return kernel.library.__wrapped__()._name


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "know"


@compiled
@pytest.mark.parametrize("length", [2, 3, 5, 7, 20])
@pytest.mark.parametrize("count", [0, 1, 2, 15, 16, 17, 511, 512, 513, 5001])  # a pass takes 256 scalars, or 512
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_kernel_is_folded(length, count, dtype):
    known = KNOWN(length)
    randomise(known, length)
    window = 0.5 * torch.randn(count, length, dtype=dtype, generator=torch.Generator().manual_seed(count))
    expected, fast = Folded(known)(window), Folded(known, compiled=True)
    assert fast._kernel
    wide = torch.zeros(2 * count, 2 * length, dtype=dtype)
    wide[::2, ::2] = window
    for same in (
        window,
        window.T.contiguous().T,
        wide[::2, ::2],
        wide.T.contiguous().T[::2, ::2],
        window.flip(0).flip(0),
    ):
        got = fast(same)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
        assert torch.equal(got, fast(window))


@compiled
@given(st.integers(0, 10_000), st.sampled_from([1e-4, 0.1, 1.0]), st.integers(1, 5000))
def test_it_rounds_no_worse_than_others(seed, scale, count):
    """Than the plain module and the operations, each of which errs by thrice the other in a few networks whose sums cancel; there by no
    more than a dozen units in the last place."""
    known, generator = KNOWN(), torch.Generator().manual_seed(seed)
    randomise(known, seed)
    start, moves = torch.randn(count, 1, generator=generator), torch.randn(count, 5, generator=generator)
    window = scale * (start + 1e-3 * moves)
    with torch.no_grad():
        exact = copy.deepcopy(known).double().residual(window.double())
        plain, operations, got = (
            (residual(window) - exact).abs().max().item()
            for residual in (known.residual, Folded(known), Folded(known, compiled=True))
        )
    unit = torch.finfo(torch.float32).eps * max(1.0, window.abs().max().item())
    assert got <= 3 * max(plain, operations) + 12 * unit


@compiled
def test_special_values():
    """Zeros and the smallest numbers; exponentials that overflow or vanish; what is infinite or NaN stays so, in its own place."""
    known, generator = KNOWN(), torch.Generator().manual_seed(0)
    randomise(known)
    window = torch.randn(4000, 5, generator=generator)
    sizes = torch.tensor([0.0, -0.0, 1e-45, 1e-38, 1e-10, 1.0, 100.0, 1e4, 1e10, 1e30, 3e38])
    window[::2] *= sizes[torch.randint(len(sizes), (2000, 1), generator=generator)]
    window[1::7, 2], window[2::7, 4], window[3::7, 0] = float("nan"), float("inf"), -float("inf")
    expected, got = Folded(known)(window), Folded(known, compiled=True)(window)
    assert torch.equal(expected.isnan(), got.isnan()) and expected.isnan().any() and not expected.isnan().all()
    small = (
        window.abs().amax(1) < 50
    )  # beyond, residuals are differences of huge numbers, and of both only roughly right
    torch.testing.assert_close(got[small], expected[small], rtol=1e-5, atol=2e-6, equal_nan=True)


@compiled
def test_a_scalar_depends_on_no_other_nor_on_pieces_and_threads(monkeypatch):
    known, model = KNOWN(), HyperModel()
    randomise(known)
    randomise(model)
    window, fast = torch.randn(1000, 5), Folded(known, compiled=True)
    one_by_one = torch.cat([fast(window[i : i + 1]) for i in range(len(window))])
    assert torch.equal(one_by_one, fast(window))
    trajectory = walk({"a": (130, 100), "b": (3, 4096), "c": (7,)})
    results, threads = [], torch.get_num_threads()
    for count, piece in ((1, engine.PIECE), (1, 2112), (5, 2112)):
        monkeypatch.setattr(engine, "PIECE", piece)
        torch.set_num_threads(count)
        results.append(retrodict(trajectory, model, steps=3, compiled=True)[-1])
    torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(results[0][name], other[name]) for name in other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_files_get_what_retrodict_compiles(tmp_path, dtype):
    """With or without a compiler."""
    model = HyperModel(scale="path")
    randomise(model)
    trajectory = walk({"c": (4, 3, 3, 3), "f": (70, 50), "b": (9,), "none": (0, 3)}, dtype)
    files = [tmp_path / f"{k}.safetensors" for k in range(5)]
    for file, state in zip(files, trajectory, strict=True):
        save_state(state, file)
    predict_files(files, tmp_path / "out.safetensors", model, steps=2)
    written = load_file(tmp_path / "out.safetensors")
    wanted, plain = (retrodict(trajectory, model, 2, compiled=compiled)[-1] for compiled in (True, False))
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-5
    for name, tensor in written.items():
        assert torch.equal(tensor, wanted[name])
        torch.testing.assert_close(tensor, plain[name], rtol=tolerance, atol=1e-6)


def test_retrodict_is_that_of_the_experiment_unless_asked(monkeypatch):
    def never() -> None:
        raise AssertionError("the kernel was asked for")

    monkeypatch.setattr(kernel, "library", never)
    retrodict(walk({"a": (5, 4)}), HyperModel())
    with pytest.raises(AssertionError):
        retrodict(walk({"a": (5, 4)}), HyperModel(), compiled=True)


def test_float64_networks_do_without():
    known = KNOWN().double()
    window = torch.randn(30, 5, dtype=torch.float64)
    assert torch.equal(Folded(known)(window), Folded(known, compiled=True)(window))


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"PATH": "/nowhere", "CXX": ""}, "no C++ compiler on the path"),
        ({kernel.VARIABLE: "0"}, "KNOW_KERNEL=0"),
        ({"CXX": "/nowhere/c++ -O1"}, "/nowhere/c++"),
        ({"CXX": "false"}, "false"),
        ({"CXX": "sh -c 'echo :1: error: cannot >&2; false'"}, ": cannot"),
        ({"CXX": "true"}, "No such file"),  # which says that it succeeds, and writes nothing
        ({"CXX": "'"}, "quotation"),
        ({"XDG_CACHE_HOME": "/dev/null"}, "/dev/null"),
    ],
)  # fmt: skip
def test_without_a_compiler_it_falls_back_and_says_why(cache, monkeypatch, environment, reason):
    if kernel.platform.machine() != "x86_64" or kernel.sys.platform != "linux":
        pytest.skip("there it has one reason only")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(kernel.Unavailable, match=re.escape(reason)):
        anew()
    monkeypatch.setattr(kernel, "library", kernel.library.__wrapped__)
    known, window = KNOWN(), torch.randn(30, 5)
    assert torch.equal(Folded(known)(window), Folded(known, compiled=True)(window))
    assert not list(cache.parent.rglob("*.so*"))


@compiled
def test_processes_that_build_it_at_once(cache):
    command = [sys.executable, "-c", "from know.prediction import kernel; print(kernel.library()._name)"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0].strip() for process in running] == list(map(str, cache.iterdir())) * 3
    written = (path := Path(anew())).stat().st_mtime_ns
    assert anew() == str(path) and path.stat().st_mtime_ns == written  # found, not built again


@pytest.mark.skipif(sys.platform != "linux", reason="it is for Linux")
def test_what_is_damaged_or_foreign_is_built_anew(cache, monkeypatch):
    builds = []

    def run(command: list[str], given: bytes) -> None:  # a compiler that is faster
        builds.append(command)
        Path(command[-1]).write_bytes(b"machine code")

    monkeypatch.setenv("CXX", sys.executable)
    monkeypatch.setattr(kernel, "_run", run)
    path = kernel._built()
    assert kernel._built() == path and len(builds) == 1
    whole = path.read_bytes()
    for content in (b"", b"machine code", whole[:-1], b"M" + whole[1:], whole + b"\0"):
        path.write_bytes(content)
        assert kernel._built() == path and path.read_bytes() == whole
    path.chmod(0o777)  # others may have written it
    assert kernel._built() == path and path.stat().st_mode & 0o777 == 0o700
    assert len(builds) == 7
    with monkeypatch.context() as patched:
        patched.setattr(kernel, "_processor", lambda: b"another")
        other = kernel._built()
    other.rename(path)  # whole, but for another processor
    assert other != path and kernel._built() == path and path.read_bytes() == whole and len(builds) == 9


@compiled
def test_its_bits_are_those_of_any_optimisation(cache, monkeypatch):
    """So they are the same on every processor: nothing depends on what a compiler makes of the vectors."""
    known, window = KNOWN(), torch.randn(5000, 5)
    expected = Folded(known, compiled=True)(window)
    monkeypatch.setattr(kernel, "library", kernel.library.__wrapped__)
    for options in ("-fno-tree-vectorize -fno-unroll-loops", "-mavx2 -mtune=generic"):
        monkeypatch.setenv("CXX", f"g++ {options}")
        assert torch.equal(Folded(known, compiled=True)(window), expected)
    assert len(list(cache.iterdir())) == 2
