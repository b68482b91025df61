# SPDX-License-Identifier: GPL-2.0-or-later
"""The work behind `lacuna scenarios`: distortions, kernel, smoothed scores and probabilities of a checkpoint."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from ..checkpoint.card import Card, Scenario
from ..checkpoint.store import load
from ..data.manifest import Manifest, read_manifest
from ..data.manifest_fit import fit_manifest, single_scene
from ..data.windows import collect_batches, every_batch
from ..errors import LacunaError
from ..events import Reporter
from ..jobs import ScenariosJob
from ..raster.scene import Scene, gdal_limits
from ..runtime.device import choose_device
from .distortion import measure_distortions
from .latent_guidance import PRESETS, Guidance, Guided, guide

_LARGEST_SIDE = 256
_BATCH = 8


def measure_scenarios(job: ScenariosJob, reporter: Reporter) -> dict[str, Any]:
    """Return what the contract says of `lacuna scenarios --json`; see `docs/commands.md`.

    Raises:
        LacunaError: a file cannot be used; `no-full-scene`, too few windows have all modalities.
    """
    device = choose_device(job.device, reporter)
    card, model = load(job.checkpoint, device)
    manifest = _manifest(job, card, reporter)
    settings = Guidance(**PRESETS[job.preset])
    with gdal_limits(), contextlib.ExitStack() as stack:
        scenes = [stack.enter_context(scene) for scene in _open(manifest, reporter)]
        names = fullest(card, [scene.names for scene in scenes], reporter)
        side = _side(card, scenes, settings.samples)
        order = [scenario for scenario in card.supported() if set(scenario) <= set(names)]
        batches: Iterable[dict[str, Tensor]] = every_batch(scenes, card.modalities, names, side, _BATCH, reporter)
        if settings.samples:
            batches = collect_batches(scenes, card.modalities, names, side, settings.samples, _BATCH, reporter)
        relative, least = settings.relative, settings.least_samples
        found = measure_distortions(model, batches, order, device, reporter, relative=relative, least=least)
    guided = guide(found, settings)
    _say(guided, reporter)
    return {"modalities": list(names), **guided.to_dict()}


def fullest(card: Card, held: Sequence[Sequence[str]], reporter: Reporter) -> Scenario:
    """Return the largest supported scenario that any scene can show, by number of scenes among equals; say what lacks.

    Args:
        card: of the checkpoint.
        held: names of the modalities of each scene.
        reporter: warned of modalities that are left out.

    Raises:
        LacunaError: `unsupported-scenario`, no scene has what the checkpoint needs.
    """
    counts = Counter(found for names in held if (found := card.effective(tuple(names))) is not None)
    if not counts:
        supported = "; ".join(" + ".join(scenario) for scenario in card.supported())
        text = "No scene has a set of modalities that the checkpoint supports."
        raise LacunaError("unsupported-scenario", text, f"It supports: {supported}.")
    best = max(counts, key=lambda scenario: (len(scenario), counts[scenario]))
    absent = [name for name in card.names if name not in best]
    if absent:
        reporter.warn(
            f"No scene has {', '.join(absent)} together with the others: scenarios are compared with "
            f"{' + '.join(best)}, and those with {', '.join(absent)} are left out."
        )
    return best


def _manifest(job: ScenariosJob, card: Card, reporter: Reporter) -> Manifest:
    if job.manifest is None:
        return single_scene(card, job.modalities)
    return fit_manifest(read_manifest(job.manifest), card, reporter)


def _open(manifest: Manifest, reporter: Reporter) -> list[Scene]:
    """Open the scenes for training, or all where every one is for something else."""
    training = [entry for entry in manifest.scenes if entry.split in (None, "train")] or manifest.scenes
    with contextlib.ExitStack() as stack:
        scenes = [
            stack.enter_context(
                Scene(manifest.modalities, entry.specs(), reference=manifest.reference, reporter=reporter)
            )
            for entry in training
        ]
        stack.pop_all()
    return scenes


def _side(card: Card, scenes: Sequence[Scene], samples: int) -> int:
    """Return the side of windows, a multiple of the stride: as many as wanted fit side by side.

    But no smaller than four times the stride, and no larger than the card's tile, 256 pixels or the largest scene; as
    large as that where all windows are wanted (`samples` is 0).
    """
    sides = [(scene.grid.height, scene.grid.width) for scene in scenes]
    fitting = math.isqrt(sum(height * width for height, width in sides) // max(samples, 1))
    largest = max(min(pair) for pair in sides)
    wanted = min(max(fitting, 4 * card.stride), *card.tile, _LARGEST_SIDE, largest)
    return max(wanted // card.stride, 1) * card.stride


def _say(guided: Guided, reporter: Reporter) -> None:
    """Say the table in words."""
    found = guided.distortions
    width = max(len(" + ".join(scenario)) for scenario in found.order)
    reporter.info(f"{'scenario':{width}}  distortion  std. error    smoothed  probability   ({found.samples} windows)")
    rows = zip(found.order, found.mean, found.error, guided.smoothed, guided.probabilities)
    for scenario, *values, probability in rows:
        numbers = "  ".join(f"{value:10.4g}" for value in values)
        reporter.info(f"{' + '.join(scenario):{width}}  {numbers}  {probability:11.4f}")
