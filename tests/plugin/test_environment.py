# SPDX-License-Identifier: GPL-2.0-or-later
"""The isolated environment: what is installed, what failures mean, and that nothing stays behind."""

from __future__ import annotations

import os
import sys

import pytest

from lacuna.engine.errors import CancelledError, LacunaError
from lacuna.engine.version import PACKAGES
from lacuna.host import environment
from lacuna.host.interpreters import clean_environment, environment_python


@pytest.fixture
def no_index(monkeypatch):
    """Let pip know of no package index but one that does not answer."""
    settings = {"PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "0"}
    monkeypatch.setattr(environment, "clean_environment", lambda: {**clean_environment(), **settings})
    monkeypatch.setitem(environment.TORCH_INDEX, "cpu", "http://127.0.0.1:9/simple")


def test_requirements_are_those_of_the_package():
    names = {item.split(">")[0].split(";")[0] for item in environment.requirements()}
    assert set(PACKAGES.values()) <= names


@pytest.mark.parametrize(
    ("output", "code"),
    [
        ("OSError: [Errno 28] No space left on device", "disk-full"),
        ("SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]", "network-certificate"),
        ("ProxyError('Cannot connect to proxy.', OSError('Tunnel connection failed: 407", "network-proxy"),
        ("NewConnectionError: Failed to establish: [Errno -3] Temporary failure in name resolution", "network"),
        ("ERROR: No matching distribution found for torch>=2.6", "no-package"),
        ("[WinError 5] Access is denied: 'torch/lib/c10.dll'", "not-permitted"),
        ("The virtual environment was not created because ensurepip is not available.", "no-venv"),
        ("The virtual environment was not created successfully because ensurepip is not\navailable.", "no-venv"),
        ("something else", "install-failed"),
    ],
)
def test_failures_are_told_apart(output, code):
    problem = environment.pip_fault(output)
    assert problem.code == code
    assert problem.hint
    assert output in problem.text


def test_a_base_python_is_never_too_old(tmp_path):
    assert environment.base_python()
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\necho 3 9\n")
    old.chmod(0o755)
    with pytest.raises(LacunaError, match=r"3\.10"):
        environment.base_python(str(old))


@pytest.mark.slow
def test_an_index_that_cannot_be_reached_leaves_nothing_behind(tmp_path, no_index):
    said = []
    with pytest.raises(LacunaError) as caught:
        environment.create(tmp_path / "environment", sys.executable, "cpu", said.append, lambda: False)
    assert caught.value.code in ("network", "no-package")
    assert list(tmp_path.iterdir()) == []
    assert said


def test_cancel_ends_the_installation(tmp_path):
    base, said = tmp_path / "python", []
    # Called with -m venv --copies FOLDER, it has begun and would go on for ten minutes.
    base.write_text('#!/bin/sh\nmkdir -p "$4/lib"\necho begun\nexec sleep 600\n')
    base.chmod(0o755)
    with pytest.raises(CancelledError):
        environment.create(tmp_path / "environment", str(base), "cpu", said.append, lambda: bool(said))
    assert said == ["begun"]
    assert list(tmp_path.iterdir()) == [base]


def test_an_earlier_environment_stays_when_a_new_one_fails(tmp_path, monkeypatch):
    python = environment_python(tmp_path / "environment")
    python.parent.mkdir(parents=True)
    python.write_text("earlier")
    with pytest.raises(LacunaError):
        environment.create(tmp_path / "environment", "/bin/false", "cpu", print, lambda: False)
    assert python.read_text() == "earlier"
    environment.remove(tmp_path / "environment")
    environment.remove(tmp_path / "environment")
    assert list(tmp_path.iterdir()) == []
