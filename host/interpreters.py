# SPDX-License-Identifier: GPL-2.0-or-later
"""The interpreter that runs the engine: which one, with what environment, and whether it has what the engine needs.

Never `sys.executable` as it stands: that is QGIS itself on Windows and macOS (qgis/QGIS#45646), and inside
`qgis_process` the first python on PATH. Standard library alone.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from ..engine.errors import LacunaError
from ..engine.version import PACKAGES

PLUGIN_FOLDER = Path(__file__).resolve().parents[1]
VARIABLE = "LACUNA_PYTHON"
OLDEST_PYTHON = (3, 10)
# No console window may flash up on Windows; elsewhere the flag does not exist.
NO_WINDOW = getattr(subprocess, "CREATE_NO_WINDOW", 0)
QUICK_SECONDS = 30
CHECK_SECONDS = 180
HOW_TO_GET_ONE = (
    "Open Settings > Options > Lacuna: choose a Python that has them, or let Lacuna create an isolated environment."
)

_DROPPED_PREFIXES = ("PYTHON", "PROJ_", "GDAL_", "LD_", "DYLD_", "PIP_", "QT_", "QGIS_", "QML")
_DROPPED = ("VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_MARK = "lacuna-check:"
# Run by the interpreter in question. Quick: are the packages there? Whole: do they import, and which devices are there?
_PROBE = """
import importlib, importlib.util, json, sys
quick, names = sys.argv[1] == "quick", sys.argv[2:]
found = {"python": list(sys.version_info[:3]), "packages": {}, "faults": {}, "devices": []}
for name in names:
    try:
        if importlib.util.find_spec(name) is None:
            found["faults"][name] = "not installed"
        elif quick:
            found["packages"][name] = ""
        else:
            found["packages"][name] = str(getattr(importlib.import_module(name), "__version__", ""))
    except Exception as problem:
        found["faults"][name] = f"{type(problem).__name__}: {problem}"
if "torch" in found["packages"] and not quick:
    import torch
    for number in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(number)
        found["devices"].append([device.name, device.total_memory])
print("\\nlacuna-check:" + json.dumps(found))
"""


@dataclass(frozen=True)
class Interpreter:
    """A Python for the engine, and by which rule it was found: variable, setting, checkout, environment or qgis."""

    path: str
    origin: str


@dataclass(frozen=True)
class Report:
    """What an interpreter has: versions of the packages, what is wrong with the others, and its CUDA devices.

    `devices` holds the name and the bytes of memory of each CUDA device, in torch's order.
    """

    interpreter: Interpreter
    python: tuple[int, ...] = ()
    packages: dict[str, str] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    devices: list[tuple[str, int]] = field(default_factory=list)

    def raise_faults(self) -> None:
        """Raise LacunaError `engine-incomplete` if the engine could not run in this interpreter."""
        if self.python[:2] < OLDEST_PYTHON:
            raise LacunaError(
                "engine-incomplete",
                f"The engine needs Python {_dotted(OLDEST_PYTHON)} or later; {self.interpreter.path} is "
                f"Python {_dotted(self.python)}.",
                HOW_TO_GET_ONE,
            )
        if self.faults:
            found = "; ".join(f"{name} ({fault})" for name, fault in self.faults.items())
            raise LacunaError(
                "engine-incomplete",
                f"The engine needs {', '.join(PACKAGES.values())}; in {self.interpreter.path} there is no usable "
                f"{found}.",
                HOW_TO_GET_ONE,
            )


def environment_folder(profile: str) -> Path:
    """Return where the isolated environment lies inside the folder of the QGIS `profile`."""
    return Path(profile) / "lacuna" / "environment"


def environment_python(folder: Path) -> Path:
    """Return the interpreter of the virtual environment in `folder`, whether it exists or not."""
    return folder / "Scripts" / "python.exe" if os.name == "nt" else folder / "bin" / "python"


def find(chosen: str = "", profile: str = "", plugin: Path = PLUGIN_FOLDER) -> Interpreter:
    """Return the interpreter for the engine.

    In this order: the variable LACUNA_PYTHON; the `chosen` one; `.venv` beside the plugin; the isolated environment in
    the `profile` folder; QGIS's own Python if it has torch and rasterio. One that was named but is not there is an
    error, not a reason to take another.

    Raises:
        LacunaError: `engine-missing`.
    """
    for named, origin, where in (
        (os.environ.get(VARIABLE, ""), "variable", f"the variable {VARIABLE}"),
        (chosen, "setting", "the setting of Lacuna"),
    ):
        if named:
            return Interpreter(_executable(named, where), origin)
    for folder, origin in ((plugin / ".venv", "checkout"), (environment_folder(profile), "environment")):
        if (profile or origin == "checkout") and environment_python(folder).exists():
            return Interpreter(str(environment_python(folder)), origin)
    for path in own_pythons():
        candidate = Interpreter(path, "qgis")
        if not _probe(candidate, "quick", ("torch", "rasterio"), QUICK_SECONDS).faults:
            return candidate
    raise LacunaError("engine-missing", "No Python with torch and rasterio was found for the engine.", HOW_TO_GET_ONE)


def own_pythons() -> Iterator[str]:
    """Yield the interpreters that belong to the Python in which this code runs, the most likely first."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    names = ["python.exe", "python3.exe"] if os.name == "nt" else [f"python{version}", "python3"]
    seen = set()
    for prefix in (sys.exec_prefix, sys.base_exec_prefix):
        for folder in (Path(prefix), Path(prefix) / "bin"):
            for path in (folder / name for name in names):
                if path.is_file() and os.access(path, os.X_OK) and path not in seen:
                    seen.add(path)
                    yield str(path)


