# SPDX-License-Identifier: GPL-2.0-or-later
"""`lacuna:train` through `processing.run`, with the real engine on the sample scene."""

from __future__ import annotations

from pathlib import Path

import pytest
from qgis.core import (
    QgsApplication,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingParameterDefinition,
    QgsProject,
)

from lacuna.engine.checkpoint.card_file import read_card
from lacuna.engine.data.manifest import read_manifest
from lacuna.host.exports import Exports

pytestmark = pytest.mark.usefixtures("brief_engine")

SHORT = """
[model]
encoder_options = {width = 4, depth = 1}
head_width = 8
[training]
crop = 32
crops = 4
batch = 2
tile = 64
validate_every = 2
"""
BOXES = {"trees": (0, 0, 70, 70), "crops": (80, 0, 70, 70), "built": (0, 80, 70, 70), "water": (80, 80, 70, 70)}


@pytest.fixture
def request_(sample, polygons, tmp_path):
    """Return parameters for a short training of two inputs on polygons."""
    config = tmp_path / "in" / "short.toml"
    config.parent.mkdir()
    config.write_text(SHORT)
    return {
        "MODALITY_1": sample["radar"],
        "MODALITY_3": sample["elevation"].source(),
        "LABELS": polygons("my fields", BOXES),
        "FIELD": "kind",
        "EPOCHS": 2,
        "CONFIG": str(config),
        "DETAIL": False,
        "FOREST": False,
        "DEVICE": "cpu",
        "OUTPUT": str(tmp_path / "own.safetensors"),
    }


def context():
    found = QgsProcessingContext()
    found.setProject(QgsProject.instance())
    return found


def manifest_of(request, tmp_path):
    """Return the manifest that the algorithm writes, as the engine reads it."""
    algorithm = QgsApplication.processingRegistry().createAlgorithmById("lacuna:train")
    exports = Exports()
    job = algorithm.draft(request, context(), exports)
    exports.write(lambda: False)
    try:
        return read_manifest(job.manifest), job
    finally:
        exports.remove()


def test_parameters_and_outputs(processing):
    algorithm = QgsApplication.processingRegistry().algorithmById("lacuna:train")
    assert [item.name() for item in algorithm.parameterDefinitions()] == [
        *(f"MODALITY_{number}" for number in range(1, 7)), "NAMES", "LABELS", "FIELD", "LABELS_RASTER", "MANIFEST",
        "CLASS_MAP", "ARCHITECTURE", "ENCODER", "EPOCHS", "BANDS", "NODATA", "MASKS", "OFFSETS", "SCALES", "KINDS",
        "UNITS", "SPLIT", "VALIDATION", "PRESET", "SEED", "CONFIG", "FOREST", "DETAIL", "DEVICE", "OUTPUT", "REPORT",
    ]  # fmt: skip
    optional = QgsProcessingParameterDefinition.Flag.FlagOptional
    required = [item.name() for item in algorithm.parameterDefinitions() if not item.flags() & optional]
    assert required == ["VALIDATION", "FOREST", "DETAIL", "OUTPUT"]
    outputs = {item.name(): item.type() for item in algorithm.outputDefinitions()}
    assert outputs == {
        "OUTPUT": "outputFile", "REPORT": "outputHtml", "MIOU": "outputNumber",
        "FOREST_OUTPUT": "outputFile", "MIOU_FOREST": "outputNumber",
    }  # fmt: skip
    assert algorithm.shortHelpString()


def test_a_new_checkpoint_with_its_worth(processing, request_, tmp_path, listener):
    request_.update(REPORT=str(tmp_path / "own.html"), SEED=3, FOREST=True)
    result = processing.run("lacuna:train", request_, feedback=listener)
    card = read_card(result["OUTPUT"])
    assert result["OUTPUT"] == request_["OUTPUT"]
    assert card.names == ["radar", "height"]
    assert [item.bands for item in card.modalities] == [["VV", "VH"], ["elevation"]]
    assert [item.name for item in card.classes] == sorted(BOXES)
    assert card.training["seed"] == 3
    scores = [item["miou"] for item in card.scores]
    assert result["MIOU"] == pytest.approx(sum(scores) / len(scores), abs=1e-6)
    assert f"{result['MIOU']:.3f}" in Path(result["REPORT"]).read_text(encoding="utf-8")
    assert read_card(result["FOREST_OUTPUT"]).architecture["name"] == "forest"
    said = "\n".join(listener.infos)
    assert "radar: Two bands of decimal numbers at 10 m with names like VV: radar; an encoder that knows" in said
    assert "Values are scaled by the mean and the spread" in said, "the file of settings leaves the encoder as it is"
    assert "radar + height: new model 0." in said and "radar + height: random forest 0." in said
    assert listener.progressed[-1] == 100
    assert {path.name for path in tmp_path.iterdir()} == {"in", "own.html", "own.safetensors", "own.forest.safetensors"}


