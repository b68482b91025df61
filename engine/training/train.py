# SPDX-License-Identifier: GPL-2.0-or-later
"""Train a model from scratch on the scenes of a manifest: from the job to the checkpoint."""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from ..checkpoint.card import Card
from ..checkpoint.header import read_header, sha256
from ..checkpoint.store import save
from ..errors import CancelledError, LacunaError
from ..events import Reporter
from ..inference.checks import check_existing, check_folder
from ..inference.device import choose_device, describe_device
from ..inference.parts import Parts
from ..inference.record import versions
from ..jobs import TrainJob
from ..models.base import SegmentationModel
from ..models.registry import build
from ..raster.scene import gdal_limits
from . import parts as scenes
from .calibration import fit_temperature
from .crops import Cutter, Sampler
from .loop import Trainer
from .manifest import Manifest, read_manifest
from .parts import Part
from .scenarios import STRATEGIES, supported
from .settings import Recipe, read_recipe
from .splits import TEST, TRAIN, VALIDATION
from .state import Progress, fingerprint, load_progress, part_path, remove_progress, save_progress
from .validation import Evaluator, Tally

_LEAST_BATCHES = 8


def train(job: TrainJob, reporter: Reporter) -> dict[str, Any]:
    """Train as `job` asks and write the checkpoint of the best epoch.

    The best epoch is the one with the best mean validation mIoU over all scenarios. What is unfinished lies in
    `OUTPUT.part`, which the same job takes up.

    Returns:
        The result: `checkpoint` (its path), `epochs`, `best_epoch`, `miou` (mean over scenarios on validation),
        `scores`, `scores_on`, `history` and `seconds`.

    Raises:
        LacunaError: for anything that makes the training impossible; nothing is left but the unfinished part.
        CancelledError: when asked to stop; nothing is left.
    """
    manifest = read_manifest(job.manifest)
    recipe = read_recipe(job, manifest.names)
    _check_output(job, manifest)
    part = part_path(job.output)
    with gdal_limits(), Parts([part]).locked():
        opened: list[Part] = []
        try:
            device = choose_device(job.device, reporter)
            opened = scenes.open_parts(manifest, reporter)
            return _Training(job, manifest, recipe, opened, device, reporter).run()
        except CancelledError:
            remove_progress(part)
            raise
        finally:
            scenes.close_parts(opened)


