# SPDX-License-Identifier: GPL-2.0-or-later
"""`lacuna scenarios`: the keys of the contract, on rasters and on a manifest, and what makes it impossible."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lacuna.engine import cli
from lacuna.engine.errors import LacunaError, UsageError
from lacuna.engine.events import Reporter
from lacuna.engine.jobs import ScenariosJob, SourceSpec
from lacuna.engine.run import run

CONFIG = {"encoder_options": {"width": 8, "depth": 1}, "head_width": 8}
BANDS = {"optical": ["red", "nir"], "height": ["height"], "radar": ["vv"]}
KEYS = {"modalities", "scenarios", "distortion", "distortion_se", "kernel", "smoothed", "probabilities"}


@pytest.fixture
def checkpoint(make_checkpoint):
    return make_checkpoint(architecture="sgma", config=CONFIG, modalities=BANDS, classes=3)


@pytest.fixture
def rasters(write_raster):
    rng = np.random.default_rng(0)
    return {
        name: write_raster(f"{name}.tif", rng.normal(0, 1, (len(bands), 150, 130)).astype(np.float32))
        for name, bands in BANDS.items()
    }


def bound(rasters, *names):
    return {name: SourceSpec(rasters[name]) for name in names or rasters}


@pytest.fixture
def said():
    return []


@pytest.fixture
def measure(checkpoint, said):
    def run_job(**values):
        job = ScenariosJob(checkpoint, device="cpu", **values)
        job.check()
        return run(job, Reporter(said.append))

    return run_job


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_the_last_line_has_the_keys_of_the_contract(checkpoint, rasters, capsys, preset):
    arguments = [argument for name in rasters for argument in ("--modality", f"{name}={rasters[name]}")]
    options = ["--preset", preset, "--device", "cpu", "--json"]
    assert cli.main(["scenarios", "--checkpoint", checkpoint, *arguments, *options]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(found) == KEYS | {"event"}
    assert found["modalities"] == ["optical", "height", "radar"]
    assert found["scenarios"][0] == ["optical"]
    assert [len(scenario) for scenario in found["scenarios"]] == [1, 1, 1, 2, 2, 2, 3]
    assert found["distortion"][-1] == 0 and min(found["distortion"][:-1]) > 0
    assert np.shape(found["kernel"]) == (7, 7)
    assert sum(found["probabilities"]) == pytest.approx(1)


def test_in_words_it_is_a_table(checkpoint, rasters, capsys):
    arguments = [argument for name in rasters for argument in ("--modality", f"{name}={rasters[name]}")]
    assert cli.main(["scenarios", "--checkpoint", checkpoint, *arguments, "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "optical + height + radar           0" in out
    assert "probability" in out


def test_what_is_not_bound_is_left_out_and_said(measure, rasters, said):
    found = measure(modalities=bound(rasters, "optical", "radar"))
    assert found["modalities"] == ["optical", "radar"]
    assert found["scenarios"] == [["optical"], ["radar"], ["optical", "radar"]]
    assert any("No scene has height" in event.get("text", "") for event in said)


def test_it_is_the_same_every_time(measure, rasters):
    assert measure(modalities=bound(rasters)) == measure(modalities=bound(rasters))


def test_holes_do_not_disturb_and_windows_without_a_modality_do_not_count(measure, rasters, write_raster):
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, (1, 150, 130)).astype(np.float32)
    values[:, :, 70:] = np.nan
    found = measure(modalities={**bound(rasters), "radar": SourceSpec(write_raster("half.tif", values))})
    assert np.isfinite(found["distortion"]).all()


def test_rasters_that_share_no_ground_are_refused(measure, rasters, write_raster):
    values = np.full((1, 150, 130), np.nan, np.float32)
    values[:, :6, :6] = 1
    with pytest.raises(LacunaError) as caught:
        measure(modalities={**bound(rasters), "radar": SourceSpec(write_raster("corner.tif", values))})
    assert caught.value.code == "no-full-scene"


def test_a_manifest_may_have_scenes_of_different_modalities(two_scenes, make_checkpoint, said):
    two_scenes.scene("c", seed=3, modalities=("optical",))
    modalities = {"optical": ["red", "nir"], "height": ["height"]}
    checkpoint = make_checkpoint(architecture="sgma", config=CONFIG, modalities=modalities, classes=3)
    job = ScenariosJob(checkpoint, manifest=two_scenes.manifest(), device="cpu")
    assert run(job, Reporter(said.append))["scenarios"] == [["optical"], ["height"], ["optical", "height"]]


def test_a_manifest_whose_bands_are_others_is_refused(two_scenes, make_checkpoint):
    checkpoint = make_checkpoint(architecture="sgma", config=CONFIG, modalities={"optical": ["nir", "red"]}, classes=3)
    two_scenes.head = two_scenes.head.replace('[modalities.height]\nbands = ["height"]\n', "")
    two_scenes.scenes = [scene.replace(', height = "a_height.tif"', "") for scene in two_scenes.scenes[:1]]
    with pytest.raises(LacunaError, match="nir, red") as caught:
        run(ScenariosJob(checkpoint, manifest=two_scenes.manifest(), device="cpu"), Reporter(print))
    assert caught.value.code == "bad-manifest"


def test_rasters_or_a_manifest_but_not_both_nor_none():
    for values in ({}, {"modalities": {"a": SourceSpec("a")}, "manifest": "m"}):
        with pytest.raises(UsageError):
            ScenariosJob("c", **values).check()


@pytest.mark.parametrize(("preset", "windows"), [("default", 48), ("paper", 9 * 8)])
def test_the_published_method_measures_all_of_the_ground(make_checkpoint, write_raster, said, preset, windows):
    """In tiles of the card's size; the default takes at most 48 of them."""
    modalities = {"optical": ["red", "nir"], "height": ["height"]}
    checkpoint = make_checkpoint(architecture="sgma", config=CONFIG, modalities=modalities, classes=3, tile=[32, 32])
    rng = np.random.default_rng(0)
    sources = {
        name: SourceSpec(write_raster(f"{name}.tif", rng.normal(0, 1, (len(bands), 260, 240)).astype(np.float32)))
        for name, bands in modalities.items()
    }
    run(ScenariosJob(checkpoint, sources, device="cpu", preset=preset), Reporter(said.append))
    assert any(f"({windows} windows)" in event.get("text", "") for event in said)
