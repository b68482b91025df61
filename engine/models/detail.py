# SPDX-License-Identifier: GPL-2.0-or-later
"""The detail path: a small perceptron on each pixel and its nearest surroundings, for any modalities that are there.

Networks see the first maps at a half or a quarter of the resolution, and learn from crops whose pixels resemble one
another. What tells land cover at 10 m is often the pixel itself, and a few labels teach it fastest pixel by pixel. The
features are those of the random forest that it has to stand up to, and differences of neighbouring bands
(`window_features`).

Where a modality is Sentinel-2, what Dynamic World says of each pixel is a feature too (`world_prior`).

What it has of a tree: values are coded by quantiles of the training pixels, piecewise linear, and saturate beyond the
first and the last. So a value that was never seen counts as the nearest that was, and no scale or outlier matters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import reference_size
from .components import Components
from .config import bad_config, checked
from .containers import ModuleDictOf, summed
from .layers import module_key
from .made import Made
from .registry import register
from .window_features import count_differences, count_features, placed, strips_of_each, with_differences
from .world_prior import CLASSES, MARGIN, STRIDE, WorldPrior, WorldPriorConfig

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
        priors: settings of `WorldPrior` for the modalities that have one, by name.
        own_windows: sides of the windows of single modalities, by name, instead of `windows`; none for those of which
            the components of single pixels are enough.
        components: for modalities of many bands, by name, how many principal components stand for them (`Components`);
            these have windows, and no differences.
        inside: windows count only pixels that are not 0 in all bands: neither holes nor what lies beyond an image. For
            windows that are large beside the scenes.
    """

    windows: list[int] = field(default_factory=lambda: [3, 7, 15])
    knots: int = 9
    width: int = 128
    dropout: float = 0.3
    smoothing: int = 5
    priors: dict[str, Any] = field(default_factory=dict)
    own_windows: dict[str, Any] = field(default_factory=dict)
    components: dict[str, Any] = field(default_factory=dict)
    inside: bool = False

    def __post_init__(self) -> None:
        if not self.windows or not all(sides or name in self.components for name, sides in self.own_windows.items()):
            raise ValueError("there are no windows, expected at least one, of components alone none")
        for sides in (self.windows, [self.smoothing], *self.own_windows.values()):
            if not isinstance(sides, list) or not all(_is_odd(side) for side in sides):
                raise ValueError(
                    f"windows is {self.windows}, own_windows {self.own_windows} and smoothing {self.smoothing}, "
                    "expected odd numbers"
                )
        if not all(type(count) is int and count > 0 for count in self.components.values()):
            raise ValueError(f"components is {self.components}, expected whole numbers above 0")
        if self.knots < 2 or self.width < 1 or not 0.0 <= self.dropout < 1.0:
            raise ValueError(
                f"knots is {self.knots}, width {self.width} and dropout {self.dropout}, expected at least 2 knots, 1 "
                "unit and a share from 0 to below 1"
            )

    def sides(self, name: str) -> list[int]:
        """Return the sides of the windows of modality `name`."""
        return list(self.own_windows.get(name, self.windows))

    @property
    def reach(self) -> int:
        """How many pixels the windows look to each side."""
        return max(max(sides, default=1) for sides in (self.windows, *self.own_windows.values())) // 2

    @property
    def plain(self) -> bool:
        """Whether all modalities have the features of `strips_of_features`, as forests have them."""
        return not (self.own_windows or self.components or self.inside)


