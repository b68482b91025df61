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

import torch

from lacuna.engine.checkpoint.store import load
from lacuna.engine.events import Event, Reporter
from lacuna.engine.jobs import FinetuneJob
from lacuna.engine.run import run

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
            for stop in (options.epochs // 3, options.epochs):
                began = time.monotonic()
                found = _tune(base, manifests, options, schedule, seed, stop)
                line = {"dataset": options.dataset, "schedule": schedule, "seed": seed, "stop": stop, **found}
                print(json.dumps({**line, "seconds": round(time.monotonic() - began)}), flush=True)
    return 0


def _tune(
    base: Path, manifests: data.Manifests, options: argparse.Namespace, schedule: str, seed: int, stop: int
) -> dict[str, Any]:
    """Return what one training comes to that is stopped after epoch `stop`."""
    work = options.work.resolve()
    config, output = work / f"schedule-{schedule}.toml", work / "schedule.safetensors"
    config.write_text(f"[training]\n{SCHEDULES[schedule]}\npatience = {options.epochs}\n", encoding="utf-8")
    job = FinetuneJob(
        str(base), str(output), manifest=str(manifests.train), config=str(config), seed=seed, epochs=options.epochs,
        device="cpu", forest=False, detail=False, keep_best=True, overwrite=True, resume=False,
    )  # fmt: skip

    def hear(event: Event) -> None:
        if event["event"] == "metrics" and event["epoch"] == stop < options.epochs:
            reporter.cancelled.set()

    reporter = Reporter(hear)
    result = run(job, reporter)
    card, model = load(str(output))
    tested = _scores(_test(model, card, manifests.test))["miou"]
    validated = max(entry["miou"] for entry in result["history"])
    return {"best_epoch": result["best_epoch"], "validation": round(validated, 4), "test": tested}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--work", type=Path, default=ROOT / ".cache" / "evidence", help="where checkpoints go")
    parser.add_argument("--dataset", default="unseen_433D")
    parser.add_argument("--schedules", nargs="+", choices=SCHEDULES, default=list(SCHEDULES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--epochs", type=int, default=30)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
