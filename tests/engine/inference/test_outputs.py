# SPDX-License-Identifier: GPL-2.0-or-later
"""What is written: encodings, palettes, names, sidecars, Cloud-Optimized layout, and the run record."""

import json
import xml.etree.ElementTree as xml
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp, Resampling

HOLES = {"confidence": "confidence.tif", "probabilities": "probabilities.tif", "evidence": "evidence.tif"}


@pytest.fixture
def scene(write_raster, make_checkpoint, run_segment):
    """A run of the identity model with two modalities, each with holes, and all outputs."""
    values = np.random.default_rng(0).integers(0, 6, (700, 600)).astype(np.float32)
    first, second = values.copy(), values.copy()
    first[:, :100] = np.nan
    second[300:, :] = np.nan
    expected = np.where(np.isnan(first) & np.isnan(second), 255, values)
    checkpoint = make_checkpoint(modalities={"a": ["index"], "b": ["index"]}, tile=[256, 256])
    run = run_segment(checkpoint, {"a": write_raster("a.tif", first), "b": write_raster("b.tif", second)}, **HOLES)
    return run, expected, checkpoint


def test_classes(scene):
    run, expected, _ = scene
    with rasterio.open(run.result["classes"]) as dataset:
        assert dataset.dtypes == ("uint8",) and dataset.nodata == 255
        assert dataset.colorinterp == (ColorInterp.palette,)
        assert dataset.colormap(1)[3] == (0xC5, 0x1B, 0x7D, 255)
        np.testing.assert_array_equal(dataset.read(1), expected)
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert dataset.profile["tiled"] and dataset.compression.name == "deflate"
        assert dataset.overviews(1) == [2]


def test_overviews_of_classes_hold_only_classes(scene):
    run, expected, _ = scene
    with rasterio.open(run.result["classes"]) as dataset:
        small = dataset.read(1, out_shape=(350, 300), resampling=Resampling.nearest)
    assert set(np.unique(small)) <= set(np.unique(expected))


def test_names_and_style_list_the_real_classes_only(scene):
    run, _, _ = scene
    names = xml.parse(run.result["classes"] + ".aux.xml").findall(".//Category")
    assert [name.text for name in names] == [f"class {value}" for value in range(6)]
    entries = xml.parse(Path(run.result["classes"]).with_suffix(".qml")).findall(".//paletteEntry")
    assert [(item.get("value"), item.get("label"), item.get("color")) for item in entries][:2] == [
        ("0", "class 0", "#0064c8"),
        ("1", "class 1", "#1b7837"),
    ]
    assert len(entries) == 6


def test_evidence(scene, read):
    run, expected, _ = scene
    evidence = read(run.result["evidence"])[0]
    wanted = np.full((700, 600), 3)
    wanted[:, :100] = 2
    wanted[300:, :] = 1
    wanted[300:, :100] = 0
    np.testing.assert_array_equal(evidence, wanted)
    np.testing.assert_array_equal(evidence == 0, expected == 255)
    entries = xml.parse(Path(run.result["evidence"]).with_suffix(".qml")).findall(".//paletteEntry")
    assert {item.get("value"): item.get("label") for item in entries} == {"1": "a", "2": "b", "3": "a + b"}


def test_confidence_and_probabilities(scene, read):
    run, expected, _ = scene
    confidence, probabilities = read(run.result["confidence"])[0], read(run.result["probabilities"])
    known = expected != 255
    assert (confidence[known] == 100).all() and (confidence[~known] == 255).all()
    assert probabilities.dtype == np.uint8 and probabilities.shape[0] == 6
    np.testing.assert_array_equal(probabilities.argmax(axis=0)[known], expected[known])
    assert (probabilities.max(axis=0)[known] == 254).all() and (probabilities[:, ~known] == 255).all()
    with rasterio.open(run.result["probabilities"]) as dataset:
        assert dataset.descriptions == tuple(f"class {value}" for value in range(6))
        assert dataset.scales == pytest.approx((1 / 254,) * 6) and dataset.nodata == 255


def test_float_probabilities_sum_to_one_and_are_nan_where_nodata(write_raster, make_checkpoint, run_segment, read):
    values = np.ones((90, 70), np.float32)
    values[:10] = np.nan
    run = run_segment(
        make_checkpoint(), {"index": write_raster("a.tif", values)}, probabilities="p.tif",
        probabilities_dtype="float32", tile=[32, 32], overlap=8,
    )  # fmt: skip
    probabilities = read(run.result["probabilities"])
    assert np.isnan(probabilities[:, :10]).all()
    np.testing.assert_allclose(probabilities[:, 10:].sum(axis=0), 1, atol=1e-6)


