# SPDX-License-Identifier: GPL-2.0-or-later
"""`lacuna:evaluate` through `processing.run` and `qgis_process`: its figures are those of the engine's command."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from osgeo import gdal, ogr
from qgis.core import (
    QgsApplication,
    QgsGeometry,
    QgsProcessingException,
    QgsProcessingFeatureSourceDefinition,
    QgsProcessingParameterDefinition,
)

from lacuna.engine.checkpoint.card_file import read_card
from lacuna.engine.checkpoint.header import sha256

FIGURES = ("cases", "average", "best", "last", "ece", "average_f1", "measured_on", "warnings")


@pytest.fixture
def request_(checkpoint, sample, sample_labels):
    """Return parameters for the sample scene, whose few labels of value 3 are ignored."""
    return {
        "CHECKPOINT": checkpoint,
        "MODALITY_1": sample["optical"],
        "MODALITY_2": sample["radar"].source(),
        "LABELS_RASTER": sample_labels,
        "IGNORE": "3",
        "TILE": "128,96",
        "OVERLAP": 16,
        "DEVICE": "cpu",
    }


@pytest.fixture(scope="module")
def expected(checkout_python, plugins_folder, checkpoint, sample_labels):
    """Return what `lacuna evaluate --json` finds on the same scene."""
    folder = Path(sample_labels).parent
    arguments = [
        checkout_python, str(plugins_folder / "lacuna" / "engine"), "evaluate", "--checkpoint", checkpoint,
        "--modality", f"optical={folder / 's2.tif'}", "--modality", f"radar={folder / 's1.tif'}", "--device", "cpu",
        "--labels", sample_labels, "--ignore", "3", "--area-estimates", "--tile", "128,96", "--overlap", "16", "--json",
    ]  # fmt: skip
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def figures(result):
    """Return what must not depend on who asked for it."""
    return {key: result[key] for key in FIGURES}


def test_parameters_and_outputs(processing):
    algorithm = QgsApplication.processingRegistry().algorithmById("lacuna:evaluate")
    assert [item.name() for item in algorithm.parameterDefinitions()] == [
        "CHECKPOINT", *(f"MODALITY_{number}" for number in range(1, 7)), "LABELS", "FIELD", "LABELS_RASTER", "MANIFEST",
        "CLASS_MAP", "SPLIT", "IGNORE", "PROTOCOL", "AREA_ESTIMATES", "UPDATE_CARD", "BANDS", "NODATA", "MASKS",
        "OFFSETS", "SCALES",
        "NO_GAUSSIAN", "SEED", "TILE", "OVERLAP", "DEVICE", "REPORT",
    ]  # fmt: skip
    optional = QgsProcessingParameterDefinition.Flag.FlagOptional
    definitions = algorithm.parameterDefinitions()
    assert [item.name() for item in definitions if not item.flags() & optional and item.defaultValue() is None] == []
    outputs = {item.name(): item.type() for item in algorithm.outputDefinitions()}
    numbers = dict.fromkeys(("AVERAGE", "BEST", "LAST", "ECE"), "outputNumber")
    assert outputs == {"REPORT": "outputHtml", "RECORD": "outputFile", **numbers}
    assert algorithm.shortHelpString()


def test_the_figures_are_those_of_the_command(processing, request_, expected, tmp_path, listener):
    request_.update(REPORT=str(tmp_path / "report.html"), AREA_ESTIMATES=True)
    result = processing.run("lacuna:evaluate", request_, feedback=listener)
    record = json.loads(Path(result["RECORD"]).read_text())
    assert figures(record) == figures(expected)
    assert record["areas"] == expected["areas"]
    assert [case["available"] for case in record["cases"]] == [["optical"], ["radar"], ["optical", "radar"]]
    assert result == {
        "REPORT": request_["REPORT"], "RECORD": f"{request_['REPORT']}.json", "AVERAGE": expected["average"],
        "BEST": expected["best"], "LAST": expected["last"], "ECE": expected["ece"],
    }  # fmt: skip
    assert "<html" in Path(result["REPORT"]).read_text(encoding="utf-8")
    assert [text.split(" of ")[0] for text in listener.texts[:2]] == ["0", "1"]
    said = "\n".join(listener.infos)
    for case in expected["cases"]:
        assert f"{' + '.join(case['available'])}: mIoU {case['miou']:.3f}" in said
    assert f"average {expected['average']:.3f}, best {expected['best']:.3f}" in said
    assert any("Snow or ice" in text for text in listener.warnings)


def test_polygons_of_the_labels_measure_what_the_raster_does(processing, request_, expected, sample_labels, tmp_path):
    labels = gdal.Open(sample_labels)
    outlines = ogr.GetDriverByName("GPKG").CreateDataSource(str(tmp_path / "outlines.gpkg"))
    layer = outlines.CreateLayer("outlines", labels.GetSpatialRef(), ogr.wkbPolygon)
    layer.CreateField(ogr.FieldDefn("value", ogr.OFTInteger))
    gdal.Polygonize(labels.GetRasterBand(1), labels.GetRasterBand(1).GetMaskBand(), layer, 0)
    layer = outlines = None
    request_.update(
        LABELS_RASTER=None,
        LABELS=f"{tmp_path / 'outlines.gpkg'}|layername=outlines",
        FIELD="value",
        IGNORE=None,
        CLASS_MAP="3=,1=Water,2=2",
        REPORT=str(tmp_path / "polygons.html"),
    )
    record = json.loads(Path(processing.run("lacuna:evaluate", request_)["RECORD"]).read_text())
    assert record["cases"] == expected["cases"]
    assert "outlines" in record["measured_on"]


def test_only_the_selected_polygons_count_and_broken_ones_are_repaired(
    processing, request_, polygons, tmp_path, listener
):
    layer = polygons("fields", {"Trees": (0, 0, 30, 20), "Crops": (40, 0, 20, 20), "Water": (90, 0, 40, 40)})
    cross = "Polygon(({0} {1}, {2} {3}, {0} {3}, {2} {1}, {0} {1}))"
    corner = layer.extent()
    x, y = corner.xMinimum(), corner.yMaximum() + 200
    layer.dataProvider().changeGeometryValues({2: QgsGeometry.fromWkt(cross.format(x, y, x + 200, y + 200))})
    layer.selectByIds([1, 2])
    request_.update(
        LABELS_RASTER=None,
        LABELS=QgsProcessingFeatureSourceDefinition(layer.id(), True),
        FIELD="kind",
        REPORT=str(tmp_path / "report.html"),
    )
    result = processing.run("lacuna:evaluate", request_, feedback=listener)
    record = json.loads(Path(result["RECORD"]).read_text())
    counted = {item["name"]: item["labelled"] for item in record["classes"] if item["labelled"]}
    assert counted["Trees"] == 600
    assert set(counted) == {"Trees", "Crops"}
    assert 180 <= counted["Crops"] <= 220
    assert any("1 invalid polygons" in text for text in listener.warnings)


@pytest.fixture
def manifest(sample, sample_labels, tmp_path):
    """Return a manifest of the sample scene, cut to a part of it, without elevation."""
    extent = sample["optical"].extent()
    left, low = extent.xMinimum(), extent.yMinimum()
    path = tmp_path / "scenes.toml"
    path.write_text(f"""
