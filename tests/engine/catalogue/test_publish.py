# SPDX-License-Identifier: GPL-2.0-or-later
"""`lacuna catalogue` and `lacuna fetch` as commands: what is made is read again, and what is shown is what comes."""

from __future__ import annotations

import configparser
import json
import os
import shutil
import subprocess
import sys

import pytest

from lacuna.engine import cli
from lacuna.engine.catalogue import address

from .conftest import BUNDLED, NAME


@pytest.fixture
def folder(tmp_path):
    """A folder with two checkpoints, one of which has a licence that must be accepted."""
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copy(BUNDLED, folder)
    shutil.copy(BUNDLED, folder / "été (2).safetensors")
    return folder


def lacuna(capsys, *arguments):
    """Run a command as JSON lines; return its status and the events."""
    status = cli.main([*map(str, arguments), "--json"])
    return status, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_catalogue_is_made_listed_and_fetched_from(folder, tmp_path, capsys):
    (folder / "été (2).safetensors").unlink()
    status, events = lacuna(capsys, "catalogue", folder)
    assert (status, events[-1]["checkpoints"]) == (0, 1)
    status, events = lacuna(capsys, "fetch", "--list", "--catalogue", folder)
    (found,) = events[-1]["checkpoints"]
    assert (status, found["name"], found["size"], found["accept_licence"]) == (0, NAME, 1938186, False)
    assert found["card"]["scores"][0]["available"] == ["optical"]
    status, events = lacuna(capsys, "fetch", NAME, "--catalogue", folder, "--output", tmp_path / "here")
    assert (status, events[-1]["checkpoint"]) == (0, str(tmp_path / "here" / f"{NAME}.safetensors"))
    assert events[-1]["licence"] == "CC-BY-SA-4.0" and "TerraMesh" in events[-1]["credits"]
    assert (tmp_path / "here" / f"{NAME}.safetensors").read_bytes() == BUNDLED.read_bytes()


def test_two_checkpoints_with_one_name_need_other_names(folder, capsys):
    status, events = lacuna(capsys, "catalogue", folder)
    assert (status, events[-1]["code"]) == (1, "bad-catalogue")
    assert not (folder / "catalogue.json").exists()


def test_a_catalogue_is_not_replaced_unasked(folder, capsys):
    (folder / "été (2).safetensors").unlink()
    assert lacuna(capsys, "catalogue", folder)[0] == 0
    assert lacuna(capsys, "catalogue", folder)[1][-1]["code"] == "output-exists"
    assert lacuna(capsys, "catalogue", folder, "--overwrite")[0] == 0


def test_a_folder_without_checkpoints(tmp_path, capsys):
    assert lacuna(capsys, "catalogue", tmp_path)[1][-1]["code"] == "no-checkpoints"
    assert lacuna(capsys, "catalogue", tmp_path / "none")[1][-1]["code"] == "file-error"


def test_names_are_written_as_addresses_and_the_files_may_lie_elsewhere(folder, tmp_path, capsys):
    (folder / f"{NAME}.safetensors").unlink()
    output = tmp_path / "c.json"
    assert lacuna(capsys, "catalogue", folder, "--output", output, "--base", "https://example.org/m")[0] == 0
    href = json.loads(output.read_text(encoding="utf-8"))["features"][0]["assets"]["model"]["href"]
    assert href == "https://example.org/m/%C3%A9t%C3%A9%20%282%29.safetensors"
    (found,) = lacuna(capsys, "fetch", "--list", "--catalogue", output)[1][-1]["checkpoints"]
    assert found["file"] == "été (2).safetensors"
    assert lacuna(capsys, "catalogue", folder, "--base", "ftp://x")[1][-1]["code"] == "bad-address"


def test_a_licence_beside_a_checkpoint_must_be_accepted(folder, tmp_path, capsys):
    (folder / "été (2).safetensors").unlink()
    (folder / f"{NAME}.licence.txt").write_bytes(b"Only\r\non Sundays.\r\n")
    assert lacuna(capsys, "catalogue", folder)[0] == 0
    ask = ("fetch", NAME, "--catalogue", folder, "--output", tmp_path / "here")
    status, events = lacuna(capsys, *ask)
    assert (status, events[-1]["code"]) == (1, "licence-not-accepted")
    assert "Only\non Sundays." in [event.get("text") for event in events]
    assert not (tmp_path / "here").exists()
    assert lacuna(capsys, *ask, "--accept-licence")[0] == 0
    (folder / f"{NAME}.licence.txt").write_text("")
    assert lacuna(capsys, "catalogue", folder, "--overwrite")[1][-1]["code"] == "bad-licence"


def test_an_address_names_the_checkpoint_too(server, tmp_path, capsys):
    output = ("--output", tmp_path / "here")
    for number, name in enumerate((f"{server.address}/catalogue.json", f"{server.address}/catalogue.json#{NAME}")):
        status, events = lacuna(capsys, "fetch", name, *output)
        assert status == 0, events
        assert os.path.exists(events[-1]["checkpoint"])
        assert number == len([event for event in events if "already" in event.get("text", "")])


def test_words_for_a_terminal(server, capsys):
    assert cli.main(["fetch", "--list", "--catalogue", f"{server.address}/catalogue.json"]) == 0
    told = capsys.readouterr().out
    assert f"{NAME}  1.9 MB  licence: CC-BY-SA-4.0" in told and "optical + radar 0.37" in told
    assert cli.main(["fetch", "--list", NAME, "--catalogue", f"{server.address}/catalogue.json"]) == 0
    assert "Terra" in capsys.readouterr().out
    assert cli.main(["fetch", "none", "--catalogue", f"{server.address}/catalogue.json"]) == 2
    assert NAME in capsys.readouterr().err
    assert cli.main(["fetch"]) == 2


def test_neither_torch_nor_numpy_is_loaded(folder):
    (folder / "été (2).safetensors").unlink()
    script = (
        "import sys; from lacuna.engine import cli; status = cli.main(sys.argv[1:])\n"
        "print(sorted({'torch', 'rasterio', 'numpy'} & set(sys.modules)), status)"
    )
    for arguments in (["catalogue", folder], ["fetch", NAME, "--catalogue", folder, "--output", folder / "x"]):
        command = [sys.executable, "-c", script, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "[] 0"


def test_the_folder_of_checkpoints_of_each_system(monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert address.checkpoint_folder() == os.path.join("/data", "lacuna", "checkpoints")
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/home/ana")
    assert address.checkpoint_folder() == "/home/ana/.local/share/lacuna/checkpoints"
    monkeypatch.setattr(address.sys, "platform", "darwin")
    assert address.checkpoint_folder() == "/home/ana/Library/Application Support/lacuna/checkpoints"


def test_the_own_catalogue_lies_in_the_own_repository():
    metadata = configparser.ConfigParser(interpolation=None)
    metadata.read(BUNDLED.parents[2] / "metadata.txt", encoding="utf-8")
    assert address.DEFAULT_CATALOGUE.startswith(metadata["general"]["repository"] + "/releases/download/")
