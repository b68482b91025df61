# SPDX-License-Identifier: GPL-2.0-or-later
"""`lacuna:finetune` through `processing.run`, models and `qgis_process`, with the real engine on the sample scene."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from qgis.core import (
    QgsApplication,
    QgsProcessingException,
    QgsProcessingModelAlgorithm,
    QgsProcessingModelChildAlgorithm,
    QgsProcessingModelChildParameterSource,
    QgsProcessingModelOutput,
    QgsProcessingParameterDefinition,
    QgsRasterLayer,
)

from lacuna.engine.checkpoint.card_file import read_card
from lacuna.engine.checkpoint.header import sha256

pytestmark = pytest.mark.usefixtures("brief_engine")

SHORT = """
[training]
crop = 64
crops = 4
batch = 4
validate_every = 2
[latent]
samples = 2
"""


@pytest.fixture
def request_(checkpoint, sample, sample_labels, tmp_path):
    """Return parameters for a short training on the sample scene; the labels of value 3 have no class."""
    config = tmp_path / "in" / "short.toml"
    config.parent.mkdir()
    config.write_text(SHORT)
    return {
        "CHECKPOINT": checkpoint,
        "MODALITY_1": sample["optical"],
        "MODALITY_3": sample["elevation"].source(),
        "LABELS_RASTER": sample_labels,
        "CLASS_MAP": "3=",
        "EPOCHS": 2,
        "CONFIG": str(config),
        # Asked for where they matter: they take seconds.
        "DETAIL": False,
        "FOREST": False,
        "DEVICE": "cpu",
        "OUTPUT": str(tmp_path / "tuned.safetensors"),
    }


def test_parameters_and_outputs(processing):
    algorithm = QgsApplication.processingRegistry().algorithmById("lacuna:finetune")
    assert [item.name() for item in algorithm.parameterDefinitions()] == [
        "CHECKPOINT", *(f"MODALITY_{number}" for number in range(1, 7)), "LABELS", "FIELD", "LABELS_RASTER", "MANIFEST",
        "CLASS_MAP", "STRATEGY", "METHOD", "EPOCHS", "BANDS", "NODATA", "MASKS",
        "OFFSETS", "SCALES", "MERGE", "DROP", "WEIGHTS",
        "LATENT_PRESET", "SEED", "CONFIG", "FOREST", "DETAIL", "DEVICE", "OUTPUT", "REPORT",
    ]  # fmt: skip
    optional = QgsProcessingParameterDefinition.Flag.FlagOptional
    required = [item.name() for item in algorithm.parameterDefinitions() if not item.flags() & optional]
    assert required == ["CHECKPOINT", "FOREST", "DETAIL", "OUTPUT"]
    assert algorithm.parameterDefinition("FOREST").defaultValue() is True
    assert algorithm.parameterDefinition("DETAIL").defaultValue() is True
    outputs = {item.name(): item.type() for item in algorithm.outputDefinitions()}
    assert outputs == {
        "OUTPUT": "outputFile", "REPORT": "outputHtml", "MIOU_BEFORE": "outputNumber", "MIOU": "outputNumber",
        "FOREST_OUTPUT": "outputFile", "MIOU_FOREST": "outputNumber",
    }  # fmt: skip
    assert algorithm.parameterDefinition("FIELD").parentLayerParameterName() == "LABELS"
    assert algorithm.shortHelpString()


def test_a_new_checkpoint_with_its_worth(processing, request_, tmp_path, checkpoint, listener):
    request_.update(REPORT=str(tmp_path / "tuned.html"), SEED=3, STRATEGY="latent", DETAIL=True, FOREST=True)
    result = processing.run("lacuna:finetune", request_, feedback=listener)
    card = read_card(result["OUTPUT"])
    assert card.architecture["name"] == "joined"
    assert result["OUTPUT"] == request_["OUTPUT"]
    assert card.parents[0] == sha256(checkpoint)
    assert card.training["labels"] == "labels.tif"
    assert card.training["strategy"]["name"] == "latent"
    supported = [item["miou"] for item in card.scores]
    assert result["MIOU"] == pytest.approx(sum(supported) / len(supported), abs=1e-6)
    before = [item["miou"] for item in card.training["before"]]
    assert result["MIOU_BEFORE"] == pytest.approx(sum(before) / len(before), abs=1e-6)
    assert f"{result['MIOU']:.3f}" in Path(result["REPORT"]).read_text(encoding="utf-8")
    said = "\n".join(listener.infos)
    assert "Epoch 1 of 2: loss" in said and "Epoch 2 of 2: loss" in said and "validation mIoU" in said
    assert f"Mean: {result['MIOU_BEFORE']:.3f} before, {result['MIOU']:.3f} now" in said
    assert any("Snow or ice" in text for text in listener.warnings)
    assert listener.progressed == sorted(listener.progressed) and listener.progressed[-1] == 100
    names = {"in", "tuned.html", "tuned.safetensors", "tuned.forest.safetensors"}
    assert {path.name for path in tmp_path.iterdir()} == names
    forest = read_card(result["FOREST_OUTPUT"])
    assert forest.architecture["name"] == "forest"
    mean = sum(item["miou"] for item in forest.scores) / len(forest.scores)
    assert result["MIOU_FOREST"] == pytest.approx(mean, abs=1e-6)


@pytest.mark.slow
def test_polygons_with_a_text_field_add_merge_and_drop_classes(processing, request_, polygons):
    layer = polygons("my fields", {"wheat": (0, 0, 60, 60), "trees": (70, 0, 60, 60), "reed=bed": (0, 70, 60, 60)})
    request_.update(
        LABELS_RASTER=None,
        LABELS=layer,
        FIELD="kind",
        CLASS_MAP="wheat=Crops,reed=bed=Reed",
        MERGE="Crops=Open land,Rangeland=Open land",
        DROP="Snow or ice,Bare ground,Flooded vegetation",
        STRATEGY="weights",
        WEIGHTS="1,0,1,0,2,0,0",
        METHOD="head",
        EPOCHS=1,
    )
    card = read_card(processing.run("lacuna:finetune", request_)["OUTPUT"])
    assert [item.name for item in card.classes] == ["Water", "Trees", "Open land", "Built area", "Reed"]
    assert (card.training["labels"], card.training["field"]) == ("my_fields.gpkg", "kind")
    assert card.training["method"] == "head"
    assert card.training["strategy"]["probabilities"] == pytest.approx([0.25, 0, 0.25, 0, 0.5, 0, 0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"LABELS_RASTER": None}, "neither LABELS nor LABELS_RASTER nor MANIFEST"),
        ({"LABELS": "polygons"}, "LABELS and LABELS_RASTER are both given"),
        ({"LABELS_RASTER": None, "LABELS": "polygons"}, "without FIELD. Choose the field that holds the class of each"),
        ({"LABELS_RASTER": None, "LABELS": "polygons", "FIELD": "crop"}, "no field “crop”"),
        ({"LABELS_RASTER": None, "LABELS": "/no/such.gpkg", "FIELD": "kind"}, "/no/such.gpkg"),
        ({"FIELD": "kind"}, "FIELD is given (kind), but no polygons are"),
        ({"LABELS_RASTER": "/no/such.tif"}, "LABELS_RASTER: /no/such.tif not found"),
        ({"MANIFEST": "scenes.toml"}, "MANIFEST is given together with rasters or labels"),
        ({"MODALITY_1": None, "MODALITY_3": None}, "It knows optical, radar, elevation"),
        ({"MODALITY_4": "raster"}, "only 3 modalities"),
        ({"MASKS": "radar=clouds.tif"}, "MASKS names radar"),
        ({"CLASS_MAP": "wheat"}, "CLASS_MAP: 'wheat' is not of the form VALUE=NAME"),
        ({"MERGE": "a=b,a=c"}, "MERGE: 'a' is given twice"),
        ({"WEIGHTS": "1,x", "STRATEGY": "weights"}, "WEIGHTS: 'x' is no number"),
        ({"STRATEGY": "weights"}, "with the strategy weights"),
        ({"DEVICE": "gpu"}, "device is 'gpu'"),
        ({"CHECKPOINT": "/no/such.safetensors"}, "does not exist"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_is_wrong_is_said_before_anything_starts(refusal, request_, sample, polygons, change, words):
    layers = {"polygons": polygons("fields", {"wheat": (0, 0, 9, 9)}), "raster": sample["radar"]}
    request_.update({key: layers.get(value, value) for key, value in change.items()})
    assert words in refusal("lacuna:finetune", request_)


def test_what_the_engine_finds_wrong_is_an_error_with_a_hint(processing, request_, tmp_path, polygons):
    few = polygons("few", {"trees": (0, 0, 5, 5), "crops": (10, 10, 5, 5)})
    request_.update(LABELS_RASTER=None, LABELS=few, FIELD="kind", CLASS_MAP=None)
    with pytest.raises(QgsProcessingException, match=r"few.*50 labelled pixels.*at least 100.*Label more places"):
        processing.run("lacuna:finetune", request_)
    with pytest.raises(QgsProcessingException, match=r"OUTPUT.*\.pt does not end with \.safetensors"):
        processing.run("lacuna:finetune", {**request_, "OUTPUT": str(tmp_path / "tuned.pt")})
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.slow
def test_cancel_ends_the_engine_and_leaves_no_file(processing, request_, tmp_path, listener):
    listener.progressChanged.connect(lambda value: listener.cancel())
    request_.update(EPOCHS=500, REPORT=str(tmp_path / "tuned.html"))
    result = processing.run("lacuna:finetune", request_, feedback=listener)
    assert listener.progressed[-1] < 100
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert result.get("OUTPUT") is None


@pytest.mark.slow
def test_a_model_classifies_with_what_it_has_tuned(processing, request_, tmp_path):
    static = QgsProcessingModelChildParameterSource.fromStaticValue
    tune = QgsProcessingModelChildAlgorithm("lacuna:finetune")
    tune.setChildId("tune")
    for name, value in {**request_, "MODALITY_1": request_["MODALITY_1"].source(), "EPOCHS": 1}.items():
        if name != "OUTPUT":
            tune.addParameterSources(name, [static(value)])
    segment = QgsProcessingModelChildAlgorithm("lacuna:segment")
    segment.setChildId("segment")
    tuned = QgsProcessingModelChildParameterSource.fromChildOutput("tune", "OUTPUT")
    segment.addParameterSources("CHECKPOINT", [tuned])
    segment.addParameterSources("MODALITY_3", [static(request_["MODALITY_3"])])
    output = QgsProcessingModelOutput("map")
    output.setChildId("segment")
    output.setChildOutputName("OUTPUT")
    segment.setModelOutputs({"map": output})
    model = QgsProcessingModelAlgorithm("tune and classify", "tests")
    model.addChildAlgorithm(tune)
    model.addChildAlgorithm(segment)
    classes = str(tmp_path / "classes.tif")
    result = processing.run(model, {"segment:map": classes})
    assert QgsRasterLayer(result["segment:map"], "classes").isValid()
    record = json.loads(Path(f"{classes}.json").read_text())
    assert record["checkpoint"]["sha256"] not in (None, sha256(request_["CHECKPOINT"]))
    assert read_card(record["request"]["checkpoint"]).parents == [sha256(request_["CHECKPOINT"])]


@pytest.mark.slow
def test_qgis_process(qgis_process, request_, sample_labels, tmp_path, checkpoint):
    arguments = {**request_, "MODALITY_1": request_["MODALITY_1"].source(), "EPOCHS": 1, "STRATEGY": "uniform"}
    done = qgis_process(
        "--json", "run", "lacuna:finetune", "--", *(f"{key}={value}" for key, value in arguments.items())
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(done.stdout)["results"]
    assert results["OUTPUT"] == request_["OUTPUT"]
    assert 0 < results["MIOU"] < 1
    assert read_card(results["OUTPUT"]).training["strategy"]["name"] == "uniform"
