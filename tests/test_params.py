import subprocess
import sys
import time

import pytest
from conftest import write_params

from know import params as P
from know.models.build import build
from know.models.names import ARCHITECTURES
from know.prediction.known import HyperModel, save_hypermodel
from know.stages.checks import check_hypermodels

BAD = [
    ({"downsize": {"sourse_images": 5}}, "downsize.sourse_images: unknown key; allowed: dataset, ", "did you mean source_images?"),
    ({"rate": 1.0}, "rate: got 1.0; input should be less than 1", ""),
    ({"rate": 0}, "rate: got 0; input should be greater than 0", ""),
    ({"history_length": 10}, "history_length: got 10, which at rate = 0.5 leaves 0 of downsize.source_images = 125", "allowed:"),
    ({"history_length": 7, "rate": 0.8}, "history_length: got 7; allowed: less than meta_train.runs.subsets = 7", ""),
    ({"forget": {"architecture": "resnt"}}, "forget.architecture: got 'resnt'; allowed: cnn, ", "resnet, "),
    ({"meta_train": {"architectures": ["cnn", "vgg"]}}, "meta_train.architectures.1: got 'vgg'", "densenet"),
    ({"downsize": {"dataset": "svhn"}}, "downsize.dataset: got 'svhn'; allowed: fashion-mnist-embedded", "cifar100"),
    ({"downsize": {"downstream_classes": [0, 3]}}, "downsize.downstream_classes: got [0], which source_classes holds too", ""),
    ({"downsize": {"source_classes": [0]}}, "downsize.source_classes: got [0]; allowed: two classes of", ""),
    ({"downsize": {"source_classes": [0, 12]}}, "downsize.source_classes: got [12]; allowed: classes 0 to 9", ""),
    ({"downsize": {"downstream_dataset": "cifar10"}}, "downsize.downstream_dataset: got cifar10; allowed:", ""),
    ({"downsize": {"meta_share": 0.5}, "meta_train": {"datasets": ["mnist"]}}, "downsize.meta_share: got 0.5, which cannot tell the images of mnist", "allowed: 0"),
    ({"downsize": {"source_seeds": [1, 1]}}, "downsize.source_seeds: got [1, 1]; the entries must differ", ""),
    ({"meta_train": {"runs": {"held_out": 40}}}, "meta_train.runs.held_out: got 40; allowed: less than count", ""),
    ({"meta_train": {"runs": {"lr": [0.1, 0.01]}}}, "meta_train.runs.lr: got [0.1, 0.01]; the first must not exceed", ""),
    ({"predict": {"steps": 0}}, "predict.steps: got 0; input should be greater than or equal to 1", ""),
    ({"predict": {"batchnorm": "maybe"}}, "predict.batchnorm: got 'maybe'; input should be 'copy'", "'re-estimate'"),
    ({"predict": {"methods": ["known", "magic"]}}, "predict.methods.1: got {'method': 'magic'}; input tag 'magic'", "'task_vector'"),
    ({"predict": {"methods": ["known", {"method": "tsv", "rank": 1}]}}, "predict.methods.1.tsv.rank: unknown key; allowed: name, method, direct, ", "rank_share"),
    ({"predict": {"methods": ["linear"]}}, "predict.candidate: got 'known'; allowed: a method without", "steps: linear"),
    ({"predict": {"methods": ["known", {"method": "average", "last": 9, "name": "mean"}]}}, "predict.methods: got mean, which needs a history of 9", "= 5"),
    ({"evaluate": {"tuned": ["nobody"]}}, "evaluate.tuned: got 'nobody'; allowed: naive, more_data, ", ""),
    ({"predict": {"crossed": ["nobody"]}}, "predict.crossed: got 'nobody'; allowed: naive, more_data, ", ""),
    ({"compute": {"jobs": 0}}, "compute.jobs: got 0; input should be 'auto' or greater than or equal to 1", ""),
    ({"predict": {"methods": ["known", {"method": "tsv", "scale": [1, -1]}]}}, "predict.methods.1.tsv.scale: got -1", ""),
    ({"predict": {"methods": ["known", {"method": "linear", "name": "naive"}]}}, "predict.methods: got 'naive'; allowed: each", ""),
    ({"predict": {"methods": ["known", ["linear", "log"]]}}, "predict.methods: got 'linear' among others", "of one name"),
    ({"predict": {"controls": [{"control": "shrink_perturb", "of": "wnn", "shrink": 1, "perturb": 0.1}]}}, "predict.controls: got shrink_perturb of 'wnn'; allowed: of naive", "linear"),
    ({"meta_train": {"variants": ["wnn"]}, "predict": {"methods": ["known", {"method": "known", "variant": "path", "name": "scale_free"}]}}, "predict.methods: got scale_free, of the variant 'path'; allowed: those in", "['wnn']"),
    ({"predict": {"methods": ["known", "linear", "linear"]}}, "predict.methods: got 'linear'; allowed: each name once", ""),
    ({"predict": {"controls": ["shrink_perturb"]}}, "predict.controls.0.shrink_perturb.shrink: missing; it must be given", ""),
    ({"evaluate": {"fractions": [0.01]}}, "evaluate.fractions: got 0.01, which leaves 0 of 25 labels", "allowed:"),
    ({"downsize": {"image_size": "libary"}}, "downsize.image_size: got 'libary'; input should be", "'library'"),
    ({"downsize": {"image_size": "library"}}, "downsize.image_size: got library, with forget.architecture = cnn-bn, which has no size of its own; allowed:", ""),
    ({"downsize": {"image_size": "library"}, "forget": {"architecture": "timm:nosuch"}}, "downsize.image_size: got library, with forget.architecture = timm:nosuch, which cannot be asked: architecture", "timm"),
    ({"predict": {"methods": ["known", {"method": "known", "variant": "wnn", "name": "wnn"}]}}, "predict.methods.1.known.variant: got 'wnn'", "'path'"),
    ({"predict": {"methods": [{"method": "known", "fetch": False}]}}, "predict.methods.0.known.fetch: got false; allowed: true, or hyp", ""),
    ({"compute": {"device": "tpu"}}, "compute.device: got 'tpu'", "auto"),
    ({"evaluate": {"full_draws": 1}}, "evaluate.full_draws: got 1, with 2 downstream_seeds and one share of the labels", "allowed: null, or"),
    ({"evaluate": {"followed": ["naive", "scratch"]}}, "evaluate.followed: got ['naive', 'scratch']", "starts that are held"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "start", "also"), BAD, ids=[bad[1].split(":")[0] for bad in BAD])
