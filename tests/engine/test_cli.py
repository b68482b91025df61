# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: options to jobs, exit statuses, what is said where, and how fast it starts."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lacuna.engine import cli
from lacuna.engine.errors import CancelledError, LacunaError
from lacuna.engine.jobs import FinetuneJob, ScenariosJob, SourceSpec

ROOT = Path(__file__).resolve().parents[2]
# A process in which every job is the one whose source follows; its module stands in for training.
STAND_IN = """
import sys, types
from lacuna.engine import cli, run
module = types.ModuleType("lacuna.engine.stand_in")
exec(sys.argv[1], module.__dict__)
sys.modules[module.__name__] = module
run._WORK["train"] = (".stand_in", "train")
sys.exit(cli.main(sys.argv[2:]))
"""
TRAIN = ["train", "m.toml", "--architecture", "sgma", "--output", "o.safetensors"]
TUNE = ["finetune", "--checkpoint", "c", "--output", "o", "--modality", "a=a.tif", "--labels", "l.tif"]
WAITING = """
import os, time
def train(job, reporter):
    open(job.output + ".part", "w").close()
    reporter.info("started")
    try:
        while True:
            reporter.check()
            time.sleep(0.02)
    finally:
        os.remove(job.output + ".part")
"""


@pytest.fixture
def checkpoint(make_checkpoint):
    return make_checkpoint(
        modalities={
            "optical": {"bands": ["red", "nir"], "units": "reflectance", "resolution": [10.0, 20.0]},
            "dsm": {"bands": ["height"], "required": True},
        },
        classes=3,
        scores=[{"available": ["optical", "dsm"], "miou": 0.625}],
        scores_on="a held-out strip",
        licence="CC-BY-4.0",
        training={"epochs": 3},
    )


@pytest.fixture
def job(monkeypatch):
    """A function that returns the job to which a command line leads."""

    def read(*arguments):
        jobs = []
        monkeypatch.setattr(cli, "run", lambda job, reporter: jobs.append(job) or {})
        assert cli.main(list(arguments)) == 0
        return jobs[0]

    return read


def lacuna(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "lacuna.engine", *arguments], capture_output=True, text=True, **options
    )


def segment(*arguments):
    return ("segment", "--checkpoint", "c", "--output", "o.tif", "--modality", "a=a.tif", *arguments)


def test_segment_knows_every_option_of_the_contract(job):
    made = job(
        "segment", "--checkpoint", "c.safetensors", "--modality", "optical=s2=a.tif", "--modality", "dsm=d.tif",
        "--bands", "optical=3,2,1", "--bands", "dsm=height", "--nodata", "dsm=-9999", "--mask", "optical=clouds.tif",
        "--offset", "optical=-1000", "--scale", "dsm=0.1",
        "--output", "classes.tif", "--confidence", "f.tif", "--probabilities", "p.tif", "--probabilities-dtype",
        "float32", "--evidence", "e.tif", "--record", "r.json", "--extent", "0,1,2.5,3", "--extent-crs", "EPSG:4326",
        "--crs", "EPSG:32722", "--resolution", "10", "--reference", "dsm", "--area", "a.gpkg", "--tile", "256,128",
        "--overlap", "32", "--batch-size", "4", "--device", "cuda:1", "--precision", "bf16", "--overwrite",
        "--no-resume",
    )  # fmt: skip
    assert made.modalities == {
        "optical": SourceSpec("s2=a.tif", bands=[3, 2, 1], mask="clouds.tif", offset=-1000.0),
        "dsm": SourceSpec("d.tif", bands=["height"], nodata=-9999.0, scale=0.1),
    }
    assert list(made.modalities) == ["optical", "dsm"]
    expected = {
        "checkpoint": "c.safetensors", "output": "classes.tif", "confidence": "f.tif", "probabilities": "p.tif",
        "probabilities_dtype": "float32", "evidence": "e.tif", "record": "r.json", "extent": [0.0, 1.0, 2.5, 3.0],
        "extent_crs": "EPSG:4326", "crs": "EPSG:32722", "resolution": 10.0, "reference": "dsm", "area": "a.gpkg",
        "tile": [256, 128], "overlap": 32, "batch_size": 4, "device": "cuda:1", "precision": "bf16", "overwrite": True,
        "resume": False,
    }  # fmt: skip
    assert {name: getattr(made, name) for name in expected} == expected


