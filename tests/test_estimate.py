"""What is said before a stage begins: how many runs, images and hours."""

from pathlib import Path

import pytest
import torch
from conftest import MICRO, write_params
from layouts import write

from know import params as know_params
from know import paths
from know.data import images
from know.data.decoding import ImageError
from know.stages import __main__, estimate
from know.stages.evaluate import SCRATCH, treated

STATE = {"features.weight": torch.ones(2, 2)}
NETWORK = estimate.Network("cnn", 1, 16, 10, 32, "none")


def loaded(tmp_path: Path, **changes: dict) -> know_params.Params:
    write_params(tmp_path / "params.yaml", MICRO)
    write_params(tmp_path / "params.yaml", changes, tmp_path / "params.yaml")
    return know_params.load(tmp_path / "params.yaml")


def test_counts_by_hand(micro):
    """Two seeds, |D_0| = 192 with D_{-1} = 384 and 96 beside, S = 5, an epoch on each subset."""
    forget = {work.what: work for work in estimate.works(micro)["forget"]}
    smaller = 96 + 48 + 24 + 12
    assert forget["training, at most"].runs == 6 and forget["training, at most"].images == 2 * 3 * (384 + 192 + 96)
    assert forget["forgetting"].runs == 4 and forget["forgetting"].images == 4 * smaller + 2 * 192
    assert forget["as long, on all of D_0"].images == 2 * smaller
    assert forget["training on"].images == 2 * 192
    assert sum(work.runs for work in estimate.works(micro)["meta_train"]) == 6


def test_what_is_measured_counts_by_hand(micro):
    """60 validation images, and 500 test images of five digits, and as many of the other five."""
    forget = {work.what: work for work in estimate.works(micro)["forget"]}
    each = 500 + 60 + 192  # at every weight; D_k and the rest of D_0 are D_0
    assert forget["training, at most"].looked_at == 6 * 3 * 60
    assert forget["forgetting"].looked_at == 4 * 5 * each + 2 * (500 + 60 + 384)
    assert forget["as long, on all of D_0"].looked_at == 2 * 5 * each
    assert forget["training on"].looked_at == 0
    predict, again, landscape = estimate.works(micro)["predict"]
    starts = estimate.planned_starts(micro, {384, 192, 96}, STATE)
    shown = [start for start in starts if start.method in ("theta", "trained") or start.crossed]
    assert len(shown) < len(starts) and {start.batchnorm for start in starts} == {"re-estimate", "reset"}
    anew = [start for start in starts if start.batchnorm == "re-estimate"]
    assert predict.images == 0 and predict.looked_at + again.looked_at == 2 * (
        len(anew) * 192 + (len(starts) - len(shown)) * 500
    )
    assert again.images == 0 and again.looked_at == 2 * len(anew) * 192
    assert landscape.runs == 1 and landscape.looked_at == (21 * 21 + 5) * 60
    tuned, curves = estimate.works(micro)["evaluate"]
    assert tuned.looked_at == tuned.runs * (60 + 500)
    assert curves.looked_at == curves.runs * 60 * (1 + micro.evaluate.fine_tuning.epochs)


def test_a_net_without_batchnorm_has_none_to_re_estimate(tmp_path):
    _, again, _ = estimate.works(loaded(tmp_path, forget={"architecture": "cnn"}))["predict"]
    assert again.runs == again.looked_at == 0


