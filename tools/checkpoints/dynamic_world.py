# SPDX-License-Identifier: GPL-2.0-or-later
"""Make the bundled checkpoints of Dynamic World again: its published weights, behind the card's scaling.

Run by `make checkpoints`. Nothing is trained. The one for level 2A first takes values to what level 1C would be under
a typical atmosphere (`atmosphere`). See docs/bundled-dynamic-world.md.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file

from lacuna.engine.checkpoint.card import Card, ClassInfo, Modality
from lacuna.engine.checkpoint.store import save, sha256
from lacuna.engine.data.statistics import BandStatistics
from lacuna.engine.models.registry import build
from lacuna.engine.models.world_prior import AIR_GAIN, AIR_OFFSET
from lacuna.engine.raster.scaling import scale
from lacuna.tools.checkpoints.atmosphere import BANDS, ROOT, SNOW, Pair, read_pairs, typical_line

ENCODERS = ROOT / "resources" / "encoders"
WEIGHTS = ENCODERS / "dynamic_world.safetensors"
FOLDER = ROOT / "resources" / "checkpoints"
NAMES = {"L2A": "dynamic-world-s2", "L1C": "dynamic-world-s2-l1c"}
CREATED = "2026-11-30T00:00:00Z"
BRIGHTEST = 65535.0

# The published scaling of the logarithms, in the order of the bands.
CENTRE = [
    1.7417268007636313, 1.7261204997060209, 1.6798346251414997, 1.7734969472909623, 2.289154079164943,
    2.382939712192371, 2.3828939530384052, 2.1952484264967844, 1.554812948247501,
]  # fmt: skip
WIDTH = [
    2.023298706048351, 2.038905204308012, 2.179592821212937, 2.2890068333026603, 2.6171674549378166,
    2.773418590375327, 2.7578332604178284, 2.789092484314204, 2.4140534947492487,
]  # fmt: skip
CLASSES = [
    ("water", "#419bdf"), ("trees", "#397d49"), ("grass", "#88b053"), ("flooded vegetation", "#7a87c6"),
    ("crops", "#e49635"), ("shrub and scrub", "#dfc35a"), ("built", "#c4281b"), ("bare", "#a59b8f"),
    ("snow and ice", "#b39fe1"),
]  # fmt: skip

ABOUT = (
    "Land cover of the whole world at 10 m, in nine classes, from one cloud-free Sentinel-2 image: the network of "
    "Dynamic World, trained by Google and the World Resources Institute on about 24,000 places labelled by hand, with "
    "its published weights. "
)
LEVELS = {
    "L1C": "It takes level 1C (top of atmosphere), as it was trained. For level 2A choose dynamic-world-s2. ",
    "L2A": (
        "It takes level 2A (surface reflectance), to which it adds a typical atmosphere first, as the network was "
        "trained on level 1C. Where you have level 1C, dynamic-world-s2-l1c is the safer choice. "
    ),
}
LIMITS = (
    "Values are reflectance x 10,000 without the offset of 1,000 that Sentinel-2's files carry since 2022. An "
    "independent comparison (Venter et al. 2022) found 72 % of the ground right for maps made with it: water, built, "
    "trees and crops best (78 to 92 % over three such maps), bare 57 %, flooded vegetation 53 %, shrub 47 %, grass "
    "34 %. Clouds come out as snow, and shadows as water: mask them before. Within 22 pixels of a hole or of the edge "
    "of the image results are less sure. It is no measure of areas and no proof of change between two dates, and not "
    "for pixels other than 10 m."
)
CREDITS = (
    "This code is produced for the Dynamic World Project by Google in partnership with National Geographic and the "
    "World Resources Institute. Brown, C. F. et al. 2022, Dynamic World, Near real-time global 10 m land use land "
    "cover mapping, Scientific Data 9, 251, https://doi.org/10.1038/s41597-022-01307-4. Licence and notice in full "
    "beside the checkpoint. Changed: norms folded into convolutions, names of tensors, file format. Statistics and "
    "typical atmosphere from samples of TerraMesh (CC-BY-SA-4.0), which contain modified Copernicus Sentinel data."
)


def published_chain() -> list[dict[str, Any]]:
    """Return the scaling of the published network, from reflectance x 10,000 at level 1C."""
    return [
        {"type": "clip", "minimum": 0.0, "maximum": BRIGHTEST},
        {"type": "log", "scale": 0.005},
        {"type": "z_score", "mean": CENTRE, "std": WIDTH},
        {"type": "logistic", "offset": -1.0, "scale": 5.0},
    ]


def typical_pixel(pairs: dict[str, Pair]) -> tuple[list[float], list[float]]:
    """Return mean and deviation of each band behind the published scaling, over all scenes but the one of snow."""
    images = [scale(pair.l1c, published_chain()) for name, pair in pairs.items() if name != SNOW]
    pixels = np.concatenate([image.reshape(len(BANDS), -1) for image in images], axis=1).astype(np.float64)
    return rounded(pixels.mean(1), 4), rounded(pixels.std(1), 4)


def atmosphere(pairs: dict[str, Pair]) -> dict[str, Any]:
    """Return the step of the scaling that adds the engine's typical atmosphere; SystemExit if `pairs` say another."""
    offset, factor = typical_line(pairs).T
    found = rounded(offset, 1), rounded(factor, 4)
    if found != (list(AIR_OFFSET), list(AIR_GAIN)):
        raise SystemExit(
            f"The scenes say {found} of the atmosphere, engine/models/world_prior.py {(AIR_OFFSET, AIR_GAIN)}. Check "
            "the scenes, or write what they say there."
        )
    return {"type": "offset_scale", "offset": found[0], "scale": found[1]}


