# SPDX-License-Identifier: GPL-2.0-or-later
"""Files of others: read as data alone, unwrapped, and refused in words for whatever else they hold."""

from __future__ import annotations

import argparse
import os

import numpy as np
import pytest
import safetensors.torch
import torch

from lacuna.engine.errors import LacunaError
from lacuna.engine.events import Reporter
from lacuna.engine.imports.foreign import read_weights

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.count": torch.tensor(3)}


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "weights.pth")


@pytest.fixture
def said():
    return []


@pytest.fixture
def read(path, said):
    return lambda: read_weights(path, Reporter(said.append))


def refused(read):
    with pytest.raises(LacunaError) as caught:
        read()
    assert caught.value.hint
    return caught.value


def same(found):
    return set(found) == set(WEIGHTS) and all(torch.equal(found[name], value) for name, value in WEIGHTS.items())


@pytest.mark.parametrize("key", ["model", "state_dict", "model_state_dict", "net"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_wrappers_and_prefixes_are_taken_off(path, read, said, key, prefix):
    state = {prefix + name: value for name, value in WEIGHTS.items()}
    torch.save({key: state, "epoch": 7, "optimizer": {"lr": 0.1}}, path)
    assert same(read())
    assert f"under '{key}'; left out beside it: epoch, optimizer" in said[0]["text"]


def test_wrappers_may_be_nested_and_absent(path, read, said):
    torch.save({"model": {"state_dict": WEIGHTS}}, path)
    assert same(read())
    said.clear()
    torch.save(WEIGHTS, path)
    assert same(read()) and not said


def test_a_prefix_that_not_all_have_stays(path, read):
    torch.save({"module.a": torch.zeros(1), "b": torch.zeros(1)}, path)
    assert set(read()) == {"module.a", "b"}


def test_half_precision_becomes_float32(path, read):
    torch.save({name: value.half() if value.is_floating_point() else value for name, value in WEIGHTS.items()}, path)
    found = read()
    assert same(found) and found["a.weight"].dtype == torch.float32 and found["a.count"].dtype == torch.int64


def test_torchs_old_format_is_read(path, read):
    torch.save(WEIGHTS, path, _use_new_zipfile_serialization=False)
    assert same(read())


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.bin"])
def test_safetensors_whatever_its_name(tmp_path, name):
    safetensors.torch.save_file(WEIGHTS, tmp_path / name)
    assert same(read_weights(str(tmp_path / name), Reporter(lambda event: None)))


class Evil:
    """Would make a file when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("made-by-a-pickle",)


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize(
    ("content", "blocked"),
    [
        ({"state_dict": WEIGHTS, "args": argparse.Namespace(lr=1)}, "argparse.Namespace"),
        ({"state_dict": WEIGHTS, "hook": Evil()}, "mkdir"),
        ({"state_dict": WEIGHTS, "best": np.float64(0.5)}, "numpy"),
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    ],
    ids=["namespace", "evil", "numpy", "module"],
)
def test_what_would_have_to_be_run_is_named_and_not_run(path, read, tmp_path, monkeypatch, content, blocked, new):
    monkeypatch.chdir(tmp_path)
    torch.save(content, path, _use_new_zipfile_serialization=new)
    problem = refused(read)
    assert problem.code == "unsafe-weights" and blocked in problem.text and "state dict" in problem.hint
    assert not (tmp_path / "made-by-a-pickle").exists()


@pytest.mark.parametrize(
    "content",
    [torch.zeros(2), [torch.zeros(2)], {}, {"a": 1.5}, {"a": torch.zeros(2), "b": "text"}, {3: torch.zeros(2)},
     {"a": torch.eye(2).to_sparse()}],
    ids=["tensor", "list", "empty", "number", "text", "numbered", "sparse"],
)  # fmt: skip
def test_what_is_no_state_dict_is_refused(path, read, content):
    torch.save(content, path)
    problem = refused(read)
    assert problem.code == "not-weights" and path in problem.text


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 no zip at all", bytes(100), b"\x80\x02}q\x00."])
def test_what_torch_did_not_write_is_refused(path, read, content):
    with open(path, "wb") as stream:
        stream.write(content)
    assert refused(read).code == "not-weights"


@pytest.mark.parametrize("new", [True, False])
def test_a_file_cut_short_is_refused(path, read, new):
    torch.save({"a": torch.zeros(1000)}, path, _use_new_zipfile_serialization=new)
    os.truncate(path, os.path.getsize(path) // 2)
    assert refused(read).code == "not-weights"


def test_numbers_that_are_not_finite_are_named(path, read):
    torch.save({"a": torch.zeros(3), "b": torch.tensor([0.0, float("nan")])}, path)
    problem = refused(read)
    assert problem.code == "bad-weights" and " b" in problem.text


def test_a_file_that_is_missing_or_a_folder(path, read):
    assert refused(read).code == "file-missing"
    os.mkdir(path)
    assert refused(read).code == "file-unreadable"


def test_a_pickle_with_the_wrong_name_is_not_opened(tmp_path):
    path = str(tmp_path / "weights.safetensors")
    torch.save(WEIGHTS, path)
    problem = refused(lambda: read_weights(path, Reporter(lambda event: None)))
    assert problem.code == "pickle" and ".pt" in problem.hint


@pytest.mark.parametrize("key", ["lacuna", "lacuna_encoder"])
def test_what_lacuna_wrote_needs_no_import(tmp_path, key):
    path = str(tmp_path / "weights.safetensors")
    safetensors.torch.save_file(WEIGHTS, path, {key: "{}"})
    assert refused(lambda: read_weights(path, Reporter(lambda event: None))).code == "already-imported"
