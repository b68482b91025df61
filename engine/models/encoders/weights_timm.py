# SPDX-License-Identifier: GPL-2.0-or-later
"""Weights of a whole model of timm, brought to the backbone that timm makes of it with `features_only`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from .channels import fit_channels
from .pretrained import unfit

# Some backbones are held as `model`, and some have their stages taken apart: stages.0 is then called stages_0.
_HELD = re.compile(r"^model\.")
_APART = re.compile(r"^([A-Za-z]+(?:_[A-Za-z]+)*)_(\d+)\.")
_COUNTER = "num_batches_tracked"


def fit_backbone(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return the state of a backbone from the published `weights` of the whole model.

    What follows the last map (classifier, last norms, later stages) is left out: it is what the backbone has no part
    for. The convolution that meets the image is fitted to the number of its bands (`fit_channels`).

    Args:
        own: state of the backbone, which gives names and shapes.
        weights: tensors as timm names them.
        name: of the encoder, for messages.

    Raises:
        LacunaError: `bad-encoder-weights` where a tensor is missing, left over within a part that the backbone has, or
            of another shape.
    """
    given = {_plain(key): value for key, value in weights.items()}
    wanted = {key: _plain(key) for key in own}
    parts = {_part(key) for key in wanted.values()}
    extra = sorted(key for key in set(given) - set(wanted.values()) if _part(key) in parts)
    if extra:
        raise unfit(name, f"{extra[0][:80]} is left over")
    found, first = {}, True
    for key, tensor in own.items():
        source = given.get(wanted[key], tensor if key.endswith(_COUNTER) else None)
        if source is None:
            raise unfit(name, f"{wanted[key]} is missing")
        if first and tensor.ndim == source.ndim == 4:
            source, first = fit_channels(source, tensor.shape[1]), False
        if source.shape != tensor.shape:
            raise unfit(name, f"{wanted[key]} is {tuple(source.shape)}, expected {tuple(tensor.shape)}")
        found[key] = source
    return found


def _plain(name: str) -> str:
    """Return the name of a tensor as the whole model has it."""
    return _APART.sub(r"\1.\2.", _HELD.sub("", name))


def _part(name: str) -> str:
    """Return the part of the model that holds the tensor `name`: its first word, with the number that follows."""
    words = name.split(".")
    return ".".join(words[:2]) if len(words) > 1 and words[1].isdigit() else words[0]
