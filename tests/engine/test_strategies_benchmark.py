# SPDX-License-Identifier: GPL-2.0-or-later
"""The comparison of fine-tuning strategies: its queue, its results, its data, and the tables in the documentation."""

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import rasterio

from lacuna.engine.checkpoint.card_file import read_card
from lacuna.engine.data.manifest import read_manifest
from lacuna.engine.finetuning.finetune_settings import read_settings
from lacuna.engine.jobs import FinetuneJob, TrainJob
from lacuna.engine.models.registry import build
from lacuna.engine.training.recipe import read_recipe
from lacuna.tests.benchmarks.strategies import data, protocol, results, run, table
from lacuna.tests.benchmarks.strategies.protocol import Cell

DATA = Path(__file__).parents[1] / "data"
LAND, CROWNS = protocol.DATASETS


def record(strategy="uniform", seed=0, ious=((0.2, 0.4), (0.6, 0.8)), base="b", architecture="sgma", **more):
    """Return a result with two modalities' scenarios a and a + b, and a third class that the test labels lack."""
    cell = Cell(architecture, LAND, strategy, seed)
    classes = [{"name": "x", "labelled": 30}, {"name": "y", "labelled": 10}, {"name": "z", "labelled": 0}]
    names = (["a"], ["a", "b"])
    cases = [
        {"available": names[index], "miou": 0.1, "iou": [*iou, 0.0], "pixels": 40} for index, iou in enumerate(ious)
    ]
    own = {"settings": protocol.digest(cell), "base": base, "classes": classes, "cases": cases, "test_seconds": 1.0}
    told = {"probabilities": [0.4, 0.6], "weights": {"all": 1000, "trained": 10, "lora": 0}, "tuning_seconds": 20.0}
    return {**cell._asdict(), **own, **told, **more}


def test_the_queue_finishes_every_seed_before_the_next():
    cells = protocol.queue()
    assert len(cells) == len(set(cells)) == 2 * 4 * 6 * 3
    assert all(first.seed <= second.seed for first, second in pairwise(cells))
    assert {cell[:3] for cell in cells if cell.seed == 0} == {cell[:3] for cell in cells if cell.seed == 2}


def test_what_is_done_or_not_asked_for_is_not_pending():
    cells = protocol.queue()
    done = {cells[0], cells[2]}
    assert protocol.pending(cells, done) == [cell for cell in cells if cell not in done]
    asked = protocol.pending(cells, done, ["sgma/landcover*/full", "*/tree_crowns/lora/2"])
    lora = [Cell(name, CROWNS, "lora", 2) for name in protocol.ARCHITECTURES]
    assert asked == [Cell("sgma", LAND, "full", 1), Cell("sgma", LAND, "full", 2), *lora]
    assert not protocol.pending(cells, done, ["sgma/landcover*/full/0/more"])


def test_scores_are_means_over_the_classes_that_the_test_labels_have():
    found = results.scores(record())
    assert found == pytest.approx({"average": 50, "best": 70, "last": 30, "full": 70})
    assert results.scores(record(ious=((None, 0.4), (0.6, 0.8))))["last"] == pytest.approx(20)
    assert results.commonest(record()) == pytest.approx(37.5)


def test_differences_pair_the_seeds_that_both_have():
    records = [record("full", seed, ((level, level), (level, level))) for seed, level in ((0, 0.3), (1, 0.6), (2, 0.9))]
    records += [record("uniform", seed, ((0.4, 0.4), (0.4, 0.4))) for seed in (0, 2)]
    found = results.by_cell(records)
    assert results.differences(found, ("sgma", LAND), "full") == pytest.approx([-10, 50])
    assert results.spread([-10, 50]) == results.Spread(20, pytest.approx(math.sqrt(1800)), 2)
    assert results.spread([3]).deviation is None


def test_a_result_that_was_cut_off_is_measured_again_and_its_line_replaced(tmp_path):
    path = tmp_path / "results.jsonl"
    results.append(path, record("full"))
    whole = path.read_text()
    path.write_text(whole + json.dumps(record("lora"))[:50])
    assert [item["strategy"] for item in results.read(path)] == ["full"]
    results.append(path, record("mas"))
    assert [item["strategy"] for item in results.read(path)] == ["full", "mas"]
    assert path.read_text().startswith(whole) and path.read_text().endswith("\n")