def _is_odd(side: Any) -> bool:
    return type(side) is int and side > 0 and side % 2 == 1


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

    def __init__(self, modalities: Mapping[str, int], classes: int, config: DetailConfig) -> None:
        super().__init__(modalities, classes, config)
        self.priors: ModuleDictOf[WorldPrior] = ModuleDictOf(
            {module_key(name): _prior(name, modalities, table) for name, table in config.priors.items()}
        )
        for name in (*config.own_windows, *config.components):
            if name not in modalities:
                known = f"Its modalities are {', '.join(modalities)}."
                raise bad_config("detail path", f"has settings for {name!r}", known)
        self.components: ModuleDictOf[Components] = ModuleDictOf(
            {module_key(name): _components(name, modalities[name], count) for name, count in config.components.items()}
        )
        self.output_stride = STRIDE if config.priors else 1
        self.margin = max(config.reach, MARGIN if config.priors else 0) + config.smoothing // 2
        counts = {name: self._count(name) + CLASSES * (name in config.priors) for name in modalities}
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
            maps = {name: placed(self.seen(name, images[name].float()), size) for name in names}
            beliefs = {name: placed(self.beliefs(name, images[name]), size) for name in names if self.has_prior(name)}
            shares = torch.stack(
                [
                    self._classify(
                        {name: image[index] for name, image in maps.items()},
                        {name: image[index] for name, image in beliefs.items()},
                    )
                    for index in range(len(next(iter(maps.values()))))
                ]
            )
            side = self.model_config.smoothing
            shares = F.avg_pool2d(shares, side, 1, side // 2, count_include_pad=False)
            return shares.clamp(min=_LEAST).log()

    @staticmethod
    def key(name: str) -> str:
        """Return under which key the parts of modality `name` stand in `codes` and `enter`."""
        return module_key(name)

    def has_prior(self, name: str) -> bool:
        """Return whether Dynamic World has a say on modality `name`."""
        return name in self.model_config.priors

    def seen(self, name: str, image: Tensor) -> Tensor:
        """Return what windows see of the `image` (B, C, H, W) of a modality: its components if it has any, else it."""
        return self.components[self.key(name)](image) if name in self.model_config.components else image

    def beliefs(self, name: str, image: Tensor) -> Tensor:
        """Return what Dynamic World says (B, 9, H, W) of the `image` (B, C, H, W) of a modality; see `WorldPrior`."""
        return self.priors[self.key(name)](image)

    def code(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the codes (N, C) of the features (F, N) of each modality: window features, and below them beliefs."""
        return {name: self.codes[self.key(name)](self._whole(name, values)).T for name, values in features.items()}

    def fit_code(self, name: str, features: Tensor) -> None:
        """Set the codes of modality `name` to the quantiles of its features (F, N), as for `code`."""
        self.codes[self.key(name)].fit(self._whole(name, features).T)

    def _whole(self, name: str, features: Tensor) -> Tensor:
        """Return features (F, N) with the differences of neighbouring bands; components have none."""
        if name in self.model_config.components:
            return features
        windows = self.model_config.sides(name)
        count = count_features(self.modalities[name], windows)
        return torch.cat([with_differences(features[:count], windows), features[count:]])

    def _count(self, name: str) -> int:
        """Return how many features modality `name` has, but those of a prior."""
        config = self.model_config
        if name in config.components:
            return count_features(config.components[name], config.sides(name))
        return count_differences(self.modalities[name], config.sides(name))

    def classify(self, codes: Mapping[str, Tensor]) -> Tensor:
        """Return the logits (N, K) of pixels from the `codes` (N, C) of the modalities that they have."""
        entered = summed(self.enter[self.key(name)](values) for name, values in codes.items())
        inner = self.dropout(F.relu(entered))
        return self.out(self.dropout(F.relu(self.hidden(inner))))

    def _classify(self, images: Mapping[str, Tensor], beliefs: Mapping[str, Tensor]) -> Tensor:
        """Return the probabilities (K, H, W) of one tile.

        Args:
            images: (C, H, W) of each modality.
            beliefs: (9, H, W) of those that have a prior.
        """
        config = self.model_config
        windows = [config.sides(name) for name in images]
        counts = [count_features(len(image), sides) for image, sides in zip(images.values(), windows)]
        found, row = [], 0
        for strip in strips_of_each(list(images.values()), windows, _NUMBERS, config.inside):
            rows = slice(row, row + strip.shape[1])
            row = rows.stop
            own = {name: belief[:, rows].flatten(1) for name, belief in beliefs.items()}
            pixels = dict(zip(images, strip.flatten(1).split(counts)))
            whole = {name: torch.cat([part, own[name]]) if name in own else part for name, part in pixels.items()}
            for first in range(0, strip[0].numel(), _PIXELS):
                codes = self.code({name: part[:, first : first + _PIXELS] for name, part in whole.items()})
                found.append(self.classify(codes).softmax(1).T)
        height, width = next(iter(images.values())).shape[1:]
        return torch.cat(found, 1).unflatten(1, (height, width))


def _components(name: str, bands: int, count: int) -> Components:
    """Return the components of modality `name`."""
    if count > bands:
        raise bad_config("detail path", f"has {count} components of {name}", f"It has {bands} bands: take no more.")
    return Components(bands, count)


def _prior(name: str, modalities: Mapping[str, int], table: Any) -> WorldPrior:
    """Return the prior of modality `name` with the settings in `table`."""
    subject = "detail path"
    if name not in modalities:
        raise bad_config(subject, f"has a prior for {name!r}", f"Its modalities are {', '.join(modalities)}.")
    config = checked(WorldPriorConfig, table, f"{subject}, prior of {name}")
    if max(config.places) >= modalities[name]:
        raise bad_config(subject, f"has a prior for {name} with band {max(config.places)}", "Correct its places.")
    return WorldPrior(config)