def test_values_above_254_make_16_bits(write_raster, make_checkpoint, run_segment, read):
    path = write_raster("a.tif", np.array([[0, 1], [2, 1]], np.float32).repeat(20, 0).repeat(20, 1))
    run = run_segment(make_checkpoint(classes=[7, 300, 1000]), {"index": path})
    found = read(run.result["classes"])[0]
    assert found.dtype == np.uint16 and found[0, 0] == 7 and found[0, -1] == 300 and found[-1, 0] == 1000
    with rasterio.open(run.result["classes"]) as dataset:
        assert dataset.nodata == 65535 and dataset.colormap(1)[300][3] == 255


def test_more_than_seven_modalities_make_16_bit_evidence(write_raster, make_checkpoint, run_segment, read):
    names = [f"m{index}" for index in range(9)]
    checkpoint = make_checkpoint(modalities={name: ["index"] for name in names})
    path = write_raster("a.tif", np.ones((20, 20), np.float32))
    run = run_segment(checkpoint, {"m0": path, "m8": path}, evidence="e.tif")
    evidence = read(run.result["evidence"])
    assert evidence.dtype == np.uint16 and (evidence == 1 + 256).all()


def test_record(scene):
    run, expected, checkpoint = scene
    record = run.record
    assert record["checkpoint"]["sha256"] == sha256(Path(checkpoint).read_bytes()).hexdigest()
    assert record["pixels"] == {
        "scene": 420000, "classified": int((expected != 255).sum()), "nodata": int((expected == 255).sum()),
    }  # fmt: skip
    for item in record["classes"]:
        count = int((expected == item["value"]).sum())
        assert item["pixels"] == count and item["area_m2"] == pytest.approx(100 * count)
    shares = {tuple(item["available"]): item["pixels"] for item in record["scenarios"]}
    assert shares == {("a",): 400 * 500, ("b",): 300 * 100, ("a", "b"): 300 * 500}
    assert record["share_without"]["b"] == pytest.approx(200000 / 380000, abs=1e-6)
    assert {"torch", "gdal", "lacuna"} <= set(record["versions"])
    assert 50e6 < record["peak_memory_bytes"]["system"] < 50e9 and record["peak_memory_bytes"]["device"] is None
    assert record["seconds"] > 0 and "CPU" in record["device"] and len(record["warnings"]) == 2
    assert json.dumps(record["request"])


def test_nothing_but_the_outputs_is_left(scene, tmp_path):
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "a.tif", "b.tif", "model.safetensors", "classes.tif", "classes.tif.aux.xml", "classes.qml", "classes.tif.json",
        "confidence.tif", "confidence.qml", "probabilities.tif", "evidence.tif", "evidence.tif.aux.xml", "evidence.qml",
    }  # fmt: skip


def test_an_unsupported_scenario_falls_to_its_largest_subset(write_raster, make_checkpoint, run_segment, read):
    checkpoint = make_checkpoint(
        modalities={"a": ["index"], "b": ["index"], "c": ["index"]},
        scenarios=[["a"], ["b"], ["a", "b", "c"]],
        scores=[{"available": ["a"], "miou": 0.4}, {"available": ["b"], "miou": 0.6}],
    )
    one, two = np.ones((40, 40), np.float32), np.full((40, 40), 2, np.float32)
    third = np.full((40, 40), np.nan, np.float32)
    sources = {"a": write_raster("a.tif", one), "b": write_raster("b.tif", two)}
    run = run_segment(checkpoint, sources, evidence="e.tif")
    assert (read(run.result["classes"]) == 2).all() and (read(run.result["evidence"]) == 2).all()
    assert any("does not support a + b: b is used" in text for text in run.warnings)
    third[:, :20] = 3
    only_third = run_segment(
        checkpoint, {"b": sources["b"], "c": write_raster("c.tif", third)}, "again.tif", evidence="again-e.tif"
    )
    assert (read(only_third.result["evidence"]) == 2).all()


def test_pixels_without_a_required_modality_are_nodata(write_raster, make_checkpoint, run_segment, read):
    checkpoint = make_checkpoint(
        modalities={"a": {"bands": ["index"], "required": True}, "b": ["index"]},
    )
    first = np.ones((40, 40), np.float32)
    first[:, :10] = np.nan
    run = run_segment(
        checkpoint, {"a": write_raster("a.tif", first), "b": write_raster("b.tif", np.ones((40, 40), np.float32))}
    )
    classes = read(run.result["classes"])[0]
    assert (classes[:, :10] == 255).all() and (classes[:, 10:] == 1).all()
    assert any("b alone: such pixels are nodata" in text for text in run.warnings)


def test_overwriting_replaces_the_sidecars_too(write_raster, make_checkpoint, run_segment, tmp_path):
    checkpoint, path = make_checkpoint(), write_raster("a.tif", np.ones((20, 20), np.float32))
    (tmp_path / "classes.tif").write_bytes(b"old")
    (tmp_path / "classes.qml").write_text("old")
    run = run_segment(checkpoint, {"index": path}, overwrite=True)
    assert "paletteEntry" in (tmp_path / "classes.qml").read_text()
    with rasterio.open(run.result["classes"]) as dataset:
        assert dataset.shape == (20, 20)
