# SPDX-License-Identifier: GPL-2.0-or-later
"""One fine-tuning whose scenes are open: the scenarios it draws, the training, and what the new card says."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..checkpoint.card import Card, Scenario
from ..checkpoint.classes import ClassPlan
from ..errors import CancelledError, LacunaError
from ..events import Reporter
from ..jobs import FinetuneJob
from ..models.base import SegmentationModel
from ..models.class_tensors import transfer
from ..models.registry import build
from .crops import Cutter, collate
from .distortion import measure_distortions
from .finetune_settings import FinetuneSettings
from .latent_guidance import Guided, guide
from .lora import adapter_tensors, adapters, merge_lora, save_adapters
from .manifest import Manifest
from .parts import Part
from .pictures import Gallery, choose_view
from .scenarios import (
    Strategy,
    anyseg_probabilities,
    full_probabilities,
    given_probabilities,
    mas_probabilities,
    uniform_probabilities,
)
from .scenarios_job import fullest
from .session import Session, calibration, now, publish, scores_of
from .splits import GAP, TEST, TRAIN, VALIDATION
from .state import Progress, fingerprint, load_progress, part_path, save_progress
from .trainable import choose_trainable, count_trained
from .tuning_plan import describe_regions
from .validation import Tally

# Rules without measurements or weights, by strategy.
_RULES = {
    "full": full_probabilities,
    "uniform": uniform_probabilities,
    "anyseg": anyseg_probabilities,
    "mas": mas_probabilities,
}
_BATCH = 8
# Draws of the crops on which latents are measured; epochs count from 0.
_LATENT_EPOCH = 2**31


class Regrouped(nn.Module):
    """A checkpoint as it is, measured by other classes: each gets the largest logit of those that it is made of.

    Args:
        model: with the old classes.
        sources: for each new class the numbers of the old ones.
    """

    def __init__(self, model: nn.Module, sources: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.model, self.sources = model, [list(numbers) for numbers in sources]

    def forward(self, images: Mapping[str, Tensor]) -> Tensor:
        """Return logits (B, K, H, W); those of a new class are as low as can be."""
        logits = self.model(images)
        lowest = torch.full_like(logits[:, 0], torch.finfo(logits.dtype).min)
        return torch.stack([logits[:, numbers].amax(1) if numbers else lowest for numbers in self.sources], 1)


class Tuning:
    """One fine-tuning, its scenes open and divided.

    Args:
        job: the request.
        card: of the checkpoint.
        model: of the checkpoint, on the device.
        sha256: of the checkpoint.
        settings: how to train.
        manifest: the scenes, with the new classes.
        classes: where these come from.
        opened: the scenes.
        device: where to compute.
        reporter: told what happens.
    """

    def __init__(
        self,
        job: FinetuneJob,
        card: Card,
        model: SegmentationModel,
        sha256: str,
        settings: FinetuneSettings,
        manifest: Manifest,
        classes: ClassPlan,
        opened: Sequence[Part],
        device: torch.device,
        reporter: Reporter,
    ) -> None:
        self.job, self.card, self.sha256, self.settings = job, card, sha256, settings
        self.manifest, self.classes, self.reporter = manifest, classes, reporter
        self.device = device
        self.session = Session(opened, card.modalities, classes.classes, settings.recipe, device, job.seed, reporter)
        self.order = card.supported()
        self.region = TEST if self.session.counts[TEST].any() else VALIDATION
        self._latent_batches: list[dict[str, Tensor]] = []
        self._latent_order: list[Scenario] = []
        self._class_names: list[str] = []
        self.guided: Guided | None = None
        self.base = model
        self.strategy = self._make_strategy()
        self.model = self._make_model()
        self.weights = count_trained(self.model)
        self.pictures = ""

    def plan(self) -> dict[str, Any]:
        """Return what would be done; see `docs/finetune.md`."""
        crop = self.session.crop(self.model.output_stride)
        together = self.settings.recipe.settings.batch * self.settings.recipe.settings.accumulation
        return {
            "classes": self.classes.describe(),
            "added": self.classes.added,
            "merged": self.classes.merged,
            "dropped": self.classes.dropped,
            "pixels": {**self.session.pixels(), "gap": self._gap_pixels()},
            "split": None if self.manifest.split is None else asdict(self.manifest.split),
            "regions": describe_regions(self.session.parts, self.classes.classes),
            "strategy": self.describe_strategy(),
            "method": self.job.method,
            "weights": self.weights,
            "epochs": self.settings.recipe.settings.epochs,
            "steps": -(-self.session.crops(crop) // together),
            "crop": crop,
            "warnings": self.reporter.warnings,
        }

    def say_plan(self) -> None:
        """Say the plan in words."""
        pixels = self.session.pixels()
        for item in self.classes.classes:
            numbers = ", ".join(
                f"{side} {counts[item.name]}" for side, counts in pixels.items() if any(counts.values())
            )
            self.reporter.info(f"{item.value} {item.name}: labelled pixels for {numbers}.")
        for scenario, share in zip(self.order, self.strategy.probabilities):
            self.reporter.info(f"{' + '.join(scenario)}: trained with probability {share:.4f}.")
        self.reporter.info(f"{self.weights['trained']} of {self.weights['all']} weights are trained.")

    def run(self) -> dict[str, Any]:
        """Measure the base, train, measure again and write the checkpoint; return the result."""
        regrouped, gallery = Regrouped(self.base, self.classes.sources), self._gallery()
        before = self._measure(regrouped)
        if gallery is not None:
            gallery.add("before", regrouped)
        progress, stopped = self._train()
        self.model.load_state_dict(progress.best)
        small, trained = adapter_tensors(self.model), self._trained_whole()
        merge_lora(self.model)
        validator = self.session.evaluator(VALIDATION, self.order, self.model)
        validated = validator(self.model, self.device, self.reporter, keep_logits=True)
        after = validated if self.region == VALIDATION else self._measure(self.model)
        card = self._card(progress, before, after, validated)
        adapter = None
        if self.job.method == "lora" and self.settings.lora.keep_apart:
            adapter = os.path.splitext(self.job.output)[0] + ".lora.safetensors"
            save_adapters(adapter, small, trained, self.settings.lora, self.sha256, card)
        publish(self.job.output, self.model, card, self.reporter)
        if gallery is not None:
            gallery.add("after", self.model)
            self.pictures = gallery.html()
        return self._result(card, progress, scores_of(before), stopped, adapter)

    def _gallery(self) -> Gallery | None:
        """Return what draws maps for the report, or None where none is asked for."""
        if self.job.report is None:
            return None
        session = self.session
        measured = [part for part in session.parts if part.counts(self.region, len(session.classes)).any()]
        view = choose_view(measured, self.region, len(session.classes), session.tile(self.base)[0])
        return Gallery(view, session.modalities, session.classes, self.order, self.region, self.device)

    def describe_strategy(self) -> dict[str, Any]:
        """Return the strategy as JSON values: scenarios in the contract's order, probabilities, what was measured."""
        found = {
            "name": self.job.strategy,
            "own_draws": self.strategy.own_draws,
            "scenarios": [list(scenario) for scenario in self.order],
            "probabilities": [round(float(value), 6) for value in self.strategy.probabilities],
        }
        if self.guided is not None:
            found["preset"] = self.job.latent_preset
            found["latent"] = self.guided.to_dict()
        return found

    def _make_strategy(self) -> Strategy:
        """Return what draws the scenarios."""
        name = self.job.strategy
        if name == "mas" and self.base.draws_scenarios:
            return Strategy(self.order, full_probabilities(self.order), own_draws=True)
        if name == "weights":
            return Strategy(self.order, given_probabilities(self.card, self.job.weights or []))
        if name != "latent":
            return Strategy(self.order, _RULES[name](self.order))
        self._collect_latent_batches()
        self.guided = self._guide(self.base)
        return Strategy(self.order, self._spread(self.guided))

    def _collect_latent_batches(self) -> None:
        """Cut the crops of training pixels, all modalities in each, on which latents are compared."""
        holders = [part for part in self.session.parts if (part.region == TRAIN).any()]
        names = fullest(self.card, [part.scene.names for part in holders], self.reporter)
        self._latent_order = [scenario for scenario in self.order if set(scenario) <= set(names)]
        wanted = self.settings.guidance.samples
        crop = self.session.crop(self.base.output_stride)
        whole = Strategy(self.order, full_probabilities(self.order))
        cutter = Cutter(self.session.parts, self.card.modalities, crop, whole, {})
        rng = np.random.default_rng([self.job.seed, _LATENT_EPOCH])
        samples = []
        for place in self.session.sampler(crop).draw(4 * wanted, rng):
            self.reporter.check()
            sample = cutter(place)
            if set(sample.images) == set(names):
                samples.append(sample)
            if len(samples) == wanted:
                break
        if len(samples) < 2:
            raise LacunaError(
                "no-full-scene",
                f"{len(samples)} crops around labels have {', '.join(names)} together; at least 2 are needed to "
                "compare scenarios.",
                "Give rasters that cover the same ground, or choose another strategy (uniform).",
            )
        groups = [samples[first : first + _BATCH] for first in range(0, len(samples), _BATCH)]
        self._latent_batches = [dict(collate(group)[0].images) for group in groups]

    def _guide(self, model: SegmentationModel) -> Guided:
        """Return what latent guidance comes to with the weights that `model` has now."""
        found = measure_distortions(
            model,
            self._latent_batches,
            self._latent_order,
            self.device,
            self.reporter,
            relative=self.settings.guidance.relative,
        )
        return guide(found, self.settings.guidance)

    def _spread(self, guided: Guided) -> np.ndarray:
        """Return probabilities over all supported scenarios; those that no scene can show get none."""
        known = dict(zip(guided.distortions.order, guided.probabilities))
        return np.array([known.get(scenario, 0.0) for scenario in self.order])

    def _make_model(self) -> SegmentationModel:
        """Return the network to train: that of the checkpoint, with the new classes, frozen as the method says."""
        kind, sources = self.card.architecture, self.classes.sources
        with torch.random.fork_rng(devices=[]):
            model = build(kind["name"], kind["config"], self.base.modalities, len(sources))
        state = self.base.state_dict()
        if self.classes.changed:
            tensors = self.base.class_tensors()
            self._class_names = tensors.names(len(sources))
            state = transfer(state, model.state_dict(), tensors, sources, self.base.classes)
        model.load_state_dict(state)
        model = model.to(self.device)
        torch.manual_seed(self.job.seed)
        choose_trainable(model, self.job.method, self.settings.lora, bool(self.classes.added or self.classes.merged))
        model.own_draws = self.strategy.own_draws
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise LacunaError(
                "not-trainable",
                f"With the method {self.job.method} nothing of {self.job.checkpoint} could be trained.",
                "Choose another method.",
            )
        return model

    def _measure(self, model: nn.Module) -> dict[Scenario, Tally]:
        """Return how well `model` does in every scenario, on pixels that nothing is learned from."""
        evaluator = self.session.evaluator(self.region, self.order, self.base)
        return evaluator(model, self.device, self.reporter)

    def _train(self) -> tuple[Progress, str]:
        """Train from the beginning or from where it was interrupted; return the progress and why it ended.

        That is `done`, `early` (nothing better was to come) or `asked` (stopped, the best so far kept).
        """
        job, part, mark = self.job, part_path(self.job.output), self._fingerprint()
        progress = load_progress(part, mark, self.reporter) if job.resume else None
        total = self.settings.recipe.settings.epochs
        if progress is None:
            progress = Progress()
        else:
            self.reporter.info(f"Taking up an unfinished fine-tuning: {progress.epoch} of {total} epochs.")
            self._restore_probabilities(progress)
        evaluator = self.session.evaluator(VALIDATION, self.order, self.model)
        trainer = self.session.trainer(self.model, self.strategy, evaluator, self._before_epoch)
        try:
            trainer.run(progress, self.reporter, lambda state: save_progress(part, state, mark))
        except CancelledError:
            if not (job.keep_best or self.reporter.keep_best.is_set()) or not progress.best:
                raise
            self.reporter.cancelled.clear()
            self.reporter.info(f"Stopped as asked; the best so far, of epoch {progress.best_epoch}, is kept.")
            return progress, "asked"
        return progress, "done" if progress.epoch == total else "early"

    def _before_epoch(self, epoch: int, progress: Progress) -> dict[str, Any]:
        """Measure the latents again where that is due, and return the new probabilities for the history."""
        refresh = self.settings.guidance.refresh
        if self.guided is None or not refresh or epoch == 0 or epoch % refresh:
            return {}
        guided = self._guide(self.model)
        self.strategy.probabilities = self._spread(guided)
        return {"probabilities": self.strategy.probabilities.tolist()}

    def _restore_probabilities(self, progress: Progress) -> None:
        """Set the probabilities that the last epoch was drawn with."""
        for entry in progress.history:
            if "probabilities" in entry:
                self.strategy.probabilities = np.array(entry["probabilities"])

    def _fingerprint(self) -> str:
        """Return a hash of all that decides the result."""
        inputs = [path for entry in self.manifest.scenes for path in entry.rasters()]
        texts = [self.sha256, self.manifest.sha256, self.settings.recipe.sha256, self.session.labels_sha256()]
        return fingerprint(self.job, texts, inputs)

    def _trained_whole(self) -> dict[str, Tensor]:
        """Return the tensors that an adapter file must hold beside adapters: those trained as they are, or new."""
        small = {id(item) for adapter in adapters(self.model).values() for item in adapter.parameters()}
        whole = [name for name, item in self.model.named_parameters() if item.requires_grad and id(item) not in small]
        names = {*whole, *self._class_names}
        return {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items() if name in names}

    def _gap_pixels(self) -> int:
        return sum(int(((part.region == GAP) & (part.labels >= 0)).sum()) for part in self.session.parts)

    def _card(
        self,
        progress: Progress,
        before: dict[Scenario, Tally],
        after: dict[Scenario, Tally],
        validated: dict[Scenario, Tally],
    ) -> Card:
        """Return the card of the new checkpoint: that of its parent but for what has changed."""
        ranges = [found for found in (self.card.resolution, self.session.resolution()) if found]
        own = [text for text in (self.card.credits, self.manifest.credits) if text]
        return replace(
            self.card,
            architecture={"name": self.card.architecture["name"], "config": self.model.config()},
            classes=self.classes.classes,
            resolution=[min(low for low, _ in ranges), max(high for _, high in ranges)] if ranges else None,
            scores=scores_of(after),
            scores_on=self._scores_on(),
            calibration=calibration(validated),
            training=self._record(progress, before),
            credits="\n".join(dict.fromkeys(own)),
            parents=[self.sha256, *self.card.parents],
            created=now(),
        )

    def _scores_on(self) -> str:
        count, name = int(self.session.counts[self.region].sum()), self.manifest.name
        if self.region == TEST:
            return f"{count} labelled pixels of the test scenes of {name}, used for nothing else"
        return f"{count} labelled validation pixels of {name}, by which the best epoch was chosen"

    def _record(self, progress: Progress, before: dict[Scenario, Tally]) -> dict[str, Any]:
        """Return the training record of the card."""
        labels = {"labels": os.path.basename(self.manifest.path), "field": self.job.field}
        if self.job.manifest is not None:
            labels = {"manifest": labels["labels"], "manifest_sha256": self.manifest.sha256}
        parent = {"sha256": self.sha256, "name": self.card.name, "created": self.card.created}
        return {
            **labels,
            "method": self.job.method,
            "weights": self.weights,
            "strategy": self.describe_strategy(),
            "split": None if self.manifest.split is None else asdict(self.manifest.split),
            **self.session.record(progress),
            "settings": self.settings.to_dict(),
            "classes": {"added": self.classes.added, "merged": self.classes.merged, "dropped": self.classes.dropped},
            "before": scores_of(before),
            "lineage": [parent, *self.card.training.get("lineage", [])],
        }

    def _result(
        self, card: Card, progress: Progress, before: list[dict[str, Any]], stopped: str, adapter: str | None
    ) -> dict[str, Any]:
        """Return the result, and warn where nothing was gained."""
        means = [_mean(scores) for scores in (before, card.scores)]
        if means[1] <= means[0]:
            self.reporter.warn(
                f"The fine-tuned checkpoint is no better than its parent (mean mIoU {means[1]:.4f}, before "
                f"{means[0]:.4f}): keep the parent, give more labels, or train longer."
            )
        return {
            "checkpoint": self.job.output,
            "adapter": adapter,
            "report": self.job.report,
            "parent": self.sha256,
            "epochs": progress.epoch,
            "best_epoch": progress.best_epoch,
            "stopped": stopped,
            "miou": means[1],
            "miou_before": means[0],
            "classes": [{"value": item.value, "name": item.name, "color": item.color} for item in card.classes],
            "before": before,
            "after": card.scores,
            "scores_on": card.scores_on,
            "history": progress.history,
            "plan": self.plan(),
            "seconds": round(progress.seconds, 2),
        }


def _mean(scores: Sequence[Mapping[str, Any]]) -> float:
    """Return the mean mIoU over scenarios."""
    known = [item["miou"] for item in scores if item["miou"] is not None]
    return round(float(np.mean(known)), 6) if known else 0.0
