"""Where a prediction came from, for the metadata of what is written and for a model card."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from know.prediction.known import HyperModel
from know.run.version import version
from know.weights.folders import shards_of
from know.weights.kinds import TensorKind
from know.weights.marks import PREFIX, digest_of


def digest_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def provenance(
    files: Sequence[Path],
    call: Mapping[str, Any],
    kinds: Mapping[str, TensorKind],
    hypermodel: tuple[str, HyperModel] | None = None,
) -> dict[str, str]:
    """What the metadata of a prediction say: texts by their keys, of which all but the version are JSON.

    Args:
        files: the checkpoints, oldest first; each of their files is read once, for its SHA-256.
        call: the recipe that makes the prediction again.
        kinds: of each tensor.
        hypermodel: its name or folder and itself, if there is one.
    """
    parts = [(path, part) for path in files for part in (shards_of(path)[0] if path.is_dir() else [path])]
    with ThreadPoolExecutor(2) as pool:  # hashing lets go of Python's lock
        digests = list(pool.map(digest_of_file, [part for _, part in parts]))
    inputs = [{"file": str(part), "sha256": digest} for (_, part), digest in zip(parts, digests, strict=True)]
    by_kind: dict[str, list[str]] = {}
    for name, kind in kinds.items():
        by_kind.setdefault(kind, []).append(name)
    told: dict[str, Any] = {"recipe": dict(call), "inputs": inputs, "kinds": by_kind}
    if hypermodel:
        name, model = hypermodel
        told["hypermodel"] = {"name": name, "weights": digest_of(model.state_dict())}
    return {PREFIX + "version": version()} | {
        PREFIX + key: json.dumps(value, sort_keys=True) for key, value in told.items()
    }


CARD = """\
---
library_name: know
tags:
- weight-prediction
---

# {title}

Weights that were predicted, not trained: one step past the newest of {count} checkpoints of one model, by retrodiction of
forgetting ([arXiv 2508.05059](https://arxiv.org/abs/2508.05059)). Whether they are better than the newest checkpoint is not
known; compare both on your own validation data.

- made by: know {version}, method `{method}`
{hypermodel}- tensors: {kinds}

| checkpoint, oldest first | SHA-256 |
|---|---|
{inputs}

To make them again, write this into a file and run `know predict --recipe FILE`:

```json
{recipe}
```
"""


def card(title: str, told: Mapping[str, str]) -> str:
    """A model card, in Markdown, of what ``provenance`` told."""
    recipe, inputs, kinds = (json.loads(told[PREFIX + key]) for key in ("recipe", "inputs", "kinds"))
    hypermodel = json.loads(told.get(PREFIX + "hypermodel", "null"))
    return CARD.format(
        title=title,
        count=len(inputs),
        version=told[PREFIX + "version"],
        method=recipe["method"],
        hypermodel=f"- hyper-model: `{hypermodel['name']}`, its weights' digest {hypermodel['weights']}\n"
        if hypermodel
        else "",
        kinds=", ".join(f"{len(names)} {kind}" for kind, names in kinds.items()),
        inputs="\n".join(f"| {entry['file']} | {entry['sha256']} |" for entry in inputs),
        recipe=json.dumps(recipe, indent=2, ensure_ascii=False),
    )
