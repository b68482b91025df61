# SPDX-License-Identifier: GPL-2.0-or-later
"""`lacuna:segment` through `processing.run` and `qgis_process`, with the real engine on the sample scene."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from osgeo import gdal
from qgis.core import (
    QgsApplication,
    QgsFeature,
    QgsGeometry,
    QgsProcessingException,
    QgsProcessingModelAlgorithm,
    QgsProcessingModelChildAlgorithm,
    QgsProcessingModelChildParameterSource,
    QgsProcessingModelOutput,
    QgsProcessingModelParameter,
    QgsProcessingParameterDefinition,
    QgsProcessingParameterRasterLayer,
    QgsProject,
    QgsRasterLayer,
    QgsRectangle,
    QgsVectorLayer,
)

from lacuna.engine.checkpoint.card_file import read_card


@pytest.fixture
def request_(checkpoint, sample, tmp_path):
    """Return parameters for the whole sample scene."""
    return {
        "CHECKPOINT": checkpoint,
        "MODALITY_1": sample["optical"],
        "MODALITY_2": sample["radar"],
        "MODALITY_3": sample["elevation"].source(),
        "OUTPUT": str(tmp_path / "classes.tif"),
    }


def test_parameters_are_those_of_the_contract(processing):
    algorithm = QgsApplication.processingRegistry().algorithmById("lacuna:segment")
    names = [item.name() for item in algorithm.parameterDefinitions()]
    assert set(names) == {
        "CHECKPOINT", *(f"MODALITY_{number}" for number in range(1, 7)), "BANDS", "NODATA", "MASKS",
        "OFFSETS", "SCALES", "EXTENT",
        "RESOLUTION", "AREA", "DEVICE", "TILE", "OVERLAP", "BATCH_SIZE", "PRECISION", "OUTPUT", "CONFIDENCE",
        "PROBABILITIES", "EVIDENCE", "RECORD",
    }  # fmt: skip
    optional = QgsProcessingParameterDefinition.Flag.FlagOptional
    required = [item.name() for item in algorithm.parameterDefinitions() if not item.flags() & optional]
    assert required == ["CHECKPOINT", "OUTPUT"]
    assert algorithm.shortHelpString()


def test_all_outputs(processing, request_, tmp_path, checkpoint, listener):
    wanted = {name: str(tmp_path / f"{name.lower()}.tif") for name in ("CONFIDENCE", "PROBABILITIES", "EVIDENCE")}
    wanted["RECORD"] = str(tmp_path / "run.json")
    result = processing.run("lacuna:segment", {**request_, **wanted}, feedback=listener)
    assert result == {**wanted, "OUTPUT": request_["OUTPUT"]}
    layer = QgsRasterLayer(result["OUTPUT"], "classes")
    entries = [(int(item.value), item.label, item.color.name()) for item in layer.renderer().classes()]
    assert entries == [(item.value, item.name, item.color) for item in read_card(checkpoint).classes]
    assert json.loads(Path(wanted["RECORD"]).read_text())["device"]
    assert any("matched by" in text for text in listener.infos)
    assert listener.progressed[-1] == 100


@pytest.mark.slow
def test_the_log_has_a_line_for_each_tenth_of_the_way(processing, request_, listener):
    processing.run("lacuna:segment", {**request_, "TILE": "64", "OVERLAP": 32}, feedback=listener)
    assert len(listener.progressed) > 20
    assert 8 <= len(listener.texts) <= 11
    assert listener.texts[-1].startswith("36 of 36 tiles")


def test_a_temporary_output_is_loaded_with_its_style(processing, request_, checkpoint, monkeypatch):
    # As in `qgis_process`: since 3.44 Processing takes no mock for the view of layers.
    monkeypatch.setattr("processing.gui.Postprocessing.iface", None, raising=False)
    request_["OUTPUT"] = "TEMPORARY_OUTPUT"
    processing.runAndLoadResults("lacuna:segment", request_)
    (layer,) = QgsProject.instance().mapLayersByName("Classes")
    assert [item.label for item in layer.renderer().classes()] == [item.name for item in read_card(checkpoint).classes]


def test_one_modality_an_extent_and_a_pixel_size(processing, request_, sample):
    whole = sample["elevation"].extent()
    part = QgsRectangle(whole.xMinimum(), whole.yMinimum(), whole.xMinimum() + 600, whole.yMinimum() + 400)
    numbers = (part.xMinimum(), part.xMaximum(), part.yMinimum(), part.yMaximum())
    request_.update(
        MODALITY_1=None,
        MODALITY_2=None,
        EXTENT=",".join(map(str, numbers)) + f" [{sample['elevation'].crs().authid()}]",
        RESOLUTION=20,
        TILE="64",
        OVERLAP=16,
        PRECISION="fp32",
        DEVICE="cpu",
    )
    result = processing.run("lacuna:segment", request_)
    layer = QgsRasterLayer(result["OUTPUT"], "classes")
    assert (layer.width(), layer.height()) == (30, 20)
    assert layer.extent() == part


def test_bands_nodata_and_masks_as_on_the_command_line(processing, request_, sample, tmp_path):
    mask, width = str(tmp_path / "mask.tif"), sample["radar"].width()
    gdal.Translate(mask, sample["radar"].source(), bandList=[1], outputType=gdal.GDT_Byte)
    dataset = gdal.Open(mask, gdal.GA_Update)
    dataset.GetRasterBand(1).Fill(0)
    dataset.GetRasterBand(1).WriteRaster(0, 0, width // 2, 50, bytes([7]) * (width // 2 * 50))
    dataset = None
    bands = ",".join(map(str, range(1, 13)))
    request_.update(
        BANDS=f"optical={bands}; radar=2,1",
        NODATA="radar=-99\nelevation=0",
        MASKS=f"radar={mask}",
    )
    result = processing.run("lacuna:segment", request_)
    record = json.loads(Path(result["RECORD"]).read_text())
    radar = record["request"]["modalities"]["radar"]
    assert (radar["bands"], radar["nodata"], radar["mask"]) == ([2, 1], -99.0, mask)
    assert record["request"]["modalities"]["optical"]["bands"] == list(range(1, 13))
    assert record["pixels"]["classified"] * record["share_without"]["radar"] == pytest.approx(width // 2 * 50, abs=1)


@pytest.mark.slow
def test_an_area_of_memory_polygons(processing, request_, sample):
    whole = sample["optical"].extent()
    layer = QgsVectorLayer(f"Polygon?crs={sample['optical'].crs().authid()}", "area", "memory")
    feature = QgsFeature()
    wanted = QgsRectangle(whole.xMinimum(), whole.yMinimum(), whole.xMinimum() + 300, whole.yMinimum() + 300)
    feature.setGeometry(QgsGeometry.fromRect(wanted))
    layer.dataProvider().addFeature(feature)
    result = processing.run("lacuna:segment", {**request_, "AREA": layer})
    record = json.loads(Path(result["RECORD"]).read_text())
    assert record["pixels"]["classified"] == 900


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"MODALITY_1": None, "MODALITY_2": None, "MODALITY_3": None}, "at least one"),
        ({"MODALITY_4": "sample"}, "only 3 modalities"),
        ({"BANDS": "thermal=1"}, "no modality thermal"),
        ({"BANDS": "optical"}, "NAME=value"),
        ({"NODATA": "radar=none"}, "no number"),
        ({"TILE": "large"}, "neither one side nor"),
        ({"CHECKPOINT": "/no/such.safetensors"}, "does not exist"),
        ({"MODALITY_1": "/no/such.tif"}, "MODALITY_1"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_is_wrong_is_said_before_anything_starts(refusal, request_, sample, change, words):
    request_.update({key: sample["radar"] if value == "sample" else value for key, value in change.items()})
    assert words in refusal("lacuna:segment", request_)


def test_an_output_that_is_no_geotiff_is_refused(processing, request_, tmp_path):
    request_["OUTPUT"] = str(tmp_path / "classes.png")
    with pytest.raises(QgsProcessingException, match=r"classes\.png.*\.tif"):
        processing.run("lacuna:segment", request_)


def test_a_layer_of_pictures_is_refused(processing, request_):
    url = "type=xyz&url=https://tile.example.org/%7Bz%7D/%7Bx%7D/%7By%7D.png&zmax=19&zmin=0"
    tiles = QgsRasterLayer(url, "map tiles", "wms")
    QgsProject.instance().addMapLayer(tiles)
    with pytest.raises(QgsProcessingException, match="image service"):
        processing.run("lacuna:segment", {**request_, "MODALITY_2": tiles})


def test_an_error_of_the_engine_has_its_hint(processing, request_, bare_python, monkeypatch):
    monkeypatch.setenv("LACUNA_PYTHON", bare_python)
    with pytest.raises(QgsProcessingException, match=r"torch.*Options"):
        processing.run("lacuna:segment", request_)


def test_cancel_ends_the_engine_and_leaves_no_file(processing, request_, tmp_path, listener):
    listener.progressChanged.connect(lambda value: listener.cancel())
    result = processing.run("lacuna:segment", {**request_, "TILE": "32", "OVERLAP": 16}, feedback=listener)
    assert listener.progressed[-1] < 100
    assert list(tmp_path.iterdir()) == []
    assert result.get("OUTPUT") is None


def test_in_a_model(processing, request_, tmp_path):
    model = QgsProcessingModelAlgorithm("chain", "tests")
    scene = QgsProcessingModelParameter("SCENE")
    model.addModelParameter(QgsProcessingParameterRasterLayer("SCENE", "Scene"), scene)
    child = QgsProcessingModelChildAlgorithm("lacuna:segment")
    child.setChildId("segment")
    child.addParameterSources("MODALITY_3", [QgsProcessingModelChildParameterSource.fromModelParameter("SCENE")])
    checkpoint = QgsProcessingModelChildParameterSource.fromStaticValue(request_["CHECKPOINT"])
    child.addParameterSources("CHECKPOINT", [checkpoint])
    output = QgsProcessingModelOutput("map")
    output.setChildId("segment")
    output.setChildOutputName("OUTPUT")
    child.setModelOutputs({"map": output})
    model.addChildAlgorithm(child)
    name = "segment:map"
    result = processing.run(model, {"SCENE": request_["MODALITY_3"], name: request_["OUTPUT"]})
    assert QgsRasterLayer(result[name], "classes").isValid()


@pytest.mark.slow
def test_qgis_process(qgis_process, checkpoint, sample, tmp_path):
    output = tmp_path / "out put" / "classes.tif"
    output.parent.mkdir()
    done = qgis_process(
        "--json", "run", "lacuna:segment", "--", f"CHECKPOINT={checkpoint}", f"MODALITY_1={sample['optical'].source()}",
        f"MODALITY_3={sample['elevation'].source()}", f"OUTPUT={output}",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["results"]["OUTPUT"] == str(output)
    assert QgsRasterLayer(str(output), "classes").isValid()
    record = json.loads(Path(f"{output}.json").read_text())
    assert record["share_without"] == {"optical": 0, "radar": 1, "elevation": 0}


def test_qgis_process_says_what_is_wrong(qgis_process, sample, tmp_path):
    done = qgis_process(
        "run", "lacuna:segment", "--", "CHECKPOINT=/no/such.safetensors", f"MODALITY_1={sample['optical'].source()}",
        f"OUTPUT={tmp_path / 'classes.tif'}",
    )  # fmt: skip
    assert done.returncode != 0
    assert "/no/such.safetensors does not exist" in done.stdout + done.stderr