def test_train_knows_every_option_of_the_contract(job):
    made = job(
        "train", "m.toml", "--architecture", "sgma", "--output", "c.safetensors", "--config", "a.toml", "--encoder",
        "pvt_v2_b0", "--encoder-weights", "e.safetensors", "--preset", "paper", "--seed", "7", "--epochs", "3",
        "--device", "cpu", "--no-detail", "--forest", "--report", "r.html", "--plan",
    )  # fmt: skip
    expected = {
        "manifest": "m.toml", "architecture": "sgma", "output": "c.safetensors", "config": "a.toml",
        "encoder": "pvt_v2_b0", "encoder_weights": "e.safetensors", "preset": "paper", "seed": 7, "epochs": 3,
        "device": "cpu", "overwrite": False, "resume": True, "detail": False,
        "forest": True, "report": "r.html", "plan_only": True,
    }  # fmt: skip
    assert vars(made) == expected


def test_import_knows_every_option_of_the_contract(job):
    made = job("import", "cmx", "~/w.pth", "--card", "c.json", "--output", "o.safetensors")
    expected = {"network": "cmx", "weights": os.path.expanduser("~/w.pth"), "card": "c.json", "overwrite": False}
    assert vars(made) == {**expected, "output": "o.safetensors"}


def test_help_of_train_names_every_architecture_without_torch():
    code = "import sys; from lacuna.engine import cli; cli.main(['train', '--help']); print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout
    assert "sgma, dis2, cmx, cbc, cbc_slp" in " ".join(said.split()) and said.strip().endswith("False")


def test_evaluate_knows_every_option_of_the_contract(job):
    made = job(
        "evaluate", "--checkpoint", "c.safetensors", "--modality", "optical=a.tif", "--bands", "optical=3,nir",
        "--mask", "optical=clouds.tif", "--labels", "l.gpkg", "--field", "kind", "--class-map",
        "1=water,Fir=2,x=a=b,?=", "--ignore", "0,-1,none", "--area-estimates", "--soft-jaccard", "--report", "r.html",
        "--update-card", "--seed", "4", "--tile", "128", "--overlap", "16", "--device", "cpu", "--overwrite",
    )  # fmt: skip
    assert made.modalities == {"optical": SourceSpec("a.tif", bands=[3, "nir"], mask="clouds.tif")}
    expected = {
        "checkpoint": "c.safetensors", "labels": "l.gpkg", "field": "kind", "ignore": [0, -1, "none"],
        "class_map": {"1": "water", "Fir": 2, "x=a": "b", "?": ""}, "manifest": None, "split": None,
        "protocol": "subsets", "area_estimates": True, "soft_jaccard": True, "report": "r.html", "update_card": True,
        "no_gaussian": [], "seed": 4, "tile": [128, 128], "overlap": 16, "device": "cpu", "overwrite": True,
    }  # fmt: skip
    assert {name: getattr(made, name) for name in expected} == expected
    made = job("evaluate", "--checkpoint", "c", "--manifest", "m.toml", "--split", "all", "--protocol", "nm",
               "--no-gaussian", "event, radar")  # fmt: skip
    assert (made.manifest, made.split, made.protocol, made.no_gaussian) == ("m.toml", "all", "nm", ["event", "radar"])
    assert made.modalities == {}


def test_finetune_knows_every_option_of_the_contract(job):
    made = job(
        "finetune", "--checkpoint", "c.safetensors", "--modality", "optical=a.tif", "--bands", "optical=3,2",
        "--labels", "l.gpkg", "--field", "kind", "--output", "d.safetensors", "--class-map",
        "1=water, 2=trees,7=,x=a=b", "--merge", "pine=conifer", "--drop", "snow, ice", "--strategy", "weights",
        "--weights", "1,2,3", "--latent-preset", "paper", "--method", "lora", "--report", "r.html", "--seed", "3",
        "--epochs", "9", "--device", "cpu", "--config", "f.toml", "--plan", "--keep-best", "--overwrite", "--no-resume",
    )  # fmt: skip
    assert made == FinetuneJob(
        "c.safetensors", "d.safetensors", {"optical": SourceSpec("a.tif", bands=[3, 2])}, "l.gpkg", "kind", None,
        {"1": "water", "2": "trees", "7": "", "x=a": "b"}, {"pine": "conifer"}, ["snow", "ice"], "weights",
        [1.0, 2.0, 3.0], "paper", "lora", "r.html", "f.toml", 3, 9, "cpu", True, True, True, False,
    )  # fmt: skip
    made = job("finetune", "--checkpoint", "c", "--manifest", "m.toml", "--output", "d")
    assert made == FinetuneJob("c", "d", manifest="m.toml")


