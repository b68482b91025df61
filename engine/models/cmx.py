# SPDX-License-Identifier: GPL-2.0-or-later
"""CMX: one encoder for each modality; after each stage the streams rectify one another and are fused.

Zhang, Liu, Yang, Hu, Liu, Stiefelhagen 2023, "CMX: Cross-Modal Fusion for RGB-X Semantic Segmentation With
Transformers", https://arxiv.org/abs/2203.04838. There are two streams there. Here there is one for each modality, and
those present in a scenario work together by this rule, which for two is the published network, number for number:

- Where the published code applies a layer to the concatenation of both streams, each stream has its own part of that
  layer, and the parts are summed: the same thing. For n streams the sum is scaled by 2 / n, so that what follows meets
  values of one size in every scenario. So each weight of the fusion belongs to one modality or to all, none to a pair:
  the network grows linearly with the modalities, and a modality that is absent leaves no gap.
- Where a stream receives something from the other one, it receives the mean of what the others send.
- A stream that is alone receives nothing: it is not rectified, the cross-modal term of the fusion is left out, and
  what remains is a residual layer on the stream itself. Nothing stands in for what is absent.

The result does not depend on the order of the modalities. Cost: one encoder run for each modality present, on the
reference grid, since maps must match after every stage; parameters of one encoder for each modality of the checkpoint.
The encoder of a reduced modality (`reduce`) runs on its own grid: its maps are enlarged to meet the others, and what it
receives of them is brought back.

Shapes: B images, C channels and P = h * w positions at one scale, H heads of d channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import lcm
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import SegmentationModel, TrainingSettings, reference_size
from .cmx_import import PUBLISHED, import_cmx
from .config import bad_config
from .containers import M, ModuleDictOf, summed
from .encoders import build_encoder
from .encoders.base import Encoder, StemMode
from .encoders.pvt_v2 import PvtV2
from .encoders.weights import load_published
from .grids import crop_cells, pad_to_least, pad_to_multiple, resample_features, to_reference
from .heads import MLPHead
from .layers import ChannelNorm, DropPath, at_least_single, initialise_by_fan_out, module_key
from .objective import cross_entropy
from .registry import register

Maps = Mapping[str, Tensor]


@dataclass(frozen=True)
class CmxConfig:
    """The settings of CMX. The defaults learn from scratch on little data; `paper` sets what was published.

    Attributes:
        encoder: name of the encoder of each stream.
        encoder_options: its own settings.
        stem: how a stream takes its channels; `repeat` repeats a single one to the three of a colour stem.
        head_width: channels of the decode head.
        head_dropout: share of its channels left out in training.
        norm: in fusion and head: `channel`, over the channels of each pixel, or `batch`, as published. The statistics
            of a BatchNorm would be a mixture of all scenarios, right for none of them.
        head_eps: epsilon of the head's norm. The published code trains with 1e-3 and evaluates, by mistake, with 1e-5.
        context_crop: side of the crop, in pixels, to whose number of positions the sums of the cross path are scaled;
            None leaves them as published, where the softmax over them grows harder with the size of the tile.
        pad: whether images are padded to the network's stride, so that no map is shifted; published code does not pad,
            and stretches maps of sizes that are no multiples.
        scenarios: which modalities a training step uses of those it is given: `uniform`, a non-empty subset, each with
            the same probability; `full`, all, as published. Outside training always all.
        published_drop_path: whether one rate of stochastic depth holds in the whole second stage, as in the published
            code: that of its first block in the first stream, that of its second block in the others.
        reduce: how many times modalities are reduced before their encoder, by name (`SegmentationModel.factors`).
    """

    encoder: str = "resnet_small"
    encoder_options: dict[str, Any] = field(default_factory=dict)
    stem: StemMode = "own"
    head_width: int = 128
    head_dropout: float = 0.1
    norm: Literal["channel", "batch"] = "channel"
    head_eps: float = 1e-6
    context_crop: int | None = 96
    pad: bool = True
    scenarios: Literal["uniform", "full"] = "uniform"
    published_drop_path: bool = False
    reduce: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.head_width < 1:
            raise ValueError(f"head_width is {self.head_width}, expected at least 1")
        if not 0.0 <= self.head_dropout < 1.0:
            raise ValueError(f"head_dropout is {self.head_dropout}, expected a share from 0 to below 1")
        if self.head_eps <= 0.0:
            raise ValueError(f"head_eps is {self.head_eps}, expected a number above 0")
        if self.context_crop is not None and self.context_crop < 1:
            raise ValueError(f"context_crop is {self.context_crop}, expected at least 1")


class Rectification(nn.Module):
    """FRM at one scale (section III-B): each stream adds what the others send, weighted by channel and by position.

    The weights of a sending stream come from all streams together.
    """

    def __init__(self, width: int, names: Iterable[str]) -> None:
        super().__init__()
        names = list(names)
        self.mean = _each(names, lambda: nn.Linear(width, 4 * width, bias=False))
        self.peak = _each(names, lambda: nn.Linear(width, 4 * width, bias=False))
        self.channel_bias = nn.Parameter(torch.zeros(4 * width))
        self.channel = _each(names, lambda: nn.Linear(4 * width, width))
        self.look = _each(names, lambda: nn.Conv2d(width, width, 1, bias=False))
        self.place_bias = nn.Parameter(torch.zeros(width))
        self.place = _each(names, lambda: nn.Conv2d(width, 1, 1))
        self.apply(initialise_by_fan_out)
        for layer in self.place.values():
            nn.init.normal_(layer.weight)  # the published layer has two outputs, one a stream, so its fan-out is 2

    def forward(self, maps: Maps) -> dict[str, Tensor]:
        """Return the rectified maps of `maps`, (B, C, h, w) each; a single one as it is."""
        if len(maps) == 1:
            return dict(maps)
        sent = self.send(maps)
        return {key: x + _mean(sent[other] for other in maps if other != key) for key, x in maps.items()}

    def send(self, maps: Maps) -> dict[str, Tensor]:
        """Return what each stream sends to all others, (B, C, h, w): its map times half the sum of its two weights."""
        share = 2.0 / len(maps)
        pooled = summed(self.mean[key](x.mean((2, 3))) + self.peak[key](x.amax((2, 3))) for key, x in maps.items())
        described = F.relu(share * pooled + self.channel_bias)
        seen = F.relu(share * summed(self.look[key](x) for key, x in maps.items()) + self.place_bias[:, None, None])
        return {
            key: 0.5 * (self.channel[key](described).sigmoid()[..., None, None] + self.place[key](seen).sigmoid()) * x
            for key, x in maps.items()
        }


class CrossFusion(nn.Module):
    """FFM at one scale (section III-C): streams exchange a context, then are merged into one map.

    Args:
        width: channels C.
        heads: attention heads H of the exchange.
        names: keys of the streams.
        norm: makes a norm over maps from its number of channels.
        positions: number of positions that the sums of the contexts are scaled to, or None for plain sums.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        names: Iterable[str],
        norm: Callable[[int], nn.Module],
        positions: float | None,
    ) -> None:
        super().__init__()
        names = list(names)
        self.heads, self.positions = heads, positions
        self.project = _each(names, lambda: nn.Linear(width, 2 * width))
        self.kv = _each(names, lambda: nn.Linear(width, 2 * width, bias=False))
        self.keep = _each(names, lambda: nn.Linear(width, width))
        self.take = _each(names, lambda: nn.Linear(width, width, bias=False))
        self.norm = _each(names, lambda: nn.LayerNorm(width))
        self.residual = _each(names, lambda: nn.Conv2d(width, width, 1, bias=False))
        self.embed = _each(names, lambda: nn.Conv2d(width, width, 1, bias=False))
        self.embed_bias = nn.Parameter(torch.zeros(width))
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.pointwise = nn.Conv2d(width, width, 1)
        self.inner_norm, self.outer_norm = norm(width), norm(width)
        self.apply(initialise_by_fan_out)

    def forward(self, maps: Maps) -> Tensor:
        """Return the fused map (B, C, h, w) of `maps`, (B, C, h, w) each."""
        size = next(iter(maps.values())).shape[-2:]
        mixed = {key: x.transpose(1, 2).unflatten(-1, size) for key, x in self.exchange(maps).items()}
        share = 2.0 / len(mixed)
        residual = share * summed(self.residual[key](x) for key, x in mixed.items())
        embedded = share * summed(self.embed[key](x) for key, x in mixed.items()) + self.embed_bias[:, None, None]
        embedded = self.inner_norm(self.pointwise(F.relu(self.depthwise(embedded))))
        return self.outer_norm(residual + embedded)

    def exchange(self, maps: Maps) -> dict[str, Tensor]:
        """Return the tokens (B, P, C) of each stream after its query met the mean context of the others."""
        tokens = {key: x.flatten(2).transpose(1, 2) for key, x in maps.items()}
        halves = {key: F.relu(self.project[key](x)).chunk(2, -1) for key, x in tokens.items()}
        contexts = {key: self.context(key, halves[key][1]) for key in tokens} if len(tokens) > 1 else {}
        mixed = {}
        for key, x in tokens.items():
            kept, query = halves[key]
            x = x + self.keep[key](kept)
            if contexts:
                context = _mean(contexts[other] for other in contexts if other != key).to(query.dtype)
                x = x + self.take[key](torch.einsum("bphd,bhde->bphe", self.split(query), context).flatten(-2))
            mixed[key] = self.norm[key](x)
        return mixed

    def context(self, key: str, tokens: Tensor) -> Tensor:
        """Return the context (B, H, d, d) of a stream's `tokens` (B, P, C): softmax over the channels of the keys.

        Summed in float32 whatever the precision: the sum over a large tile exceeds what half precision holds.
        """
        keys, values = self.kv[key](tokens).chunk(2, -1)
        with torch.autocast(tokens.device.type, enabled=False):
            keys, values = (self.split(at_least_single(x)) for x in (keys, values))
            scores = torch.einsum("bphd,bphe->bhde", keys, values)
            scale = (tokens.shape[-1] // self.heads) ** -0.5
            if self.positions is not None:
                scale *= self.positions / tokens.shape[1]
            return (scores * scale).softmax(-2)

    def split(self, x: Tensor) -> Tensor:
        """Return `x` (..., C) as (..., H, d)."""
        return x.unflatten(-1, (self.heads, -1))


@register("cmx")
class Cmx(SegmentationModel):
    """CMX over any number of modalities, of which any non-empty subset may be given.

    The published training knows no missing modality. Here a training step by default uses a random non-empty subset of
    the modalities it is given, so that every scenario is met in training.

    Pooling in the rectification and the contexts of the fusion are taken over the whole image that is given, so the
    logits at a pixel depend, weakly, on all of its tile.

    https://arxiv.org/abs/2203.04838
    """

    Config = CmxConfig
    published_adapters = ("encoders.*", "rectifications.*", "fusions.*")  # all but the decoder
    import_note = "The published training always gives it both inputs: maps from one of them alone are untried."

    def __init__(self, modalities: Mapping[str, int], classes: int, config: CmxConfig) -> None:
        super().__init__(modalities, classes, config)
        self.draws_scenarios = config.scenarios != "full"
        keys = [module_key(name) for name in modalities]
        self.encoders = ModuleDictOf(
            {
                module_key(name): build_encoder(config.encoder, {name: channels}, config.stem, config.encoder_options)
                for name, channels in modalities.items()
            }
        )
        if config.published_drop_path:
            _repeat_drop_path(list(self.encoders.values()))
        encoder = self.encoders[keys[0]]
        widths, strides = encoder.out_channels, encoder.strides
        self.rectifications = nn.ModuleList(Rectification(width, keys) for width in widths)
        crop = config.context_crop
        self.fusions = nn.ModuleList(
            CrossFusion(width, heads, keys, _norm(config.norm), crop and (crop / stride) ** 2)
            for width, heads, stride in zip(widths, encoder.heads, strides)
        )
        head_norm = _norm(config.norm, config.head_eps)
        self.head = MLPHead(widths, strides, config.head_width, classes, config.head_dropout, head_norm, stretch=True)
        for layer in (self.head.merge, self.head.classify):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        self.strides = strides
        self.output_stride = lcm(*(item.origin_step() for item in self.encoders.values())) * self.coarsest
        self.margin = 2 * self.output_stride

    def forward(self, images: Maps, size: tuple[int, int] | None = None) -> Tensor:
        """Return logits (B, K, H, W) on the reference grid; see `SegmentationModel.forward`."""
        names, size = self.present(images), reference_size(images, size)
        return self.decode(self.fused(images, names, size), size)

    def latent(self, images: Maps, size: tuple[int, int] | None = None) -> Tensor:
        """Return the fused map of the coarsest scale, (B, C_4, H / s_4, W / s_4)."""
        names, size = self.present(images), reference_size(images, size)
        return crop_cells(self.fused(images, names, size)[-1], size, self.strides[-1])

    def fused(self, images: Maps, names: Iterable[str], size: tuple[int, int]) -> list[Tensor]:
        """Return the four fused maps (B, C_i, h_i, w_i) of modalities `names`, on the padded reference grid.

        The rectified maps go on to the next stage of their encoders; the fused ones only to the head.
        """
        streams = {module_key(name): name for name in names}
        entered = {key: self.prepare(images[name], name, size) for key, name in streams.items()}
        maps = {key: self.encoders[key].enter(image, streams[key]) for key, image in entered.items()}
        fused = []
        for index, (rectify, fuse) in enumerate(zip(self.rectifications, self.fusions)):
            own = {key: self.encoders[key].stage(index, maps[key], name) for key, name in streams.items()}
            met = {key: self._enlarged(x, streams[key], size, index) for key, x in own.items()}
            rectified = rectify(met)
            fused.append(fuse(rectified))
            maps = {
                key: self._received(own[key], met[key], x, self.factors[name]) if name in self.factors else x
                for (key, x), name in zip(rectified.items(), streams.values())
            }
        return fused

    def _enlarged(self, x: Tensor, name: str, size: tuple[int, int], index: int) -> Tensor:
        """Return map `index` of a modality on the padded reference grid, where those of all streams meet."""
        if name not in self.factors:
            return x
        rows, columns = self._padded(size)
        stride, ratio = self.strides[index], 1 / self.factors[name]
        return resample_features(x, (-(-rows // stride), -(-columns // stride)), (ratio, ratio))

    @staticmethod
    def _received(own: Tensor, met: Tensor, rectified: Tensor, factor: int) -> Tensor:
        """Return a reduced stream's `own` map with what it received on the reference grid; alone it stays as it is."""
        if rectified is met:
            return own
        return own + resample_features(rectified - met, (own.shape[-2], own.shape[-1]), (float(factor), float(factor)))

    def prepare(self, image: Tensor, name: str, size: tuple[int, int]) -> Tensor:
        """Return the image (B, C, h, w) of modality `name` on the reference grid of `size`, or on that reduced.

        It is padded as far as the encoder needs.
        """
        image, own = self.encoder_input(image, name, size)
        if name not in self.factors:
            image = to_reference(image, own, size, 1)
        if self.model_config.pad:
            return pad_to_multiple(image, self.strides[-1])
        return pad_to_least(image, self.strides[-1])

    def _padded(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the height and width of the padded reference grid."""
        stride = self.strides[-1]
        rows, columns = (side + -side % stride if self.model_config.pad else max(side, stride) for side in size)
        return rows, columns

    def decode(self, fused: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Return logits (B, K, H, W) from the fused maps of the padded reference grid."""
        logits = F.interpolate(self.head(fused), size=self._padded(size), mode="bilinear", align_corners=False)
        return logits[..., : size[0], : size[1]]

    def losses(
        self,
        images: Maps,
        target: Tensor,
        *,
        available: Sequence[str] | None = None,
        generator: torch.Generator | None = None,
        class_weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the cross-entropy of the scenario of this step (`CmxConfig.scenarios`), as `total`.

        It is drawn for the whole batch, unless the scenario is told: `available`. See `SegmentationModel.losses`.
        """
        size = (target.shape[-2], target.shape[-1])
        names = list(available or self._scenario(self.present(images), generator))
        return {"total": cross_entropy(self.decode(self.fused(images, names, size), size), target, class_weights)}

    def _scenario(self, names: list[str], generator: torch.Generator | None) -> list[str]:
        """Return the modalities that this step uses; the bits of a number from 1 say which."""
        if not (self.training and self.draws_scenarios):
            return names
        drawn = int(torch.randint(1, 2 ** len(names), (), generator=generator))
        return [name for index, name in enumerate(names) if drawn >> index & 1]

    def load_encoder(self, weights: Mapping[str, Tensor]) -> None:
        """Copy published encoder `weights` into every stream, as published; see `encoders.weights.load_published`."""
        for encoder in self.encoders.values():
            load_published(encoder, weights)

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the encoders of all streams."""
        return list(self.encoders.parameters())

    def pretrained_parameters(self) -> list[nn.Parameter]:
        """Return those of them that published weights set."""
        return [parameter for encoder in self.encoders.values() for parameter in encoder.pretrained_parameters()]

    @classmethod
    def import_published(
        cls, state: Mapping[str, Tensor], config: Mapping[str, Any], channels: Mapping[str, int], classes: int
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return configuration and state from weights of the official code; see `cmx_import.import_cmx`."""
        return import_cmx(state, config, channels, classes)

    @classmethod
    def preset_config(cls, preset: str = "default") -> dict[str, Any]:
        """Return the network of the paper (MiT-B2, full pairs only, BatchNorm, sums as they come), or nothing."""
        if preset == "paper":
            return {**PUBLISHED, "encoder": "mit_b2", "stem": "repeat", "head_width": 512, "scenarios": "full"}
        return {}

    @classmethod
    def settings(cls, preset: str = "default") -> TrainingSettings:
        """Return the training settings: those published for NYU Depth V2, or ones that learn from little data.

        The published crop is 480 x 640; crops here are square. There the warm-up starts from nought, and the rate takes
        effect one step late, which is not repeated. Single-channel inputs are repeated, then normalised like colours.
        """
        if preset == "paper":
            return TrainingSettings(
                lr=6e-5, weight_decay=1e-2, epochs=500, warmup_epochs=10, warmup_ratio=0.0, batch=8, crop=480
            )
        return TrainingSettings(lr=1e-3, weight_decay=5e-2, epochs=60, warmup_epochs=3, batch=8, crop=96, clip=1.0)


def _each(names: Iterable[str], make: Callable[[], M]) -> ModuleDictOf[M]:
    """Return a new layer for each stream."""
    return ModuleDictOf({name: make() for name in names})


def _mean(items: Iterable[Tensor]) -> Tensor:
    """Return the mean of tensors of one shape."""
    found = list(items)
    return summed(found) / len(found)


def _norm(kind: str, eps: float | None = None) -> Callable[[int], nn.Module]:
    """Return what makes a norm of `kind` over maps, with `eps` or the kind's usual one."""
    layer, usual = (nn.BatchNorm2d, 1e-5) if kind == "batch" else (ChannelNorm, 1e-6)
    return lambda channels: layer(channels, eps or usual)


def _repeat_drop_path(encoders: list[Encoder]) -> None:
    """Give all blocks of the second stage one rate (`CmxConfig.published_drop_path`)."""
    for number, encoder in enumerate(encoders):
        if not isinstance(encoder, PvtV2):
            hint = "Only encoders mit and pvt_v2 have what it sets: leave it out, or set it to false."
            raise bad_config("architecture cmx", "was given published_drop_path", hint)
        paths = [layer for layer in encoder.stages[1].modules() if isinstance(layer, DropPath)]
        rate = paths[min(number, 1)].rate
        for path in paths:
            path.rate = rate
