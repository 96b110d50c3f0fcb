"""Files that lie: every reader of the project is given thousands of damaged and malicious files.

    python benchmarks/attack.py                     # 12,000 files, a table
    python benchmarks/attack.py --reader yaml --count 500 --seed 7 --show

Each file is made of a good one by a random mutation, which ``--seed`` and its number determine. It is read in a process that
is watched. What can come of it:

accepted    it was read, and what was read was used
clean       an error of one line that names the file
traceback   an error of another kind, of several lines, or one that does not name the file
wrong       what the digest of a record should have caught was believed
crash       the process died
hang        it took more than ``HANG`` seconds of processor time
memory      it took more than ``MEMORY`` megabytes on top of the process
executed    code in the file ran
outside     something beside the folder was written

The exit code is 1 if there are any of the last seven.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import torch
from PIL import Image

from know import paths
from know.data.decoding import decoded
from know.data.embedded import read_embedded, save_embedded
from know.data.sources import read_batches, read_idx
from know.meta.layout import RunFile, save_paths
from know.params import load as load_params
from know.prediction.engine import BLOCK
from know.prediction.keras import FILES, LAYERS, import_keras
from know.prediction.known import HyperModel, load_hypermodel, save_hypermodel
from know.run import store
from know.weights.files import Checkpoint, load_state, save_state

HANG, MEMORY = 10.0, 400
ADDRESSES, GO_ON = 16, 3  # gigabytes of addresses that a reading process may have; its code when another is to go on
FAILURES = ("traceback", "wrong", "crash", "hang", "memory", "executed", "outside")
OUTCOMES = ("accepted", "clean", *FAILURES)
CAUGHT = (ValueError, RuntimeError, OSError)  # what the command turns into its one line


class Wrong(Exception):
    """Something else was read than was written."""


class Payload:
    """Leaves a file if it is ever unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.canary,)


# --- mutations ----------------------------------------------------------------------------------------------------

NUMBERS = (0, 1, 2, 127, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1)
TOKENS = (
    "null", "true", "-1", "0", "1e999", "NaN", "10000000", "99999999999999999999", '"x"', '""', "[]", "{}", "[[1]]", '"\\ud800"',
    '"__metadata__"', "[" * 3000, '{"a":' * 3000, '"' + "x" * 100_000 + '"', "*a", "&a [*a]", "!!python/object:os.system x",
    "../../outside", "\\u0000", "F64", "BF16", "U8",
)  # fmt: skip


def mutated_bytes(good: bytes, dice: random.Random) -> bytes:
    """One to four changes of a few bytes anywhere, more often at the beginning and the end, where headers are."""
    data = bytearray(good)
    for _ in range(dice.randint(1, 4)):
        if not data:
            break
        place = dice.choice(
            [dice.randrange(len(data)), min(dice.randrange(512), len(data) - 1), -1 - min(dice.randrange(512), len(data) - 1)]
        ) % len(data)  # fmt: skip
        how = dice.randrange(7)
        if how == 0:
            data[place] ^= 1 << dice.randrange(8)
        elif how == 1:
            data[place] = dice.randrange(256)
        elif how == 2:
            width = dice.choice([2, 4, 8])
            number = dice.choice(NUMBERS) % 256**width
            data[place : place + width] = number.to_bytes(width, dice.choice(["little", "big"]))
        elif how == 3:
            del data[place:]
        elif how == 4:
            del data[place : place + dice.randint(1, 64)]
        elif how == 5:
            data[place:place] = data[place : place + dice.randint(1, 64)]
        else:
            data[place:place] = dice.randbytes(dice.randint(1, 32))
    return bytes(data)


def mutated_text(good: str, dice: random.Random) -> bytes:
    """A token replaced, a line removed, doubled or indented otherwise; or the bytes are."""
    if dice.random() < 0.4:
        return mutated_bytes(good.encode(), dice)
    if dice.random() < 0.3:
        lines = good.splitlines()
        place = dice.randrange(len(lines))
        lines[place : place + 1] = dice.choice(
            [[], [lines[place]] * 2, ["  " + lines[place]], [lines[place].lstrip()], [dice.choice(TOKENS)]]
        )
        return "\n".join(lines).encode("utf-8", "surrogatepass")
    ends = [i for i, letter in enumerate(good) if letter in " ,:[]{}\n"]
    start = dice.randrange(len(ends) - 1)
    text = good[: ends[start] + 1] + dice.choice(TOKENS) + good[ends[min(len(ends) - 1, start + dice.randint(1, 2))] :]
    return text.encode("utf-8", "surrogatepass")


