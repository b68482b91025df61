# SPDX-License-Identifier: GPL-2.0-or-later
"""How labels are divided into training and validation where that is left to Lacuna, and whether there are enough."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import LacunaError
from ..events import Reporter
from .labelled_scenes import LabelledScene, count_classes
from .manifest import Manifest, SplitRule
from .splits import TRAIN, choose_blocks

LEAST_PIXELS = 100
LEAST_CLASSES = 2


def check_labels(scenes: Sequence[LabelledScene], manifest: Manifest) -> None:
    """Raise LacunaError `too-few-labels` unless the scenes, not yet divided, have enough labels, of two classes."""
    counts = count_classes(scenes, TRAIN, len(manifest.classes))
    found = {item.name: int(count) for item, count in zip(manifest.classes, counts) if count}
    total = int(counts.sum())
    if total >= LEAST_PIXELS and len(found) >= LEAST_CLASSES:
        return
    listed = ", ".join(f"{name} {pixels}" for name, pixels in found.items())
    raise LacunaError(
        "too-few-labels",
        f"The labels {manifest.path} give {total} labelled pixels of {len(found)} classes ({listed}); at least "
        f"{LEAST_PIXELS} pixels of {LEAST_CLASSES} classes are needed.",
        "Label more places, of every class that you want to tell apart.",
    )


def fit_split(
    scenes: Sequence[LabelledScene], classes: int, margin: int, wanted: SplitRule, reporter: Reporter
) -> SplitRule:
    """Return the rule by blocks that suits the labels of scenes, as `choose_blocks`, and say which it is.

    Args:
        scenes: opened.
        classes: number of classes.
        margin: pixels that a network looks beyond its own, the gap wanted.
        wanted: share and seed.
        reporter: told what was chosen.

    Raises:
        LacunaError: `bad-split`, not even the smallest blocks can be divided.
    """
    rule = choose_blocks([scene.labels for scene in scenes], classes, margin, wanted)
    reporter.info(f"Validation: blocks of {rule.block} pixels, with a gap of {rule.gap} around them.")
    return rule


def warn_of_gap(rule: SplitRule | None, margin: int, reporter: Reporter) -> None:
    """Warn of a gap that is narrower than a network looks around a pixel (`margin`)."""
    if rule is not None and rule.method != "group" and rule.gap < margin:
        reporter.warn(
            f"The gap between training and validation is {rule.gap} pixels, but the network looks {margin} pixels "
            "around each one, so the measured accuracy may be too high."
        )
