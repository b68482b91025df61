# SPDX-License-Identifier: GPL-2.0-or-later
"""Make the bundled land cover checkpoint again, from data in this repository. Run by `make checkpoints`.

Trains the network (some four minutes of one core), the detail path (one), measures all on scenes left out (four), and
joins the parts with what Dynamic World says. The same machine and the same torch give the same weights. See
docs/bundled-checkpoint.md.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from lacuna.engine.checkpoint.card import Card
from lacuna.engine.checkpoint.store import load, save
from lacuna.engine.cli import main as lacuna
from lacuna.engine.models.joined import Joined, join
from lacuna.engine.training.priors import with_credits
from lacuna.tools.checkpoints.atmosphere import DATA, ROOT, read_pairs, typical_line
from lacuna.tools.checkpoints.landcover_classes import SAMPLE_NAME, class_matrix, world_network
from lacuna.tools.checkpoints.landcover_detail import train_detail
from lacuna.tools.checkpoints.landcover_ground import SAMPLE_COLUMNS, read_floods, read_scenes
from lacuna.tools.checkpoints.landcover_loso import SHARES, Measured, measure

FOLDER = ROOT / "resources" / "checkpoints"
CHECKPOINT = FOLDER / "landcover-s2-s1-dem.safetensors"
CREATED = "2026-11-30T00:00:00Z"
# Sums in another number of threads have another order, and so other last bits.
THREADS = 1
MEASURED = (
    "four scenes of 2.24 km in Chile, Tanzania, Denmark and Canada, each classified by what the other three taught, "
    "against the land cover of Esri; the checkpoint itself was trained on all four. One scene is all snow, which no "
    "other scene shows"
)


def train_network(path: Path) -> None:
    """Train the network as manifest and recipe say, and write it to `path`."""
    status = lacuna([
        "train", str(DATA / "manifest.toml"), "--architecture", "sgma", "--config", str(DATA / "recipe.toml"),
        "--output", str(path), "--seed", "0", "--device", "cpu", "--overwrite", "--no-detail",
    ])  # fmt: skip
    if status:
        sys.exit(status)


def join_parts(network: Path) -> tuple[Card, Joined]:
    """Return the card and the model of the network at `path`, with a detail path and what Dynamic World says."""
    card, model = load(str(network))
    world = world_network()
    scenes, floods = read_scenes(card.modalities, world), read_floods(card.modalities[1], world)
    line = typical_line(read_pairs())
    detail = train_detail(scenes, {SAMPLE_NAME: SAMPLE_COLUMNS}, floods, card.modalities, line)
    weights = {"+".join(scenario): shares for scenario, shares in SHARES.items()}
    joined = join(model, detail, weights, {"modality": "optical", "classes": class_matrix()})
    card.architecture = {"name": joined.architecture, "config": joined.config()}
    card.margin, card.stride = joined.margin, joined.output_stride
    card.credits = with_credits(card.credits, joined)
    card.training["floods"] = list(floods)
    card.created = CREATED
    return card, joined


def smaller(model: Joined) -> dict[str, Tensor]:
    """Return the tensors, those of the networks in half precision; the codes of the detail path need float32."""
    halved = ("network.", "detail.priors.")
    return {
        name: tensor.half() if tensor.dtype == torch.float32 and name.startswith(halved) else tensor
        for name, tensor in model.state_dict().items()
    }


def describe(card: Card, measured: Measured) -> None:
    """Write into the card what was measured."""
    card.scores, card.scores_on = measured.scores(), MEASURED
    card.calibration = measured.calibration()
    card.training["left_out"] = {
        title: {name: [round(value, 4) for value in pair] for name, pair in row.items()}
        for title, row in measured.tables.items()
    }
    card.training["floods_left_out"] = {name: round(right, 4) for name, right in measured.floods.items()}


def main() -> int:
    """Make the checkpoint; return the exit status."""
    parser = argparse.ArgumentParser(description="Make the bundled land cover checkpoint again.")
    parser.add_argument("--output", type=Path, default=CHECKPOINT, help="default: the bundled checkpoint, replaced")
    parser.add_argument("--network", type=Path, help="a network that has been trained before, instead of training it")
    asked = parser.parse_args()
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as folder:
        network = asked.network or Path(folder) / "network.safetensors"
        if asked.network is None:
            train_network(network)
        card, joined = join_parts(network)
    measured = measure(card.modalities)
    measured.say()
    describe(card, measured)
    save(str(asked.output), smaller(joined), card)
    print(f"{asked.output}: {asked.output.stat().st_size / 1e6:.1f} MB")
    for part in ("LICENSE", "NOTICE"):
        shutil.copyfile(ROOT / "resources" / "encoders" / f"dynamic_world.{part}", FOLDER / f"dynamic-world-s2.{part}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
