# SPDX-License-Identifier: GPL-2.0-or-later
"""The card: there and back, what is refused, and which scenario runs where."""

from __future__ import annotations

import itertools
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lacuna.engine.checkpoint.card import Card, ClassInfo, Modality, scenarios
from lacuna.engine.checkpoint.card_file import card_from_dict, card_from_metadata, card_metadata, read_card
from lacuna.engine.errors import LacunaError, UsageError


def make_card(names="abc", required="", **values):
    modalities = [Modality(name, ["band"], required=name in required) for name in names]
    return Card(
        {"name": "sgma", "config": {}}, modalities, [ClassInfo(1, "one"), ClassInfo(2, "two")], names[0], **values
    )


def attempt(work, *arguments):
    """Return the result and the error of `work`: one of them is None, unless it raised something else."""
    try:
        return work(*arguments), None
    except LacunaError as problem:
        return None, problem


def test_scenarios_are_listed_by_size_then_in_the_cards_order():
    found = ["".join(str(int(name in subset)) for name in "abc") for subset in scenarios(list("abc"))]
    assert found == ["100", "010", "001", "110", "101", "011", "111"]


def test_a_card_survives_the_way_through_metadata(card_values):
    card = card_from_dict(card_values)
    again = card_from_metadata(card_metadata(card), "file")
    assert again == card
    assert again.classes[1].name == "eau (été)"
    assert [item.resampling for item in again.modalities] == ["bilinear", "nearest", "cubic"]


def test_metadata_is_strict_json_without_what_mlm_says_already(card_values):
    metadata = card_metadata(card_from_dict(card_values))
    assert sorted(metadata) == ["lacuna", "mlm"]
    rest = json.loads(metadata["lacuna"])
    assert "classes" not in rest
    assert all("bands" not in item for item in rest["modalities"])


def test_a_given_card_needs_only_architecture_modalities_and_classes():
    card = card_from_dict(
        {
            "architecture": {"name": "dis2"},
            "modalities": [{"name": "dsm", "bands": ["height"], "scaling": {"type": "none"}}],
            "classes": [{"value": 0, "name": "road", "color": "#ffffff"}],
        }
    )
    assert card.reference == "dsm"
    assert card.architecture == {"name": "dis2", "config": {}}
    assert card.modalities[0].scaling == [{"type": "none"}]


def test_tuples_become_lists_and_nodata_nan_becomes_none():
    card = make_card(tile=(64, 32))
    card.modalities[0] = Modality("a", ["band"], nodata=math.nan)
    again = card_from_metadata(card_metadata(card), "file")
    assert again.tile == [64, 32]
    assert again.modalities[0].nodata is None


@pytest.mark.parametrize("value", [math.nan, math.inf, object()])
def test_a_card_that_json_cannot_hold_is_not_written(value):
    with pytest.raises(LacunaError) as caught:
        card_metadata(make_card(training={"loss": value}))
    assert caught.value.code == "bad-card"


