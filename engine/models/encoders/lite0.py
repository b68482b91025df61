# SPDX-License-Identifier: GPL-2.0-or-later
"""EfficientNet-Lite0 as an encoder: a small network, trained on photographs, for any number of bands.

Tan, Le 2019, https://arxiv.org/abs/1905.11946; the network itself is in `lite0_net`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from .base import StemMode
from .channels import adapted_to_bands
from .descent import suitable_heads
from .lite0_net import STAGES, STEM_WIDTH, SamePadConv2d, StillBatchNorm, initialise_lite, lite_blocks
from .pretrained import Pretrained, PretrainedOptions, check_nothing_left, copy_tensors, unfit

# The stages that lead from one map to the next, by the stride of the first map.
_STEPS = {4: ((0, 1), (2,), (3, 4), (5, 6)), 2: ((0,), (1,), (2,), (3, 4))}
_COUNTERS = ("num_batches_tracked",)


@dataclass(frozen=True)
class Lite0Options(PretrainedOptions):
    """What may be chosen.

    Attributes:
        stem_stride: stride of the first map: 4, as is usual; or 2, which keeps finer detail and leaves out the coarsest
            map and what leads to it, three quarters of all weights.
    """

    stem_stride: Literal[2, 4] = 4


class LiteStem(nn.Module):
    """The first convolution, at half the resolution, and its norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = SamePadConv2d(channels, STEM_WIDTH, 3, 2)
        self.norm = StillBatchNorm(STEM_WIDTH)

    def forward(self, x: Tensor, domain: str) -> Tensor:
        """Return (B, 32, h / 2, w / 2) from (B, C, h, w)."""
        return F.relu6(self.norm(self.conv(x)))


class Lite0Encoder(Pretrained):
    """EfficientNet-Lite0. Each modality has a first convolution of its own, adapted to its bands (`adapted_to_bands`).

    Its norms keep the statistics that they came with, in training too.

    Args:
        inputs: number of channels by domain.
        stem: see `Pretrained`; `repeat` too.
        variant: nothing.
        options: what may be chosen.
    """

    Options = Lite0Options
    name = "efficientnet_lite0"
    takes_repeat = True

    def __init__(self, inputs: Mapping[str, int], stem: StemMode, variant: None, options: Lite0Options) -> None:
        super().__init__(inputs, stem, options)
        self.steps = _STEPS[options.stem_stride]
        self.strides = tuple(options.stem_stride * 2**index for index in range(4))
        self.out_channels = tuple(STAGES[step[-1]].width for step in self.steps)
        self.heads = suitable_heads(self.out_channels)
        self.add_stems()
        self.blocks = lite_blocks(self.steps[-1][-1] + 1)
        self.apply(initialise_lite)
        self.freeze()

    def make_stem(self, channels: int, domains: list[str]) -> nn.Module:
        """Return a first convolution for `channels`."""
        return LiteStem(channels)

    def stage(self, index: int, x: Tensor, domain: str) -> Tensor:
        """Return map `index`; see `Encoder.stage`."""
        for number in self.steps[index]:
            x = self.blocks[number](x)
        return x

    def pretrained(self) -> list[nn.Module]:
        """Return body and stems; where it is frozen, only stems of the published three channels are."""
        stems = dict(self.plan.values()).items()
        kept = [key for key, channels in stems if not self.options.frozen or self._as_published(key, channels)]
        return [self.blocks, *(self.stems[key] for key in kept)]

    def _as_published(self, key: str, channels: int) -> bool:
        """Return whether the stem `key` takes red, green and blue, in any order."""
        domains = [domain for domain, (own, _) in self.plan.items() if own == key]
        return channels == 3 and all(self.known[domain] or self.inputs[domain] == 1 for domain in domains)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Copy the published weights, under timm's names; see `LoadingEncoder.load`."""
        first = weights.get("conv_stem.weight")
        if first is None or first.shape[0] != STEM_WIDTH or first.shape[2:] != (3, 3):
            found = "missing" if first is None else f"{tuple(first.shape)}, expected (32, 3, 3, 3)"
            raise unfit(self.name, f"conv_stem.weight is {found}")
        used = copy_tensors(self.blocks, weights, self.name, "blocks.", _COUNTERS) | {"conv_stem.weight"}
        for domain, (key, channels) in self.plan.items():
            stem: Any = self.stems[key]
            used |= copy_tensors(stem.norm, weights, self.name, "bn1.", _COUNTERS)
            stem.conv.weight.data.copy_(adapted_to_bands(first, channels, self.known[domain]))
        later = tuple(f"blocks.{number}." for number in range(len(self.blocks), len(STAGES)))
        check_nothing_left(self.name, weights, used, (*later, "conv_head.", "bn2.", "classifier."))
