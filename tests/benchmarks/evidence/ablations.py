# SPDX-License-Identifier: GPL-2.0-or-later
"""SGMA and DIS2 without one of their parts, each replaced by the least that does its work; no checkpoint can name them.

SGMA without MAS needs no class: it is SGMA with `mas_weight` 0. Shapes as in `models.sgma` and `models.dis2`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from lacuna.engine.models.classwise import ClasswiseDecoder, Decoded, DecoderOptions
from lacuna.engine.models.containers import ModuleListOf, summed
from lacuna.engine.models.dis2 import Dis2, Dis2Config
from lacuna.engine.models.dis2_layers import level_widths
from lacuna.engine.models.hybrid_fusion import Fused
from lacuna.engine.models.sgma import Sgma, SgmaConfig


class SgmaWithoutFusion(Sgma):
    """SGMA without SGF: the plain mean of the projected features.

    Without robustness weights modality-aware sampling draws every modality with the same probability.
    """

    def __init__(self, modalities: Mapping[str, int], classes: int, config: SgmaConfig) -> None:
        super().__init__(modalities, classes, config)
        self.fusions = nn.ModuleList()

    def fuse(self, tokens: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return means (B, P_i, C_i) of `tokens` (B, M, P_i, C_i), and equal weights (B, M, P_i)."""
        weights = [scale.new_full(scale.shape[:3], 1 / scale.shape[1]) for scale in tokens]
        return [scale.mean(1) for scale in tokens], weights


class Dis2WithoutDistillation(Dis2):
    """DIS2 without DLKD: neither L_KD nor L_div.

    Compensatory encoders stay, and learn from the labels alone; the teacher is one more branch that shares encoders.
    """

    def _distillation(
        self, key: str, student: tuple[Fused, Decoded], teacher: tuple[Fused, Decoded]
    ) -> dict[str, Tensor]:
        return {"kd": student[1].logits.new_zeros(())}

    def _divergence(self, made_up: Mapping[str, list[Tensor]], features: Mapping[str, list[Tensor]]) -> Tensor:
        return next(iter(features.values()))[0].new_zeros(())


class Dis2WithoutClasses(Dis2):
    """DIS2 without CFLM: the fused map is decoded once for all classes (`PlainDecoder`), not weighed by each."""

    def __init__(self, modalities: Mapping[str, int], classes: int, config: Dis2Config) -> None:
        super().__init__(modalities, classes, config)
        for branch in self.branches.values():
            # Embeddings of what is missing, which more than three modalities share, then reach the fusion alone.
            branch.attention, branch.missing_queries = _Unweighted(), None
            branch.decoder = PlainDecoder(config, classes)


class Dis2WithoutHybridFusion(Dis2):
    """DIS2 without HF: the mean over the slots at every level (`MeanFusion`)."""

    def __init__(self, modalities: Mapping[str, int], classes: int, config: Dis2Config) -> None:
        super().__init__(modalities, classes, config)
        for branch in self.branches.values():
            branch.fusion, branch.missing_token = MeanFusion(), None


class _Unweighted(nn.Module):
    """Stands where class attention stood: the fused map itself is the evidence of all classes."""

    def forward(self, x: Tensor, shift: Tensor | None = None) -> list[Tensor]:
        return [x]


class PlainDecoder(ClasswiseDecoder):
    """The decoder of one class with the heads of all; at full resolution as wide as those of all classes together."""

    def __init__(self, config: Dis2Config, classes: int) -> None:
        widths = config.head_widths or [2 * config.width, config.width]
        channels = classes * config.class_channels
        super().__init__(DecoderOptions(1, config.width, channels, (widths[0], widths[1]), config.norm, config.corners))
        *_, second, third, fourth = level_widths(config.width)
        counts = [fourth, third, second, channels]
        self.heads = ModuleListOf(ModuleListOf([nn.Conv2d(count, classes, 1)]) for count in counts)
        self.final = nn.Conv2d(widths[1], classes, 1)


class MeanFusion(nn.Module):
    """Maps f1 to f4 are means over the slots, the token that of the coarsest map; nothing is learned here."""

    def forward(self, slots: Sequence[Sequence[Tensor]], shift: Tensor | None = None) -> Fused:
        """Return the fused maps and token of the four maps of each slot."""
        maps = [summed(level) / len(slots) for level in zip(*slots)]
        return Fused(maps, maps[-1].mean((2, 3)))
