# SPDX-License-Identifier: GPL-2.0-or-later
"""The networks that a user would otherwise take, of the product's encoder and head; no checkpoint can name them.

Shapes: B images, K classes, C channels of a modality, H x W the reference grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lacuna.engine.models.base import SegmentationModel, TrainingSettings, reference_size
from lacuna.engine.models.containers import summed
from lacuna.engine.models.encoders import build_encoder
from lacuna.engine.models.encoders.base import Encoder
from lacuna.engine.models.grids import crop_cells, enlarge, pad_to_multiple, to_reference
from lacuna.engine.models.heads import MLPHead
from lacuna.engine.models.layers import module_key
from lacuna.engine.models.objective import cross_entropy
from lacuna.engine.models.registry import architecture

_STACK = "stack"


@dataclass(frozen=True)
class BaselineConfig:
    """The settings of a baseline: those of SGMA that are left without its method.

    Attributes:
        encoder: name of the encoder.
        encoder_options: its own settings.
        head_width: channels of the decode head.
        head_dropout: share of its channels left out in training.
    """

    encoder: str = "resnet_small"
    encoder_options: dict[str, Any] = field(default_factory=dict)
    head_width: int = 128
    head_dropout: float = 0.1


class Baseline(SegmentationModel):
    """A network whose objective is the cross-entropy of all that it is given; a strategy draws the scenarios."""

    Config = BaselineConfig

    def maps(self, images: Mapping[str, Tensor], size: tuple[int, int]) -> list[Tensor]:
        """Return the four fused maps (B, C_i, h_i, w_i) of the images present, on the reference grid of `size`."""
        raise NotImplementedError

    def finish(self, encoder: Encoder) -> None:
        """Make the head for maps such as those of `encoder`."""
        config, self.strides = self.model_config, encoder.strides
        self.head = MLPHead(encoder.out_channels, self.strides, config.head_width, self.classes, config.head_dropout)
        self.output_stride = self.strides[-1]
        self.margin = 2 * self.output_stride

    def forward(self, images: Mapping[str, Tensor], size: tuple[int, int] | None = None) -> Tensor:
        """Return logits (B, K, H, W); see `SegmentationModel.forward`."""
        names, size = self.present(images), reference_size(images, size)
        maps = self.maps({name: images[name] for name in names}, size)
        return enlarge(self.head(maps), self.strides[0], size)

    def latent(self, images: Mapping[str, Tensor], size: tuple[int, int] | None = None) -> Tensor:
        """Return the coarsest of the fused maps."""
        return self.maps(images, reference_size(images, size))[-1]

    def losses(
        self,
        images: Mapping[str, Tensor],
        target: Tensor,
        *,
        available: Sequence[str] | None = None,
        generator: torch.Generator | None = None,
        class_weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the cross-entropy as `total`; see `SegmentationModel.losses`."""
        size = (target.shape[-2], target.shape[-1])
        given = images if available is None else {name: images[name] for name in available}
        return {"total": cross_entropy(self(given, size), target, class_weights)}

    @classmethod
    def preset_config(cls, preset: str = "default") -> dict[str, Any]:
        """Return nothing: there is one preset."""
        return {}

    @classmethod
    def settings(cls, preset: str = "default") -> TrainingSettings:
        """Return the training settings of SGMA, which all of Lacuna's architectures share."""
        return architecture("sgma").settings(preset)


class Stacked(Baseline):
    """One network on the stacked bands of all modalities, with zeros (the mean) for those that are missing."""

    def __init__(self, modalities: Mapping[str, int], classes: int, config: BaselineConfig) -> None:
        super().__init__(modalities, classes, config)
        inputs = {_STACK: sum(modalities.values())}
        self.encoder = build_encoder(config.encoder, inputs, "own", config.encoder_options)
        self.finish(self.encoder)

    def stack(self, images: Mapping[str, Tensor], size: tuple[int, int]) -> Tensor:
        """Return all bands (B, sum of C, H, W) on the reference grid, 0 where a modality is missing."""
        like = next(iter(images.values()))
        bands = []
        for name, channels in self.modalities.items():
            if name in images:
                image = images[name]
                bands.append(to_reference(image, (image.shape[-2], image.shape[-1]), size, 1))
            else:
                bands.append(like.new_zeros(like.shape[0], channels, *size))
        return torch.cat(bands, 1)

    def maps(self, images: Mapping[str, Tensor], size: tuple[int, int]) -> list[Tensor]:
        """Return the maps of the stack; see `Baseline.maps`."""
        found = self.encoder(pad_to_multiple(self.stack(images, size), self.output_stride), _STACK)
        return [crop_cells(item, size, stride) for item, stride in zip(found, self.strides)]


class Averaged(Baseline):
    """One encoder a modality; the maps of the modalities present are averaged."""

    def __init__(self, modalities: Mapping[str, int], classes: int, config: BaselineConfig) -> None:
        super().__init__(modalities, classes, config)
        encoders = {
            name: build_encoder(config.encoder, {name: channels}, "own", config.encoder_options)
            for name, channels in modalities.items()
        }
        self.encoders = nn.ModuleDict({module_key(name): encoder for name, encoder in encoders.items()})
        self.finish(next(iter(encoders.values())))

    def maps(self, images: Mapping[str, Tensor], size: tuple[int, int]) -> list[Tensor]:
        """Return the mean maps; see `Baseline.maps`."""
        columns = [self._own_maps(image, name, size) for name, image in images.items()]
        return [summed(scale) / len(scale) for scale in zip(*columns)]

    def _own_maps(self, image: Tensor, name: str, size: tuple[int, int]) -> list[Tensor]:
        """Return the maps of one modality on the reference grid."""
        own = (image.shape[-2], image.shape[-1])
        found = self.encoders[module_key(name)](pad_to_multiple(image, self.output_stride), name)
        return [
            to_reference(crop_cells(item, own, stride), own, size, stride) for item, stride in zip(found, self.strides)
        ]


class Alone(nn.Module):
    """One network a modality: of those present the one that was best on validation answers.

    Args:
        members: the network of each modality.
        validation: mIoU of each on the validation pixels.
    """

    def __init__(self, members: Mapping[str, Stacked], validation: Mapping[str, float]) -> None:
        super().__init__()
        self.members = nn.ModuleDict({module_key(name): model for name, model in members.items()})
        # The sort is stable: among equals the first in the order of the card.
        self.order = sorted(members, key=lambda name: -validation[name])

    def chosen(self, names: Sequence[str]) -> str:
        """Return the modality whose network answers where `names` are present."""
        return next(name for name in self.order if name in names)

    def forward(self, images: Mapping[str, Tensor], size: tuple[int, int] | None = None) -> Tensor:
        """Return logits (B, K, H, W) of images; see `SegmentationModel.forward`."""
        name = self.chosen(list(images))
        return self.members[module_key(name)]({name: images[name]}, reference_size(images, size))
