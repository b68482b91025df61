# SPDX-License-Identifier: GPL-2.0-or-later
"""The network of Dynamic World (`dynamic_world_net`) as an architecture: one modality, which must be there.

It comes with the weights that were published for it, and is fine-tuned from these. The card's scaling ends with a
`z_score`, so that 0 is a typical pixel as in every checkpoint; that step is taken back before the first layer, which so
sees what the published one does.

The published network was trained on whole images. Of three ways to fill a hole, measured on four scenes, values from
its edge change least around it: 3 to 7 % of the classes within 22 pixels, a typical pixel 5 to 14 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .base import SegmentationModel, TrainingSettings, reference_size
from .config import bad_config
from .dynamic_world_net import REACH, DynamicWorldNet
from .grids import pad_to_multiple, to_reference
from .holes import fill_holes
from .objective import cross_entropy
from .registry import register

# The grid of half the resolution begins at even pixels.
STRIDE = 2


@dataclass(frozen=True)
class DynamicWorldConfig:
    """The settings of the architecture.

    Attributes:
        mean: for each band, what the last step of the card's scaling subtracts.
        std: for each band, what it then divides by. Both empty: the scaling has no such step.
    """

    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or any(value <= 0 for value in self.std):
            raise ValueError(
                f"mean has {len(self.mean)} numbers and std {self.std}, expected as many, those of std above 0"
            )


@register("dynamic_world")
class DynamicWorld(SegmentationModel):
    """Dynamic World's network on one modality.

    Holes are filled from their edges (`holes`). An image with an odd number of rows or columns is padded by one, its
    last repeated: so tiles agree with the whole scene. The published network, given such an image, squeezes all of it
    into half as many whole cells instead.

    Attributes:
        network: the network.
    """

    Config = DynamicWorldConfig
    output_stride = STRIDE
    margin = REACH + STRIDE

    def __init__(self, modalities: Mapping[str, int], classes: int, config: DynamicWorldConfig) -> None:
        super().__init__(modalities, classes, config)
        subject = "architecture dynamic_world"
        if len(modalities) != 1:
            found = f"was given {len(modalities)} modalities ({', '.join(modalities)})"
            raise bad_config(subject, found, "It takes one alone.")
        bands = next(iter(modalities.values()))
        if config.mean and len(config.mean) != bands:
            found = f"was given mean and std of {len(config.mean)} bands for {bands}"
            raise bad_config(subject, found, "Give one number for each band.")
        self.network = DynamicWorldNet(bands, classes)

    def forward(self, images: Mapping[str, Tensor], size: tuple[int, int] | None = None) -> Tensor:
        """Return the logits (B, K, H, W); see `SegmentationModel.forward`."""
        return self.network.head(self.latent(images, size))

    def latent(self, images: Mapping[str, Tensor], size: tuple[int, int] | None = None) -> Tensor:
        """Return the features (B, 144, H, W) that the logits are a 1 x 1 convolution of; each pixel's has length 1."""
        (name,), (rows, columns) = self.present(images), reference_size(images, size)
        image = fill_holes(images[name], self.margin)
        image = to_reference(image, (image.shape[-2], image.shape[-1]), (rows, columns), 1)
        features = self.network.features(pad_to_multiple(self._unscaled(image), STRIDE))
        return features["features"][..., :rows, :columns]

    def losses(
        self,
        images: Mapping[str, Tensor],
        target: Tensor,
        *,
        available: Sequence[str] | None = None,
        generator: torch.Generator | None = None,
        class_weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the cross-entropy as `total`; there is but one scenario to draw. See `SegmentationModel.losses`."""
        logits = self(images, (target.shape[-2], target.shape[-1]))
        return {"total": cross_entropy(logits, target, class_weights)}

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of all layers before the decoder."""
        net = self.network
        return [item for part in (net.stem, net.block1, net.block2, net.skip) for item in part.parameters()]

    @classmethod
    def preset_config(cls, preset: str = "default") -> dict[str, Any]:
        """Return nothing: the presets differ in their training alone."""
        return {}

    @classmethod
    def settings(cls, preset: str = "default") -> TrainingSettings:
        """Return the training settings; a fine-tuning takes a share of their learning rate.

        Those of the paper were not published but for the optimiser, Adam. Both presets are therefore the same: gentle
        enough for weights that come trained.
        """
        return TrainingSettings(lr=1e-3, weight_decay=1e-2, epochs=60, warmup_epochs=3, batch=8, crop=96, clip=1.0)

    def _unscaled(self, image: Tensor) -> Tensor:
        """Return `image` (B, C, H, W) before the last step of its scaling."""
        if not self.model_config.mean:
            return image
        last = (self.model_config.mean, self.model_config.std)
        mean, std = (torch.tensor(values, dtype=image.dtype, device=image.device).view(-1, 1, 1) for values in last)
        return image * std + mean