def mutated_safetensors(good: bytes, dice: random.Random) -> bytes:
    """The header's text, its length put right; or any bytes."""
    if dice.random() < 0.4:
        return mutated_bytes(good, dice)
    size = int.from_bytes(good[:8], "little")
    header = mutated_text(good[8 : 8 + size].decode(), dice)
    return len(header).to_bytes(8, "little") + header + good[8 + size :]


def mutated_archive(good: bytes, dice: random.Random) -> bytes:
    """A PyTorch file packed again: a member changed, removed, doubled or renamed, compressed or not; or any bytes."""
    if dice.random() < 0.3:
        return mutated_bytes(good, dice)
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    place = dice.randrange(len(members))
    name, content = members[place]
    others = [("../../outside", content), (name, content + bytes(dice.randint(1, 64))), (name.upper(), content)]
    members[place : place + 1] = dice.choice(
        [[(name, mutated_bytes(content, dice))]] * 4 + [[], others[:1], others[1:2], others[2:]]
    )
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", dice.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return out.getvalue()


# --- readers ------------------------------------------------------------------------------------------------------


@dataclass
class Reader:
    """Good files in a folder, how one of them is mutated, and what reads them.

    ``files``: by their names, which may hold a folder. ``special``: files made by hand, each instead of one of them.
    """

    read: Callable[[Path], object]
    mutate: Callable[[bytes, random.Random], bytes]
    files: dict[str, bytes]
    special: list[tuple[str, bytes]] = field(default_factory=list)

    def make(self, folder: Path, number: int, seed: int) -> str:
        """Write the files of this number; the name of the one that lies."""
        dice = random.Random(f"{seed} {number}")
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        if number < len(self.special):
            name, content = self.special[number]
        else:
            name = dice.choice(list(self.files))
            content = self.mutate(self.files[name], dice)
        (folder / name).write_bytes(content)
        return name


def as_text(good: bytes, dice: random.Random) -> bytes:
    return mutated_text(good.decode(), dice)


def by_kind(good: bytes, dice: random.Random) -> bytes:
    """Text as text, safetensors as such."""
    if good[:1] in b"{[" or good[:1] == b"#":
        return as_text(good, dice)
    return mutated_safetensors(good, dice) if good[8:9] == b"{" else mutated_bytes(good, dice)


def through_checkpoint(path: Path) -> None:
    """As `know predict` reads, and as everything else does."""
    with Checkpoint(path) as checkpoint:
        for name, tensor in checkpoint.tensors.items():
            for start in range(0, tensor.numel(), BLOCK):
                checkpoint.read(name, start, min(start + BLOCK, tensor.numel()))
    load_state(path)


def through_layout(path: Path) -> None:
    run = RunFile.open(path)
    for kind in run.sizes:
        for _ in run.blocks(kind, 1 << 15):
            pass
        run.sample(kind, 100, torch.Generator().manual_seed(0))
    _ = run.pointwise


@dataclass(frozen=True)
class Job:
    number: int


def computed(job: Job) -> dict[str, torch.Tensor]:
    return {"a": torch.arange(20.0) * job.number}


def through_store(folder: Path) -> None:
    paths.RUNS = folder
    found = store.once(computed, Job(3), "cpu")
    if found.keys() != {"a"} or not torch.equal(found["a"], torch.arange(20.0) * 3):
        raise Wrong