FAULTS = {
    "no modalities": (["modalities"], []),
    "modalities no list": (["modalities"], "optical"),
    "a modality no object": (["modalities", 0], 3),
    "no classes": (["classes"], None),
    "architecture no object": (["architecture"], ["sgma"]),
    "architecture without name": (["architecture"], {"config": {}}),
    "config no object": (["architecture", "config"], [1]),
    "unknown key of a modality": (["modalities", 0, "wavelength"], 5),
    "unknown key of a class": (["classes", 0, "colour"], "#000000"),
    "name with a space": (["modalities", 0, "name"], "my optical"),
    "name no text": (["modalities", 0, "name"], 4),
    "name with a line feed": (["modalities", 0, "name"], "optical\n"),
    "same name twice": (["modalities", 0, "name"], "radar"),
    "no bands": (["modalities", 0, "bands"], []),
    "bands no list": (["modalities", 0, "bands"], "red"),
    "band without name": (["modalities", 0, "bands"], ["B02", "", "B04"]),
    "same band twice": (["modalities", 0, "bands"], ["B02", "B02", "B04"]),
    "resampling": (["modalities", 0, "resampling"], "lanczos"),
    "required no bool": (["modalities", 0, "required"], "yes"),
    "nodata no number": (["modalities", 0, "nodata"], "none"),
    "units no text": (["modalities", 0, "units"], 1),
    "resolution reversed": (["modalities", 0, "resolution"], [20.0, 10.0]),
    "scaling empty": (["modalities", 0, "scaling"], []),
    "scaling unknown": (["modalities", 0, "scaling"], [{"type": "log"}]),
    "scaling unhashable": (["modalities", 0, "scaling"], [{"type": []}]),
    "scaling lacks a parameter": (["modalities", 0, "scaling"], [{"type": "z_score", "mean": 1}]),
    "scaling with one too many": (["modalities", 0, "scaling"], [{"type": "none", "mean": 1}]),
    "scaling of two bands for three": (["modalities", 0, "scaling"], [{"type": "z_score", "mean": [1, 2], "std": 1}]),
    "std of zero": (["modalities", 0, "scaling"], [{"type": "z_score", "mean": 1, "std": 0}]),
    "scale of zero": (["modalities", 0, "scaling"], [{"type": "offset_scale", "offset": 1, "scale": 0}]),
    "mean NaN": (["modalities", 0, "scaling"], [{"type": "z_score", "mean": math.nan, "std": 1}]),
    "minimum above maximum": (["modalities", 0, "scaling"], [{"type": "clip", "minimum": [0, 3, 0], "maximum": 2}]),
    "empty range": (["modalities", 0, "scaling"], [{"type": "min_max", "minimum": 2, "maximum": [3, 2, 3]}]),
    "unknown statistic": (["modalities", 0, "statistics"], {"median": [1, 2, 3]}),
    "statistic of one band": (["modalities", 0, "statistics"], {"mean": [1]}),
    "reference unknown": (["reference"], "thermal"),
    "value below 0": (["classes", 0, "value"], -1),
    "value too large": (["classes", 0, "value"], 65535),
    "value twice": (["classes", 0, "value"], 7),
    "value true": (["classes", 0, "value"], True),
    "class without name": (["classes", 0, "name"], " "),
    "colour": (["classes", 0, "color"], "red"),
    "tile of one": (["tile"], [64]),
    "tile of zero": (["tile"], [0, 64]),
    "tile of floats": (["tile"], [64.0, 64.0]),
    "margin below 0": (["margin"], -1),
    "stride 0": (["stride"], 0),
    "resolution of 0": (["resolution"], [0, 10]),
    "scenario unknown": (["scenarios"], [["thermal"]]),
    "scenario empty": (["scenarios"], [[]]),
    "no scenario has what is required": (["scenarios"], [["optical"]]),
    "score unknown": (["scores"], [{"available": ["thermal"], "miou": 0.5}]),
    "score without modalities": (["scores"], [{"miou": 0.5}]),
    "score in per cent": (["scores"], [{"available": ["radar"], "miou": 61.0}]),
    "score none": (["scores"], [{"available": ["radar"], "miou": None}]),
    "temperature 0": (["calibration"], [{"available": ["radar"], "temperature": 0}]),
    "calibration no list": (["calibration"], {"available": ["radar"]}),
    "parents no list": (["parents"], "00ff"),
    "training no object": (["training"], [1]),
    "name of the card no text": (["licence"], None),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_card_is_refused_with_its_origin_and_the_fault(card_values, fault):
    path, value = FAULTS[fault]
    holder = card_values
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    with pytest.raises(LacunaError) as caught:
        card_from_dict(card_values, "forest.safetensors")
    assert caught.value.code == "bad-card"
    assert caught.value.text.startswith("forest.safetensors has a card that cannot be used: ")


def test_too_many_modalities_are_refused(card_values):
    card_values["modalities"] = [{"name": f"m{index}", "bands": ["b"]} for index in range(17)]
    with pytest.raises(LacunaError, match="at most 16"):
        card_from_dict(card_values)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=5),
    lambda item: st.lists(item, max_size=3) | st.dictionaries(st.text(max_size=5), item, max_size=3),
    max_leaves=8,
)


@given(key=st.sampled_from(list(Card.__dataclass_fields__)), value=JSON, inner=st.booleans())
@pytest.mark.slow
def test_whatever_stands_in_a_field_the_answer_is_a_card_or_an_error_in_words(key, value, inner):
    values = make_card().to_dict()
    if inner and key in ("modalities", "classes"):
        values[key][0][next(iter(values[key][0]))] = value
    else:
        values[key] = value
    card, problem = attempt(card_from_dict, values)
    assert card.supported() if problem is None else problem.code == "bad-card"


def test_without_a_list_every_subset_with_the_required_ones_is_supported():
    card = make_card(required="b")
    assert card.supported() == [("b",), ("a", "b"), ("b", "c"), ("a", "b", "c")]
    assert card.effective(("a", "c")) is None
    assert card.effective(()) is None


def test_a_scenario_falls_to_its_largest_supported_subset_by_score_among_equals():
    scores = [
        {"available": ["a"], "miou": 0.2},
        {"available": ["c"], "miou": 0.5},
        {"available": ["b", "a"], "miou": 0.4},
    ]
    card = make_card(scenarios=[["a"], ["c"], ["b", "a"]], scores=scores)
    assert card.effective(("a", "c")) == ("c",)
    assert card.effective(("a", "b", "c")) == ("a", "b")  # larger, though it scores less
    assert card.effective(("b", "a")) == ("a", "b")
    assert card.effective(("b",)) is None
    assert card.effective(("b", "c")) == ("c",)


