# SPDX-License-Identifier: GPL-2.0-or-later
"""Train the bundled checkpoint of tree genera again, from plots in a folder: `--data FOLDER`.

Run by `make checkpoints DATA=FOLDER`. The detail path is measured by cross-validation over plots: four times it learns
from three quarters of them and is tested on the fourth. The one in the checkpoint learns from all. The network beside
it is there to be fine-tuned: its encoder of colour has the weights that it came with, and it counts for nothing before.
See docs/bundled-tree-genus.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lacuna.engine.checkpoint.card import Card, Scenario, scenarios
from lacuna.engine.checkpoint.store import save, sha256
from lacuna.engine.data.labelled_scenes import LabelledScene, close_scenes, open_scenes
from lacuna.engine.data.manifest import read_manifest
from lacuna.engine.data.measure import measure_modalities
from lacuna.engine.events import Event, Reporter
from lacuna.engine.imports.encoder_weights import bundled_path, encoder_source
from lacuna.engine.jobs import TrainJob
from lacuna.engine.models.base import SegmentationModel
from lacuna.engine.models.detail import Detail
from lacuna.engine.models.joined import Joined, join
from lacuna.engine.models.registry import build
from lacuna.engine.raster.scene import gdal_limits
from lacuna.engine.training.calibration import fit_temperature
from lacuna.engine.training.detail_path import prepare_detail, train_detail
from lacuna.engine.training.recipe import read_recipe
from lacuna.engine.training.run import scores_of
from lacuna.engine.training.samples import PixelSamples, gather_samples
from lacuna.engine.training.session import Session
from lacuna.engine.training.validation import Tally
from lacuna.tests.benchmarks.strategies.data import groups_of
from lacuna.tools.checkpoints.tree_plots import FOLDS, SOURCE, folds_of, manifest_text, read_bounds

ROOT = Path(__file__).resolve().parents[2]
RECIPE = Path(__file__).with_suffix(".toml")
NAME = "tree-genus-rgb-hsi-chm"
CHECKPOINT = ROOT / "resources" / "checkpoints" / f"{NAME}.safetensors"
CPU = torch.device("cpu")
CREATED = "2026-11-30T00:00:00Z"
TILE = 256
# Of each plot, drawn from all with a label: 0.1 m apart they are much alike.
PIXELS = 1000

HEAD: dict[str, Any] = {
    "name": NAME,
    "description": (
        "Genus of trees at 0.1 m (Pinus, Quercus, Acer, other trees) from aerial colour, hyperspectral bands and "
        "canopy height at 1 m, any of which may be missing. Trained on 67 plots of 20 m in Virginia and Florida; on "
        "plots that it has not seen it is right for about 6 in 10 pixels of tree crowns. It has no class for what "
        "is no tree: leave out ground, water and low vegetation first, by a height of 2 m for example. Not for "
        "other sites, seasons or sensors without fine-tuning, and no measure of areas or of numbers of trees."
    ),
    "licence": "CC-BY-4.0",
    "credits": (
        "Trained on the data of the IDTReeS 2020 competition, CC-BY-4.0: Graves, S. and Marconi, S., "
        f"{SOURCE}, with airborne data of the National Ecological Observatory Network (NEON), a programme of the "
        "National Science Foundation operated by Battelle. The network's encoder of colour began with "
        "EfficientNet-Lite0 (Apache-2.0; Tan and Le 2019, Google). Licences in full beside the checkpoint."
    ),
}


def features_of(scenes: Sequence[LabelledScene], session: Session) -> dict[str, PixelSamples]:
    """Return features of labelled pixels of each plot, of so many at most as `PIXELS` says, drawn alike."""
    found, rng = {}, np.random.default_rng(session.seed)
    for scene in scenes:
        own = gather_samples(replace(session, scenes=[scene]))
        rows = np.sort(rng.permutation(len(own.labels))[:PIXELS])
        found[scene.name] = PixelSamples(
            {name: values[rows] for name, values in own.features.items()},
            {name: valid[rows] for name, valid in own.valid.items()},
            own.labels[rows],
        )
    return found


def together(parts: Sequence[PixelSamples]) -> PixelSamples:
    """Return the pixels of several plots as one."""
    return PixelSamples(
        {name: np.concatenate([part.features[name] for part in parts]) for name in parts[0].features},
        {name: np.concatenate([part.valid[name] for part in parts]) for name in parts[0].valid},
        np.concatenate([part.labels for part in parts]),
    )


def cross_validate(
    samples: Mapping[str, PixelSamples], folds: Mapping[str, int], session: Session
) -> dict[Scenario, Tally]:
    """Return what detail paths do in every scenario on the pixels of all plots, each by one that has not seen its plot.

    Pixels are classified one by one, without the mean over their neighbours that a map has.
    """
    tested = {scenario: Tally(len(session.classes), 1) for scenario in _order(session)}
    for fold in range(FOLDS):
        model = _trained(session, [part for name, part in samples.items() if folds[name] != fold])
        seen = together([part for name, part in samples.items() if folds[name] == fold])
        codes = model.code({name: torch.from_numpy(values).T for name, values in seen.features.items()})
        for scenario, tally in tested.items():
            held = np.all([seen.valid[name] for name in scenario], axis=0)
            with torch.no_grad():
                logits = model.classify({name: codes[name][torch.from_numpy(held)] for name in scenario}).numpy()
            tally.add(logits.T, seen.labels[held], np.full(int(held.sum()), fold))
        print(f"Part {fold + 1} of {FOLDS} is tested.", flush=True)
    return tested


def _order(session: Session) -> list[Scenario]:
    """Return all scenarios."""
    return scenarios([item.name for item in session.modalities])


def _trained(session: Session, parts: Sequence[PixelSamples]) -> Detail:
    """Return a detail path trained on the pixels of some plots."""
    model = train_detail(session, together(parts), _order(session))
    if model is None:
        raise SystemExit("No plot has a labelled pixel.")
    return model


def make_network(session: Session) -> SegmentationModel:
    """Return the network: its encoder of colour has the weights that it came with, all else is drawn from the seed."""
    recipe = session.recipe.model
    torch.manual_seed(session.seed)
    channels = {item.name: len(item.bands) for item in session.modalities}
    network = build("sgma", recipe, channels, len(session.classes))
    network.load_encoder(encoder_source(None, recipe).tensors())
    return network.eval()


def make_card(session: Session, model: Joined, tested: Mapping[Scenario, Tally]) -> Card:
    """Return the card of the checkpoint `model`, with what cross-validation found."""
    return Card(
        {"name": "joined", "config": model.config()},
        list(session.modalities),
        list(session.classes),
        reference="rgb",
        resolution=session.resolution(),
        tile=[TILE, TILE],
        margin=model.margin,
        stride=model.output_stride,
        scores=scores_of(tested),
        scores_on=(
            f"{PIXELS} pixels of tree crowns in each of {len(session.scenes)} plots, by cross-validation over {FOLDS} "
            "parts: each plot was classified by a detail path that was trained on the three parts without it and the "
            "plots within 10 m of it, pixel by pixel; maps are averaged over 2.5 m, and the detail path in the "
            "checkpoint is trained on all plots"
        ),
        calibration=[{"available": list(scenario), "temperature": 1.0} for scenario in tested],
        training={
            "settings": session.recipe.to_dict(),
            "network": "not trained on the plots, and counts for nothing until it is fine-tuned",
            "pixels": session.pixels(),
            "folds": FOLDS,
            "seed": session.seed,
        },
        parents=[sha256(bundled_path("efficientnet_lite0"))],
        created=CREATED,
        **HEAD,
    )


def make(data: Path, work: Path, output: Path) -> None:
    """Train, measure and write the checkpoint; its manifest goes to the folder `work`."""
    groups = groups_of(read_bounds(data))
    manifest, reporter = work / f"{NAME}.toml", Reporter(_say)
    manifest.write_text(manifest_text(data, groups, {"name": NAME}), encoding="utf-8")
    read = read_manifest(str(manifest))
    with gdal_limits():
        scenes = open_scenes(read, reporter)
        try:
            modalities = measure_modalities(scenes, read.modalities, reporter)
            for scene in scenes:
                scene.prepare(modalities)
            recipe = read_recipe(TrainJob(str(manifest), "sgma", "", config=str(RECIPE)), read.names)
            session = Session(scenes, modalities, read.classes, recipe, CPU, 0, reporter)
            prepare_detail(session)
            samples = features_of(scenes, session)
        finally:
            close_scenes(scenes)
    tested = cross_validate(samples, folds_of(groups), session)
    detail = _trained(session, list(samples.values()))
    heats = {scenario: fit_temperature(*tally.kept()) for scenario, tally in tested.items()}
    weights = {"+".join(key): [0.0, round(1 / heat, 6)] for key, heat in heats.items()}
    whole = join(make_network(session), detail, weights)
    card = make_card(session, whole, tested)
    save(str(output), whole, card, half=True)
    for item in card.scores:
        print(f"{' + '.join(item['available'])}: mIoU {item['miou']:.3f}, overall accuracy {item['oa']:.3f}")
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB")


def _say(event: Event) -> None:
    if event["event"] == "message":
        print(event["text"], flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the checkpoint; return the exit status."""
    parser = argparse.ArgumentParser(description="Train the bundled checkpoint of tree genera again.")
    parser.add_argument("--data", type=Path, required=True, help=f"folder of the plots ({SOURCE})")
    parser.add_argument("--output", type=Path, default=CHECKPOINT, help="default: the bundled checkpoint, replaced")
    asked: Any = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        make(asked.data.resolve(), Path(work), asked.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