def test_the_manifest_says_what_was_asked_for(processing, request_, sample, tmp_path):
    request_.update(
        MODALITY_2=sample["optical"],
        NAMES="sar,s2,terrain",
        KINDS="terrain=other",
        BANDS="s2=B04,3,B02",
        UNITS="terrain=m above sea",
        OFFSETS="s2=-1000",
        NODATA="terrain=-9999",
        CLASS_MAP="built=Settlement,water=",
        SPLIT="polygon",
        VALIDATION=40,
    )
    manifest, job = manifest_of(request_, tmp_path)
    assert manifest.names == ["sar", "s2", "terrain"] and manifest.reference == "sar"
    assert [item.bands for item in manifest.modalities] == [["VV", "VH"], ["B04", "B03", "B02"], ["elevation"]]
    assert [item.units for item in manifest.modalities][1:] == ["reflectance x 10000", "m above sea"]
    (scene,) = manifest.scenes
    specs = scene.specs()
    assert (specs["s2"].bands, specs["s2"].offset, specs["s2"].path) == ([4, 3, 2], -1000, sample["optical"].source())
    assert specs["terrain"].nodata == -9999
    assert (scene.name, scene.field) == ("my fields", "kind")
    assert sorted(item.name for item in manifest.classes) == ["Settlement", "crops", "trees"]
    assert manifest.class_map["water"] == "" and manifest.class_map["built"] == "Settlement"
    assert (manifest.split.method, manifest.split.validation, manifest.fitted) == ("polygon", 0.4, False)
    assert (job.architecture, job.encoder) == ("sgma", None), "the file of settings may name its own"


def test_numbers_of_a_field_become_classes_and_blocks_suit_the_labels(processing, request_, tmp_path):
    request_.update(FIELD="number", CONFIG=None)
    manifest, job = manifest_of(request_, tmp_path)
    assert [item.name for item in manifest.classes] == ["class 0", "class 1", "class 2", "class 3"]
    assert manifest.fitted and manifest.split.method == "block"
    assert job.encoder == "galileo_nano"


def test_a_manifest_takes_the_place_of_rasters_and_labels(processing, request_):
    algorithm = QgsApplication.processingRegistry().createAlgorithmById("lacuna:train")
    job = algorithm.draft({"MANIFEST": "scenes.toml", "OUTPUT": request_["OUTPUT"]}, context(), Exports())
    assert (job.manifest, job.encoder) == ("scenes.toml", None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"MODALITY_1": None, "MODALITY_3": None}, "No raster is given"),
        ({"LABELS": None, "FIELD": None}, "neither LABELS nor LABELS_RASTER nor MANIFEST"),
        ({"LABELS": None, "FIELD": None, "LABELS_RASTER": "raster"}, "Labels from a raster need a CLASS_MAP"),
        ({"MANIFEST": "scenes.toml"}, "MANIFEST is given together with rasters or labels"),
        ({"NAMES": "one"}, "NAMES has 1 names for 2 rasters"),
        ({"NAMES": "one,one"}, "one"),
        ({"NAMES": "1st,2nd"}, "letters, digits"),
        ({"KINDS": "radar=photo"}, "KINDS: there is no kind photo"),
        ({"KINDS": "optical=image"}, "KINDS: there is no modality optical"),
        ({"BANDS": "radar=HH"}, "BANDS: there is no single band HH"),
        ({"CLASS_MAP": "trees=a,crops=a,built=a,water="}, "2 to"),
        ({"CLASS_MAP": "trees"}, "not of the form"),
        ({"DEVICE": "gpu"}, "device is 'gpu'"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_is_wrong_is_said_before_anything_starts(refusal, request_, sample, change, words):
    request_.update({key: sample["radar"] if value == "raster" else value for key, value in change.items()})
    assert words in refusal("lacuna:train", request_)


def test_what_the_engine_finds_wrong_is_an_error_with_a_hint(processing, request_, tmp_path, polygons):
    request_["LABELS"] = polygons("few", {"trees": (0, 0, 5, 5), "crops": (10, 10, 5, 5)})
    with pytest.raises(QgsProcessingException, match=r"50 labelled pixels.*at least 100.*Label more places"):
        processing.run("lacuna:train", request_)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
