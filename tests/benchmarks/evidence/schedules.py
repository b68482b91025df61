# SPDX-License-Identifier: GPL-2.0-or-later
"""Schedules of a fine-tuning compared: to the end, and stopped at a third of it. To be run by hand.

    .venv/bin/python -m tests.benchmarks.evidence.schedules --data FOLDER --dataset unseen_433D

What is compared is the network alone, by the mean over the scenarios of the mIoU on validation and on test ground.
Prints a line for each training, as JSON. `docs/finetune.md` has the figures.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from lacuna.engine.checkpoint.store import load
from lacuna.engine.events import Event, Reporter
from lacuna.engine.jobs import FinetuneJob
from lacuna.engine.run import run
from lacuna.engine.training.state import part_path

from . import data
from .run import ROOT, _base, _scores, _test

SCHEDULES = {
    "poly": 'schedule = "poly"',
    "flat": 'schedule = "flat"',
    "flat+cooldown": 'schedule = "flat"\ncooldown = 0.2',
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Train with every schedule and seed, stopped early and to the end; return 0."""
    options = _parse(arguments)
    torch.set_num_threads(1)
    manifests = data.prepare(options.dataset, options.data.resolve(), options.work.resolve())
    if manifests.base is None:
        raise SystemExit(f"Nothing is fine-tuned on {options.dataset}.")
    base = _base(options.dataset, manifests.base, options.work.resolve())
    for seed in options.seeds:
        for schedule in options.schedules:
            began = time.monotonic()
            for found in _tune(base, manifests, options, schedule, seed):
                line = {"dataset": options.dataset, "schedule": schedule, "seed": seed, **found}
                print(json.dumps({**line, "seconds": round(time.monotonic() - began)}), flush=True)
    return 0


def _tune(
    base: Path, manifests: data.Manifests, options: argparse.Namespace, schedule: str, seed: int
) -> list[dict[str, Any]]:
    """Return what one training comes to after a third of its epochs and in the end, the best epoch kept."""
    work, third = options.work.resolve(), options.epochs // 3
    config, output = work / f"schedule-{schedule}.toml", work / f"schedule-{schedule}-{seed}.safetensors"
    text = f"[training]\n{SCHEDULES[schedule]}\npatience = {options.epochs}\n"
    text += f"crop = {options.crop}\nvalidate_every = {options.every}\n"
    config.write_text(text, encoding="utf-8")
    job = FinetuneJob(
        str(base), str(output), manifest=str(manifests.train), config=str(config), seed=seed, epochs=options.epochs,
        device="cpu", forest=False, detail=False, overwrite=True, resume=False,
    )  # fmt: skip

    best: dict[str, torch.Tensor] = {}

    def hear(event: Event) -> None:
        if event["event"] == "metrics" and event["epoch"] == third:
            tensors = safetensors.torch.load_file(part_path(str(output)))
            best.update({name.removeprefix("best/"): item for name, item in tensors.items() if name[:5] == "best/"})

    history = run(job, Reporter(hear))["history"]
    card, model = load(str(output))
    found = []
    for stop in (options.epochs, third):
        if stop == third:
            model.load_state_dict(best)
        validated = max(entry["miou"] for entry in history[:stop] if "miou" in entry)
        tested = _scores(_test(model, card, manifests.test))["miou"]
        found.append({"stop": stop, "validation": round(validated, 4), "test": tested})
    return found


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--work", type=Path, default=ROOT / ".cache" / "evidence", help="where checkpoints go")
    parser.add_argument("--dataset", default="unseen_433D")
    parser.add_argument("--schedules", nargs="+", choices=SCHEDULES, default=list(SCHEDULES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--crop", type=int, default=96, help="side in pixels; smaller ones take less time")
    parser.add_argument("--every", type=int, default=1, help="epochs between validations, a divisor of a third of all")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
