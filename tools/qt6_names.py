# SPDX-License-Identifier: GPL-2.0-or-later
"""Finds in sources and forms what QGIS 4 does not know: enums without their scope, and names that Qt 6 or PyQt6 lost.

The sources are read, not run: neither QGIS nor Qt is needed. PyQt6 has no `Qt.AlignRight`, only
`Qt.AlignmentFlag.AlignRight`; for enums of QGIS itself the same holds, apart from those that QGIS puts back.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree

_CLASS = re.compile(r"(Q[A-Z]\w*|Qt|Qgs\w+|Qgis)\Z")
_MODULE = re.compile(r"(qgis|core|gui|analysis|PyQt\d?|Qt[A-Z]\w*)\Z")
_CAMEL = re.compile(r"[A-Z]\w*[a-z]\w*\Z")
# Members of enums that do not begin with a capital, all of Qt.GlobalColor.
_COLORS = re.compile(
    r"(black|white|transparent|color[01]|((dark|light)?(gray|red|green|blue|cyan|magenta|yellow)))\Z", re.IGNORECASE
)
# May name a class inside a class without calling it.
_ASKS_FOR_TYPE = {"isinstance", "issubclass", "hasattr", "getattr"}

REMOVED_MODULES = {
    "PyQt5": "qgis.PyQt",
    "PyQt6": "qgis.PyQt",
    "sip": "qgis.PyQt.sip",
    "resources_rc": "files of the plugin; there is no pyrcc6",
    "qgis.PyQt.Qt": "qgis.PyQt.QtCore",
    "qgis.PyQt.QtWebKit": "QTextBrowser",
    "qgis.PyQt.QtWebKitWidgets": "QTextBrowser",
    "qgis.PyQt.QtScript": "nothing",
    "qgis.PyQt.QtXmlPatterns": "nothing",
    "qgis.PyQt.QtOpenGL": "qgis.PyQt.QtOpenGLWidgets",
}
REMOVED_NAMES = {
    "QRegExp": "QRegularExpression",
    "QRegExpValidator": "QRegularExpressionValidator",
    "QDesktopWidget": "QScreen",
    "QTextCodec": "bytes.decode",
    "QMatrix": "QTransform",
    "QSound": "QSoundEffect",
    "QGLWidget": "QOpenGLWidget",
    "QWebView": "QTextBrowser",
    "QWebPage": "QTextBrowser",
    "QPyNullVariant": "qgis.core.NULL",
    "QStringRef": "str",
    "QXmlSimpleReader": "QXmlStreamReader",
    "QItemEditorCreatorBase": "QStyledItemDelegate",
    "qApp": "QApplication.instance()",
}
REMOVED_ATTRIBUTES = {
    "exec_": "exec",
    "print_": "print",
    "desktop": "screen",
    "getContentsMargins": "contentsMargins",
    "setTabStopWidth": "setTabStopDistance",
    "toTime_t": "toSecsSinceEpoch",
    "fromTime_t": "fromSecsSinceEpoch",
    "localPos": "position",
    "windowPos": "scenePosition",
    "MidButton": "MiddleButton",
    "BackgroundColorRole": "BackgroundRole",
    "TextColorRole": "ForegroundRole",
    "HighQualityAntialiasing": "Antialiasing",
    "SystemLocaleDate": "QLocale.toString",
    "SystemLocaleShortDate": "QLocale.toString",
}
# QGIS 4 puts QAction and QShortcut back into qgis.PyQt.QtWidgets, these not.
MOVED_TO_GUI = {"QActionGroup", "QUndoCommand", "QUndoGroup", "QUndoStack", "QFileSystemModel"}
# QGIS 3.22 has these in qgis.PyQt.QtWidgets alone.
KEPT_IN_WIDGETS = {"QAction", "QShortcut"}
# Signals of Qt 5 with a second form that gives the text.
_TEXT_SIGNALS = {"activated", "currentIndexChanged", "highlighted", "valueChanged", "buttonClicked", "mapped"}


@dataclass(frozen=True)
class Chain:
    """A dotted name that begins with a class of Qt or QGIS, such as ("Qt", "AlignmentFlag", "AlignRight")."""

    line: int
    parts: tuple[str, ...]
    names_type: bool

    def __str__(self) -> str:
        return ".".join(self.parts)


def chains(tree: ast.Module) -> list[Chain]:
    """Return every dotted name in `tree` that begins with a class of Qt or QGIS, under the class's own name."""
    known = {local: name for module, name, local, _ in imported(tree) if module.startswith("qgis")}
    typed = _places_of_types(tree)
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or id(node) in inner:
            continue
        parts = _parts(node)
        if parts:
            parts[0] = known.get(parts[0], parts[0])
            while len(parts) > 1 and _MODULE.match(parts[0]) and not _is_class(parts[0]):
                del parts[0]
            if len(parts) > 1 and _is_class(parts[0]):
                found.append(Chain(node.lineno, tuple(parts), id(node) in typed))
    return found


