# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: `lacuna segment`, `train`, `finetune`, `evaluate`, `scenarios`, `describe`, `fetch` and the others.

See `docs/commands.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn, TypeVar

from . import events, options, worker
from .checkpoint.card_file import read_card
from .checkpoint.header import sha256
from .checkpoint.summary import card_in_words
from .console import JsonLines, Terminal, abandon, conclude, obey_signals
from .errors import LacunaError, UsageError, disk_error
from .events import Reporter
from .jobs import (
    DEVICES,
    ENCODERS,
    EVALUATED,
    METHODS,
    NETWORKS,
    PRECISIONS,
    PRESETS,
    PROBABILITY_TYPES,
    PROTOCOLS,
    STRATEGIES,
    CatalogueJob,
    EvaluateJob,
    FetchJob,
    FinetuneJob,
    ImportJob,
    Job,
    MergeJob,
    ScenariosJob,
    SegmentJob,
    SourceSpec,
    TrainJob,
)
from .models.names import MODULES as ARCHITECTURES
from .run import run
from .version import __version__

T = TypeVar("T")
# The options that together say which raster is bound to which modality.
_SOURCE = ("modality", "bands", "nodata", "mask", "offset", "scale")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: that of the process) and return the exit status: 0, 1, 2 or 130."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Before torch is loaded: its threads would else spin while they wait for each other. Beside other programs, such as
    # QGIS, that made an evaluation nine times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    cancelled = threading.Event()
    listener = JsonLines(sys.stdout, cancelled) if "--json" in arguments else Terminal(cancelled)
    # A class name that the terminal's encoding lacks must not end a job.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        chosen = _parser().parse_args(_join_negative(arguments))
    except UsageError as problem:
        listener(events.error(problem))
        return problem.exit_status
    except SystemExit as ending:  # --help and --version
        return int(ending.code or 0)
    if chosen.command == "worker":
        return worker.main()
    if chosen.command == "describe":
        return _describe(chosen, listener)
    reporter = Reporter(listener, cancelled)
    with obey_signals(cancelled):
        return conclude(lambda: events.result(**run(_checked(_job(chosen)), reporter)), reporter)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are ours: one line, exit status 2."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError with argparse's `message`."""
        raise UsageError("usage", f"{message[:1].upper()}{message[1:]}.", f"See: {self.prog} --help")


def _parser() -> _Parser:
    parser = _Parser(
        prog="lacuna",
        description="Classify a scene from several rasters at once; any of them may be missing.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"lacuna {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_segment(commands.add_parser("segment", help="classify a scene", allow_abbrev=False))
    _add_train(commands.add_parser("train", help="train a model on the scenes of a manifest", allow_abbrev=False))
    _add_finetune(commands.add_parser("finetune", help="train a checkpoint further on an area", allow_abbrev=False))
    _add_evaluate(commands.add_parser("evaluate", help="measure a checkpoint against labels", allow_abbrev=False))
    _add_scenarios(
        commands.add_parser("scenarios", help="measure how far missing modalities move the latent", allow_abbrev=False)
    )
    described = commands.add_parser("describe", help="print what the card of a checkpoint says", allow_abbrev=False)
    described.add_argument("checkpoint", metavar="CHECKPOINT", type=_path)
    described.add_argument("--json", action="store_true", help="print the card as one line of JSON")
    _add_merge(commands.add_parser("merge", help="merge adapters into their checkpoint", allow_abbrev=False))
    _add_import(commands.add_parser("import", help="turn published weights into a checkpoint", allow_abbrev=False))
    _add_fetch(commands.add_parser("fetch", help="get a checkpoint from a catalogue", allow_abbrev=False))
    _add_catalogue(commands.add_parser("catalogue", help="make a catalogue of checkpoints", allow_abbrev=False))
    commands.add_parser(
        "worker",
        help="run one job, given as a line of JSON on standard input; events go to standard output",
        allow_abbrev=False,
    )
    return parser


def _add_segment(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(job=SegmentJob)
    _add_checkpoint(parser)
    _add_sources(parser)
    outputs = parser.add_argument_group("outputs")
    outputs.add_argument("--output", required=True, type=_path, metavar="F", help="the map of classes, a GeoTIFF")
    outputs.add_argument("--confidence", type=_path, metavar="F", help="of the winning class, in per cent")
    outputs.add_argument("--probabilities", type=_path, metavar="F", help="one band for each class")
    outputs.add_argument("--probabilities-dtype", choices=PROBABILITY_TYPES, default="uint8", help="default: uint8")
    outputs.add_argument("--evidence", type=_path, metavar="F", help="the modalities used at each pixel")
    outputs.add_argument("--record", type=_path, metavar="F", help="run record; default: OUTPUT.json")
    _add_overwrite(outputs)
    grid = parser.add_argument_group("grid; default: that of the checkpoint's reference modality")
    grid.add_argument("--extent", type=_extent, metavar="XMIN,YMIN,XMAX,YMAX|union|intersection")
    grid.add_argument("--extent-crs", metavar="CRS", help="CRS of the numbers in --extent; default: that of the output")
    grid.add_argument("--crs", metavar="CRS", help="of the output, such as EPSG:32722")
    grid.add_argument("--resolution", type=float, metavar="R", help="pixel size, in units of the output's CRS")
    grid.add_argument("--reference", metavar="NAME", help="the modality whose grid the output follows")
    grid.add_argument("--area", type=_path, metavar="F", help="polygons; the rest becomes nodata")
    compute = parser.add_argument_group("computation")
    _add_tiles(compute)
    compute.add_argument("--batch-size", type=int, metavar="N", help="tiles computed at once; memory grows with it")
    _add_device(compute)
    compute.add_argument("--precision", choices=PRECISIONS, default="auto", help="default: auto")
    _add_resume(compute)
    _add_json(compute)


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(job=EvaluateJob)
    _add_checkpoint(parser)
    _add_sources(parser)
    labels = _add_labels(parser)
    labels.add_argument("--split", choices=EVALUATED, help="default: test, or all if no scene names a split")
    add = parser.add_argument_group("classes; default: values and names as in the checkpoint").add_argument
    add("--class-map", type=_read(options.goals), default={}, metavar="V=CLASS,...", help="label values to classes")
    add("--ignore", type=_read(options.values), default=[], metavar="V,...", help="label values without a class")
    add = parser.add_argument_group("what is measured").add_argument
    add("--protocol", choices=PROTOCOLS, default="subsets", help="default: subsets")
    add("--no-gaussian", type=_read(options.names), default=[], metavar="NAME,...", help="without Gaussian noise in nm")
    add("--seed", type=int, default=0, metavar="N", help="seed of the damage in emm, rmm and nm; default: 0")
    add("--area-estimates", action="store_true", help="areas of the classes with 95 %% intervals")
    add("--soft-jaccard", action="store_true", help="also the soft Jaccard index of the probabilities, by tile")
    outputs = parser.add_argument_group("outputs")
    outputs.add_argument("--report", type=_path, metavar="F", help="an HTML page; F.json beside it has the numbers")
    outputs.add_argument("--update-card", action="store_true", help="write the scores into the checkpoint's card")
    _add_overwrite(outputs)
    compute = parser.add_argument_group("computation")
    _add_tiles(compute)
    _add_device(compute)
    _add_json(compute)


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(job=TrainJob)
    add = parser.add_argument
    add("manifest", metavar="MANIFEST", type=_path, help="the scenes, modalities and classes (TOML)")
    add("--architecture", required=True, choices=list(ARCHITECTURES), metavar="A", help=", ".join(ARCHITECTURES))
    add("--output", default="", type=_path, metavar="C", help="the checkpoint, a .safetensors file")
    add("--config", type=_path, metavar="F", help="settings of the architecture (TOML)")
    add("--encoder", metavar="NAME", help="such as resnet_small or pvt_v2_b0")
    add("--encoder-weights", type=_path, metavar="F", help="an encoder file to start from, or none")
    add("--preset", choices=PRESETS, default="default", help="settings of training; default: default")
    add("--seed", type=int, default=0, metavar="N", help="default: 0")
    add("--epochs", type=int, metavar="N", help="default: the preset's")
    add("--no-detail", dest="detail", action="store_false", help="leave the network without a detail path")
    add("--forest", action="store_true", help="grow a random forest on the same labels to compare with")
    add("--report", type=_path, metavar="R", help="a page with curves, scores and the split (HTML)")
    add("--plan", dest="plan_only", action="store_true", help="say how it would be trained, and train nothing")
    _add_device(parser)
    _add_overwrite(parser)
    _add_resume(parser)
    _add_json(parser)


def _add_import(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(job=ImportJob)
    add = parser.add_argument
    known = [*NETWORKS, *ENCODERS]
    add("network", choices=known, metavar="NETWORK", help=f"what the weights are of: {', '.join(known)}")
    add("weights", metavar="WEIGHTS", type=_path, help="a .pt, .pth, .ckpt or .safetensors file")
    add("--card", type=_path, metavar="F", help="modalities and classes (JSON); needed for dis2 and cmx")
    add("--output", required=True, type=_path, metavar="C", help="a checkpoint, or an encoder file; .safetensors")
    _add_overwrite(parser)
    _add_json(parser)


def _add_merge(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(job=MergeJob)
    _add_checkpoint(parser, "the checkpoint that was fine-tuned")
    add = parser.add_argument
    add(
        "--adapters",
        required=True,
        type=_path,
        metavar="F",
        help="what a fine-tuning by LoRA wrote (.lora.safetensors)",
    )
    add("--output", required=True, type=_path, metavar="C2", help="the fine-tuned checkpoint")
    _add_overwrite(parser)
    _add_json(parser)


def _add_fetch(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(job=FetchJob)
    add = parser.add_argument
    text = "a checkpoint of the catalogue, or the address of a catalogue that has one alone"
    add("name", nargs="?", default="", metavar="NAME|ADDRESS", type=_path, help=text)
    text = "address, file or folder of the catalogue; default: the project's own"
    add("--catalogue", default="", type=_path, metavar="A", help=text)
    add("--output", default="", type=_path, metavar="FOLDER", help="default: your folder of checkpoints")
    add("--list", dest="list_only", action="store_true", help="show what there is, or one card, and fetch nothing")
    add("--accept-licence", action="store_true", help="the licence of this checkpoint was read and is accepted")
    _add_overwrite(parser)
    _add_json(parser)


def _add_catalogue(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(job=CatalogueJob)
    add = parser.add_argument
    add("folder", metavar="FOLDER", type=_path, help="where the checkpoints lie")
    add("--output", default="", type=_path, metavar="F", help="default: catalogue.json in the folder")
    add("--base", default="", metavar="A", help="address of the checkpoints; default: beside the catalogue")
    _add_overwrite(parser)
    _add_json(parser)


def _add_finetune(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(job=FinetuneJob)
    _add_checkpoint(parser, "the model to start from; it stays as it is")
    _add_sources(parser)
    _add_labels(parser)
    add = parser.add_argument_group("classes; default: values and names as in the checkpoint").add_argument
    add("--class-map", type=_read(options.pairs), default={}, metavar="V=NAME,...", help="label values to classes")
    add("--merge", type=_read(options.pairs), default={}, metavar="NAME=NAME,...", help="classes to classes")
    add("--drop", type=_read(options.names), default=[], metavar="NAME,...", help="classes to remove")
    learning = parser.add_argument_group("training")
    add = learning.add_argument
    add("--strategy", choices=STRATEGIES, default="uniform", help="which scenarios are trained; default: uniform")
    add("--latent-preset", choices=PRESETS, default="default", help="default: default")
    add("--weights", type=_read(options.numbers), metavar="P,...", help="of the scenarios, for the strategy weights")
    add("--method", choices=METHODS, default="full", help="what is trained; default: full")
    add("--config", type=_path, metavar="F", help="further settings (TOML)")
    add("--seed", type=int, default=0, metavar="N", help="default: 0")
    add("--epochs", type=int, metavar="N", help="at most; default: 30")
    _add_device(learning)
    _add_resume(learning)
    outputs = parser.add_argument_group("outputs")
    add = outputs.add_argument
    add("--output", default="", type=_path, metavar="C2", help="the new checkpoint, a .safetensors file")
    add("--report", type=_path, metavar="R", help="a page with curves, scores and the split (HTML)")
    add("--plan", dest="plan_only", action="store_true", help="say how it would be trained, and train nothing")
    add("--no-forest", dest="forest", action="store_false", help="grow no random forest to compare with")
    add("--no-detail", dest="detail", action="store_false", help="leave the network without a detail path")
    add("--keep-best", action="store_true", help="when cancelled, write the best checkpoint so far")
    _add_overwrite(outputs)
    _add_json(outputs)


def _add_scenarios(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(job=ScenariosJob)
    _add_checkpoint(parser)
    _add_sources(parser)
    _add_manifest(parser)
    parser.add_argument("--preset", choices=PRESETS, default="default", help="for latent guidance; default: default")
    _add_device(parser)
    _add_json(parser)


def _add_checkpoint(parser: argparse.ArgumentParser, text: str = "the model") -> None:
    parser.add_argument("--checkpoint", required=True, type=_path, metavar="C", help=text)


def _add_labels(parser: argparse.ArgumentParser) -> Any:
    """Add the options for the labels of one scene, or a manifest, and return their group."""
    group = parser.add_argument_group("labels of these rasters, or the scenes of a manifest")
    group.add_argument("--labels", type=_path, metavar="L", help="polygons (with --field), or a raster of class values")
    group.add_argument("--field", metavar="F", help="field of the polygons with class names or values")
    _add_manifest(group)
    return group


def _add_manifest(parser: Any) -> None:
    parser.add_argument("--manifest", type=_path, metavar="M", help="scenes (TOML), instead of rasters and labels")


def _add_tiles(parser: Any) -> None:
    parser.add_argument("--tile", type=_read(options.tile), metavar="N|H,W", help="pixels; default: the checkpoint's")
    parser.add_argument("--overlap", type=int, metavar="N", help="of tiles, in pixels; default: from the checkpoint")


def _add_device(parser: Any) -> None:
    parser.add_argument("--device", default="auto", metavar="D", help=f"{DEVICES}; default: auto")


def _add_overwrite(parser: Any) -> None:
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist")


def _add_resume(parser: Any) -> None:
    parser.add_argument("--no-resume", dest="resume", action="store_false", help="do not resume an unfinished run")


def _add_json(parser: Any) -> None:
    parser.add_argument("--json", action="store_true", help="write events as lines of JSON, the result last")


def _add_sources(parser: argparse.ArgumentParser) -> None:
    _add_repeated(parser, "--modality", "NAME=F", "bind a raster to a modality of the checkpoint")
    _add_repeated(parser, "--bands", "NAME=B,...", "its bands, numbers from 1 or names, in the checkpoint's order")
    _add_repeated(parser, "--nodata", "NAME=V", "the value that means no data")
    _add_repeated(parser, "--mask", "NAME=F", "a raster whose non-zero pixels are invalid, such as clouds")
    _add_repeated(parser, "--offset", "NAME=V", "what is added to its values, such as -1000 for Sentinel-2")
    _add_repeated(parser, "--scale", "NAME=V", "what its values are multiplied by, before the offset is added")


def _add_repeated(parser: argparse.ArgumentParser, option: str, metavar: str, text: str) -> None:
    parser.add_argument(option, action="append", default=[], type=_pair, metavar=metavar, help=f"{text}; repeatable")


def _job(chosen: argparse.Namespace) -> Job:
    """Return the job that the options of a command ask for: fields of the job as they stand, and its rasters."""
    fields = {key: value for key, value in vars(chosen).items() if key not in ("command", "job", "json", *_SOURCE)}
    if "modality" in chosen:
        fields["modalities"] = _sources(chosen)
    return chosen.job(**fields)


def _sources(chosen: argparse.Namespace) -> dict[str, SourceSpec]:
    """Return the rasters that the options bind, by modality."""
    paths = _named("--modality", chosen.modality, _path)
    extras: dict[str, dict[str, Any]] = {
        "bands": _named("--bands", chosen.bands, options.bands),
        "nodata": _named("--nodata", chosen.nodata, options.number),
        "mask": _named("--mask", chosen.mask, _path),
        "offset": _named("--offset", chosen.offset, options.number),
        "scale": _named("--scale", chosen.scale, options.number),
    }
    for option, values in extras.items():
        stray = [name for name in values if name not in paths]
        if stray:
            given = ", ".join(paths) or "none"
            raise UsageError(
                "usage",
                f"--{option} names {', '.join(stray)}, which no --modality gives.",
                f"Modalities given: {given}.",
            )
    return {
        name: SourceSpec(path, **{option: values.get(name) for option, values in extras.items()})
        for name, path in paths.items()
    }


def _checked(job: Job) -> Job:
    """Return `job`, checked; the check for no modality is left to the card, which names those that it knows."""
    if not isinstance(job, SegmentJob) or job.modalities:
        job.check()
    return job


def _describe(chosen: argparse.Namespace, listener: Callable[[events.Event], None]) -> int:
    """Print the card of a checkpoint."""
    try:
        card = read_card(chosen.checkpoint)
        try:
            checksum = sha256(chosen.checkpoint)
        except OSError as problem:
            raise disk_error(problem, chosen.checkpoint) from None
    except LacunaError as problem:
        listener(events.error(problem))
        return problem.exit_status
    text = card_in_words(card, chosen.checkpoint, checksum)
    try:
        print(json.dumps({**card.to_dict(), "sha256": checksum}) if chosen.json else text, flush=True)
    except BrokenPipeError:
        abandon(sys.stdout)
    return 0


def _named(option: str, pairs: Iterable[tuple[str, str]], convert: Callable[[str], T]) -> dict[str, T]:
    """Return the values of a repeated `option` by name."""
    values: dict[str, T] = {}
    for name, text in pairs:
        if name in values:
            raise UsageError("usage", f"{option} gives {name} twice.", "Give each modality once.")
        try:
            values[name] = convert(text)
        except (ValueError, argparse.ArgumentTypeError) as problem:
            found = f"{option} {name}={text} cannot be read: {problem}."
            raise UsageError("usage", found, "Check the value.") from None
    return values


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals or not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=VALUE")
    return name, value


def _path(text: str) -> str:
    # A shell leaves the ~ of NAME=~/file as it is.
    return os.path.expanduser(text)


def _read(read: Callable[[str], T]) -> Callable[[str], T]:
    """Return `read` for argparse, which then says in the words of its ValueError what is wrong."""

    def convert(text: str) -> T:
        try:
            return read(text)
        except ValueError as problem:
            raise argparse.ArgumentTypeError(str(problem)) from None

    return convert


def _extent(text: str) -> list[float] | str:
    if text in ("union", "intersection"):
        return text
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 4:
        raise argparse.ArgumentTypeError(f"{text!r} is neither union, intersection nor XMIN,YMIN,XMAX,YMAX")
    return numbers


def _join_negative(arguments: Sequence[str]) -> list[str]:
    """Return `arguments` with `--extent -1,0,2,3` as `--extent=-1,0,2,3`: argparse would take -1,... for an option."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] == "--extent" and re.match(r"-[\d.]", argument):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined
