# SPDX-License-Identifier: GPL-2.0-or-later
"""The output does not depend on how it was computed: tiles, overlap, batches, readers, order, an interrupted run."""

import json
from pathlib import Path

import numpy as np
import pytest
from affine import Affine

from lacuna.engine.checkpoint.card_file import read_card
from lacuna.engine.checkpoint.store import load
from lacuna.engine.errors import CancelledError
from lacuna.engine.events import silent
from lacuna.engine.inference import pipeline
from lacuna.engine.inference.classification import Classification
from lacuna.engine.inference.predictor import Predictor
from lacuna.engine.inference.reader import TileReader
from lacuna.engine.jobs import SegmentJob, SourceSpec

TRANSFORM = Affine(10, 0, 500000, 0, -10, 5500000)
SMALL = {"encoder": "resnet_small"}


@pytest.fixture
def index_raster(write_raster):
    """A function that writes a raster of random class indices and returns it with its path."""

    def make(height, width, seed=0):
        values = np.random.default_rng(seed).integers(0, 6, (height, width)).astype(np.uint8)
        return values, write_raster(f"index-{height}x{width}.tif", values)

    return make


SIZES = [(1, 1), (7, 9), (31, 32), (33, 63), (64, 64), (65, 64), (97, 131), (128, 129), (112, 127), (211, 53)]


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("overlap", [0, 4, 16])
@pytest.mark.slow
def test_identity_is_the_input_at_every_pixel(height, width, overlap, index_raster, make_checkpoint, run_segment, read):
    values, path = index_raster(height, width)
    run = run_segment(make_checkpoint(), {"index": path}, tile=[32, 32], overlap=overlap)
    np.testing.assert_array_equal(read(run.result["classes"])[0], values)


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 3}, {"batch_size": 50}, {"tile": [64, 40]}])
def test_identity_for_any_batch_and_tile(options, index_raster, make_checkpoint, run_segment, read):
    values, path = index_raster(101, 150)
    run = run_segment(make_checkpoint(), {"index": path}, **{"tile": [48, 48], "overlap": 16, **options})
    np.testing.assert_array_equal(read(run.result["classes"])[0], values)


@pytest.fixture
def two_sources(write_raster, make_checkpoint):
    """A small SGMA with two modalities, and smooth random rasters for it, one with holes."""
    generator = np.random.default_rng(3)
    optical = generator.normal(size=(3, 26, 34)).repeat(5, 1).repeat(5, 2).astype(np.float32)
    height = generator.normal(size=(1, 26, 34)).repeat(5, 1).repeat(5, 2).astype(np.float32)
    optical[:, 20:50, 30:100] = np.nan
    height[:, 90:, 60:90] = np.nan
    checkpoint = make_checkpoint(
        architecture="sgma", config=SMALL, modalities={"optical": ["r", "g", "b"], "height": ["h"]}, classes=5
    )
    return checkpoint, {"optical": write_raster("optical.tif", optical), "height": write_raster("height.tif", height)}


def outputs(run, read):
    return [read(run.result[kind]).tobytes() for kind in ("classes", "probabilities", "evidence", "confidence")]


EVERYTHING = {
    "probabilities": "p.tif", "probabilities_dtype": "float32", "evidence": "e.tif", "confidence": "c.tif",
    "tile": [64, 64], "overlap": 16,
}  # fmt: skip


@pytest.mark.slow
def test_real_model_gives_the_same_bits_for_any_batch(two_sources, run_segment, read):
    first, *others = [
        outputs(run_segment(*two_sources, overwrite=True, **EVERYTHING, batch_size=size), read) for size in (1, 2, 7)
    ]
    assert all(other == first for other in others)


@pytest.mark.parametrize("readers", [1, 4])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.slow
def test_real_model_gives_the_same_bits_for_any_order_and_readers(
    readers, seed, two_sources, run_segment, read, tmp_path
):
    checkpoint, sources = two_sources
    expected = outputs(run_segment(checkpoint, sources, **EVERYTHING), read)
    card, model = load(checkpoint)
    paths = {key: str(tmp_path / f"shuffled-{key}.tif") for key in ("confidence", "probabilities", "evidence")}
    job = SegmentJob(
        checkpoint, {key: SourceSpec(path) for key, path in sources.items()}, str(tmp_path / "shuffled.tif"),
        probabilities_dtype="float32", tile=[64, 64], overlap=16, device="cpu", **paths,
    )  # fmt: skip
    with pipeline.open_scene(job, card, silent()) as scene:
        plan = pipeline.plan_scene(job, card, scene, silent())
        order = np.random.default_rng(seed).permutation(len(plan)).tolist()
        writers = pipeline.make_writers(job, card, scene, plan)
        for writer in writers:
            writer.part.mkdir()
        predictor = Predictor(model, card, pipeline.choose_device("cpu", silent()))
        reader = TileReader(scene, card, plan, None, silent())
        values = [item.value for item in card.classes]
        Classification(reader, predictor, writers, values, scene.grid, plan).run(silent(), 2, readers, order)
        for writer in writers:
            writer.assemble()
            writer.publish()
    kinds = ("classes", "probabilities", "evidence", "confidence")
    assert [read(job.outputs()[kind]).tobytes() for kind in kinds] == expected