def imported(tree: ast.Module) -> Iterator[tuple[str, str, str, int]]:
    """Yield module, name there, name here and line of each `from ... import`; the name is empty for `import ...`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                yield node.module or "", alias.name, alias.asname or alias.name, node.lineno
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, "", alias.asname or alias.name.split(".")[0], node.lineno


def faults_of_source(text: str) -> list[str]:
    """Return what QGIS 4 would not take in the Python source `text`, each with its line and a remedy."""
    tree = ast.parse(text)
    faults = [*_unscoped(tree), *_through_objects(tree), *_imports(tree), *_removed(tree), *_calls(tree)]
    return [f"line {line}: {words}" for line, words in sorted(set(faults))]


def faults_of_form(text: str) -> list[str]:
    """Return what PyQt5's or PyQt6's reader of forms would not take in the form `text`.

    A form has its enums without scope (`Qt::Horizontal`): PyQt5's reader, that of QGIS 3, knows no other; PyQt6's has a
    table of them. A scope (`Qt::Orientation::Horizontal`), as Designer 6 writes it, fails in QGIS 3.
    """
    root = ElementTree.fromstring(text)
    faults = []
    for node in [*root.iter("enum"), *root.iter("set")]:
        for name in (node.text or "").split("|"):
            if name.count("::") != 1:
                faults.append(f"{name}: write Class::Member, which both PyQt5 and PyQt6 read")
            elif name.rpartition("::")[2] in REMOVED_ATTRIBUTES:
                faults.append(f"{name}: removed, use {REMOVED_ATTRIBUTES[name.rpartition('::')[2]]}")
    used = {node.get("class", "") for node in root.iter("widget")} | {node.text or "" for node in root.iter("extends")}
    faults += [f"{name}: removed, use {REMOVED_NAMES[name]}" for name in sorted(used & set(REMOVED_NAMES))]
    return faults + [f"{node.get('location')}: compiled resources are no more" for node in root.iter("include")]


def _is_class(name: str) -> bool:
    return bool(_CLASS.match(name)) and not re.match(r"Qt[A-Z]", name)


def _parts(node: ast.AST) -> list[str]:
    """Return the parts of a dotted name, none if it begins with anything but a name."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return [node.id, *reversed(parts)] if isinstance(node, ast.Name) else []


def _places_of_types(tree: ast.Module) -> set[int]:
    """Return the ids of the nodes that may name a type: what is called, inherited, annotated or asked for its type."""
    places: list[ast.AST] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            places.append(node.func)
            if isinstance(node.func, ast.Name) and node.func.id in _ASKS_FOR_TYPE:
                places += [part for argument in node.args for part in ast.walk(argument)]
        elif isinstance(node, ast.ClassDef):
            places += node.bases
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            places += ast.walk(node.returns) if node.returns else ()
        elif isinstance(node, (ast.arg, ast.AnnAssign)) and node.annotation:
            places += ast.walk(node.annotation)
    return {id(place) for place in places}