reference = "optical"
ignore = [3, 7]
classes = [{{value = 1, name = "Water"}}, {{value = 2, name = "Trees"}}, {{value = 4, name = "Crops"}},
           {{value = 5, name = "Built area"}}, {{value = 9, name = "Rangeland"}}]
[modalities.optical]
bands = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"]
[modalities.radar]
bands = ["VV", "VH"]
[[scenes]]
name = "Temuco"
sources = {{optical = "{sample["optical"].source()}", radar = "{sample["radar"].source()}"}}
labels = "{sample_labels}"
extent = [{left}, {low}, {left + 1000}, {low + 1000}]
""")
    return str(path)


def test_a_manifest_its_split_and_a_protocol(processing, checkpoint, manifest, listener):
    request = {"CHECKPOINT": checkpoint, "MANIFEST": manifest, "SPLIT": "all", "PROTOCOL": "nm", "SEED": 5,
               "NO_GAUSSIAN": "radar", "DEVICE": "cpu"}  # fmt: skip
    result = processing.run("lacuna:evaluate", request, feedback=listener)
    assert 0 < result["LAST"] < result["AVERAGE"] < result["BEST"] < 1
    assert "RECORD" not in result and "REPORT" not in result
    assert any("NM high" in text for text in listener.infos)


def test_the_scores_go_into_the_card(processing, request_, checkpoint, tmp_path):
    copy = str(shutil.copy(checkpoint, tmp_path / "copy.safetensors"))
    before = sha256(copy)
    result = processing.run("lacuna:evaluate", {**request_, "CHECKPOINT": copy, "UPDATE_CARD": True})
    card = read_card(copy)
    assert sha256(copy) != before
    assert max(item["miou"] for item in card.scores) == result["BEST"]
    assert card.classes == read_card(checkpoint).classes


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"LABELS_RASTER": None}, "neither LABELS nor LABELS_RASTER nor MANIFEST"),
        ({"LABELS": "polygons", "FIELD": "kind"}, "LABELS and LABELS_RASTER are both given"),
        ({"LABELS_RASTER": None, "LABELS": "polygons"}, "LABELS is given without FIELD"),
        ({"MANIFEST": "scenes.toml"}, "MANIFEST is given together with rasters or labels"),
        ({"SPLIT": "test"}, "no manifest was given"),
        ({"CLASS_MAP": "3"}, "CLASS_MAP: '3' is not of the form VALUE=NAME"),
        ({"IGNORE": "3,,"}, "IGNORE: in '3,,' a value between two commas is empty"),
        ({"UPDATE_CARD": True, "PROTOCOL": "emm"}, "update_card was asked for with the protocol emm"),
        ({"NO_GAUSSIAN": "radar"}, "no_gaussian was given with the protocol subsets"),
        ({"TILE": "64", "OVERLAP": 40}, "more than half the tile"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_is_wrong_is_said_before_anything_starts(refusal, request_, polygons, change, words):
    layers = {"polygons": polygons("fields", {"Trees": (0, 0, 9, 9)})}
    request_.update({key: layers.get(value, value) for key, value in change.items()})
    assert words in refusal("lacuna:evaluate", request_)


def test_labels_without_a_class_are_an_error_that_names_them(processing, request_, write_layer, tmp_path):
    values = gdal.Open(request_["LABELS_RASTER"]).ReadAsArray()
    strange = write_layer("strange", np.where(values == 3, 12, values)[None], kind=gdal.GDT_Byte)
    before = sorted(tmp_path.iterdir())
    request_.update(IGNORE=None, LABELS_RASTER=strange.source(), REPORT=str(tmp_path / "report.html"))
    with pytest.raises(QgsProcessingException, match=r"no class: 12 \(90 pixels\)"):
        processing.run("lacuna:evaluate", request_)
    assert sorted(tmp_path.iterdir()) == before


def test_cancel_ends_the_engine_and_leaves_no_file(processing, request_, tmp_path, listener):
    listener.progressChanged.connect(lambda value: listener.cancel())
    request_.update(TILE="32", OVERLAP=16, REPORT=str(tmp_path / "report.html"))
    result = processing.run("lacuna:evaluate", request_, feedback=listener)
    assert listener.progressed[-1] < 100
    assert list(tmp_path.iterdir()) == []
    assert "AVERAGE" not in result


@pytest.mark.slow
def test_qgis_process(qgis_process, request_, expected, tmp_path):
    request_.update(MODALITY_1=request_["MODALITY_1"].source(), AREA_ESTIMATES=True, REPORT=tmp_path / "report.html")
    done = qgis_process(
        "--json", "run", "lacuna:evaluate", "--", *(f"{key}={value}" for key, value in request_.items())
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(done.stdout)["results"]
    assert results["AVERAGE"] == expected["average"]
    assert figures(json.loads(Path(results["RECORD"]).read_text())) == figures(expected)
