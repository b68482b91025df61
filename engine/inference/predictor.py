# SPDX-License-Identifier: GPL-2.0-or-later
"""Run a model on tiles, always in batches of one shape, and give calibrated probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ..checkpoint.card import Card
from ..errors import LacunaError
from ..models.base import SegmentationModel
from ..runtime.device import dtype_of

# The number of tiles in a forward. torch's kernels differ by 1e-7 between batch sizes, so it depends on the device
# alone and never on what a job asks for; on a CPU larger batches gain nothing.
FORWARD_BATCH = {"cpu": 1, "cuda": 4}


class Predictor:
    """A model on its device, ready to classify tiles.

    Args:
        model: the model; put into evaluation mode and moved to `device`.
        card: its card, for the temperature of each scenario.
        device: where to compute.
        precision: fp32, bf16 or fp16; the softmax is always in float32.
    """

    def __init__(self, model: SegmentationModel, card: Card, device: torch.device, precision: str = "fp32") -> None:
        self._model = model.eval().to(device)
        self._card = card
        self._device = device
        self._dtype = dtype_of(precision)
        self.batch = FORWARD_BATCH[device.type]

    def __call__(self, scenario: Sequence[str], tiles: Sequence[Mapping[str, np.ndarray]]) -> list[np.ndarray]:
        """Return the probabilities of `tiles` in `scenario`.

        Args:
            scenario: the modalities to use; the others do not reach the model.
            tiles: for each tile the scaled images by modality, float32 (channels, h, w), all of one size.

        Returns:
            For each tile float32 (classes, h, w).
        """
        found: list[np.ndarray] = []
        for first in range(0, len(tiles), self.batch):
            found += self._forward(scenario, tiles[first : first + self.batch])
        return found

    @torch.inference_mode()
    def _forward(self, scenario: Sequence[str], tiles: Sequence[Mapping[str, np.ndarray]]) -> list[np.ndarray]:
        """Run one batch, padded with empty tiles to the fixed shape."""
        images = {}
        for name in scenario:
            stack = np.zeros((self.batch, *tiles[0][name].shape), np.float32)
            for index, tile in enumerate(tiles):
                stack[index] = tile[name]
            images[name] = torch.from_numpy(stack).to(self._device)
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            logits = self._model(images)
        probabilities = torch.softmax(logits.float() / self._card.temperature(tuple(scenario)), dim=1)
        found = probabilities[: len(tiles)].cpu().numpy()
        if not np.isfinite(found).all():
            raise LacunaError(
                "not-finite",
                f"The model gave values that are no numbers, with {', '.join(scenario)} in {self._dtype}.",
                "Choose precision fp32. If it happens there too, the checkpoint is damaged.",
            )
        return list(found)
