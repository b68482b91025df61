# SPDX-License-Identifier: GPL-2.0-or-later
"""How far each scenario moves the fused latent of a model, measured on batches in which all modalities are there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Sized

import numpy as np
import torch
from torch import Tensor

from ..checkpoint.card import Scenario
from ..errors import LacunaError
from ..events import Reporter
from ..models.base import SegmentationModel
from ..training.strategies import MOST_SCENARIOS
from .latent_guidance import Distortions, estimate

Images = Mapping[str, Tensor]


def measure_distortions(
    model: SegmentationModel,
    batches: Iterable[Images],
    order: Sequence[Scenario],
    device: torch.device,
    reporter: Reporter,
    *,
    relative: bool,
    least: int = 2,
) -> Distortions:
    """Return the distortions of scenarios; the model is left in evaluation mode.

    The full latent of a batch is computed once; nothing beyond the latent is. In float32 throughout. Of a sample only a
    number a scenario is kept, so that batches may come as a stream.

    Args:
        model: on `device`.
        batches: images (B, C, h, w) by modality, all those of the last scenario in each; each is asked for once.
        order: the scenarios in the order of the contract, the last of which is the full one: the others are part of it.
        device: where to compute.
        reporter: asked between batches whether to go on; told how far it is where `batches` are counted.
        relative: whether to divide by the mean square of the full latent.
        least: samples that are needed; of one the standard errors are 0.

    Raises:
        LacunaError: `too-many-scenarios`; `bad-latent`, when a latent is not finite; `no-full-scene`, when there are
            fewer than `least` samples.
    """
    if len(order) > MOST_SCENARIOS:
        text = f"{len(order)} scenarios are too many to measure one by one (at most {MOST_SCENARIOS})."
        raise LacunaError("too-many-scenarios", text, "Choose the strategy uniform or anyseg.")
    model.eval()
    differences: list[np.ndarray] = []
    squares: list[np.ndarray] = []
    shift, samples = np.zeros(1), 0
    for done, images in enumerate(batches):
        moved, full, shifts = _measure(model, images, order, device, reporter)
        differences.append(moved)
        squares.append(full)
        shift, samples = shift + shifts.sum(axis=-1), samples + len(full)
        if isinstance(batches, Sized):
            reporter.progress(done + 1, len(batches), "latent batches")
    if samples < least:
        raise LacunaError(
            "no-full-scene",
            f"{samples} windows have data of {', '.join(order[-1])} together; at least {least} are needed to compare "
            "scenarios.",
            "Give rasters that cover the same ground, leave a modality out, or fine-tune with another strategy "
            "(uniform).",
        )
    return estimate(order, np.concatenate(differences, 1), np.concatenate(squares), shift / samples, relative)


@torch.inference_mode()
def _measure(
    model: SegmentationModel, images: Images, order: Sequence[Scenario], device: torch.device, reporter: Reporter
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for one batch squared differences (S, B), squares of the full latent (B) and mean shifts (S, D, B)."""
    placed = {name: image.to(device) for name, image in images.items()}
    size = max(((image.shape[-2], image.shape[-1]) for image in placed.values()), key=lambda side: side[0] * side[1])
    full = _latent(model, placed, order[-1], size)
    differences = np.zeros((len(order), len(full)))
    shifts = np.zeros((len(order), full.shape[1], len(full)))
    for index, scenario in enumerate(order[:-1]):
        reporter.check()
        moved = _latent(model, placed, scenario, size) - full
        differences[index] = moved.square().mean(dim=(1, 2, 3)).cpu().numpy()
        shifts[index] = moved.mean(dim=(2, 3)).T.cpu().numpy()
    return differences, full.square().mean(dim=(1, 2, 3)).cpu().numpy(), shifts


def _latent(model: SegmentationModel, images: Images, scenario: Scenario, size: tuple[int, int]) -> Tensor:
    """Return the latent of a scenario as float64 (B, D, h, w)."""
    latent = model.latent({name: images[name] for name in scenario}, size).double()
    if not latent.isfinite().all():
        text = f"The latent of the scenario {' + '.join(scenario)} is not finite."
        raise LacunaError("bad-latent", text, "The weights of the checkpoint may be damaged; choose another one.")
    return latent