def test_scenarios_knows_every_option_of_the_contract(job):
    made = job("scenarios", "--checkpoint", "c", "--manifest", "m.toml", "--preset", "paper", "--device", "cpu")
    assert made == ScenariosJob("c", manifest="m.toml", preset="paper", device="cpu")
    made = job("scenarios", "--checkpoint", "c", "--modality", "optical=a.tif")
    assert made == ScenariosJob("c", {"optical": SourceSpec("a.tif")})


@pytest.mark.parametrize("form", [["--extent", "-1,-2,.5,3e2"], ["--extent=-1,-2,.5,3e2"]])
def test_an_extent_may_begin_below_zero(job, form):
    assert job(*segment(*form)).extent == [-1.0, -2.0, 0.5, 300.0]


def test_other_forms_of_values(job):
    assert job(*segment("--extent", "union")).extent == "union"
    assert job(*segment("--tile", "64")).tile == [64, 64]
    assert job(*segment("--bands", "a=red, 2,B8A")).modalities["a"].bands == ["red", 2, "B8A"]
    assert job(*segment("--nodata", "a=-3.4e38")).modalities["a"].nodata == -3.4e38
    assert job("segment", "--checkpoint", "c", "--output", "o", "--modality", "a=~/x").modalities["a"].path == (
        os.path.expanduser("~/x")
    )


