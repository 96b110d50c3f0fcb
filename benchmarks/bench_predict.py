"""How fast prediction is, and how much memory it takes: `python benchmarks/bench_predict.py [--sizes 1e6 1e7 1e8]`.

Everything is measured in one run, in turns, the best of several repeats: the machine's own float32 matrix product, the
plain module in blocks of 100,000, and `know.retrodict` on the same weights, by PyTorch's operations and by the compiled
kernel; then the same in one thread, in processor time, which other programs disturb least; then `predict_files` on S bfloat16
files of each size in a fresh process, whose peak resident memory is printed, PyTorch's own (before the first file) beside it.
`--sizes 1e9` needs 12 GB of disk under `--folder`.
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from know import load_hypermodel, retrodict
from know.prediction import kernel
from know.prediction.engine import BLOCK, Folded
from know.prediction.files import predict_files
from know.prediction.known import KINDS, KNOWN, HyperModel
from know.weights.files import Writer

EAGER_BLOCK = 100_000
MEMORY = 4_000_000  # parameters in memory
MATRIX = 2048


def flops(known: KNOWN) -> int:
    """Of one prediction: a multiplication and an addition for every weight of every linear layer."""
    return 2 * sum(module.weight.numel() for module in known.modules() if isinstance(module, nn.Linear))


def seconds(function: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    function()
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - start


def in_turns(functions: dict[str, Callable[[], object]], repeats: int, device: torch.device) -> dict[str, float]:
    """Each one's shortest time; they take turns, so that what else the machine does hits all of them."""
    best = dict.fromkeys(functions, float("inf"))
    for _ in range(repeats + 1):
        for name, function in functions.items():
            best[name] = min(best[name], seconds(function, device))
    return best


def walk(count: int, length: int, device: torch.device) -> Tensor:
    """Paths (length, count) of weights of size 0.05 that move by 0.002 a step."""
    start = 0.05 * torch.randn(count, device=device)
    return start + 0.002 * torch.randn(length, count, device=device).cumsum(0)


def product(device: torch.device, side: int = MATRIX) -> tuple[int, Callable[[], object]]:
    """The operations in a product of two square matrices, and the product."""
    a, b, out = (torch.randn(side, side, device=device) for _ in range(3))
    return 2 * side**3, lambda: torch.mm(a, b, out=out)


def in_memory(model: HyperModel, repeats: int, device: torch.device) -> None:
    paths = walk(MEMORY, model.history_length, device)
    trajectory = [{"weight": point.view(-1, 1000)} for point in paths]
    block = paths[:, :EAGER_BLOCK].T.contiguous()
    model = model.to(device)
    operations, multiply = product(device)
    best = in_turns(
        {
            "product": multiply,
            "plain": lambda: model(block, "fc"),
            "operations": lambda: retrodict(trajectory, model),
            "kernel": lambda: retrodict(trajectory, model, compiled=True),
        },
        repeats,
        device,
    )
    plain, rate = best["plain"] / EAGER_BLOCK, operations / best["product"]
    count = flops(model.fc)
    print(f"matrix product, float32, {MATRIX} x {MATRIX}: {rate / 1e9:.0f} GFLOP/s")
    print(f"a prediction: {count:,} FLOP")
    print(f"plain module, blocks of {EAGER_BLOCK:,}: {plain * 1e9:.0f} ns a parameter")
    print(f"know.retrodict, {MEMORY:,} parameters:")
    for name in ("operations", "kernel"):
        each = best[name] / MEMORY
        print(
            f"  by the {name}: {each * 1e9:.0f} ns, {1 / each:,.0f} parameters/s, {count / each / rate:.2f} of the matrix"
            f" product's rate, {plain / each:.1f} x the plain module, {best['operations'] / best[name]:.2f} x the operations"
        )


