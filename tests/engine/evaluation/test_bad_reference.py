# SPDX-License-Identifier: GPL-2.0-or-later
"""Evaluations that cannot be: each says which file, what was found and what to do, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyogrio.raw
import pytest
import shapely
import torch
from affine import Affine

from lacuna.engine.checkpoint.card_file import read_card
from lacuna.engine.checkpoint.header import sha256
from lacuna.engine.checkpoint.store import load, rewrite_card
from lacuna.engine.errors import LacunaError, UsageError
from lacuna.engine.evaluation import evaluate as module

ELSEWHERE = Affine(10, 0, 900000, 0, -10, 5500000)


@pytest.fixture
def polygon(tmp_path):
    """A function that writes one polygon (bounds) with a field and returns the path."""

    def write(bounds, kind="class 1", crs="EPSG:32632"):
        path = str(tmp_path / "crowns.gpkg")
        pyogrio.raw.write(
            path, shapely.to_wkb([shapely.box(*bounds)]), [np.array([kind], object)], ["kind"],
            geometry_type="Polygon", crs=crs,
        )  # fmt: skip
        return path

    return write


def failure(run, *arguments, **options):
    with pytest.raises(LacunaError) as caught:
        run(*arguments, **options)
    assert caught.value.hint
    return caught.value


def test_labels_of_another_place(checkpoint, scene, arrays, write_raster, run_evaluate):
    path = write_raster("far.tif", arrays["labels"], transform=ELSEWHERE)
    problem = failure(run_evaluate, checkpoint, {"a": scene["a"]}, path)
    assert problem.code == "no-overlap"
    assert "far.tif" in problem.text


@pytest.mark.parametrize("crs", ["EPSG:32632", "EPSG:4326"])
def test_polygons_of_another_place(checkpoint, scene, polygon, run_evaluate, crs):
    bounds = (900000, 5499900, 900100, 5500000) if crs == "EPSG:32632" else (20.0, 40.0, 20.1, 40.1)
    problem = failure(run_evaluate, checkpoint, {"a": scene["a"]}, polygon(bounds, crs=crs), field="kind")
    assert problem.code == "no-overlap"
    assert "crowns.gpkg" in problem.text


def test_polygons_in_another_crs_are_brought_over(checkpoint, scene, polygon, run_evaluate):
    path = polygon((9.001, 49.6495, 9.0016, 49.6499), crs="EPSG:4326")
    result, _ = run_evaluate(checkpoint, {"a": scene["a"]}, path, field="kind")
    assert 15 <= result["cases"][0]["pixels"] <= 25


def test_a_polygon_that_holds_no_pixel_s_centre(checkpoint, scene, polygon, run_evaluate):
    path = polygon((500101, 5499901, 500103, 5499903))
    problem = failure(run_evaluate, checkpoint, {"a": scene["a"]}, path, field="kind")
    assert problem.code == "no-labels"
    assert "centre" in problem.hint


def test_labels_that_are_all_nodata_or_ignored(checkpoint, scene, write_raster, run_evaluate):
    path = write_raster("none.tif", np.full((56, 72), 9, np.uint8), nodata=9)
    assert failure(run_evaluate, checkpoint, {"a": scene["a"]}, path).code == "no-labels"
    path = write_raster("eight.tif", np.full((56, 72), 8, np.uint8))
    assert failure(run_evaluate, checkpoint, {"a": scene["a"]}, path, ignore=[8]).code == "no-labels"


def test_labels_only_where_the_raster_has_no_data(checkpoint, scene, arrays, write_raster, run_evaluate):
    values = arrays["a"].copy()
    values[:, 30:] = np.nan
    labels = np.where(np.arange(72) < 40, 9, arrays["labels"]).astype(np.uint8)
    problem = failure(
        run_evaluate, checkpoint, {"a": write_raster("half.tif", values)}, write_raster("l.tif", labels, nodata=9)
    )
    assert problem.code == "no-labels"
    assert "nodata" in problem.hint


def test_values_that_are_no_class(checkpoint, scene, arrays, write_raster, run_evaluate):
    path = write_raster("l.tif", np.where(arrays["labels"] == 2, 77, arrays["labels"]).astype(np.uint8))
    problem = failure(run_evaluate, checkpoint, {"a": scene["a"]}, path)
    assert problem.code == "unknown-class"
    assert f"77 ({(arrays['labels'] == 2).sum()} pixels)" in problem.text
    assert "--class-map" in problem.hint
    assert "--ignore" in problem.hint


def test_a_text_that_is_no_class(checkpoint, scene, polygon, run_evaluate):
    path = polygon((500100, 5499900, 500200, 5500000), kind="Pinus")
    problem = failure(run_evaluate, checkpoint, {"a": scene["a"]}, path, field="kind")
    assert problem.code == "unknown-class"
    assert "'Pinus' (1 polygons)" in problem.text


def test_polygons_without_a_field_or_with_an_unknown_one(checkpoint, scene, polygon, run_evaluate):
    path = polygon((500100, 5499900, 500200, 5500000))
    problem = failure(run_evaluate, checkpoint, {"a": scene["a"]}, path)
    assert problem.code == "no-field"
    assert "--field" in problem.hint
    problem = failure(run_evaluate, checkpoint, {"a": scene["a"]}, path + "|layername=crowns")
    assert problem.code == "no-field"
    problem = failure(run_evaluate, checkpoint, {"a": scene["a"]}, path, field="genus")
    assert problem.code == "no-field"
    assert "kind" in problem.text


@pytest.mark.parametrize("class_map", [{"1": "forest"}, {"1": 9}, {"one": "class 1"}])
def test_a_class_map_that_leads_nowhere(checkpoint, scene, run_evaluate, class_map):
    with pytest.raises(UsageError) as caught:
        run_evaluate(checkpoint, {"a": scene["a"]}, scene["labels"], class_map=class_map)
    assert caught.value.code == "bad-class-map"


def test_labels_that_do_not_exist(checkpoint, scene, tmp_path, run_evaluate):
    problem = failure(run_evaluate, checkpoint, {"a": scene["a"]}, str(tmp_path / "none.tif"))
    assert problem.code == "file-missing"


def test_damage_without_the_full_scenario(make_checkpoint, scene, run_evaluate):
    single = make_checkpoint(modalities={"a": ["index"], "b": ["index"]}, classes=4, scenarios=[["a"], ["b"]])
    problem = failure(run_evaluate, single, {"a": scene["a"], "b": scene["b"]}, scene["labels"], protocol="emm")
    assert problem.code == "unsupported-scenario"


def test_noise_cannot_spare_a_modality_that_is_not_there(checkpoint, scene, run_evaluate):
    sources = {"a": scene["a"]}
    problem = failure(run_evaluate, checkpoint, sources, scene["labels"], protocol="nm", no_gaussian=["event"])
    assert problem.code == "unknown-modality"
    assert "event" in problem.text


def test_a_network_that_gives_no_numbers(checkpoint, scene, run_evaluate, monkeypatch):
    card, model = load(checkpoint)
    monkeypatch.setattr(model, "forward", lambda images: torch.full((1, 4, *images["a"].shape[2:]), torch.nan))
    monkeypatch.setattr(module, "load", lambda path, device: (card, model))
    assert failure(run_evaluate, checkpoint, {"a": scene["a"]}, scene["labels"]).code == "not-finite"


def test_a_report_that_exists_or_is_an_input_is_refused_beforehand(checkpoint, scene, tmp_path, run_evaluate):
    report = tmp_path / "r.html"
    report.write_text("mine")
    sources = {"a": scene["a"]}
    problem = failure(run_evaluate, checkpoint, sources, scene["labels"], report=str(report))
    assert problem.code == "output-exists"
    assert report.read_text() == "mine"
    problem = failure(run_evaluate, checkpoint, sources, scene["labels"], report=scene["labels"], overwrite=True)
    assert problem.code == "output-is-input"
    problem = failure(run_evaluate, checkpoint, sources, scene["labels"], report=str(tmp_path / "none" / "r.html"))
    assert problem.code == "output-folder"


def test_a_card_that_changed_meanwhile_is_not_overwritten(checkpoint, scene, tmp_path, run_evaluate, monkeypatch):
    opened = module.open_reference

    def meddle(job, card, reporter):
        other = read_card(checkpoint)
        other.description = "another hand was here"
        rewrite_card(checkpoint, other)
        return opened(job, card, reporter)

    monkeypatch.setattr(module, "open_reference", meddle)
    problem = failure(
        run_evaluate, checkpoint, {"a": scene["a"]}, scene["labels"], update_card=True, report=str(tmp_path / "r.html")
    )
    assert problem.code == "checkpoint-changed"
    assert read_card(checkpoint).scores == []
    assert not list(tmp_path.glob("r.html*"))
    assert not list(tmp_path.glob("*.part"))


def test_a_failure_leaves_checkpoint_and_folder_as_they_were(checkpoint, scene, tmp_path, write_raster, run_evaluate):
    before = sha256(checkpoint)
    path = write_raster("l.tif", np.full((56, 72), 77, np.uint8))
    names = sorted(item.name for item in Path(tmp_path).iterdir())
    failure(run_evaluate, checkpoint, {"a": scene["a"]}, path, update_card=True, report=str(tmp_path / "r.html"))
    assert sha256(checkpoint) == before
    assert sorted(item.name for item in Path(tmp_path).iterdir()) == names
