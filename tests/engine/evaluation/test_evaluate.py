# SPDX-License-Identifier: GPL-2.0-or-later
"""Evaluation from the job to the figures: against plain arithmetic on scenes whose maps are known beforehand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyogrio.raw
import pytest
import rasterio
import shapely
from affine import Affine

from lacuna.engine import cli
from lacuna.engine.checkpoint.card_file import read_card
from lacuna.engine.data.confusion import ConfusionMatrix
from lacuna.engine.errors import CancelledError
from lacuna.engine.evaluation.evaluate import evaluate
from lacuna.engine.evaluation.reliability import Reliability
from lacuna.engine.events import Reporter
from lacuna.engine.jobs import EvaluateJob, SourceSpec

DATA = Path(__file__).parents[2] / "data" / "landcover_s2_s1_dem"
README = (DATA.parents[2] / "README.md").read_text(encoding="utf-8")


def place(columns, rows):
    """Return where a raster lies that begins so many pixels into the scene."""
    return Affine(10, 0, 500000 + 10 * columns, 0, -10, 5500000 - 10 * rows)


def confusion(labels, found, where=None, classes=4):
    matrix = ConfusionMatrix(classes)
    where = np.ones(labels.shape, bool) if where is None else where
    matrix.update(labels[where], found[where].astype(int))
    return matrix


def warned(said):
    return [event["text"] for event in said if event["event"] == "message" and event["level"] == "warning"]


def test_all_combinations_in_order_with_what_follows_from_their_matrices(checkpoint, scene, arrays, run_evaluate):
    result, said = run_evaluate(checkpoint, {"a": scene["a"], "b": scene["b"]}, scene["labels"])
    assert [case["available"] for case in result["cases"]] == [["a"], ["b"], ["a", "b"]]
    # The identity follows the first modality that it is given.
    for case, name in zip(result["cases"], "aba", strict=True):
        wanted = confusion(arrays["labels"], arrays[name])
        assert case["confusion"] == wanted.counts.tolist()
        summary = wanted.summary()
        assert {key: case[key] for key in summary} == summary
        # Its logits of 30 make it as good as certain, so that it errs by the share of what is wrong.
        assert case["ece"] == pytest.approx(1 - wanted.oa(), abs=1e-5)
    mious = [case["miou"] for case in result["cases"]]
    assert result["average"] == pytest.approx(sum(mious) / 3, abs=1e-6)
    assert (result["best"], result["last"]) == (mious[0], mious[1])
    assert result["average_f1"] == pytest.approx(np.mean([case["f1"] for case in result["cases"]]), abs=1e-6)
    assert result["ece"] == pytest.approx(np.mean([case["ece"] for case in result["cases"]]), abs=1e-5)
    assert (result["protocol"], result["split"], warned(said)) == ("subsets", None, [])
    assert [item["labelled"] for item in result["classes"]] == np.bincount(arrays["labels"].ravel()).tolist()
    progress = [event for event in said if event["event"] == "progress"]
    assert progress[-1]["done"] == progress[-1]["total"] > 1


def test_the_soft_jaccard_index_is_that_of_the_probabilities_tile_by_tile(checkpoint, scene, arrays, run_evaluate):
    """The identity is certain of its class, so that in a single tile the overlaps are those of its map."""
    sources = {"a": scene["a"]}
    whole, said = run_evaluate(checkpoint, sources, scene["labels"], tile=[64, 96], soft_jaccard=True)
    wanted = confusion(arrays["labels"], arrays["a"]).miou_of_known()
    found = whole["cases"][0]["soft_jaccard"]
    assert found["mean"] == pytest.approx(wanted, abs=1e-5) and (found["std"], found["tiles"]) == (0.0, 1)
    assert any("soft Jaccard" in event.get("text", "") for event in said)
    tiled, _ = run_evaluate(checkpoint, sources, scene["labels"], tile=[32, 32], overlap=0, soft_jaccard=True)
    assert tiled["cases"][0]["soft_jaccard"]["tiles"] == 6 and tiled["cases"][0]["soft_jaccard"]["std"] > 0
    plain, _ = run_evaluate(checkpoint, sources, scene["labels"])
    assert "soft_jaccard" not in plain["cases"][0]


def test_the_card_s_temperature_calibrates_each_scenario(make_checkpoint, scene, arrays, run_evaluate):
    warm = make_checkpoint(
        modalities={"a": ["index"], "b": ["index"]},
        classes=4,
        calibration=[{"available": ["b"], "temperature": 30.0}],
    )
    result, _ = run_evaluate(warm, {"a": scene["a"], "b": scene["b"]}, scene["labels"])
    confidence = math.e / (math.e + 3)
    oa = confusion(arrays["labels"], arrays["b"]).oa()
    assert result["cases"][1]["ece"] == pytest.approx(abs(oa - confidence), abs=1e-6)
    assert result["cases"][0]["ece"] > 0.1


def test_only_pixels_count_where_all_of_the_scenario_has_data(checkpoint, scene, arrays, write_raster, run_evaluate):
    values = arrays["b"].copy()
    values[10:31, 5:40] = np.nan
    result, said = run_evaluate(
        checkpoint, {"a": scene["a"], "b": write_raster("holes.tif", values)}, scene["labels"], tile=[24, 40]
    )
    whole = ~np.isnan(values)
    first, second, both = result["cases"]
    assert first["confusion"] == confusion(arrays["labels"], arrays["a"]).counts.tolist()
    assert second["confusion"] == confusion(arrays["labels"], np.nan_to_num(values), whole).counts.tolist()
    assert both["confusion"] == confusion(arrays["labels"], arrays["a"], whole).counts.tolist()
    assert any("different pixels" in text for text in warned(said))


def test_scenarios_that_cannot_be_measured_are_left_out_and_said(make_checkpoint, scene, run_evaluate):
    needy = make_checkpoint(
        modalities={"a": ["index"], "b": {"bands": ["index"], "required": True}, "c": ["index"]}, classes=4
    )
    result, said = run_evaluate(needy, {"a": scene["a"], "b": scene["b"]}, scene["labels"])
    assert [case["available"] for case in result["cases"]] == [["b"], ["a", "b"]]
    assert any("does not support" in text and "a; c; a + c" in text for text in warned(said))
    assert any("b + c; a + b + c" in text and "no labelled pixel" in text for text in warned(said))


def test_a_labelled_window_of_a_larger_scene(checkpoint, scene, arrays, write_raster, run_evaluate):
    inside = np.full((20, 30), 0, np.uint8)
    inside[:] = arrays["labels"][17:37, 25:55]
    path = write_raster("part.tif", inside, transform=place(25, 17))
    result, _ = run_evaluate(checkpoint, {"a": scene["a"]}, path)
    assert result["cases"][0]["confusion"] == confusion(inside, arrays["a"][17:37, 25:55]).counts.tolist()


@pytest.fixture
def boxes(tmp_path):
    """A function that writes squares (column, row, side, value of the field `kind`) as polygons."""

    def write(*squares, crs="EPSG:32632", dtype=object):
        shapes = [
            shapely.box(500000 + 10 * x, 5500000 - 10 * (y + side), 500000 + 10 * (x + side), 5500000 - 10 * y)
            for x, y, side, _ in squares
        ]
        path = str(tmp_path / "boxes.gpkg")
        kinds = np.array([kind for *_, kind in squares], dtype)
        pyogrio.raw.write(path, shapely.to_wkb(shapes), [kinds], ["kind"], geometry_type="Polygon", crs=crs)
        return path

    return write


def test_labels_that_were_trained_on_are_warned_of(make_checkpoint, scene, run_evaluate):
    for labels, found in (("labels.tif", True), ("other.tif", False)):
        tuned = make_checkpoint(
            f"{labels}.safetensors", modalities={"a": ["index"]}, classes=4, training={"labels": labels}
        )
        result, said = run_evaluate(tuned, {"a": scene["a"]}, scene["labels"], update_card=True)
        assert any("fine-tuned on labels called labels.tif too" in text for text in warned(said)) is found
        assert ("perhaps the labels that it was fine-tuned on" in result["measured_on"]) is found


@pytest.mark.parametrize(
    ("kinds", "options"),
    [
        (["class 1", "CLASS 3", "class 0"], {}),
        ([1, 3, 0], {}),
        (["wet", "class 3", "built"], {"class_map": {"Wet": "class 1", "built": 0}}),
        ([1, 30, 7], {"class_map": {"30": 3, "7": "Class 0"}}),
    ],
)
def test_polygons_by_name_by_value_and_by_class_map(checkpoint, scene, arrays, boxes, run_evaluate, kinds, options):
    dtype = np.int32 if isinstance(kinds[0], int) else object
    path = boxes((3, 4, 10, kinds[0]), (30, 20, 15, kinds[1]), (60, 40, 12, kinds[2]), dtype=dtype)
    result, said = run_evaluate(checkpoint, {"a": scene["a"]}, path, field="kind", **options)
    labels = np.full(arrays["labels"].shape, -1)
    labels[4:14, 3:13], labels[20:35, 30:45], labels[40:52, 60:72] = 1, 3, 0
    assert result["cases"][0]["confusion"] == confusion(labels, arrays["a"]).counts.tolist()
    assert any("No labels of: class 2" in text for text in warned(said))


def test_values_of_a_raster_are_mapped_and_ignored(checkpoint, scene, arrays, write_raster, run_evaluate):
    other = np.array([40, 1, 99, 3], np.uint8)[arrays["labels"]]
    result, _ = run_evaluate(
        checkpoint, {"a": scene["a"]}, write_raster("o.tif", other), class_map={"40": "class 0"}, ignore=[99, "none"]
    )
    wanted = confusion(arrays["labels"], arrays["a"], arrays["labels"] != 2)
    assert result["cases"][0]["confusion"] == wanted.counts.tolist()


def test_emm_zeros_and_counts_absent_classes(make_checkpoint, scene, arrays, run_evaluate):
    five = make_checkpoint(modalities={"a": ["index"], "b": ["index"]}, classes=5)
    result, _ = run_evaluate(five, {"a": scene["a"], "b": scene["b"]}, scene["labels"], protocol="emm", seed=3)
    assert [(case["available"], case["damaged"]) for case in result["cases"]] == [
        (["a"], ["b"]), (["b"], ["a"]), (["a", "b"], []),
    ]  # fmt: skip
    clean, zeros = confusion(arrays["labels"], arrays["a"], classes=5), np.zeros_like(arrays["a"])
    # The identity follows `a` even where that is all zeros: it is damaged, not absent.
    gone = confusion(arrays["labels"], zeros, classes=5)
    for case, wanted in zip(result["cases"], (clean, gone, clean), strict=True):
        assert case["confusion"] == wanted.counts.tolist()
        assert case["miou"] == pytest.approx(np.nan_to_num(wanted.iou_by_class()).mean(), abs=5.1e-5)
        assert case["miou"] == round(case["miou"], 4)
    assert clean.miou() > result["cases"][0]["miou"] + 0.05
    (summed,) = result["aggregates"]
    a, b, both = (case["miou"] for case in result["cases"])
    assert summed["average"] == pytest.approx((a + b + both) / 3, abs=1e-6)
    expected = (0.64 * both + 0.16 * a + 0.16 * b) / (1 - 0.04)
    assert summed["expected"]["0.2"] == pytest.approx(expected, abs=1e-6)
    assert (result["seed"], result["average"]) == (3, summed["average"])


def test_rmm_is_the_same_for_one_seed_and_spares_the_undamaged(checkpoint, scene, arrays, run_evaluate):
    def run(seed):
        sources = {"a": scene["a"], "b": scene["b"]}
        return run_evaluate(checkpoint, sources, scene["labels"], protocol="rmm", seed=seed)[0]["cases"]

    first = run(1)
    assert first == run(1)
    assert first[1]["confusion"] != run(2)[1]["confusion"]
    assert [case["level"] for case in first] == [0.25] * 3 + [0.5] * 3 + [0.75] * 3
    clean = confusion(arrays["labels"], arrays["a"])
    share = arrays["a"].astype(bool).mean()
    for case in first:
        if "a" not in case["damaged"]:
            assert case["confusion"] == clean.counts.tolist()
            continue
        # Values that are dropped become class 0: so many are no longer predicted as something else.
        kept = sum(map(sum, np.array(case["confusion"])[:, 1:].tolist())) / clean.pixels
        assert kept == pytest.approx(share * (1 - case["level"]), abs=0.05)


def test_nm_has_three_levels_and_can_spare_modalities(checkpoint, scene, run_evaluate):
    sources = {"a": scene["a"], "b": scene["b"]}
    noisy, _ = run_evaluate(checkpoint, sources, scene["labels"], protocol="nm")
    spared, _ = run_evaluate(checkpoint, sources, scene["labels"], protocol="nm", no_gaussian=["a"])
    assert [(case["level"], case["available"]) for case in noisy["cases"]] == [("low", []), ("mid", []), ("high", [])]
    assert [item["level"] for item in noisy["aggregates"]] == ["low", "mid", "high"]
    mious = [case["miou"] for case in noisy["cases"]]
    assert mious == sorted(mious, reverse=True)
    # Gaussian noise with a deviation of 0.5 moves values past the next whole number; salt and pepper alone do less.
    assert spared["cases"][2]["miou"] > mious[2]
    assert spared["no_gaussian"] == ["a"]


@pytest.mark.parametrize("whole", [True, False])
def test_area_estimates_are_of_the_whole_scene_from_labels_in_a_part_of_it(
    checkpoint, scene, arrays, write_raster, run_evaluate, whole
):
    """Labels of the scene's size with nodata around, and labels that are a smaller raster."""
    part = (slice(8, 40), slice(16, 56))
    known = np.zeros(arrays["labels"].shape, bool)
    known[part] = True
    if whole:
        path = write_raster("l.tif", np.where(known, arrays["labels"], 9).astype(np.uint8), nodata=9)
    else:
        path = write_raster("l.tif", arrays["labels"][part], transform=place(16, 8))
    holes = arrays["b"].copy()
    holes[:, 60:] = np.nan
    sources = {"a": scene["a"], "b": write_raster("holes.tif", holes)}
    result, said = run_evaluate(checkpoint, sources, path, area_estimates=True)
    areas = result["areas"]
    counts = confusion(arrays["labels"], arrays["a"], known).counts
    # The map of the scenario with all modalities ends where b does; a pixel has 100 m2.
    mapped = 100.0 * np.bincount(arrays["a"][:, :60].astype(int).ravel())
    assert areas["available"] == ["a", "b"]
    assert areas["mapped_pixels"] == 56 * 60
    assert [row["mapped_m2"] for row in areas["classes"]] == mapped.tolist()
    assert [row["area_m2"] for row in areas["classes"]] == pytest.approx(counts / counts.sum(axis=0) @ mapped)
    assert any("random sample" in text for text in warned(said))