def test_results_that_do_not_belong_together_are_refused(tmp_path):
    path = tmp_path / "results.jsonl"
    results.append(path, record("full", settings="another"))
    with pytest.raises(SystemExit, match="other settings"):
        results.read(path)
    with pytest.raises(SystemExit, match="two results"):
        results.by_cell([record("full"), record("full")])
    with pytest.raises(SystemExit, match="another base"):
        results.by_cell([record("full"), record("mas", base="c")])


def test_a_run_without_anything_left_does_nothing(tmp_path, capsys):
    path = tmp_path / "results.jsonl"
    results.append(path, record("full"))
    known = ["--data", str(tmp_path / "nowhere"), "--work", str(tmp_path / "work"), "--results", str(path)]
    assert run.main([*known, "--only", "sgma/landcover*/full/0"]) == 0
    assert run.main([*known, "--list", "--only", "sgma/landcover*/full"]) == 0
    assert capsys.readouterr().out.split() == [f"sgma/{LAND}/full/1", f"sgma/{LAND}/full/2"]


def test_a_base_that_is_not_that_of_the_results_is_refused(tmp_path):
    path, work = tmp_path / "results.jsonl", tmp_path / "work"
    results.append(path, record(protocol.BASE, -1))
    bench = run.Bench(tmp_path, work, path, "cpu")
    with pytest.raises(SystemExit, match="is not there"):
        bench.base("sgma", LAND)
    (work / f"sgma-{LAND}-base.safetensors").write_bytes(b"other weights")
    with pytest.raises(SystemExit, match="another base"):
        bench.base("sgma", LAND)


@pytest.mark.parametrize("dataset", protocol.DATASETS)
def test_data_that_are_not_there_are_asked_for(tmp_path, dataset):
    with pytest.raises(SystemExit, match=f"{dataset} needs the folders .*labels.*--data"):
        data.prepare(dataset, tmp_path, tmp_path / "work")


def test_plots_near_one_another_serve_the_same(tmp_path):
    bounds = {f"OSBS_{number}": (100 * number, 0, 100 * number + 20, 20) for number in (*range(1, 10), 35)}
    bounds["OSBS_20"] = (225, 0, 245, 20)
    bounds["MLBS_3"] = (300, 0, 320, 20)
    roles = data.plot_roles(bounds)
    assert "OSBS_35" not in roles and roles["MLBS_3"] == "train"
    turn = ["train", "test", "train", "base", "test", "base", "train", "validation", "train"]
    assert [roles[f"OSBS_{number}"] for number in range(1, 10)] == turn
    assert roles["OSBS_20"] == roles["OSBS_2"]


def test_the_manifests_of_tree_crowns_are_the_products_own(tmp_path):
    plots = [*(f"OSBS_{number}" for number in range(1, 9)), "MLBS_1"]
    for kind in ("rgb", "hsi", "chm", "labels"):
        (tmp_path / CROWNS / kind).mkdir(parents=True)
        for index, name in enumerate(plots):
            copy_plot(DATA / "tree_crowns" / f"{kind}.tif", tmp_path / CROWNS / kind / f"{name}.tif", index)
    made = data.prepare(CROWNS, tmp_path, tmp_path / "work")
    base, tune, test = (read_manifest(str(path)) for path in made)
    assert [scene.name for scene in base.scenes] == ["OSBS_4", "OSBS_6"]
    assert {scene.name: scene.split for scene in tune.scenes} == {
        "MLBS_1": "train", "OSBS_1": "train", "OSBS_3": "train", "OSBS_7": "train", "OSBS_8": "validation",
    }  # fmt: skip
    assert [(scene.name, scene.split) for scene in test.scenes] == [("OSBS_2", "test"), ("OSBS_5", "test")]
    with rasterio.open(base.scenes[0].specs()["hsi"].path) as chosen:
        assert chosen.descriptions == tuple(base.modalities[1].bands) and chosen.count == 12
        values = chosen.read()
    with rasterio.open(tmp_path / CROWNS / "hsi" / "OSBS_4.tif") as source:
        assert (values == source.read(list(data.HSI_BANDS))).all()


def copy_plot(source, target, index):
    """Write a raster again, 100 m further to the east for each `index`."""
    with rasterio.open(source) as dataset:
        at = dataset.transform
        place = rasterio.Affine(at.a, at.b, at.c + 100 * index, at.d, at.e, at.f)
        with rasterio.open(target, "w", **{**dataset.profile, "transform": place}) as written:
            written.write(dataset.read())


