# SPDX-License-Identifier: GPL-2.0-or-later
"""What the evidence is measured on: data sets, amounts of labels, seeds, methods, and the order of the queue.

Nothing here reads or trains anything. `docs/evidence.md` tells the reasons.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

SEEDS = (0, 1, 2)
# Small squares of labels a class, side in pixels given by the data set; None: all labels.
AMOUNTS: tuple[int | None, ...] = (None, 20, 100, 5)
# `lacuna` is what `lacuna finetune` or `lacuna train` writes; network and detail path are its parts alone.
METHODS = ("lacuna", "network", "detail", "forest", "boosting")
RIVALS = ("forest", "boosting")


@dataclass(frozen=True)
class Dataset:
    """A data set.

    Attributes:
        name: its key.
        side: of a square of labels, in pixels of the reference grid.
        base: whether a checkpoint trained elsewhere is fine-tuned; else a network is trained from scratch.
        words: what it is.
    """

    name: str
    side: int
    base: bool
    words: str


DATASETS = {
    item.name: item
    for item in (
        Dataset("unseen_433D", 5, True, "a Sentinel scene fine-tuned on its west half, tested on its east half"),
        Dataset("unseen_38D", 5, True, "the same for a scene of two classes"),
        Dataset("unseen_637U", 5, True, "the same for a scene that is nine tenths crops"),
        Dataset("tree_crowns", 9, True, "plots of trees, tested on other plots"),
        Dataset("floods_s1", 15, False, "floods by radar alone, trained from scratch, tested on other chips"),
    )
}


class Cell(NamedTuple):
    """One training and what it is compared with: a data set, an amount of labels, a seed."""

    dataset: str
    amount: int | None
    seed: int

    def __str__(self) -> str:
        return f"{self.dataset}/{self.amount or 'all'}/{self.seed}"


def queue() -> list[Cell]:
    """Return all cells: the first seed of everything before the second."""
    return [Cell(name, amount, seed) for seed in SEEDS for amount in AMOUNTS for name in DATASETS]


def pending(cells: Iterable[Cell], done: Collection[Cell], only: Sequence[str] = ()) -> list[Cell]:
    """Return the cells that are not done and, where patterns are given, fit one: DATASET/AMOUNT/SEED with * and ?."""
    return [
        cell for cell in cells if cell not in done and (not only or any(fnmatchcase(str(cell), text) for text in only))
    ]
