# SPDX-License-Identifier: GPL-2.0-or-later
"""Layers that several networks share: norms that never look at the tile, stochastic depth, widths, module names."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def module_key(name: str) -> str:
    """Return the key of modality `name` in a ModuleDict, which refuses plain words such as `type` or `keys`."""
    return f"m_{name}"


def at_least_single(x: Tensor) -> Tensor:
    """Return `x` in float32, or in float64 where it is that already: tests compare with a network in float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def initialise_by_fan_out(module: nn.Module) -> None:
    """Set the weights of one layer: normal, of deviation 0.02 if it is linear, by fan-out if it is a convolution."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, 0.0, (2.0 / fan_out) ** 0.5)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of each pixel, as in ConvNeXt (Liu et al. 2022, https://arxiv.org/abs/2201.03545).

    It has no state beyond its weights and looks at one pixel at a time: the same in training and in use, for a tile of
    any size, whichever modalities share it. `domain` is ignored; the signature is that of `DomainBatchNorm`.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor, domain: str = "") -> Tensor:
        """Return `x` (B, C, H, W) normalised over C."""
        rows = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, self.eps)
        return rows.permute(0, 3, 1, 2)


class DomainBatchNorm(nn.Module):
    """BatchNorm with statistics and affine weights of its own for each domain (Chang et al. 2019).

    An encoder that several modalities share meets them in turn. One BatchNorm would normalise each by its own batch in
    training, but all by the mixture of their statistics in use. https://arxiv.org/abs/1906.03950
    """

    def __init__(self, channels: int, domains: Iterable[str], eps: float = 1e-5) -> None:
        super().__init__()
        self.domains = nn.ModuleDict({module_key(name): nn.BatchNorm2d(channels, eps) for name in domains})

    def forward(self, x: Tensor, domain: str) -> Tensor:
        """Return `x` (B, C, H, W) normalised by the statistics of `domain`."""
        return self.domains[module_key(domain)](x)


class DropPath(nn.Module):
    """Stochastic depth: in training, leaves out a residual branch for each image with probability `rate`.

    Huang et al. 2016, https://arxiv.org/abs/1603.09382
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Return the branch `x`, whose first axis is the batch, scaled so that its mean stays."""
        if not self.training or self.rate == 0.0:
            return x
        kept = torch.rand(x.shape[0], *([1] * (x.ndim - 1)), device=x.device) >= self.rate
        return x * kept / (1.0 - self.rate)


def drop_path_rates(last: float, count: int) -> list[float]:
    """Return the rates of `count` blocks, growing evenly from 0 to `last`."""
    return [last * index / max(count - 1, 1) for index in range(count)]