@pytest.mark.parametrize("architecture", protocol.ARCHITECTURES)
@pytest.mark.parametrize("dataset", protocol.DATASETS)
def test_every_configuration_is_one_that_the_product_takes(tmp_path, architecture, dataset):
    path = tmp_path / "config.toml"
    path.write_text(data.config_text(protocol.base_config(architecture, dataset)))
    names = {LAND: {"optical": 12, "radar": 2, "elevation": 1}, CROWNS: {"rgb": 3, "hsi": 12, "chm": 1}}[dataset]
    recipe = read_recipe(TrainJob("", architecture, "", config=str(path)), list(names))
    assert recipe.settings.epochs * protocol.BASE_EPOCH == protocol.DATASETS[dataset].base_steps
    assert recipe.config.crops == protocol.BASE_EPOCH * recipe.settings.batch
    model = build(architecture, recipe.model, names, 6)
    assert sum(parameter.numel() for parameter in model.parameters()) < 2_000_000


@pytest.mark.parametrize("dataset", protocol.DATASETS)
def test_strategies_differ_in_their_scenarios_alone(make_checkpoint, tmp_path, dataset):
    """The product's preset `paper` is a whole method, but here it is to be compared as a strategy."""
    names = {LAND: ("optical", "radar", "elevation"), CROWNS: ("rgb", "hsi", "chm")}[dataset]
    small = {"encoder_options": {"width": 8, "depth": 1}, "head_width": 8}
    side = protocol.DATASETS[dataset].tile
    checkpoint = make_checkpoint("c", "sgma", {name: ["x"] for name in names}, config=small, tile=[side, side])
    card, found = read_card(checkpoint), {}
    card.training = {"settings": {"radiometry": protocol.DATASETS[dataset].radiometry}}
    for name in ("uniform", "latent-default", "latent-paper"):
        path = tmp_path / f"{name}.toml"
        path.write_text(data.config_text(protocol.written_config(Cell("sgma", dataset, name, 0))))
        job = FinetuneJob(checkpoint, config=str(path), **protocol.STRATEGIES[name])
        found[name] = read_settings(job, card)
    uniform, *others = found.values()
    # Of the schedule `step` alone.
    unused = {"decay_epochs": 1, "decay_factor": 1}
    for other in others:
        assert {**other.recipe.to_dict(), **unused} == {**uniform.recipe.to_dict(), **unused}
        assert other.recipe.changes == uniform.recipe.changes != {}
        assert other.guidance.samples == 48
    assert found["latent-paper"].guidance.descriptor == "distortion"


def test_tables_show_means_spreads_and_wins():
    levels = {("full", 0): 0.3, ("full", 1): 0.5, ("uniform", 0): 0.2, ("uniform", 1): 0.6}
    text = table.markdown(record(name, seed, ((v, v), (v, v))) for (name, seed), v in levels.items())
    assert "4 of 144 fine-tunings measured (seed 0: 2 of 48, seed 1: 2 of 48, seed 2: 0 of 48)." in text
    assert "| sgma | full | 40.0 ± 14.1 | 40.0 ± 14.1 | 40.0 ± 14.1 | 40.0 ± 14.1 | 2 |" in text
    assert f"| sgma | {LAND} | +0.0 ± 14.1 (1 of 2) |  |  |  |  |" in text
    assert "the mIoU 37.5" in text


def test_the_page_shows_the_stored_results():
    page = table.PAGE.read_text(encoding="utf-8")
    assert table.inserted(page, table.markdown(results.read(results.STORED))) == page


def test_stored_results_of_one_data_set_were_measured_on_the_same_labels():
    found = results.by_cell(results.read(results.STORED))
    for dataset in protocol.DATASETS:
        own = [item for cell, item in found.items() if cell.dataset == dataset]
        labelled = {tuple(entry["labelled"] for entry in item["classes"] if entry["labelled"]) for item in own}
        assert len(labelled) == 1 and {len(item["cases"]) for item in own} == {7}
        assert {case["pixels"] for item in own for case in item["cases"]} == {sum(labelled.pop())}
    assert all(Cell(*cell.group, protocol.BASE, -1) in found for cell in found)
