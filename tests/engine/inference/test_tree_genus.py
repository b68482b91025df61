# SPDX-License-Identifier: GPL-2.0-or-later
"""The bundled checkpoint of tree genera: what its card says, its licences, a map of a real plot, folds of its plots."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio

from lacuna.engine.checkpoint.card import scenarios
from lacuna.engine.checkpoint.card_file import read_card
from lacuna.engine.checkpoint.store import load
from lacuna.engine.jobs import SourceSpec
from lacuna.tests.benchmarks.strategies.data import groups_of
from lacuna.tools.checkpoints.tree_plots import FOLDS, HSI_BANDS, folds_of, manifest_text

ROOT = Path(__file__).parents[3]
CHECKPOINT = ROOT / "resources" / "checkpoints" / "tree-genus-rgb-hsi-chm.safetensors"
# One of the plots that it was trained on: what is right here says that the chain works, not how good it is.
PLOT = Path(__file__).parents[2] / "data" / "tree_crowns"


def sources(*names):
    found = {name: SourceSpec(str(PLOT / f"{name}.tif")) for name in names}
    if "hsi" in found:
        found["hsi"].bands = list(HSI_BANDS)
    return found


def test_the_card_says_what_for_by_which_licence_and_how_good():
    card = read_card(str(CHECKPOINT))
    assert [item.name for item in card.classes] == ["Pinus", "Quercus", "Acer", "Other tree"]
    assert card.reference == "rgb" and card.licence == "CC-BY-4.0"
    assert not any(item.required for item in card.modalities)
    assert card.modality("hsi").bands == [f"b{number}" for number in HSI_BANDS]
    assert [tuple(item["available"]) for item in card.scores] == scenarios(["rgb", "hsi", "chm"])
    assert all(0.2 < item["miou"] < item["oa"] < 0.8 for item in card.scores)
    assert "cross-validation" in card.scores_on and "10 m" in card.scores_on
    assert "no class for what is no tree" in card.description and "without fine-tuning" in card.description
    assert "zenodo.3934932" in card.credits and "EfficientNet-Lite0" in card.credits
    assert CHECKPOINT.stat().st_size < 6e6


def test_licences_stand_beside_it_in_full():
    text = CHECKPOINT.with_suffix(".LICENSE").read_text(encoding="utf-8")
    assert "Section 8 -- Interpretation." in text and "zenodo.3934932" in text
    assert "END OF TERMS AND CONDITIONS" in text and "Apache License" in text


def test_its_page_states_the_scores_of_the_card():
    page = (ROOT / "docs" / "bundled-tree-genus.md").read_text(encoding="utf-8")
    for item in read_card(str(CHECKPOINT)).scores:
        assert f"| {' + '.join(item['available'])} | {100 * item['miou']:.1f} | {100 * item['oa']:.1f} |" in page


def test_the_network_counts_for_nothing_until_it_is_fine_tuned():
    _card, model = load(str(CHECKPOINT))
    assert {key: pair[0] for key, pair in model.model_config.weights.items()} == dict.fromkeys(
        ["rgb", "hsi", "chm", "rgb+hsi", "rgb+chm", "hsi+chm", "rgb+hsi+chm"], 0.0
    )


@pytest.mark.parametrize("names", [("rgb",), ("rgb", "hsi", "chm")])
def test_a_plot_becomes_a_map(run_segment, read, names):
    run = run_segment(str(CHECKPOINT), sources(*names))
    found, wanted = read(run.result["classes"])[0], read(PLOT / "labels.tif")[0]
    assert found.shape == wanted.shape == (200, 200) and set(np.unique(found)) <= {1, 2, 3, 4}
    assert (found == wanted)[wanted > 0].mean() > 0.5
    # Crowns are patches, not noise: neighbours mostly agree.
    assert (found[:, 1:] == found[:, :-1]).mean() > 0.9


def test_plots_near_one_another_are_never_parted_and_every_fold_has_both_sites():
    bounds = {}
    for site, east in (("MLBS", 0.0), ("OSBS", 5000.0)):
        for number in range(1, 21):
            # Two and two lie 5 m apart, the pairs far from one another.
            left = east + 100 * (number // 2) + 25 * (number % 2)
            bounds[f"{site}_{number}"] = (left, 0.0, left + 20, 20.0)
    groups = groups_of(bounds)
    folds = folds_of(groups)
    assert groups["MLBS_3"] == "MLBS_2" and groups["MLBS_4"] == "MLBS_4"
    assert all(folds[name] == folds[group] for name, group in groups.items())
    for site in ("MLBS", "OSBS"):
        assert {fold for name, fold in folds.items() if name.startswith(site)} == set(range(FOLDS))


def test_the_manifest_is_one_of_the_products(tmp_path):
    from lacuna.engine.data.manifest import read_manifest

    path = tmp_path / "plots.toml"
    path.write_text(manifest_text(PLOT, {"a": "a", "b": "a"}, {"name": "trees"}), encoding="utf-8")
    found = read_manifest(str(path))
    assert found.names == ["rgb", "hsi", "chm"] and [scene.group for scene in found.scenes] == ["a", "a"]
    assert len(found.modalities[1].bands) == len(HSI_BANDS) == 91


def test_without_the_plots_the_recipe_says_where_they_are_published(tmp_path):
    recipe = ROOT / "tools" / "checkpoints" / "tree_genus.py"
    done = subprocess.run(
        [sys.executable, str(recipe), "--data", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "https://doi.org/10.5281/zenodo.3934932" in done.stderr and "rgb, hsi, chm, labels" in done.stderr


def test_labels_of_the_plot_are_what_the_card_names():
    with rasterio.open(PLOT / "labels.tif") as dataset:
        assert set(np.unique(dataset.read(1))) <= {0, *(item.value for item in read_card(str(CHECKPOINT)).classes)}