def test_the_result_does_not_depend_on_tiles(checkpoint, scene, run_evaluate):
    sources = {"a": scene["a"], "b": scene["b"]}
    found = [
        run_evaluate(checkpoint, sources, scene["labels"], tile=tile, overlap=overlap)[0]["cases"]
        for tile, overlap in (([24, 24], 8), ([16, 40], 0), ([512, 512], 32))
    ]
    assert found[0] == found[1] == found[2]


def test_cancel_stops_between_tiles(checkpoint, scene):
    said = []
    reporter = Reporter(lambda event: said.append(event) or (event["event"] == "progress" and reporter.cancelled.set()))
    with pytest.raises(CancelledError):
        evaluate(EvaluateJob(checkpoint, {"a": SourceSpec(scene["a"])}, scene["labels"], device="cpu"), reporter)
    assert said[-1]["event"] == "progress"


@pytest.fixture
def landcover(make_checkpoint):
    """An SGMA of random weights for three real modalities, and their rasters of one scene."""
    z_score = {"type": "z_score", "mean": 1000.0, "std": 800.0}
    bands = [f"B{number:02d}" for number in range(1, 9)] + ["B8A", "B09", "B11", "B12"]
    name = "38D_378R_2_3.tif"
    made = make_checkpoint(
        "landcover.safetensors",
        architecture="sgma",
        modalities={
            "optical": {"bands": bands, "scaling": [z_score]},
            "radar": {"bands": ["VV", "VH"], "scaling": [{**z_score, "mean": -12.0, "std": 6.0}]},
            "elevation": {"bands": ["elevation"], "scaling": [{**z_score, "mean": 300.0, "std": 200.0}]},
        },
        classes=[1, 2, 4, 5, 7, 9],
        config={"encoder": "resnet_small", "encoder_options": {"width": 4, "depth": 1}, "head_width": 8},
        tile=[224, 224],
        calibration=[{"available": ["radar"], "temperature": 0.2}],
    )
    return made, {"optical": DATA / "s2" / name, "radar": DATA / "s1" / name, "elevation": DATA / "dem" / name}


