# SPDX-License-Identifier: GPL-2.0-or-later
"""The closed list of architectures: a checkpoint names one of these, and nothing else can be built."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ..errors import LacunaError
from .base import SegmentationModel
from .config import bad_config, checked
from .names import MADE, MODULES, PUBLISHED

M = TypeVar("M", bound=type[SegmentationModel])

_MODULES = {**MODULES, **PUBLISHED, **MADE}
_CLASSES: dict[str, type[SegmentationModel]] = {}


def register(name: str) -> Callable[[M], M]:
    """Return a decorator that enters a class under `name`; the module of the class stands in `names.MODULES`."""

    def enter(kind: M) -> M:
        kind.architecture = name
        _CLASSES[name] = kind
        return kind

    return enter


def architecture(name: str) -> type[SegmentationModel]:
    """Return the class registered as `name`.

    Raises:
        LacunaError: `unknown-architecture`, naming those that are known.
    """
    if name not in _MODULES:
        raise LacunaError(
            "unknown-architecture",
            f"There is no architecture {name!r}; known are {', '.join(_MODULES)}.",
            "Choose one of them, or update Lacuna if the checkpoint comes from a newer one.",
        )
    importlib.import_module(f".{_MODULES[name]}", __package__)
    return _CLASSES[name]


def build(name: str, config: Mapping[str, Any], modalities: Mapping[str, int], classes: int) -> SegmentationModel:
    """Return a new network, its weights drawn from torch's global generator.

    Args:
        name: the architecture.
        config: its settings; what is absent takes its default.
        modalities: number of channels of each modality by name, in the card's order.
        classes: number of classes, at least 2.

    Raises:
        LacunaError: `unknown-architecture`, or `bad-config` for an unknown setting or a value that it cannot have.
    """
    kind = architecture(name)
    subject = f"architecture {name}"
    wrong = [key for key, channels in modalities.items() if type(channels) is not int or channels < 1]
    if wrong or not modalities:
        found = f"modality {wrong[0]!r} with {modalities[wrong[0]]!r} channels" if wrong else "no modality"
        raise bad_config(subject, f"was given {found}", "Every modality needs at least one channel.")
    if type(classes) is not int or classes < 2:
        raise bad_config(subject, f"was given {classes!r} classes", "At least two are needed.")
    return kind(modalities, classes, checked(kind.Config, config, subject))
