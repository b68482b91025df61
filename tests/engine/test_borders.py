# SPDX-License-Identifier: GPL-2.0-or-later
"""The borders of the house, read from the sources: who may import whom, on which Python, and what nobody may call."""

from __future__ import annotations

import ast
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
QT = {"qgis", "PyQt5", "PyQt6", "PySide2", "PySide6", "sip", "osgeo"}
# What lives in the engine's process alone.
HEAVY = {"torch", "rasterio", "safetensors", "pyogrio", "shapely", "pyproj", "affine"}
# What both processes use: these, and whatever they import.
SHARED = ("errors", "events", "jobs", "options", "checkpoint.card", "checkpoint.classes", "checkpoint.header")
# Blocked by the plugin site (Bandit), or unsafe.
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "mktemp"}
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "shelve", "marshal", "telnetlib", "ftplib"}


def sources(*folders):
    """Return the Python files of some folders of the repository, those of the root without its sub-folders."""
    found = []
    for folder in folders:
        found += ROOT.glob("*.py") if folder == "." else (ROOT / folder).rglob("*.py")
    return sorted(path for path in found if "__pycache__" not in path.parts)


def name_of(path):
    """Return the dotted name of a file inside the package."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


ENGINE = sources("engine")
PLUGIN = [path for path in sources(".", "ui", "processing") if path.name != "setup.py"]


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports_of(path):
    """Return the dotted names that a file imports; those of the package from its root, such as `engine.errors`."""
    here = path.relative_to(ROOT).parent.parts
    found = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else ()
            stem = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{stem}.{alias.name}".lstrip(".") for alias in node.names} | {stem}
    return {name.removeprefix("lacuna.") for name in found if name}


def top(names):
    return {name.split(".")[0] for name in names}


def closure(modules):
    """Return the files of `modules` of the engine and of all that they import."""
    by_name = {name_of(path): path for path in ENGINE}
    waiting, found = [f"engine.{name}" for name in modules], {}
    while waiting:
        name = waiting.pop()
        # Importing a module imports the packages it lies in.
        for part in (name, name.rpartition(".")[0]):
            if part in by_name and part not in found:
                found[part] = by_name[part]
                waiting += imports_of(by_name[part])
    return found


BOTH = closure(SHARED)


def test_there_is_something_to_read():
    assert {"engine.cli", "engine.raster.grid", "engine.models.registry"} <= {name_of(path) for path in ENGINE}
    assert "__init__" in [path.stem for path in PLUGIN]
    assert {"engine.errors", "engine.checkpoint.card", "engine.checkpoint.mlm"} <= set(BOTH)


@pytest.mark.parametrize("path", ENGINE, ids=name_of)
def test_the_engine_imports_neither_qgis_nor_qt(path):
    assert not top(imports_of(path)) & QT


@pytest.mark.parametrize("path", PLUGIN, ids=name_of)
def test_the_side_of_qgis_imports_nothing_heavy_and_of_the_engine_only_what_is_shared(path):
    names = imports_of(path)
    assert not top(names) & HEAVY
    of_engine = {name for name in names if name.startswith("engine.")}
    allowed = {f"engine.{name}" for name in SHARED} | {"engine.version"}
    stray = {name for name in of_engine if not any(f"{name}.".startswith(f"{item}.") for item in allowed)}
    # `from .engine.checkpoint import card` also counts as an import of the package it lies in.
    assert stray <= {"engine.checkpoint"}


@pytest.mark.parametrize("name", sorted(BOTH))
def test_what_is_shared_needs_the_standard_library_alone(name):
    own = {item.split(".")[0] for item in BOTH} | {"engine"}
    assert top(imports_of(BOTH[name])) <= set(sys.stdlib_module_names) | own


@pytest.mark.parametrize("path", [*PLUGIN, *BOTH.values()], ids=name_of)
def test_both_run_on_python_3_9(path):
    ast.parse(path.read_text(encoding="utf-8"), str(path), feature_version=(3, 9))


@pytest.mark.parametrize("path", [*PLUGIN, *ENGINE], ids=name_of)
def test_nothing_unsafe_is_called(path):
    assert not top(imports_of(path)) & FORBIDDEN_MODULES
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ExceptHandler):
            silent = len(node.body) == 1 and isinstance(node.body[0], ast.Pass)
            assert not silent, f"line {node.lineno}: an exception is passed over"
        if isinstance(node, ast.Assert):
            pytest.fail(f"line {node.lineno}: an assert outside the tests")
        if not isinstance(node, ast.Call):
            continue
        called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        harmless = isinstance(node.func, ast.Attribute) and called in ("eval", "exec", "exec_", "compile")
        assert called not in FORBIDDEN_CALLS or harmless, f"line {node.lineno}: {called}"
        for keyword in node.keywords:
            is_shell = keyword.arg == "shell" and not (
                isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            )
            assert not is_shell, f"line {node.lineno}: a shell"
            if called == "load" and keyword.arg == "weights_only":
                assert keyword.value.value is True


@pytest.mark.parametrize(
    ("folder", "strangers"),
    [("raster", ("models", "inference", "training")), ("models", ("raster", "inference", "training", "checkpoint"))],
)
def test_models_know_no_rasters_and_rasters_no_models(folder, strangers):
    paths = sources(f"engine/{folder}")
    assert paths
    for path in paths:
        names = imports_of(path)
        for stranger in strangers:
            found = [name for name in names if f"{name}.".startswith(f"engine.{stranger}.")]
            assert not found, name_of(path)
        if folder == "models":
            assert not top(names) & {"rasterio", "pyogrio", "shapely"}
        else:
            assert not top(names) & {"torch", "safetensors"}


@pytest.mark.parametrize("path", [*PLUGIN, *ENGINE, *sources("tests", "tools")], ids=lambda path: str(path.name))
def test_every_file_names_its_licence_and_its_subject(path):
    text = path.read_text(encoding="utf-8")
    first = next(line for line in text.splitlines() if not line.startswith("#!"))
    assert first == "# SPDX-License-Identifier: GPL-2.0-or-later"
    assert ast.get_docstring(ast.parse(text))


def test_no_text_of_the_product_names_a_machine():
    home = os.path.expanduser("~")
    for path in [*PLUGIN, *ENGINE]:
        assert home + os.sep not in path.read_text(encoding="utf-8")
