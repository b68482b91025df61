# SPDX-License-Identifier: GPL-2.0-or-later
"""The isolated environment for the engine: made in the QGIS profile after an explicit click, and removed by another.

Never inside QGIS's own Python and never in the plugin's folder. Standard library alone.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Optional

from ..engine.errors import CancelledError, LacunaError
from .interpreters import NO_WINDOW, OLDEST_PYTHON, PLUGIN_FOLDER, clean_environment, environment_python, own_pythons

# Where torch comes from, by kind of build: https://pytorch.org/get-started/locally/
TORCH_INDEX = {"cpu": "https://download.pytorch.org/whl/cpu", "cuda": "https://download.pytorch.org/whl/cu126"}
# What a fresh environment takes on disk, in gigabytes, roughly: on Linux x86-64 with torch 2.
SIZE = {"cpu": 1.3, "cuda": 7.0}
_POLL = 0.1

Say = Callable[[str], None]
Cancelled = Callable[[], bool]

# What pip says when something is wrong, and what that means to an analyst; the first that fits counts.
_FAULTS = (
    (
        r"No space left|not enough space|Errno 28",
        "disk-full",
        "The disk is full.",
        "Free several gigabytes on the disk of the QGIS profile and try again.",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|SSLError|SSL: ",
        "network-certificate",
        "The secure connection was refused: something on the network presents its own certificate.",
        "Ask your administrator for its certificate file and set the variable SSL_CERT_FILE to it.",
    ),
    (
        r"ProxyError|Tunnel connection failed|407 ",
        "network-proxy",
        "The proxy refused the connection.",
        "Check the proxy in Settings > Options > Network.",
    ),
    (
        r"NewConnectionError|name resolution|getaddrinfo failed|timed out|ConnectionError|unreachable",
        "network",
        "The package index cannot be reached.",
        "Check the network and the proxy in Settings > Options > Network, and try again.",
    ),
    (
        r"No matching distribution|Could not find a version",
        "no-package",
        "There is no build of a needed package for this Python and this system.",
        "Choose another Python (3.10 to 3.13, 64 bit) as the base.",
    ),
    (
        r"WinError 5|WinError 32|Permission denied|Access is denied",
        "not-permitted",
        "A file could not be written: it is in use, or a virus scanner holds it.",
        "Close other QGIS windows, or ask your administrator to allow the folder, and try again.",
    ),
    (
        r"ensurepip\s+is\s+not\s+available|No module named venv|No module named ensurepip",
        "no-venv",
        "This Python cannot make virtual environments.",
        "Install the system package python3-venv, or choose another Python as the base.",
    ),
)


def requirements(plugin: Path = PLUGIN_FOLDER) -> list[str]:
    """Return the packages of the engine with their bounds, as `pyproject.toml` lists them."""
    text = (plugin / "pyproject.toml").read_text(encoding="utf-8")
    block = re.search(r"^dependencies = \[(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    return re.findall(r'^\s*"([^"]+)"', block.group(1), re.MULTILINE) if block else []


def base_python(chosen: str = "") -> str:
    """Return a Python from which an environment can be made: the `chosen` one, QGIS's own, or one on the PATH.

    Raises:
        LacunaError: `no-base-python` if there is none of at least 3.10.
    """
    if chosen:
        candidates: Iterator[Optional[str]] = iter([shutil.which(chosen)])
    else:
        names = [f"python3.{minor}" for minor in (13, 12, 11, 10)] + ["python3", "python"]
        candidates = iter([*own_pythons(), *map(shutil.which, names)])
    for path in candidates:
        if path and _version(path) >= OLDEST_PYTHON:
            return path
    raise LacunaError(
        "no-base-python",
        f"No Python of version {'.'.join(map(str, OLDEST_PYTHON))} or later was found to make the environment from.",
        "Install one from python.org and choose its program as the base.",
    )


def create(folder: Path, base: str, build: str, say: Say, cancelled: Cancelled, proxy: str = "") -> str:
    """Make the environment and return its interpreter; on failure or cancel nothing stays behind.

    Args:
        folder: where it goes; must not exist or be an earlier environment, which is replaced.
        base: interpreter that it is made from (`base_python`).
        build: `cpu` or `cuda`.
        say: receives each line of the tools' output.
        cancelled: asked ten times a second whether to stop.
        proxy: URL of the proxy, or empty.

    Raises:
        LacunaError: with what pip's output means where that is known, else `install-failed` with its last lines.
        CancelledError: when asked to stop.
    """
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.parent.mkdir(parents=True, exist_ok=True)
    python = str(environment_python(fresh))
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--timeout", "60"]
    if proxy:
        pip += ["--proxy", proxy]
    torch = [item for item in requirements() if item.startswith("torch")]
    others = [item for item in requirements() if item not in torch]
    try:
        # Copies, since a link to a Python that is updated leaves the environment broken.
        _run([base, "-m", "venv", "--copies", str(fresh)], say, cancelled)
        # Torch alone from its index: as an extra index it would shadow other packages.
        _run([*pip, "--index-url", TORCH_INDEX[build], *torch], say, cancelled)
        _run([*pip, *others], say, cancelled)
        remove(folder)
        os.replace(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return str(environment_python(folder))


def remove(folder: Path) -> None:
    """Remove the environment.

    Raises:
        LacunaError: `not-permitted` if a file of it cannot be removed, such as one in use.
    """
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except OSError as problem:
        raise LacunaError(
            "not-permitted",
            f"{problem.filename or folder} cannot be removed: {problem.strerror}.",
            "Stop running jobs and try again.",
        ) from None


def pip_fault(output: str) -> LacunaError:
    """Return the error that the `output` of a failed installation speaks of."""
    last = "\n".join(output.strip().splitlines()[-3:])
    for pattern, code, text, hint in _FAULTS:
        if re.search(pattern, output):
            return LacunaError(code, f"The environment was not made. {text} ({last})", hint)
    hint = "Choose an existing Python that has the packages, or report this with the whole log."
    return LacunaError("install-failed", f"The environment was not made: {last}", hint)


def _version(path: str) -> tuple[int, ...]:
    """Return the version of the interpreter at `path`, or () if it does not run."""
    command = [path, "-c", "import sys; print(*sys.version_info[:2])"]
    try:
        done = subprocess.run(  # an argument list, no shell  # nosec B603
            command,
            capture_output=True,
            timeout=30,
            check=True,
            env=clean_environment(),
            creationflags=NO_WINDOW,
        )
        return tuple(map(int, done.stdout.split()))
    except (OSError, ValueError, subprocess.SubprocessError):
        return ()


def _run(command: list[str], say: Say, cancelled: Cancelled) -> None:
    """Run one step, line by line; raise what its failure means."""
    lines: deque[str] = deque(maxlen=200)
    with subprocess.Popen(  # an argument list, no shell  # nosec B603
        command,
        env={**clean_environment(), "PIP_NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        creationflags=NO_WINDOW,
    ) as process:
        ended = threading.Event()
        watcher = threading.Thread(target=_watch, args=(process, cancelled, ended), daemon=True)
        watcher.start()
        for line in process.stdout or ():
            lines.append(line.decode("utf-8", "replace").rstrip())
            say(lines[-1])
        process.wait()
        ended.set()
        watcher.join()
    if process.returncode and cancelled():
        raise CancelledError
    if process.returncode:
        raise pip_fault("\n".join(lines))


def _watch(process: subprocess.Popen[bytes], cancelled: Cancelled, ended: threading.Event) -> None:
    """End `process` as soon as `cancelled` says so."""
    while not ended.wait(_POLL):
        if cancelled():
            process.kill()
            return