def test_images_that_stay_in_files_are_read_and_those_that_are_not_there_are_no_error(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RAW", tmp_path)
    monkeypatch.setattr(images, "IN_MEMORY", 0)
    monkeypatch.setattr(estimate, "PROBE", 0.0)
    write("cub", tmp_path / "cub", 3, 40)
    classes = {"source_classes": [0, 1], "downstream_classes": [0, 1]}
    sizes = {"image_size": 16, "source_images": 40, "validation_images": 8, "headroom_images": []}
    params = loaded(tmp_path, downsize={"dataset": "cub", "downstream_dataset": "stanford-cars"} | classes | sizes)
    works = estimate.works(params)
    source, downstream = works["forget"][0].network, works["evaluate"][0].network
    assert source.files.dataset == "cub" and downstream.files is None
    assert (source.missing, downstream.missing) == ("", "stanford-cars")
    monkeypatch.setattr(estimate, "map_all", lambda function, jobs, *_: [(0.001, 0.001)] * len(jobs))
    missing = "  stanford-cars is not here: without its test images, and without the time to read its files"
    printed = list(estimate.lines(params, __main__.TRAINING))
    assert printed.index(missing) == len(printed) - 2 and printed.count(missing) == 1
    read, whole = [], images.Files.__getitem__
    monkeypatch.setattr(images.Files, "__getitem__", lambda files, i: read.append(i) or whole(files, i))
    assert estimate.seconds_an_image(downstream) and not read
    assert all(seconds > 0 for seconds in estimate.seconds_an_image(source)) and read


def test_of_the_others_only_the_last_step_is_kept(tmp_path):
    every = estimate.planned_starts(loaded(tmp_path), {192}, STATE)
    params = loaded(tmp_path, predict={"kept": "last"}, evaluate={"steps": "last"})
    kept = estimate.planned_starts(params, {192}, STATE)
    dropped = {(start.method, start.steps) for start in every} - {(start.method, start.steps) for start in kept}
    assert dropped == {(name, 1) for name in ("scale_free", "linear", "task_vector", "shrunk", "scale_free_shrunk")}
    run = [[one.start for one in treated(params, [SCRATCH, *starts])] for starts in (every, kept)]
    assert run[0] == run[1], "what is not kept is not fine-tuned"
    with pytest.raises(know_params.ParamError, match=r"predict\.kept: got last; allowed: all"):
        loaded(tmp_path, predict={"kept": "last"})


def test_a_long_stage_is_announced_and_no_other(micro, monkeypatch):
    monkeypatch.setattr(estimate, "map_all", lambda function, jobs, *_: [(0.001, 0.001)] * len(jobs))
    assert estimate.announced(micro, "forget") == [] == estimate.announced(micro, "report")
    monkeypatch.setattr(estimate, "LONG", 1000)
    first, *parts = estimate.announced(micro, "forget")
    assert first.startswith("forget: about 0.0 h in 1 process on ") and len(parts) == 4
    assert parts[0] == "  training, at most: 6 runs, 0.0 M images of cnn-bn, 0.0 h"


def test_the_networks_own_time_is_measured(micro, monkeypatch, capsys):
    monkeypatch.setattr(estimate, "PROBE", 0.0)
    monkeypatch.setattr(__main__.params, "load", lambda: micro)
    monkeypatch.setattr("sys.argv", ["know.stages", "--estimate"])
    assert __main__.main() == 0
    printed = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in printed if not line.startswith(" ")] == [*__main__.TRAINING, "in all"]


def test_an_image_s_time_is_measured_in_as_many_processes_as_will_run(micro, monkeypatch):
    asked = []
    monkeypatch.setattr(
        estimate,
        "map_all",
        lambda function, jobs, *_: asked.append(len(jobs)) or [(0.001, 0.0005), (0.003, 0.0015)][: len(jobs)],
    )

    def hours(jobs: int) -> float:
        compute = micro.compute.model_copy(update={"jobs": jobs, "device": "cpu"})
        *_, last = estimate.lines(micro.model_copy(update={"compute": compute}), __main__.TRAINING)
        return float(last.split()[3])

    work = estimate.Work("training", 2, 1.8e9, NETWORK, looked_at=3.6e9)
    monkeypatch.setattr(estimate, "works", lambda params: {"forget": [work]})
    assert (hours(1), hours(2)) == (1000.0, 1000.0) and asked == [1, 2]


def test_a_process_s_first_step_is_no_part_of_an_image_s_time(monkeypatch):
    """It loads a compiler, or starts a GPU: seconds, which would count as those of a few images."""
    now, begun = 0.0, set()

    def taking(seconds):
        def work(net, data, *_, **__):
            nonlocal now
            now += seconds * len(data) + (0 if seconds in begun else 5)
            begun.add(seconds)

        return work

    monkeypatch.setattr(estimate, "fit", taking(0.001))
    monkeypatch.setattr(estimate, "measure", taking(0.0004))
    monkeypatch.setattr(estimate.time, "perf_counter", lambda: now)
    assert estimate.seconds_an_image(NETWORK) == pytest.approx((0.001, 0.0004))


def test_each_task_s_images_have_their_own_side(tmp_path, monkeypatch):
    """Also of a data set that is not here."""
    monkeypatch.setattr(paths, "RAW", tmp_path)
    write("tiny-imagenet", tmp_path / "tiny-imagenet", 2, 40)
    own = {
        "dataset": "tiny-imagenet",
        "downstream_dataset": "cub",
        "source_classes": [0, 1],
        "downstream_classes": [0, 1],
    }
    sizes = {"source_images": 40, "validation_images": 8, "headroom_images": [], "image_size": None}
    works = estimate.works(loaded(tmp_path, downsize=own | sizes))
    assert (works["forget"][0].network.side, works["evaluate"][0].network.side) == (64, 224)


def test_a_damaged_image_is_named_in_a_line(micro, monkeypatch, capsys):
    def damaged(*_):
        raise ImageError("bird.jpg: not a readable image")

    monkeypatch.setattr(estimate, "map_all", damaged)
    monkeypatch.setattr(__main__.params, "load", lambda: micro)
    monkeypatch.setattr("sys.argv", ["know.stages", "--estimate"])
    assert __main__.main() == 1 and capsys.readouterr().err == "bird.jpg: not a readable image\n"
