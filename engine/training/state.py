# SPDX-License-Identifier: GPL-2.0-or-later
"""The unfinished training on disk: one safetensors file beside the output, with JSON in its header and no pickle."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ..checkpoint.header import read_metadata
from ..errors import LacunaError, disk_error
from ..events import Reporter
from ..jobs import FinetuneJob, TrainJob
from ..runtime.unfinished import file_stamp

_KEY = "lacuna_training"


@dataclass
class Progress:
    """How far a training is, after whole epochs.

    Attributes:
        epoch: epochs that are done.
        model: its weights and buffers.
        average: their running average.
        optimizer: the optimiser's tensors by `INDEX.NAME`, in the order of its parameters.
        best: averaged weights and buffers of the best epoch, empty before the first validation.
        best_epoch: that epoch, from 1.
        best_miou: its mean mIoU over the scenarios.
        history: for each epoch its number, mean loss and, where validated, mIoU.
        seconds: time spent so far.
    """

    epoch: int = 0
    model: dict[str, Tensor] = field(default_factory=dict)
    average: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, Tensor] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)
    best_epoch: int = 0
    best_miou: float = -1.0
    history: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0


_GROUPS = ("model", "average", "optimizer", "best")
_NUMBERS = ("epoch", "best_epoch", "best_miou", "history", "seconds")


# Fields of jobs that do not change the weights.
_WITHOUT_EFFECT = ("overwrite", "resume", "output", "report", "keep_best", "plan_only")
# Files that count by what is in them: the panel writes them anew, elsewhere, for every run.
_BY_CONTENT = ("config", "labels", "field", "manifest")


def part_path(output: str) -> str:
    """Return where the unfinished training of `output` lies."""
    return output + ".part"


def training_fingerprint(job: TrainJob | FinetuneJob, texts: Sequence[str], inputs: Sequence[str]) -> str:
    """Return a hash of all that decides the result.

    Args:
        job: the request.
        texts: hashes of what counts by content: manifest, configuration, labels.
        inputs: the files read, which count by size and time.
    """
    request = {key: value for key, value in asdict(job).items() if key not in (*_WITHOUT_EFFECT, *_BY_CONTENT)}
    stats = [file_stamp(path) for path in inputs]
    text = json.dumps([request, list(texts), stats, torch.__version__, sys.platform])
    return hashlib.sha256(text.encode()).hexdigest()


def save_progress(path: str, progress: Progress, mark: str) -> None:
    """Write `progress` to `path`, which is whole or as it was, marked as that of the job with fingerprint `mark`.

    Raises:
        LacunaError: `disk-full`, `not-permitted` or `file-error`.
    """
    tensors = {
        f"{group}/{name}": tensor.detach().cpu().contiguous()
        for group in _GROUPS
        for name, tensor in getattr(progress, group).items()
    }
    numbers = {name: getattr(progress, name) for name in _NUMBERS}
    data = safetensors.torch.save(tensors, {_KEY: json.dumps({"fingerprint": mark, **numbers})})
    new = path + ".new"
    try:
        with open(new, "wb") as stream:
            stream.write(data)
        os.replace(new, path)
    except OSError as problem:
        with contextlib.suppress(OSError):
            os.remove(new)
        raise disk_error(problem, path) from None


def load_progress(path: str, mark: str, reporter: Reporter) -> Progress | None:
    """Return the progress at `path`, or None where there is none, or none of the job with fingerprint `mark`."""
    if not os.path.exists(path):
        return None
    try:
        numbers = json.loads(read_metadata(path)[_KEY])
        if numbers.pop("fingerprint") != mark:
            reporter.info(f"{path} belongs to another or an older training and is not resumed.")
            return None
        with safetensors.safe_open(path, framework="pt", device="cpu") as stream:
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 it is no dict
        groups: dict[str, Any] = {
            group: {name.partition("/")[2]: value for name, value in tensors.items() if name.startswith(group + "/")}
            for group in _GROUPS
        }
        return Progress(**groups, **numbers)
    except (LacunaError, KeyError, TypeError, ValueError, OSError, safetensors.SafetensorError) as problem:
        reporter.warn(f"The unfinished training {path} cannot be read ({problem}): training starts from the beginning.")
        return None


def remove_progress(path: str) -> None:
    """Remove what `save_progress` may have left."""
    for item in (path, path + ".new"):
        with contextlib.suppress(FileNotFoundError):
            os.remove(item)
