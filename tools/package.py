# SPDX-License-Identifier: GPL-2.0-or-later
"""Build the zip for QGIS's plugin site from the files that git tracks; the same sources give the same bytes.

Usage: python tools/package.py [--output FOLDER]
"""

from __future__ import annotations

import argparse
import configparser
import subprocess
import sys
import time
import zipfile
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent
NAME = "lacuna"
# For developers only; the site also refuses hidden files, shell scripts and other things that could run by themselves.
LEFT_OUT_FOLDERS = {"tests", "tools"}
LEFT_OUT_FILES = {"Makefile", "CONTRIBUTING.md", "MANIFEST.in"}
DOCS_SUFFIXES = {".md"}


def version(root: Path = ROOT) -> str:
    """Return the version that `metadata.txt` in `root` states."""
    metadata = configparser.ConfigParser(interpolation=None)
    metadata.read(root / "metadata.txt", encoding="utf-8")
    return metadata["general"]["version"]


def belongs(path: str) -> bool:
    """Return whether the file `path` (relative to the root, with slashes) is part of the plugin."""
    parts = PurePosixPath(path).parts
    if any(part.startswith(".") for part in parts) or parts[0] in LEFT_OUT_FOLDERS or path in LEFT_OUT_FILES:
        return False
    return parts[0] != "docs" or PurePosixPath(path).suffix in DOCS_SUFFIXES


def tracked(root: Path = ROOT) -> list[str]:
    """Return the files that git tracks in `root`, sorted, with slashes.

    Raises:
        subprocess.CalledProcessError: `root` is no git checkout.
    """
    listing = _git(root, "ls-files", "-z")
    return sorted(path for path in listing.split("\0") if path and (root / path).is_file())


def build(output: Path, root: Path = ROOT) -> Path:
    """Write `lacuna-VERSION.zip` into the folder `output` and return its path.

    Every file lies under one folder `lacuna`, without executable bits, dated by the last commit.
    """
    output.mkdir(parents=True, exist_ok=True)
    target = output / f"{NAME}-{version(root)}.zip"
    date = time.gmtime(int(_git(root, "log", "-1", "--format=%ct")))[:6]
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in filter(belongs, tracked(root)):
            entry = zipfile.ZipInfo(f"{NAME}/{path}", date)
            entry.external_attr = 0o100644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, (root / path).read_bytes())
    return target


def main() -> int:
    """Build the zip and say where it is, how large, and whether it differs from the last commit."""
    parser = argparse.ArgumentParser(description="Build the zip for QGIS's plugin site.")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="folder for the zip (default: dist)")
    target = build(parser.parse_args().output)
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB")
    changed = _git(ROOT, "status", "--porcelain", "--untracked-files=no")
    if changed:
        print("Note: the zip holds changes that are not committed:", changed.rstrip(), sep="\n", file=sys.stderr)
    return 0


def _git(root: Path, *arguments: str) -> str:
    """Return what git prints."""
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout


if __name__ == "__main__":
    sys.exit(main())
