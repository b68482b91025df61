# SPDX-License-Identifier: GPL-2.0-or-later
"""Classes of a checkpoint made from another: kept, merged, dropped, added, and which labels lead where."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lacuna.engine.checkpoint.card import ClassInfo
from lacuna.engine.checkpoint.classes import plan_classes, propose_matches
from lacuna.engine.errors import UsageError

CLASSES = [
    ClassInfo(1, "Water", "#0000ff"),
    ClassInfo(2, "Tree cover"),
    ClassInfo(4, "Crops"),
    ClassInfo(7, "Built area"),
]


def plan(class_map=None, merge=None, drop=(), labelled=()):
    return plan_classes(CLASSES, class_map or {}, merge or {}, drop, labelled)


def named(found):
    return [(item.value, item.name) for item in found.classes]


def test_without_wishes_everything_stays():
    found = plan()
    assert found.classes == CLASSES
    assert found.sources == [[0], [1], [2], [3]]
    assert not found.changed
    assert found.class_map == {}


def test_values_lead_to_classes_by_name_or_value_whatever_the_case():
    found = plan({"a": "water", "b": "4", "c": ""})
    assert found.class_map == {"a": "Water", "b": "Crops", "c": ""}
    assert not found.changed


def test_a_name_that_is_no_class_is_added_with_a_free_value():
    found = plan({"9": "reed", "2": "Moor", "x": "reed"})
    assert named(found)[4:] == [(9, "reed"), (3, "Moor")]
    assert found.sources[4:] == [[], []]
    assert found.added == ["reed", "Moor"]
    assert found.class_map["x"] == "reed"
    assert all(item.color.startswith("#") and len(item.color) == 7 for item in found.classes)


def test_merged_classes_take_the_place_of_their_first_part_and_labels_follow():
    found = plan({"maize": "Crops"}, merge={"Crops": "plants", "tree cover": "plants"})
    assert named(found) == [(1, "Water"), (2, "plants"), (7, "Built area")]
    assert found.sources == [[0], [1, 2], [3]]
    assert found.merged == {"Crops": "plants", "Tree cover": "plants"}
    assert found.class_map == {
        "Crops": "plants", "4": "plants", "Tree cover": "plants", "2": "plants", "maize": "plants"
    }  # fmt: skip


def test_a_class_may_be_merged_into_another_of_the_checkpoint():
    found = plan(merge={"Built area": "Water"})
    assert named(found) == [(1, "Water"), (2, "Tree cover"), (4, "Crops")]
    assert found.sources == [[0, 3], [1], [2]]


def test_labels_of_dropped_classes_are_ignored():
    found = plan({"x": "crops"}, drop=["crops"])
    assert named(found) == [(1, "Water"), (2, "Tree cover"), (7, "Built area")]
    assert found.class_map == {"Crops": "", "4": "", "x": ""}
    assert found.dropped == ["Crops"]


def test_classes_of_a_manifest_are_matched_by_name_and_added_with_value_and_colour():
    found = plan(
        labelled=[ClassInfo(1, "tree cover"), ClassInfo(2, "Moor", "#123456"), ClassInfo(30, "Reed", "#abcdef")]
    )
    assert found.classes[4:] == [ClassInfo(3, "Moor", "#123456"), ClassInfo(30, "Reed", "#abcdef")]
    assert found.class_map["1"] == "Tree cover" and found.class_map["2"] == "Moor"


@pytest.mark.parametrize(
    ("wish", "word"),
    [
        ({"drop": ["Sea"]}, "'Sea' is no class"),
        ({"merge": {"Sea": "Water"}}, "'Sea' is no class"),
        ({"merge": {"Crops": "x"}, "drop": ["crops"]}, "both merged and dropped"),
        ({"merge": {"Crops": " "}}, "into nothing"),
        ({"merge": {"Crops": "Water"}, "drop": ["Water"]}, "is itself merged or dropped"),
        ({"drop": ["Water", "Crops", "Built area"]}, "1 classes would be left"),
    ],
)
def test_contradictions_are_named(wish, word):
    with pytest.raises(UsageError, match=word) as caught:
        plan(**wish)
    assert caught.value.code == "bad-classes"


NAMES = st.sampled_from(["Water", "Tree cover", "Crops", "Built area", "reed", "moor"])


@given(
    st.dictionaries(st.sampled_from("abc1249"), NAMES | st.just("")),
    st.dictionaries(NAMES.filter(lambda name: name[0].isupper()), NAMES, max_size=3),
    st.lists(NAMES.filter(lambda name: name[0].isupper()), max_size=2, unique=True),
)
def test_whatever_is_wished_each_class_goes_one_way(class_map, merge, drop):
    try:
        found = plan(class_map, merge, drop)
    except UsageError:
        return
    names = [item.name.casefold() for item in found.classes]
    assert len(set(names)) == len(names) == len(found.sources)
    assert len({item.value for item in found.classes}) == len(names)
    used = [number for numbers in found.sources for number in numbers]
    gone = [index for index, item in enumerate(CLASSES) if item.name in drop]
    assert sorted(used + gone) == [0, 1, 2, 3]
    assert set(found.class_map.values()) <= {item.name for item in found.classes} | {""}


def test_matches_are_proposed_by_name_value_and_likeness():
    values = ["WATER", "trees", "crop", "built_area", "asphalt", 4, 2.0, None, float("nan"), ""]
    assert propose_matches(values, CLASSES) == {
        "WATER": "Water", "trees": "Tree cover", "crop": "Crops", "built_area": "Built area", "asphalt": None,
        "4": "Crops", "2": "Tree cover",
    }  # fmt: skip
    assert propose_matches(["a"], []) == {"a": None}
