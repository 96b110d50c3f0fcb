"""What can be known to be wrong before anything runs, but only with the images and the hyper-models at hand."""

from __future__ import annotations

import torch

from know.data.catalogue import dataset
from know.data.splits import Task, downstream_parts, downstream_task, draw_split, source_task
from know.models.build import build
from know.models.names import adapted
from know.options import ParamError
from know.params import Params
from know.prediction.options import Predict
from know.prediction.predictors import Known
from know.run.executor import check_processes
from know.training.fine_tuning import labelled, transferred


def check(params: Params) -> None:
    """What every stage will ask of this machine, the data sets and the hyper-models that are named.

    Raises:
        ParamError: one line that names the key, also of a later stage.
    """
    if params.compute.backend == "loky":
        check_processes(params.compute)
    check_sizes(params)
    check_pretrained(params)
    check_transfer(params)
    check_hypermodels(params.predict, params.history_length, "predict")


def check_sizes(params: Params) -> None:
    """Whether the data sets have as many images as every stage will ask of them.

    Raises:
        ParamError: one has not; names the key, also of a later stage.
    """
    cpu, evaluate = torch.device("cpu"), params.evaluate
    draw_split(source_task(params.downsize).pool(cpu).labels, params.downsize, seed=0)
    for task in learned_tasks(params):
        pool, _ = downstream_parts(task, evaluate.validation_images, cpu)
        labelled(pool, evaluate.labels, seed=0)


def learned_tasks(params: Params) -> list[Task]:
    """The downstream task; or, for each domain that is held out, the task without it."""
    task = downstream_task(params.downsize)
    domains = dataset(task.dataset).domains
    return [task.without(domains.index(name)) for name in params.evaluate.held_out] or [task]


def check_pretrained(params: Params) -> None:
    """Whether what ``forget.pretrained`` names can be had, and fits the network.

    Raises:
        ParamError: it cannot or does not; says why.
    """
    if params.forget.pretrained is not None:
        pool = source_task(params.downsize).pool(torch.device("cpu"))
        build(params.forget.architecture, pool.channels, len(pool.outputs), 0, params.forget.pretrained)


def check_transfer(params: Params) -> None:
    """Whether the network for the downstream task takes the body of the one that forgets.

    Raises:
        ParamError: it does not; names a tensor that it lacks or has not.
    """
    architecture, task = params.forget.architecture, downstream_task(params.downsize)
    if adapted(architecture, task.kind) == architecture:
        return
    pool = task.pool(torch.device("cpu"))
    net = build(architecture, pool.channels, len(pool.outputs), seed=0)
    try:
        transferred(architecture, net.state_dict(), pool, 0, kind=task.kind)
    except ParamError:
        raise
    except ValueError as error:
        raise ParamError(
            f"forget.architecture: got {architecture}, which is not all of the encoder of {adapted(architecture, task.kind)} ({error});"
            " allowed: one that is"
        ) from None


def check_hypermodels(predict: Predict, history_length: int, section: str) -> None:
    """Whether the hyper-models that the methods name are there, of a scale that the method reads, and of this history
    length. The authors' may be missing, and is left out then.

    Raises:
        ParamError: one is not; names the ``section``'s key and the method.
    """
    for start, candidates in predict.runnable.items():
        for one in candidates:
            if isinstance(one, Known) and one.hypermodel:
                try:
                    one.check(history_length)
                except ValueError as error:
                    raise ParamError(f"{section}.methods: {start}: {error}") from None
