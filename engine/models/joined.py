# SPDX-License-Identifier: GPL-2.0-or-later
"""A network and its detail path as one model: their logits, weighted for each scenario, added.

The network sees what surrounds a pixel, the detail path the pixel itself. How much each counts is fitted to ground on
which neither was trained (`training.joining`); so a network that has learned little from few labels does no harm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .base import SegmentationModel, reference_size
from .config import bad_config, checked
from .detail import Detail, DetailConfig
from .layers import at_least_single
from .made import Made
from .registry import build, register


@dataclass(frozen=True)
class JoinedConfig:
    """What is joined.

    Attributes:
        network: `name` and `config` of its architecture.
        detail: settings of the detail path.
        weights: for each scenario, its modalities joined by +, by how much the logarithms of the probabilities of
            network and detail path are multiplied before they are added; both 0.5 where a scenario is not named.
    """

    network: dict[str, Any] = field(default_factory=dict)
    detail: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.network.get("name"), str) or not isinstance(self.network.get("config"), dict):
            raise ValueError(f"network is {self.network}, expected name and config of an architecture")
        if self.network["name"] in ("joined", "detail", "forest"):
            raise ValueError(f"network is {self.network['name']}, expected a network")
        for key, pair in self.weights.items():
            if len(pair) != 2 or min(pair) < 0 or max(pair) <= 0:
                raise ValueError(f"weights has {key} = {pair}, expected two numbers of at least 0, not both 0")


@register("joined")
class Joined(Made):
    """A network and a detail path; answers in every scenario in which the network does.

    Attributes:
        network: the network.
        detail: the detail path.
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
        self.factors, self.coarsest = self.network.factors, self.network.coarsest
        self.output_stride = self.network.output_stride
        self.margin = max(self.network.margin, self.detail.margin)
        self.native_size = self.network.native_size

    def forward(self, images: Mapping[str, Tensor], size: tuple[int, int] | None = None) -> Tensor:
        """Return the weighted sum of both logits; see `SegmentationModel.forward`."""
        names, size = self.present(images), reference_size(images, size)
        own, near = self.model_config.weights.get("+".join(names), (0.5, 0.5))
        # What counts for nothing is not computed.
        parts = [(own, self.network)] * (own > 0) + [(near, self.detail)] * (near > 0)
        logits = [weight * at_least_single(part(images, size)).log_softmax(1) for weight, part in parts]
        return logits[0] if len(logits) == 1 else logits[0] + logits[1]

    def latent(self, images: Mapping[str, Tensor], size: tuple[int, int] | None = None) -> Tensor:
        """Return the latent map of the network."""
        return self.network.latent(images, size)


def join(network: SegmentationModel, detail: Detail, weights: Mapping[str, list[float]]) -> Joined:
    """Return `network` and `detail`, which must know the same modalities and classes, as one model."""
    parts = {"name": network.architecture, "config": network.config()}
    config = JoinedConfig(parts, detail.config(), dict(weights))
    with torch.random.fork_rng(devices=[]):
        joined = Joined(network.modalities, network.classes, config)
    joined.network.load_state_dict(network.state_dict())
    joined.detail.load_state_dict(detail.state_dict())
    return joined.eval()
