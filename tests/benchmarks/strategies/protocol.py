# SPDX-License-Identifier: GPL-2.0-or-later
"""What is compared and how: architectures, data sets, strategies, seeds, settings, and the order of the queue.

Nothing here reads or trains anything, so that a test can look at all of it. `docs/strategies.md` tells the reasons.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

SEEDS = (0, 1, 2)
# Fields of a `FinetuneJob` that make a strategy.
STRATEGIES: dict[str, dict[str, str]] = {
    "full": {"strategy": "full"},
    "uniform": {"strategy": "uniform"},
    "mas": {"strategy": "mas"},
    "latent-paper": {"strategy": "latent", "latent_preset": "paper"},
    "latent-default": {"strategy": "latent", "latent_preset": "default"},
    "lora": {"strategy": "uniform", "method": "lora"},
}
REFERENCE = "uniform"
BASE = "base"
# Small networks, so that a fine-tuning takes seconds on one thread. `stem_stride` is the data set's.
_RESNET = {"encoder": "resnet_small"}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "sgma": {**_RESNET, "head_width": 32},
    "cmx": {**_RESNET, "head_width": 32},
    "cbc_slp": {
        **_RESNET, "level_widths": [16, 16, 24, 32, 32], "token_width": 64, "heads": 4, "latent_width": 96,
        "shared_width": 48, "private_width": 16,
    },
    "dis2": {"width": 8},
}  # fmt: skip
WIDTH, DEPTH = 16, 1


@dataclass(frozen=True)
class Dataset:
    """A data set of the comparison.

    Attributes:
        stem_stride: of the small ResNet: stride of the first map.
        crop: side of a crop in pixels.
        tile: side of the tiles of validation and test.
        base_steps: steps of the training of a base.
        drop: classes of the base that do not occur where it is fine-tuned and tested.
        radiometry: random changes of scaled values in training, by modality.
    """

    stem_stride: int
    crop: int
    tile: int
    base_steps: int
    drop: tuple[str, ...]
    radiometry: dict[str, dict[str, float]]


DATASETS = {
    "landcover_s2_s1_dem": Dataset(
        stem_stride=2,
        crop=64,
        tile=224,
        base_steps=600,
        drop=("Snow or ice",),
        radiometry={
            "optical": {"gain": 0.1, "offset": 0.1},
            "radar": {"offset": 0.1},
            "elevation": {"offset": 0.1},
        },
    ),
    "tree_crowns": Dataset(
        stem_stride=4,
        crop=96,
        tile=224,
        base_steps=600,
        drop=(),
        radiometry={"rgb": {"gain": 0.1, "offset": 0.1}, "hsi": {"gain": 0.1, "offset": 0.1}},
    ),
}
BATCH = 4
# Steps in an epoch, and epochs from one validation to the next, of the base's training and of the fine-tuning.
BASE_EPOCH, BASE_EVERY = 24, 5
TUNE_EPOCH, TUNE_EPOCHS, TUNE_EVERY = 8, 12, 3
BASE_LR = 2e-3
# The product's own rate for fine-tuning everything, 2e-4, is made for many more steps.
TUNE_LR = 1e-3


# How every other fine-tuning learns: the defaults of the product and of the architectures compared.
_OTHERS = {
    "optimizer": "adamw",
    "weight_decay": 5e-2,
    "clip": 1.0,
    "warmup_epochs": 1,
    "average": 0.99,
    "balance": 0.5,
    "scale": [0.8, 1.25],
    "class_weights": "sqrt",
    "keep": "best",
}
_SAMPLED = {"samples": 48}


class Cell(NamedTuple):
    """One fine-tuning of the comparison."""

    architecture: str
    dataset: str
    strategy: str
    seed: int

    @property
    def group(self) -> tuple[str, str]:
        """Architecture and data set: cells of one group start from one base."""
        return self.architecture, self.dataset

    def __str__(self) -> str:
        return f"{self.architecture}/{self.dataset}/{self.strategy}/{self.seed}"


def queue() -> list[Cell]:
    """Return all cells, complete sets first: all of one seed before the next."""
    return [
        Cell(architecture, dataset, strategy, seed)
        for seed in SEEDS
        for architecture in ARCHITECTURES
        for dataset in DATASETS
        for strategy in STRATEGIES
    ]


def pending(cells: Iterable[Cell], done: Collection[Cell], only: Sequence[str] = ()) -> list[Cell]:
    """Return the cells that are not done, in their order.

    Args:
        cells: those of the queue.
        done: those with a result.
        only: patterns `ARCHITECTURE/DATASET/STRATEGY` with * and ?, of which a cell has to fit one; none: all do.
    """
    return [cell for cell in cells if cell not in done and (not only or any(fits(cell, text) for text in only))]


def fits(cell: Cell, pattern: str) -> bool:
    """Return whether a cell is meant by a pattern; parts at its end may be left out."""
    parts = pattern.split("/")
    return all(fnmatchcase(str(value), part) for value, part in zip(cell, parts)) and len(parts) <= len(cell)


def model_table(architecture: str, dataset: str) -> dict[str, Any]:
    """Return the network's own settings."""
    table = dict(ARCHITECTURES[architecture])
    if "encoder" in table:
        stride = DATASETS[dataset].stem_stride
        table["encoder_options"] = {"stem_stride": stride, "width": WIDTH, "depth": DEPTH}
    return table


def base_config(architecture: str, dataset: str) -> dict[str, dict[str, Any]]:
    """Return the configuration by which a base is trained."""
    data = DATASETS[dataset]
    training = {
        **_shared(data),
        "lr": BASE_LR,
        "epochs": data.base_steps // BASE_EPOCH,
        "warmup_epochs": 1,
        "crops": BASE_EPOCH * BATCH,
        "validate_every": BASE_EVERY,
        "radiometry": data.radiometry,
    }
    return {"model": model_table(architecture, dataset), "training": training}


def tune_config(dataset: str) -> dict[str, dict[str, Any]]:
    """Return the configuration of every fine-tuning: the same budget for all architectures, strategies and seeds."""
    training = {
        **_shared(DATASETS[dataset]),
        "lr": TUNE_LR,
        "epochs": TUNE_EPOCHS,
        "crops": TUNE_EPOCH * BATCH,
        "validate_every": TUNE_EVERY,
        "patience": TUNE_EPOCHS,
    }
    return {"training": training}


def written_config(cell: Cell) -> dict[str, dict[str, Any]]:
    """Return the configuration file of a fine-tuning, by which strategies differ in the scenarios that they draw alone.

    The product's `latent` with `paper` is the published fine-tuning as a whole, so what else belongs to that is set as
    it is for the others. What stays the same is no part of the digest.
    """
    config = tune_config(cell.dataset)
    # The product's schedule when these results were begun.
    config["training"]["schedule"] = "poly"
    if cell.strategy == "latent-paper":
        data = DATASETS[cell.dataset]
        config = {"training": {**_OTHERS, "radiometry": data.radiometry, **config["training"]}, "latent": _SAMPLED}
    return config


def digest(cell: Cell) -> str:
    """Return a short hash of the settings that a result depends on: those of the base, and of the fine-tuning."""
    settings = {"base": base_config(*cell.group)}
    if cell.strategy != BASE:
        drop = list(DATASETS[cell.dataset].drop)
        settings |= {"tune": tune_config(cell.dataset), "strategy": STRATEGIES[cell.strategy], "drop": drop}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _shared(data: Dataset) -> dict[str, Any]:
    return {"batch": BATCH, "crop": data.crop, "tile": data.tile, "precision": "fp32"}