class _Training:
    """One training, its scenes open.

    Args:
        job: the request.
        manifest: what to train on.
        recipe: how.
        opened: the scenes.
        device: where to compute.
        reporter: told what happens.
    """

    def __init__(
        self,
        job: TrainJob,
        manifest: Manifest,
        recipe: Recipe,
        opened: Sequence[Part],
        device: torch.device,
        reporter: Reporter,
    ) -> None:
        self.job, self.manifest, self.recipe, self.parts = job, manifest, recipe, opened
        self.device, self.reporter = device, reporter
        self.classes = len(manifest.classes)
        scenes.divide(opened, manifest, reporter)
        self.modalities = scenes.measure(opened, manifest.modalities, reporter)
        for part in opened:
            part.prepare(self.modalities)
        self.counts = {
            region: scenes.count_classes(opened, region, self.classes) for region in (TRAIN, VALIDATION, TEST)
        }
        self.model = self._build()

    def run(self) -> dict[str, Any]:
        """Train, measure and write the checkpoint; return the result."""
        progress = self._train()
        self.model.load_state_dict(progress.best)
        validated = self._evaluator(VALIDATION)(self.model, self.device, self.reporter, keep_logits=True)
        scored, scores_on = validated, f"validation pixels of {self.manifest.name}, by which the best epoch was chosen"
        if self.counts[TEST].any():
            tester = self._evaluator(TEST)
            scored = tester(self.model, self.device, self.reporter)
            scores_on = (
                f"{self.counts[TEST].sum()} labelled pixels of the test scenes of {self.manifest.name} "
                f"({', '.join(tester.names)}), used for nothing else"
            )
        card = self._card(progress, validated)
        card.scores = [{"available": list(scenario), **tally.matrix.summary()} for scenario, tally in scored.items()]
        card.scores_on = scores_on
        self._publish(card)
        return {
            "checkpoint": self.job.output,
            "epochs": progress.epoch,
            "best_epoch": progress.best_epoch,
            "miou": round(progress.best_miou, 6),
            "scores": card.scores,
            "scores_on": scores_on,
            "history": progress.history,
            "seconds": round(progress.seconds, 2),
        }

    def _build(self) -> SegmentationModel:
        """Return the new network on the device, its weights drawn from the seed."""
        torch.manual_seed(self.job.seed)
        channels = {item.name: len(item.bands) for item in self.modalities}
        model = build(self.job.architecture, self.recipe.model, channels, self.classes)
        if self.job.encoder_weights is not None:
            model.load_encoder(_read_encoder(self.job.encoder_weights))
        return model.to(self.device)

    def _train(self) -> Progress:
        """Train from the beginning, or from where the same job was interrupted."""
        job, settings = self.job, self.recipe.settings
        part, mark = part_path(job.output), self._fingerprint()
        progress = load_progress(part, mark, self.reporter) if job.resume else None
        if progress is not None:
            self.reporter.info(f"Taking up an unfinished training: {progress.epoch} of {settings.epochs} epochs.")
        crop = self._crop()
        sampler = Sampler(self.parts, self.classes, crop, tuple(self.recipe.config.scale), self.recipe.config.balance)
        strategy = STRATEGIES[self.recipe.config.strategy](self.modalities)
        trainer = Trainer(
            self.model,
            self.recipe,
            self._crops(crop),
            sampler,
            Cutter(self.parts, self.modalities, crop, strategy, self.recipe.changes),
            self._evaluator(VALIDATION),
            class_weights(self.counts[TRAIN], self.recipe.config.class_weights),
            self.device,
            job.seed,
        )
        return trainer.run(progress or Progress(), self.reporter, lambda state: save_progress(part, state, mark))

    def _crop(self) -> int:
        """Return the side of a crop: as asked, but no larger than the largest scene."""
        asked = self.recipe.settings.crop
        largest = max(max(part.labels.shape) for part in self.parts if (part.region == TRAIN).any())
        stride = self.model.output_stride
        fitting = -(-largest // stride) * stride
        if asked > fitting:
            self.reporter.info(f"Crops are {fitting} pixels on a side, not {asked}: no training scene is larger.")
        return min(asked, fitting)

    def _crops(self, crop: int) -> int:
        """Return how many crops an epoch has."""
        if self.recipe.config.crops is not None:
            return self.recipe.config.crops
        area = sum(int((part.region == TRAIN).sum()) for part in self.parts)
        return max(-(-area // crop**2), _LEAST_BATCHES * self.recipe.settings.batch)

    def _evaluator(self, region: int) -> Evaluator:
        """Return the evaluator of a region, with the tiles that the card suggests."""
        tile, margin = self._tile()
        return Evaluator(
            self.parts, region, supported(self.modalities), self.classes, tile, min(2 * margin, tile // 2),
            self.model.output_stride,
        )  # fmt: skip

    def _tile(self) -> tuple[int, int]:
        """Return the side of tiles, a multiple of the stride, and the margin that fits into it."""
        stride = self.model.output_stride
        tile = -(-self.recipe.config.tile // stride) * stride
        return tile, min(self.model.margin, tile // 4)

    def _fingerprint(self) -> str:
        """Return a hash of all that decides the result."""
        inputs = [path for entry in self.manifest.scenes for path in entry.files()]
        if self.job.encoder_weights is not None:
            inputs.append(self.job.encoder_weights)
        return fingerprint(self.job, [self.manifest.sha256, self.recipe.sha256], inputs)

    def _card(self, progress: Progress, validated: dict[tuple[str, ...], Tally]) -> Card:
        """Return the card, all but the scores."""
        tile, margin = self._tile()
        sizes = [part.scene.grid.ground_resolution for part in self.parts if (part.region == TRAIN).any()]
        resolution = [float(f"{bound:.6g}") for bound in (min(sizes), max(sizes))]
        weights = self.job.encoder_weights
        return Card(
            architecture={"name": self.job.architecture, "config": self.model.config()},
            modalities=self.modalities,
            classes=self.manifest.classes,
            reference=self.manifest.reference,
            name=self.manifest.name,
            description=self.manifest.description,
            resolution=resolution if np.isfinite(resolution).all() else None,
            tile=[tile, tile],
            margin=margin,
            stride=self.model.output_stride,
            calibration=[
                {"available": list(scenario), "temperature": round(fit_temperature(*tally.kept()), 4)}
                for scenario, tally in validated.items()
            ],
            training=self._record(progress),
            licence=self.manifest.licence,
            credits=self.manifest.credits,
            parents=[] if weights is None else [sha256(weights)],
            created=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        )

    def _record(self, progress: Progress) -> dict[str, Any]:
        """Return the training record of the card."""
        sides = {"training": TRAIN, "validation": VALIDATION, "test": TEST}
        return {
            "manifest": os.path.basename(self.manifest.path),
            "manifest_sha256": self.manifest.sha256,
            "scenes": [
                {
                    "name": part.name,
                    "modalities": list(part.scene.names),
                    **{side: int(part.counts(region, self.classes).sum()) for side, region in sides.items()},
                }
                for part in self.parts
            ],
            "pixels": {
                side: {item.name: int(count) for item, count in zip(self.manifest.classes, self.counts[region])}
                for side, region in sides.items()
            },
            "preset": self.job.preset,
            "settings": self.recipe.to_dict(),
            "seed": self.job.seed,
            "epochs": progress.epoch,
            "best_epoch": progress.best_epoch,
            "validation_miou": round(progress.best_miou, 6),
            "device": describe_device(self.device),
            "versions": versions(),
            "seconds": round(progress.seconds, 2),
        }

    def _publish(self, card: Card) -> None:
        """Write the checkpoint under another name and rename it, so that the unfinished part survives a full disk."""
        new = self.job.output + ".new"
        self.reporter.check()
        save(new, self.model, card)
        os.replace(new, self.job.output)
        remove_progress(part_path(self.job.output))
        self.reporter.info(f"Wrote {self.job.output}.")


def class_weights(counts: np.ndarray, rule: str) -> Tensor | None:
    """Return weights for the loss from the number of training pixels of each class (K), or None for equal ones.

    Args:
        counts: pixels by class.
        rule: `none`; `sqrt`, 1 / sqrt(frequency); `inverse`, 1 / frequency.

    Returns:
        float32 (K), with mean 1 over the classes that occur; 1 for those that do not.
    """
    if rule == "none":
        return None
    present = counts > 0
    power = 0.5 if rule == "sqrt" else 1.0
    weights = np.ones(len(counts))
    weights[present] = (counts[present] / counts.sum()) ** -power
    weights[present] /= weights[present].mean()
    return torch.from_numpy(weights.astype(np.float32))


def _check_output(job: TrainJob, manifest: Manifest) -> None:
    """Raise LacunaError unless the checkpoint can be written: not over an input, nor over a file without leave."""
    inputs = [manifest.path, *(path for entry in manifest.scenes for path in entry.files())]
    inputs += [path for path in (job.config, job.encoder_weights) if path is not None]
    if os.path.realpath(job.output) in map(os.path.realpath, inputs):
        raise LacunaError(
            "output-is-input", f"The output {job.output} is one of the inputs.", "Choose another name for the output."
        )
    check_folder(job.output)
    check_existing(job.output, job.overwrite)


def _read_encoder(path: str) -> dict[str, Tensor]:
    """Return the tensors of an encoder file, as float32.

    Raises:
        LacunaError: the file is missing, a pickle, cut short or no safetensors file.
    """
    read_header(path)
    try:
        tensors = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as problem:
        text = f"The encoder weights {path} cannot be read: {problem}."
        raise LacunaError("not-safetensors", text, "Copy or download the file again.") from None
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
