# SPDX-License-Identifier: GPL-2.0-or-later
"""The contract of an encoder: a pyramid of four maps, one body for all modalities, stems of their own where needed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from math import lcm
from typing import ClassVar, Literal

from torch import Tensor, nn

from ..config import bad_config
from ..layers import module_key

StemMode = Literal["auto", "own", "repeat"]
SHARED = "shared"


def plan_stems(inputs: Mapping[str, int], mode: StemMode) -> dict[str, tuple[str, int]]:
    """Return for each domain the key of its stem and the channels that this stem takes.

    Args:
        inputs: number of channels by domain (modality).
        mode: `auto`: one stem for all where their channel counts are equal, else one each; `own`: one each;
            `repeat`: one stem of three channels, to which single-channel images are repeated, and one each for other
            counts (how multimodal models are fed to encoders trained on colour images).
    """
    if mode == "repeat":
        return {
            name: (SHARED, 3) if channels in (1, 3) else (module_key(name), channels)
            for name, channels in inputs.items()
        }
    if mode == "auto" and len(set(inputs.values())) == 1:
        return {name: (SHARED, channels) for name, channels in inputs.items()}
    return {name: (module_key(name), channels) for name, channels in inputs.items()}


class Encoder(nn.Module, ABC):
    """Turns the image of one domain into four maps of falling resolution.

    The stem is `stems.KEY`; everything else is shared, except norms with statistics of their own for each domain.

    Args:
        inputs: number of channels by domain; a domain is a modality, or just one name for an encoder used alone.
        stem: how domains share stems, see `plan_stems`.

    Attributes:
        out_channels: channels of the four maps.
        strides: their strides in pixels of the input; images must be padded to a multiple of the last.
        heads: attention heads that suit each map.
        stem_channels: channels of the stem's own map, at the first stride; None where the stem gives no map.
        grid_step: pixels by whose multiples, beside those of the last stride, an image may be moved and its maps move
            along.
    """

    Options: ClassVar[type]

    out_channels: tuple[int, ...]
    strides: tuple[int, ...]
    heads: tuple[int, ...]
    stem_channels: int | None = None
    grid_step: int = 1

    def __init__(self, inputs: Mapping[str, int], stem: StemMode = "auto") -> None:
        super().__init__()
        self.inputs = dict(inputs)
        self.plan = plan_stems(inputs, stem)
        self.stems = nn.ModuleDict()

    def add_stems(self) -> None:
        """Make the planned stems; called by a subclass once it knows what `make_stem` needs."""
        for key, channels in dict(self.plan.values()).items():
            self.stems[key] = self.make_stem(channels, [name for name in self.plan if self.plan[name][0] == key])

    @abstractmethod
    def make_stem(self, channels: int, domains: list[str]) -> nn.Module:
        """Return a new stem for images of `channels` channels of `domains`; it is called with image and domain."""

    def features(self, x: Tensor, domain: str) -> list[Tensor]:
        """Return the four maps (B, C_i, H / s_i, W / s_i) that follow from `x`, the output of the stem."""
        maps = []
        for index in range(len(self.strides)):
            x = self.stage(index, x, domain)
            maps.append(x)
        return maps

    def stage(self, index: int, x: Tensor, domain: str) -> Tensor:
        """Return map `index` (B, C_i, H / s_i, W / s_i), for networks that exchange features between the stages.

        Args:
            index: which map, from 0.
            x: what `enter` returned, for the first map; else the map before it, which the caller may have changed.
            domain: whose image it is.

        Raises:
            LacunaError: `bad-config` from an encoder that only runs as a whole.
        """
        raise bad_config(
            f"encoder {type(self).__name__}",
            "cannot be run stage by stage",
            "Choose another encoder, or an architecture that fuses after the encoder.",
        )

    def enter(self, image: Tensor, domain: str) -> Tensor:
        """Return the output of the stem for `image` (B, C, h, w), a single channel repeated where the stem has more."""
        key, channels = self.plan[domain]
        if image.shape[1] != channels:
            image = image.expand(-1, channels, -1, -1)
        return self.stems[key](image, domain)

    def forward(self, image: Tensor, domain: str | None = None) -> list[Tensor]:
        """Return the four maps of `image` (B, C, h, w), sides multiples of the last stride.

        Args:
            image: scaled image of one domain.
            domain: which; may be left out where the encoder has only one.
        """
        domain = next(iter(self.inputs)) if domain is None else domain
        return self.features(self.enter(image, domain), domain)

    def levels(self, image: Tensor, domain: str | None = None) -> list[Tensor]:
        """Return five maps: the stem's, then the four of `forward`; without `stem_channels` the first of them twice."""
        if self.stem_channels is None:
            maps = self(image, domain)
            return [maps[0], *maps]
        domain = next(iter(self.inputs)) if domain is None else domain
        x = self.enter(image, domain)
        return [x, *self.features(x, domain)]

    def origin_step(self) -> int:
        """Return the pixels on whose multiples tiles begin: of the last stride, and of what the encoder needs."""
        return lcm(self.strides[-1], self.grid_step)

    def pretrained_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that published weights set, for a learning rate of their own."""
        return list(self.parameters())

    def published_name(self, name: str) -> str:
        """Return the name under which a single published encoder holds our tensor `name`: stem and domain left out."""
        parts = name.split(".")
        if parts[0] == "stems":
            parts[:2] = ["stem"]
        if "domains" in parts:
            at = parts.index("domains")
            del parts[at : at + 2]
        return ".".join(parts)


class LoadingEncoder(Encoder):
    """An encoder that knows itself what its published tensors are called."""

    @abstractmethod
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Copy the published `weights`, as float32.

        Raises:
            LacunaError: `bad-encoder-weights` where a tensor is missing, left over or of another shape.
        """
