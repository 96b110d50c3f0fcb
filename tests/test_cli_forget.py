"""``know forget`` for a user's own model: what the documentation shows, resuming, and every bad input in one line."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import write_params
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from know import cli, paths
from know.data.images import load
from know.data.own import DatasetPart
from know.data.subsets import nested_subsets, stratified_order
from know.prediction.known import HyperModel, save_hypermodel
from know.run import progress
from know.seeds import derive
from know.training import own as custom
from know.training.forgetting import forget
from know.training.loop import Recipe
from know.weights.batchnorm import batchnorm_note
from know.weights.files import load_state, save_state
from know.weights.marks import Mark, mark_in
from know.weights.modules import load_weights

FACTORIES = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, classes)
        self.register_buffer("gain", torch.ones(4))

    def forward(self, x):
        x = self.bn(self.conv(x)).relu().mean((2, 3)) * self.gain
        return self.head(nn.functional.dropout(x, 0.2, self.training))

def two_classes():
    return Net(2)

class Samples(torch.utils.data.Dataset):
    def __init__(self, count=48):
        self.labels = torch.arange(count) % 3
        self.inputs = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0)) + self.labels[:, None, None, None]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.inputs[index], int(self.labels[index])

def few():
    return Samples(20)

def pairs():
    return [("a", 1)]

def fails():
    return 1 / 0

def pair_of_logits():
    class Two(Net):
        def forward(self, x):
            return super().forward(x), None
    return Two()

def mean(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])

def each(model, batch):
    return model(batch[0]).sum(1)

def constant(model, batch):
    return torch.zeros(())

def no_optimizer(model, steps):
    return model

number = 7
"""


