# SPDX-License-Identifier: GPL-2.0-or-later
"""A network and its detail path as one model: their logits, weighted for each scenario, added.

The network sees what surrounds a pixel, the detail path the pixel itself. How much each counts is fitted to ground on
which neither was trained (`training.joining`); so a network that has learned little from few labels does no harm.

A third part may be what Dynamic World says (`world_part`), in scenarios with Sentinel-2: for checkpoints that are to
serve at places unlike those of their labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .base import SegmentationModel, reference_size
from .config import bad_config, checked
from .detail import Detail, DetailConfig
from .layers import at_least_single
from .made import Made
from .registry import build, register
from .window_features import placed
from .world_part import WorldPart, WorldPartConfig

# Of scenarios that are not named.
_ALIKE = (0.5, 0.5)


@dataclass(frozen=True)
class JoinedConfig:
    """What is joined.

    Attributes:
        network: `name` and `config` of its architecture.
        detail: settings of the detail path.
        weights: for each scenario, its modalities joined by +, by how much the logarithms of the probabilities of
            network and detail path are multiplied before they are added; both 0.5 where a scenario is not named. A
            third number is that of what Dynamic World says.
        world: settings of `WorldPart`; empty: there is no third part.
    """

    network: dict[str, Any] = field(default_factory=dict)
    detail: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, list[float]] = field(default_factory=dict)
    world: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.network.get("name"), str) or not isinstance(self.network.get("config"), dict):
            raise ValueError(f"network is {self.network}, expected name and config of an architecture")
        if self.network["name"] in ("joined", "detail", "forest"):
            raise ValueError(f"network is {self.network['name']}, expected a network")
        for key, numbers in self.weights.items():
            most = 3 if self.world and self.world.get("modality") in key.split("+") else 2
            if not 2 <= len(numbers) <= most or min(numbers) < 0 or max(numbers) <= 0:
                wanted = "two numbers" if most == 2 else "two or three numbers"
                raise ValueError(f"weights has {key} = {numbers}, expected {wanted} of at least 0, not all 0")


@register("joined")
class Joined(Made):
    """A network and a detail path; answers in every scenario in which the network does.

    Attributes:
        network: the network.
        detail: the detail path.
        world: what Dynamic World says by itself; an `Identity` where there is no third part.
    """

    Config = JoinedConfig
    subject = "A network joined with a detail path"
    hint = "Train its network; that makes a new detail path."

    def __init__(self, modalities: Mapping[str, int], classes: int, config: JoinedConfig) -> None:
        super().__init__(modalities, classes, config)
        strange = [key for key in config.weights if not set(key.split("+")) <= set(modalities)]
        if strange:
            known = f"Its modalities are {', '.join(modalities)}."
            raise bad_config("architecture joined", f"has weights for {strange[0]}, which is no scenario", known)
        self.network = build(config.network["name"], config.network["config"], modalities, classes)
        self.detail = Detail(modalities, classes, checked(DetailConfig, config.detail, "detail path"))
        self.world = self._world(config)
        self.factors, self.coarsest = self.network.factors, self.network.coarsest
        self.output_stride = self.network.output_stride
        self.margin = max(self.network.margin, self.detail.margin)
        self.native_size = self.network.native_size

    def forward(self, images: Mapping[str, Tensor], size: tuple[int, int] | None = None) -> Tensor:
        """Return the weighted sum of both logits; see `SegmentationModel.forward`."""
        names, size = self.present(images), reference_size(images, size)
        weights = self.model_config.weights.get("+".join(names), _ALIKE)
        # What counts for nothing is not computed.
        parts: tuple[Callable[..., Tensor], ...] = (self.network, self.detail, self._said)
        logits = [
            weight * at_least_single(part(images, size)).log_softmax(1)
            for weight, part in zip(weights, parts)
            if weight > 0
        ]
        total = logits[0]
        for other in logits[1:]:
            total = total + other
        return total

    def _said(self, images: Mapping[str, Tensor], size: tuple[int, int]) -> Tensor:
        """Return what Dynamic World says (B, K, H, W); weights ask for it only where there is a third part."""
        name = self.model_config.world["modality"]
        with torch.autocast(images[name].device.type, enabled=False):
            beliefs: Tensor = self.world(placed(self.detail.beliefs(name, images[name]), size))
        return beliefs

    def _world(self, config: JoinedConfig) -> nn.Module:
        """Return the third part that `config` asks for; its modality and its classes must be the model's."""
        if not config.world:
            return nn.Identity()
        part = checked(WorldPartConfig, config.world, "world part")
        if not self.detail.has_prior(part.modality):
            known = ", ".join(self.detail.model_config.priors) or "none"
            raise bad_config(
                "world part", f"is that of {part.modality!r}", f"The detail path has priors for these: {known}."
            )
        if len(part.classes[0]) != self.classes:
            found = f"has {len(part.classes[0])} classes, where the model has {self.classes}"
            raise bad_config("world part", found, "Give one column a class.")
        return WorldPart(part)

    def latent(self, images: Mapping[str, Tensor], size: tuple[int, int] | None = None) -> Tensor:
        """Return the latent map of the network."""
        return self.network.latent(images, size)


def join(
    network: SegmentationModel,
    detail: Detail,
    weights: Mapping[str, list[float]],
    world: Mapping[str, Any] | None = None,
) -> Joined:
    """Return `network` and `detail`, which must know the same modalities and classes, as one model.

    Args:
        network: the network.
        detail: the detail path.
        weights: as in `JoinedConfig`.
        world: settings of a third part (`WorldPartConfig`), or None.
    """
    parts = {"name": network.architecture, "config": network.config()}
    config = JoinedConfig(parts, detail.config(), dict(weights), dict(world or {}))
    with torch.random.fork_rng(devices=[]):
        joined = Joined(network.modalities, network.classes, config)
    joined.network.load_state_dict(network.state_dict())
    joined.detail.load_state_dict(detail.state_dict())
    return joined.eval()
