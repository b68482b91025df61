# SPDX-License-Identifier: GPL-2.0-or-later
"""Train the bundled checkpoint again, from data in this repository. Run by `make checkpoints`; takes some four minutes.

The same machine and the same torch give the same weights. See docs/bundled-checkpoint.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from lacuna.engine.cli import main as lacuna

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data" / "landcover_s2_s1_dem"
CHECKPOINT = ROOT / "resources" / "checkpoints" / "landcover-s2-s1-dem.safetensors"
# Sums in another number of threads have another order, and so other last bits.
THREADS = 1


def main() -> int:
    """Train; return the exit status of `lacuna train`."""
    parser = argparse.ArgumentParser(description="Train the bundled checkpoint again.")
    parser.add_argument("--output", type=Path, default=CHECKPOINT, help="default: the bundled checkpoint, replaced")
    output = parser.parse_args().output
    torch.set_num_threads(THREADS)
    manifest, recipe = str(DATA / "manifest.toml"), str(DATA / "recipe.toml")
    return lacuna([
        "train", manifest, "--architecture", "sgma", "--config", recipe, "--output", str(output),
        "--seed", "0", "--device", "cpu", "--overwrite", "--no-detail",
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
