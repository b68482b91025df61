# SPDX-License-Identifier: GPL-2.0-or-later
"""CBC and CBC-SLP: an encoder for each modality, attention within and between those present, a U-shaped decoder.

CBC (CorrIFNet told which modalities are missing) and CBC-SLP (the same with a latent split into a shared and private
parts, https://arxiv.org/abs/2604.15856) are the backbones of https://arxiv.org/abs/2605.20372. Written from a
description of the published code, whose known defects are mended here under every preset:

- Decoder and tokens are 2-D. There a volume of 128 x 128 x 128 is decoded, of which one slice in 128 is used. Levels
  keep their own resolution in the decoder, and are averaged, not sampled, where they become tokens.
- The attention between modalities stays within one image. There the weights of a batch are reordered across images.
- Joint tokens are put back where they came from. There neighbours of one modality share a place.
- An absent modality is not encoded, is no key and no value, and enters no BatchNorm. There it is nought after its
  encoder, and its biases and positions are attended to.
- The model gives logits, its loss is the cross-entropy. There a sigmoid stands before a loss that takes a second one.
- Published encoder weights stay as loaded. There they are drawn anew.
- No module is idle. There the fusion of level 5 and several decoders are.

Shapes: B images, M modalities present, C channels, h x w token cells, T = h * w.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import lcm
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import SegmentationModel, TrainingSettings, reference_size
from .containers import ModuleDictOf, summed
from .encoders import build_encoder, options_for_one
from .encoders.weights import load_published
from .grids import crop_cells, enlarge, pad_to_multiple, resample_features, to_reference
from .layers import ChannelNorm, at_least_single, module_key
from .objective import cross_entropy
from .registry import register

NormKind = Literal["channel", "instance"]
SKIPS = 4  # levels that the decoder sees; the fifth goes into the tokens alone


@dataclass(frozen=True)
class CbcConfig:
    """The settings of CBC.

    Attributes:
        encoder: name of the encoder, of which every modality has one of its own.
        encoder_options: its own settings.
        level_widths: channels to which the five levels (the encoder's stem and its four maps) are brought. The last
            is also that of the map gathered from all five; the decoder has the other four, coarsest first.
        token_width: channels of a token, of the layer behind the attention and of the attention between modalities.
        heads: attention heads within and over the modalities.
        token_grid: tokens along each side of the image. None: one token for each cell of the encoder's coarsest map.
        latent_width: channels of the joint latent.
        dropout: share of attention weights and token channels left out in training.
        norm: `channel`: over the channels of a pixel. `instance`: over the tile, as published.
        draw_scenarios: whether training draws a scenario for each image; to be false where the caller draws them.
        reduce: how many times modalities are reduced before their encoder, by name (`SegmentationModel.factors`).
    """

    encoder: str = "resnet_small"
    encoder_options: dict[str, Any] = field(default_factory=dict)
    level_widths: list[int] = field(default_factory=lambda: [32, 32, 48, 64, 64])
    token_width: int = 128
    heads: int = 8
    token_grid: int | None = None
    latent_width: int = 192
    dropout: float = 0.1
    norm: NormKind = "channel"
    draw_scenarios: bool = True
    reduce: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.level_widths) != SKIPS + 1 or min(self.level_widths) < 1:
            raise ValueError(f"level_widths is {self.level_widths}, expected five whole numbers of at least 1")
        for name in ("token_width", "heads", "latent_width", "token_grid"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}, expected at least 1")
        if self.token_width % self.heads:
            raise ValueError(f"token_width is {self.token_width}, expected a multiple of the {self.heads} heads")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout is {self.dropout}, expected 0 to below 1")


@dataclass(frozen=True)
class CbcSlpConfig(CbcConfig):
    """The settings of CBC-SLP: those of CBC, and the sizes of the two kinds of latents.

    Attributes:
        shared_width: channels of the latent that all modalities share.
        private_width: channels of the latent of each modality.
    """

    shared_width: int = 96
    private_width: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shared_width < 1 or self.private_width < 1:
            raise ValueError(
                f"shared_width is {self.shared_width} and private_width {self.private_width}, expected at least 1"
            )


class InstanceNorm(nn.Module):
    """Normalises each channel of each image over its pixels, without weights; a single pixel becomes 0.

    The result at a pixel then depends on all of its tile. torch's own refuses a single pixel in training.
    """

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` (B, C, h, w) normalised over h and w."""
        wide = at_least_single(x)
        variance, mean = torch.var_mean(wide, (2, 3), correction=0, keepdim=True)
        return ((wide - mean) * (variance + self.eps).rsqrt()).to(x.dtype)


def _activation(width: int, norm: NormKind) -> nn.Sequential:
    """Return what follows a convolution: ReLU, then the norm over the tile, as published; or the other way about.

    A norm over the channels of a pixel has to come first: behind a ReLU that leaves almost nothing of a pixel, it would
    blow up the rounding errors in what is left.
    """
    if norm == "instance":
        return nn.Sequential(nn.ReLU(), InstanceNorm())
    return nn.Sequential(ChannelNorm(width), nn.ReLU())


def _convolutions(norm: NormKind, *layers: nn.Conv2d) -> nn.Sequential:
    """Return `layers`, each followed by its activation and norm."""
    return nn.Sequential(*(nn.Sequential(layer, _activation(layer.out_channels, norm)) for layer in layers))


def _same(channels: int, width: int) -> nn.Conv2d:
    """Return a 3 x 3 convolution that repeats the border outwards."""
    return nn.Conv2d(channels, width, 3, padding=1, padding_mode="replicate")


class PresentConv(nn.Module):
    """A 1 x 1 convolution over the concatenated maps of the modalities, for whichever of them are present.

    It is the mean over those present of a product for each modality. With all N present that is the convolution of
    their concatenation with weights [W_1 | ... | W_N] / N; without some, the rest stands for the whole: no zeros are
    put in, and what comes out does not shrink with every gap.
    """

    def __init__(self, names: Iterable[str], channels: int, width: int) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({module_key(name): nn.Conv2d(channels, width, 1, bias=False) for name in names})
        self.bias = nn.Parameter(torch.zeros(width, 1, 1))

    def forward(self, maps: Mapping[str, Tensor]) -> Tensor:
        """Return (B, width, h, w) from the maps (B, channels, h, w) of the modalities present, by name."""
        return summed(self.parts[module_key(name)](x) for name, x in maps.items()) / len(maps) + self.bias


def early_fusion(names: Iterable[str], channels: int, width: int, norm: NormKind) -> nn.Sequential:
    """Return the fusion of the modalities' maps at one level: mixing convolution, activation, norm."""
    return nn.Sequential(PresentConv(names, channels, width), _activation(width, norm))


def refinement(channels: int, width: int, norm: NormKind) -> nn.Sequential:
    """Return an RFM block: 1 x 1, 3 x 3 and 1 x 1 convolutions, of which the first changes the channels."""
    return _convolutions(
        norm, nn.Conv2d(channels, width, 1), nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 1)
    )


