# SPDX-License-Identifier: GPL-2.0-or-later
"""Compare the strategies of fine-tuning: train the bases, fine-tune and test each cell, add each result to a file.

    .venv/bin/python -m lacuna.tests.benchmarks.strategies.run --data FOLDER [--only sgma/tree_crowns/uniform] [--list]

FOLDER holds `tree_crowns` and `landcover_s2_s1_dem`. A cell with a result is not run again, so that the command may be
broken off and given anew; two of them may run at once if `--only` keeps their cells apart. `docs/strategies.md` tells
the protocol, `table.py` makes its tables.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lacuna.engine.checkpoint.header import sha256
from lacuna.engine.errors import LacunaError
from lacuna.engine.events import Event, Reporter
from lacuna.engine.jobs import EvaluateJob, FinetuneJob, Job, TrainJob
from lacuna.engine.run import run
from lacuna.engine.runtime.versions import library_versions

from . import data, protocol, results
from .protocol import BASE, STRATEGIES, Cell

ROOT = Path(__file__).resolve().parents[3]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is left of the queue; return 1 if a cell failed."""
    options = _parse(arguments)
    done = {results.cell_of(record) for record in results.read(options.results)}
    cells = protocol.pending(protocol.queue(), done, options.only)
    if options.list:
        print("\n".join(map(str, cells)))
        return 0
    torch.set_num_threads(options.threads)
    bench, failed = Bench(options.data, options.work, options.results, options.device), 0
    for number, cell in enumerate(cells, 1):
        began = time.monotonic()
        try:
            found = results.scores(bench.measure(cell))
        except LacunaError as problem:
            failed += 1
            print(f"{cell} failed: {problem.text} {problem.hint}", file=sys.stderr, flush=True)
            continue
        told = ", ".join(f"{name} {value:.1f}" for name, value in found.items())
        print(f"{number} of {len(cells)}: {cell}: {told} ({time.monotonic() - began:.0f} s)", flush=True)
    return int(failed > 0)