def test_a_real_scene_agrees_with_the_map_that_segment_makes(landcover, run_segment, run_evaluate, read):
    made, rasters = landcover
    sources = {name: str(path) for name, path in rasters.items()}
    path = DATA / "labels" / rasters["radar"].name
    result, _ = run_evaluate(made, sources, str(path), ignore=[3])
    assert len(result["cases"]) == 7
    with rasterio.open(path) as opened:
        values = opened.read(1)
    index = np.full(256, -1)
    index[[1, 2, 4, 5, 7, 9]] = range(6)
    labels = index[values]
    for case in (result["cases"][1], result["cases"][6]):
        chosen = {name: sources[name] for name in case["available"]}
        run_segment(made, chosen, probabilities="p.tif", probabilities_dtype="float32", overwrite=True)
        probabilities = read(Path(made).parent / "p.tif")
        found = probabilities.argmax(axis=0)
        assert case["confusion"] == confusion(labels, found, classes=6).counts.tolist()
        wanted = Reliability()
        wanted.update(probabilities.max(axis=0)[labels >= 0].astype(float), (found == labels)[labels >= 0])
        assert case["ece"] == pytest.approx(wanted.ece(), abs=1e-4)


def test_the_bundled_checkpoint_does_as_the_readme_says(run_evaluate):
    """On the part of the sample scene from which it has not learned; its card tells of scenes left out altogether."""
    (path,) = (DATA.parents[2] / "resources" / "checkpoints").glob("landcover-*.safetensors")
    result, _ = run_evaluate(str(path), manifest=str(DATA / "manifest.toml"))
    card = read_card(str(path))
    assert [tuple(case["available"]) for case in result["cases"]] == card.supported()
    found = {"+".join(case["available"]): (case["miou"], case["oa"]) for case in result["cases"]}
    assert found["optical+radar+elevation"] == pytest.approx((0.27, 0.66), abs=0.006)
    assert found["optical+elevation"] == pytest.approx((0.27, 0.66), abs=0.006)
    assert found["radar+elevation"] == pytest.approx((0.11, 0.63), abs=0.006)
    assert found["elevation"] == pytest.approx((0.11, 0.67), abs=0.006)
    assert all(f"{miou:.2f}" in README and f"{oa:.2f}" in README for miou, oa in found.values())