class TransformerLayer(nn.Module):
    """Self-attention and a feed-forward layer as wide as the tokens, a norm before and a residual around each.

    Queries, keys and values have no bias, as published.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, width), nn.Dropout(dropout)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens (B, N, C) of `tokens` (B, N, C)."""
        tokens = tokens + F.dropout(self._attend(self.norm1(tokens)), self.dropout, self.training)
        return tokens + self.feed(self.norm2(tokens))

    def _attend(self, tokens: Tensor) -> Tensor:
        """Return what each of `tokens` (B, N, C) gathers from all."""
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        share = self.dropout if self.training else 0.0
        return self.out(F.scaled_dot_product_attention(query, key, value, dropout_p=share).transpose(1, 2).flatten(2))


class TokenGrid(NamedTuple):
    """Rows and columns of tokens, and the height and width of what each covers, in pixels of the reference grid."""

    shape: tuple[int, int]
    cell: tuple[float, float]


class Levels(NamedTuple):
    """What one modality gives: four maps on the reference grid, finest first, and the map gathered from all five."""

    skips: tuple[Tensor, ...]
    gathered: Tensor

    def rows(self, index: Tensor) -> Levels:
        """Return the same of the images `index` of the batch."""
        return Levels(tuple(skip[index] for skip in self.skips), self.gathered[index])


