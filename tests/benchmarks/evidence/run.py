# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure the evidence: train each cell and what it is compared with, test them alike, add each result to a file.

    make evidence DATA=FOLDER          or .venv/bin/python -m lacuna.tests.benchmarks.evidence.run --data FOLDER

FOLDER holds `tree_crowns`, `landcover_s2_s1_dem`, `floods_s1` and `ign_vhr`. A cell with results is not run again, so
that the command may be broken off and given anew; two may run at once if `--only` keeps their cells apart. `table.py`
makes the tables of `docs/evidence.md`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lacuna.engine.checkpoint.card import Card, Scenario
from lacuna.engine.checkpoint.store import load
from lacuna.engine.data.labelled_scenes import LabelledScene, assign_regions, close_scenes, open_scenes
from lacuna.engine.data.manifest import read_manifest
from lacuna.engine.data.manifest_fit import fit_manifest
from lacuna.engine.data.splits import TEST, TRAIN
from lacuna.engine.errors import LacunaError
from lacuna.engine.events import Event, Reporter
from lacuna.engine.jobs import FinetuneJob, TrainJob
from lacuna.engine.models.joined import Joined
from lacuna.engine.run import run
from lacuna.engine.training.recipe import read_recipe
from lacuna.engine.training.samples import gather_samples
from lacuna.engine.training.session import Session
from lacuna.engine.training.validation import Evaluator, Tally

from ..strategies import data as strategies
from ..strategies import protocol as small
from . import data, networks, protocol
from .protocol import DATASETS, NETWORKS, RIVALS, SCRATCH_EPOCHS, AnyCell, Cell, NetworkCell
from .rivals import Rival

ROOT = Path(__file__).resolve().parents[3]
STORED = Path(__file__).with_name("results.jsonl")
CPU = torch.device("cpu")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is left of the queue; return 1 if a cell failed."""
    options = _parse(arguments)
    done = _done(read(options.results), options.scratch)
    cells, failed = protocol.pending(protocol.queue(), done, options.only), 0
    if options.list:
        print("\n".join(map(str, cells)))
        return 0
    torch.set_num_threads(options.threads)
    for cell in cells:
        try:
            if options.scratch and isinstance(cell, Cell):
                records = [_from_scratch(cell, options.data, options.work)]
            else:
                records = measure(cell, options.data, options.work)
        except LacunaError as problem:
            failed += 1
            print(f"{cell} failed: {problem.text} {problem.hint}", file=sys.stderr, flush=True)
            continue
        with options.results.open("a", encoding="utf-8") as stream:
            stream.writelines(json.dumps(record) + "\n" for record in records)
        for record in records:
            print(f"{cell} {record.get('method', ''):9} mIoU {record['miou']:.3f} OA {record['oa']:.3f}", flush=True)
    return int(failed > 0)


def read(path: Path) -> list[dict[str, Any]]:
    """Return the results in a file; none where there is no file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _done(records: Sequence[Mapping[str, Any]], scratch: bool) -> set[AnyCell]:
    """Return the cells that need no more; with `scratch` those that have that method, are not begun, or need none."""
    begun = {protocol.cell_of(item) for item in records}
    if not scratch:
        return begun
    has = {protocol.cell_of(item) for item in records if item.get("method") == protocol.SCRATCH}
    lack = {cell for cell in begun - has if isinstance(cell, Cell) and DATASETS[cell.dataset].base}
    return set(protocol.queue()) - lack


def measure(cell: AnyCell, folder: Path, work: Path) -> list[dict[str, Any]]:
    """Return the results of one cell, one for each method.

    Raises:
        LacunaError: a job failed.
    """
    return _network(cell, folder, work) if isinstance(cell, NetworkCell) else _methods(cell, folder, work)


def _network(cell: NetworkCell, folder: Path, work: Path) -> list[dict[str, Any]]:
    """Return the result of a network."""
    manifest = data.together(data.prepare(cell.dataset, folder, work), work / f"{cell.dataset}-networks.toml")
    found = networks.measure(cell, manifest, work, Reporter(_say))
    told = {"validation": found.validation, "best_epoch": found.best_epoch, "parameters": found.parameters}
    seconds = round(found.seconds, 1)
    return [{"kind": NETWORKS, **cell._asdict(), **_scores(found.tested), **told, "seconds": seconds}]


def _methods(cell: Cell, folder: Path, work: Path) -> list[dict[str, Any]]:
    """Return the results of all methods on the labels of a cell."""
    manifests, labels = _labels_of(cell, folder, work)
    output, began = work / f"{cell.dataset}-{cell.amount or 'all'}-{cell.seed}.safetensors", time.monotonic()
    if manifests.base is not None:
        base = _base(cell.dataset, manifests.base, work)
        _run(FinetuneJob(str(base), str(output), manifest=str(labels), seed=cell.seed, device="cpu", forest=False,
                         overwrite=True))  # fmt: skip
    else:
        _run(TrainJob(str(labels), "sgma", str(output), seed=cell.seed, epochs=SCRATCH_EPOCHS, device="cpu",
                      overwrite=True))  # fmt: skip
    seconds = {"lacuna": time.monotonic() - began}
    card, model = load(str(output))
    models: dict[str, nn.Module] = {"lacuna": model}
    if isinstance(model, Joined):
        models |= {"network": model.network, "detail": model.detail}
    for name in RIVALS:
        began = time.monotonic()
        models[name] = _rival(name, card, labels, cell.seed)
        seconds[name] = time.monotonic() - began
    records = [
        {**cell._asdict(), "method": name, **_scores(tested), "seconds": round(seconds.get(name, 0.0), 1)}
        for name, tested in ((name, _test(item, card, manifests.test)) for name, item in models.items())
    ]
    return records if manifests.base is None else [*records, _from_scratch(cell, folder, work)]