def test_each_pixel_is_that_of_its_own_scenario(two_sources, run_segment, read):
    """Invariant 1: the result at a pixel is that of the model in the scenario of the modalities valid there."""
    checkpoint, sources = two_sources
    both = run_segment(checkpoint, sources, "both.tif", **EVERYTHING)
    evidence = read(both.result["evidence"])[0]
    merged = read(both.result["probabilities"])
    assert set(np.unique(evidence)) == {1, 2, 3}
    for bit, name in ((1, "optical"), (2, "height")):
        alone = run_segment(
            checkpoint, {name: sources[name]}, f"map-{name}.tif", **{**EVERYTHING, "probabilities": f"{name}-p.tif"},
            reference=name, overwrite=True,
        )  # fmt: skip
        there = evidence == bit
        np.testing.assert_array_equal(merged[:, there], read(alone.result["probabilities"])[:, there])


@pytest.mark.parametrize("limit", [9, 14, 19])
@pytest.mark.slow
def test_a_crashed_job_is_taken_up_with_the_same_bits(limit, two_sources, run_segment, read, monkeypatch, tmp_path):
    whole = outputs(run_segment(*two_sources, "whole.tif", **EVERYTHING), read)
    counts = json.loads((tmp_path / "whole.tif.json").read_text())["classes"]
    calls = {"predictions": 0, "limit": limit}
    forward = Predictor._forward

    def failing(self, scenario, tiles):
        calls["predictions"] += 1
        if calls["predictions"] > calls["limit"]:
            raise MemoryError("killed")
        return forward(self, scenario, tiles)

    monkeypatch.setattr(Predictor, "_forward", failing)
    with pytest.raises(MemoryError):
        run_segment(*two_sources, "broken.tif", **EVERYTHING, overwrite=True)
    assert not (tmp_path / "broken.tif").exists()
    assert list((tmp_path / "broken.tif.part").glob("strip-*.tif"))
    calls["limit"] = 10**6
    run = run_segment(*two_sources, "broken.tif", **EVERYTHING, overwrite=True)
    assert any("Resuming" in text for text in run.texts("info"))
    assert outputs(run, read) == whole
    assert run.record["classes"] == counts
    assert not list(tmp_path.glob("*.part*"))


def test_no_resume_begins_anew(two_sources, run_segment, monkeypatch, tmp_path):
    monkeypatch.setattr(Predictor, "_forward", lambda *args: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryError):
        run_segment(*two_sources, **EVERYTHING)
    monkeypatch.undo()
    assert (tmp_path / "classes.tif.part").is_dir()
    run = run_segment(*two_sources, resume=False, **{**EVERYTHING})
    assert not any("Resuming" in text for text in run.texts("info"))


def test_parts_of_a_changed_input_are_not_taken_up(two_sources, run_segment, monkeypatch, write_raster):
    checkpoint, sources = two_sources
    forward, calls = Predictor._forward, []

    def failing(self, scenario, tiles):
        calls.append(1)
        if len(calls) > 12:
            raise MemoryError
        return forward(self, scenario, tiles)

    monkeypatch.setattr(Predictor, "_forward", failing)
    with pytest.raises(MemoryError):
        run_segment(checkpoint, sources, **EVERYTHING)
    monkeypatch.undo()
    write_raster("height.tif", np.ones((130, 170), np.float32))
    run = run_segment(checkpoint, sources, **EVERYTHING)
    assert any("removed" in text for text in run.texts("info"))
    assert not any("Resuming" in text for text in run.texts("info"))