def test_among_equals_without_a_score_the_cards_order_decides():
    card = make_card(scenarios=[["c"], ["b"]])
    assert card.effective(("a", "b", "c")) == ("b",)


@given(
    listed=st.sets(st.sampled_from(scenarios(list("abcd"))), min_size=1),
    available=st.sets(st.sampled_from("abcd")),
    required=st.sets(st.sampled_from("abcd"), max_size=1),
)
def test_effective_is_the_largest_of_all_supported_subsets(listed, available, required):
    card = make_card("abcd", required, scenarios=[list(item) for item in listed])
    inside = [item for item in listed if set(item) <= available and required <= set(item)]
    found = card.effective(tuple(available))
    if not inside:
        assert found is None
    else:
        assert found in inside
        assert len(found) == max(map(len, inside))


def test_scores_and_temperatures_do_not_depend_on_the_order_of_names():
    card = make_card(
        scores=[{"available": ["b", "a"], "miou": 0.3}], calibration=[{"available": ["b", "a"], "temperature": 2}]
    )
    assert card.miou(("a", "b")) == 0.3
    assert card.temperature(("a", "b")) == 2.0
    assert card.miou(("a",)) is None
    assert card.temperature(("a",)) == 1.0


@pytest.mark.parametrize(
    ("given", "reference", "code"),
    [
        (["a", "x"], None, "unknown-modality"),
        ([], None, "no-modality"),
        (["a"], None, "required-modality"),
        (["b"], None, "unsupported-scenario"),
        (["a", "b"], "c", "unknown-modality"),
    ],
)
def test_a_request_that_the_card_cannot_serve_is_a_usage_error(given, reference, code):
    card = make_card(required="b", scenarios=[["a", "b"]])
    with pytest.raises(UsageError) as caught:
        card.check_request(given, reference)
    assert caught.value.code == code
    if code != "unsupported-scenario" and reference is None:
        assert "a, b (required), c" in caught.value.hint


def test_a_request_that_it_can_serve_passes():
    make_card(required="b").check_request(["c", "b"], "c")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"lacuna": None}, "not-a-checkpoint"),
        ({"mlm": None}, "not-a-checkpoint"),
        ({"lacuna_encoder": "{}"}, "encoder-file"),
        ({"lacuna": "{"}, "bad-card"),
        ({"lacuna": "[]"}, "bad-card"),
        ({"lacuna": '{"schema": 2}'}, "newer-schema"),
        ({"lacuna": '{"schema": "1"}'}, "bad-card"),
        ({"lacuna": '{"schema": 0}'}, "bad-card"),
        ({"lacuna": '{"schema": 1}'}, "bad-card"),
        ({"mlm": "3"}, "bad-card"),
        ({"mlm": '{"properties": {"mlm:input": []}}'}, "bad-card"),
        ({"lacuna": "[" * 200_000}, "bad-card"),
        ({"lacuna": '{"schema": NaN}'}, "bad-card"),
        ({"lacuna": '{"schema": 1e999}'}, "bad-card"),
        ({"lacuna": '{"schema": 1, "schema": 1}'}, "bad-card"),
    ],
)
def test_hostile_metadata_is_refused(card_values, change, code):
    metadata = {**card_metadata(card_from_dict(card_values)), **change}
    with pytest.raises(LacunaError) as caught:
        card_from_metadata({key: value for key, value in metadata.items() if value is not None}, "x.safetensors")
    assert caught.value.code == code
    assert "x.safetensors" in caught.value.text


@given(st.data())
def test_a_damaged_card_is_never_more_than_an_error_in_words(data):
    metadata = card_metadata(make_card())
    key = data.draw(st.sampled_from(sorted(metadata)))
    place = data.draw(st.integers(0, len(metadata[key]) - 1))
    metadata[key] = metadata[key][:place] + data.draw(st.characters(codec="utf-8")) + metadata[key][place + 1 :]
    card, problem = attempt(card_from_metadata, metadata, "x")
    assert card.supported() if problem is None else problem.text


def test_read_card_reads_no_more_than_the_header(card_values, write_header):
    card = card_from_dict(card_values)
    tensors = {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    path = write_header({"__metadata__": card_metadata(card), **tensors}, body=bytes(8))
    assert read_card(path) == card


def test_supports_is_true_of_every_nonempty_subset_by_default():
    card = make_card()
    for size in range(1, 4):
        assert all(map(card.supports, itertools.combinations("abc", size)))
    assert not card.supports(())
