# SPDX-License-Identifier: GPL-2.0-or-later
"""EfficientNet-Lite0 without its classifier: five maps of strides 2 to 32.

Tan, Le 2019, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks",
https://arxiv.org/abs/1905.11946; "Lite" is Google's variant without squeeze-and-excitation and with ReLU6. Written from
a description. Tensors are named as timm names those of `tf_efficientnet_lite0`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ..containers import ModuleListOf

_EPS = 1e-3
STEM_WIDTH = 32


@dataclass(frozen=True)
class LiteStage:
    """A stage: how many blocks, their kernel, the stride of the first, expansion (0: separable), channels."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    width: int


STAGES = (
    LiteStage(1, 3, 1, 0, 16),
    LiteStage(2, 3, 2, 6, 24),
    LiteStage(2, 5, 2, 6, 40),
    LiteStage(3, 3, 2, 6, 80),
    LiteStage(3, 5, 1, 6, 112),
    LiteStage(4, 5, 2, 6, 192),
    LiteStage(1, 3, 1, 6, 320),
)
# The stages whose outputs are the maps of strides 2, 4, 8, 16 and 32.
MAPS = (0, 1, 2, 4, 6)


class StillBatchNorm(nn.BatchNorm2d):
    """A BatchNorm that always uses the statistics it came with; its factors and offsets can be trained.

    Statistics of small batches of crops would be poor, and would make the result depend on the tile.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, _EPS)
        self.eval()

    def train(self, mode: bool = True) -> StillBatchNorm:
        """Stay in evaluation mode."""
        super().train(False)
        return self


class SamePadConv2d(nn.Conv2d):
    """A convolution without bias that pads as TensorFlow's "SAME": where it cannot be even, more below and right."""

    def __init__(self, channels: int, width: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(channels, width, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, width, ceil(h / stride), ceil(w / stride)) from (B, channels, h, w)."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        down, right = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[-2:])
        if down or right:
            x = F.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2))
        return super().forward(x)


class LiteSeparable(nn.Module):
    """Depthwise, then 1 x 1 convolution."""

    def __init__(self, channels: int, stage: LiteStage, stride: int) -> None:
        super().__init__()
        self.conv_dw = SamePadConv2d(channels, channels, stage.kernel, stride, channels)
        self.bn1 = StillBatchNorm(channels)
        self.conv_pw = SamePadConv2d(channels, stage.width, 1)
        self.bn2 = StillBatchNorm(stage.width)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, width, h / stride, w / stride) from (B, channels, h, w)."""
        return self.bn2(self.conv_pw(F.relu6(self.bn1(self.conv_dw(x)))))


class LiteInverted(nn.Module):
    """1 x 1 convolution to more channels, depthwise, 1 x 1 to fewer; a residual around them where shapes agree."""

    def __init__(self, channels: int, stage: LiteStage, stride: int) -> None:
        super().__init__()
        wide = channels * stage.expansion
        self.residual = stride == 1 and channels == stage.width
        self.conv_pw = SamePadConv2d(channels, wide, 1)
        self.bn1 = StillBatchNorm(wide)
        self.conv_dw = SamePadConv2d(wide, wide, stage.kernel, stride, wide)
        self.bn2 = StillBatchNorm(wide)
        self.conv_pwl = SamePadConv2d(wide, stage.width, 1)
        self.bn3 = StillBatchNorm(stage.width)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, width, h / stride, w / stride) from (B, channels, h, w)."""
        found = F.relu6(self.bn1(self.conv_pw(x)))
        found = F.relu6(self.bn2(self.conv_dw(found)))
        found = self.bn3(self.conv_pwl(found))
        return found + x if self.residual else found


def lite_blocks(count: int = len(STAGES)) -> ModuleListOf[nn.Sequential]:
    """Return the first `count` stages."""
    stages: ModuleListOf[nn.Sequential] = ModuleListOf()
    channels = STEM_WIDTH
    for stage in STAGES[:count]:
        kind: Any = LiteInverted if stage.expansion else LiteSeparable
        blocks = []
        for number in range(stage.blocks):
            blocks.append(kind(channels, stage, 1 if number else stage.stride))
            channels = stage.width
        stages.append(nn.Sequential(*blocks))
    return stages


class Lite0Net(nn.Module):
    """EfficientNet-Lite0 for images of `channels` bands. https://arxiv.org/abs/1905.11946."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv_stem = SamePadConv2d(channels, STEM_WIDTH, 3, 2)
        self.bn1 = StillBatchNorm(STEM_WIDTH)
        self.blocks = lite_blocks()
        self.apply(initialise_lite)

    def stem(self, image: Tensor) -> Tensor:
        """Return (B, 32, ceil(H / 2), ceil(W / 2)) from `image` (B, C, H, W)."""
        return F.relu6(self.bn1(self.conv_stem(image)))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the maps of strides 2, 4, 8, 16, 32, of 16, 24, 40, 112 and 320 channels, from (B, C, H, W)."""
        x, maps = self.stem(image), []
        for index, stage in enumerate(self.blocks):
            x = stage(x)
            if index in MAPS:
                maps.append(x)
        return maps


def initialise_lite(module: nn.Module) -> None:
    """Set the weights of a convolution by its fan-out, for a network without published ones."""
    if isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, 0.0, (2.0 / fan_out) ** 0.5)