@pytest.mark.parametrize("after", [0, 3, 9])
def test_cancel_leaves_no_file(after, two_sources, run_segment, tmp_path):
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(CancelledError):
        run_segment(*two_sources, cancel_at=after, **EVERYTHING)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def half_scene(write_raster, share):
    """Two rasters on one grid of 160 x 256; the second covers the left `share` of the columns."""
    generator = np.random.default_rng(5)
    optical = generator.normal(size=(3, 32, 52)).repeat(5, 1).repeat(5, 2)[:, :160, :256].astype(np.float32)
    height = generator.normal(size=(1, 32, 52)).repeat(5, 1).repeat(5, 2)[:, :160, :256].astype(np.float32)
    columns = round(256 * share)
    return (
        write_raster("optical.tif", optical),
        write_raster("height.tif", height),
        write_raster("half.tif", np.ascontiguousarray(height[:, :, :columns])),
        columns,
    )


@pytest.mark.parametrize("share", [0.5, 0.43])
@pytest.mark.slow
def test_a_source_that_covers_half_the_scene(share, write_raster, make_checkpoint, run_segment, read):
    optical, height, half, columns = half_scene(write_raster, share)
    checkpoint = make_checkpoint(
        architecture="sgma", config=SMALL, modalities={"optical": ["r", "g", "b"], "height": ["h"]}, classes=5
    )
    options = {"tile": [64, 64], "overlap": 16, "probabilities_dtype": "float32"}
    runs = {
        name: run_segment(checkpoint, sources, f"map-{name}.tif", probabilities=f"{name}-p.tif", **options)
        for name, sources in {
            "half": {"optical": optical, "height": half},
            "without": {"optical": optical},
            "full": {"optical": optical, "height": height},
        }.items()
    }
    values = {name: read(run.result["probabilities"]) for name, run in runs.items()}
    np.testing.assert_array_equal(values["half"][:, :, columns:], values["without"][:, :, columns:])
    card = read_card(checkpoint)
    plan = pipeline.plan_tiles(160, 256, (64, 64), 16, card.stride)
    inside = np.zeros(256, bool)
    touched = np.zeros(256, bool)
    for index, origin in enumerate(plan.columns.origins):
        cells = plan.columns.cells(index)
        support = slice(plan.columns.edges[cells[0]], plan.columns.edges[cells[-1] + 1])
        (inside if origin + 64 <= columns else touched)[support] = True
    wholly = inside & ~touched
    assert wholly.sum() >= 40
    np.testing.assert_array_equal(values["half"][:, :, wholly], values["full"][:, :, wholly])
    assert runs["half"].record["share_without"]["height"] == pytest.approx(1 - columns / 256, abs=1e-6)
    assert any("without height" in text for text in runs["half"].warnings)


def test_resume_needs_the_same_request(two_sources, run_segment, tmp_path, monkeypatch):
    monkeypatch.setattr(Predictor, "_forward", lambda *args: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryError):
        run_segment(*two_sources, **EVERYTHING)
    ledger = Path(tmp_path / "classes.tif.part" / "job.json")
    first = json.loads(ledger.read_text())["fingerprint"]
    with pytest.raises(MemoryError):
        run_segment(*two_sources, **{**EVERYTHING, "overlap": 8})
    assert json.loads(ledger.read_text())["fingerprint"] != first


@pytest.mark.slow
def test_a_reduced_modality_gives_the_same_bits_and_its_own_scenario(write_raster, make_checkpoint, run_segment, read):
    generator = np.random.default_rng(4)
    optical = generator.normal(size=(3, 150, 150)).astype(np.float32)
    height = generator.normal(size=(1, 38, 38)).repeat(4, 1).repeat(4, 2)[:, :150, :150].astype(np.float32)
    height[:, :, 90:] = np.nan
    config = {"encoder_options": {"stem_stride": 1, "width": 8, "depth": 1}, "head_width": 8, "reduce": {"height": 4}}
    checkpoint = make_checkpoint(
        architecture="sgma", config=config, modalities={"optical": ["r", "g", "b"], "height": ["h"]}, classes=5
    )
    assert read_card(checkpoint).stride == 32
    sources = {"optical": write_raster("optical.tif", optical), "height": write_raster("height.tif", height)}
    first, second = (
        run_segment(checkpoint, sources, overwrite=True, **EVERYTHING, batch_size=size, reference="optical")
        for size in (1, 7)
    )
    both = outputs(first, read)
    assert outputs(second, read) == both
    evidence, merged = read(second.result["evidence"])[0], read(second.result["probabilities"])
    alone = run_segment(checkpoint, {"optical": sources["optical"]}, "alone.tif", **EVERYTHING, overwrite=True)
    there = evidence == 1
    assert there.any() and (evidence == 3).any()
    np.testing.assert_array_equal(merged[:, there], read(alone.result["probabilities"])[:, there])