WRONG = {
    "no command": (),
    "unknown command": ("dance",),
    "no checkpoint": ("segment", "--output", "o.tif"),
    "a shortened option": segment("--overw"),
    "modality without file": segment("--modality", "b"),
    "modality twice": segment("--modality", "a=b.tif"),
    "bands of a modality not given": segment("--bands", "b=1"),
    "an empty band": segment("--bands", "a=1,,2"),
    "nodata no number": segment("--nodata", "a=none"),
    "extent of three": segment("--extent", "1,2,3"),
    "extent inside out": segment("--extent", "3,3,1,1"),
    "tile no number": segment("--tile", "big"),
    "tile of three": segment("--tile", "1,2,3"),
    "batch of 0": segment("--batch-size", "0"),
    "unknown device": segment("--device", "gpu"),
    "unknown precision": segment("--precision", "half"),
    "seed no number": (*TRAIN, "--seed", "x"),
    "epochs of 0": (*TRAIN, "--epochs", "0"),
    "unknown architecture": ("train", "m.toml", "--architecture", "unet", "--output", "o"),
    "unknown network": ("import", "unet", "w.pth", "--output", "o"),
    "import without card": ("import", "dis2", "w.pth", "--output", "o"),
    "import without output": ("import", "mit", "w.pth"),
    "neither labels nor manifest": ("evaluate", "--checkpoint", "c", "--modality", "a=a.tif"),
    "neither modality nor manifest": ("evaluate", "--checkpoint", "c", "--labels", "l.tif"),
    "labels and manifest": ("evaluate", "--checkpoint", "c", "--labels", "l.tif", "--manifest", "m.toml"),
    "an unknown protocol": ("evaluate", "--checkpoint", "c", "--manifest", "m", "--protocol", "all"),
    "an unknown split": ("evaluate", "--checkpoint", "c", "--manifest", "m", "--split", "holdout"),
    "a class map without classes": ("evaluate", "--checkpoint", "c", "--manifest", "m", "--class-map", "1,2"),
    "a class mapped twice": ("evaluate", "--checkpoint", "c", "--manifest", "m", "--class-map", "1=a,1=b"),
    "an empty value to ignore": ("evaluate", "--checkpoint", "c", "--manifest", "m", "--ignore", "1,,2"),
    "a class map that is none": (*TUNE, "--class-map", "1"),
    "a class mapped twice in fine-tuning": (*TUNE, "--class-map", "1=a,1=b"),
    "weights no numbers": (*TUNE, "--weights", "1,x"),
    "unknown strategy": (*TUNE, "--strategy", "best"),
    "no labels": TUNE[:-2],
    "scenarios of nothing": ("scenarios", "--checkpoint", "c"),
    "no manifest": ("train", "--architecture", "sgma", "--output", "o"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_usage_is_one_line_and_status_2(capsys, wrong):
    assert cli.main(list(WRONG[wrong])) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("lacuna: ")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("modality", ["thermal=t.tif", "optical=o.tif"])
def test_evaluate_knows_the_modalities_before_it_opens_anything(checkpoint, capsys, modality):
    arguments = ["--checkpoint", checkpoint, "--modality", modality, "--labels", "none.tif"]
    assert cli.main(["evaluate", *arguments]) == 2
    assert "dsm (required)" in capsys.readouterr().err


@pytest.mark.parametrize("modalities", [[], ["--modality", "thermal=t.tif"], ["--modality", "optical=o.tif"]])
def test_an_unknown_a_required_or_no_modality_is_status_2_and_names_the_known(checkpoint, capsys, tmp_path, modalities):
    output = tmp_path / "o.tif"
    assert cli.main(["segment", "--checkpoint", checkpoint, "--output", str(output), *modalities]) == 2
    said = capsys.readouterr()
    assert "optical" in said.err
    assert "dsm (required)" in said.err
    assert not output.exists()


def test_a_missing_checkpoint_is_status_1_and_one_clear_line(capsys):
    assert cli.main(["describe", "none.safetensors"]) == 1
    assert capsys.readouterr().err == "lacuna: The checkpoint none.safetensors does not exist. Check its path.\n"


def test_with_json_an_error_is_an_event_and_a_line(capsys):
    assert cli.main(["segment", "--checkpoint", "none", "--modality", "a=a", "--output", "o", "--json"]) == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["code"] == "file-missing"
    assert said.err.count("\n") == 1


@pytest.fixture
def stand_in(monkeypatch):
    """A function that puts another in the place of the engine."""
    return lambda function: monkeypatch.setattr(cli, "run", function)


def work(job, reporter):
    reporter.info("reading")
    reporter.warn("no CRS")
    for done in range(101):
        reporter.progress(done, 100, "tiles")
    return {"classes": job.output, "summary": {"seconds": 1}}


def test_with_json_events_are_lines_and_the_result_is_the_last(stand_in, capsys):
    stand_in(work)
    assert cli.main([*TRAIN, "--json"]) == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert said[-1] == {"event": "result", "classes": "o.safetensors", "summary": {"seconds": 1}}
    assert len(said) == 104


def test_without_a_terminal_progress_is_a_line_every_tenth(stand_in, capsys):
    stand_in(work)
    assert cli.main(TRAIN) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[0] == "reading"
    assert lines[-1] == "classes: o.safetensors"
    progress = [line for line in lines if "tiles" in line]
    assert [line.split("%")[0] for line in progress] == [str(10 * step) for step in range(11)]
    assert said.err == "Warning: no CRS\n"


def test_an_event_of_another_kind_is_passed_over(stand_in, capsys):
    stand_in(lambda job, reporter: reporter.emit({"event": "metrics", "epoch": 1}) or {})
    assert cli.main(TRAIN) == 0
    assert capsys.readouterr().out == ""


def test_on_a_terminal_progress_is_one_bar(stand_in, capsys, monkeypatch):
    stand_in(work)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert cli.main(TRAIN) == 0
    out = capsys.readouterr().out
    assert out.count("\r") == 101
    assert "[############------------]  50%  50 of 100 tiles" in out
    assert out.endswith("\nclasses: o.safetensors\n")


@pytest.mark.parametrize(("problem", "status"), [(LacunaError("a", "b"), 1), (CancelledError(), 130)])
def test_a_failure_is_status_1_and_a_cancel_130(stand_in, problem, status):
    def fail(job, reporter):
        raise problem

    stand_in(fail)
    # A shell's job in the background starts with the signal ignored.
    before = signal.getsignal(signal.SIGINT)
    assert cli.main(TRAIN) == status
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels_cleans_up_and_gives_130(tmp_path, number):
    command = [sys.executable, "-c", STAND_IN, WAITING, *TRAIN]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "started\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (out, err) == ("Cancelled.\n", "")
    assert list(tmp_path.iterdir()) == []


def test_who_no_longer_reads_cancels(tmp_path):
    talking = "def train(job, reporter):\n    while True:\n        reporter.check(); reporter.info('x' * 1000)\n"
    command = [sys.executable, "-c", STAND_IN, talking, *TRAIN, "--json"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=60) == 130
        assert process.stderr.read() == ""


def test_describe_tells_the_card_in_words(checkpoint, capsys):
    assert cli.main(["describe", checkpoint]) == 0
    out = capsys.readouterr().out
    for words in (
        "optical: red, nir, in reflectance, 10 to 20 m (may be missing)",
        "dsm: height (required)",
        "1  #1b7837  class 1",
        "mIoU for each scenario, measured on a held-out strip",
        "optical + dsm  0.625",
        "dsm            not measured",
        "licence: CC-BY-4.0",
        "epochs: 3",
    ):
        assert words in out
    assert cli.sha256(checkpoint) in out


def test_the_last_line_of_describe_as_json_is_the_card(checkpoint, capsys):
    assert cli.main(["describe", checkpoint, "--json"]) == 0
    card = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert card["architecture"]["name"] == "identity"
    assert card["modalities"][0]["bands"] == ["red", "nir"]
    assert card["modalities"][1]["required"] is True
    assert card["reference"] == "optical"
    assert card["classes"][1] == {"value": 1, "name": "class 1", "color": "#1b7837"}
    assert card["scores"] == [{"available": ["optical", "dsm"], "miou": 0.625}]
    assert card["sha256"] == cli.sha256(checkpoint)


def test_help_and_describe_load_neither_torch_nor_rasterio_nor_numpy(checkpoint, tmp_path):
    script = (
        "import sys; from lacuna.engine import cli; status = cli.main(sys.argv[1:])\n"
        "print(sorted({'torch', 'rasterio', 'numpy'} & set(sys.modules)), status)"
    )
    wrong = ["segment", "--checkpoint", checkpoint, "--modality", "thermal=t.tif", "--output", str(tmp_path / "o.tif")]
    for arguments, status in ((["--help"], 0), (["segment", "--help"], 0), (["describe", checkpoint], 0), (wrong, 2)):
        done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == f"[] {status}"


def test_help_lists_the_commands_and_version_the_version():
    done = lacuna("--help")
    assert done.returncode == 0
    commands = ("segment", "train", "finetune", "evaluate", "scenarios", "describe", "import", "worker")
    for command in (*commands, "fetch", "catalogue"):
        assert f"\n    {command}" in done.stdout
    assert lacuna("--version").stdout.startswith("lacuna ")


def test_the_engine_runs_by_path_from_a_folder_of_any_name(checkpoint, tmp_path):
    plugin = tmp_path / "My Plugin"
    shutil.copytree(ROOT / "engine", plugin / "engine", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "__init__.py", plugin)
    # -S and -I: no installed package, no path from outside.
    command = [sys.executable, "-I", "-S", str(plugin / "engine"), "describe", checkpoint, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["reference"] == "optical"


def test_the_copy_that_was_started_is_the_one_that_runs(tmp_path):
    plugin = tmp_path / "lacuna"
    shutil.copytree(ROOT / "engine", plugin / "engine", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "__init__.py", plugin)
    version = plugin / "engine" / "version.py"
    version.write_text(re.sub(r'__version__ = ".*"', '__version__ = "99"', version.read_text(encoding="utf-8")))
    done = subprocess.run([sys.executable, str(plugin / "engine"), "--version"], capture_output=True, text=True)
    assert done.stdout == "lacuna 99\n"


def test_an_interpreter_without_torch_is_said(checkpoint, tmp_path):
    arguments = ["--modality", "optical=a.tif", "--modality", "dsm=b.tif", "--output", str(tmp_path / "o.tif")]
    command = [sys.executable, "-I", "-S", str(ROOT / "engine"), "segment", "--checkpoint", checkpoint, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert sys.executable in done.stderr
    assert "pip install torch" in done.stderr
    assert done.stderr.count("\n") == 1
