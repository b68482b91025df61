# SPDX-License-Identifier: GPL-2.0-or-later
"""Bad jobs: a clear word each, nothing written, nothing lost."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from affine import Affine

from lacuna.engine.errors import LacunaError, UsageError
from lacuna.engine.events import silent
from lacuna.engine.inference.pipeline import segment
from lacuna.engine.jobs import SegmentJob, SourceSpec, to_json


@pytest.fixture
def good(write_raster, make_checkpoint):
    """A checkpoint of two modalities, `b` required, and a raster."""
    checkpoint = make_checkpoint(modalities={"a": ["index"], "b": {"bands": ["index"], "required": True}})
    return checkpoint, write_raster("good.tif", np.ones((40, 40), np.float32))


def fails(run_segment, tmp_path, code, *arguments, kind=LacunaError, **options):
    """Run a job that must fail with `code`; return its error. No file may appear or change."""
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    with pytest.raises(kind) as caught:
        run_segment(*arguments, **options)
    assert caught.value.code == code
    assert caught.value.hint
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    return caught.value


def test_unknown_modality(good, run_segment, tmp_path):
    checkpoint, raster = good
    error = fails(run_segment, tmp_path, "unknown-modality", checkpoint, {"b": raster, "x": raster}, kind=UsageError)
    assert "x" in error.text and "a, b" in error.hint


def test_required_modality(good, run_segment, tmp_path):
    checkpoint, raster = good
    error = fails(run_segment, tmp_path, "required-modality", checkpoint, {"a": raster}, kind=UsageError)
    assert "b" in error.text


def test_no_modality(good, run_segment, tmp_path):
    fails(run_segment, tmp_path, "no-modality", good[0], {}, kind=UsageError)


def test_unsupported_scenario(make_checkpoint, write_raster, run_segment, tmp_path):
    checkpoint = make_checkpoint(modalities={"a": ["i"], "b": ["i"]}, scenarios=[["b"], ["a", "b"]])
    raster = write_raster("r.tif", np.ones((4, 4), np.float32))
    error = fails(run_segment, tmp_path, "unsupported-scenario", checkpoint, {"a": raster}, kind=UsageError)
    assert "b; a + b" in error.hint


def test_missing_and_broken_rasters(good, run_segment, tmp_path):
    checkpoint = good[0]
    fails(run_segment, tmp_path, "file-missing", checkpoint, {"b": str(tmp_path / "none.tif")})
    (tmp_path / "text.tif").write_text("no raster")
    fails(run_segment, tmp_path, "file-unreadable", checkpoint, {"b": str(tmp_path / "text.tif")})


def test_output_that_is_an_input(good, run_segment, tmp_path):
    checkpoint, raster = good
    sources = {"b": raster}
    fails(run_segment, tmp_path, "output-is-input", checkpoint, sources, "good.tif", overwrite=True)
    fails(run_segment, tmp_path, "output-is-input", checkpoint, sources, "model.safetensors", overwrite=True)
    (tmp_path / "link.tif").symlink_to(raster)
    fails(run_segment, tmp_path, "output-is-input", checkpoint, sources, "link.tif", overwrite=True)


def test_two_outputs_of_one_name(good, run_segment, tmp_path):
    fails(run_segment, tmp_path, "output-twice", good[0], {"b": good[1]}, confidence="classes.tif", kind=UsageError)


@pytest.mark.parametrize("output", ["/proc/classes.tif", "nowhere/classes.tif"])
def test_output_folder_that_takes_no_files(output, good, run_segment, tmp_path):
    error = fails(run_segment, tmp_path, "output-folder", good[0], {"b": good[1]}, output)
    assert str(Path(output).parent) in error.text


def test_output_that_exists(good, run_segment, tmp_path):
    (tmp_path / "classes.qml").write_text("someone's style")
    error = fails(run_segment, tmp_path, "output-exists", good[0], {"b": good[1]})
    assert "classes.qml" in error.text


@pytest.mark.skipif(sys.platform == "win32", reason="an executable that runs stands for a locked file on Linux")
def test_output_that_another_program_holds(good, run_segment, tmp_path):
    shutil.copy(shutil.which("sleep"), tmp_path / "classes.tif")
    (tmp_path / "classes.tif").chmod(0o755)
    with subprocess.Popen([str(tmp_path / "classes.tif"), "60"]) as process:
        try:
            time.sleep(0.2)
            fails(run_segment, tmp_path, "output-locked", good[0], {"b": good[1]}, overwrite=True)
        finally:
            process.kill()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_asked_for_and_absent(good, run_segment, tmp_path):
    error = fails(run_segment, tmp_path, "no-cuda", good[0], {"b": good[1]}, device="cuda")
    assert "no CUDA device" in error.text


def test_half_precision_on_a_cpu(good, run_segment, tmp_path):
    fails(run_segment, tmp_path, "bad-precision", good[0], {"b": good[1]}, precision="bf16")


def test_overlap_larger_than_half_the_tile_of_the_card(good, run_segment, tmp_path):
    fails(run_segment, tmp_path, "bad-value", good[0], {"b": good[1]}, overlap=40, kind=UsageError)


def test_rasters_that_do_not_overlap(good, run_segment, tmp_path, write_raster):
    far = write_raster("far.tif", np.ones((40, 40), np.float32), transform=Affine(10, 0, 900000, 0, -10, 5500000))
    error = fails(run_segment, tmp_path, "no-overlap", good[0], {"a": good[1], "b": far})
    assert "far.tif" in error.text


def test_all_nan(good, run_segment, tmp_path, write_raster):
    empty = write_raster("empty.tif", np.full((40, 40), np.nan, np.float32))
    error = fails(run_segment, tmp_path, "no-valid-pixels", good[0], {"b": empty})
    assert "empty.tif" in error.text


@pytest.fixture
def big_job(make_checkpoint, write_raster, tmp_path):
    """A function that returns a job that writes about 3 MB into a folder."""
    checkpoint = make_checkpoint(architecture="sgma", config={"encoder": "resnet_small"}, modalities={"a": ["x"]})
    noise = write_raster("noise.tif", np.random.default_rng(0).normal(size=(300, 400)).astype(np.float32))

    def job(folder):
        return SegmentJob(
            checkpoint, {"a": SourceSpec(noise)}, str(folder / "classes.tif"),
            probabilities=str(folder / "probabilities.tif"), probabilities_dtype="float32", device="cpu",
            tile=[128, 128], overlap=0,
        )  # fmt: skip

    return job


LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
from lacuna.engine.events import silent
from lacuna.engine.jobs import from_json
from lacuna.engine.inference.pipeline import segment
from lacuna.engine.errors import LacunaError
try:
    segment(from_json(sys.argv[1]), silent())
except LacunaError as problem:
    print(problem.text)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files as only Unix can")
@pytest.mark.parametrize("limit", [400, 30_000, 300_000])
@pytest.mark.slow
def test_files_that_the_system_cuts_short_are_noticed(limit, big_job, tmp_path):
    """GDAL only logs such a failure, or not even that; without care the map would have holes."""
    out = tmp_path / "out"
    out.mkdir()
    command = [sys.executable, "-c", LIMITED, to_json(big_job(out)), str(limit)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "File too large" in found.stdout, found.stderr
    assert {path.name.partition(".tif.part")[1] for path in out.iterdir()} <= {".tif.part"}


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a disk of some kilobytes; only root can."""
    mounted = []

    def mount(kilobytes):
        folder = tmp_path / f"disk{kilobytes}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("only root can mount a small disk")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("kilobytes", [64, 400, 1600])
@pytest.mark.slow
def test_full_disk(kilobytes, big_job, small_disk):
    folder = small_disk(kilobytes)
    with pytest.raises(LacunaError) as caught:
        segment(big_job(folder), silent())
    assert caught.value.code == "disk-full"
    assert str(folder) in caught.value.text
    assert {path.name.partition(".tif.part")[1] for path in folder.iterdir()} <= {".tif.part"}
    assert segment(big_job(small_disk(9000)), silent())["summary"]["pixels"]["classified"] == 120000
