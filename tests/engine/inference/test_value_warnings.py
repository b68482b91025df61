# SPDX-License-Identifier: GPL-2.0-or-later
"""What `lacuna segment` says of values before it classifies, with the bundled checkpoint on real scenes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio

from lacuna.engine.checkpoint.card_file import read_card
from lacuna.engine.cli import main
from lacuna.engine.events import Reporter
from lacuna.engine.jobs import SourceSpec
from lacuna.engine.raster.scene import Scene

ROOT = Path(__file__).parents[3]
CHECKPOINT = ROOT / "resources" / "checkpoints" / "landcover-s2-s1-dem.safetensors"
CARD = read_card(str(CHECKPOINT))
SAMPLE, OTHERS = ROOT / "resources" / "sample", ROOT / "tests" / "data" / "landcover_s2_s1_dem"
FILES = {"optical": "s2", "radar": "s1", "elevation": "dem"}
SCENES = {
    "sample": {name: SAMPLE / f"{file}.tif" for name, file in FILES.items()},
    **{
        path.stem: {name: OTHERS / file / path.name for name, file in FILES.items()}
        for path in sorted((OTHERS / "s2").glob("*.tif"))
    },
}


def warnings(sources):
    """Return what is warned of when a scene is opened, which is before anything is computed."""
    reporter = Reporter(lambda event: None)
    Scene(CARD.modalities, {name: SourceSpec(str(path)) for name, path in sources.items()}, reporter=reporter).close()
    return reporter.warnings


@pytest.fixture
def altered(tmp_path):
    """A function that writes a raster of a scene anew with its values changed, and returns its path."""

    def make(path, change):
        with rasterio.open(path) as source:
            values, profile, names = change(source.read().astype(np.float32)), source.profile, source.descriptions
        with rasterio.open(tmp_path / path.name, "w", **{**profile, "dtype": "float32", "nodata": None}) as copy:
            copy.write(values)
            copy.descriptions = names
        return tmp_path / path.name

    return make


def test_there_are_scenes():
    assert len(SCENES) == 4


@pytest.mark.parametrize("scene", SCENES)
def test_scenes_that_the_checkpoint_has_learned_from_are_not_warned_of(scene):
    assert warnings(SCENES[scene]) == []


@pytest.mark.parametrize("scene", SCENES)
def test_three_times_as_bright_and_linear_radar_are_warned_of_in_every_scene(scene, altered):
    (bright,) = warnings({"optical": altered(SCENES[scene]["optical"], lambda values: values * 3)})
    assert "brighter than" in bright
    (linear,) = warnings({"radar": altered(SCENES[scene]["radar"], lambda values: 10 ** (values / 10))})
    assert "looks like linear power, not dB" in linear


@pytest.mark.parametrize("scene", ["sample", "38D_378R_2_3", "609U_541L_3_0"])
def test_heights_in_centimetres_are_warned_of(scene, altered):
    (text,) = warnings({"elevation": altered(SCENES[scene]["elevation"], lambda values: values * 100)})
    assert "such as centimetres" in text or "higher than anything this checkpoint has seen" in text


def test_the_command_line_warns_before_the_tiles_and_the_record_keeps_it(altered, tmp_path, capsys):
    path = altered(SCENES["sample"]["optical"], lambda values: values * 6)
    output = tmp_path / "classes.tif"
    asked = ["--checkpoint", str(CHECKPOINT), "--modality", f"optical={path}", "--output", str(output)]
    assert main(["segment", *asked, "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    said = [number for number, event in enumerate(events) if "deviations brighter" in event.get("text", "")]
    first = next(number for number, event in enumerate(events) if event["event"] == "progress" and event["done"])
    assert len(said) == 1 and said[0] < first
    event = events[said[0]]
    assert event["level"] == "warning" and "B11 is about 5 deviations brighter than anything" in event["text"]
    record = json.loads((tmp_path / "classes.tif.json").read_text())
    assert event["text"] in record["warnings"]
    assert record["inputs"]["optical"]["values"]["p99"][10] > CARD.modality("optical").statistics["p99"][10]