def _from_scratch(cell: Cell, folder: Path, work: Path) -> dict[str, Any]:
    """Return the result of the base's architecture trained from random weights on the labels of a cell.

    All but the network's sizes and the number of epochs is as `lacuna train` does it, the detail path too.
    """
    manifests, labels = _labels_of(cell, folder, work)
    output, config = (work / f"{cell.dataset}-{cell.amount or 'all'}-{cell.seed}-scratch{end}" for end in (
        ".safetensors", ".toml"))  # fmt: skip
    model = small.base_config("sgma", _kind(cell.dataset))["model"]
    config.write_text(strategies.config_text({"model": model}), encoding="utf-8")
    began = time.monotonic()
    _run(TrainJob(str(labels), "sgma", str(output), config=str(config), seed=cell.seed, epochs=SCRATCH_EPOCHS,
                  encoder_weights="none", device="cpu", overwrite=True))  # fmt: skip
    seconds = round(time.monotonic() - began, 1)
    card, trained = load(str(output))
    scores = _scores(_test(trained, card, manifests.test))
    return {**cell._asdict(), "method": protocol.SCRATCH, **scores, "seconds": seconds}


def _labels_of(cell: Cell, folder: Path, work: Path) -> tuple[data.Manifests, Path]:
    """Return the manifests of a cell's data set, and the one with the labels of the cell."""
    dataset, manifests = DATASETS[cell.dataset], data.prepare(cell.dataset, folder, work)
    if cell.amount is None:
        return manifests, manifests.train
    return manifests, data.thinned(manifests.train, cell.amount, dataset.side, cell.seed, work)


def _base(dataset: str, manifest: Path, work: Path) -> Path:
    """Return the checkpoint that a data set is fine-tuned from, trained elsewhere; made if it is not there yet."""
    output = work / f"{dataset}-base.safetensors"
    if not output.exists():
        kind = _kind(dataset)
        config = work / f"{kind}-base-config.toml"
        config.write_text(strategies.config_text(small.base_config("sgma", kind)), encoding="utf-8")
        _run(TrainJob(str(manifest), "sgma", str(output), config=str(config), device="cpu", detail=False))
    return output


def _kind(dataset: str) -> str:
    """Return by which settings of the comparison of strategies the base of a data set is made."""
    return "tree_crowns" if dataset == "tree_crowns" else "landcover_s2_s1_dem"


def _rival(name: str, card: Card, manifest: Path, seed: int) -> Rival:
    """Return an opponent fitted to every label of a manifest."""
    scenes = _opened(card, manifest)
    try:
        for scene in scenes:
            scene.region[:] = TRAIN
        recipe = read_recipe(TrainJob(str(manifest), "sgma", ""), card.names)
        session = Session(scenes, card.modalities, card.classes, recipe, CPU, seed, Reporter(_say))
        return Rival(name, gather_samples(session), card.supported(), len(card.classes), seed)
    finally:
        close_scenes(scenes)


def _test(model: nn.Module, card: Card, manifest: Path) -> dict[Scenario, Tally]:
    """Return what a model does in every scenario on the test ground."""
    scenes = _opened(card, manifest)
    try:
        evaluator = Evaluator(scenes, TEST, card.supported(), len(card.classes), 256, 64, 32)
        return evaluator(model, CPU, Reporter(_say))
    finally:
        close_scenes(scenes)


def _opened(card: Card, manifest: Path) -> list[LabelledScene]:
    """Return the scenes of a manifest, divided as it says and scaled as the card says."""
    reporter = Reporter(_say)
    fitted = fit_manifest(read_manifest(str(manifest)), card, reporter)
    scenes = open_scenes(fitted, reporter)
    assign_regions(scenes, fitted, reporter)
    for scene in scenes:
        scene.prepare(card.modalities)
    return scenes


def _scores(tested: dict[Scenario, Tally]) -> dict[str, Any]:
    """Return the scores of each scenario, over the classes that the test labels hold, and their means."""
    cases = []
    for scenario, tally in tested.items():
        counts = tally.matrix.counts
        right = float(counts.diagonal().sum() / counts.sum())
        cases.append(
            {"available": list(scenario), "miou": round(tally.matrix.miou_of_known(), 4), "oa": round(right, 4)}
        )
    means = {key: round(sum(case[key] for case in cases) / len(cases), 4) for key in ("miou", "oa")}
    return {**means, "cases": cases}


def _run(job: FinetuneJob | TrainJob) -> dict[str, Any]:
    return run(job, Reporter(_say))


def _say(event: Event) -> None:
    """Print nothing: warnings of hundreds of trainings would hide the results."""


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--work", type=Path, default=ROOT / ".cache" / "evidence", help="where checkpoints go")
    parser.add_argument("--results", type=Path, default=STORED, help="default: the results in the repository")
    parser.add_argument(
        "--only", action="append", default=[], help="DATASET/AMOUNT/SEED or networks/DATASET/VARIANT/SEED, with * and ?"
    )
    parser.add_argument(
        "--scratch", action="store_true", help="measure nothing but the method scratch, in cells that lack it"
    )
    parser.add_argument("--threads", type=int, default=1, help="of the CPU; other numbers give other last bits")
    parser.add_argument("--list", action="store_true", help="print what is left to do, and do nothing")
    options = parser.parse_args(arguments)
    options.data, options.work = options.data.resolve(), options.work.resolve()
    return options


if __name__ == "__main__":
    sys.exit(main())
