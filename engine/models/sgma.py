# SPDX-License-Identifier: GPL-2.0-or-later
"""SGMA: semantic-guided fusion of whichever modalities are present, and modality-aware sampling in training.

Wen, Liao, Xiao, Wang 2026, "Semantic-Guided Modality-Aware Segmentation for Remote Sensing with Incomplete Multimodal
Data", https://arxiv.org/abs/2603.02505. No code was published. What the paper leaves open is filled in as the
docstrings say; its parameter count (4,790,272 for three modalities, five classes and PVT-v2-b2) fixes most of it.

Shapes: B images, M modalities present, K classes, C channels, P = H * W positions of one scale, h heads of d channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import SegmentationModel, TrainingSettings, reference_size
from .config import bad_config
from .containers import ModuleDictOf, ModuleListOf, summed
from .encoders import build_encoder
from .encoders.base import StemMode
from .encoders.weights import load_published
from .grids import crop_cells, enlarge, pad_to_multiple, to_reference
from .heads import MLPHead
from .layers import at_least_single, module_key
from .objective import cross_entropy
from .registry import register

KERNELS = (11, 7, 3)
REDUCED = [64, 128, 320, 512]
SMALLEST_WEIGHT = 1e-6


@dataclass(frozen=True)
class SgmaConfig:
    """The settings of SGMA.

    Attributes:
        encoder: name of the shared encoder.
        encoder_options: its own settings.
        stem: how modalities share the encoder's stem (`encoders.base.plan_stems`).
        fusion_widths: channels C of the fusion at the four scales. None: those of the encoder, or 64, 128, 320, 512
            behind 1 x 1 convolutions where the encoder's last map has more than 512 channels (ResNet-50).
        heads: attention heads at the four scales; None: those that suit the encoder, or one for 64 channels.
        head_width: channels of the decode head.
        head_dropout: share of its channels left out in training.
        sgf_weight: weight of the loss over the fused modalities.
        mas_weight: weight of the loss over one sampled modality.
        sgf_dropout: probability that a training step fuses a random proper subset of two or more modalities instead
            of all. All and one alone are trained anyway, by the two branches; this adds every scenario in between,
            which else is met for the first time in use. The paper fuses all (0).
        reduce: how many times modalities are reduced before the encoder, by name (`SegmentationModel.factors`).
    """

    encoder: str = "resnet_small"
    encoder_options: dict[str, Any] = field(default_factory=dict)
    stem: StemMode = "auto"
    fusion_widths: list[int] | None = None
    heads: list[int] | None = None
    head_width: int = 128
    head_dropout: float = 0.1
    sgf_weight: float = 2.0
    mas_weight: float = 1.0
    sgf_dropout: float = 0.5
    reduce: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("fusion_widths", "heads"):
            values = getattr(self, name)
            if values is not None and (len(values) != 4 or min(values) < 1):
                raise ValueError(f"{name} is {values}, expected four whole numbers of at least 1")
        if self.head_width < 1:
            raise ValueError(f"head_width is {self.head_width}, expected at least 1")
        if not 0.0 <= self.head_dropout < 1.0 or not 0.0 <= self.sgf_dropout <= 1.0:
            raise ValueError(
                f"head_dropout is {self.head_dropout} and sgf_dropout {self.sgf_dropout}, expected shares from 0 to 1"
            )
        if self.sgf_weight < 0.0 or self.mas_weight < 0.0:
            raise ValueError(f"sgf_weight is {self.sgf_weight} and mas_weight {self.mas_weight}, expected at least 0")


class Projector(nn.Module):
    """MP: brings the features of one modality at one scale into the space that all modalities share.

    Depthwise convolutions of 11, 7 and 3 side by side, summed, then a 1 x 1 convolution; no biases. The three are one
    convolution whose kernel is the sum of theirs, which is how they are computed. It starts close to the identity, so
    that training begins from what the encoder sees at the pixel, not from a random blur of 11 by 11 cells.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, width, 1, bias=False) if channels != width else None
        self.depthwise = ModuleListOf(
            nn.Conv2d(width, width, size, padding=size // 2, groups=width, bias=False) for size in KERNELS
        )
        self.pointwise = nn.Linear(width, width, bias=False)
        with torch.no_grad():
            for conv in self.depthwise:
                conv.weight.mul_(0.3)
            self.depthwise[-1].weight[:, :, 1, 1] += 1.0

    def kernel(self) -> Tensor:
        """Return the kernel (C, 1, 11, 11) of the summed depthwise convolutions."""
        margins = [(KERNELS[0] - size) // 2 for size in KERNELS]
        return summed(F.pad(conv.weight, [margin] * 4) for conv, margin in zip(self.depthwise, margins))

    def forward(self, features: Tensor) -> Tensor:
        """Return tokens (B, P, C) of `features` (B, channels, H, W)."""
        if self.reduce is not None:
            features = self.reduce(features)
        mixed = F.conv2d(features, self.kernel(), padding=KERNELS[0] // 2, groups=features.shape[1])
        return self.pointwise(mixed.flatten(2).transpose(1, 2))


class ModalityAttention(nn.Module):
    """Multi-head attention, without biases, over the M tokens that the modalities have at one position.

    The sequences are tiny and many, so scores and sums are written as plain products over the axis of modalities.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        for layer in (self.query, self.key, self.value, self.out):
            nn.init.xavier_uniform_(layer.weight)

    def split(self, x: Tensor) -> Tensor:
        """Return `x` (..., C) as (..., h, d)."""
        return x.unflatten(-1, (self.heads, -1))

    def gather(self, attention: Tensor, tokens: Tensor) -> Tensor:
        """Return the sum (B, P, C) of the values of `tokens` (B, M, P, C), weighted by `attention` (B, M, P, h)."""
        return self.out((attention.unsqueeze(-1) * self.split(self.value(tokens))).sum(1).flatten(-2))


class SpatialPerceptron(ModalityAttention):
    """SP: at every position each class prototype asks the modalities; the answers are averaged over the classes."""

    def forward(self, prototypes: Tensor, tokens: Tensor) -> Tensor:
        """Return the semantic reference (B, P, C) from `prototypes` (B, K, C) and `tokens` (B, M, P, C).

        The mean over classes commutes with the sum over values and with the output layer, and the key layer can be
        applied to the K queries instead of the M * P tokens: the same numbers as one attention a class for far less.
        """
        queries = self.split(self.query(prototypes)) * self.scale
        keys = self.key.weight.unflatten(0, (self.heads, -1))
        folded = torch.einsum("bkhd,hdc->bhkc", queries, keys).flatten(1, 2)
        scores = tokens @ folded.transpose(1, 2).unsqueeze(1)
        attention = scores.softmax(1).unflatten(-1, (self.heads, -1)).mean(-1)
        return self.gather(attention, tokens)


class RobustnessPerceptron(ModalityAttention):
    """RP: the semantic reference asks the modalities once more; the answer is the fused map, the weights are kept."""

    def forward(self, reference: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the fused map and the robustness weights.

        Args:
            reference: (B, P, C).
            tokens: (B, M, P, C).

        Returns:
            Fused (B, P, C), and the weights (B, M, P) averaged over the heads; these sum to 1 over the modalities.
        """
        queries = self.split(self.query(reference)).unsqueeze(1) * self.scale
        attention = (queries * self.split(self.key(tokens))).sum(-1).softmax(1)
        return self.gather(attention, tokens), attention.mean(-1)


class SemanticFusion(nn.Module):
    """SGF at one scale: class filter, prototypes, spatial and robustness perceptron."""

    def __init__(self, width: int, classes: int, heads: int) -> None:
        super().__init__()
        self.filter = nn.Linear(width, classes, bias=False)
        self.spatial = SpatialPerceptron(width, heads)
        self.robustness = RobustnessPerceptron(width, heads)

    def prototypes(self, tokens: Tensor) -> Tensor:
        """Return the class prototypes (B, K, C) of `tokens` (B, M, P, C).

        Means over all positions of all modalities, weighted by the softmax of the class maps over these positions, so
        that their size does not depend on that of the image. In float32 whatever the precision: with half precision the
        weights of a large tile would vanish.
        """
        with torch.autocast(tokens.device.type, enabled=False):
            places = at_least_single(tokens.flatten(1, 2))
            weights = F.linear(places, at_least_single(self.filter.weight)).softmax(1)
            return (weights.transpose(1, 2) @ places).to(tokens.dtype)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the fused map (B, P, C) and the robustness weights (B, M, P) of `tokens` (B, M, P, C)."""
        return self.robustness(self.spatial(self.prototypes(tokens), tokens), tokens)


def sampling_probabilities(weights: Sequence[Tensor]) -> Tensor:
    """Return the probability (B, M) with which modality-aware sampling draws each modality of each image.

    Per pixel (1 / r_m) / sum (1 / r_m'), the soft minimum of the robustness `weights` (B, M, P_i), then the mean over
    the positions and, since one modality is drawn for all scales, over the scales. Computed as the softmax of -log r,
    with r held above 1e-6; carries no gradient.
    """
    with torch.no_grad():
        scales = [(-at_least_single(r).clamp(min=SMALLEST_WEIGHT).log()).softmax(1).mean(-1) for r in weights]
        return torch.stack(scales).mean(0)


@register("sgma")
class Sgma(SegmentationModel):
    """SGMA over any number of modalities, of which any non-empty subset may be given.

    The prototypes are means over the whole image that is given, so the logits at a pixel depend, weakly, on all of its
    tile: tiles of one size and a generous overlap keep seams invisible.

    https://arxiv.org/abs/2603.02505
    """

    Config = SgmaConfig
    draws_scenarios = True
    looks_beyond = True

    def __init__(self, modalities: Mapping[str, int], classes: int, config: SgmaConfig) -> None:
        super().__init__(modalities, classes, config)
        self.encoder = build_encoder(config.encoder, modalities, config.stem, config.encoder_options)
        channels, self.strides = self.encoder.out_channels, self.encoder.strides
        self.widths = config.fusion_widths or (REDUCED if channels[-1] > REDUCED[-1] else list(channels))
        heads = config.heads or _suitable_heads(self.widths, channels, self.encoder.heads)
        _check_heads(self.widths, heads)
        self.projectors = ModuleDictOf(
            {module_key(name): ModuleListOf(map(Projector, channels, self.widths)) for name in modalities}
        )
        self.fusions = nn.ModuleList(SemanticFusion(width, classes, count) for width, count in zip(self.widths, heads))
        self.head = MLPHead(self.widths, self.strides, config.head_width, classes, config.head_dropout)
        self.output_stride = self.encoder.origin_step() * self.coarsest
        self.margin = 2 * self.output_stride

    def forward(self, images: Mapping[str, Tensor], size: tuple[int, int] | None = None) -> Tensor:
        """Return logits (B, K, H, W) on the reference grid; see `SegmentationModel.forward`."""
        names, size = self.present(images), reference_size(images, size)
        fused, _ = self.fuse(self.tokens(images, names, size))
        return self.decode(fused, size)

    def latent(self, images: Mapping[str, Tensor], size: tuple[int, int] | None = None) -> Tensor:
        """Return the fused map of the coarsest scale, (B, C_4, H / s_4, W / s_4)."""
        names, size = self.present(images), reference_size(images, size)
        return self._as_map(self.fuse(self.tokens(images, names, size))[0][-1], size, 3)

    def robustness(self, images: Mapping[str, Tensor], size: tuple[int, int] | None = None) -> list[dict[str, Tensor]]:
        """Return for each scale the robustness weights (B, h, w) of each modality present; they sum to 1 at a pixel."""
        names, size = self.present(images), reference_size(images, size)
        _, weights = self.fuse(self.tokens(images, names, size))
        return [
            {name: self._as_map(scale[:, index, :, None], size, level)[:, 0] for index, name in enumerate(names)}
            for level, scale in enumerate(weights)
        ]

    def tokens(self, images: Mapping[str, Tensor], names: Sequence[str], size: tuple[int, int]) -> list[Tensor]:
        """Return the tokens (B, M, P_i, C_i) of modalities `names` at the four scales of the reference grid."""
        columns = [self._modality_tokens(images[name], name, size) for name in names]
        return [torch.stack(scale, 1) for scale in zip(*columns)]

    def _modality_tokens(self, image: Tensor, name: str, size: tuple[int, int]) -> list[Tensor]:
        """Return the tokens (B, P_i, C_i) of one modality; features are brought to the reference grid before MP."""
        image, own = self.encoder_input(image, name, size)
        maps = self.encoder(pad_to_multiple(image, self.strides[-1]), name)
        tokens = []
        for features, stride, projector in zip(maps, self.strides, self.projectors[module_key(name)]):
            features = to_reference(crop_cells(features, own, stride), own, size, stride)
            tokens.append(projector(features))
        return tokens

    def fuse(self, tokens: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return fused maps (B, P_i, C_i) and robustness weights (B, M, P_i) from `tokens` (B, M, P_i, C_i)."""
        results = [fusion(scale) for fusion, scale in zip(self.fusions, tokens)]
        return [fused for fused, _ in results], [weights for _, weights in results]

    def decode(self, fused: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Return logits (B, K, H, W) from fused maps (B, P_i, C_i)."""
        maps = [self._as_map(scale, size, level) for level, scale in enumerate(fused)]
        return enlarge(self.head(maps), self.strides[0], size)

    def _as_map(self, rows: Tensor, size: tuple[int, int], level: int) -> Tensor:
        """Return (B, P, C) of scale `level` as (B, C, h, w)."""
        stride = self.strides[level]
        return rows.transpose(1, 2).unflatten(-1, (-(-size[0] // stride), -(-size[1] // stride)))

    def losses(
        self,
        images: Mapping[str, Tensor],
        target: Tensor,
        *,
        available: Sequence[str] | None = None,
        generator: torch.Generator | None = None,
        class_weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return 2 * CE over the fused modalities + CE over one sampled modality, as `sgf`, `mas` and `total`.

        The modality is drawn for each image among those that were fused (`sampling_probabilities`), from the robustness
        weights of this very step, and its tokens are used again: neither encoder nor projector runs twice. Where the
        scenario is told the first branch fuses that (`available`), and the second draws among all of `images`.
        See `SegmentationModel.losses`.
        """
        size = (target.shape[-2], target.shape[-1])
        names = self.present(images)
        names = self._training_subset(names, generator) if available is None else names
        tokens = self.tokens(images, names, size)
        fused, weights = self.fuse(tokens)
        if available is not None and len(available) < len(names):
            told = [index for index, name in enumerate(names) if name in available]
            fused, _ = self.fuse([scale[:, told] for scale in tokens])
        drawn = _draw(sampling_probabilities(weights), generator)
        alone = [scale[torch.arange(len(drawn), device=scale.device), drawn].unsqueeze(1) for scale in tokens]
        parts = {
            "sgf": cross_entropy(self.decode(fused, size), target, class_weights),
            "mas": cross_entropy(self.decode(self.fuse(alone)[0], size), target, class_weights),
        }
        config = self.model_config
        return {**parts, "total": config.sgf_weight * parts["sgf"] + config.mas_weight * parts["mas"]}

    def _training_subset(self, names: list[str], generator: torch.Generator | None) -> list[str]:
        """Return the modalities that this step fuses: `names`, or in training at times a part (`sgf_dropout`)."""
        share = self.model_config.sgf_dropout if self.training else 0.0
        if len(names) < 3 or share == 0.0:
            return names
        if torch.rand((), generator=generator) >= share:
            return names
        count = int(torch.randint(2, len(names), (), generator=generator))
        chosen = torch.randperm(len(names), generator=generator)[:count].tolist()
        return [name for index, name in enumerate(names) if index in chosen]

    def load_encoder(self, weights: Mapping[str, Tensor]) -> None:
        """Copy published encoder `weights` into the shared encoder; see `encoders.weights.load_published`."""
        load_published(self.encoder, weights)

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the shared encoder."""
        return list(self.encoder.parameters())

    def pretrained_parameters(self) -> list[nn.Parameter]:
        """Return those of them that published weights set."""
        return self.encoder.pretrained_parameters()

    @classmethod
    def preset_config(cls, preset: str = "default") -> dict[str, Any]:
        """Return the network of the paper (PVT-v2-b2, colour stem for all, all modalities fused), or nothing."""
        if preset == "paper":
            return {"encoder": "pvt_v2_b2", "stem": "repeat", "head_width": 768, "sgf_dropout": 0.0}
        return {}

    @classmethod
    def settings(cls, preset: str = "default") -> TrainingSettings:
        """Return the training settings: the paper's, or ones that learn from scratch on little data.

        The paper states optimiser, rates and epochs; batch and crop are deduced from its stated costs.
        """
        if preset == "paper":
            return TrainingSettings(lr=6e-5, weight_decay=1e-2, epochs=200, warmup_epochs=10, batch=4, crop=512)
        return TrainingSettings(lr=1e-3, weight_decay=5e-2, epochs=60, warmup_epochs=3, batch=8, crop=96, clip=1.0)


def _draw(probabilities: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return one index for each row of `probabilities` (B, M), drawn on the CPU so that every device draws the same."""
    levels = torch.rand(probabilities.shape[0], 1, generator=generator, dtype=torch.float64)
    passed = (probabilities.cpu().double().cumsum(1) <= levels).sum(1)
    return passed.clamp(max=probabilities.shape[1] - 1).to(probabilities.device)


def _suitable_heads(widths: Sequence[int], channels: Sequence[int], heads: Sequence[int]) -> list[int]:
    """Return the encoder's own `heads` where the fusion has its widths, else one head for 64 channels."""
    return list(heads) if list(widths) == list(channels) else [max(width // 64, 1) for width in widths]


def _check_heads(widths: Sequence[int], heads: Sequence[int]) -> None:
    """Raise LacunaError `bad-config` where `heads` do not divide `widths`."""
    if any(width % count for width, count in zip(widths, heads)):
        raise bad_config(
            "architecture sgma",
            f"was given heads {list(heads)} for widths {list(widths)}",
            "Give heads that divide the channels of each scale.",
        )
