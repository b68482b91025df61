# SPDX-License-Identifier: GPL-2.0-or-later
"""`lacuna catalogue`: a catalogue of the checkpoints in a folder, to be published beside them or elsewhere."""

from __future__ import annotations

import json
import os
from typing import Any
from urllib.parse import quote, urljoin

from ..checkpoint.card_file import read_card
from ..checkpoint.header import sha256
from ..errors import LacunaError, UsageError, disk_error
from ..events import Reporter
from ..jobs import CatalogueJob
from .address import CATALOGUE_NAME, SUFFIX, check_address, file_name, is_remote
from .entry import item_of
from .listing import parse_catalogue

# Beside NAME.safetensors: the licence that must be accepted, or nothing but the address of it.
LICENCE_SUFFIX = ".licence.txt"


def publish(job: CatalogueJob, reporter: Reporter) -> dict[str, Any]:
    """Write the catalogue that `job` asks for and return its result.

    Raises:
        LacunaError: `no-checkpoints`, `output-exists`, `bad-catalogue` (the names of two checkpoints are the same, or a
            file has a name that nobody may fetch), and as `read_card` and `disk_error`.
    """
    output = os.path.abspath(job.output or os.path.join(job.folder, CATALOGUE_NAME))
    if os.path.exists(output) and not job.overwrite:
        raise LacunaError(
            "output-exists", f"{output} exists already.", "Choose another name, or allow overwriting (--overwrite)."
        )
    if job.base and not is_remote(job.base):
        raise UsageError("bad-address", f"{job.base!r} is no address of a server.", "Give one with https://.")
    base = job.base if not job.base or job.base.endswith("/") else job.base + "/"
    if base:
        check_address(base)
    try:
        names = sorted(name for name in os.listdir(job.folder) if name.endswith(SUFFIX))
        if not names:
            text = f"There is no checkpoint ({SUFFIX}) in {job.folder}."
            raise LacunaError("no-checkpoints", text, "Choose the folder that the checkpoints lie in.")
        items = []
        for number, name in enumerate(names, start=1):
            reporter.check()
            items.append(_item(job.folder, name, base))
            reporter.progress(number, len(names), "checkpoints")
        text = json.dumps({"type": "FeatureCollection", "features": items, "links": []}, ensure_ascii=False, indent=1)
        # What is written here must be readable by everyone, so it is read as they will.
        for problem in parse_catalogue(text.encode(), base or output).faults.values():
            raise problem
        with open(output + ".part", "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text + "\n")
        os.replace(output + ".part", output)
    except OSError as problem:
        raise disk_error(problem, str(problem.filename or output)) from None
    return {"catalogue": output, "checkpoints": len(items)}


def _item(folder: str, name: str, base: str) -> dict[str, Any]:
    """Return the item of the checkpoint `name` in `folder`."""
    file_name(name)
    path = os.path.join(folder, name)
    href = quote(name)
    return item_of(
        read_card(path), urljoin(base, href) if base else href, os.path.getsize(path), sha256(path), _licence(path)
    )


def _licence(path: str) -> str:
    """Return the licence that lies beside the checkpoint at `path`, or an empty string."""
    beside = path[: -len(SUFFIX)] + LICENCE_SUFFIX
    if not os.path.exists(beside):
        return ""
    try:
        with open(beside, encoding="utf-8-sig") as stream:
            text = stream.read().strip()
    except UnicodeDecodeError:
        raise LacunaError("bad-licence", f"{beside} is not in UTF-8.", "Save it in UTF-8.") from None
    if not text:
        raise LacunaError("bad-licence", f"{beside} is empty.", "Write the licence into it, or remove it.")
    return text
