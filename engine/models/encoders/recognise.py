# SPDX-License-Identifier: GPL-2.0-or-later
"""Which encoder published weights belong to: found by the names and shapes of their tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ...errors import LacunaError
from . import build_encoder
from .mit import MITS
from .pvt_v2 import VARIANTS
from .resnet import RESNETS
from .weights import canonical

FAMILIES: dict[str, list[str]] = {"pvt_v2": list(VARIANTS), "mit": list(MITS), "resnet": list(RESNETS)}
_COUNTERS = "num_batches_tracked"
_NAMED = 3


def recognise(weights: Mapping[str, Tensor], family: str) -> tuple[str, int, dict[str, Tensor]]:
    """Return the name of the encoder that `weights` belong to, the channels it takes, and its tensors.

    Args:
        weights: tensors under published or canonical names; a classifier among them is left out.
        family: one of `FAMILIES`, which the encoder must be of.

    Returns:
        Name, number of channels of the images, tensors under canonical names.

    Raises:
        LacunaError: `bad-import`, saying whose weights they are instead, or how they differ from the closest variant.
    """
    given = {name: value for name, value in canonical(weights).items() if not name.endswith(_COUNTERS)}
    first = next((given[name] for name in ("stem.proj.weight", "stem.conv.weight") if name in given), None)
    if first is None or first.ndim != 4 or first.shape[1] < 1:
        raise _unfit(family, f"the convolution that meets the image is not among their {len(given)} tensors")
    channels = int(first.shape[1])
    faults = {name: _faults(given, name, channels) for names in FAMILIES.values() for name in names}
    fitting = [name for name, found in faults.items() if not found]
    # MiT-b5 and PVT-v2-b5 are one network: then the family says which weights they are.
    own = [name for name in fitting if name in FAMILIES[family]]
    if own:
        return own[0], channels, given
    if fitting:
        other = next(key for key, names in FAMILIES.items() if fitting[0] in names)
        raise _unfit(family, f"they are those of {fitting[0]}", f"Import them as {other}.")
    closest = min(FAMILIES[family], key=lambda name: len(faults[name]))
    raise _unfit(family, f"of {', '.join(FAMILIES[family])}, {closest} is closest, but {_few(faults[closest])}")


def _faults(given: Mapping[str, Tensor], name: str, channels: int) -> list[str]:
    """Return how the tensors `given` differ from those of the encoder called `name`."""
    with torch.device("meta"):
        encoder = build_encoder(name, channels)
    own = {encoder.published_name(key): tuple(value.shape) for key, value in encoder.state_dict().items()}
    own = {key: shape for key, shape in own.items() if not key.endswith(_COUNTERS)}
    faults = [f"{key} is missing" for key in own if key not in given]
    faults += [f"{key[:80]} is left over" for key in given if key not in own]
    shapes = {key: tuple(given[key].shape) for key in own if key in given}
    return faults + [f"{key} is {shape}, expected {own[key]}" for key, shape in shapes.items() if shape != own[key]]


def _few(faults: Sequence[str]) -> str:
    """Return the first of `faults`, and how many more there are."""
    more = f"; and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
    return "; ".join(faults[:_NAMED]) + more


def _unfit(family: str, what: str, hint: str = "") -> LacunaError:
    hint = hint or "Give the state dict of an encoder alone, as its authors or timm publish it."
    return LacunaError("bad-import", f"The weights cannot be imported as {family}: {what}.", hint)
