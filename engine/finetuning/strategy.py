# SPDX-License-Identifier: GPL-2.0-or-later
"""Which scenarios a fine-tuning draws: the strategy that a job names, and the one that latent guidance measures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from torch import Tensor

from ..checkpoint.card import Scenario
from ..data.splits import TRAIN
from ..models.base import SegmentationModel
from ..training.crops import Crop, Cutter, collate, regular_crops
from ..training.session import Session
from ..training.strategies import RULES, Strategy, full_probabilities, given_probabilities
from .distortion import measure_distortions
from .latent_guidance import Guidance, Guided, guide
from .scenarios_job import fullest
from .task import Task

_BATCH = 8
# Draws of the crops on which latents are measured; epochs count from 0.
_LATENT_EPOCH = 2**31


def choose_strategy(task: Task, base: SegmentationModel, session: Session) -> Strategy:
    """Return what draws the scenarios of a fine-tuning.

    Args:
        task: what was asked for.
        base: the network of the checkpoint, on whose latents guidance is measured.
        session: the scenes.

    Raises:
        UsageError: `bad-weights`.
        LacunaError: `no-full-scene`, `unsupported-scenario`, `too-many-scenarios`, `bad-latent`.
    """
    name, order = task.job.strategy, task.order
    if name == "latent":
        return LatentStrategy(task, base, session)
    if name == "weights":
        return Strategy(order, given_probabilities(task.card, task.job.weights or []))
    if name == "mas" and base.draws_scenarios:
        # The network's own objective draws: modality-aware sampling, where it has that.
        return Strategy(order, full_probabilities(order), own_draws=True)
    return Strategy(order, RULES[name](order))


class LatentStrategy(Strategy):
    """Draws scenarios with the probabilities of latent guidance, measured again while training where that is asked for.

    Args:
        task: what was asked for.
        base: the network of the checkpoint.
        session: the scenes, from whose training pixels crops with all modalities are cut.

    Attributes:
        guided: what was measured first, with the weights of the checkpoint.
    """

    def __init__(self, task: Task, base: SegmentationModel, session: Session) -> None:
        self._settings: Guidance = task.settings.guidance
        self._preset = task.job.latent_preset
        self._session = session
        names = self._names(task)
        self._known = [scenario for scenario in task.order if set(scenario) <= set(names)]
        self._whole = Strategy(task.order, full_probabilities(task.order))
        self._holding, self._crop = names, session.crop(base.output_stride)
        self.guided = self._measure(base)
        super().__init__(task.order, self._spread(task.order, self.guided))

    def start_epoch(self, epoch: int, model: SegmentationModel) -> dict[str, Any]:
        """Measure the latents again where that is due; return the new probabilities for the history."""
        refresh = self._settings.refresh
        if not refresh or epoch == 0 or epoch % refresh:
            return {}
        self.probabilities = self._spread(self.order, self._measure(model))
        return {"probabilities": self.probabilities.tolist()}

    def describe(self) -> dict[str, Any]:
        """Return the strategy as JSON values, with what was measured."""
        return {**super().describe(), "preset": self._preset, "latent": self.guided.to_dict()}

    def _names(self, task: Task) -> Scenario:
        """Return the modalities that are compared: the most that any training scene has together."""
        holders = [scene for scene in self._session.scenes if (scene.region == TRAIN).any()]
        return fullest(task.card, [scene.rasters.names for scene in holders], self._session.reporter)

    def _batches(self) -> Iterator[dict[str, Tensor]]:
        """Yield the crops of training pixels, all modalities in each, on which latents are compared.

        The same ones every time, in the scaling that the scenes have then; only one batch is held.
        """
        session, samples = self._session, self._settings.samples
        cutter = Cutter(session.scenes, session.modalities, self._crop, self._whole, {})
        whole = (sample for sample in map(cutter, self._places()) if set(sample.images) == set(self._holding))
        wanted = islice(whole, samples or None)
        while group := list(islice(wanted, _BATCH)):
            session.reporter.check()
            yield dict(collate(group)[0].images)

    def _places(self) -> Sequence[Crop]:
        """Return where to cut: crops as they are drawn for training, more than are wanted; or all, side by side."""
        session, samples = self._session, self._settings.samples
        if not samples:
            return regular_crops(session.scenes, self._crop)
        rng = np.random.default_rng([session.seed, _LATENT_EPOCH])
        return session.sampler(self._crop).draw(4 * samples, rng)

    def _measure(self, model: SegmentationModel) -> Guided:
        """Return what latent guidance comes to with the weights that `model` has now."""
        device, reporter = self._session.device, self._session.reporter
        relative, least = self._settings.relative, self._settings.least_samples
        batches = self._batches()
        found = measure_distortions(model, batches, self._known, device, reporter, relative=relative, least=least)
        return guide(found, self._settings)

    @staticmethod
    def _spread(order: Sequence[Scenario], guided: Guided) -> np.ndarray:
        """Return probabilities over all supported scenarios; those that no scene can show get none."""
        known = dict(zip(guided.distortions.order, guided.probabilities))
        return np.array([known.get(scenario, 0.0) for scenario in order])
