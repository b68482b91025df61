# SPDX-License-Identifier: GPL-2.0-or-later
"""Any backbone of timm that gives a pyramid of maps, as an encoder called `timm:NAME`; timm is an optional extra.

Wightman 2019, "PyTorch Image Models", https://github.com/huggingface/pytorch-image-models
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ...errors import LacunaError
from ..config import bad_config
from .base import LoadingEncoder, StemMode
from .weights_timm import fit_backbone

PREFIX = "timm:"
_MAPS = 4


@dataclass(frozen=True)
class TimmOptions:
    """What may be chosen.

    Attributes:
        drop_path: largest rate of stochastic depth; None: that of the backbone.
        any_size: for a backbone that else takes images of one size only (`strict_img_size=False` of timm's Swin).
    """

    drop_path: float | None = None
    any_size: bool = False

    def __post_init__(self) -> None:
        if self.drop_path is not None and not 0.0 <= self.drop_path < 1.0:
            raise ValueError(f"drop_path is {self.drop_path}, expected 0 to below 1")


class TimmEncoder(LoadingEncoder):
    """The last four maps of a backbone of timm, made with `features_only`, which has to take images of any size.

    Its first layer is part of it, so modalities with as many channels share a whole backbone, and others have one of
    their own. What its BatchNorms, if any, count is then a mixture of these modalities.

    Args:
        inputs: number of channels by domain.
        stem: how domains share backbones (`base.plan_stems`).
        variant: name of the backbone in timm.
        options: what may be chosen.

    Raises:
        LacunaError: `timm-missing`; `bad-config` for a backbone that timm does not know or that gives no such maps.
    """

    Options = TimmOptions

    def __init__(self, inputs: Mapping[str, int], stem: StemMode, variant: str, options: TimmOptions) -> None:
        super().__init__(inputs, stem)
        self.variant, self.options = variant, options
        # Other names make timm fetch files, or read them from a folder.
        if not re.fullmatch(r"[A-Za-z0-9_]+", variant):
            raise self._bad("is no name of a backbone", "Give one of timm.list_models(), without what follows a dot.")
        self.add_stems()
        backbone: Any = next(iter(self.stems.values()))
        info = backbone.feature_info
        self.out_channels = tuple(info.channels()[-_MAPS:])
        self.strides = tuple(info.reduction()[-_MAPS:])
        self.heads = tuple(max(width // 64, 1) for width in self.out_channels)
        if len(self.strides) < _MAPS or any(b != 2 * a for a, b in zip(self.strides, self.strides[1:])):
            hint = "Choose a backbone with four maps, each of twice the stride of the one before."
            raise self._bad(f"gives maps of strides {list(self.strides)}", hint)

    def make_stem(self, channels: int, domains: list[str]) -> nn.Module:
        """Return the backbone, its weights drawn anew."""
        asked = {} if self.options.drop_path is None else {"drop_path_rate": self.options.drop_path}
        if self.options.any_size:
            asked["strict_img_size"] = False
        timm = import_timm()
        try:
            return timm.create_model(self.variant, pretrained=False, features_only=True, in_chans=channels, **asked)
        except (RuntimeError, TypeError, ValueError, AttributeError) as problem:
            raise self._bad(f"cannot be made: {problem}", "See timm.list_models() for names.") from None

    def enter(self, image: Tensor, domain: str) -> Tensor:
        """Return `image` (B, C, h, w), a single channel repeated where the backbone has more."""
        channels = self.plan[domain][1]
        return image if image.shape[1] == channels else image.expand(-1, channels, -1, -1)

    def features(self, x: Tensor, domain: str) -> list[Tensor]:
        """Return the four maps (B, C_i, H / s_i, W / s_i) of what `enter` returned."""
        backbone = self.stems[self.plan[domain][0]]
        try:
            maps = backbone(x)[-_MAPS:]
        except AssertionError as problem:
            hint = "Try encoder_options = {any_size = true}, or another backbone."
            raise self._bad(f"does not take images of {tuple(x.shape)}: {str(problem).rstrip('.')}", hint) from None
        last = str(getattr(backbone, "output_fmt", "")).endswith("NHWC")
        return [item.permute(0, 3, 1, 2) if last else item for item in maps]

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Copy the weights of one backbone, named as timm names those of the whole model, into every backbone."""
        for backbone in self.stems.values():
            fitted = fit_backbone(backbone.state_dict(), weights, f"{PREFIX}{self.variant}")
            backbone.load_state_dict(fitted)

    def _bad(self, what: str, hint: str) -> LacunaError:
        return bad_config(f"encoder {PREFIX}{self.variant}", what, hint)


def import_timm() -> Any:
    """Return the module timm.

    Raises:
        LacunaError: `timm-missing`, timm or what it needs (torchvision) is not installed.
    """
    try:
        return importlib.import_module("timm")
    # A torchvision that was built for another torch fails with something else than ImportError.
    except (ImportError, RuntimeError, OSError) as problem:
        raise LacunaError(
            "timm-missing",
            f"Encoders called {PREFIX}NAME need the package timm, which cannot be loaded: {problem}.",
            "Install it into the engine's Python (pip install 'lacuna[timm]', or pip install timm), or choose an "
            "encoder of Lacuna.",
        ) from None
