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
SHARED = (
    *("errors", "events", "jobs", "naming", "offset_tags", "options", "palette", "proposals", "value_check", "version"),
    *("checkpoint.card", "checkpoint.card_file", "checkpoint.classes", "checkpoint.faults", "checkpoint.header"),
    *("catalogue.address", "catalogue.entry", "catalogue.fetch", "catalogue.listing", "catalogue.network"),
    "models.names",
)
# Who imports whom: for each folder (a file at the top of the engine or of the plugin counts as one) all others whose
# code it uses. What is not written here is not allowed, and what is written here is so; nothing goes in a circle.
WORDS = "errors events jobs naming"
IMPORTS = {
    "engine": {
        "errors": "",
        "naming": "",
        "offset_tags": "",
        "options": "",
        "palette": "",
        "proposals": "models naming",
        "version": "",
        "events": "errors",
        "jobs": "errors",
        "locks": "errors",
        "models": "errors naming",
        "report": "palette",
        "checkpoint": "errors models naming palette",
        "catalogue": "errors events jobs checkpoint locks version",
        "value_check": "checkpoint offset_tags",
        "raster": f"{WORDS} checkpoint offset_tags palette value_check",
        "runtime": "errors events locks raster version",
        "data": f"{WORDS} checkpoint palette raster",
        "imports": "errors events jobs checkpoint models runtime",
        "inference": "errors events jobs checkpoint models raster runtime",
        "evaluation": f"{WORDS} checkpoint data models raster report runtime",
        "training": "errors events jobs checkpoint data imports models raster report runtime",
        "finetuning": f"{WORDS} checkpoint data models raster report runtime training",
        "run": "errors events jobs checkpoint version",
        "console": "errors events",
        "worker": "errors events jobs console run",
        "cli": "errors events jobs checkpoint console models options run version worker",
        "__main__": "",
    },
    "plugin": {
        "compat": "",
        "settings": "",
        "stub": "",
        "host": "compat engine settings",
        "ui": "compat engine host settings stub",
        "processing": "compat engine host",
        "plugin": "compat host processing ui",
        "__init__": "plugin stub",
    },
}
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
PLUGIN = [path for path in sources(".", "host", "ui", "processing") if path.name != "setup.py"]


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
    assert stray <= {"engine.checkpoint", "engine.catalogue", "engine.models"}


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


def unit_of(name, house):
    """Return the folder, or the file that stands for itself, in which a module or a name of one lies."""
    steps = name.split(".")
    if house == "engine":
        return steps[1] if len(steps) > 1 else "__init__"
    return "engine" if steps[0] == "engine" else steps[0]


def units(house):
    """Return for each unit of a house the names of all that it imports from Lacuna."""
    found = {}
    for path in ENGINE if house == "engine" else PLUGIN:
        unit = unit_of(name_of(path) or "__init__", house)
        own = {name for name in imports_of(path) if name.split(".")[0] in FOLDERS}
        found.setdefault(unit, set()).update(own)
    return found


FOLDERS = {"engine", *IMPORTS["plugin"]}


@pytest.mark.parametrize(("house", "unit"), [(house, unit) for house, table in IMPORTS.items() for unit in table])
def test_every_folder_imports_what_the_table_says_and_nothing_else(house, unit):
    used = {unit_of(name, house) for name in units(house)[unit]} & set(IMPORTS[house] | {"engine": ""})
    assert used - {unit, "engine" if house == "engine" else unit} == set(IMPORTS[house][unit].split())


@pytest.mark.parametrize("house", IMPORTS)
def test_the_table_knows_every_folder_and_has_no_circle(house):
    table = {unit: set(others.split()) - {"engine"} for unit, others in IMPORTS[house].items()}
    assert set(units(house)) - {"__init__"} == set(table) - {"__init__"}
    while table:
        free = [unit for unit, others in table.items() if not others & set(table)]
        assert free, f"a circle among {sorted(table)}"
        table = {unit: others for unit, others in table.items() if unit not in free}


def test_inside_a_folder_no_modules_import_each_other_in_a_circle():
    graph = {name_of(path): imports_of(path) for path in [*ENGINE, *PLUGIN] if path.name != "__init__.py"}
    graph = {name: {other for other in graph if other in found and other != name} for name, found in graph.items()}
    while graph:
        free = [name for name, others in graph.items() if not others & set(graph)]
        assert free, f"a circle among {sorted(graph)}"
        graph = {name: others for name, others in graph.items() if name not in free}


def test_models_know_no_rasters_and_rasters_no_models():
    for folder, strangers in (("models", {"rasterio", "pyogrio", "shapely"}), ("raster", {"torch", "safetensors"})):
        paths = sources(f"engine/{folder}")
        assert paths
        for path in paths:
            assert not top(imports_of(path)) & strangers, name_of(path)
    # Nor do rasters reach torch by way of what they import.
    reached = closure(["raster." + path.stem for path in sources("engine/raster")])
    assert not {name for name, path in reached.items() if top(imports_of(path)) & {"torch", "safetensors"}}


def test_scikit_learn_is_loaded_only_where_a_forest_is_grown():
    """It takes seconds, which a plan and a job without a forest need not spend."""
    for path in ENGINE:
        loaded = [node for node in tree_of(path).body if isinstance(node, (ast.Import, ast.ImportFrom))]
        assert not [node for node in loaded if "sklearn" in ast.unparse(node)], name_of(path)


def test_no_public_name_means_two_things():
    places = {}
    for path in [*ENGINE, *PLUGIN]:
        for node in tree_of(path).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(name_of(path))
    # A program's entry is called so everywhere.
    assert {name: found for name, found in places.items() if len(found) > 1 and name != "main"} == {}


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