class Bench:
    """Runs cells with the product's own jobs, in this process.

    Args:
        folder: where the data sets lie.
        work: where manifests and checkpoints go; bases are kept there.
        path: the file of results.
        device: where to compute.
    """

    def __init__(self, folder: Path, work: Path, path: Path, device: str) -> None:
        self.folder, self.work, self.path, self.device = folder, work, path, device
        self._manifests: dict[str, data.Manifests] = {}
        work.mkdir(parents=True, exist_ok=True)

    def measure(self, cell: Cell) -> dict[str, Any]:
        """Fine-tune and test one cell, add the result to the file and return it.

        Raises:
            LacunaError: a job failed.
        """
        base, manifests = self.base(cell.architecture, cell.dataset), self._prepare(cell.dataset)
        output = self.work / f"{cell.architecture}-{cell.dataset}-{cell.strategy}-{cell.seed}.safetensors"
        config = self._write(f"{cell.dataset}-{cell.strategy}-config.toml", protocol.written_config(cell))
        tuned = self._run(
            FinetuneJob(
                checkpoint=str(base),
                output=str(output),
                manifest=str(manifests.tune),
                drop=list(protocol.DATASETS[cell.dataset].drop),
                config=str(config),
                seed=cell.seed,
                device=self.device,
                overwrite=True,
                # Strategies differ in what the network learns; the detail path knows none of them.
                forest=False,
                detail=False,
                **STRATEGIES[cell.strategy],
            )
        )
        plan = tuned["plan"]
        record = {
            **self._test(cell, base, output, manifests),
            "epochs": tuned["epochs"],
            "best_epoch": tuned["best_epoch"],
            "validation": tuned["miou"],
            "probabilities": plan["strategy"]["probabilities"],
            "own_draws": plan["strategy"]["own_draws"],
            "weights": plan["weights"],
            "pixels": plan["pixels"],
            "tuning_seconds": tuned["seconds"],
        }
        results.append(self.path, record)
        output.unlink()
        return record

    def base(self, architecture: str, dataset: str) -> Path:
        """Return the base of a group, trained and tested if it is not there yet.

        Raises:
            SystemExit: there are results, but of another base than the one in the working folder.
        """
        output = self.work / f"{architecture}-{dataset}-base.safetensors"
        cell = Cell(architecture, dataset, BASE, -1)
        known = {results.cell_of(item): item for item in results.read(self.path)}
        if output.exists() and cell in known:
            if sha256(str(output)) != known[cell]["base"]:
                raise SystemExit(
                    f"{self.path} holds results of another base than {output}: name another file or folder."
                )
            return output
        if cell in known:
            raise SystemExit(f"{self.path} holds results, but their base {output} is not there: name another file.")
        manifests = self._prepare(dataset)
        config = self._write(f"{architecture}-{dataset}-base-config.toml", protocol.base_config(architecture, dataset))
        job = TrainJob(str(manifests.base), architecture, str(output), config=str(config), device=self.device)
        job.overwrite, job.detail = True, False
        trained = self._run(job)
        record = {
            **self._test(cell, output, output, manifests),
            "epochs": trained["epochs"],
            "best_epoch": trained["best_epoch"],
            "validation": trained["miou"],
            "tuning_seconds": trained["seconds"],
        }
        results.append(self.path, record)
        return output

    def _test(self, cell: Cell, base: Path, checkpoint: Path, manifests: data.Manifests) -> dict[str, Any]:
        """Return what a checkpoint is worth in each scenario of the test scenes."""
        side = protocol.DATASETS[cell.dataset].tile
        job = EvaluateJob(str(checkpoint), manifest=str(manifests.test), split="test", device=self.device)
        job.tile = [side, side]
        job.ignore = list(data.values_of(cell.dataset, protocol.DATASETS[cell.dataset].drop))
        found = self._run(job)
        return {
            **cell._asdict(),
            "settings": protocol.digest(cell),
            "base": sha256(str(base)),
            "classes": [{"name": item["name"], "labelled": item["labelled"]} for item in found["classes"]],
            "cases": [_case(item) for item in found["cases"]],
            "device": found["device"],
            "threads": torch.get_num_threads(),
            "versions": library_versions(),
            "test_seconds": found["seconds"],
        }

    def _prepare(self, dataset: str) -> data.Manifests:
        if dataset not in self._manifests:
            self._manifests[dataset] = data.prepare(dataset, self.folder, self.work)
        return self._manifests[dataset]

    def _write(self, name: str, config: Mapping[str, Mapping[str, Any]]) -> Path:
        path = self.work / name
        path.write_text(data.config_text(config), encoding="utf-8")
        return path

    def _run(self, job: Job) -> dict[str, Any]:
        return run(job, Reporter(_say))


def _case(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is kept of a scenario."""
    rounded = [None if value is None else round(value, 6) for value in item["iou"]]
    return {"available": item["available"], "miou": round(item["miou"], 6), "iou": rounded, "pixels": item["pixels"]}


def _say(event: Event) -> None:
    """Print warnings of a job; all else would fill the terminal."""
    if event["event"] == "message" and event["level"] == "warning":
        print(f"  {event['text']}", file=sys.stderr, flush=True)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with tree_crowns and landcover_s2_s1_dem")
    parser.add_argument("--work", type=Path, default=ROOT / ".cache" / "strategies", help="where checkpoints go")
    parser.add_argument("--results", type=Path, default=results.STORED, help="default: the results in the repository")
    parser.add_argument("--only", action="append", default=[], help="ARCHITECTURE/DATASET/STRATEGY/SEED, with * and ?")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU; other numbers give other last bits")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N or auto")
    parser.add_argument("--list", action="store_true", help="print what is left to do, and do nothing")
    options = parser.parse_args(arguments)
    options.data, options.work = options.data.resolve(), options.work.resolve()
    return options


if __name__ == "__main__":
    sys.exit(main())
