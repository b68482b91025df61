# SPDX-License-Identifier: GPL-2.0-or-later
"""The network of a fine-tuning: that of the checkpoint with the new classes, and which of its weights are trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..errors import LacunaError
from ..models.base import SegmentationModel
from ..models.class_tensors import transfer
from ..models.registry import build
from .lora import adapters
from .task import Task
from .trainable import choose_trainable


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


def adapt_network(task: Task, base: SegmentationModel, device: torch.device) -> SegmentationModel:
    """Return the network to train: that of the checkpoint, with the new classes, frozen as the method says.

    Args:
        task: what was asked for.
        base: the network of the checkpoint.
        device: where to compute.

    Raises:
        LacunaError: `not-trainable`, `no-encoder`, `bad-config`, `fixed-classes`.
    """
    kind, classes = task.card.architecture, task.classes
    with torch.random.fork_rng(devices=[]):
        model = build(kind["name"], kind["config"], base.modalities, len(classes.sources))
    state = base.state_dict()
    if classes.changed:
        state = transfer(state, model.state_dict(), base.class_tensors(), classes.sources, base.classes)
    model.load_state_dict(state)
    model = model.to(device)
    torch.manual_seed(task.job.seed)
    choose_trainable(model, task.job.method, task.settings.lora, bool(classes.added or classes.merged))
    if classes.added:
        named = base.class_tensors().names(len(classes.sources))
        model.new_parameters = frozenset(name for name, _ in model.named_parameters() if name in named)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise LacunaError(
            "not-trainable",
            f"With the method {task.job.method} nothing of {task.job.checkpoint} could be trained.",
            "Choose another method.",
        )
    return model


def whole_tensors(task: Task, base: SegmentationModel, model: SegmentationModel) -> dict[str, Tensor]:
    """Return the tensors that an adapter file must hold beside adapters: those trained as they are, or new."""
    small = {id(item) for adapter in adapters(model).values() for item in adapter.parameters()}
    whole = [name for name, item in model.named_parameters() if item.requires_grad and id(item) not in small]
    new = base.class_tensors().names(len(task.classes.sources)) if task.classes.changed else []
    names = {*whole, *new}
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items() if name in names}
