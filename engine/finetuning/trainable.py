# SPDX-License-Identifier: GPL-2.0-or-later
"""Which weights a fine-tuning trains: all, those of the classes, all but the encoders, or adapters beside them."""

from __future__ import annotations

from torch import nn

from ..errors import LacunaError
from ..models.base import SegmentationModel
from .lora import LoraConfig, adapters, add_lora


def choose_trainable(model: SegmentationModel, method: str, lora: LoraConfig, new_classes: bool) -> None:
    """Freeze what `method` does not train.

    Args:
        model: the network, with its final classes.
        method: `full`, everything; `head`, the tensors that have a part for each class; `decoder`, everything but the
            encoders; `lora`, adapters alone.
        lora: settings of adapters.
        new_classes: whether classes were added or merged: then `lora` trains the head as well, which has to learn them.

    Raises:
        LacunaError: `no-encoder`, for `decoder` with a network that names none; `bad-config`, no layer takes adapters.
    """
    head, names = [], []
    if method == "head" or (method == "lora" and new_classes):
        names = model.class_tensors().names(model.classes)
        head = [parameter for name, parameter in model.named_parameters() if name in names]
    if method == "lora":
        add_lora(model, lora, names)
    elif method != "full":
        frozen = set(map(id, model.parameters() if method == "head" else encoder_parameters(model)))
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) not in frozen)
    for parameter in head:
        parameter.requires_grad_(True)


def encoder_parameters(model: SegmentationModel) -> list[nn.Parameter]:
    """Return the parameters of the encoders: what the network calls so, else its modules of that name."""
    found = model.encoder_parameters()
    if not found:
        children = [child for name, child in model.named_children() if name.startswith("encoder")]
        found = [parameter for child in children for parameter in child.parameters()]
    if not found:
        raise LacunaError(
            "no-encoder",
            f"Architecture {model.architecture} has no encoder that could be frozen.",
            "Train everything (full), the head or adapters (lora).",
        )
    return found


def count_trained(model: nn.Module) -> dict[str, int]:
    """Return how many numbers the network has, how many are trained, and how many of these are adapters."""
    trained = [parameter.numel() for parameter in model.parameters() if parameter.requires_grad]
    small = sum(adapter.A.numel() + adapter.B.numel() for adapter in adapters(model).values())
    return {"all": sum(parameter.numel() for parameter in model.parameters()), "trained": sum(trained), "lora": small}
