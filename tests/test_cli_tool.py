"""``know predict`` with what people have: marked runs, training states, folders and shards, controls, recipes."""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import know
from know.cli import main
from know.cli.prediction import spread
from know.prediction.known import HyperModel, load_hypermodel, save_hypermodel
from know.prediction.provenance import digest_of_file
from know.weights.files import load_state, save_state
from know.weights.marks import Mark, digest_of


@dataclass(frozen=True)
class Ended:
    code: int
    stdout: str
    stderr: str


@pytest.fixture
def run(monkeypatch, capsys) -> Callable[..., Ended]:
    def call(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["know", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
            raise SystemExit(0)
        return Ended(ended.value.code, *capsys.readouterr())

    return call


def weights(k: int) -> dict[str, torch.Tensor]:
    """Θ_k of a path that comes nearer to Θ_0 with each step."""
    generator = torch.Generator().manual_seed(1)
    start, way = (
        {"body.weight": torch.randn(8, 4, generator=generator), "head.bias": torch.randn(5, generator=generator)}
        for _ in range(2)
    )
    state = {name: start[name] + 0.1 * k * way[name] for name in start}
    return state | {"bn.num_batches_tracked": torch.tensor(k)}


def marked(folder: Path, k: int, run: str = "a", name: str | None = None) -> Path:
    path = folder / (name or f"theta_{k}.safetensors")
    save_state(weights(k), path, Mark(run, k, 5, 0.5, digest_of(weights(k))).metadata())
    return path


@pytest.fixture
def files(tmp_path) -> list[Path]:
    """Five files without marks, oldest first."""
    for k in range(5):
        save_file(weights(k), tmp_path / f"{k}.safetensors")
    return [tmp_path / f"{k}.safetensors" for k in reversed(range(5))]


TRAJECTORY = [weights(k) for k in reversed(range(5))]
LINEAR = know.retrodict(TRAJECTORY, know.predictor("linear"), 3)


def assert_close(path: Path, state: dict[str, torch.Tensor]) -> None:
    found = load_file(path)
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        torch.testing.assert_close(found[name], tensor)


# --- order ----------------------------------------------------------------------------------------------------------


def test_marked_checkpoints_are_put_in_order(run, tmp_path):
    paths = [marked(tmp_path, k) for k in range(5)]  # as a glob gives them
    ended = run("predict", *paths, "--out", tmp_path / "out.safetensors", "--method", "linear")
    assert ended.code == 0 and ended.stderr.startswith(
        "put in order, most forgotten first: theta_4.safetensors theta_3"
    )
    assert_close(tmp_path / "out.safetensors", LINEAR[0])


def test_the_folder_of_a_run_is_a_trajectory(run, tmp_path):
    (tmp_path / "run").mkdir()
    for k in range(5):
        marked(tmp_path / "run", k)
    (tmp_path / "run" / "forget.json").write_text("{}")
    ended = run("predict", tmp_path / "run", "--out", tmp_path / "out.safetensors", "--method", "linear")
    assert (ended.code, ended.stderr) == (0, "")
    assert_close(tmp_path / "out.safetensors", LINEAR[0])


def test_checkpoints_that_are_no_trajectory_are_refused(run, tmp_path):
    first, second = marked(tmp_path, 1), marked(tmp_path, 0)
    out = ["--out", tmp_path / "out.safetensors", "--method", "linear"]
    for given_, message in (
        ([marked(tmp_path, 2, "b"), first, second], "of another forgetting run than"),
        ([marked(tmp_path, 1, name="copy.safetensors"), first, second], "is there twice, as another file"),
        ([marked(tmp_path, 4), first, second], "Θ_2 is missing"),
        ([second, second], "given twice"),
    ):
        ended = run("predict", *given_, *out)
        assert ended.code == 1 and message in ended.stderr
    assert not (tmp_path / "out.safetensors").exists()


def test_an_order_that_cannot_be_is_warned_of(run, files, tmp_path):
    out = ["--out", tmp_path / "out.safetensors", "--force", "--method", "linear"]
    assert "WARNING" not in run("predict", *files, *out).stderr
    mixed = run("predict", files[0], files[2], files[1], *files[3:], *out)
    assert mixed.code == 0 and "WARNING: the distance to Θ_0 does not shrink" in mixed.stderr
    for k in range(5):
        save_file(weights(k), tmp_path / f"theta_{k}.safetensors")
    by_glob = run("predict", *sorted(tmp_path.glob("theta_*")), *out)
    assert by_glob.code == 0 and "wrong way round: theta_0 is the newest" in by_glob.stderr


# --- what fits ------------------------------------------------------------------------------------------------------


def test_a_hyper_model_is_for_methods_that_have_one_of_their_scale(run, files, tmp_path):
    out = ["--out", tmp_path / "out.safetensors"]
    ended = run("predict", *files, *out, "--method", "wnn")
    assert ended.code == 2 and "--hypermodel" in ended.stderr and "scale wnn" in ended.stderr
    ended = run("predict", *files, *out, "--method", "wnn", "--hypermodel", "default")
    assert ended.code == 1 and "of scale none; wnn needs one of scale wnn" in ended.stderr
    ended = run("predict", *files, *out, "--method", "linear", "--hypermodel", "default")
    assert ended.code == 2 and "linear has no hyper-model" in ended.stderr
    save_hypermodel(HyperModel(5, scale="wnn"), tmp_path / "hyper")
    ended = run("predict", *files, *out, "--method", "wnn", "--hypermodel", tmp_path / "hyper")
    assert ended.code == 0
    assert_close(tmp_path / "out.safetensors", know.retrodict(TRAJECTORY, load_hypermodel(tmp_path / "hyper"))[0])
    ended = run("meta-train", "--scale", "wnn")
    assert ended.code == 2 and "--scale goes with --data" in ended.stderr


def test_options_are_held_to_the_number_of_checkpoints(run, files, tmp_path):
    out = ["--out", tmp_path / "out.safetensors"]
    ended = run("predict", *files, *out, "--method", "average", "--option", "last=9")
    assert ended.code == 1 and "average needs 9 checkpoints" in ended.stderr
    ended = run("predict", *files[-2:], *out, "--method", "exponential")
    assert ended.code == 1 and "exponential needs 3 checkpoints" in ended.stderr


def test_what_exists_is_replaced_only_when_forced_and_an_input_never(run, files, tmp_path):
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"precious")
    ended = run("predict", *files, "--out", out, "--method", "linear")
    assert ended.code == 1 and "exists; --force replaces it" in ended.stderr and out.read_bytes() == b"precious"
    for over in (files[0], tmp_path / "." / files[-1].name):
        ended = run("predict", *files, "--out", over, "--force", "--method", "linear")
        assert ended.code == 1 and "would be written over the checkpoint" in ended.stderr
    assert run("predict", *files, "--out", out, "--force", "--method", "linear").code == 0
    assert_close(out, LINEAR[0])
    ended = run("predict", *files, "--out", tmp_path / "out.pt", "--method", "linear")
    assert ended.code == 2 and "only safetensors are written" in re.sub(r"[│\s]+", " ", ended.stderr)


# --- training states, folders ---------------------------------------------------------------------------------------


def test_training_states_with_key_and_prefix(run, tmp_path):
    for k in range(5):
        state = {f"model.{name}": tensor for name, tensor in weights(k).items()}
        torch.save({"state_dict": state, "state_dict_ema": state, "epoch": k}, tmp_path / f"{k}.ckpt")
    paths = [tmp_path / f"{k}.ckpt" for k in reversed(range(5))]
    given_ = ["predict", *paths, "--out", tmp_path / "out.safetensors", "--method", "linear"]
    ended = run(*given_)
    assert ended.code == 1 and "state_dict (3 tensors), state_dict_ema (3 tensors): choose with --key" in ended.stderr
    assert run(*given_, "--key", "state_dict_ema", "--strip-prefix", "model.").code == 0
    assert_close(tmp_path / "out.safetensors", LINEAR[0])


def sharded(folder: Path, k: int) -> Path:
    """As transformers' trainer lays out a checkpoint."""
    folder.mkdir()
    shards: dict[str, dict] = {}
    places = {}
    for number, (name, tensor) in enumerate(weights(k).items(), start=1):
        shards[places.setdefault(name, f"model-{number:05}-of-00003.safetensors")] = {name: tensor}
    for shard, state in shards.items():
        save_file(state, folder / shard, {"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in ("config.json", "tokenizer.json", "trainer_state.json", "optimizer.pt", "merges.txt"):
        (folder / name).write_text(f"{{}}{k}")
    return folder


@pytest.fixture
def folders(tmp_path) -> list[Path]:
    return [sharded(tmp_path / f"checkpoint-{100 * (5 - k)}", k) for k in reversed(range(5))]


def test_sharded_folders_in_and_out(run, folders, tmp_path):
    out = tmp_path / "better"
    given_ = ["predict", *folders, "--out", out, "--method", "linear"]
    assert run(*given_).code == 0
    assert {path.name for path in out.iterdir()} == {"model.safetensors", "config.json", "tokenizer.json", "merges.txt"}
    assert (out / "config.json").read_text() == "{}0"
    assert_close(out / "model.safetensors", LINEAR[0])
    assert run(*given_, "--force", "--shard-size", "100B").code == 0
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.numel() * t.itemsize for t in LINEAR[0].values())
    assert sorted(set(index["weight_map"].values())) == [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for name, shard in index["weight_map"].items():
        torch.testing.assert_close(load_file(out / shard)[name], LINEAR[0][name])
    assert load_state(out).keys() == LINEAR[0].keys()
    assert run("predict", *folders, "--out", tmp_path / "one.safetensors", "--method", "linear").code == 0
    assert_close(tmp_path / "one.safetensors", LINEAR[0])


def test_damaged_and_other_folders_are_refused(run, folders, tmp_path):
    out, method = tmp_path / "better", ["--method", "linear"]
    index = folders[0] / "model.safetensors.index.json"
    whole = index.read_text()
    for text, message in (
        ("{", "not an index of shards"),
        (whole.replace("model-00001-of", "../x-of"), "must name files of the folder"),
        (whole.replace("head.bias", "head.gain"), "the index does not say|the index says is there"),
        (whole.replace("model-00001-of-00003", "model-9"), "model-9.safetensors: no such file"),
    ):
        index.write_text(text)
        ended = run("predict", *folders, "--out", out, *method)
        assert ended.code == 1 and re.search(message, ended.stderr), ended.stderr
    index.write_text(whole)
    out.mkdir()
    (out / "thesis.tex").write_text("precious")
    ended = run("predict", *folders, "--out", out, "--force", *method)
    assert ended.code == 1 and "something else than weights" in ended.stderr and (out / "thesis.tex").exists()


# --- what is computed -----------------------------------------------------------------------------------------------


def test_a_head_of_other_shape_is_copied(run, files, tmp_path):
    save_file(weights(4) | {"head.bias": torch.zeros(9)}, files[0])
    given_ = ["predict", *files, "--out", tmp_path / "out.safetensors", "--method", "linear"]
    ended = run(*given_)
    assert ended.code == 1 and "--kind 'head.bias=buffer'" in ended.stderr
    assert run(*given_, "--kind", "head.*=buffer").code == 0
    assert_close(tmp_path / "out.safetensors", LINEAR[0] | {"head.bias": weights(0)["head.bias"]})


def test_a_dry_run_prints_each_tensor_and_writes_nothing(run, files, tmp_path):
    before = sorted(tmp_path.iterdir())
    ended = run("predict", *files, "--out", tmp_path / "out.safetensors", "--method", "linear", "--dry-run")
    assert ended.code == 0 and sorted(tmp_path.iterdir()) == before
    rows = {line.split()[0]: line for line in ended.stdout.splitlines()}
    body, step = weights(0)["body.weight"].double(), weights(1)["body.weight"].double()
    assert rows["body.weight"].split()[1:3] == ["fc", "float32"] and rows["body.weight"].endswith("(8, 4)")
    assert float(rows["body.weight"].split()[3]) == pytest.approx(((body - step).norm() / body.norm()).item(), rel=0.01)
    assert rows["bn.num_batches_tracked"].split()[1] == "buffer"
    assert re.search(r"writes .* MB a step; memory .* MB", ended.stdout) and "time: about" in ended.stdout


@given(st.lists(st.sampled_from(["--steps", "1", "2", "30", "a.pt", "--out"])))
def test_steps_may_be_several_in_a_row(words):
    expected = []
    for place, word in enumerate(words):
        before = [earlier for earlier in words[:place] if not earlier.isdecimal()]
        if word.isdecimal() and before[-1:] == ["--steps"]:
            expected += ["--steps", word]
        elif word != "--steps" or not "".join(words[place + 1 : place + 2]).isdecimal():
            expected.append(word)
    assert spread(words) == expected


def test_several_steps_and_a_factor(run, files, tmp_path):
    out = tmp_path / "out.safetensors"
    ended = run("predict", *files, "--out", out, "--method", "linear", "--steps", "1", "3", "--scale", "0.5")
    assert ended.stdout == f"{tmp_path / 'out-1.safetensors'}\n{tmp_path / 'out-3.safetensors'}\n"
    for step in (1, 3):
        halved = {n: t if not t.is_floating_point() else (t + weights(0)[n]) / 2 for n, t in LINEAR[step - 1].items()}
        assert_close(tmp_path / f"out-{step}.safetensors", halved)
    given_ = ["predict", *files, "--out", out, "--method", "linear"]
    assert run(*given_, "--scale", "2", "--scale", "head.*=0").code == 0
    assert torch.equal(load_file(out)["head.bias"], weights(0)["head.bias"])
    twice = 2 * LINEAR[0]["body.weight"] - weights(0)["body.weight"]
    torch.testing.assert_close(load_file(out)["body.weight"], twice)
    ended = run(*given_, "--force", "--scale", "neck.*=2")
    assert ended.code == 1 and "scale of 'neck.*': no tensor" in ended.stderr


def test_controls(run, files, tmp_path):
    out = tmp_path / "out.safetensors"
    given_ = ["predict", *files, "--out", out, "--force", "--method", "linear"]
    assert run(*given_, "--control", "shrink", "--shrink", "0.8").code == 0
    torch.testing.assert_close(load_file(out)["body.weight"], 0.8 * weights(0)["body.weight"])
    assert run(*given_, "--control", "flipped", "--dtype", "float64").code == 0
    flipped = 2 * weights(0)["body.weight"] - LINEAR[0]["body.weight"]
    torch.testing.assert_close(load_file(out)["body.weight"], flipped.double(), check_dtype=False)
    assert load_file(out)["body.weight"].dtype == torch.float64
    noisy = ["--control", "shrink_perturb", "--shrink", "0.8", "--perturb", "0.1"]
    ended = run(*given_, *noisy)
    assert ended.code == 1 and "freshly initialised" in ended.stderr
    assert run(*given_, *noisy, "--fresh", files[0]).code == 0
    mixed = 0.8 * weights(0)["body.weight"] + 0.1 * weights(4)["body.weight"]
    torch.testing.assert_close(load_file(out)["body.weight"], mixed)
    assert run(*given_, "--control", "magic").code == 2
    assert run(*given_, "--shrink", "0.8").code == 2


def test_the_same_in_python():
    (start,) = know.control("flipped")(TRAJECTORY, know.predictor("linear"))
    expected = 2 * weights(0)["head.bias"] - LINEAR[0]["head.bias"]
    torch.testing.assert_close(start["head.bias"], expected)
    assert "flipped" in know.controls.CONTROLS and "linear" in know.predictors.PREDICTORS
    assert know.__version__ and all(getattr(know, name) for name in know.__all__)


def test_a_method_of_an_installed_package(run, files, tmp_path, monkeypatch):
    """By an entry point, as ``pip install`` registers it."""
    package = tmp_path / "site"
    (package / "mine-1.0.dist-info").mkdir(parents=True)
    (package / "mine-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (package / "mine-1.0.dist-info" / "entry_points.txt").write_text("[know.method]\nstill = mine_still:Still\n")
    (package / "mine_still.py").write_text(
        "from know.prediction.predictors import PathPredictor\n\n"
        "class Still(PathPredictor):\n"
        "    factor: float = 1.0\n\n"
        "    def __call__(self, window, kind):\n"
        "        return self.factor * window[..., -1]\n"
    )
    monkeypatch.syspath_prepend(package)
    out = tmp_path / "out.safetensors"
    assert run("predict", *files, "--out", out, "--method", "still", "--option", "factor=3").code == 0
    torch.testing.assert_close(load_file(out)["head.bias"], 3 * weights(0)["head.bias"])
    assert know.predictor("still").chosen == "still"
    sys.modules.pop("mine_still")


# --- provenance -----------------------------------------------------------------------------------------------------


def test_where_it_came_from_is_in_the_file_and_on_the_card(run, files, tmp_path):
    out = tmp_path / "out.safetensors"
    save_file(weights(0), files[-1], {"author": "me", "know.k": "0"})
    given_ = ["predict", *files, "--out", out, "--method", "task_vector", "--option", "scale=0.5", "--card"]
    assert run(*given_).code == 0
    with safe_open(out, "pt") as file:
        told = file.metadata()
    assert told["author"] == "me" and "know.k" not in told and told["know.version"] == know.__version__
    assert json.loads(told["know.kinds"])["fc"] == ["body.weight"]
    inputs = json.loads(told["know.inputs"])
    assert [entry["sha256"] for entry in inputs] == [digest_of_file(path) for path in files]
    recipe = json.loads(told["know.recipe"])
    assert recipe["method"] == "task_vector" and recipe["option"] == ["scale=0.5"]
    card = (tmp_path / "out.md").read_text()
    assert inputs[0]["sha256"] in card and "task_vector" in card

    (tmp_path / "recipe.yaml").write_text(re.findall(r"```json\n(.*?)```", card, re.DOTALL)[0])
    before = out.read_bytes()
    assert run("predict", "--recipe", tmp_path / "recipe.yaml", "--force").code == 0
    assert load_file(out).keys() == weights(0).keys() and out.read_bytes() == before


def test_a_recipe_is_printed_read_and_overruled(run, files, tmp_path):
    call = ["predict", *files, "--out", tmp_path / "out.safetensors", "--method", "linear", "--kind", "head.*=buffer"]
    printed = run(*call, "--print-recipe")
    assert printed.code == 0 and not (tmp_path / "out.safetensors").exists()
    recipe = YAML(typ="safe").load(printed.stdout)
    assert recipe["kind"] == ["head.*=buffer"] and recipe["method"] == "linear"
    (tmp_path / "recipe.yaml").write_text(printed.stdout)
    other = tmp_path / "other.safetensors"
    assert run("predict", "--recipe", tmp_path / "recipe.yaml", "--out", other).code == 0
    assert_close(other, LINEAR[0] | {"head.bias": weights(0)["head.bias"]})
    (tmp_path / "recipe.yaml").write_text("metod: linear\n")
    ended = run("predict", "--recipe", tmp_path / "recipe.yaml", "--out", other)
    assert ended.code == 1 and "unknown key 'metod'" in ended.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: [", "not YAML"),
        ("- linear", "expected keys with values"),
        ("method: linear\nmethod: log", "duplicate key"),
        ("method: " + "[" * 50, "not YAML"),
        ("a: &a [1, *a]", "contains itself"),
        ("a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)), "declares"),
    ],
)  # fmt: skip
def test_recipes_are_read_as_guardedly_as_parameters(run, files, tmp_path, text, message):
    (tmp_path / "recipe.yaml").write_text(text)
    ended = run("predict", "--recipe", tmp_path / "recipe.yaml", *files, "--out", tmp_path / "out.safetensors")
    assert ended.code == 1 and ended.stderr.startswith(f"know: {tmp_path / 'recipe.yaml'}: ")
    assert message in ended.stderr and ended.stderr.count("\n") == 1


def test_the_hyper_model_s_digest_is_told(run, files, tmp_path):
    save_hypermodel(HyperModel(5), tmp_path / "hyper")
    out = tmp_path / "out.safetensors"
    assert run("predict", *files, "--out", out, "--hypermodel", tmp_path / "hyper").code == 0
    with safe_open(out, "pt") as file:
        first = json.loads(file.metadata()["know.hypermodel"])["weights"]
    save_hypermodel(HyperModel(5), tmp_path / "hyper")
    assert run("predict", *files, "--out", out, "--force", "--hypermodel", tmp_path / "hyper").code == 0
    with safe_open(out, "pt") as file:
        assert json.loads(file.metadata()["know.hypermodel"])["weights"] != first


def test_version(run):
    ended = run("--version")
    assert (ended.code, ended.stdout) == (0, f"know {know.__version__}\n")