def _unscoped(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for chain in chains(tree):
        owner, member = chain.parts[:2]
        if chain.parts[:2] == ("QVariant", "Type"):
            yield chain.line, f"{chain}: PyQt6 has no QVariant.Type; QGIS 4 puts back QVariant.Int and the like"
        elif owner == "QVariant" or len(chain.parts) > 2 or chain.names_type:
            continue
        elif owner.startswith(("Qgs", "Qgis")):
            if _CAMEL.match(member):
                yield chain.line, f"{chain}: an enum without its scope; write {owner}.Enum.{member}"
        elif member[0].isupper() or (owner == "Qt" and _COLORS.match(member)):
            yield chain.line, f"{chain}: an enum without its scope; write {owner}.Enum.{member}"


def _through_objects(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Find members of enums taken from an object, such as `self.StyledPanel` or `event.MouseMove`."""
    foreign = {local for _, _, local, _ in imported(tree)}
    foreign |= {alias.asname or alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
                for alias in node.names}  # fmt: skip
    typed = _places_of_types(tree)
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or id(node) in inner | typed or not _CAMEL.match(node.attr):
            continue
        parts = _parts(node)
        if len(parts) == 2 and parts[0][0].islower() and parts[0] not in foreign:
            yield node.lineno, f"{'.'.join(parts)}: an enum taken from an object; write Class.Enum.{node.attr}"


def _imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for module, name, _, line in imported(tree):
        whole = f"{module}.{name}".rstrip(".")
        for removed, remedy in REMOVED_MODULES.items():
            if whole == removed or f"{module}.".startswith(f"{removed}."):
                yield line, f"{whole}: not in QGIS 4; use {remedy}"
        if name in REMOVED_NAMES:
            yield line, f"{whole}: removed in Qt 6; use {REMOVED_NAMES[name]}"
        if module == "qgis.PyQt.QtWidgets" and name in MOVED_TO_GUI:
            yield line, f"{whole}: in QtGui since Qt 6; QGIS does not put it back"
        if module == "qgis.PyQt.QtGui" and name in KEPT_IN_WIDGETS:
            yield line, f"{whole}: take it from qgis.PyQt.QtWidgets, where every QGIS has it"


def _removed(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in REMOVED_ATTRIBUTES:
            yield node.lineno, f".{node.attr}: removed in Qt 6; use {REMOVED_ATTRIBUTES[node.attr]}"
        elif isinstance(node, ast.Attribute) and node.attr in REMOVED_NAMES:
            yield node.lineno, f".{node.attr}: removed in Qt 6; use {REMOVED_NAMES[node.attr]}"
        elif isinstance(node, ast.Name) and node.id in REMOVED_NAMES:
            yield node.lineno, f"{node.id}: removed in Qt 6; use {REMOVED_NAMES[node.id]}"
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == "exec_":
            yield node.lineno, "exec_: removed in PyQt6; use exec"
        elif isinstance(node, ast.Subscript) and _parts(node.slice) == ["str"]:
            signal = getattr(node.value, "attr", "")
            if signal in _TEXT_SIGNALS:
                yield node.lineno, f"{signal}[str]: removed in Qt 6; use the signal that gives the text"


def _calls(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Attribute) and node.func.attr == "width" and node.args:
            yield node.lineno, ".width(text) of font metrics: removed in Qt 6; use horizontalAdvance"
        if isinstance(node.func, ast.Name) and node.func.id == "int" and node.args:
            parts = _parts(node.args[0])
            if len(parts) > 2 and _is_class(parts[0]) and parts[1][0].isupper() and parts[-1][0].isupper():
                yield node.lineno, f"int({'.'.join(parts)}): most enums of PyQt6 are no numbers"
