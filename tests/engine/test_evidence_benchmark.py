# SPDX-License-Identifier: GPL-2.0-or-later
"""The evidence: its queue, its data, its opponents, and one cell of it from labels to scores."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
import tomllib
import torch

from lacuna.engine.checkpoint.card import scenarios
from lacuna.engine.models.window_features import count_features, strips_of_features
from lacuna.engine.training.samples import WINDOWS, PixelSamples
from lacuna.tests.benchmarks.evidence import data, protocol, run, table
from lacuna.tests.benchmarks.evidence.curves import picture
from lacuna.tests.benchmarks.evidence.goal import in_words, standing
from lacuna.tests.benchmarks.evidence.protocol import Cell, NetworkCell
from lacuna.tests.benchmarks.evidence.rivals import Rival

PLACE = rasterio.Affine(10, 0, 500000, 0, -10, 5500000)


def test_the_queue_holds_every_cell_once_and_forgets_what_is_done():
    cells = protocol.queue()
    variants = sum(len(item.networks) for item in protocol.DATASETS.values())
    whole = (len(protocol.DATASETS) * len(protocol.AMOUNTS) + variants) * len(protocol.SEEDS)
    assert len(set(cells)) == len(cells) == whole
    assert [cell.seed for cell in cells] == sorted(cell.seed for cell in cells)
    left = protocol.pending(cells, {cells[0]}, ["tree_crowns/*/0", "unseen_433D/all/*"])
    assert cells[0] not in left
    assert {str(cell) for cell in left} >= {"tree_crowns/20/0", "unseen_433D/all/1"}
    assert all(cell.dataset in ("tree_crowns", "unseen_433D") for cell in left)
    networks = protocol.pending(cells, (), ["networks/tree_crowns/sgma*/0"])
    assert [cell.variant for cell in networks] == ["sgma", "sgma_no_sgf", "sgma_no_mas"]


def test_a_stored_result_belongs_to_its_cell_whatever_its_kind():
    old = {"dataset": "floods_s1", "amount": None, "seed": 0, "method": "lacuna"}
    new = {"kind": "networks", "dataset": "floods_s1", "variant": "stacked", "seed": 0}
    assert protocol.cell_of(old) == Cell("floods_s1", None, 0) in protocol.queue()
    assert protocol.cell_of(new) == NetworkCell("floods_s1", "stacked", 0) in protocol.queue()


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
    assert [item["method"] for item in records] == [name for name in protocol.METHODS if name != protocol.SCRATCH]
    scores = {item["method"]: item["miou"] for item in records}
    assert min(scores["lacuna"], scores["detail"], scores["forest"], scores["boosting"]) > 0.8
    assert run.main([*arguments, "--only", "floods_s1/20/0", "--list"]) == 0
    text = table.markdown(records)
    assert "floods_s1" in text and "boosting" in text and "1 of" in text


def crowns(folder):
    """Write plots such as those of tree_crowns, far from one another: the first band of hsi tells the genus."""
    rng = np.random.default_rng(0)
    for number in range(1, 17):
        place = rasterio.Affine(0.5, 0, 540000 + 100 * number, 0, -0.5, 4140000)
        genus = np.kron(rng.permutation(np.resize(np.arange(1, 5), 16)).reshape(4, 4), np.ones((8, 8), int))
        for kind, bands, dtype in (("rgb", 3, "float32"), ("hsi", 369, "int16"), ("chm", 1, "float32")):
            values = rng.normal(0, 30, (bands, 32, 32)) + (1000 * genus if kind == "hsi" else 100)
            _write(folder / kind / f"MLBS_{number}.tif", values.astype(dtype), place)
        _write(folder / "labels" / f"MLBS_{number}.tif", genus[None].astype("uint8"), place)


def _write(path, values, place):
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values.shape
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": values.dtype}
    with rasterio.open(path, "w", crs="EPSG:32617", transform=place, **profile) as dataset:
        dataset.write(values)


@pytest.mark.slow
def test_the_same_network_from_scratch_is_added_to_cells_that_were_fine_tuned(tmp_path, monkeypatch):
    crowns(tmp_path / "data" / "tree_crowns")
    results = tmp_path / "results.jsonl"
    first = {**protocol.Cell("tree_crowns", 20, 0)._asdict(), "method": "lacuna", "miou": 0.5, "oa": 0.5, "cases": []}
    floods_alone = {**first, "dataset": "floods_s1"}
    results.write_text("".join(json.dumps(item) + "\n" for item in (first, floods_alone)))
    arguments = ["--data", str(tmp_path / "data"), "--work", str(tmp_path / "work"), "--results", str(results)]
    jobs, kept = [], run._run

    def short(job):
        jobs.append(job)
        job.epochs = 1
        return kept(job)

    monkeypatch.setattr(run, "_run", short)
    assert run.main([*arguments, "--scratch"]) == 0
    (found,) = [json.loads(line) for line in results.read_text().splitlines()][2:]
    assert (found["dataset"], found["amount"], found["method"]) == ("tree_crowns", 20, "scratch")
    assert len(found["cases"]) == 7 and max(case["miou"] for case in found["cases"]) > 0.6
    (job,) = jobs
    assert job.kind == "train" and job.encoder_weights == "none" and job.detail
    # Neither is left: floods are trained from scratch anyway.
    assert run.main([*arguments, "--scratch"]) == 0 and len(jobs) == 1


def cases(*levels):
    return [{"available": [name], "miou": level, "oa": level} for name, level in zip("abc", levels)]


def methods(seed, amount=None, **levels):
    """Made results of one cell of unseen_433D: mIoU of each scenario by method."""
    return [
        {"dataset": "unseen_433D", "amount": amount, "seed": seed, "method": name, "miou": sum(found) / len(found),
         "oa": 0.5, "cases": cases(*found), "seconds": 1.0}
        for name, found in levels.items()
    ]  # fmt: skip


def test_lacuna_is_compared_with_the_opponent_that_is_better_in_each_scenario():
    first = methods(0, lacuna=(0.50, 0.30, 0.20), forest=(0.40, 0.20, 0.30), boosting=(0.30, 0.31, 0.10))
    second = methods(1, lacuna=(0.54, 0.30, 0.22), forest=(0.40, 0.20, 0.30), boosting=(0.30, 0.33, 0.10))
    stray = methods(2, lacuna=(0.0, 0.0, 0.0))
    records = [*first, *second, *stray]
    own = {name: [item for item in records if item["method"] == name] for name in ("lacuna", "forest", "boosting")}
    found = standing(own.pop("lacuna"), own)
    assert (found.seeds, found.rival) == (2, "forest")
    # Means of 52, 30 and 21 against forest 40, 20, 30 and boosting 30, 32, 10.
    assert found.average == pytest.approx(103 / 3 - 30) and found.worst == pytest.approx(21 - 20)
    assert found.ahead == pytest.approx([12, -2, -9])
    assert found.spreads == pytest.approx([8**0.5, 2**0.5, 2**0.5])
    assert found.behind == [1, 2]
    told = in_words(found, "gain")
    assert "average +4.3 points (forest), worst scenario +1.0, ahead in 1 of 3 scenarios, farthest behind -9.0" in told
    assert "at least +3 met, worst scenario of at least +5 missed" in told and "missed (2 of 3)" in told
    assert "at least" not in in_words(found, "cost") and "Goals" not in in_words(found, "none")


def test_behind_by_no_more_than_the_spread_is_no_fault():
    ours = methods(0, lacuna=(0.30, 0.2)) + methods(1, lacuna=(0.34, 0.2))
    other = methods(0, forest=(0.33, 0.1)) + methods(1, forest=(0.33, 0.1))
    found = standing(ours, {"forest": other})
    assert found.ahead[0] == pytest.approx(-1) and found.behind == []
    alone = standing(ours[:1], {"forest": other[:1]})
    assert alone.behind == [0] and "0 for one seed" in in_words(alone, "gain")


def test_nothing_is_said_before_all_opponents_are_measured():
    ours = methods(0, lacuna=(0.3, 0.2))
    assert standing(ours, {"forest": methods(0, forest=(0.1, 0.1)), "boosting": []}) is None
    assert standing(ours, {"forest": methods(1, forest=(0.1, 0.1))}) is None
    assert in_words(None, "gain") == ""


def network(variant, seed, *levels):
    """A made result of a network on unseen_433D."""
    return {
        "kind": "networks", "dataset": "unseen_433D", "variant": variant, "seed": seed, "oa": 0.5,
        "miou": sum(levels) / len(levels), "cases": cases(*levels), "seconds": 60.0,
    }  # fmt: skip


def test_tables_of_networks_show_scenarios_spreads_and_what_a_part_is_worth():
    records = [network("sgma", 0, 0.5, 0.3), network("sgma", 1, 0.4, 0.2), network("stacked", 0, 0.4, 0.1)]
    records += [network("sgma_no_mas", 0, 0.4, 0.2), network("sgma_no_mas", 1, 0.4, 0.1)]
    text = table.markdown(records)
    assert "0 of 72 cells measured, 5 of 129 networks trained." in text
    assert "| network | mean | best | worst | a | b | accuracy | seconds | seeds |" in text
    assert "| sgma | 35.0 ± 7.1 | 45.0 | 25.0 | 45.0 | 25.0 | 50.0 ± 0.0 | 60 | 2 |" in text
    assert "| stacked | 25.0 | 40.0 | 10.0 | 40.0 | 10.0 | 50.0 | 60 | 1 |" in text
    assert "| sgma_no_mas | -7.5 ± 3.5 | 27.5 ± 3.5 | 40.0 | 15.0 | 40.0 | 15.0 | 2 |" in text
    assert "Against" not in text, "baselines are still missing"
    records += [network(name, 0, 0.4, 0.1) for name in ("stacked_dropout", "averaged", "alone")]
    told = "sgma. Against the better opponent: average +15.0 points (stacked), worst scenario +20.0, ahead in 2 of 2"
    assert told in table.markdown(records)


def test_what_was_trained_from_scratch_has_a_row_where_it_was_measured():
    records = methods(0, lacuna=(0.5, 0.3), forest=(0.4, 0.1), boosting=(0.2, 0.1))
    assert "scratch" not in table.markdown(records)
    records += methods(0, scratch=(0.3, 0.2))
    assert "| scratch | 25.0 | 30.0 | 20.0 | 50.0 | 1 |" in table.markdown(records)


def test_curves_show_every_amount_and_the_spread_over_seeds():
    records = [
        item
        for amount in protocol.AMOUNTS
        for seed, level in ((0, 0.2), (1, 0.4))
        for item in methods(seed, amount, forest=(level, level))
    ]
    root = ElementTree.fromstring(picture(records))
    space = "{http://www.w3.org/2000/svg}"
    texts = [item.text for item in root.iter(f"{space}text")]
    assert texts[0] == "unseen_433D" and {"5", "20", "100", "all"} < set(texts)
    assert len(list(root.iter(f"{space}circle"))) == 4 and root.find(f"{space}rect").get("fill") == "#fff"
    bars = [item.get("d") for item in root.iter(f"{space}path")][1:]
    assert len(bars) == 4, "one deviation at each amount"
    low, high = (float(value) for value in bars[0].split(" ")[1].split("V"))
    # Of an axis of 178 pixels that ends at 0.5: twice the deviation of 0.141.
    assert low - high == pytest.approx(178 * 2 * 0.1414 / 0.5, abs=0.2)
    assert len(list(ElementTree.fromstring(picture(records[:1])).iter(f"{space}path"))) == 1


def test_the_page_holds_the_tables_of_the_stored_results():
    page, records = table.PAGE.read_text(encoding="utf-8"), run.read(run.STORED)
    assert table.inserted(page, table.markdown(records)) == page
    assert table.PICTURE.read_text(encoding="utf-8") == picture(table.of_methods(records))
    assert Cell("tree_crowns", None, 0) in protocol.queue()
