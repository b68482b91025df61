# SPDX-License-Identifier: GPL-2.0-or-later
"""The unfinished training on disk: what is read is what was written, and only for the job that wrote it."""

from __future__ import annotations

import pytest
import torch

from lacuna.engine.errors import LacunaError
from lacuna.engine.jobs import TrainJob
from lacuna.engine.training.state import (
    Progress,
    load_progress,
    part_path,
    remove_progress,
    save_progress,
    training_fingerprint,
)


@pytest.fixture
def progress():
    return Progress(
        epoch=3,
        model={"a.weight": torch.randn(3, 2), "a.count": torch.tensor(7)},
        average={"a.weight": torch.randn(3, 2), "a.count": torch.tensor(7)},
        optimizer={"0.exp_avg": torch.randn(3, 2), "0.step": torch.tensor(5.0)},
        best={"a.weight": torch.randn(3, 2), "a.count": torch.tensor(6)},
        best_epoch=2,
        best_miou=0.123456789,
        history=[{"epoch": 1, "loss": 0.5}],
        seconds=1.5,
    )


def test_what_is_read_is_what_was_written(tmp_path, progress, heard):
    path = str(tmp_path / "m.part")
    save_progress(path, progress, "mark")
    found = load_progress(path, "mark", heard[0])
    for name in ("epoch", "best_epoch", "best_miou", "history", "seconds"):
        assert getattr(found, name) == getattr(progress, name)
    for group in ("model", "average", "optimizer", "best"):
        wanted = getattr(progress, group)
        assert set(getattr(found, group)) == set(wanted)
        assert all(torch.equal(getattr(found, group)[name], tensor) for name, tensor in wanted.items())
    assert [item.name for item in tmp_path.iterdir()] == ["m.part"]


def test_another_job_does_not_take_it_up(tmp_path, progress, heard):
    path = str(tmp_path / "m.part")
    save_progress(path, progress, "mark")
    assert load_progress(path, "other", heard[0]) is None
    assert "not resumed" in heard[1][-1]["text"]


@pytest.mark.parametrize("cut", [0, 4, 100, -1])
def test_a_broken_one_is_said_and_left(tmp_path, progress, heard, cut):
    path = tmp_path / "m.part"
    save_progress(str(path), progress, "mark")
    path.write_bytes(path.read_bytes()[:cut])
    assert load_progress(str(path), "mark", heard[0]) is None
    assert heard[1][-1]["level"] == "warning"
    assert "starts from the beginning" in heard[1][-1]["text"]


def test_none_is_none_and_removal_is_whole(tmp_path, progress, heard):
    path = str(tmp_path / "m.part")
    assert load_progress(path, "mark", heard[0]) is None
    save_progress(path, progress, "mark")
    remove_progress(path)
    assert not list(tmp_path.iterdir())
    remove_progress(path)
    assert heard[1] == []


def test_a_folder_that_is_gone_is_told(tmp_path, progress):
    with pytest.raises(LacunaError) as caught:
        save_progress(str(tmp_path / "gone" / "m.part"), progress, "mark")
    assert caught.value.code == "file-error"


def test_the_fingerprint_follows_all_that_decides_the_result(tmp_path):
    raster = tmp_path / "a.tif"
    raster.write_bytes(b"one")

    def mark(texts=("m", "c"), **options):
        values = {"manifest": "m.toml", "architecture": "sgma", "output": "o.safetensors", **options}
        return training_fingerprint(TrainJob(**values), texts, [str(raster), "/vsi/none"])

    first = mark()
    assert mark(output="elsewhere.safetensors", overwrite=True, resume=False) == first
    assert len({first, mark(seed=1), mark(epochs=3), mark(device="cpu"), mark(texts=("m2", "c"))}) == 5
    raster.write_bytes(b"other")
    assert mark() != first


def test_every_file_that_may_be_left_is_known_to_the_job():
    job = TrainJob("m.toml", "sgma", "o.safetensors")
    assert {part_path(job.output), part_path(job.output) + ".new"} <= set(job.unfinished_paths())