class ModalityBranch(nn.Module):
    """All that serves one modality alone up to the attention between them: encoder, five levels, tokens within.

    A token's position is a learned vector, nought at first, the same within and over the modalities. Without a fixed
    token grid there is one vector for all places, which then only tells the modalities apart.
    """

    def __init__(self, name: str, channels: int, config: CbcConfig) -> None:
        super().__init__()
        options = options_for_one(config.encoder_options, name)
        self.encoder = build_encoder(config.encoder, channels, options=options)
        maps = self.encoder.out_channels
        given = (self.encoder.stem_channels or maps[0], *maps)
        self.strides = (self.encoder.strides[0], *self.encoder.strides)
        self.adapt = nn.ModuleList(nn.Conv2d(*pair, 1) for pair in zip(given, config.level_widths))
        self.gather = nn.Conv2d(sum(config.level_widths), config.level_widths[-1], 1)
        self.embed = nn.Conv2d(config.level_widths[-1], config.token_width, 1)
        self.positions = _positions(config)
        self.within = TransformerLayer(config.token_width, config.heads, config.dropout)

    def forward(self, image: Tensor, own: tuple[float, float], size: tuple[int, int], grid: TokenGrid) -> Levels:
        """Return the levels of `image` on the reference grid of `size` and on the tokens of `grid`.

        Args:
            image: (B, C, h, w), on a grid of its own.
            own: its extent in its own pixels.
            size: (H, W) of the reference grid.
            grid: the tokens.
        """
        cell = [grid.cell[axis] * own[axis] / size[axis] for axis in (0, 1)]
        maps = self.encoder.levels(pad_to_multiple(image, self.strides[-1]))
        levels = [adapt(crop_cells(x, own, stride)) for adapt, x, stride in zip(self.adapt, maps, self.strides)]
        skips = tuple(to_reference(x, own, size, stride) for x, stride in zip(levels[:SKIPS], self.strides))
        parts = [
            resample_features(x, grid.shape, (cell[0] / stride, cell[1] / stride))
            for x, stride in zip(levels, self.strides)
        ]
        return Levels(skips, self.gather(torch.cat(parts, 1)))

    def attend(self, tokens: Tensor) -> Tensor:
        """Return the tokens (B, C, h, w), each having asked all of its own modality."""
        return _as_map(self.within(_as_rows(tokens + self.positions)), tokens)


