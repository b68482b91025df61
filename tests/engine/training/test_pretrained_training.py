# SPDX-License-Identifier: GPL-2.0-or-later
"""Training with pretrained encoders: what they know, in which scaling, their weights, and the checkpoint that comes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import safetensors.torch
import torch

from lacuna.engine.checkpoint.card import Modality
from lacuna.engine.checkpoint.card_file import read_card
from lacuna.engine.checkpoint.store import load
from lacuna.engine.errors import LacunaError
from lacuna.engine.imports.encoder_file import EncoderInfo, load_encoder, save_encoder
from lacuna.engine.imports.encoder_weights import bundled_path
from lacuna.engine.inference.pipeline import segment
from lacuna.engine.jobs import SegmentJob, SourceSpec
from lacuna.engine.raster.scaling import scale
from lacuna.engine.training.encoder_inputs import encoder_chain, to_physical
from lacuna.engine.training.train import train

SAMPLE = Path(__file__).parents[3] / "resources" / "sample"
RASTERS = {"optical": "s2.tif", "radar": "s1.tif", "elevation": "dem.tif"}
BANDS = {
    "optical": ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"],
    "radar": ["VV", "VH"],
    "elevation": ["elevation"],
}
TRAINING = """
[training]
batch = 2
crop = 32
crops = {crops}
epochs = {epochs}
warmup_epochs = 0
tile = 32
average = 0.0
lr = 2e-3
{more}
"""


@pytest.fixture
def job_of(tmp_path, make_job):
    """A function that returns a job on two small parts of the sample scene."""

    def make(encoder, options="", modalities=("optical", "radar"), lines=None, crops=2, epochs=1, more="", **values):
        with rasterio.open(SAMPLE / "labels.tif") as source:
            left, top = source.bounds.left, source.bounds.top
        text = 'reference = "optical"\nignore = [3]\nclasses = [\n'
        text += "".join(f'{{value = {value}, name = "class {value}"}},' for value in (1, 2, 4, 5, 9)) + "]\n"
        for name in modalities:
            text += f"[modalities.{name}]\nbands = {BANDS[name]}\n{(lines or {}).get(name, '')}\n"
        sources = ", ".join(f'{name} = "{SAMPLE / RASTERS[name]}"' for name in modalities)
        for name, column in (("train", 0), ("validation", 32)):
            extent = [left + 10 * column, top - 320, left + 10 * column + 320, top]
            text += f'[[scenes]]\nname = "{name}"\nsplit = "{name}"\nsources = {{{sources}}}\n'
            text += f'labels = "{SAMPLE / "labels.tif"}"\nextent = {extent}\n'
        manifest = tmp_path / "scenes.toml"
        manifest.write_text(text)
        config = f"[model]\nhead_width = 16\n{options}\n" + TRAINING.format(crops=crops, epochs=epochs, more=more)
        return make_job(str(manifest), config=config, encoder=encoder, **values)

    return make


def corner(path, target):
    """Write the first 48 x 64 pixels of the raster at `path` as `target`; return its path."""
    with rasterio.open(path) as source:
        profile = {**source.profile, "height": 48, "width": 64}
        with rasterio.open(target, "w", **profile) as part:
            part.write(source.read()[:, :48, :64])
            part.descriptions = source.descriptions
    return str(target)


def said_of(said):
    return " ".join(event["text"] for event in said if event["event"] == "message")


@pytest.mark.slow
def test_dynamic_world_trains_and_segments_from_its_own_values(job_of, heard, tmp_path):
    job = job_of("dynamic_world", "encoder_options = {widths = [16, 16, 16, 16]}", crops=8, epochs=3)
    result = train(job, heard[0])
    losses = [entry["loss"] for entry in result["history"]]
    assert losses[-1] < losses[0]
    card, model = load(job.output)
    assert model.encoder.known["optical"] and not model.encoder.known["radar"]
    assert [step["type"] for step in card.modality("optical").scaling] == ["clip", "log", "z_score", "clip"]
    assert [step["type"] for step in card.modality("radar").scaling] == ["z_score", "clip"]
    assert "National Geographic" in card.credits and "Brown et al. 2022" in card.credits
    assert card.training["settings"]["encoder_lr_factor"] == 0.1
    published = load_encoder(bundled_path("dynamic_world"))[1]
    moved = (
        model.state_dict()["encoder.block1.sep1.pointwise.weight"] - published["block1.sep1.pointwise.weight"]
    ).abs()
    assert 0 < moved.max() < 0.05, "it began with the published weights, and learned"
    text = said_of(heard[1])
    assert "B01, B8A, B09 it does not" in text and "radar: dynamic_world does not know" in text and "L1C" in text
    output = tmp_path / "classes.tif"
    source = SourceSpec(corner(SAMPLE / "s1.tif", tmp_path / "s1.tif"))
    segment(SegmentJob(job.output, {"radar": source}, str(output), device="cpu"), heard[0])
    with rasterio.open(output) as found:
        assert set(np.unique(found.read(1))) <= {0, 1, 2, 4, 5, 9}


def test_galileo_knows_all_three_and_elevation_keeps_its_relief(job_of, heard):
    options = "encoder_options = {patch = 8, frozen = true, widths = [16, 16, 16, 16]}"
    job = job_of("galileo_nano", options, modalities=tuple(BANDS))
    train(job, heard[0])
    card, model = load(job.output)
    assert model.encoder.groups["optical"] == [
        "S2_RGB", "S2_Red_Edge", "S2_NIR_10m", "S2_NIR_20m", "S2_SWIR", "NDVI",
    ]  # fmt: skip
    assert (model.encoder.groups["radar"], model.encoder.groups["elevation"]) == (["S1"], ["SRTM"])
    assert model.encoder.options.pixel == pytest.approx(10.0, abs=0.01)
    published = load_encoder(bundled_path("galileo_nano"))[1]
    state = model.state_dict()
    here = [key for key in published if f"encoder.net.{key}" in state]
    assert here and all(torch.equal(state[f"encoder.net.{key}"], published[key]) for key in here)
    told = card.architecture["config"]["encoder_options"]
    assert set(told["bands"]) == set(BANDS) and set(told["scaled_otherwise"]) == {"elevation"}
    with rasterio.open(SAMPLE / "dem.tif") as source:
        heights = source.read()[:, :8, :8].astype(np.float32)
    table = told["scaled_otherwise"]["elevation"]
    scaled = scale(heights, card.modality("elevation").scaling)
    assert scaled * table["gain"][0] + table["offset"][0] == pytest.approx(heights, rel=1e-5)


def test_a_stated_scaling_stays_and_is_undone(job_of, heard):
    lines = {"radar": 'scaling = {type = "z_score", mean = -12, std = 3}'}
    job = job_of("galileo_nano", "encoder_options = {patch = 8, widths = [8, 8, 8, 8]}", lines=lines)
    train(job, heard[0])
    card = read_card(job.output)
    told = card.architecture["config"]["encoder_options"]
    assert card.modality("radar").scaling == [{"type": "z_score", "mean": -12, "std": 3}]
    assert told["scaled_otherwise"]["radar"] == {"gain": [3.0, 3.0], "offset": [-12.0, -12.0]}
    assert "keeps the scaling of the manifest" in said_of(heard[1])


def test_values_that_cannot_be_what_it_knows_are_told(job_of, heard, tmp_path, monkeypatch):
    with rasterio.open(SAMPLE / "s2.tif") as source:
        profile, values, names = source.profile, source.read() / np.float32(10000), source.descriptions
    profile.update(dtype="float32")
    with rasterio.open(tmp_path / "share.tif", "w", **profile) as target:
        target.write(values.astype(np.float32))
        target.descriptions = names
    monkeypatch.setitem(RASTERS, "optical", str(tmp_path / "share.tif"))
    job = job_of("galileo_nano", "encoder_options = {patch = 8, widths = [8, 8, 8, 8]}")
    train(job, heard[0])
    assert "reflectance x 10,000 is expected" in said_of(heard[1])
    told = read_card(job.output).architecture["config"]["encoder_options"]
    assert set(told["bands"]) == {"radar"}


def test_each_modality_gets_its_own_encoder(job_of, heard):
    options = (
        'encoder_options = {encoders = {optical = "efficientnet_lite0", radar = "galileo_nano"}, '
        'other = "resnet_small", frozen = ["galileo_nano"], widths = [8, 8, 8, 8], '
        "options = {resnet_small = {width = 8, depth = 1}, galileo_nano = {patch = 8}}}"
    )
    job = job_of("mixed", options, modalities=tuple(BANDS), more="encoder_lr_factor = 0.5")
    train(job, heard[0])
    card, model = load(job.output)
    assert set(model.encoder.parts) == {"efficientnet_lite0", "galileo_nano", "resnet_small"}
    assert card.training["settings"]["encoder_lr_factor"] == 0.5 and len(card.parents) == 2
    assert set(card.architecture["config"]["encoder_options"]["bands"]) == {"optical", "radar"}


@pytest.mark.slow
def test_random_weights_and_those_of_a_file_are_taken_when_asked_for(job_of, heard, tmp_path):
    rest = "encoder_options = {stem_stride = 2}"
    job = job_of("efficientnet_lite0", rest, encoder_weights="none")
    train(job, heard[0])
    card, model = load(job.output)
    assert card.parents == [] and card.credits == "" and card.training["settings"]["encoder_lr_factor"] == 1.0
    published = load_encoder(bundled_path("efficientnet_lite0"))[1]
    difference = model.state_dict()["encoder.blocks.0.0.bn1.running_mean"] - published["blocks.0.0.bn1.running_mean"]
    assert difference.abs().max() > 0.1
    path = tmp_path / "mine.safetensors"
    changed = {**published, "blocks.0.0.bn1.running_mean": torch.full((32,), 7.0)}
    safetensors.torch.save_file(changed, path)
    job = job_of("efficientnet_lite0", rest, encoder_weights=str(path), overwrite=True)
    train(job, heard[0])
    card, model = load(job.output)
    assert (model.state_dict()["encoder.blocks.0.0.bn1.running_mean"] == 7).all() and card.credits == ""


def test_a_file_of_another_encoder_is_refused(job_of, heard, tmp_path):
    path = str(tmp_path / "other.safetensors")
    save_encoder(path, {"a": torch.ones(1)}, EncoderInfo("resnet18", 3))
    for encoder, options in (
        ("galileo_nano", ""),
        ("mixed", 'encoder_options = {encoders = {radar = "galileo_nano"}}'),
    ):
        with pytest.raises(LacunaError) as caught:
            train(job_of(encoder, options, encoder_weights=path), heard[0])
        assert caught.value.code == "bad-encoder-weights" and "resnet18" in str(caught.value)


@pytest.mark.parametrize(
    ("encoder", "options", "word"),
    [
        ("mixed", 'encoder_options = {encoders = {heat = "galileo_nano"}}', "heat"),
        ("mixed", "encoder_options = {encoders = 3}", "encoders"),
        ("galileo_nano", "encoder_options = 3", "encoder_options = 3"),
        ("galileo_nano", "encoder_options = {bands = 3}", "bands"),
    ],
)
def test_options_that_cannot_be_are_told(job_of, heard, encoder, options, word):
    with pytest.raises(LacunaError) as caught:
        train(job_of(encoder, options), heard[0])
    assert caught.value.code == "bad-config" and word in str(caught.value)


@pytest.mark.parametrize(
    "chain",
    [
        [{"type": "z_score", "mean": [1.0, 2.0], "std": 4.0}, {"type": "clip", "minimum": -50, "maximum": 50}],
        [{"type": "min_max", "minimum": -20.0, "maximum": [5.0, 9.0]}],
        [{"type": "offset_scale", "offset": 3.0, "scale": [2.0]}, {"type": "z_score", "mean": 1, "std": [2, 3]}],
        [{"type": "none"}],
    ],
)
def test_straight_scalings_are_undone(chain):
    values = np.linspace(-10, 10, 12, dtype=np.float32).reshape(2, 6)
    table = to_physical(chain, 2)
    undone = scale(values, chain) * np.array(table["gain"])[:, None] + np.array(table["offset"])[:, None]
    assert undone == pytest.approx(values, abs=1e-4)


def test_curves_are_not_undone():
    assert to_physical([{"type": "clip", "minimum": 0, "maximum": 9}, {"type": "log", "scale": 1}], 1) is None


def test_bands_beside_the_known_ones_are_scaled_by_their_statistics():
    statistics = {"mean": [0.0, 900.0, 500.0], "std": [1.0, 200.0, 0.0]}
    modality = Modality("s2", ["thermal", "B4", "other"], statistics=statistics)
    z_score, clip = encoder_chain("galileo_nano", {"B4": 1}, modality)
    assert z_score["mean"][0] == 0.0 and z_score["mean"][1] == pytest.approx(1343.09884)
    assert z_score["std"] == pytest.approx([1.0, 1092.67872, 1.0]) and clip["maximum"] == 10.0
