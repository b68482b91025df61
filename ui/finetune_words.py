# SPDX-License-Identifier: GPL-2.0-or-later
"""What the Fine-tune page says of a checkpoint's parents and of a result, and the name it proposes for the new one."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from ..compat import tr
from ..engine.checkpoint.card import Card
from ..engine.checkpoint.card_file import read_card
from ..engine.errors import LacunaError
from ..host.catalogues import own_folder
from ..host.run_job import BUNDLED_CHECKPOINTS, duration

# Less mIoU than this makes no forest better; the engine warns from there on too (`training/rival`).
_NOTHING = 0.01


def lineage_words(card: Card) -> str:
    """Return the warning for a checkpoint that was fine-tuned itself, naming its first parent; else an empty string."""
    lineage = card.training.get("lineage") or []
    if not lineage:
        return ""
    first = lineage[-1]
    name = first.get("name") or tr("a checkpoint without a name")
    words = tr(
        "This checkpoint was itself fine-tuned, from {} (made {}, SHA-256 {}…). Each further fine-tuning forgets more "
        "of what was learned first: where you can, fine-tune that one on all labels together."
    )
    return words.format(name, first.get("created") or "?", str(first.get("sha256", ""))[:12])


def find_parent(card: Card, paths: Iterable[str]) -> str:
    """Return the one of `paths` that holds the first parent of a fine-tuned checkpoint, or an empty string.

    Checkpoints are known by name and time of making, as hashing them all would take long.
    """
    lineage = card.training.get("lineage") or []
    if not lineage:
        return ""
    wanted = (lineage[-1].get("name"), lineage[-1].get("created"))
    for path in paths:
        try:
            found = read_card(path)
        except LacunaError:
            continue
        if (found.name, found.created) == wanted:
            return path
    return ""


def default_output(checkpoint: str) -> str:
    """Return a new file for what is made from `checkpoint`: beside it, or in the profile where that is the plugin's.

    For a new model, where there is none, it lies in the profile.
    """
    if not checkpoint:
        return _numbered(own_folder(), tr("new-model"))
    folder = os.path.dirname(os.path.abspath(checkpoint))
    if os.path.realpath(folder) == os.path.realpath(BUNDLED_CHECKPOINTS) or not os.access(folder, os.W_OK):
        folder = own_folder()
    return _numbered(folder, os.path.splitext(os.path.basename(checkpoint))[0] + "-tuned")


def _numbered(folder: str, stem: str) -> str:
    """Return the first checkpoint `stem`, `stem-2`... in a folder that does not exist."""
    names = (f"{stem}{number}.safetensors" for number in ("", *(f"-{count}" for count in range(2, 10_000))))
    return next(path for path in (os.path.join(folder, name) for name in names) if not os.path.exists(path))


def forest_words(result: dict[str, Any]) -> list[str]:
    """Return in which scenarios the random forest on the same labels is better than the network."""
    forest = result.get("forest")
    if not forest:
        return []
    own = {tuple(item["available"]): item["miou"] for item in result["after"] if item["miou"] is not None}
    better = [
        f"{' + '.join(item['available'])} ({item['miou']:.2f} : {own[tuple(item['available'])]:.2f})"
        for item in forest["scores"]
        if item["miou"] > own.get(tuple(item["available"]), 1.0) + _NOTHING
    ]
    if not better:
        return [tr("A random forest on the same labels is better in no scenario.")]
    words = tr("A random forest on the same labels is better with {}: take it where these are your inputs.")
    return [words.format("; ".join(better))]


def detail_words(result: dict[str, Any]) -> list[str]:
    """Return what the network is worth without the detail path that it was joined with."""
    scores = [item["miou"] for item in result.get("network") or () if item["miou"] is not None]
    if not scores:
        return []
    words = tr("The network without its detail path, which looks at single pixels: {:.3f}.")
    return [words.format(sum(scores) / len(scores))]


def training_words(result: dict[str, Any]) -> str:
    """Return what has come of the training of a new model."""
    change = tr("Mean mIoU over the scenarios {:.3f}.").format(result["miou"])
    words = [change, *detail_words(result), *forest_words(result), _ended(result)]
    return " ".join([*words, tr("Measured on {}.").format(result["scores_on"])])


def as_comparison(result: dict[str, Any]) -> dict[str, Any]:
    """Return the result of a training from scratch as one of a fine-tuning that has nothing before it."""
    known = [item["miou"] for item in result["scores"] if item["miou"] is not None]
    mean = sum(known) / len(known) if known else 0.0
    return {**result, "before": [], "miou_before": None, "after": result["scores"], "miou": mean}


def _ended(result: dict[str, Any]) -> str:
    """Return when and why a training ended."""
    words = {
        "done": tr("Best epoch {} of {}, {}."),
        "early": tr("Best epoch {} of {}, {}; no later epoch was better, so the training ended early."),
        "asked": tr("Best epoch {} of {}, {}; stopped as asked."),
    }[result["stopped"]]
    return words.format(result["best_epoch"], result["epochs"], duration(result["seconds"]))


def result_words(result: dict[str, Any], base: str) -> str:
    """Return what has come of a fine-tuning of the checkpoint `base`."""
    change = tr("Mean mIoU over the scenarios {:.3f}, before {:.3f}.").format(result["miou"], result["miou_before"])
    words = [change, *detail_words(result)]
    if result["miou"] <= result["miou_before"]:
        words.append(tr("It is no better than before: keep the base, give more labels, or train longer."))
    words += [*forest_words(result), _ended(result), tr("Measured on {}.").format(result["scores_on"])]
    if result.get("adapter"):
        words.append(tr("Adapters: {}.").format(os.path.basename(result["adapter"])))
    words.append(tr("The base {} is unchanged: you can always go back to it.").format(os.path.basename(base)))
    return " ".join(words)