class InterAttention(nn.Module):
    """Attention between the modalities at one place and channel: softmax over those present of q_m * k_j / sqrt(N).

    N is the number of modalities that the model knows, whichever are present, so that the softmax is equally sharp in
    every scenario. A modality that is alone receives its own values.
    """

    def __init__(self, names: Sequence[str], width: int) -> None:
        super().__init__()
        self.scale = len(names) ** -0.5
        self.qkv = nn.ModuleDict({module_key(name): nn.Conv2d(width, 3 * width, 1) for name in names})

    def forward(self, tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return for each modality present what it gathers (B, C, h, w) from `tokens` (B, C, h, w) of all present."""
        triples = [self.qkv[module_key(name)](x).chunk(3, 1) for name, x in tokens.items()]
        query, key, value = (torch.stack(part, 1) for part in zip(*triples))
        weights = (query.unsqueeze(2) * key.unsqueeze(1) * self.scale).softmax(2)
        return dict(zip(tokens, (weights * value.unsqueeze(1)).sum(2).unbind(1)))


class JointFusion(nn.Module):
    """Attention over all tokens of all modalities present and of their early fusion, then the joint latent.

    The tokens of one place are brought together again by a 1 x 1 convolution (`PresentConv`, plus the fused ones).
    """

    def __init__(self, names: Sequence[str], config: CbcConfig) -> None:
        super().__init__()
        channels, width = len(names) * config.level_widths[-1], config.token_width
        self.early = early_fusion(names, config.level_widths[-1], channels, config.norm)
        self.embed = nn.Conv2d(channels, width, 1)
        self.positions = _positions(config)
        self.layer = TransformerLayer(width, config.heads, config.dropout)
        self.merge = PresentConv(names, width, config.latent_width)
        self.merge_fused = nn.Conv2d(width, config.latent_width, 1, bias=False)

    def forward(self, tokens: Mapping[str, Tensor], gathered: Mapping[str, Tensor]) -> Tensor:
        """Return the joint latent (B, D, h, w).

        Args:
            tokens: (B, C, h, w) of each modality present, its positions added.
            gathered: the maps gathered from its levels, before they became tokens.
        """
        fused = self.embed(self.early(gathered)) + self.positions
        maps = [*tokens.values(), fused]
        parts = self.layer(torch.cat([_as_rows(x) for x in maps], 1)).chunk(len(maps), 1)
        *own, common = (_as_map(part, fused) for part in parts)
        return self.merge(dict(zip(tokens, own))) + self.merge_fused(common)


class DecoderStep(nn.Module):
    """One level of the decoder: reduces what comes from below, puts the refined skip before it, and mixes both."""

    def __init__(self, channels: int, skip: int, width: int, norm: NormKind) -> None:
        super().__init__()
        self.reduce = _convolutions(norm, _same(channels, width))
        self.refine = refinement(skip, width, norm)
        self.mix = _convolutions(norm, _same(2 * width, width), nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Return (B, width, h, w) from the decoder's `x` and the fused `skip`, both of size (h, w)."""
        return self.mix(torch.cat([self.refine(skip), self.reduce(x)], 1))


@register("cbc")
class Cbc(SegmentationModel):
    """CBC over any number of modalities, of which any non-empty subset may be given.

    The attention reaches over the whole tile, so the logits at a pixel depend, weakly, on all of it. With `token_grid`
    (8 in the paper) they depend on the tile's size too: a token then covers an eighth of the tile, whatever that is,
    and its position is one within the tile. Such a checkpoint is to be used with tiles as large as its crops. By
    default a token covers a cell of the coarsest map, as much ground in any tile, and knows no position; the work of
    the attention then grows with the square of the tile's area.

    https://arxiv.org/abs/2605.20372
    """

    Config = CbcConfig
    # The attention over all tokens, and the 1 x 1 convolution of every early fusion: per modality here.
    published_adapters = ("joint.layer.qkv", "joint.layer.out", "joint.early.0.parts.*", "fusions.*.0.parts.*")

    def __init__(self, modalities: Mapping[str, int], classes: int, config: CbcConfig) -> None:
        super().__init__(modalities, classes, config)
        self.draws_scenarios = config.draw_scenarios
        names, widths, norm = list(modalities), config.level_widths[:SKIPS], config.norm
        self.branches = ModuleDictOf(
            {module_key(name): ModalityBranch(name, channels, config) for name, channels in modalities.items()}
        )
        self.between = InterAttention(names, config.token_width)
        self.joint = JointFusion(names, config)
        self.fusions = nn.ModuleList(early_fusion(names, width, len(names) * width, norm) for width in widths)
        deepest = 2 * widths[-1]
        self.start = self._make_start(names, deepest)
        self.refine = nn.Sequential(
            _activation(deepest, norm),
            _convolutions(norm, nn.Conv2d(deepest, deepest, 3, padding=1), nn.Conv2d(deepest, deepest, 1)),
        )
        self.steps = nn.ModuleList(
            DecoderStep(channels, len(names) * width, width, norm)
            for channels, width in zip([*widths[1:], deepest], widths)
        )
        self.classify = nn.Conv2d(widths[0], classes, 1)
        self.strides = self.branches[module_key(names[0])].strides
        self.output_stride = lcm(*(branch.encoder.origin_step() for branch in self.branches.values())) * self.coarsest
        self.margin = 2 * self.output_stride

    def _make_start(self, names: Sequence[str], width: int) -> nn.Module:
        """Return the layer that brings the latent to the `width` of the decoder's deepest level."""
        return nn.Conv2d(self.model_config.latent_width, width, 1)

    def forward(self, images: Mapping[str, Tensor], size: tuple[int, int] | None = None) -> Tensor:
        """Return logits (B, K, H, W) on the reference grid; see `SegmentationModel.forward`."""
        names, size = self.present(images), reference_size(images, size)
        return self.decode({name: self.encode(images[name], name, size) for name in names}, size)

    def latent(self, images: Mapping[str, Tensor], size: tuple[int, int] | None = None) -> Tensor:
        """Return the joint latent (B, D, h, w) on the token grid; in CBC-SLP too, from before it is split."""
        return self.latents(images, size)[0]

    def latents(
        self, images: Mapping[str, Tensor], size: tuple[int, int] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the joint latent (B, D, h, w), and for each modality present what it gathered (B, C, h, w)."""
        names, size = self.present(images), reference_size(images, size)
        return self.join({name: self.encode(images[name], name, size) for name in names})

    def token_grid(self, size: tuple[int, int]) -> TokenGrid:
        """Return the tokens of an image of `size` (H, W)."""
        fixed = self.model_config.token_grid
        if fixed is None:
            stride = self.strides[-1]
            return TokenGrid((-(-size[0] // stride), -(-size[1] // stride)), (float(stride), float(stride)))
        return TokenGrid((fixed, fixed), (size[0] / fixed, size[1] / fixed))

    def encode(self, image: Tensor, name: str, size: tuple[int, int]) -> Levels:
        """Return the levels of `image` (B, C, ., .) of modality `name`, on the reference grid of `size`."""
        image, own = self.encoder_input(image, name, size)
        return self.branches[module_key(name)](image, own, size, self.token_grid(size))

    def join(self, levels: Mapping[str, Levels]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the joint latent (B, D, h, w), and for each modality present what it gathered (B, C, h, w)."""
        branches = {name: self.branches[module_key(name)] for name in levels}
        tokens = {name: branch.embed(levels[name].gathered) for name, branch in branches.items()}
        mixed = self.between({name: branch.attend(tokens[name]) for name, branch in branches.items()})
        placed = {name: mixed[name] + tokens[name] + branch.positions for name, branch in branches.items()}
        return self.joint(placed, {name: item.gathered for name, item in levels.items()}), mixed

    def decode(self, levels: Mapping[str, Levels], size: tuple[int, int]) -> Tensor:
        """Return logits (B, K, H, W) from the `levels` of the modalities present."""
        x = self.refine(self.begin(*self.join(levels)))
        cell = self.token_grid(size).cell
        stride = self.strides[SKIPS - 1]
        for index in reversed(range(SKIPS)):
            skip = self.fusions[index]({name: item.skips[index] for name, item in levels.items()})
            rows, columns = skip.shape[-2:]
            if index == SKIPS - 1:
                x = resample_features(x, (rows, columns), (stride / cell[0], stride / cell[1]))
            else:
                x = enlarge(x, self.strides[index + 1] // self.strides[index], (rows, columns))
            x = self.steps[index](x, skip)
        return enlarge(self.classify(x), self.strides[0], size)

    def begin(self, latent: Tensor, mixed: Mapping[str, Tensor]) -> Tensor:
        """Return what the decoder starts from, on the token grid."""
        return self.start(latent)

    def losses(
        self,
        images: Mapping[str, Tensor],
        target: Tensor,
        *,
        available: Sequence[str] | None = None,
        generator: torch.Generator | None = None,
        class_weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the cross-entropy, as `total`, each image in a scenario of its own.

        In training every image draws one of the non-empty subsets of `images`, all equally likely, as published (there
        with a binary cross-entropy). Each modality is encoded in one go for the images that have it, so that its
        BatchNorm sees all of these and no others. In evaluation and without `draw_scenarios` all of
        `images` is used, or what is `available`.
        See `SegmentationModel.losses`.
        """
        names, size = list(available or self.present(images)), (target.shape[-2], target.shape[-1])
        member = torch.ones(target.shape[0], len(names), dtype=torch.bool)
        if self.training and self.draws_scenarios and available is None:
            member = draw_scenarios(target.shape[0], len(names), generator)
        logits = self._logits_by_scenario({name: images[name] for name in names}, member, size)
        return {"total": cross_entropy(logits, target, class_weights)}

    def _logits_by_scenario(self, images: Mapping[str, Tensor], member: Tensor, size: tuple[int, int]) -> Tensor:
        """Return logits (B, K, H, W), each image given the modalities that its row of `member` (B, M) holds."""
        levels, places = {}, {}
        for column, (name, image) in enumerate(images.items()):
            chosen = member[:, column]
            if chosen.any():
                levels[name] = self.encode(image[chosen.to(image.device)], name, size)
                places[name] = chosen.cumsum(0) - 1
        patterns, kinds = member.unique(dim=0, return_inverse=True)
        groups, order = [], []
        for kind, pattern in enumerate(patterns.tolist()):
            rows = (kinds == kind).nonzero()[:, 0]
            present = [name for name, given in zip(images, pattern) if given]
            part = {name: levels[name].rows(places[name][rows].to(images[name].device)) for name in present}
            groups.append(self.decode(part, size))
            order.append(rows)
        return torch.cat(groups)[torch.cat(order).argsort().to(groups[0].device)]

    def load_encoder(self, weights: Mapping[str, Tensor]) -> None:
        """Copy published encoder `weights` into the encoder of every modality; see `weights.load_published`."""
        for branch in self.branches.values():
            load_published(branch.encoder, weights)

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the encoders of all modalities."""
        return [parameter for branch in self.branches.values() for parameter in branch.encoder.parameters()]

    def pretrained_parameters(self) -> list[nn.Parameter]:
        """Return those of them that published weights set."""
        return [parameter for branch in self.branches.values() for parameter in branch.encoder.pretrained_parameters()]

    @classmethod
    def preset_config(cls, preset: str = "default") -> dict[str, Any]:
        """Return the sizes and norm of the published code, its volumes made flat, or nothing.

        With three modalities of three bands and two classes that is 81,153,714 parameters for CBC and 67,776 more for
        CBC-SLP. The published code has 85,479,624 in 3-D, part of them idle, and also 67,776 more.
        """
        if preset == "paper":
            sizes = zip(("level_widths", "token_width", "token_grid"), ([8, 16, 32, 64, 64], 512, 8))
            return {"encoder": "resnet50", "norm": "instance", **dict(sizes)}
        return {}

    @classmethod
    def settings(cls, preset: str = "default") -> TrainingSettings:
        """Return the training settings: the published ones as far as known, or ones for little data.

        Known, from the predecessor's log: Adam at 1e-4 without decay, 0.9 times that every 5 epochs, 70 epochs; tiles
        of 224 pixels. Not known: the batch (8 is taken), and all of the fine-tuning. The published code steps its
        schedule before the optimiser, so that each fall comes an epoch early; that is not repeated.
        """
        if preset == "paper":
            return TrainingSettings(
                lr=1e-4,
                weight_decay=0.0,
                epochs=70,
                warmup_epochs=0,
                batch=8,
                crop=224,
                optimizer="adam",
                schedule="step",
                decay_epochs=5,
                decay_factor=0.9,
            )
        return TrainingSettings(lr=1e-3, weight_decay=5e-2, epochs=60, warmup_epochs=3, batch=8, crop=96, clip=1.0)


class SplitLatent(nn.Module):
    """SLP: a shared part of the joint latent, private parts of the modalities present, brought together.

    Structured latent projection: 1 x 1 convolutions alone, without a loss of their own. The convolution over the
    concatenation of all parts, with which the published decoder begins, is the sum of one over the shared part and a
    `PresentConv` over the private ones: an absent modality has no private part, and none stands in for it.
    """

    def __init__(self, names: Sequence[str], config: CbcSlpConfig, width: int) -> None:
        super().__init__()
        self.shared = nn.Conv2d(config.latent_width, config.shared_width, 1)
        self.private = nn.ModuleDict(
            {module_key(name): nn.Conv2d(config.token_width, config.private_width, 1) for name in names}
        )
        self.merge_shared = nn.Conv2d(config.shared_width, width, 1, bias=False)
        self.merge_private = PresentConv(names, config.private_width, width)

    def parts(self, latent: Tensor, mixed: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the shared part (B, D_s, h, w) and the private ones (B, D_p, h, w) of the modalities in `mixed`."""
        return self.shared(latent), {name: self.private[module_key(name)](x) for name, x in mixed.items()}

    def forward(self, latent: Tensor, mixed: Mapping[str, Tensor]) -> Tensor:
        """Return (B, width, h, w) from the joint `latent` and what each modality gathered, `mixed`."""
        shared, private = self.parts(latent, mixed)
        return self.merge_shared(shared) + self.merge_private(private)


@register("cbc_slp")
class CbcSlp(Cbc):
    """CBC with structured latent projection: the decoder starts from a shared and from private latents.

    https://arxiv.org/abs/2604.15856
    """

    Config = CbcSlpConfig

    start: SplitLatent

    def _make_start(self, names: Sequence[str], width: int) -> SplitLatent:
        return SplitLatent(names, self.model_config, width)

    def begin(self, latent: Tensor, mixed: Mapping[str, Tensor]) -> Tensor:
        """Return what the decoder starts from, on the token grid."""
        return self.start(latent, mixed)


def draw_scenarios(batch: int, count: int, generator: torch.Generator | None) -> Tensor:
    """Return bool (batch, count) on the CPU: for each image a non-empty subset of `count` modalities, uniformly."""
    numbers = torch.randint(1, 2**count, (batch, 1), generator=generator)
    return (numbers >> torch.arange(count)) % 2 == 1


def _positions(config: CbcConfig) -> nn.Parameter:
    """Return learned positions (1, C, g, g) of the token grid, or (1, C, 1, 1) where that has no fixed size."""
    side = config.token_grid or 1
    return nn.Parameter(torch.zeros(1, config.token_width, side, side))


def _as_rows(tokens: Tensor) -> Tensor:
    """Return the map (B, C, h, w) as a sequence (B, T, C)."""
    return tokens.flatten(2).transpose(1, 2)


def _as_map(rows: Tensor, like: Tensor) -> Tensor:
    """Return the sequence (B, T, C) as a map (B, C, h, w) of the size of `like`."""
    return rows.transpose(1, 2).unflatten(2, tuple(like.shape[-2:]))