def make_card(level: str, pairs: dict[str, Pair], weights: Path) -> Card:
    """Return the card of the checkpoint for `level`."""
    mean, std = typical_pixel(pairs)
    chain = [*published_chain(), {"type": "z_score", "mean": mean, "std": std}]
    training: dict[str, Any] = {
        "source": "github.com/google/dynamicworld, model/forward, commit 0dd288fae5fb5291d988e5ea3c12eb91df481ec5",
        "data": "about 24,000 labelled places of Dynamic World (Brown et al. 2022); nothing was trained here",
        "statistics": "four scenes of TerraMesh, without offset; not those of the training",
    }
    if level == "L2A":
        line = atmosphere(pairs)
        chain.insert(0, line)
        training["atmosphere"] = {"scenes": [name for name in pairs if name != SNOW], "line": line}
    optical = Modality(
        "optical",
        BANDS,
        units=f"Sentinel-2 {level} reflectance x 10,000, without offset",
        scaling=chain,
        required=True,
        statistics=statistics([pair.l1c if level == "L1C" else pair.l2a for pair in pairs.values()]),
        resolution=[10.0, 20.0],
    )
    return Card(
        {"name": "dynamic_world", "config": {"mean": mean, "std": std}},
        [optical],
        [ClassInfo(value, name, color) for value, (name, color) in enumerate(CLASSES)],
        reference="optical",
        name=NAMES[level],
        description=ABOUT + LEVELS[level] + LIMITS,
        resolution=[10.0, 10.0],
        tile=[384, 384],
        margin=24,
        stride=2,
        training=training,
        licence="Apache-2.0",
        credits=CREDITS,
        parents=[sha256(str(weights))],
        created=CREATED,
    )


def statistics(images: list[np.ndarray]) -> dict[str, list[float]]:
    """Return the statistics of all pixels of images (9, h, w)."""
    found = BandStatistics(len(BANDS), sum(image[0].size for image in images))
    for image in images:
        found.update(image.reshape(len(BANDS), -1).astype(np.float32))
    return found.result()


def rounded(values: np.ndarray, digits: int) -> list[float]:
    """Return `values` with so many decimals."""
    return [round(float(value), digits) for value in values]


def main() -> int:
    """Write both checkpoints with licence and notice beside them; return the exit status."""
    parser = argparse.ArgumentParser(description="Make the bundled checkpoints of Dynamic World again.")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help=f"default: {WEIGHTS.relative_to(ROOT)}")
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"default: {FOLDER.relative_to(ROOT)}")
    asked = parser.parse_args()
    pairs, tensors = read_pairs(), load_file(asked.weights)
    for level, name in NAMES.items():
        card = make_card(level, pairs, asked.weights)
        model = build("dynamic_world", card.architecture["config"], {"optical": len(BANDS)}, len(CLASSES))
        model.load_state_dict({f"network.{key}": tensor for key, tensor in tensors.items()})
        target = asked.folder / f"{name}.safetensors"
        save(str(target), model, card)
        print(f"{target}: {target.stat().st_size / 1e6:.1f} MB")
    for part in ("LICENSE", "NOTICE"):
        shutil.copyfile(ENCODERS / f"dynamic_world.{part}", asked.folder / f"dynamic-world-s2.{part}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
