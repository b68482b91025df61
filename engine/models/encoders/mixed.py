# SPDX-License-Identifier: GPL-2.0-or-later
"""An encoder made of several: each modality gets the one that knows it, and all give maps of one kind."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import lcm
from typing import Any, Protocol

from torch import Tensor, nn
from torch.nn import functional as F

from ..config import bad_config
from ..containers import ModuleDictOf, summed
from ..grids import crop_cells, pad_to_multiple
from .base import Encoder, LoadingEncoder, StemMode
from .descent import STRIDES, Descent, suitable_heads, widths_fault
from .dynamic_world import DynamicWorldEncoder
from .galileo import GalileoEncoder
from .kinds import PRETRAINED
from .pretrained import Pretrained, PretrainedOptions

# These give such maps by themselves.
_FITTING: tuple[type[Pretrained], ...] = (DynamicWorldEncoder, GalileoEncoder)


class Builder(Protocol):
    """What makes an encoder by its name: `build_encoder`."""

    def __call__(self, name: str, inputs: Mapping[str, int], stem: StemMode, options: Mapping[str, Any]) -> Encoder:
        """Return a new encoder."""


@dataclass(frozen=True)
class MixedOptions:
    """What may be chosen.

    Attributes:
        encoders: name of the encoder of each modality, by name.
        other: name of the encoder of modalities that are not in `encoders`.
        options: options of these encoders, by their name.
        frozen: names of pretrained encoders whose weights stay as they are.
        widths: channels of the four maps.
        bands: as for pretrained encoders (`pretrained.PretrainedOptions`).
        scaled_otherwise: the same.
    """

    encoders: dict[str, Any] = field(default_factory=dict)
    other: str = "resnet_small"
    options: dict[str, Any] = field(default_factory=dict)
    frozen: list[str] = field(default_factory=list)
    widths: list[int] = field(default_factory=lambda: [64, 96, 128, 160])
    bands: dict[str, Any] = field(default_factory=dict)
    scaled_otherwise: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        PretrainedOptions(False, self.bands, self.scaled_otherwise)
        if fault := widths_fault(self.widths):
            raise ValueError(fault)
        for name, value in self.encoders.items():
            if not isinstance(value, str):
                raise ValueError(f"encoders has {name} = {value!r}, expected the name of an encoder")
        for name, value in self.options.items():
            if not isinstance(value, dict):
                raise ValueError(f"options has {name} = {value!r}, expected a table of options of that encoder")
        strange = [name for name in (*self.frozen, *self.options) if name not in self.names()]
        if strange:
            raise ValueError(f"{strange[0]!r} is among frozen or options, but no modality has that encoder")
        if "mixed" in self.names():
            raise ValueError("encoders names mixed itself, expected other encoders")

    def names(self) -> list[str]:
        """Return the names of all encoders that modalities may have, each once."""
        return list(dict.fromkeys([*self.encoders.values(), self.other]))


class Adapted(Encoder):
    """Another encoder whose maps are brought together at half the resolution, from which four maps are learned.

    Each map goes through a 1 x 1 convolution and is resized; the sum is the finest map.

    Args:
        inner: the encoder.
        widths: channels of the four maps.
    """

    strides = STRIDES

    def __init__(self, inner: Encoder, widths: Sequence[int]) -> None:
        super().__init__(inner.inputs, "own")
        self.inner = inner
        self.out_channels = tuple(widths)
        self.heads = suitable_heads(widths)
        self.grid_step = lcm(inner.grid_step, inner.strides[-1])
        self.laterals = nn.ModuleList(nn.Conv2d(channels, widths[0], 1) for channels in inner.out_channels)
        self.descent = Descent(widths)

    def make_stem(self, channels: int, domains: list[str]) -> nn.Module:
        """Return nothing: stems are those of the encoder within."""
        raise NotImplementedError

    def enter(self, image: Tensor, domain: str) -> Tensor:
        """Return the sum (B, C, h / 2, w / 2) of the maps of `image` (B, C, h, w)."""
        padded = pad_to_multiple(image, self.inner.strides[-1])
        half = (padded.shape[-2] // 2, padded.shape[-1] // 2)
        found = [lateral(x) for lateral, x in zip(self.laterals, self.inner(padded, domain))]
        whole = summed(_resized(x, half) for x in found)
        return crop_cells(whole, (image.shape[-2], image.shape[-1]), 2)

    def stage(self, index: int, x: Tensor, domain: str) -> Tensor:
        """Return map `index`; see `Encoder.stage`."""
        return self.descent(index, x, domain)


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Return `x` (B, C, h, w) on `size`: enlarged linearly, or the mean of blocks of whole pixels."""
    if x.shape[-1] > size[1]:
        return F.avg_pool2d(x, x.shape[-1] // size[1])
    return x if tuple(x.shape[-2:]) == size else F.interpolate(x, size=size, mode="bilinear", align_corners=False)


class MixedEncoder(LoadingEncoder):
    """Several encoders, each for the modalities that it is named for; those of one encoder share it.

    Args:
        inputs: number of channels by domain.
        stem: how domains share stems within an encoder (`base.plan_stems`).
        variant: what makes encoders by name.
        options: what may be chosen.
    """

    Options = MixedOptions
    strides = STRIDES

    def __init__(self, inputs: Mapping[str, int], stem: StemMode, variant: Builder, options: MixedOptions) -> None:
        super().__init__(inputs, "own")
        self.options = options
        self.out_channels = tuple(options.widths)
        self.heads = suitable_heads(options.widths)
        self.chosen = {domain: options.encoders.get(domain, options.other) for domain in inputs}
        self.parts: ModuleDictOf[Encoder] = ModuleDictOf()
        for name in dict.fromkeys(self.chosen.values()):
            own = {domain: channels for domain, channels in inputs.items() if self.chosen[domain] == name}
            self.parts[_key(name)] = self._part(name, own, stem, variant)
        self.grid_step = lcm(*(part.grid_step for part in self.parts.values()))

    def _part(self, name: str, inputs: Mapping[str, int], stem: StemMode, build: Builder) -> Encoder:
        """Return the encoder called `name` for `inputs`, its maps of the common kind."""
        encoder = build(name, inputs, stem, self._options_of(name, inputs))
        if isinstance(encoder, _FITTING):
            return encoder
        if not isinstance(encoder, Pretrained) and name in self.options.frozen:
            what = f"is told to freeze {name}, which comes with no weights"
            raise bad_config("encoder mixed", what, "Take it out of frozen.")
        return Adapted(encoder, self.options.widths)

    def _options_of(self, name: str, inputs: Mapping[str, int]) -> dict[str, Any]:
        """Return the options of the encoder called `name`, which serves the modalities of `inputs`."""
        given = dict(self.options.options.get(name, {}))
        kind = PRETRAINED.get(name)
        if kind is None:
            return given
        if kind in _FITTING:
            given["widths"] = self.options.widths
        given["frozen"] = given.get("frozen", False) or name in self.options.frozen
        for key in ("bands", "scaled_otherwise"):
            given[key] = {domain: value for domain, value in getattr(self.options, key).items() if domain in inputs}
        return given

    def make_stem(self, channels: int, domains: list[str]) -> nn.Module:
        """Return nothing: stems are those of the parts."""
        raise NotImplementedError

    def enter(self, image: Tensor, domain: str) -> Tensor:
        """Return what the encoder of `domain` makes of `image` before its first map; see `Encoder.enter`."""
        return self.parts[_key(self.chosen[domain])].enter(image, domain)

    def stage(self, index: int, x: Tensor, domain: str) -> Tensor:
        """Return map `index`; see `Encoder.stage`."""
        return self.parts[_key(self.chosen[domain])].stage(index, x, domain)

    def _pretrained(self) -> dict[str, Pretrained]:
        """Return the pretrained encoders among the parts, by name."""
        inner = [part.inner if isinstance(part, Adapted) else part for part in self.parts.values()]
        return {part.name: part for part in inner if isinstance(part, Pretrained)}

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Copy published weights, each tensor named `ENCODER.TENSOR`; encoders that are not here are passed over."""
        for name, part in self._pretrained().items():
            start = f"{name}."
            part.load({key.removeprefix(start): value for key, value in weights.items() if key.startswith(start)})

    def pretrained_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that `load` sets."""
        return [parameter for part in self._pretrained().values() for parameter in part.pretrained_parameters()]


def _key(name: str) -> str:
    """Return the key under which a ModuleDict holds the encoder `name`."""
    return re.sub(r"\W", "_", name)