def one_thread(known: KNOWN, repeats: int) -> None:
    """Of the networks alone, in one thread: the shortest processor time, so that time that others take does not count."""
    threads, count = torch.get_num_threads(), 2 * BLOCK
    window = walk(count, known.history_length, torch.device("cpu")).T
    plain = walk(EAGER_BLOCK // 4, known.history_length, torch.device("cpu")).T.contiguous()
    operations, multiply = product(torch.device("cpu"), 512)
    functions: dict[str, tuple[int, Callable[[], object]]] = {
        "product": (1, multiply),
        "plain module": (len(plain), lambda: known.residual(plain)),
        "operations": (count, lambda: folded(window)),
        "kernel": (count, lambda: fused(window)),
    }
    folded, fused = Folded(known), Folded(known, compiled=True)
    best = dict.fromkeys(functions, float("inf"))
    torch.set_num_threads(1)
    with torch.inference_mode():
        for _ in range(20 * repeats):
            for name, (_, function) in functions.items():
                start = time.thread_time()
                function()
                best[name] = min(best[name], time.thread_time() - start)
    torch.set_num_threads(threads)
    each = {name: best[name] / own for name, (own, _) in functions.items()}
    print("\none thread, processor time, the networks alone:")
    print("                 ns a parameter   of product   x plain module   x operations")
    for name in ("plain module", "operations", "kernel"):
        share = flops(known) / each[name] / (operations / each["product"])
        times = each["plain module"] / each[name], each["operations"] / each[name]
        print(f"  {name:14} {each[name] * 1e9:14.0f} {share:12.2f} {times[0]:16.1f} {times[1]:14.2f}")


def anatomy(repeats: int) -> None:
    """Where the operations' time goes: one thread, those of one stream on a block, twice (there are two streams)."""
    threads = torch.get_num_threads()
    inputs, xz, z, x, g, ze, y = (torch.rand(rows, BLOCK) for rows in (6, 73, 9, 64, 64, 73, 32))
    to_xz, from_z, to_out = (torch.rand(shape) for shape in ((73, 6), (64, 9), (32, 73)))
    e = ze[9:]
    operations: dict[str, Callable[[], object]] = {
        "window to x and z (73 x 6), ReLU": lambda: (torch.mm(to_xz, inputs, out=xz), z.relu_()),
        "z to rate and gain (64 x 9 each)": lambda: [torch.mm(from_z, z, out=x) for _ in range(2)],
        "products with rate and gain": lambda: [torch.mul(e, g, out=x) for _ in range(2)],
        "exp": lambda: torch.exp(e, out=x),
        "to the output (32 x 73)": lambda: torch.mm(to_out, ze, out=y),
        "LeakyReLU": lambda: nn.functional.leaky_relu(y, 0.3, inplace=True),
    }
    torch.set_num_threads(1)
    count, multiply = product(torch.device("cpu"), 512)  # as brief as the others: nothing comes between
    repeated = {
        name: lambda operation=operation: [operation() for _ in range(50)] for name, operation in operations.items()
    }
    best = in_turns(repeated | {"product": multiply}, repeats, torch.device("cpu"))
    torch.set_num_threads(threads)
    print("\nwhere one thread's time goes by the operations, ns a parameter:")
    for name in operations:
        print(f"  {name:34} {2 * best[name] / 50 / BLOCK * 1e9:5.0f}")
    ideal = flops(KNOWN()) / count * best["product"]
    print(f"  {'(all FLOP at the product rate)':34} {ideal * 1e9:5.0f}")


def write_trajectory(count: int, length: int, folder: Path) -> list[Path]:
    """S bfloat16 checkpoints of matrices of at most 4096 x 4096, written in pieces."""
    side = min(4096, int(count**0.5))
    tensors = {f"layers.{k}.weight": torch.empty(side, side, device="meta") for k in range(count // side**2)}
    tensors["rest.weight"] = torch.empty(1, count % side**2, device="meta")
    pool = walk(1 << 20, length, torch.device("cpu")).bfloat16()
    files = []
    for k in range(length):
        files.append(folder / f"theta_{length - 1 - k}.safetensors")
        with Writer(files[-1], tensors, dict.fromkeys(tensors, torch.bfloat16), {}) as writer:
            for name, tensor in tensors.items():
                for start in range(0, tensor.numel(), pool.shape[1]):
                    writer.write(name, start, pool[k, : tensor.numel() - start])
    return files


def streamed(hypermodel: str, files: list[str]) -> None:
    """In a process of its own: predict from files, and print the time and the peak of its memory."""
    model, before, start = model_of(hypermodel), peak_memory(), time.perf_counter()
    predict_files([Path(name) for name in files], Path(files[-1]).with_name("out.safetensors"), model)
    print(time.perf_counter() - start, before, peak_memory())


def peak_memory() -> int:
    """This process's peak resident memory in bytes.

    Linux's ``ru_maxrss`` is that of the parent where it was larger when the process was made, so /proc comes first.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(re.findall(r"VmHWM:\s*(\d+)", status.read_text())[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: in bytes


def sweep(hypermodel: str, sizes: list[float], folder: Path | None, repeats: int) -> None:
    length, cpu = model_of(hypermodel).history_length, torch.device("cpu")
    count = flops(KNOWN(length))
    print(f"\nfrom {length} bfloat16 files to a file, on the CPU:")
    print("parameters    files, GB   seconds   ns each   parameters/s   of product   peak MB   (at start)")
    for size in map(int, sizes):
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            files = write_trajectory(size, length, Path(temporary))
            operations, multiply = product(cpu)
            took, best = float("inf"), float("inf")
            for _ in range(repeats if size <= 1e8 else 1):
                best = min(best, *(seconds(multiply, cpu) for _ in range(5)))
                command = [sys.executable, __file__, "--streamed", hypermodel, *map(str, files)]
                output = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
                took, memory = min(took, float(output[0])), [int(value) / 1e6 for value in output[1:]]
                best = min(best, *(seconds(multiply, cpu) for _ in range(5)))
            stored = sum(file.stat().st_size for file in files)
        share = count * size / took / (operations / best)
        print(
            f"{size:13,} {stored / 1e9:9.3f} {took:9.2f} {took / size * 1e9:9.0f} {size / took:14,.0f}"
            f" {share:12.2f} {memory[1]:9.0f} {memory[0]:12.0f}",
            flush=True,
        )


def rounded(values: Tensor, bits: int) -> Tensor:
    """float32 values with ``bits`` bits of mantissa, to nearest: 10 in TF32, 7 in bfloat16."""
    dropped = 23 - bits
    return ((values.view(torch.int32) + (1 << (dropped - 1))) & -(1 << dropped)).view(torch.float32)


@torch.no_grad()
def precision(model: HyperModel) -> None:
    """Emulated on the CPU: the inputs and weights of every layer rounded, sums in float32, the last weight exact."""
    print("\nerror of the prediction in reduced precision, root mean square, relative to")
    print("                    the residual          the last step")
    window = walk(200_000, model.history_length, torch.device("cpu")).T.contiguous()
    step = (window[:, -1] - window[:, -2]).square().mean().sqrt()
    for kind in KINDS:
        exact = copy.deepcopy(model.of(kind)).double().residual(window.double())
        for name, bits in (("float32", 23), ("TF32", 10), ("bfloat16", 7)):
            known = copy.deepcopy(model.of(kind))
            for layer in known.modules():
                if isinstance(layer, nn.Linear) and bits < 23:
                    layer.weight.copy_(rounded(layer.weight, bits))
                    layer.register_forward_pre_hook(lambda _, inputs, bits=bits: rounded(inputs[0], bits))
            error = (known.residual(window) - exact).square().mean().sqrt()
            print(f"{kind:5} {name:9} {error / exact.square().mean().sqrt():15.1e} {error / step:20.1e}")


def model_of(name: str) -> HyperModel:
    """A hyper-model by name or folder; "random" has fresh weights: speed does not depend on them."""
    if name != "random":
        return load_hypermodel(name)
    torch.manual_seed(0)
    return HyperModel().eval()


def describe() -> None:
    processor = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists() and (found := re.search(r"model name\s*: (.+)", info.read_text())):
        processor = found[1]
    flags = torch.backends.cpu.get_cpu_capability()
    print(
        f"{processor}, {os.cpu_count()} cores, {flags}; PyTorch {torch.__version__}, {torch.get_num_threads()} threads"
    )
    try:
        kernel.library()
    except kernel.Unavailable as error:
        print(f"no compiled kernel, so its rows are the operations': {error}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=float, nargs="*", default=[1e6, 1e7, 1e8], help="parameters, from files")
    parser.add_argument("--hypermodel", default="random", help="a shipped one's name, a folder, or random weights")
    parser.add_argument("--device", default="cpu", help="of the measurement in memory")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the files are written, and removed again")
    parser.add_argument("--streamed", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.streamed:
        return streamed(options.streamed[0], options.streamed[1:])
    describe()
    in_memory(model_of(options.hypermodel), options.repeats, torch.device(options.device))
    one_thread(model_of(options.hypermodel).fc, options.repeats)
    anatomy(options.repeats)
    sweep(options.hypermodel, options.sizes, options.folder, options.repeats)
    precision(model_of(options.hypermodel))


if __name__ == "__main__":
    main()
