# SPDX-License-Identifier: GPL-2.0-or-later
"""What the evidence is measured on: data sets, amounts of labels, seeds, methods, networks, and the order of the queue.

Nothing here reads or trains anything. `docs/evidence.md` tells the reasons.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, NamedTuple, Union

from ..strategies import protocol as small

SEEDS = (0, 1, 2)
# Small squares of labels a class, side in pixels given by the data set; None: all labels.
AMOUNTS: tuple[int | None, ...] = (None, 20, 100, 5)
# `lacuna` is what `lacuna finetune` or `lacuna train` writes; network and detail path are its parts alone. `scratch` is
# what `lacuna train` makes of the same labels where `lacuna` was fine-tuned: the same network from random weights.
METHODS = ("lacuna", "network", "detail", "scratch", "forest", "boosting")
SCRATCH = "scratch"
# Of trainings from scratch on few labels.
SCRATCH_EPOCHS = 10
RIVALS = ("forest", "boosting")

# The kind of a cell in which networks are compared, which also begins its key.
NETWORKS = "networks"
ARCHITECTURES = ("sgma", "dis2", "cmx", "cbc", "cbc_slp")
# The one whose goals are told: Lacuna's default, not the best on the test.
DEFAULT = "sgma"
BASELINES = ("stacked", "stacked_dropout", "averaged", "alone")
# Parts left out of an architecture.
ABLATIONS = {
    "sgma_no_sgf": "sgma",
    "sgma_no_mas": "sgma",
    "dis2_no_dlkd": "dis2",
    "dis2_no_cflm": "dis2",
    "dis2_no_hf": "dis2",
}
# Trained on one random scenario a crop. The architectures draw by themselves, as their methods do.
_DROPOUT = ("stacked_dropout", "averaged")
_NOT_CBC_SLP = ("shared_width", "private_width")
_EPOCHS, _EVERY = 16, 4


@dataclass(frozen=True)
class Dataset:
    """A data set.

    Attributes:
        name: its key.
        side: of a square of labels, in pixels of the reference grid.
        base: whether a checkpoint trained elsewhere is fine-tuned; else a network is trained from scratch.
        words: what it is.
        goal: `gain`: to be ahead of what a user would take; `cost`: one modality, to be behind nowhere; `none`.
        networks: the variants that are compared from scratch.
        settings: of these networks, in the terms of the comparison of strategies.
    """

    name: str
    side: int
    base: bool
    words: str
    goal: Literal["gain", "cost", "none"] = "gain"
    networks: tuple[str, ...] = ()
    settings: small.Dataset | None = None


_ALL = (*ARCHITECTURES, *BASELINES, *ABLATIONS)
_FLOODS = small.Dataset(stem_stride=2, crop=96, tile=256, base_steps=0, drop=(), radiometry={"radar": {"offset": 0.1}})
_IGN = small.Dataset(
    stem_stride=2, crop=64, tile=128, base_steps=0, drop=(), radiometry={"rgb": {"gain": 0.1, "offset": 0.1}}
)
DATASETS = {
    item.name: item
    for item in (
        Dataset(
            "unseen_433D",
            5,
            True,
            "a Sentinel scene fine-tuned on its west half, tested on its east half",
            networks=_ALL,
            settings=small.DATASETS["landcover_s2_s1_dem"],
        ),
        Dataset("unseen_38D", 5, True, "the same for a scene of two classes"),
        Dataset("unseen_637U", 5, True, "the same for a scene that is nine tenths crops"),
        Dataset(
            "tree_crowns",
            9,
            True,
            "plots of trees, tested on other plots",
            networks=_ALL,
            settings=small.DATASETS["tree_crowns"],
        ),
        Dataset(
            "floods_s1",
            15,
            False,
            "floods by radar alone, trained from scratch, tested on other chips",
            goal="cost",
            # With one modality the other baselines are this one, and no ablation has anything to do.
            networks=(*ARCHITECTURES, "stacked"),
            settings=_FLOODS,
        ),
        Dataset(
            "ign_vhr",
            3,
            False,
            "an aerial tile of 50 m, trained from scratch, tested on another far away",
            goal="none",
            networks=(*ARCHITECTURES, *BASELINES),
            settings=_IGN,
        ),
    )
}


class Cell(NamedTuple):
    """One training and what it is compared with: a data set, an amount of labels, a seed."""

    dataset: str
    amount: int | None
    seed: int

    def __str__(self) -> str:
        return f"{self.dataset}/{self.amount or 'all'}/{self.seed}"


class NetworkCell(NamedTuple):
    """One network trained from scratch on all labels: a data set, a variant, a seed."""

    dataset: str
    variant: str
    seed: int

    def __str__(self) -> str:
        return f"{NETWORKS}/{self.dataset}/{self.variant}/{self.seed}"


AnyCell = Union[Cell, NetworkCell]


def queue() -> list[AnyCell]:
    """Return all cells: the first seed of everything before the second."""
    cells: list[AnyCell] = []
    for seed in SEEDS:
        cells += [Cell(name, amount, seed) for amount in AMOUNTS for name in DATASETS]
        cells += [NetworkCell(item.name, variant, seed) for item in DATASETS.values() for variant in item.networks]
    return cells


def pending(cells: Iterable[AnyCell], done: Collection[AnyCell], only: Sequence[str] = ()) -> list[AnyCell]:
    """Return the cells that are not done and, where patterns are given, fit one, with * and ?.

    A pattern is DATASET/AMOUNT/SEED or networks/DATASET/VARIANT/SEED; * also stands for several parts.
    """
    return [
        cell for cell in cells if cell not in done and (not only or any(fnmatchcase(str(cell), text) for text in only))
    ]


def cell_of(record: Mapping[str, Any]) -> AnyCell:
    """Return the cell that a stored result belongs to; those without a `kind` compare methods."""
    if record.get("kind") == NETWORKS:
        return NetworkCell(record["dataset"], record["variant"], record["seed"])
    return Cell(record["dataset"], record["amount"], record["seed"])


def architecture_of(variant: str) -> str:
    """Return the architecture by whose settings a variant is trained."""
    return variant if variant in ARCHITECTURES else ABLATIONS.get(variant, DEFAULT)


def network_config(variant: str, dataset: str) -> dict[str, dict[str, Any]]:
    """Return the configuration by which a variant is trained: the same crops, steps and rates for all of a data set."""
    data = DATASETS[dataset].settings
    if data is None:
        raise ValueError(f"no networks are compared on {dataset}")
    training = {
        "batch": small.BATCH,
        "crop": data.crop,
        "tile": data.tile,
        "precision": "fp32",
        "lr": small.BASE_LR,
        "epochs": _EPOCHS,
        "warmup_epochs": 1,
        "crops": small.BASE_EPOCH * small.BATCH,
        "validate_every": _EVERY,
        "radiometry": data.radiometry,
        "strategy": "uniform" if variant in _DROPOUT else "full",
    }
    return {"model": _model_table(variant, data), "training": training}


def _model_table(variant: str, data: small.Dataset) -> dict[str, Any]:
    """Return the settings of a variant's network; every ResNet has the same size."""
    name = architecture_of(variant)
    table = dict(small.ARCHITECTURES["cbc_slp" if name == "cbc" else name])
    if name == "cbc":
        table = {key: value for key, value in table.items() if key not in _NOT_CBC_SLP}
    if "encoder" in table:
        table["encoder_options"] = {"stem_stride": data.stem_stride, "width": small.WIDTH, "depth": small.DEPTH}
    if variant == "sgma_no_mas":
        table["mas_weight"] = 0.0
    return table
