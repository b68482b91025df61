# SPDX-License-Identifier: GPL-2.0-or-later
"""Finding the interpreter of the engine: the order, the cleaned environment, and what is said when it will not do."""

from __future__ import annotations

import os
import sys

import pytest

from lacuna.engine.errors import LacunaError
from lacuna.engine.version import PACKAGES
from lacuna.host import interpreters
from lacuna.host.interpreters import Interpreter, environment_folder, environment_python


def make_python(path):
    path.parent.mkdir(parents=True)
    path.symlink_to("/usr/bin/python3")
    return str(path)


def test_the_order(tmp_path, monkeypatch):
    plugin, profile = tmp_path / "plugin", str(tmp_path / "profile")
    own = []
    monkeypatch.setattr(interpreters, "own_pythons", lambda: iter(own))
    with pytest.raises(LacunaError) as caught:
        interpreters.find("", profile, plugin)
    assert caught.value.code == "engine-missing"
    environment = make_python(environment_python(environment_folder(profile)))
    assert interpreters.find("", profile, plugin) == Interpreter(environment, "environment")
    checkout = make_python(environment_python(plugin / ".venv"))
    assert interpreters.find("", profile, plugin) == Interpreter(checkout, "checkout")
    chosen = make_python(tmp_path / "chosen" / "python")
    assert interpreters.find(chosen, profile, plugin) == Interpreter(chosen, "setting")
    named = make_python(tmp_path / "named" / "python")
    monkeypatch.setenv("LACUNA_PYTHON", named)
    assert interpreters.find(chosen, profile, plugin) == Interpreter(named, "variable")


@pytest.mark.parametrize("chosen", ["", "/no/such/python"])
def test_a_named_interpreter_that_is_missing_is_an_error_and_not_passed_over(tmp_path, monkeypatch, chosen):
    make_python(environment_python(tmp_path / ".venv"))
    if not chosen:
        monkeypatch.setenv("LACUNA_PYTHON", "/no/such/python")
    with pytest.raises(LacunaError, match="/no/such/python"):
        interpreters.find(chosen, "", tmp_path)


def test_the_folder_of_an_environment_will_do(tmp_path):
    python = make_python(environment_python(tmp_path / "env"))
    assert interpreters.find(str(tmp_path / "env"), "", tmp_path) == Interpreter(python, "setting")


def test_own_pythons_are_not_what_the_process_calls_its_executable(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/usr/bin/qgis")
    found = list(interpreters.own_pythons())
    assert found
    assert all("python" in os.path.basename(path) for path in found)


def test_the_environment_is_cleaned(monkeypatch, tmp_path):
    libraries = ("PROJ_LIB", "PROJ_DATA", "GDAL_DATA", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    for name in ("PYTHONHOME", "PYTHONPATH", "PIP_INDEX_URL", "VIRTUAL_ENV", "QT_PLUGIN_PATH", *libraries):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "gone.pem"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    clean = interpreters.clean_environment()
    assert clean["CUDA_VISIBLE_DEVICES"] == "1"
    assert "PATH" in clean
    kept = [
        name for name in clean if name.startswith(("PROJ", "GDAL", "LD_", "DYLD", "PIP_", "QT_", "QGIS", "VIRTUAL"))
    ]
    assert kept == []
    assert "SSL_CERT_FILE" not in clean
    assert not {"PYTHONHOME", "PYTHONPATH"} & set(clean)


def test_an_interpreter_without_torch_is_named_with_what_it_lacks(bare_python):
    with pytest.raises(LacunaError) as caught:
        interpreters.require(Interpreter(bare_python, "setting"))
    assert caught.value.code == "engine-incomplete"
    assert bare_python in caught.value.text
    assert "torch" in caught.value.text
    assert "Options" in caught.value.hint


def test_a_program_that_is_no_python():
    with pytest.raises(LacunaError, match="no working Python"):
        interpreters.require(Interpreter("/bin/false", "setting"))


def test_an_interpreter_that_hangs(tmp_path, monkeypatch):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nexec sleep 30\n")
    script.chmod(0o755)
    monkeypatch.setattr(interpreters, "QUICK_SECONDS", 0.5)
    with pytest.raises(LacunaError, match=r"did not answer within 0\.5 seconds"):
        interpreters.require(Interpreter(str(script), "setting"))


def test_the_engines_environment_passes(engine_python):
    interpreter = interpreters.find()
    interpreters.require(interpreter)
    report = interpreters.check(interpreter)
    report.raise_faults()
    assert set(report.packages) == set(PACKAGES)
    assert report.packages["torch"].startswith("2.")
    assert report.python >= (3, 10)
