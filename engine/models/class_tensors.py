# SPDX-License-Identifier: GPL-2.0-or-later
"""Which tensors of a network have a part for each class, and their transfer to a network with other classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import LacunaError


@dataclass(frozen=True)
class ClassTensors:
    """The tensors of a network with K classes that depend on the classes.

    Attributes:
        axes: by name the axes along which classes stand one after the other, each with as many entries.
        named: names of tensors of single classes, with {} in the place of the class's number.
    """

    axes: dict[str, tuple[int, ...]]
    named: list[str]

    def names(self, classes: int) -> list[str]:
        """Return the names of all of them in a network with `classes` classes."""
        return [*self.axes, *(name.format(index) for name in self.named for index in range(classes))]


def compare_builds(
    smaller: Mapping[str, Tensor], larger: Mapping[str, Tensor], classes: int, architecture: str
) -> ClassTensors:
    """Return what differs between the states of two networks, one with `classes` classes and one with one more.

    An axis belongs to the classes where its length grows from K * n to (K + 1) * n; a tensor that only the larger one
    has belongs to its last class, whose number stands in the name.

    Raises:
        LacunaError: `fixed-classes`, a tensor differs in another way: the architecture must say itself.
    """
    axes = {}
    for name, tensor in smaller.items():
        other = larger.get(name)
        if other is None or other.ndim != tensor.ndim:
            raise _unclear(architecture, name)
        grown = [axis for axis, pair in enumerate(zip(tensor.shape, other.shape)) if pair[0] != pair[1]]
        if any(tensor.shape[axis] * (classes + 1) != other.shape[axis] * classes for axis in grown):
            raise _unclear(architecture, name)
        if grown:
            axes[name] = tuple(grown)
    named = [_numbered(name, classes, smaller, architecture) for name in larger if name not in smaller]
    return ClassTensors(axes, named)


def transfer(
    state: Mapping[str, Tensor],
    into: Mapping[str, Tensor],
    tensors: ClassTensors,
    sources: Sequence[Sequence[int]],
    classes: int,
) -> dict[str, Tensor]:
    """Return the state of a network with other classes that keeps all it can of `state`.

    A class made of one keeps its parts bit by bit; one made of several gets their mean, and one made of none the mean
    of all, from which it learns faster than from random numbers and disturbs the others least.

    Args:
        state: of the network with `classes` classes.
        into: of the new network; names and shapes are taken from it.
        tensors: which depend on the classes.
        sources: for each new class the numbers of the old ones that it is made of.
        classes: number of old classes K.
    """
    wanted = [list(numbers) or list(range(classes)) for numbers in sources]
    found = {name: state[name] for name in into if name in state and name not in tensors.axes}
    for name, axes in tensors.axes.items():
        tensor = state[name]
        for axis in axes:
            tensor = _regroup(tensor, axis, wanted, classes)
        found[name] = tensor
    for name in tensors.named:
        parts = [state[name.format(index)] for index in range(classes)]
        for index, numbers in enumerate(wanted):
            found[name.format(index)] = _mean([parts[number] for number in numbers])
    return {name: found[name].clone() for name in into}


def _regroup(tensor: Tensor, axis: int, wanted: Sequence[Sequence[int]], classes: int) -> Tensor:
    """Return `tensor` with the parts of the classes along `axis` rearranged."""
    parts = tensor.split(tensor.shape[axis] // classes, axis)
    return torch.cat([_mean([parts[number] for number in numbers]) for numbers in wanted], axis)


def _mean(parts: Sequence[Tensor]) -> Tensor:
    """Return the mean of `parts`; of one, itself."""
    return parts[0] if len(parts) == 1 else torch.stack(list(parts)).mean(0)


def _numbered(name: str, classes: int, smaller: Mapping[str, Tensor], architecture: str) -> str:
    """Return `name` with {} for the number of the last class."""
    pieces = name.split(".")
    for place, piece in enumerate(pieces):
        if piece == str(classes):
            pattern = ".".join([*pieces[:place], "{}", *pieces[place + 1 :]])
            if all(pattern.format(index) in smaller for index in range(classes)):
                return pattern
    raise _unclear(architecture, name)


def _unclear(architecture: str, name: str) -> LacunaError:
    return LacunaError(
        "fixed-classes",
        f"The classes of architecture {architecture} cannot be changed: its tensor {name} depends on them in a way "
        "that is not known.",
        "Keep the classes of the checkpoint, or train a new one.",
    )
