# SPDX-License-Identifier: GPL-2.0-or-later
"""Make the bundled encoder weights again from the published files: resources/encoders/NAME.safetensors.

Usage: python tools/encoders.py FOLDER

FOLDER holds a folder for each network (dynamic_world, galileo_nano, efficientnet_lite0) with its published weights as
one safetensors file and its LICENSE; see resources/encoders/README.md for where they come from.
"""

from __future__ import annotations

import argparse
import datetime
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from torch import Tensor

from lacuna.engine.checkpoint.header import sha256
from lacuna.engine.imports.encoder_file import EncoderInfo, save_encoder

# Convolutions with more numbers than this hold most of a network, and lose least by fewer digits.
LARGE = 10_000
OUTPUT = Path(__file__).resolve().parent.parent / "resources" / "encoders"


@dataclass(frozen=True)
class Published:
    """A published network.

    Attributes:
        file: name of the file of its weights.
        channels: of the images that it takes; 0 where there is no one number.
        licence: of the weights.
        created: day of the published version, so that the same file gives the same bytes.
        half: whether to store the larger convolutions as float16 (resources/encoders/README.md says what that changes).
        verbatim: whether the file is taken as it is, without a word of what it holds.
    """

    file: str
    channels: int
    licence: str
    created: str
    half: bool = False
    verbatim: bool = False


NETWORKS = {
    "dynamic_world": Published("dynamic_world.safetensors", 9, "Apache-2.0", "2025-08-08", verbatim=True),
    "galileo_nano": Published("galileo_nano_encoder.safetensors", 0, "MIT", "2026-04-21"),
    "efficientnet_lite0": Published(
        "efficientnet_lite0_features.safetensors", 3, "Apache-2.0", "2020-03-01", half=True
    ),
}


def main() -> int:
    """Write weights and licences of all networks."""
    parser = argparse.ArgumentParser(description="Make the bundled encoder weights again.")
    parser.add_argument("folder", type=Path, help="the published files")
    folder = parser.parse_args().folder
    OUTPUT.mkdir(parents=True, exist_ok=True)
    for name, published in NETWORKS.items():
        make(folder / name, name, published)
    apache = (folder / "dynamic_world" / "LICENSE").read_text(encoding="utf-8")
    notice = (folder / "efficientnet_lite0" / "LICENSE").read_text(encoding="utf-8")
    target = OUTPUT / "efficientnet_lite0.LICENSE"
    target.write_text(f"{notice.strip()}\n\n{'-' * 78}\n\n{apache.strip(chr(10))}\n", encoding="utf-8")
    return 0


def make(source: Path, name: str, published: Published) -> None:
    """Write the weights of one network, and its licence and notice beside them."""
    given = source / published.file
    tensors = safetensors.torch.load_file(str(given))
    # Counters of training steps, which nothing reads.
    tensors = {key: value for key, value in tensors.items() if not key.endswith("num_batches_tracked")}
    if published.half:
        tensors = {key: value.half() if _is_large(value) else value for key, value in tensors.items()}
    day = datetime.date.fromisoformat(published.created).strftime("%Y-%m-%dT00:00:00Z")
    info = EncoderInfo(name, published.channels, published.file, published.licence, [sha256(str(given))], day)
    target = OUTPUT / f"{name}.safetensors"
    if published.verbatim:
        target.write_bytes(given.read_bytes())
    else:
        save_encoder(str(target), tensors, info)
    for item in ("LICENSE", "NOTICE"):
        if (source / item).exists():
            shutil.copyfile(source / item, OUTPUT / f"{name}.{item}")
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB")


def _is_large(tensor: Tensor) -> bool:
    return tensor.ndim == 4 and tensor.numel() > LARGE


if __name__ == "__main__":
    sys.exit(main())