def in_memory(write: Callable[[Path], object], name: str = "file") -> dict[str, bytes]:
    """What a function writes to a path, by the names of the files."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / name)
        return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def picture(form: str, mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(out, form)
    return out.getvalue()


def keras_file(path: Path, rows: int = 5) -> None:
    shapes = {
        "inner": (rows, 64),
        "squeeze": (64, 8),
        "additive": (8, 64),
        "gain": (8, 64),
        "rate": (8, 64),
        "outer": (64, 32),
    }
    with h5py.File(path, "w") as file:
        for number, layer in enumerate(LAYERS):
            shape = (64, 1) if layer == "out" else shapes[layer.rpartition(".")[2]]
            shape = (rows - 1, 64) if layer == "differences.inner" else shape
            name = f"dense_{number}" if number else "dense"
            # What is declared and never written takes no room in the file.
            file.create_dataset(
                f"{name}/{name}/kernel:0", shape, "f4", **({} if rows > 1000 else {"data": np.zeros(shape)})
            )
            file.create_dataset(f"{name}/{name}/bias:0", (shape[1],), "f4", data=np.zeros(shape[1]))


def layout_file(path: Path, declared: int = 0) -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = {"ConvWeights": 90, "FCWeights": 40, "Bias": 8}
    save_paths({name: torch.rand(size, 7, generator=generator) for name, size in sizes.items()}, path, {"rate": 0.5})  # type: ignore[misc]
    if declared:
        with h5py.File(path, "r+") as file:
            del file["FCWeights"]
            file.create_dataset("FCWeights", (declared, 7), "f4")


def readers(canary: Path) -> dict[str, Reader]:
    """All of them, by name."""
    torch.manual_seed(0)
    state = {"conv.weight": torch.rand(4, 3, 3, 3), "fc.weight": torch.rand(5, 4).half(), "bn.num": torch.tensor(3)}
    evil = pickle.dumps(Payload(canary))

    def saved(**options: bool) -> bytes:
        out = io.BytesIO()
        torch.save(state, out, **options)
        return out.getvalue()

    def expanded() -> bytes:
        out = io.BytesIO()
        torch.save({"w": torch.zeros(1).expand(1 << 31)}, out)
        return out.getvalue()

    hyper = in_memory(lambda path: save_hypermodel(HyperModel(5), path), "model")
    deep = b"[" * 100_000
    laughs = b"a: &a [x, x, x]\n" + b"".join(b"%c: &%c [*%c, *%c, *%c, *%c, *%c, *%c]\n" % ((98 + i, 98 + i) + (97 + i,) * 6) for i in range(12))  # fmt: skip
    bomb = bytearray(picture("PNG"))
    bomb[16:24] = (30_000).to_bytes(4, "big") * 2  # width and height, in the first chunk, which has a checksum
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    idx = b"\0\0\x08\x03" + b"".join(size.to_bytes(4, "big") for size in (6, 5, 5)) + bytes(150)
    images = np.arange(50 * 2 * 16, dtype=np.uint8).reshape(100, 1, 4, 4)
    embedded = in_memory(
        lambda path: save_embedded(path, {"train": (images, np.repeat([0, 1], 50))}, ["a", "b"]), "set"
    )
    batch = pickle.dumps({b"data": np.zeros((4, 3072), np.uint8), b"labels": [0, 1, 2, 3]}, protocol=2)
    record = in_memory(lambda path: (setattr(paths, "RUNS", path.parent), store.once(computed, Job(3), "cpu")))
    keras = {name: in_memory(keras_file)["file"] for name in FILES.values()}
    return {
        "safetensors": Reader(
            lambda folder: through_checkpoint(folder / "a.safetensors"),
            mutated_safetensors,
            in_memory(lambda path: save_state(state, path), "a.safetensors"),
            [("a.safetensors", content) for content in (b"", deep, (1 << 60).to_bytes(8, "little") + b"{}", evil)],
        ),
        "pt": Reader(
            lambda folder: through_checkpoint(folder / "a.pt"),
            mutated_archive,
            {"a.pt": saved()},
            [("a.pt", content) for content in (b"", evil, expanded())],
        ),
        "pt-legacy": Reader(
            lambda folder: through_checkpoint(folder / "a.pt"),
            mutated_bytes,
            {"a.pt": saved(_use_new_zipfile_serialization=False)},
            [("a.pt", evil)],
        ),
        "hypermodel": Reader(
            lambda folder: load_hypermodel(folder / "model"),
            by_kind,
            hyper,
            [("model/config.json", content) for content in (b"", deep, b"[]", b'{"history_length": 10000000}')],
        ),
        "keras": Reader(
            lambda folder: import_keras(folder),
            mutated_bytes,
            keras,
            [(name, in_memory(lambda path: keras_file(path, 30_000_000))["file"]) for name in FILES.values()],
        ),
        "layout": Reader(
            lambda folder: through_layout(folder / "a.mat"),
            mutated_bytes,
            in_memory(layout_file, "a.mat"),
            [("a.mat", in_memory(lambda path: layout_file(path, 1 << 30))["file"])],
        ),
        "yaml": Reader(
            lambda folder: load_params(folder / "params.yaml"),
            as_text,
            {"params.yaml": paths.PARAMS.read_bytes()},
            [("params.yaml", content) for content in (b"", deep, laughs, b"a: &a [*a]", b"\xff\xfe", b"rate: " + b"9" * 10_000)],
        ),
        **{
            f"image-{form.lower()}": Reader(
                lambda folder: decoded(folder / "image").convert("RGB"), mutated_bytes, {"image": picture(form, mode)}, special
            )
            for form, mode, special in (
                ("PNG", "RGB", [("image", bytes(bomb))]), ("JPEG", "RGB", []), ("BMP", "RGB", []), ("GIF", "P", []),
                ("TIFF", "RGB", []), ("WEBP", "RGB", []), ("PPM", "RGB", []),
            )
        },
        "embedded": Reader(lambda folder: read_embedded(folder / "set", "train"), by_kind, embedded),
        "idx": Reader(lambda folder: read_idx(folder / "a"), mutated_bytes, {"a": idx}),
        "idx-gz": Reader(
            lambda folder: read_idx(folder / "a.gz"),
            mutated_bytes,
            {"a.gz": gzip.compress(idx)},
            [("a.gz", gzip.compress(idx[:4] + b"\xff" * 12 + bytes(1 << 24)))],
        ),
        "cifar": Reader(
            lambda folder: read_batches([folder / "a"]),
            mutated_bytes,
            {"a": batch},
            [("a", evil), ("a", b"\x80\x02Nr\xff\xff\xff\x7f."), ("a", b"\x80\x04\x8e" + b"\xff" * 6 + b"\0\0")],
        ),
        "record": Reader(
            through_store, by_kind, record, [(name, content) for name in record for content in (b"", deep, evil)]
        ),
    }  # fmt: skip


# --- the attack ---------------------------------------------------------------------------------------------------


def outcome(reader: Reader, folder: Path, name: str) -> tuple[str, str]:
    """What came of reading a folder in this process, and what was said."""
    try:
        reader.read(folder)
    except Wrong:
        return "wrong", ""
    except CAUGHT as error:
        said = str(error)
        named = Path(name).name in said or str(folder) in said
        return (
            "clean" if named and "\n" not in said and len(said) < 1000 else "traceback"
        ), f"{type(error).__name__}: {said}"
    except Exception as error:
        return "traceback", f"{type(error).__name__}: {error}"
    return "accepted", ""


def child(reader: Reader, numbers: range, seed: int, work: Path, out: int) -> None:
    """Read the files of these numbers, and say a line about each."""
    sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES << 30, ADDRESSES << 30))
    for number in numbers:
        folder = work / str(number)
        name = reader.make(folder, number, seed)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        signal.setitimer(signal.ITIMER_PROF, HANG)  # SIGPROF ends the process
        found, said = outcome(reader, folder, name)
        signal.setitimer(signal.ITIMER_PROF, 0)
        if (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 > MEMORY:
            found = "memory"
        os.write(out, (json.dumps([number, found, f"{name}: {said[:150]}"]) + "\n").encode())
        shutil.rmtree(folder)
        if found == "memory":  # the most that a process has ever had cannot be set back
            os._exit(GO_ON)
    os._exit(0)


def attack(reader: Reader, count: int, seed: int, work: Path, canary: Path) -> list[tuple[int, str, str]]:
    """What came of each file. A process reads one after the other, and another goes on behind one that ended it."""
    results: list[tuple[int, str, str]] = []
    while len(results) < count:
        source, sink = os.pipe()
        process = os.fork()
        if not process:
            os.close(source)
            child(reader, range(len(results), count), seed, work, sink)
        os.close(sink)
        with os.fdopen(source) as lines:
            for line in lines:
                number, found, said = json.loads(line)
                if canary.exists():
                    canary.unlink()
                    found = "executed"
                elif {path.name for path in work.parent.iterdir()} != {work.name}:
                    found = "outside"
                results.append((number, found, said))
        _, status = os.waitpid(process, 0)
        if len(results) < count and os.waitstatus_to_exitcode(status) != GO_ON:
            ended = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"code {status >> 8}"
            results.append((len(results), "hang" if ended == "SIGPROF" else "crash", ended))
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=12_000, help="files in all")
    parser.add_argument("--reader", action="append", help="only this one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", action="store_true", help="say what every failure said")
    options = parser.parse_args()
    torch.set_num_threads(1)
    total = Counter[str]()
    print(f"{'reader':<12}" + "".join(f"{name:>10}" for name in ("files", *OUTCOMES)))
    with tempfile.TemporaryDirectory() as place:
        canary = Path(place) / "canary" / "executed"
        canary.parent.mkdir()
        work = Path(place) / "arena" / "work"
        work.mkdir(parents=True)
        chosen = {name: one for name, one in readers(canary).items() if not options.reader or name in options.reader}
        for name, reader in chosen.items():
            count = -(-options.count // len(chosen))
            results = attack(reader, count, options.seed, work, canary)
            found = Counter(outcome for _, outcome, _ in results)
            total.update(found)
            print(f"{name:<12}{count:>10}" + "".join(f"{found[one]:>10}" for one in OUTCOMES), flush=True)
            for number, what, said in results if options.show else ():
                if what in FAILURES:
                    print(f"  {number} {what}: {said}")
    print(f"{'all':<12}{total.total():>10}" + "".join(f"{total[one]:>10}" for one in OUTCOMES))
    return int(any(total[one] for one in FAILURES))


if __name__ == "__main__":
    from attack import main as attacked  # a record knows its function by the name of its module

    sys.exit(attacked())