def run_know(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    """The real command."""
    environment = os.environ | {"PYTHONPATH": str(paths.ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [sys.executable, "-m", "know", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, encoding="utf-8")


def image_folder(folder: Path, per_class: int, classes: int) -> None:
    """The first embedded images as FOLDER/CLASS/number.png."""
    images = load("fashion-mnist-embedded", "train").of_classes(range(classes))
    images = images.select(stratified_order(images.labels, 0)[: per_class * classes])
    for number, (image, label) in enumerate(zip(images.images, images.labels, strict=True)):
        path = folder / f"class_{label}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(path)


def names(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with factories, Θ_0 of one of them, and ``know`` in this process: arguments → (exit code, out, err)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "factories", raising=False)
    (tmp_path / "factories.py").write_text(FACTORIES)
    torch.manual_seed(0)
    torch.save(custom.made_by("factories:Net", "--model").state_dict(), "theta_0.pt")
    return tmp_path


@pytest.fixture
def know(own, monkeypatch, capsys):
    def run(text: str):
        monkeypatch.setattr(sys, "argv", ["know", *shlex.split(text)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return (caught.value.code or 0, *capsys.readouterr())

    return run


GOOD = (
    "forget --model factories:Net --checkpoint theta_0.pt --dataset factories:Samples --out run --epochs 1 --device cpu"
)


def test_the_documented_example(tmp_path):
    """The blocks of docs/your-checkpoints.md, in its order, at a smaller scale and with an untrained hyper-model."""
    text = (paths.ROOT / "docs" / "your-checkpoints.md").read_text()
    files = {name: code for name, code in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", text, re.DOTALL)}
    forget, predict, *_ = re.findall(r"```sh\nknow (.*?)```", text, re.DOTALL)
    for name, code in files.items():
        (tmp_path / name).write_text(re.sub(r"range\(\d+\)", "range(1)", code.replace("224", "32")))
    image_folder(tmp_path / "photos", per_class=16, classes=10)
    image_folder(tmp_path / "downstream", per_class=8, classes=4)
    save_hypermodel(HyperModel(5), tmp_path / "hypermodel")

    def python(name: str) -> str:
        environment = os.environ | {"PYTHONPATH": str(paths.ROOT), "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [sys.executable, name], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
        ).stdout

    assert list(files) == [
        "nets.py", "train.py", "transfer.py", "check.py", "reconstruction.py", "own_loop.py", "own_paths.py",
    ]  # fmt: skip
    python("train.py")
    done = run_know(*shlex.split(forget.replace("224", "32").replace("\\\n", " ")), "--epochs", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line[:3] for line in lines[:5]] == [f"Θ_{k}" for k in range(5)]
    assert "10 of 160 images" in lines[4] and "forgetting" in (done.stdout + done.stderr).lower()
    assert shlex.split(lines[-1]) == [
        "know",
        *shlex.split(predict.replace("\\\n", " ")),
    ]  # as documented, to the letter

    command = [*shlex.split(lines[-1])[1:], "--hypermodel", "hypermodel"]
    done = run_know(*command, "--kind", "fc.*=buffer", cwd=tmp_path)
    theta_0 = load_state(tmp_path / "forgetting" / "theta_0.safetensors")
    enhanced = load_state(tmp_path / "forgetting" / "enhanced.safetensors")
    assert done.returncode == 0 and batchnorm_note(theta_0) in done.stderr.splitlines()
    assert {name: (t.shape, t.dtype) for name, t in enhanced.items()} == {
        name: (t.shape, t.dtype) for name, t in theta_0.items()
    }
    for name, tensor in theta_0.items():
        kept = "running" in name or "num_batches" in name or name.startswith("fc.")
        assert torch.equal(enhanced[name], tensor) == kept, name
    assert re.search(r"accuracy [\d.]+", python("transfer.py"))

    torch.save((torch.randn(40, 3, 32, 32), torch.arange(40) % 10), tmp_path / "validation.pt")
    (select,) = re.findall(r"^know (select .*?)```", text, re.DOTALL | re.MULTILINE)
    done = run_know(*shlex.split(select.replace("\\\n", " ")), "--hypermodel", "hypermodel", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = done.stdout.splitlines()
    assert len(rows) == 1 + 2 * 2 * 2 + 1 + 2 + 1 and rows[-1] == "best.safetensors"
    assert load_state(tmp_path / "best.safetensors").keys() == theta_0.keys()


def test_the_documented_loop_of_one_s_own(tmp_path, know, monkeypatch):
    text = (paths.ROOT / "docs" / "your-checkpoints.md").read_text()
    (code,) = re.findall(r"```python\n# own_loop.py\n(.*?)```", text, re.DOTALL)
    space: dict = {}
    exec(code, space)
    seen = []

    def fit(net, subset):
        seen.append(len(subset))
        with torch.no_grad():
            net.weight.add_(1)

    net = nn.Linear(2, 2)
    first = net.weight.detach().clone()
    space["forget_by"](fit, net, range(16), torch.arange(16) % 2)
    assert seen == [8, 4, 2, 1]
    code, _, err = know("predict own --out better.safetensors --method linear")
    assert code == 0, err
    torch.testing.assert_close(load_state(Path("better.safetensors"))["weight"], first - 1)


def test_the_documented_loss_and_optimiser(know, own):
    """Trained as documented, to the bit; and the loss is measured in place of accuracy."""
    text = (paths.ROOT / "docs" / "your-checkpoints.md").read_text()
    (code,) = re.findall(r"```python\n# reconstruction.py\n(.*?)```", text, re.DOTALL)
    (command,) = re.findall(r"```sh\nknow (forget --model reconstruction.*?)```", text, re.DOTALL)
    Path("reconstruction.py").write_text(code)
    space: dict = {}
    exec(code, space)
    net, samples = space["denoiser"](), space["Noisy"]()
    torch.save(net.state_dict(), "denoiser.pt")
    exit_code, out, err = know(command.replace("\\\n", " "))
    assert exit_code == 0, err

    order, cpu = stratified_order(torch.zeros(64), 0), torch.device("cpu")
    whole = next(DatasetPart(samples, order, cpu).batches(64))
    assert out.startswith(f"Θ_0  64 of 64 samples, loss {space['loss'](net, whole).item():.4g} on them\n")
    assert re.search(r"^Θ_4  4 of 64 samples, loss [\d.]+ on them, [\d.]+ on those dropped$", out, re.MULTILINE)
    assert "on the 60 samples dropped, the loss goes from " in out + err
    optimiser, schedule = space["sgd"](net, 3 * 8)
    generator = torch.Generator().manual_seed(derive("forget", 0, 1))
    for _ in range(3):
        for batch in DatasetPart(samples, order[:32], cpu).batches(4, generator):
            optimiser.zero_grad()
            space["loss"](net, batch).backward()
            optimiser.step()
            schedule.step()
    theta_1 = load_state(Path("denoiser/theta_1.safetensors"))
    assert all(torch.equal(theta_1[name], tensor) for name, tensor in net.state_dict().items())


def test_forgetting_is_the_experiment_s_to_the_bit(know, own):
    assert know(GOOD + " --epochs 2 --batch-size 10")[0] == 0
    net, samples = custom.model_from("factories:Net", 0), custom.made_by("factories:Samples", "--dataset")
    load_weights(net, torch.load("theta_0.pt"), "Θ_0")
    subsets = nested_subsets(stratified_order(samples.labels, 0), 0.5, 5)
    parts = [DatasetPart(samples, subset, torch.device("cpu")) for subset in subsets[1:]]
    for k, theta in enumerate(reversed(forget(net, parts, Recipe(2, 10, 1e-3), 0))):
        written = load_state(Path(f"run/theta_{k}.safetensors"))
        assert all(torch.equal(written[name], tensor) for name, tensor in theta.items())


def test_a_run_of_another_loss_is_another_run(know, own):
    short = GOOD + " --length 2"
    code, out, err = know(short + " --loss factories:mean")
    assert code == 0 and "Θ_1  24 of 48 samples, loss " in out, err
    code, _, err = know(short)
    assert code == 1 and "holds another run: loss was 'factories:mean', now None" in err


def test_how_far_it_is_is_shown(know, own, monkeypatch):
    """By the minute where there is no terminal; a bar where there is one."""
    monkeypatch.setattr(progress, "MINUTE", 0.0)
    code, _, err = know(GOOD + " --length 2 --batch-size 12")
    assert code == 0 and {"know: labels 3 of 48, 0 s left", "know: measuring Θ_1 1 of 4, 0 s left"} <= set(
        err.splitlines()
    )
    assert "know: Θ_1 of Θ_1 1 of 2, 0 s left" in err.splitlines()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    code, _, err = know(GOOD.replace("--out run", "--out other") + " --length 2 --batch-size 12")
    assert code == 0 and "Θ_1 of Θ_1: 100%" in err


def test_the_documented_road_to_a_hyper_model(know, own, monkeypatch):
    text = (paths.ROOT / "docs" / "your-checkpoints.md").read_text()
    (code,) = re.findall(r"```python\n# own_paths.py\n(.*?)```", text, re.DOTALL)
    learn, predict = re.findall(r"^know (meta-train --data.*?|predict run --hyper.*?)(?: +#.*)?$", text, re.MULTILINE)
    shapes = {"conv.weight": (4, 2, 3, 3), "fc.weight": (3, 40), "fc.bias": (60,)}
    for run in ("runs/1", "runs/2", "runs/3", "run"):
        for k in range(6):
            state = {name: 0.1 * torch.randn(shape) for name, shape in shapes.items()}
            save_state(state, Path(run, f"theta_{k}.safetensors"))
    exec(code, {})
    monkeypatch.setattr(paths, "RUNS", own / "records")
    micro = {"runs": {"held_out": 1}, "known": {"steps": 5, "batch_size": 16}}
    write_params(own / "params.yaml", {"meta_train": micro, "compute": {"jobs": 1}})
    code, out, err = know(f"{learn} --params params.yaml")
    assert code == 0 and "no change" in out, err
    code, _, err = know(predict)
    assert code == 0 and "reads the last 5 of 6 checkpoints" in err, err
    assert load_state(Path("better.safetensors"))["conv.weight"].shape == (4, 2, 3, 3)


def test_a_run_that_was_stopped_continues_to_the_same_weights(know, own, monkeypatch):
    code, whole, _ = know(GOOD.replace("--out run", "--out whole"))
    assert code == 0
    save, saved = custom.save_state, []

    def full_disk(state, path, metadata):
        if len(saved) == 3:
            raise OSError(28, "No space left on device", str(path))
        save(state, path, metadata)
        saved.append(path.name)

    monkeypatch.setattr(custom, "save_state", full_disk)
    code, _, err = know(GOOD)
    assert code == 1 and err == "know: [Errno 28] No space left on device: 'run/theta_3.safetensors'\n"
    assert names("run") == ["forget.json", *saved] and saved[-1] == "theta_2.safetensors"

    ended = subprocess.Popen(["true"])
    ended.wait()
    left = Path(f"run/.theta_3.safetensors.{paths._HOST}-{ended.pid}-0a1b2c3d.tmp")
    left.write_bytes(b"what a killed run leaves")
    monkeypatch.setattr(custom, "save_state", save)
    before = {name: Path("run", name).stat().st_mtime_ns for name in saved}
    code, out, _ = know(GOOD)
    assert code == 0 and out.replace("run/", "whole/") == whole
    assert before == {name: Path("run", name).stat().st_mtime_ns for name in saved}
    assert names("run") == names("whole")
    for k in range(5):
        a, b = (load_state(Path(folder) / f"theta_{k}.safetensors") for folder in ("run", "whole"))
        assert all(torch.equal(a[name], b[name]) for name in a) and a.keys() == b.keys()

    with paths.claimed(Path("run")):
        code, _, err = know(GOOD)
    assert code == 1 and err == "know: run: another process works in it: wait for it, or choose another\n"
    code, _, err = know(GOOD + " --lr 0.01")
    assert code == 1 and "run/forget.json: the folder holds another run: lr was 0.001, now 0.01" in err
    Path("run/forget.json").write_text("[1")
    code, _, err = know(GOOD)
    assert code == 1 and "run/forget.json: not the record of a run" in err
    Path("run/forget.json").unlink()
    code, _, err = know(GOOD)
    assert code == 1 and "run/theta_0.safetensors: exists, and is not of such a run" in err


def test_resume_believes_no_checkpoint_that_it_did_not_write(know, own):
    short = GOOD + " --length 2"
    assert know(short)[0] == 0
    theta_1 = Path("run/theta_1.safetensors")
    with safe_open(theta_1, "pt") as file:
        told = file.metadata()
    assert (told["know.k"], told["know.length"], told["know.rate"]) == ("1", "2", "0.5")
    whole, state = theta_1.read_bytes(), load_state(theta_1)
    changed = {name: tensor + 1 if name == "head.bias" else tensor for name, tensor in state.items()}
    for other in (dict(told), {}, told | {"know.run": "another"}):
        save_file(state if other.get("know.run") == "another" else changed, theta_1, other)
        code, _, err = know(short)
        assert code == 1 and "theta_1.safetensors: not as this run wrote it; remove it" in err
    theta_1.unlink()
    assert know(short)[0] == 0 and load_state(theta_1).keys() == state.keys()
    assert mark_of(theta_1) == mark_in(told) and theta_1.stat().st_size == len(whole)


def mark_of(path: Path) -> Mark | None:
    with safe_open(path, "pt") as file:
        return mark_in(file.metadata())


def test_images_are_known_by_their_content(know, own):
    image_folder(own / "photos", 16, 3)
    images = GOOD.replace("--dataset factories:Samples", "--images photos --image-size 8") + " --length 2"
    assert know(images)[0] == 0
    (own / "photos").rename(own / "moved")
    assert know(images.replace("photos", "moved"))[0] == 0
    first = sorted((own / "moved").rglob("*.png"))[0]
    Image.new("RGB", (28, 28)).save(first)
    code, _, err = know(images.replace("photos", "moved"))
    assert code == 1 and "holds another run: images was" in err


def test_theta_0_may_be_in_a_training_state(know, own):
    torch.save({"net": torch.load("theta_0.pt"), "ema": torch.load("theta_0.pt"), "epoch": 3}, "state.pt")
    wrapped = GOOD.replace("theta_0.pt", "state.pt") + " --length 2"
    code, _, err = know(wrapped)
    assert code == 1 and "net (10 tensors), ema (10 tensors): choose with --key" in err
    assert know(wrapped + " --key ema")[0] == 0


def test_what_is_written_and_said(know, own):
    state = torch.load("theta_0.pt")
    torch.save({f"module.{name}": tensor.double() for name, tensor in state.items()}, "wrapped.pt")
    code, out, _ = know(GOOD.replace("theta_0.pt", "wrapped.pt") + " --length 3 --rate 0.4 --seed 5")
    assert code == 0 and len(out.splitlines()) >= 5
    assert "Θ_1  19 of 48 images" in out and "Θ_2  8 of 48 images" in out  # 48 r, 48 r²
    written = load_state(Path("run/theta_0.safetensors"))
    assert written.keys() == state.keys() and all(torch.equal(written[name], state[name]) for name in state)
    *_, command = out.splitlines()
    assert shlex.split(command) == [
        "know", "predict", *(f"run/theta_{k}.safetensors" for k in (2, 1, 0)), "--out", "run/enhanced.safetensors",
        "--kind", "gain=buffer",
    ]  # fmt: skip
    assert json.loads(Path("run/forget.json").read_text())["rate"] == 0.4
    assert torch.equal(load_state(Path("run/theta_2.safetensors"))["gain"], torch.ones(4))


def test_restart_begins_from_the_factory_s_weights(know, own):
    """At a vanishing learning rate every Θ_k is where it began."""
    torch.save({name: tensor + 1 for name, tensor in torch.load("theta_0.pt").items()}, "theta_0.pt")
    for mode, begun in (("restart", custom.model_from("factories:Net", 0).state_dict()), ("sequential", torch.load("theta_0.pt"))):  # fmt: skip
        code, _, err = know(GOOD.replace("--out run", f"--out {mode}") + f" --mode {mode} --lr 1e-12 --length 2")
        assert code == 0, err
        theta_1 = load_state(Path(mode) / "theta_1.safetensors")
        torch.testing.assert_close(theta_1["conv.weight"], begun["conv.weight"], rtol=0, atol=1e-6)


BAD = {
    "--model nowhere:net": "--model nowhere:net: nowhere cannot be imported: ModuleNotFoundError",
    "--model factories": "--model: got 'factories'; allowed: package.module:name",
    "--model factories:Nett": "--model factories:Nett: factories has no Nett",
    "--model factories:number": "--model factories:number: a int, not a function",
    "--model factories:fails": "--model factories:fails: the call failed: ZeroDivisionError: division by zero (factories.py:",
    "--model factories:Samples": "--model factories:Samples: returned a Samples, not a torch.nn.Module",
    "--model factories:pair_of_logits": "the model must return logits (N, classes) in training mode too, got tuple",
    "--model factories:two_classes": "theta_0.pt: does not fit the model: 'head.weight' is (3, 4), the model's (2, 4)",
    "--checkpoint none.pt": "none.pt: no such file",
    "--checkpoint missing.pt": "missing.pt: does not fit the model: 'head.weight' (3, 4) is missing",
    "--checkpoint more.pt": "more.pt: does not fit the model, which has no 'tail.weight'",
    "--dataset factories:few": "class 0 has 7 samples, of which the smallest subset keeps 0.0625: less than one; it takes 16",
    "--dataset factories:pairs": "--dataset factories:pairs: each sample must be (input tensor, class index): TypeError",
    "--dataset factories:number": "--dataset factories:number: a int, not a function",
    "--loss factories:number": "--loss factories:number: a int, not a function",
    "--loss factories:two_classes": "--loss factories:two_classes: the call failed: TypeError",
    "--loss factories:each": "--loss factories:each: must return the batch's mean, a tensor without dimensions, got one of shape (24,)",
    "--loss factories:constant": "the loss does not depend on any parameter that is trained",
    "--loss factories:mean --dataset factories:number": "--dataset factories:number: a int, not a function",
    "--optimizer factories:fails": "--optimizer factories:fails: the call failed: TypeError",
    "--optimizer factories:no_optimizer": "must return an optimiser, or one and its schedule, got a Net",
    "--rate 1": "--rate: got 1.0; input should be less than 1",
    "--rate -0.5": "--rate: got -0.5; input should be greater than 0",
    "--length 1": "--length: got 1; input should be greater than or equal to 2",
    "--lr 0": "--lr: got 0.0; input should be greater than 0",
    "--device cuda:99": "device 'cuda:99' is not available here",
}


@pytest.mark.parametrize("change", BAD)
def test_bad_input_is_one_line(know, own, change):
    if torch.cuda.is_available() and "cuda" in change:
        pytest.skip("there is a GPU")
    state = torch.load("theta_0.pt")
    torch.save({name: tensor for name, tensor in state.items() if not name.startswith("head.")}, "missing.pt")
    torch.save(state | {"tail.weight": torch.zeros(2)}, "more.pt")
    code, out, err = know(f"{GOOD} {change}")  # the last of an option given twice holds
    assert code == 1 and out == "" and err.startswith("know: ") and err.count("\n") == 1
    assert BAD[change] in err
    assert not Path("run").exists()


def test_bad_image_folders(know, own):
    (own / "photos").mkdir()
    images = GOOD.replace("--dataset factories:Samples", "--images photos --image-size 8")
    code, _, err = know(images)
    assert code == 1 and "--images photos: Couldn't find any class folder" in err and err.count("\n") == 1
    (own / "photos" / "cat").mkdir()
    code, _, err = know(images)
    assert code == 1 and "cat" in err and err.count("\n") == 1
    image_folder(own / "photos2", 16, 3)
    (own / "photos2" / "class_1" / "00.png").write_bytes(b"not an image")
    code, _, err = know(images.replace("photos", "photos2"))
    assert code == 1 and "00.png: not a readable image" in err and err.count("\n") == 1
    code, _, err = know(images.replace("photos", "nowhere"))
    assert code == 1 and "--images nowhere:" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        "forget --lr 0.1",
        "forget --model factories:Net",
        "forget --model factories:Net --checkpoint theta_0.pt --out run",
        f"{GOOD} --images photos",
        f"{GOOD} --params params.yaml",
        f"{GOOD} --image-size 32",
        f"{GOOD} --mode sideways",
        f"{GOOD} --optimizer factories:no_optimizer --lr 0.1",
        f"{GOOD} --speed 3",
    ],
)
def test_wrong_usage(know, arguments):
    code, _, err = know(arguments)
    assert code == 2 and "Usage" in err


def test_without_a_model_it_is_the_experiment_s_stage(know, monkeypatch):
    from know.stages import forget

    ran = []
    monkeypatch.setattr(forget, "run", ran.append)
    code, _, _ = know(f"forget --params {paths.PARAMS}")
    assert code == 0 and len(ran) == 1 and ran[0].history_length == 5


def test_verdict():
    right = torch.ones(200, dtype=torch.float64)
    forgotten = right.clone()
    forgotten[150:] = 0
    theta_0 = custom.Measured(0, 200, right)
    observed, text = custom.verdict(theta_0, custom.Measured(4, 50, forgotten))
    assert observed and "on the 150 images dropped, accuracy goes from 100.0 % to 66.7 %" in text
    for same_or_better in (right, forgotten):
        observed, text = custom.verdict(custom.Measured(0, 200, forgotten), custom.Measured(4, 50, same_or_better))
        assert not observed and text.startswith("WARNING") and "Had Θ_0 converged?" in text
    one = right.clone()
    one[199] = 0  # one image in 150 is within the interval
    assert not custom.verdict(theta_0, custom.Measured(4, 50, one))[0]
    assert str(custom.Measured(4, 50, forgotten)) == (
        "Θ_4  50 of 200 images, accuracy 100.0 % on them, 66.7 % on those dropped"
    )


def test_verdict_on_a_loss():
    """Θ_4 holds 8 of 20 samples; batches are of 4, 4, 6 and 6, and a mean counts samples."""
    sizes, before = torch.tensor([4, 4, 6, 6]), torch.tensor([1.0, 2, 1, 1], dtype=torch.float64)
    rises, mixed = (torch.tensor(values, dtype=torch.float64) for values in ([1, 2, 2.0, 2.01], [0, 0, 0.5, 1.6]))
    theta_0 = custom.Measured(0, 20, before, sizes)
    assert str(theta_0) == "Θ_0  20 of 20 samples, loss 1.2 on them"
    assert custom.verdict(theta_0, custom.Measured(4, 8, rises, sizes)) == (
        True, "Forgetting observed: on the 12 samples dropped, the loss goes from 1 to 2.005.",
    )  # fmt: skip
    assert not custom.verdict(theta_0, custom.Measured(4, 8, mixed, sizes))[0]


def test_models_that_lack_copies_of_tied_tensors_or_are_wrapped_fit():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.out = nn.Embedding(5, 3), nn.Linear(3, 5)
            self.out.weight = self.embedding.weight

    a, b = Tied(), Tied()
    state = {f"_orig_mod.{name}": tensor for name, tensor in a.state_dict().items() if name != "out.weight"}
    load_weights(nn.DataParallel(b), state, "file")
    assert torch.equal(b.out.weight, a.embedding.weight) and b.out.weight is b.embedding.weight


def test_parts_of_a_data_set_come_in_order_or_shuffled(own):
    samples = custom.made_by("factories:Samples", "--dataset")
    part = DatasetPart(samples, torch.tensor([5, 3, 40, 7, 9]), torch.device("cpu"))
    assert [len(labels) for _, labels in part.batches(2)] == [2, 2, 1]
    inputs = torch.cat([x for x, _ in part.batches(2)])
    assert torch.equal(inputs, samples.inputs[part.index])
    generator = torch.Generator().manual_seed(1)
    shuffled = torch.cat([x for x, _ in part.batches(3, generator)])
    assert not torch.equal(shuffled, inputs)
    assert torch.equal(shuffled.sum((1, 2, 3)).sort().values, inputs.sum((1, 2, 3)).sort().values)


def test_frozen_parameters_stay_frozen(own):
    from know.training.loop import Recipe, fit

    net = custom.model_from("factories:Net", 0)
    net.conv.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    samples = custom.made_by("factories:Samples", "--dataset")
    fit(net, DatasetPart(samples, torch.arange(48), torch.device("cpu")), Recipe(1, 16, 1e-2), 0)
    assert torch.equal(net.conv.weight, before["conv.weight"]) and not net.conv.weight.requires_grad
    assert not torch.equal(net.head.weight, before["head.weight"]) and net.head.weight.requires_grad
