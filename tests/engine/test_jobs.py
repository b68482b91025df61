# SPDX-License-Identifier: GPL-2.0-or-later
"""Jobs: there and back as JSON, every field checked, every fault named."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lacuna.engine.errors import UsageError
from lacuna.engine.jobs import (
    ENCODERS,
    KINDS,
    NETWORKS,
    CatalogueJob,
    EvaluateJob,
    FetchJob,
    FinetuneJob,
    ImportJob,
    MergeJob,
    ScenariosJob,
    SegmentJob,
    SourceSpec,
    TrainJob,
    from_json,
    to_json,
)

TEXT = st.text(min_size=1, max_size=8)
FINITE = st.floats(-1e9, 1e9)
SOURCES = st.builds(
    SourceSpec,
    path=TEXT,
    bands=st.none() | st.lists(st.integers(1, 300) | TEXT, min_size=1, max_size=4),
    nodata=st.none() | st.floats(allow_nan=False),
    mask=st.none() | TEXT,
)
EXTENTS = st.tuples(FINITE, FINITE, st.floats(1, 1e6), st.floats(1, 1e6)).map(
    lambda box: [box[0], box[1], box[0] + box[2], box[1] + box[3]]
)
SEGMENT = st.builds(
    SegmentJob,
    checkpoint=TEXT,
    modalities=st.dictionaries(TEXT, SOURCES, min_size=1, max_size=3),
    output=TEXT,
    confidence=st.none() | TEXT,
    probabilities_dtype=st.sampled_from(["uint8", "float32"]),
    extent=st.none() | st.sampled_from(["union", "intersection"]) | EXTENTS,
    resolution=st.none() | st.floats(1e-9, 1e9),
    tile=st.none() | st.lists(st.integers(64, 4096), min_size=2, max_size=2),
    overlap=st.none() | st.integers(0, 32),
    batch_size=st.none() | st.integers(1, 99),
    device=st.sampled_from(["auto", "cpu", "cuda", "cuda:3"]),
    overwrite=st.booleans(),
    resume=st.booleans(),
)
TRAIN = st.builds(
    TrainJob, manifest=TEXT, architecture=TEXT, output=TEXT, epochs=st.none() | st.integers(1), seed=st.integers(0)
)
IMPORT = st.builds(
    ImportJob,
    network=st.sampled_from([*NETWORKS, *ENCODERS]),
    weights=TEXT,
    output=TEXT,
    card=TEXT,
    overwrite=st.booleans(),
)
EVALUATE = st.builds(
    EvaluateJob,
    checkpoint=TEXT,
    modalities=st.dictionaries(TEXT, SOURCES, min_size=1, max_size=3),
    labels=TEXT,
    field=st.none() | TEXT,
    class_map=st.none() | st.dictionaries(TEXT, st.integers(0, 99) | TEXT, max_size=3),
    ignore=st.lists(st.integers() | TEXT, max_size=3),
    protocol=st.sampled_from(["subsets", "emm", "rmm", "nm"]),
    report=st.none() | TEXT,
    seed=st.integers(0),
    tile=st.none() | st.lists(st.integers(64, 4096), min_size=2, max_size=2),
)
FINETUNE = st.builds(
    FinetuneJob,
    checkpoint=TEXT,
    output=TEXT,
    modalities=st.dictionaries(TEXT, SOURCES, min_size=1, max_size=3),
    labels=TEXT,
    field=st.none() | TEXT,
    class_map=st.dictionaries(TEXT, st.text(max_size=8), max_size=3),
    merge=st.dictionaries(TEXT, TEXT, max_size=2),
    drop=st.lists(TEXT, max_size=2),
    strategy=st.sampled_from(["full", "uniform", "anyseg", "mas", "latent"]),
    method=st.sampled_from(["full", "head", "decoder", "lora"]),
    seed=st.integers(0, 2**32),
    plan_only=st.booleans(),
)
SCENARIOS = st.builds(ScenariosJob, checkpoint=TEXT, manifest=TEXT, preset=st.sampled_from(["default", "paper"]))
MINIMAL = {"job": "segment", "checkpoint": "c", "modalities": {"a": {"path": "a.tif"}}, "output": "o.tif"}


@given(SEGMENT | TRAIN | FINETUNE | EVALUATE | SCENARIOS | IMPORT)
def test_a_job_survives_the_way_through_one_line_of_json(job):
    line = to_json(job)
    assert "\n" not in line
    again = from_json(line)
    assert again == job
    assert type(again) is type(job)


def test_what_is_not_given_takes_its_default():
    job = from_json(json.dumps(MINIMAL))
    assert job == SegmentJob("c", {"a": SourceSpec("a.tif")}, "o.tif")
    assert job.resume
    assert not job.overwrite


def test_a_whole_number_stands_for_a_float():
    job = from_json(json.dumps({**MINIMAL, "resolution": 10, "extent": [0, 0, 1, 1]}))
    assert (type(job.resolution), job.extent) == (float, [0.0, 0.0, 1.0, 1.0])


FAULTS = {
    "an unknown field": ({"tiles": 3}, "tiles"),
    "an unknown field of a source": ({"modalities": {"a": {"path": "x", "band": 1}}}, "band"),
    "a source without a path": ({"modalities": {"a": {}}}, "path"),
    "a source that is a path": ({"modalities": {"a": "a.tif"}}, "segment.modalities.a"),
    "modalities that are a list": ({"modalities": ["a"]}, "segment.modalities"),
    "text for a number": ({"batch_size": "4"}, "segment.batch_size"),
    "a float for a whole number": ({"batch_size": 4.0}, "segment.batch_size"),
    "true for a whole number": ({"batch_size": True}, "segment.batch_size"),
    "a number for true": ({"overwrite": 1}, "segment.overwrite"),
    "null for a path": ({"output": None}, "segment.output"),
    "a number among bands": ({"modalities": {"a": {"path": "x", "bands": [1.5]}}}, "segment.modalities.a.bands"),
    "an unknown extent": ({"extent": "all"}, "union"),
    "an extent of three": ({"extent": [0, 0, 1]}, "xmin"),
    "an extent inside out": ({"extent": [1, 0, 0, 1]}, "xmin"),
    "an extent without end": ({"extent": [0, 0, math.inf, 1]}, "xmin"),
    "a resolution of 0": ({"resolution": 0}, "resolution"),
    "an infinite resolution": ({"resolution": math.inf}, "resolution"),
    "a tile of 0": ({"tile": [0, 64]}, "tile"),
    "a tile of three": ({"tile": [64, 64, 64]}, "tile"),
    "an overlap below 0": ({"overlap": -1}, "overlap"),
    "an overlap of more than half a tile": ({"tile": [64, 32], "overlap": 17}, "half"),
    "a batch of 0": ({"batch_size": 0}, "batch_size"),
    "an unknown device": ({"device": "gpu"}, "cuda:N"),
    "a device without its number": ({"device": "cuda:"}, "cuda:N"),
    "an unknown precision": ({"precision": "int8"}, "bf16"),
    "an unknown type": ({"probabilities_dtype": "uint16"}, "float32"),
    "no modality": ({"modalities": {}}, "modality"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named(fault):
    change, word = FAULTS[fault]
    with pytest.raises(UsageError) as caught:
        from_json(json.dumps({**MINIMAL, **change}))
    assert word in str(caught.value)
    assert caught.value.exit_status == 2


@pytest.mark.parametrize("field", ["checkpoint", "modalities", "output"])
def test_a_field_that_is_missing_is_named(field):
    with pytest.raises(UsageError, match=field):
        from_json(json.dumps({key: value for key, value in MINIMAL.items() if key != field}))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", "{}", '{"job": "dance"}', '{"job": ["segment"]}', "[" * 99999]
)
def test_what_is_no_job_is_refused(text):
    with pytest.raises(UsageError) as caught:
        from_json(text)
    assert caught.value.code == "bad-job"


@pytest.mark.parametrize(
    ("change", "word"), [({"preset": "best"}, "paper"), ({"epochs": 0}, "epochs"), ({"seed": 0.5}, "seed")]
)
def test_a_faulty_training_is_refused(change, word):
    values = {"job": "train", "manifest": "m", "architecture": "sgma", "output": "o", **change}
    with pytest.raises(UsageError, match=word):
        from_json(json.dumps(values))


@pytest.mark.parametrize(
    ("change", "code"), [({"network": "unet"}, "bad-value"), ({"network": "dis2"}, "no-card"), ({"card": 3}, "bad-job")]
)
def test_a_faulty_import_is_refused(change, code):
    values = {"job": "import", "network": "mit", "weights": "w.pth", "output": "o.safetensors", **change}
    with pytest.raises(UsageError) as caught:
        from_json(json.dumps(values))
    assert caught.value.code == code


EVALUATION = {"job": "evaluate", "checkpoint": "c", "modalities": {"a": {"path": "a.tif"}}, "labels": "l.tif"}
ON_A_MANIFEST = {"modalities": {}, "labels": None, "manifest": "m.toml"}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"modalities": {}}, "manifest"),
        ({"labels": None}, "labels"),
        ({"split": "test"}, "split"),
        ({"manifest": "m.toml"}, "together with modalities, labels"),
        ({**ON_A_MANIFEST, "field": "kind"}, "field"),
        ({**ON_A_MANIFEST, "split": "holdout"}, "validation"),
        ({"protocol": "all"}, "rmm"),
        ({"protocol": "emm", "area_estimates": True}, "area_estimates"),
        ({"protocol": "nm", "update_card": True}, "update_card"),
        ({"no_gaussian": ["a"]}, "no_gaussian"),
        ({"seed": -1}, "seed"),
        ({"overlap": -1}, "overlap"),
        ({"tile": [8, 8], "overlap": 5}, "half"),
        ({"device": "gpu"}, "device"),
        ({"class_map": {"1": 0.5}}, "class_map"),
        ({"ignore": 3}, "ignore"),
    ],
)
def test_a_faulty_evaluation_is_refused(change, word):
    with pytest.raises(UsageError, match=word) as caught:
        from_json(json.dumps({**EVALUATION, **change}))
    assert caught.value.exit_status == 2


def test_an_evaluation_is_of_labels_or_of_a_manifest():
    job = from_json(json.dumps(EVALUATION))
    assert job == EvaluateJob("c", {"a": SourceSpec("a.tif")}, "l.tif")
    assert job.unfinished_paths() == []
    job = from_json(json.dumps({**EVALUATION, **ON_A_MANIFEST, "report": "r.html", "update_card": True}))
    assert (job.manifest, job.protocol, job.record_path()) == ("m.toml", "subsets", "r.html.json")
    assert job.unfinished_paths() == ["r.html.part", "r.html.json.part", os.path.realpath("c") + ".part"]


@given(
    st.dictionaries(
        st.sampled_from(list(asdict(SegmentJob("", {}, "")))),
        st.none() | st.integers() | st.text() | st.lists(st.text()),
    )
)
def test_whatever_the_fields_hold_the_answer_is_a_job_or_a_usage_error(values):
    try:
        job = from_json(json.dumps({**MINIMAL, **values}))
    except UsageError as problem:
        job = problem
    assert isinstance(job, (SegmentJob, UsageError))


def test_every_kind_is_known_by_its_name():
    kinds = {
        "segment": SegmentJob, "train": TrainJob, "finetune": FinetuneJob, "evaluate": EvaluateJob,
        "scenarios": ScenariosJob, "import": ImportJob, "merge": MergeJob,
        "fetch": FetchJob, "catalogue": CatalogueJob,
    }  # fmt: skip
    assert kinds == KINDS


def test_a_fetch_names_something_unless_it_lists():
    with pytest.raises(UsageError, match="--list"):
        FetchJob().check()
    FetchJob(list_only=True).check()
    assert from_json('{"job": "fetch", "name": "a", "catalogue": "https://example.org/c.json"}').name == "a"


TUNING = {"job": "finetune", "checkpoint": "c", "modalities": {"a": {"path": "a"}}, "labels": "l", "output": "o"}
TUNING_FAULTS = {
    "neither rasters nor manifest": ({"modalities": {}}, "No modality"),
    "rasters and a manifest": ({"manifest": "m"}, "both"),
    "no labels": ({"labels": None}, "No labels"),
    "labels beside a manifest": ({"manifest": "m", "modalities": {}}, "manifest names its labels"),
    "no output": ({"output": ""}, "No output"),
    "an unknown strategy": ({"strategy": "random"}, "anyseg"),
    "an unknown method": ({"method": "all"}, "decoder"),
    "an unknown preset": ({"latent_preset": "best"}, "paper"),
    "weights without their strategy": ({"weights": [1.0]}, "only with it"),
    "the strategy without weights": ({"strategy": "weights"}, "only with it"),
    "no epochs": ({"epochs": 0}, "epochs"),
    "a report in the place of the checkpoint": ({"report": "o"}, "one name"),
    "a seed below 0": ({"seed": -1}, "seed"),
}


@pytest.mark.parametrize("fault", TUNING_FAULTS)
def test_a_faulty_fine_tuning_is_refused(fault):
    change, word = TUNING_FAULTS[fault]
    with pytest.raises(UsageError, match=word):
        from_json(json.dumps({**TUNING, **change}))


def test_a_plan_needs_no_output_and_leaves_no_parts():
    job = from_json(json.dumps({**TUNING, "output": "", "plan_only": True}))
    assert job.unfinished_paths() == []
    assert "o.part" in from_json(json.dumps(TUNING)).unfinished_paths()


def test_outputs_and_parts_are_those_asked_for():
    job = SegmentJob("c", {"a": SourceSpec("a.tif")}, "o.tif", evidence="e.tif")
    assert job.outputs() == {"classes": "o.tif", "evidence": "e.tif"}
    assert job.record_path() == "o.tif.json"
    assert {"o.tif.part", "e.tif.part"} <= set(job.unfinished_paths())
