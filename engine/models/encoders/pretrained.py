# SPDX-License-Identifier: GPL-2.0-or-later
"""What pretrained encoders share: options, weights that are loaded and may be frozen, bands that they know by name."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from ...errors import LacunaError
from ..config import bad_config
from .base import LoadingEncoder, StemMode
from .inputs import known_bands


@dataclass(frozen=True)
class PretrainedOptions:
    """What may be chosen of any pretrained encoder.

    Attributes:
        frozen: leave the pretrained weights as they are; adapters and stems of its own are trained nevertheless.
        bands: names of the bands of each modality, in order. `lacuna train` sets it; a modality that is left out is one
            that the encoder does not know.
        scaled_otherwise: names of modalities whose values are scaled in another way than the encoder was trained with.
    """

    frozen: bool = False
    bands: dict[str, Any] = field(default_factory=dict)
    scaled_otherwise: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
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

    def _known(self, domain: str, channels: int) -> dict[str, int]:
        """Return the places of the bands of `domain` that the encoder knows."""
        names = self.options.bands.get(domain)
        if names is None:
            return {}
        if len(names) != channels:
            what = f"was told {len(names)} names of bands for {domain}, which has {channels} bands"
            raise bad_config(f"encoder {self.name}", what, "Correct bands in encoder_options, or leave it out.")
        return known_bands(self.name, names)

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
