# SPDX-License-Identifier: GPL-2.0-or-later
"""Residual networks: ResNet-18, -34 and -50, and a small one that learns from scratch on little data.

He et al. 2016, "Deep Residual Learning for Image Recognition", https://arxiv.org/abs/1512.03385
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, Union

from torch import Tensor, nn
from torch.nn import functional as F

from ..containers import ModuleListOf
from ..layers import ChannelNorm, DomainBatchNorm, DropPath, drop_path_rates
from .base import Encoder, StemMode

Norm = Callable[[int], nn.Module]


@dataclass(frozen=True)
class ResNetOptions:
    """What may be chosen of ResNet-18, -34 and -50.

    Attributes:
        stem_stride: stride of the first map: 4 as published; 2 leaves out the pooling; 1 also the stem's stride.
    """

    stem_stride: Literal[1, 2, 4] = 4


@dataclass(frozen=True)
class SmallOptions:
    """What may be chosen of the small ResNet.

    Attributes:
        stem_stride: stride of the first map. 1 or 2 keep fields and buildings of a few 10 m pixels apart; memory and
            time grow fourfold from one to the next finer.
        width: channels of the first map; the next ones have 2, 3 and 4 times as many.
        depth: blocks in each stage.
        drop_path: largest rate of stochastic depth.
    """

    stem_stride: Literal[1, 2, 4] = 2
    width: int = 32
    depth: int = 2
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        if self.width < 1 or self.depth < 1:
            raise ValueError(f"width is {self.width} and depth {self.depth}, expected at least 1")
        if not 0.0 <= self.drop_path < 1.0:
            raise ValueError(f"drop_path is {self.drop_path}, expected 0 to below 1")


class Shortcut(nn.Module):
    """Projects the input of a block to the shape of its output.

    The stride is taken by leaving out pixels before the 1 x 1 convolution, not within it: the same numbers, and clear
    of a fault of oneDNN 3.12 (torch 2.13), whose gradient of a strided 1 x 1 convolution of fewer than 16 channels
    writes past its buffer. https://github.com/uxlfoundation/oneDNN/issues/6035
    """

    def __init__(self, channels: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(channels, width, 1, bias=False)
        self.norm = norm(width)

    def forward(self, x: Tensor, domain: str) -> Tensor:
        """Return (B, width, h / stride, w / stride) from (B, C, h, w)."""
        return self.norm(self.conv(x[..., :: self.stride, :: self.stride]), domain)


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions with a residual around them."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int, norm: Norm, drop_path: float = 0.0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.norm1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = norm(width)
        self.downsample = Shortcut(channels, width, stride, norm) if stride > 1 or channels != width else None
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, domain: str) -> Tensor:
        """Return (B, width, h / stride, w / stride) from (B, C, h, w)."""
        residual = x if self.downsample is None else self.downsample(x, domain)
        x = F.relu(self.norm1(self.conv1(x), domain))
        x = self.norm2(self.conv2(x), domain)
        return F.relu(residual + self.drop_path(x))


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions with a residual around them.

    The stride is in the 3 x 3, as in all published weights in use ("v1.5"), not in the first 1 x 1 as in the paper.
    """

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.norm1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.norm2 = norm(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.norm3 = norm(4 * width)
        self.downsample = Shortcut(channels, 4 * width, stride, norm) if stride > 1 or channels != 4 * width else None

    def forward(self, x: Tensor, domain: str) -> Tensor:
        """Return (B, 4 width, h / stride, w / stride) from (B, C, h, w)."""
        residual = x if self.downsample is None else self.downsample(x, domain)
        x = F.relu(self.norm1(self.conv1(x), domain))
        x = F.relu(self.norm2(self.conv2(x), domain))
        return F.relu(residual + self.norm3(self.conv3(x), domain))


Block = Union[BasicBlock, Bottleneck]


class Stem(nn.Module):
    """The published stem: a 7 x 7 convolution, norm and pooling."""

    def __init__(self, channels: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 64, 7, min(stride, 2), 3, bias=False)
        self.norm = norm(64)
        self.pool = stride == 4

    def forward(self, x: Tensor, domain: str) -> Tensor:
        """Return (B, 64, h / stride, w / stride) from (B, C, h, w)."""
        x = F.relu(self.norm(self.conv(x), domain))
        return F.max_pool2d(x, 3, 2, 1) if self.pool else x


class SmallStem(nn.Module):
    """Two 3 x 3 convolutions: room to bring bands of any kind into the space that the body shares."""

    def __init__(self, channels: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        # Without a bias the norm that follows would hide how bright a pixel is: of one band, all but the sign.
        self.conv1 = nn.Conv2d(channels, width, 3, min(stride, 2), 1)
        self.norm1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, max(stride // 2, 1), 1, bias=False)
        self.norm2 = norm(width)

    def balance(self) -> None:
        """Draw the first convolution so that its biases are as large as what it makes of any number of bands.

        Beside many bands the usual biases are too small for the norm to leave anything of the brightness.
        """
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_in", nonlinearity="linear")
        if self.conv1.bias is not None:
            nn.init.normal_(self.conv1.bias)

    def forward(self, x: Tensor, domain: str) -> Tensor:
        """Return (B, width, h / stride, w / stride) from (B, C, h, w)."""
        x = F.relu(self.norm1(self.conv1(x), domain))
        return F.relu(self.norm2(self.conv2(x), domain))


class ResNet(Encoder):
    """ResNet-18, -34 or -50 with the structure of its published weights.

    BatchNorm has statistics of its own for each modality (`layers.DomainBatchNorm`), since the body is shared; in
    evaluation it looks at nothing but the pixel. https://arxiv.org/abs/1512.03385

    Args:
        inputs: number of channels by domain.
        stem: how domains share the stem's convolution.
        variant: the block and how many of them each stage has.
        options: what may be chosen.
    """

    Options = ResNetOptions
    heads = (1, 2, 4, 8)
    stem_channels = 64

    def __init__(
        self,
        inputs: Mapping[str, int],
        stem: StemMode,
        variant: tuple[type[Block], tuple[int, int, int, int]],
        options: ResNetOptions,
    ) -> None:
        super().__init__(inputs, stem)
        block, depths = variant
        self.stride = options.stem_stride
        self.strides = tuple(self.stride * 2**index for index in range(4))
        widths = (64, 128, 256, 512)
        self.out_channels = tuple(block.expansion * width for width in widths)
        self.add_stems()
        self.layers: ModuleListOf[ModuleListOf[Block]] = ModuleListOf()
        channels = 64
        norm = partial(DomainBatchNorm, domains=self.inputs)
        for index in range(4):
            self.layers.append(_stage(block, channels, widths[index], depths[index], index, norm))
            channels = self.out_channels[index]
        self.apply(_initialise)

    def make_stem(self, channels: int, domains: list[str]) -> nn.Module:
        """Return the published stem, with norms for `domains` alone."""
        return Stem(channels, self.stride, lambda width: DomainBatchNorm(width, domains))

    def stage(self, index: int, x: Tensor, domain: str) -> Tensor:
        """Return map `index`; see `Encoder.stage`."""
        for block in self.layers[index]:
            x = block(x, domain)
        return x


class SmallResNet(Encoder):
    """A ResNet of about a million parameters that learns from scratch on a few thousand labelled pixels.

    All norms are over the channels of a pixel (`layers.ChannelNorm`): batches of small crops give BatchNorm poor
    statistics, modalities that share the body would spoil each other's, and a norm over space would make the result
    depend on what else is in the tile. Each map ends with such a norm, so that the scales enter the fusion alike.
    """

    Options = SmallOptions

    def __init__(self, inputs: Mapping[str, int], stem: StemMode, variant: None, options: SmallOptions) -> None:
        super().__init__(inputs, stem)
        self.stride, self.width, self.stem_channels = options.stem_stride, options.width, options.width
        self.strides = tuple(self.stride * 2**index for index in range(4))
        self.out_channels = tuple(options.width * factor for factor in (1, 2, 3, 4))
        self.heads = (1, 2, 3, 4)
        self.add_stems()
        rates = drop_path_rates(options.drop_path, 4 * options.depth)
        self.layers: ModuleListOf[ModuleListOf[Block]] = ModuleListOf()
        self.norms = nn.ModuleList()
        channels = options.width
        for index, width in enumerate(self.out_channels):
            chosen = rates[index * options.depth : (index + 1) * options.depth]
            self.layers.append(_stage(BasicBlock, channels, width, options.depth, index, ChannelNorm, chosen))
            self.norms.append(ChannelNorm(width))
            channels = width
        self.apply(_initialise)
        for module in self.modules():
            if isinstance(module, SmallStem):
                module.balance()

    def make_stem(self, channels: int, domains: list[str]) -> nn.Module:
        """Return a stem of two small convolutions."""
        return SmallStem(channels, self.width, self.stride, ChannelNorm)

    def features(self, x: Tensor, domain: str) -> list[Tensor]:
        """Return the four maps; each stage goes on from the one before without the norm that ends its map."""
        maps = []
        for stage, norm in zip(self.layers, self.norms):
            for block in stage:
                x = block(x, domain)
            maps.append(norm(x))
        return maps

    def stage(self, index: int, x: Tensor, domain: str) -> Tensor:
        """Return map `index`; see `Encoder.stage`. Here a stage goes on from the map as the caller gives it, normed."""
        for block in self.layers[index]:
            x = block(x, domain)
        return self.norms[index](x)


RESNETS = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
}


def _stage(
    block: type[Block],
    channels: int,
    width: int,
    depth: int,
    index: int,
    norm: Norm,
    rates: list[float] | None = None,
) -> ModuleListOf[Block]:
    """Return the blocks of stage `index`; the first block of all stages but the first halves the resolution."""
    blocks: ModuleListOf[Block] = ModuleListOf()
    for number in range(depth):
        extra = () if rates is None else (rates[number],)
        blocks.append(block(channels, width, 2 if index > 0 and number == 0 else 1, norm, *extra))
        channels = width * block.expansion
    return blocks


def _initialise(module: nn.Module) -> None:
    """Set the weights of a convolution by its fan-out, as the paper does (He et al. 2015)."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
