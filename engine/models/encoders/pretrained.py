# SPDX-License-Identifier: GPL-2.0-or-later
"""What pretrained encoders share: options, weights that are loaded and may be frozen, bands that they know by name."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...errors import LacunaError
from ..config import bad_config
from ..layers import module_key
from .base import LoadingEncoder, StemMode
from .inputs import BANDS, WORLD_LOG, known_bands


@dataclass(frozen=True)
class PretrainedOptions:
    """What may be chosen of any pretrained encoder.

    Attributes:
        frozen: leave the pretrained weights as they are; adapters and stems of its own are trained nevertheless.
        bands: names of the bands of each modality, in order. `lacuna train` sets it; a modality that is left out is one
            that the encoder does not know.
        scaled_otherwise: for modalities whose values are not scaled as in the encoder's training, how they become
            physical again: a table with `gain` and `offset`, a number for each band: value x gain + offset.
    """

    frozen: bool = False
    bands: dict[str, Any] = field(default_factory=dict)
    scaled_otherwise: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, table in self.scaled_otherwise.items():
            if not _is_affine(table, len(self.bands.get(name, []))):
                raise ValueError(
                    f"scaled_otherwise has {name} = {table!r}, expected gain and offset, a number for each of its bands"
                )
        for name, names in self.bands.items():
            if not isinstance(names, list) or not all(isinstance(item, str) for item in names):
                raise ValueError(f"bands has {name} = {names!r}, expected a list of names")


class Pretrained(LoadingEncoder):
    """An encoder with published weights.

    Args:
        inputs: number of channels by domain.
        stem: `own` or `auto`: each domain has a stem of its own.
        options: what may be chosen.

    Attributes:
        known: for each domain the places of the bands that the encoder knows.
    """

    name: ClassVar[str] = ""
    takes_repeat: ClassVar[bool] = False

    def __init__(self, inputs: Mapping[str, int], stem: StemMode, options: Any) -> None:
        if stem == "repeat" and not self.takes_repeat:
            raise bad_config(f"encoder {self.name}", 'takes no stem = "repeat"', 'Set stem = "own".')
        super().__init__(inputs, "repeat" if stem == "repeat" else "own")
        self.options = options
        self.known = {domain: self._known(domain, channels) for domain, channels in inputs.items()}
        self.undo = nn.ModuleDict(
            {
                module_key(domain): ToPhysical(options.scaled_otherwise[domain])
                for domain, known in self.known.items()
                if known and domain in options.scaled_otherwise
            }
        )

    def _known(self, domain: str, channels: int) -> dict[str, int]:
        """Return the places of the bands of `domain` that the encoder knows."""
        names = self.options.bands.get(domain)
        if names is None:
            return {}
        if len(names) != channels:
            what = f"was told {len(names)} names of bands for {domain}, which has {channels} bands"
            raise bad_config(f"encoder {self.name}", what, "Correct bands in encoder_options, or leave it out.")
        return known_bands(self.name, names)

    def known_values(self, image: Tensor, domain: str, *keys: str) -> Tensor:
        """Return the bands `keys` (B, n, H, W) of `image` (B, C, H, W), scaled as the encoder was trained."""
        places = [self.known[domain][key] for key in keys]
        if module_key(domain) not in self.undo:
            return image[:, places]
        return scaled_for(self.name, keys, self.undo[module_key(domain)](image)[:, places])

    @abstractmethod
    def pretrained(self) -> list[nn.Module]:
        """Return the modules whose weights are published."""

    def pretrained_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that `load` sets."""
        return [parameter for module in self.pretrained() for parameter in module.parameters()]

    def freeze(self) -> None:
        """Freeze what is pretrained where the options say so; called by a subclass at the end of its making."""
        if self.options.frozen:
            for parameter in self.pretrained_parameters():
                parameter.requires_grad_(False)
            self.train(self.training)

    def train(self, mode: bool = True) -> Pretrained:
        """Set the mode of training; what is frozen stays in evaluation mode."""
        super().train(mode)
        if self.options.frozen:
            for module in self.pretrained():
                module.eval()
        return self


class ToPhysical(nn.Module):
    """Takes scaled values back to physical ones, band by band; nothing of it is trained or stored."""

    def __init__(self, table: Mapping[str, list[float]]) -> None:
        super().__init__()
        self.gain: Tensor
        self.offset: Tensor
        for name in ("gain", "offset"):
            self.register_buffer(name, torch.tensor(table[name], dtype=torch.float32)[:, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return physical values of `x` (B, C, H, W)."""
        return x * self.gain + self.offset


def scaled_for(encoder: str, keys: Sequence[str], values: Tensor) -> Tensor:
    """Return physical `values` (B, n, H, W) of bands `keys`, scaled as `encoder` was trained with (`inputs.BANDS`)."""
    if encoder == "dynamic_world":
        values = (values.clamp(min=0) * WORLD_LOG + 1).log()
    known = [BANDS[encoder][key] for key in keys]
    mean, std = (values.new_tensor([getattr(band, name) for band in known])[:, None, None] for name in ("mean", "std"))
    return (values - mean) / std


def _is_affine(table: Any, bands: int) -> bool:
    """Return whether `table` has the numbers `gain` and `offset` for so many bands, at least one."""
    if not isinstance(table, dict) or set(table) != {"gain", "offset"} or not bands:
        return False
    return all(
        isinstance(numbers, list)
        and len(numbers) == bands
        and all(type(number) in (int, float) and isfinite(number) for number in numbers)
        for numbers in table.values()
    )


def copy_tensors(
    module: nn.Module, weights: Mapping[str, Tensor], name: str, prefix: str = "", optional: Iterable[str] = ()
) -> set[str]:
    """Copy `weights` into `module`, whose tensors they hold under `prefix`; return the names that were used.

    Args:
        module: receives them.
        weights: published tensors.
        name: of the encoder, for messages.
        prefix: what comes before the module's own names.
        optional: ends of names that may be missing.

    Raises:
        LacunaError: `bad-encoder-weights` where a tensor is missing or of another shape.
    """
    own, found = module.state_dict(), {}
    for key, tensor in own.items():
        given = weights.get(prefix + key)
        if given is None:
            if not key.endswith(tuple(optional)):
                raise unfit(name, f"{prefix + key} is missing")
            given = tensor
        if given.shape != tensor.shape:
            raise unfit(name, f"{prefix + key} is {tuple(given.shape)}, expected {tuple(tensor.shape)}")
        found[key] = given
    module.load_state_dict(found)
    return {prefix + key for key in own}


def check_nothing_left(name: str, weights: Mapping[str, Tensor], used: set[str], heads: tuple[str, ...]) -> None:
    """Raise LacunaError for weights that nothing used, but for those whose name begins with one of `heads`."""
    extra = sorted(key for key in weights if key not in used and not key.startswith(heads))
    if extra:
        raise unfit(name, f"{extra[0][:80]} is left over")


def unfit(name: str, what: str) -> LacunaError:
    """Return the error `bad-encoder-weights` for the encoder `name`."""
    return LacunaError(
        "bad-encoder-weights",
        f"The encoder weights do not fit {name}: {what}.",
        "Give the weights of the encoder that is named, or leave out --encoder-weights to take those that come with "
        "Lacuna.",
    )
