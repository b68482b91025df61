# SPDX-License-Identifier: GPL-2.0-or-later
"""What torch leaves without types: containers that say which modules they hold, and sums of tensors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeVar, cast

from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)

# At run time these are torch's own containers, so that networks and their tensors' names are what torch makes them.
if TYPE_CHECKING:
    from collections.abc import ItemsView, Iterator, Mapping, ValuesView
    from typing import Generic, overload

    class ModuleListOf(nn.ModuleList, Generic[M]):
        """A `ModuleList` of modules of one kind."""

        def __init__(self, modules: Iterable[M] | None = None) -> None: ...
        def __iter__(self) -> Iterator[M]: ...
        @overload
        def __getitem__(self, idx: slice) -> ModuleListOf[M]: ...
        @overload
        def __getitem__(self, idx: int) -> M: ...
        def __getitem__(self, idx: int | slice) -> M | ModuleListOf[M]: ...

    class ModuleDictOf(nn.ModuleDict, Generic[M]):
        """A `ModuleDict` of modules of one kind."""

        def __init__(self, modules: Mapping[str, M] | None = None) -> None: ...
        def __getitem__(self, key: str) -> M: ...
        def items(self) -> ItemsView[str, M]:
            """Return keys and modules."""
            ...

        def values(self) -> ValuesView[M]:
            """Return the modules."""
            ...

else:
    ModuleListOf, ModuleDictOf = nn.ModuleList, nn.ModuleDict


def summed(tensors: Iterable[Tensor]) -> Tensor:
    """Return the sum of at least one tensor, added in their order to the number 0."""
    return cast("Tensor", sum(tensors))