def test_bad_parameters_give_one_line(changes, start, also, tmp_path):
    if "sourse_images" in changes.get("downsize", {}):
        text = P.paths.PARAMS.read_text().replace("source_images:", "sourse_images:")
        (tmp_path / "params.yaml").write_text(text)
    else:
        write_params(tmp_path / "params.yaml", changes)
    with pytest.raises(P.ParamError) as error:
        P.load(tmp_path / "params.yaml")
    message = str(error.value)
    assert message.startswith(f"params.yaml: {start}") and also in message and "\n" not in message


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: [", "not YAML"),
        ("{[[1]]: 2}", "not YAML"),
        ("- 1", "expected keys"),
        ("", "expected keys"),
        ("rate: 0.5", "missing"),
    ],
)
def test_files_that_are_no_parameters(text, reason, tmp_path):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(P.ParamError, match=reason):
        P.load(tmp_path / "params.yaml")


def test_missing_file(tmp_path):
    with pytest.raises(P.ParamError, match=r"nowhere\.yaml: No such file"):
        P.load(tmp_path / "nowhere.yaml")


def test_wrong_parameter_is_reported_before_torch_is_loaded(tmp_path):
    write_params(tmp_path / "params.yaml", {"rate": 2})
    code = (
        "import sys; from pathlib import Path; from know.params import load, ParamError\n"
        f"try: load(Path({str(tmp_path / 'params.yaml')!r}))\n"
        "except ParamError as error: print(error, 'torch' in sys.modules)"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "params.yaml: rate: got 2; input should be less than 1 False\n"
    assert time.monotonic() - started < 10


def test_exponents_are_numbers(tmp_path):
    text = P.paths.PARAMS.read_text().replace("lr: 0.004 ", "lr: 4e-4 ")
    (tmp_path / "params.yaml").write_text(text)
    assert P.load(tmp_path / "params.yaml").evaluate.fine_tuning.lr == 4e-4


def test_a_stage_sees_only_what_it_was_given():
    p = P.load()
    some = P.given(P.sections(p, ["rate", "downsize"]))
    assert some.rate == p.rate and some.downsize == p.downsize
    with pytest.raises(P.ParamError, match=r"forget: this stage was not given it"):
        _ = some.forget
    with pytest.raises(P.ParamError, match="unknown section"):
        P.sections(p, ["forgetting"])


def test_names_are_those_implemented():
    assert all(build(name, 1, 2, 0) is not None for name in ARCHITECTURES)


def test_parameters_cannot_be_changed():
    with pytest.raises(Exception, match="frozen"):
        P.load().predict.steps = 5


def test_lists_among_options_are_candidates(tmp_path):
    grid = {"method": "tsv", "rank_share": [0.1, 0.5], "scale": [0.3, 1.0], "direct": True}
    write_params(tmp_path / "params.yaml", {"predict": {"methods": ["known", grid], "controls": []}})
    predict = P.load(tmp_path / "params.yaml").predict
    found = [(one.rank_share, one.scale, one.direct) for one in predict.starts["tsv"]]
    assert found == [(0.1, 0.3, True), (0.1, 1.0, True), (0.5, 0.3, True), (0.5, 1.0, True)]
    assert predict.starts["tsv"][1].stated(predict.starts["tsv"]) == "rank_share=0.1, scale=1.0"
    assert P.given({"predict": predict.model_dump(mode="json")}).predict == predict


def test_parameters_without_known_are_valid(tmp_path):
    changes = {"methods": ["linear", "log"], "candidate": "linear", "controls": ["shrunk"]}
    write_params(tmp_path / "params.yaml", {"predict": changes})
    params = P.load(tmp_path / "params.yaml")
    check_hypermodels(params.predict, params.history_length, "predict")
    assert params.predict.judged == "linear" and list(params.predict.starts) == ["linear", "log", "shrunk"]


@pytest.mark.parametrize(
    ("method", "hypermodel", "reason"),
    [
        ("known", "nowhere", "nowhere: no hyper-model: neither a folder with config.json nor one of those shipped (default, path)"),
        ("known", "of_4", "reads 4 weights, but history_length is 5; allowed: history_length = 4, or a hyper-model of 5"),
        ("known", "wnn", "of scale wnn; known needs one of scale none or path"),
        ("wnn", "path", "of scale path; wnn needs one of scale wnn"),
    ],
)  # fmt: skip
def test_a_hyper_model_that_is_named_is_checked_before_anything_runs(
    method, hypermodel, reason, tmp_path, monkeypatch, run_know
):
    save_hypermodel(HyperModel(4), tmp_path / "of_4")
    save_hypermodel(HyperModel(5, scale="wnn"), tmp_path / "wnn")
    monkeypatch.chdir(tmp_path)
    own = {"method": method, "hypermodel": hypermodel, "name": "mine"}
    write_params(tmp_path / "params.yaml", {"predict": {"methods": ["known", own]}})
    code, out, err = run_know("downsize", "--params", "params.yaml")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("know: predict.methods: mine: ") and reason in err


def test_hyper_models_that_fit_pass(tmp_path):
    save_hypermodel(HyperModel(5, scale="wnn"), tmp_path / "wnn")
    named = [{"method": "known", "hypermodel": name, "name": name} for name in ("default", "path")]
    named.append({"method": "wnn", "hypermodel": str(tmp_path / "wnn")})
    write_params(tmp_path / "params.yaml", {"predict": {"methods": ["known", *named]}})
    check_hypermodels(P.load(tmp_path / "params.yaml").predict, 5, "predict")
