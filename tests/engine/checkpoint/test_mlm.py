# SPDX-License-Identifier: GPL-2.0-or-later
"""The STAC MLM item: the rules of the published schemas (MLM 1.5, STAC 1.1, classification), checked one by one."""

from __future__ import annotations

import re

import numpy as np
import pytest

from lacuna.engine.checkpoint.card_file import card_from_dict, card_from_metadata, card_metadata
from lacuna.engine.checkpoint.mlm import to_mlm
from lacuna.engine.raster.scaling import scale

# https://github.com/stac-extensions/mlm/blob/main/json-schema/schema.json: ResizeType, ValueScalingObject, mlm:name.
RESIZE_TYPES = {"crop", "pad", "wrap-fill-outliers", "wrap-inverse-map"} | {
    f"interpolation-{kind}" for kind in ("nearest", "linear", "cubic", "area", "lanczos4", "max")
}
SCALING_KEYS = {
    "min-max": {"minimum", "maximum"},
    "clip": {"minimum", "maximum"},
    "z-score": {"mean", "stddev"},
    "processing": {"format", "expression"},
}
MLM_NAME = re.compile(r"^[a-zA-Z][a-zA-Z0-9_.\-\s]+[a-zA-Z0-9]$")


@pytest.fixture
def item(card_values):
    return to_mlm(card_from_dict(card_values))


def test_the_item_has_what_stac_requires(item):
    assert (item["type"], item["stac_version"], item["geometry"]) == ("Feature", "1.1.0", None)
    assert "bbox" not in item  # forbidden without a geometry
    assert item["stac_extensions"] == ["https://stac-extensions.github.io/mlm/v1.5.0/schema.json"]
    properties = item["properties"]
    assert properties["datetime"] is None
    assert properties["start_datetime"] < properties["end_datetime"]
    assert set(item) >= {"id", "links", "assets", "properties"}


def test_the_properties_have_what_mlm_requires(item):
    properties = item["properties"]
    assert {"mlm:name", "mlm:architecture", "mlm:tasks", "mlm:input", "mlm:output"} <= set(properties)
    assert MLM_NAME.match(properties["mlm:name"])
    assert properties["mlm:framework"] == "PyTorch"
    assert properties["mlm:tasks"] == ["semantic-segmentation"]


@pytest.mark.parametrize("name", ["", "x", "été", "7 trees", "A (b)", "--", "木"])
def test_any_name_gives_one_that_mlm_allows(card_values, name):
    assert MLM_NAME.match(to_mlm(card_from_dict({**card_values, "name": name}))["properties"]["mlm:name"])


def test_one_input_a_modality_with_its_bands_in_order(item):
    inputs = item["properties"]["mlm:input"]
    assert [entry["name"] for entry in inputs] == ["optical", "radar", "elevation"]
    assert [band["name"] for band in inputs[0]["bands"]] == ["B02", "B03", "B04"]
    for entry in inputs:
        assert entry["resize_type"] in RESIZE_TYPES
        assert len(entry["input"]["shape"]) == len(entry["input"]["dim_order"])
        assert entry["input"]["shape"][1] == len(entry["bands"])
        assert entry["input"]["data_type"] == "float32"


def test_every_band_is_described_once_and_an_asset_has_bands_too(item):
    names = [band["name"] for band in item["properties"]["bands"]]
    used = [band["name"] for entry in item["properties"]["mlm:input"] for band in entry["bands"]]
    assert sorted(names) == sorted(set(used))
    asset = item["assets"]["model"]
    assert [band["name"] for band in asset["bands"]] == names
    assert "mlm:model" in asset["roles"]
    assert asset["mlm:artifact_type"]
    assert asset["href"]


def test_a_band_of_two_modalities_stands_once(card_values):
    card_values["modalities"][1]["bands"] = ["B02", "VH"]
    bands = to_mlm(card_from_dict(card_values))["properties"]["bands"]
    assert [band for band in bands if band["name"] == "B02"] == [{"name": "B02"}]


def test_value_scaling_is_null_or_one_object_or_one_a_band(item):
    inputs = {entry["name"]: entry for entry in item["properties"]["mlm:input"]}
    assert inputs["radar"]["value_scaling"] is None
    assert inputs["optical"]["value_scaling"] == [
        {"type": "z-score", "mean": float(mean), "stddev": 4.0} for mean in (1, 2, 3)
    ]
    for entry in inputs.values():
        assert len(entry["value_scaling"] or [0]) in (1, len(entry["bands"]))
        for step in entry["value_scaling"] or []:
            assert set(step) == {"type", *SCALING_KEYS[step["type"]]}


def test_a_chain_is_an_expression_of_gdal_calc_with_the_same_value(item):
    step = item["properties"]["mlm:input"][2]["value_scaling"][0]
    values = np.array([-5.0, 0.0, 33.0, 200.0])
    found = eval(step["expression"], {"A": values, "clip": np.clip})  # as gdal_calc does, over numpy's functions
    np.testing.assert_array_equal(found, np.clip(values, 0, 100) * 0.02 - 1)


def test_curves_are_an_expression_with_the_same_value_and_come_back(card_values):
    chain = [
        {"type": "clip", "minimum": 0, "maximum": 65535},
        {"type": "log", "scale": 0.005},
        {"type": "z_score", "mean": 1.7, "std": 2.0},
        {"type": "logistic", "offset": -1.0, "scale": 5.0},
    ]
    card_values["modalities"][0]["scaling"] = chain
    card = card_from_dict(card_values)
    step = to_mlm(card)["properties"]["mlm:input"][0]["value_scaling"][0]
    values = np.array([-5.0, 0.0, 33.0, 20000.0])
    found = eval(step["expression"], {"A": values, "clip": np.clip, "log": np.log, "exp": np.exp})
    np.testing.assert_allclose(found, scale(values[None], chain)[0], rtol=0, atol=1e-6)
    assert card_from_metadata(card_metadata(card), "file").modalities[0].scaling == chain


def test_classes_have_value_name_and_colour_hint(item):
    classes = item["properties"]["mlm:output"][0]["classification:classes"]
    assert classes[0] == {"value": 1, "name": "bare-soil", "description": "bare soil", "color_hint": "A05A2C"}
    for entry in classes:
        assert re.fullmatch(r"[0-9A-Za-z_-]+", entry["name"])
        assert re.fullmatch(r"[0-9A-F]{6}", entry["color_hint"])
        assert entry["description"]
    assert item["properties"]["mlm:output"][0]["result"]["shape"][1] == len(classes)
