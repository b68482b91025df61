# SPDX-License-Identifier: GPL-2.0-or-later
"""From the classes of a checkpoint to those of one made from it: kept, merged, dropped, added; and values of labels.

Runs on Python 3.9 with the standard library alone, since the panel shows and edits what is proposed here.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

from ..errors import UsageError
from ..naming import key_of
from ..palette import CLASSES
from .card import MAX_CLASSES, ClassInfo

_ALIKE = 0.75


@dataclass(frozen=True)
class ClassPlan:
    """The classes of a new checkpoint.

    Attributes:
        classes: in their order, that of the parent with what was added at the end.
        sources: for each the numbers of the parent's classes that it is made of; none for one that is new.
        added: names of those that are new.
        merged: for names of the parent's classes that became part of another, that one.
        dropped: names of the parent's classes that are gone.
        class_map: from values of labels, as text, to names of `classes`, or to "" for values without a class.
    """

    classes: list[ClassInfo]
    sources: list[list[int]]
    added: list[str] = field(default_factory=list)
    merged: dict[str, str] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    class_map: dict[str, str] = field(default_factory=dict)

    @property
    def changed(self) -> bool:
        """Whether the network needs other class tensors than its parent."""
        return bool(self.added or self.merged or self.dropped)

    def describe(self) -> list[dict[str, Any]]:
        """Return each class as JSON values: `value`, `name`, `color` and the numbers `from` the parent."""
        return [
            {"value": item.value, "name": item.name, "color": item.color, "from": list(numbers)}
            for item, numbers in zip(self.classes, self.sources)
        ]


def propose_matches(values: Iterable[Any], classes: Sequence[ClassInfo]) -> dict[str, Optional[str]]:
    """Return for each value of labels the name of the class that it probably means, or None.

    That is the class of that name (case ignored) or value; else, for text, the one whose name is much alike or holds it
    as a word, as `trees` and `Tree cover` do. For people to confirm; training itself matches exactly.

    Args:
        values: as a field or a raster holds them; empty ones are left out.
        classes: those of the checkpoint.
    """
    names = {key_of(item.name): item.name for item in classes}
    numbers = {key_of(item.value): item.name for item in classes}
    found: dict[str, Optional[str]] = {}
    for value in values:
        key = key_of(value)
        if key:
            exact = names.get(key, numbers.get(key))
            found[_text(value)] = exact or (_similar(key, names) if isinstance(value, str) else None)
    return found


def plan_classes(
    classes: Sequence[ClassInfo],
    class_map: Mapping[str, str],
    merge: Mapping[str, str],
    drop: Sequence[str],
    labelled: Sequence[ClassInfo] = (),
) -> ClassPlan:
    """Return the classes of a new checkpoint.

    Args:
        classes: those of the parent.
        class_map: from values of the labels to names, or values, of classes; a name that is none yet is added.
        merge: from the parent's classes to those that they become part of, new ones or others of the parent.
        drop: those of the parent that go; labels of them are ignored.
        labelled: classes that the labels come with (a manifest's): matched by name, added where there is none.

    Raises:
        UsageError: `bad-classes`, for a name that is no class, contradictions, or fewer than two classes left.
    """
    known = {key_of(item.name): index for index, item in enumerate(classes)}
    merged = {_find(name, known, classes): goal.strip() for name, goal in merge.items()}
    dropped = [_find(name, known, classes) for name in drop]
    both = [classes[index].name for index in dropped if index in merged]
    if both or not all(merged.values()):
        raise _bad(f"{both[0]!r} is both merged and dropped" if both else "a class is merged into nothing")
    groups = _group(classes, merged, dropped)
    kept = {key_of(item.name): item for item, _ in groups}
    wanted = {key_of(item.name): item for item in labelled}
    wishes = _wishes(classes, merged, dropped, labelled, class_map)
    added: list[tuple[ClassInfo, list[int]]] = []
    for value, name in wishes.items():
        if name and key_of(name) not in kept:
            pattern = wanted.get(key_of(name), ClassInfo(_as_value(value), name, ""))
            kept[key_of(name)] = _free(pattern, [item for item, _ in (*groups, *added)])
            added.append((kept[key_of(name)], []))
    groups += added
    if not 2 <= len(groups) <= MAX_CLASSES:
        raise _bad(f"{len(groups)} classes would be left, and 2 to {MAX_CLASSES} are needed")
    return ClassPlan(
        [item for item, _ in groups],
        [numbers for _, numbers in groups],
        [item.name for item, _ in added],
        {classes[index].name: kept[key_of(goal)].name for index, goal in merged.items()},
        [classes[index].name for index in dropped],
        {value: kept[key_of(name)].name if name else "" for value, name in wishes.items()},
    )


def _wishes(
    classes: Sequence[ClassInfo],
    merged: Mapping[int, str],
    dropped: Sequence[int],
    labelled: Sequence[ClassInfo],
    class_map: Mapping[str, str],
) -> dict[str, str]:
    """Return for values of labels the names of classes that they lead to, "" for none, the later the stronger."""
    goals = {**merged, **dict.fromkeys(dropped, "")}
    found = {str(text): goal for index, goal in goals.items() for text in (classes[index].name, classes[index].value)}
    found.update({str(text): item.name for item in labelled for text in (item.name, item.value)})
    values = {key_of(item.value): item.name for item in classes}
    found.update({value: values.get(key_of(name), name) for value, name in class_map.items()})
    follow = {key_of(classes[index].name): goal for index, goal in goals.items()}
    return {value: follow.get(key_of(name), name).strip() for value, name in found.items()}


def _group(
    classes: Sequence[ClassInfo], merged: Mapping[int, str], dropped: Sequence[int]
) -> list[tuple[ClassInfo, list[int]]]:
    """Return the classes that stay, each with the numbers of those that it is made of.

    A merged one takes value, colour and place of the class whose name it has, else of its first part.
    """
    own = {key_of(item.name): index for index, item in enumerate(classes)}
    groups: dict[str, tuple[int, list[int]]] = {}
    for index, item in enumerate(classes):
        if index in dropped:
            continue
        key = key_of(merged.get(index, item.name))
        head = own.get(key)
        if head is not None and (head in dropped or key_of(merged.get(head, key)) != key):
            raise _bad(f"{item.name!r} is merged into {classes[head].name!r}, which is itself merged or dropped")
        groups.setdefault(key, (index if head is None else head, []))[1].append(index)
    names = {key_of(goal): goal for goal in reversed(list(merged.values()))}
    found = []
    for key, (head, numbers) in sorted(groups.items(), key=lambda entry: entry[1][0]):
        item = classes[head]
        name = item.name if key == key_of(item.name) else names[key]
        found.append((ClassInfo(item.value, name, item.color), numbers))
    return found


def _find(name: str, known: Mapping[str, int], classes: Sequence[ClassInfo]) -> int:
    """Return the number of the class called `name`."""
    if key_of(name) not in known:
        text = f"{name!r} is no class of the checkpoint, which has {', '.join(item.name for item in classes)}"
        raise _bad(text)
    return known[key_of(name)]


def _free(pattern: ClassInfo, taken: Sequence[ClassInfo]) -> ClassInfo:
    """Return `pattern` with a value that no class has yet, and a colour."""
    values = {item.value for item in taken}
    free = next(value for value in range(1, MAX_CLASSES + 2) if value not in values)
    value = pattern.value if 0 <= pattern.value <= MAX_CLASSES and pattern.value not in values else free
    return ClassInfo(value, pattern.name, pattern.color or CLASSES[len(taken) % len(CLASSES)])


def _similar(key: str, names: Mapping[str, str]) -> Optional[str]:
    """Return the class whose name is most like `key`, or None where none is much like it."""

    def rate(other: str) -> float:
        words = (set(text.replace("_", " ").replace("-", " ").split()) for text in (key, other))
        own, its = ({word.rstrip("s") for word in group} for group in words)
        shared = 1.0 if own and its and (own <= its or its <= own) else 0.0
        return max(shared * _ALIKE, difflib.SequenceMatcher(None, key, other).ratio())

    best = max(names, key=rate, default=None)
    return names[best] if best is not None and rate(best) >= _ALIKE else None


def _as_value(text: str) -> int:
    """Return a value of labels as a class value, -1 where it is none."""
    return int(text) if text.strip().isdecimal() and len(text) < 6 else -1


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _bad(found: str) -> UsageError:
    hint = "Check --class-map, --merge and --drop (in the panel: the table of classes)."
    return UsageError("bad-classes", f"The classes cannot be changed like this: {found}.", hint)
