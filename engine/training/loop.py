# SPDX-License-Identifier: GPL-2.0-or-later
"""The training loop: epochs of steps, each followed by a validation of all scenarios; interruptible between steps."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import LacunaError
from ..events import Reporter, metrics
from ..models.base import SegmentationModel, TrainingSettings
from ..runtime.device import choose_precision, dtype_of
from .average import WeightAverage
from .crops import Batch, Crop, Cutter, Sampler, chunks, collate
from .recipe import Recipe
from .state import Progress
from .strategies import Strategy
from .validation import Evaluator, mean_miou

_READERS = 2
_AHEAD = 4


class Trainer:
    """Trains a model.

    All draws of an epoch come from the seed and its number, so that a training that was interrupted between epochs goes
    on as if nothing had happened, and two runs on one CPU give the same bits.

    Args:
        model: on its device.
        recipe: how to train.
        crops: crops in an epoch.
        sampler: draws them.
        cutter: cuts them.
        evaluator: measures after an epoch.
        class_weights: (K) for the loss, or None.
        device: where to compute.
        seed: of all draws.
        strategy: draws the scenarios; told of every epoch.
    """

    def __init__(
        self,
        model: SegmentationModel,
        recipe: Recipe,
        crops: int,
        sampler: Sampler,
        cutter: Cutter,
        evaluator: Evaluator,
        class_weights: Tensor | None,
        device: torch.device,
        seed: int,
        strategy: Strategy,
    ) -> None:
        self.model, self._device, self._seed = model, device, seed
        self._settings, self._every = recipe.settings, recipe.config.validate_every
        self._keep_last = recipe.config.keep == "last"
        self._patience, self._strategy = recipe.config.patience, strategy
        self._dtype = dtype_of(choose_precision(recipe.config.precision, device))
        self._crops, self._sampler, self._cutter, self._evaluator = crops, sampler, cutter, evaluator
        self._weights = None if class_weights is None else class_weights.to(device)
        self._steps = -(-crops // (recipe.settings.batch * recipe.settings.accumulation))
        self.optimizer = make_optimizer(model, recipe.settings)
        self._average = WeightAverage(model, recipe.config.average)
        self._measured = copy.deepcopy(model)

    def run(self, progress: Progress, reporter: Reporter, keep: Callable[[Progress], None]) -> Progress:
        """Train from `progress` to the last epoch, or until `patience` epochs have brought nothing better.

        Args:
            progress: where to begin; fresh for a new training.
            reporter: told of every epoch, and asked between steps whether to go on.
            keep: is given the progress after every epoch.

        Returns:
            The progress at the end, with the best weights.

        Raises:
            LacunaError: `diverged`, the loss is no longer a number.
            CancelledError: when asked to stop.
        """
        if progress.epoch:
            self._take_up(progress)
        total = self._settings.epochs
        reporter.progress(progress.epoch, total, "epochs")
        for epoch in range(progress.epoch, total):
            # The best epoch is so long ago that no better one is awaited.
            if self._patience is not None and progress.epoch - max(progress.best_epoch, 1) >= self._patience:
                reporter.info(f"No epoch after {progress.best_epoch} was better: the training ends early.")
                break
            began = time.monotonic()
            extra = self._strategy.start_epoch(epoch, self.model)
            loss = self._epoch(epoch, reporter)
            entry = {"epoch": epoch + 1, "loss": round(loss, 6), **extra}
            if (epoch + 1) % self._every == 0 or epoch + 1 == total:
                self._validate(progress, entry, reporter)
            progress.history.append(entry)
            progress.epoch = epoch + 1
            progress.model = _copy(self.model.state_dict())
            progress.average = _copy(self._average.state)
            progress.optimizer = _optimizer_tensors(self.optimizer)
            progress.seconds += time.monotonic() - began
            keep(progress)
            best = {"best_epoch": progress.best_epoch, "best_miou": round(progress.best_miou, 6)}
            reporter.emit(metrics(**entry, epochs=total, **best))
            reporter.progress(epoch + 1, total, "epochs")
        return progress

    def _epoch(self, epoch: int, reporter: Reporter) -> float:
        """Train one epoch; return the mean loss of its steps."""
        rng = np.random.default_rng([self._seed, epoch])
        torch.manual_seed(int(rng.integers(2**62)))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        crops = self._sampler.draw(self._crops, rng)
        training_mode(self.model)
        self.model.start_epoch(epoch)
        losses = []
        with closing(_prefetch(self._cutter, list(chunks(crops, self._settings.batch)))) as ready:
            for step in range(self._steps):
                reporter.check()
                batches = list(islice(ready, self._settings.accumulation))
                number = epoch * self._steps + step
                set_rate(self.optimizer, self._settings, number, self._steps)
                losses.append(self._step(batches, generator))
                self._average.update(self.model, number)
                if not np.isfinite(losses[-1]):
                    raise LacunaError(
                        "diverged",
                        f"The loss is {losses[-1]} in epoch {epoch + 1}: the training has diverged.",
                        "Take a smaller learning rate (lr) or limit the gradient (clip) in the configuration file.",
                    )
        return float(np.mean(losses))

    def _step(self, batches: Sequence[Sequence[Batch]], generator: torch.Generator) -> float:
        """Take one step on the mean gradient over all crops of `batches`, each grouped by the modalities of its crops.

        Returns:
            The mean loss of the crops.
        """
        self.optimizer.zero_grad(set_to_none=True)
        groups = [group for batch in batches for group in batch]
        count, loss = sum(len(group.target) for group in groups), 0.0
        for group in groups:
            images = {name: image.to(self._device) for name, image in group.images.items()}
            target = group.target.to(self._device)
            with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
                terms = self.model.losses(
                    images, target, available=group.scenario, generator=generator, class_weights=self._weights
                )
            share = terms["total"] * (len(group.target) / count)
            share.backward()
            loss += float(share.detach())
        if self._settings.clip is not None:
            torch.nn.utils.clip_grad_norm_(
                [parameter for parameter in self.model.parameters() if parameter.requires_grad], self._settings.clip
            )
        self.optimizer.step()
        return loss

    def _validate(self, progress: Progress, entry: dict[str, Any], reporter: Reporter) -> None:
        """Measure all scenarios with the averaged weights, and keep these if they are the best so far, or the last."""
        self._measured.load_state_dict(self._average.state)
        tallies = self._evaluator(self._measured, self._device, reporter)
        score = mean_miou(tallies)
        entry["miou"] = round(score, 6)
        entry["scenarios"] = [
            {"available": list(scenario), "miou": round(tally.matrix.miou_of_known(), 6)}
            for scenario, tally in tallies.items()
        ]
        if score > progress.best_miou or self._keep_last:
            progress.best_miou, progress.best_epoch = score, entry["epoch"]
            progress.best = _copy(self._average.state)
        kept = f"{'kept' if self._keep_last else 'best'} {progress.best_miou:.4f} in epoch {progress.best_epoch}"
        reporter.info(
            f"Epoch {entry['epoch']} of {self._settings.epochs}: loss {entry['loss']:.4f}, validation mIoU {score:.4f} "
            f"(mean of {len(tallies)} scenarios; {kept})."
        )

    def _take_up(self, progress: Progress) -> None:
        """Set model, average, optimiser and strategy as they were."""
        self.model.load_state_dict(progress.model)
        self._strategy.restore(progress.history)
        self._average.load(progress.average)
        _restore_optimizer(self.optimizer, progress.optimizer)


def training_mode(model: nn.Module) -> None:
    """Put `model` into training mode, but for modules all of whose parameters are frozen.

    These keep their norm statistics and drop nothing: they are to compute as they do in use.
    """
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()


def make_optimizer(model: SegmentationModel, settings: TrainingSettings) -> torch.optim.Optimizer:
    """Return the optimiser, without weight decay on parameters of one dimension.

    What is new has a rate of its own, and so has the encoder. Frozen parameters are left out.
    """
    encoder = {id(parameter) for parameter in model.pretrained_parameters()}
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        factor = settings.encoder_lr_factor if id(parameter) in encoder else 1.0
        if name in model.new_parameters:
            factor = settings.new_lr_factor
        decay = settings.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((factor, decay), []).append(parameter)
    listed = [{"params": items, "factor": key[0], "weight_decay": key[1]} for key, items in groups.items()]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(listed, lr=settings.lr, momentum=settings.momentum, nesterov=settings.nesterov)
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return kind(listed, lr=settings.lr, betas=settings.betas, eps=settings.eps)


def rate_factor(settings: TrainingSettings, step: int, steps: int) -> float:
    """Return the learning rate of step `step` (from 0) as a share of `lr`: linear warm-up, then the schedule.

    Cosine with warm restarts: Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983, equation 5.

    Args:
        settings: with epochs, warm-up and schedule.
        step: number of steps of the optimiser before this one, from the beginning of the training.
        steps: steps of the optimiser in an epoch.
    """
    total, warm = settings.epochs * steps, settings.warmup_epochs * steps
    if step < warm:
        return settings.warmup_ratio + (1 - settings.warmup_ratio) * step / warm
    if settings.schedule == "cosine_restarts":
        return 0.5 + 0.5 * math.cos(math.pi * ((step - warm) % settings.restart_steps) / settings.restart_steps)
    if settings.schedule == "flat":
        cooling = settings.cooldown * total
        return min(1.0, (total - step) / cooling) if cooling else 1.0
    if settings.schedule == "step":
        return settings.decay_factor ** ((step - warm) // (settings.decay_epochs * steps))
    return (1 - (step - warm) / (total - warm)) ** settings.poly_power


def set_rate(optimizer: torch.optim.Optimizer, settings: TrainingSettings, step: int, steps: int) -> None:
    """Set the learning rate of all groups for a step; arguments as for `rate_factor`."""
    for group in optimizer.param_groups:
        group["lr"] = settings.lr * group["factor"] * rate_factor(settings, step, steps)


def _prefetch(cutter: Cutter, steps: Sequence[Sequence[Crop]]) -> Generator[list[Batch], None, None]:
    """Yield the batches of each step in order, cut beforehand in threads."""
    with ThreadPoolExecutor(_READERS, "lacuna-crops") as pool:
        waiting: list[Future[list[Batch]]] = []
        try:
            for crops in steps:
                waiting.append(pool.submit(lambda chosen: collate([cutter(crop) for crop in chosen]), crops))
                if len(waiting) > _AHEAD:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()


def _copy(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return copies of the optimiser's tensors by `INDEX.NAME`; what has none yet (a momentum) is left out."""
    state = optimizer.state_dict()["state"]
    named = {f"{index}.{name}": value for index, values in state.items() for name, value in values.items()}
    return _copy({name: value for name, value in named.items() if isinstance(value, Tensor)})


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Give the optimiser the tensors that `_optimizer_tensors` returned."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
