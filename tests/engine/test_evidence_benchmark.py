# SPDX-License-Identifier: GPL-2.0-or-later
"""The evidence: its queue, its data, its opponents, and one cell of it from labels to scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tomllib
import torch

from lacuna.engine.checkpoint.card import scenarios
from lacuna.engine.models.window_features import count_features, strips_of_features
from lacuna.engine.training.samples import WINDOWS, PixelSamples
from lacuna.tests.benchmarks.evidence import data, protocol, run, table
from lacuna.tests.benchmarks.evidence.protocol import Cell
from lacuna.tests.benchmarks.evidence.rivals import Rival

PLACE = rasterio.Affine(10, 0, 500000, 0, -10, 5500000)


def test_the_queue_holds_every_cell_once_and_forgets_what_is_done():
    cells = protocol.queue()
    whole = len(protocol.DATASETS) * len(protocol.AMOUNTS) * len(protocol.SEEDS)
    assert len(set(cells)) == len(cells) == whole
    assert [cell.seed for cell in cells] == sorted(cell.seed for cell in cells)
    left = protocol.pending(cells, {cells[0]}, ["tree_crowns/*/0", "unseen_433D/all/*"])
    assert cells[0] not in left
    assert {str(cell) for cell in left} >= {"tree_crowns/20/0", "unseen_433D/all/1"}
    assert all(cell.dataset in ("tree_crowns", "unseen_433D") for cell in left)


@pytest.fixture
def floods(tmp_path):
    """A folder of chips such as those of floods_s1: water is dark."""
    folder = tmp_path / "data" / "floods_s1"
    rng = np.random.default_rng(0)
    for kind in ("s1", "labels"):
        (folder / kind).mkdir(parents=True)
    for names in data._CHIPS.values():
        for name in names:
            water = np.kron(rng.integers(0, 2, (8, 8)), np.ones((12, 12), int))
            radar = rng.normal(-10, 1, (2, 96, 96)) - 6 * water
            labels = np.where(rng.random((96, 96)) < 0.1, -1, water)
            for kind, values in (("s1", radar.astype(np.float32)), ("labels", labels[None].astype(np.int16))):
                profile = {"driver": "GTiff", "count": len(values), "height": 96, "width": 96, "crs": "EPSG:32632"}
                with rasterio.open(
                    folder / kind / f"{name}.tif", "w", dtype=values.dtype, transform=PLACE, **profile
                ) as dataset:
                    dataset.write(values)
    return tmp_path / "data"


def test_squares_of_labels_are_drawn_of_every_class(floods, tmp_path):
    manifest = data.prepare("floods_s1", floods, tmp_path / "work").train
    found = data.thinned(manifest, 3, 5, 0, tmp_path / "work")
    again = data.thinned(manifest, 3, 5, 0, tmp_path / "work")
    assert found == again
    root, kept = tomllib.loads(found.read_text()), 0
    for scene in root["scenes"]:
        with (
            rasterio.open(scene["labels"]) as thin,
            rasterio.open(floods / "floods_s1" / "labels" / f"{scene['name']}.tif") as whole,
        ):
            values, truth = thin.read(1), whole.read(1)
        labelled = values >= 0
        assert labelled.any(), "scenes without labels are left out"
        assert (values[labelled] == truth[labelled]).all()
        kept += np.bincount(values[labelled], minlength=2)
    assert (kept > 10).all() and (kept <= 3 * 25).all()


def test_extents_bound_the_labels_that_are_drawn(tmp_path):
    path = tmp_path / "labels.tif"
    profile = {"driver": "GTiff", "count": 1, "height": 40, "width": 40, "crs": "EPSG:32632", "dtype": "uint8"}
    with rasterio.open(path, "w", transform=PLACE, **profile) as dataset:
        dataset.write(np.ones((1, 40, 40), np.uint8))
    extent = [500000 + 100, 5500000 - 400, 500000 + 200, 5500000]
    _values, inside = data._labels({"labels": str(path), "extent": extent})
    assert inside.sum() == 40 * 10 and inside[:, 10:20].all()


@pytest.mark.parametrize("name", protocol.RIVALS)
def test_opponents_answer_in_every_scenario(name):
    rng = np.random.default_rng(0)
    bands, order = {"a": 2, "b": 1}, scenarios(["a", "b"])
    image = {
        key: torch.from_numpy(rng.normal(0, 1, (1, count, 20, 24)).astype(np.float32)) for key, count in bands.items()
    }
    labels = 2 * (image["a"][0, 0] + image["b"][0, 0] > 0).long().flatten().numpy()
    features = {
        key: torch.cat(list(strips_of_features([item[0]], WINDOWS)), 1).flatten(1).T.numpy()
        for key, item in image.items()
    }
    assert features["a"].shape == (480, count_features(2, WINDOWS))
    samples = PixelSamples(features, {key: np.ones(480, bool) for key in bands}, labels)
    rival = Rival(name, samples, order, 3, 0)
    for scenario in order:
        logits = rival({key: image[key] for key in scenario})
        assert logits.shape == (1, 3, 20, 24)
        assert (logits.argmax(1).flatten().numpy() == labels).mean() > 0.7
        assert (logits[:, 1] < -10).all(), "a class without labels is impossible"


@pytest.mark.slow
def test_a_cell_is_measured_and_its_tables_are_made(floods, tmp_path, monkeypatch):
    results = tmp_path / "results.jsonl"
    arguments = ["--data", str(floods), "--work", str(tmp_path / "work"), "--results", str(results)]
    kept = run._run

    def short(job):
        job.epochs, job.config = 1, str(tmp_path / "small.toml")
        return kept(job)

    (tmp_path / "small.toml").write_text(
        "[model]\nencoder_options = {width = 8, depth = 1}\nhead_width = 8\n"
        "[training]\ncrops = 8\ncrop = 32\ntile = 96\n"
    )
    monkeypatch.setattr(run, "_run", short)
    assert run.main([*arguments, "--only", "floods_s1/20/0"]) == 0
    records = [json.loads(line) for line in results.read_text().splitlines()]
    assert [item["method"] for item in records] == list(protocol.METHODS)
    scores = {item["method"]: item["miou"] for item in records}
    assert min(scores["lacuna"], scores["detail"], scores["forest"], scores["boosting"]) > 0.8
    assert run.main([*arguments, "--only", "floods_s1/20/0", "--list"]) == 0
    text = table.markdown(records)
    assert "floods_s1" in text and "boosting" in text and "1 of" in text


def test_the_page_holds_the_tables_of_the_stored_results():
    page = Path(table.PAGE).read_text(encoding="utf-8")
    assert table.inserted(page, table.markdown(run.read(run.STORED))) == page
    assert Cell("tree_crowns", None, 0) in protocol.queue()