def test_json_on_the_command_line(checkpoint, scene, arrays, capsys):
    arguments = ["evaluate", "--checkpoint", checkpoint, "--modality", f"a={scene['a']}", "--modality",
                 f"b={scene['b']}", "--labels", scene["labels"], "--device", "cpu", "--json"]  # fmt: skip
    assert cli.main(arguments) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    last = lines[-1]
    assert last["event"] == "result"
    assert {"protocol", "classes", "cases", "average", "best", "last", "ece"} <= set(last)
    for case in last["cases"]:
        assert {"available", "miou", "f1", "oa", "kappa", "iou", "pixels"} <= set(case)
        assert len(case["iou"]) == 4 == len(last["classes"])
        assert case["pixels"] == arrays["labels"].size
        assert all(0 <= case[key] <= 1 for key in ("miou", "f1", "oa", "ece"))


def test_a_class_that_is_nowhere_has_no_iou(make_checkpoint, scene, capsys):
    six = make_checkpoint(modalities={"a": ["index"]}, classes=6)
    arguments = ["--checkpoint", six, "--modality", f"a={scene['a']}", "--labels", scene["labels"], "--device", "cpu"]
    assert cli.main(["evaluate", *arguments, "--json"]) == 0
    (case,) = json.loads(capsys.readouterr().out.splitlines()[-1])["cases"]
    assert case["iou"][4:] == [None, None]
    assert case["miou"] == pytest.approx(np.mean(case["iou"][:4]), abs=1e-6)
