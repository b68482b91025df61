# SPDX-License-Identifier: GPL-2.0-or-later
"""What Dynamic World says of a Sentinel-2 image, as features of its pixels for the detail path.

Brown et al. 2022, https://doi.org/10.1038/s41597-022-01307-4. It was trained on labelled images of the whole world. Its
nine classes are seldom those of the analyst, but what it says of a pixel tells more than a few labels can teach.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .dynamic_world_net import REACH, DynamicWorldNet
from .encoders.inputs import BANDS
from .encoders.pretrained import scaled_for
from .grids import pad_to_multiple
from .holes import fill_holes

KEYS = tuple(BANDS["dynamic_world"])
CLASSES = 9
STRIDE = 2
MARGIN = REACH + STRIDE
# A typical atmosphere, for bands in the order of `KEYS`: level 1C, through the air, is AIR_OFFSET + AIR_GAIN * level
# 2A, in reflectance x 10,000. It is the mean of straight lines through three scenes at both levels, which
# tools/checkpoints/atmosphere.py fits and the recipe of the bundled checkpoint holds against these numbers.
AIR_OFFSET = (860.2, 542.0, 343.2, 320.4, 335.7, 311.4, 256.8, 48.1, 26.5)
AIR_GAIN = (0.6283, 0.6744, 0.7814, 0.7608, 0.8023, 0.8512, 0.8087, 0.902, 0.8346)
# Probabilities count as at least so large: differences between smaller ones say nothing.
_LEAST = 1e-4


@dataclass(frozen=True)
class WorldPriorConfig:
    """How the bands of a modality become those that Dynamic World was trained with.

    Attributes:
        places: of its nine bands in the modality, from 0, in the network's order (`KEYS`).
        gain: for each of them, by what scaled values are multiplied,
        offset: and what is then added, to become what `form` says. Both empty: they are that already.
        form: `reflectance`, x 10,000 at the top of the atmosphere; `logit`, what the published scaling has before its
            last step, the logistic curve; or `input`, what it has behind it.
    """

    places: list[int] = field(default_factory=list)
    gain: list[float] = field(default_factory=list)
    offset: list[float] = field(default_factory=list)
    form: Literal["reflectance", "logit", "input"] = "reflectance"

    def __post_init__(self) -> None:
        if len(set(self.places)) != len(KEYS) or min(self.places) < 0:
            raise ValueError(f"places is {self.places}, expected {len(KEYS)} different places from 0")
        if len(self.gain) != len(self.offset) or len(self.gain) not in (0, len(KEYS)):
            raise ValueError(f"gain and offset are {self.gain} and {self.offset}, expected {len(KEYS)} numbers each")


class WorldPrior(nn.Module):
    """The network of Dynamic World on a modality of a checkpoint; its weights are never trained.

    Args:
        config: which bands, and how their values become reflectance.
    """

    def __init__(self, config: WorldPriorConfig) -> None:
        super().__init__()
        self.config = config
        self.network = DynamicWorldNet()
        for parameter in self.network.parameters():
            parameter.requires_grad_(False)
        self._last: tuple[Tensor, list[int], Tensor] | None = None

    def forward(self, image: Tensor) -> Tensor:
        """Return the logarithms of the probabilities of the nine classes (B, 9, H, W) of an image (B, C, H, W).

        Holes, where all bands are 0, are filled from their edges (`holes`). A tile is asked about in one scenario after
        the other, and what is said of it is the same in all: the last answer is kept.
        """
        bands = image[:, self.config.places].float()
        state = [parameter._version for parameter in self.network.parameters()]
        if self._last is None or state != self._last[1] or not _same(bands, self._last[0]):
            self._last = bands, state, self._answer(bands)
        return self._last[2]

    def _answer(self, bands: Tensor) -> Tensor:
        """Return what is said of the nine bands (B, 9, H, W)."""
        height, width = bands.shape[-2:]
        values = fill_holes(bands, MARGIN)
        if self.config.gain:
            gain, offset = (values.new_tensor(item)[:, None, None] for item in (self.config.gain, self.config.offset))
            values = values * gain + offset
        if self.config.form == "reflectance":
            values = scaled_for("dynamic_world", KEYS, values)
        if self.config.form != "input":
            values = values.sigmoid()
        with torch.no_grad():
            logits = self.network(pad_to_multiple(values, STRIDE))[..., :height, :width]
        return logits.softmax(1).clamp(min=_LEAST).log()

    def settings(self) -> dict[str, Any]:
        """Return the configuration as JSON values."""
        return asdict(self.config)


def _same(image: Tensor, other: Tensor) -> bool:
    """Return whether two images are the same, on the same device."""
    return image.shape == other.shape and image.device == other.device and torch.equal(image, other)
