# SPDX-License-Identifier: GPL-2.0-or-later
"""The detail path: a small perceptron on each pixel and its nearest surroundings, for any modalities that are there.

Networks see the first maps at a half or a quarter of the resolution, and learn from crops whose pixels resemble one
another. What tells land cover at 10 m is often the pixel itself, and a few labels teach it fastest pixel by pixel. The
features are those of the random forest that it has to stand up to, and differences of neighbouring bands
(`window_features`).

What it has of a tree: values are coded by quantiles of the training pixels, piecewise linear, and saturate beyond the
first and the last. So a value that was never seen counts as the nearest that was, and no scale or outlier matters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import reference_size
from .containers import ModuleDictOf, summed
from .layers import module_key
from .made import Made
from .registry import register
from .window_features import count_differences, count_features, placed, strips_of_features, with_differences

# Features of a strip of pixels may take so many numbers; they are coded and classified some pixels at a time, few
# enough for the caches of a processor.
_NUMBERS = 2**22
_PIXELS = 2048
_LEAST = 1e-4
_BEYOND = torch.finfo(torch.float32).max


@dataclass(frozen=True)
class DetailConfig:
    """The settings of the detail path.

    Attributes:
        windows: sides of the windows, odd, in pixels of the reference grid.
        knots: of the code of each feature.
        width: hidden units of both layers.
        dropout: share of them left out in training.
        smoothing: side of the window, odd, over which the probabilities are averaged; 1: none.
    """

    windows: list[int] = field(default_factory=lambda: [3, 7, 15])
    knots: int = 9
    width: int = 128
    dropout: float = 0.3
    smoothing: int = 5

    def __post_init__(self) -> None:
        odd = [*self.windows, self.smoothing]
        if not self.windows or any(side < 1 or side % 2 == 0 for side in odd):
            raise ValueError(f"windows is {self.windows} and smoothing {self.smoothing}, expected odd numbers")
        if self.knots < 2 or self.width < 1 or not 0.0 <= self.dropout < 1.0:
            raise ValueError(
                f"knots is {self.knots}, width {self.width} and dropout {self.dropout}, expected at least 2 knots, 1 "
                "unit and a share from 0 to below 1"
            )


class QuantileCode(nn.Module):
    """Codes features from -1 to 1, piecewise linear between knots; beyond the first and the last it saturates.

    Args:
        features: how many, F.
        knots: how many for each, n.
    """

    knots: Tensor
    levels: Tensor

    def __init__(self, features: int, knots: int) -> None:
        super().__init__()
        self.register_buffer("knots", torch.linspace(-1, 1, knots).repeat(features, 1))
        self.register_buffer("levels", torch.linspace(-1, 1, knots).repeat(features, 1))

    def fit(self, features: Tensor) -> None:
        """Set the knots to quantiles of `features` (N, F); equal ones become one, the levels of all evenly spaced."""
        count = self.knots.shape[1]
        wanted = (torch.linspace(0, 1, count, dtype=torch.float64) * (len(features) - 1)).round().long()
        for row in range(features.shape[1]):
            found = features[:, row].sort().values[wanted].unique()
            self.knots[row] = _BEYOND
            self.knots[row, : len(found)] = found
            self.levels[row] = 1.0 if len(found) > 1 else 0.0
            if len(found) > 1:
                self.levels[row, : len(found)] = torch.linspace(-1, 1, len(found))

    def forward(self, features: Tensor) -> Tensor:
        """Return the codes (F, N) of `features` (F, N)."""
        rises, slopes = self.levels.diff(dim=1), 1 / self.knots.diff(dim=1)
        found = self.levels[:, :1].expand_as(features).clone()
        # A sum of ramps, one an interval: plain arithmetic is faster than a search for the interval of each value.
        for low, slope, rise in zip(self.knots.T, slopes.T, rises.T):
            ramp = (features - low[:, None]).mul_(slope[:, None]).clamp_(0, 1)
            found.addcmul_(ramp, rise[:, None].expand_as(ramp))
        return found


@register("detail")
class Detail(Made):
    """The detail path as a model of its own: logits of every pixel from the modalities that are given.

    The first layer is a sum over the modalities present, each with a vector of its own that says that it is there: what
    is missing enters nothing. `training.detail_path` trains it, pixel by pixel.
    """

    Config = DetailConfig
    subject = "The detail path"
    hint = "Fine-tune the checkpoint that it belongs to; that makes a new one."
    output_stride = 1

    def __init__(self, modalities: Mapping[str, int], classes: int, config: DetailConfig) -> None:
        super().__init__(modalities, classes, config)
        self.margin = max(config.windows) // 2 + config.smoothing // 2
        counts = {name: count_differences(bands, config.windows) for name, bands in modalities.items()}
        self.codes: ModuleDictOf[QuantileCode] = ModuleDictOf(
            {module_key(name): QuantileCode(count, config.knots) for name, count in counts.items()}
        )
        # The bias of each says that the modality is there.
        self.enter: ModuleDictOf[nn.Linear] = ModuleDictOf(
            {module_key(name): nn.Linear(count, config.width) for name, count in counts.items()}
        )
        self.hidden = nn.Linear(config.width, config.width)
        self.out = nn.Linear(config.width, classes)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, images: Mapping[str, Tensor], size: tuple[int, int] | None = None) -> Tensor:
        """Return the logits, logarithms of smoothed probabilities; see `SegmentationModel.forward`."""
        names, size = self.present(images), reference_size(images, size)
        with torch.autocast(next(iter(images.values())).device.type, enabled=False):
            maps = [placed(images[name].float(), size) for name in names]
            shares = torch.stack([self._classify(names, image) for image in zip(*maps)])
            side = self.model_config.smoothing
            shares = F.avg_pool2d(shares, side, 1, side // 2, count_include_pad=False)
            return shares.clamp(min=_LEAST).log()

    @staticmethod
    def key(name: str) -> str:
        """Return under which key the parts of modality `name` stand in `codes` and `enter`."""
        return module_key(name)

    def code(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the codes (N, C) of the window features (F, N) of each modality."""
        windows = self.model_config.windows
        return {
            name: self.codes[self.key(name)](with_differences(values, windows)).T for name, values in features.items()
        }

    def fit_code(self, name: str, features: Tensor) -> None:
        """Set the codes of modality `name` to the quantiles of window features (F, N)."""
        self.codes[self.key(name)].fit(with_differences(features, self.model_config.windows).T)

    def classify(self, codes: Mapping[str, Tensor]) -> Tensor:
        """Return the logits (N, K) of pixels from the `codes` (N, C) of the modalities that they have."""
        entered = summed(self.enter[self.key(name)](values) for name, values in codes.items())
        inner = self.dropout(F.relu(entered))
        return self.out(self.dropout(F.relu(self.hidden(inner))))

    def _classify(self, names: Sequence[str], images: Sequence[Tensor]) -> Tensor:
        """Return the probabilities (K, H, W) of one tile from images (C, H, W) of modalities `names`."""
        windows = self.model_config.windows
        counts = [count_features(len(image), windows) for image in images]
        found = []
        for strip in strips_of_features(images, windows, _NUMBERS):
            for part in strip.flatten(1).split(_PIXELS, 1):
                codes = self.code(dict(zip(names, part.split(counts))))
                found.append(self.classify(codes).softmax(1).T)
        return torch.cat(found, 1).unflatten(1, tuple(images[0].shape[1:]))
