# SPDX-License-Identifier: GPL-2.0-or-later
"""Encoders: feature pyramids for the architectures, in plain torch; those of timm where it is installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast

from ..config import bad_config, checked
from .base import Encoder, StemMode
from .kinds import PRETRAINED
from .mit import MITS, Mit
from .mixed import MixedEncoder, MixedOptions
from .pvt_v2 import VARIANTS, PvtV2
from .resnet import RESNETS, ResNet, SmallResNet
from .timm import PREFIX, TimmEncoder


class EncoderKind(Protocol):
    """A class of encoders, all of which are made alike."""

    @property
    def Options(self) -> type:
        """The dataclass of the encoder's own settings."""

    def __call__(self, inputs: Mapping[str, int], stem: StemMode, variant: Any, options: Any) -> Encoder:
        """Return a new encoder."""


MIXED = "mixed"
_ONLY = "image"
_ENCODERS: dict[str, tuple[EncoderKind, Any]] = {
    "resnet_small": (SmallResNet, None),
    **{name: (ResNet, variant) for name, variant in RESNETS.items()},
    **{name: (PvtV2, variant) for name, variant in VARIANTS.items()},
    **{name: (Mit, variant) for name, variant in MITS.items()},
}


def encoders() -> list[str]:
    """Return the names of all encoders of Lacuna's own."""
    return list(_ENCODERS)


def pretrained_encoders(name: str, options: Any) -> list[str]:
    """Return the names of the encoders with weights of their own that the encoder `name` consists of; none for most.

    Raises:
        LacunaError: `bad-config`, `options` of such an encoder that cannot be.
    """
    if name != MIXED and name not in PRETRAINED:
        return []
    if not isinstance(options, Mapping):
        raise bad_config(f"encoder {name}", f"was given encoder_options = {options!r}", "Give a table of options.")
    if name == MIXED:
        return [item for item in checked(MixedOptions, options, f"encoder {MIXED}").names() if item in PRETRAINED]
    checked(PRETRAINED[name].Options, options, f"encoder {name}")
    return [name]


def options_for_one(options: Mapping[str, Any], modality: str) -> dict[str, Any]:
    """Return `options` as an encoder takes them that has one input, called `image`, and serves `modality`."""
    own = dict(options)
    for key in ("bands", "encoders", "scaled_otherwise"):
        if isinstance(own.get(key), Mapping):
            given = own[key]
            # A modality that is called so itself is another one here.
            own[key] = {"" if name == _ONLY else name: value for name, value in given.items()}
            if modality in given:
                own[key][_ONLY] = given[modality]
    return own


def build_encoder(
    name: str, inputs: int | Mapping[str, int], stem: StemMode = "auto", options: Mapping[str, Any] | None = None
) -> Encoder:
    """Return a new encoder, its weights drawn from torch's global generator.

    Args:
        name: one of `encoders()`, or `timm:NAME` for a backbone of timm.
        inputs: number of channels by modality, or of the only input.
        stem: how modalities share stems (`base.plan_stems`).
        options: the encoder's own settings, such as `{"stem_stride": 1}` for a ResNet.

    Raises:
        LacunaError: `bad-config` for an unknown encoder, an unknown option or a bad value; `timm-missing`.
    """
    if name not in _ENCODERS and not name.startswith(PREFIX):
        raise bad_config(f"encoder {name!r}", "is not known", f"Known are {', '.join(_ENCODERS)} and {PREFIX}NAME.")
    kind, variant = _ENCODERS.get(name) or (TimmEncoder, name.removeprefix(PREFIX))
    domains = {_ONLY: inputs} if isinstance(inputs, int) else inputs
    return kind(domains, stem, variant, checked(kind.Options, options or {}, f"encoder {name}"))


# Here at the end, as mixed encoders are made of others by the function above.
_ENCODERS.update({name: (cast("EncoderKind", kind), None) for name, kind in PRETRAINED.items()})
_ENCODERS[MIXED] = (MixedEncoder, build_encoder)