def require(interpreter: Interpreter) -> None:
    """Raise LacunaError if `interpreter` does not start, is too old or lacks a package; imports none of them (fast)."""
    _probe(interpreter, "quick", tuple(PACKAGES), QUICK_SECONDS).raise_faults()


def check(interpreter: Interpreter) -> Report:
    """Return what `interpreter` has, having imported every package in it; takes seconds, so never on the GUI thread.

    Raises:
        LacunaError: `engine-missing` if it does not start or does not answer in time.
    """
    return _probe(interpreter, "whole", tuple(PACKAGES), CHECK_SECONDS)


def clean_environment() -> dict[str, str]:
    """Return the variables for a process outside QGIS: without those by which QGIS points at its own libraries."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in _DROPPED
        and not name.startswith(_DROPPED_PREFIXES)
        and not (name in _CERTIFICATES and not os.path.exists(value))
    }
    return {**kept, "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1"}


def _executable(named: str, where: str) -> str:
    """Return the full path of the interpreter `named` in `where`; a virtual environment's folder will do."""
    if os.path.isdir(named) and environment_python(Path(named)).exists():
        return str(environment_python(Path(named)))
    path = shutil.which(os.path.expanduser(named))
    if path is None:
        raise LacunaError(
            "engine-missing",
            f"The Python for the engine, {named}, named by {where}, does not exist or cannot be run.",
            f"Correct or clear {where}.",
        )
    return path


def _probe(interpreter: Interpreter, depth: str, names: tuple[str, ...], seconds: float) -> Report:
    """Ask `interpreter` what it has; `depth` is `quick` or `whole`."""
    command = [interpreter.path, "-c", _PROBE, depth, *names]
    try:
        done = subprocess.run(  # an argument list, no shell; the analyst chose the program  # nosec B603
            command,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            creationflags=NO_WINDOW,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _silent(interpreter, f"did not answer within {seconds:g} seconds") from None
    except OSError as problem:
        raise _silent(interpreter, f"does not start ({problem.strerror or problem})") from None
    found = _answer(done.stdout.decode("utf-8", "replace"))
    if found is None:
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise _silent(interpreter, f"is no working Python ({last[0]})")
    return Report(
        interpreter,
        tuple(found["python"]),
        found["packages"],
        found["faults"],
        [(name, memory) for name, memory in found["devices"]],
    )


def _answer(output: str) -> Optional[dict[str, Any]]:
    """Return what the probe printed, among whatever the packages print when they are imported."""
    lines = [line for line in output.splitlines() if line.startswith(_MARK)]
    try:
        return json.loads(lines[-1][len(_MARK) :]) if lines else None
    except ValueError:
        return None


def _silent(interpreter: Interpreter, what: str) -> LacunaError:
    return LacunaError("engine-missing", f"The Python for the engine, {interpreter.path}, {what}.", HOW_TO_GET_ONE)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
