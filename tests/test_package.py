# SPDX-License-Identifier: GPL-2.0-or-later
"""The zip for QGIS's plugin site: built here, and held against the rules of the site's validator and scanners.

Rules: QGIS-Plugins-Website, `qgis-app/plugins/validator.py` and `management/commands/data/bandit_rules.json`.
"""

from __future__ import annotations

import ast
import configparser
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

import package
import pytest

ROOT = Path(__file__).resolve().parent.parent
LARGEST = 25 * 1024 * 1024
ALLOWED_SUFFIXES = {
    ".py", ".ui", ".ts", ".txt", ".md", ".html", ".toml", ".json", ".xml", ".qml", ".svg", ".png", ".tif",
    ".safetensors", ".LICENSE", ".NOTICE",
}  # fmt: skip
REQUIRED_FIELDS = (
    "name", "description", "version", "qgisMinimumVersion", "author", "email", "about", "tracker", "repository",
)  # fmt: skip
CRITICAL = (
    "B102", "B103", "B105", "B106", "B107", "B202", "B301", "B302", "B306", "B307", "B323",
    "B501", "B502", "B503", "B506", "B602", "B604", "B605", "B609", "B613", "B615",
)  # fmt: skip
WARNINGS = (
    "B101", "B104", "B108", "B110", "B112", "B113", "B303", "B310", "B311", "B324", "B403",
    "B603", "B606", "B607", "B608", "B614",
)  # fmt: skip
URL = re.compile(r"https://[\w.-]+/\S+\Z")


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return package.build(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def entries(archive):
    with zipfile.ZipFile(archive) as opened:
        return opened.infolist()


@pytest.fixture(scope="module")
def plugin(archive, tmp_path_factory):
    """The folder `lacuna` as QGIS unpacks it."""
    folder = tmp_path_factory.mktemp("plugins")
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(folder)
    return folder / "lacuna"


@pytest.fixture(scope="module")
def metadata(plugin):
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str
    parser.read(plugin / "metadata.txt", encoding="utf-8")
    return dict(parser["general"])


def test_zip_is_small_enough(archive):
    assert archive.stat().st_size <= LARGEST


def test_zip_has_one_folder_called_lacuna(entries):
    assert {PurePosixPath(entry.filename).parts[0] for entry in entries} == {"lacuna"}
    assert not [entry.filename for entry in entries if ".." in entry.filename or "\\" in entry.filename]


def test_zip_has_what_the_site_requires(plugin):
    for name in ("__init__.py", "metadata.txt", "LICENSE"):
        assert (plugin / name).is_file(), name
    tree = ast.parse((plugin / "__init__.py").read_text(encoding="utf-8"))
    assert "classFactory" in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]


def test_zip_holds_only_kinds_of_files_that_belong_there(entries):
    names = [entry.filename for entry in entries if PurePosixPath(entry.filename).name != "LICENSE"]
    assert not [name for name in names if PurePosixPath(name).suffix not in ALLOWED_SUFFIXES]
    assert not [name for name in names if any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)]
    assert not [name for name in names if "__pycache__" in name]


def test_zip_leaves_out_what_is_for_developers(entries):
    parts = {PurePosixPath(entry.filename).parts[1] for entry in entries}
    assert not parts & {"tests", "tools", "Makefile", "CONTRIBUTING.md"}


def test_files_are_not_executable(entries):
    assert not [entry.filename for entry in entries if entry.external_attr >> 16 & 0o111]


def test_every_folder_with_code_is_a_package(plugin):
    """A folder without `__init__.py` is a namespace package, which QGIS does not unload."""
    folders = {path.parent for path in plugin.rglob("*.py")}
    assert not [str(folder) for folder in folders if not (folder / "__init__.py").is_file()]


def test_same_sources_give_the_same_bytes(archive, tmp_path):
    again = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "package.py"), "--output", str(tmp_path)], check=True, capture_output=True
    )
    assert again.returncode == 0
    assert (tmp_path / archive.name).read_bytes() == archive.read_bytes()


def test_metadata_has_the_required_fields(metadata):
    assert not [name for name in REQUIRED_FIELDS if not metadata.get(name, "").strip()]
    assert "/" not in metadata["author"]
    assert "plugin" not in metadata["name"].lower()
    assert re.fullmatch(r"[^@\s]+@[^@\s]+\.[a-z]+", metadata["email"])


@pytest.mark.parametrize("name", ["homepage", "tracker", "repository"])
def test_metadata_addresses_are_well_formed(metadata, name):
    assert URL.match(metadata[name])


def test_metadata_covers_qgis_3_and_4(metadata):
    assert metadata["qgisMinimumVersion"] == "3.22"
    assert metadata["qgisMaximumVersion"] == "4.99"
    assert "supportsQt6" not in metadata, "deprecated by the site: the maximum version says it"
    assert metadata["hasProcessingProvider"] == "yes"
    assert metadata["category"] == "Raster"


def test_metadata_names_external_dependencies(metadata):
    assert not [name for name in ("torch", "rasterio") if name not in metadata["about"]]


def test_icon_is_there(metadata, plugin):
    assert (plugin / metadata["icon"]).is_file()


def test_one_version_everywhere(metadata):
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r'^version = "(.+)"$', project, re.MULTILINE).group(1) == metadata["version"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{metadata['version']}]" in changelog
    assert metadata["changelog"].split()[0] == metadata["version"]


def test_bundled_checkpoints_are_safetensors_with_a_card(plugin):
    from lacuna.engine.checkpoint.card_file import read_card

    found = list((plugin / "resources" / "checkpoints").glob("*.safetensors"))
    assert found
    for path in found:
        assert read_card(str(path)).classes


def test_readme_states_the_measured_accuracy_of_the_bundled_checkpoint():
    from lacuna.engine.checkpoint.card_file import read_card

    card = read_card(str(ROOT / "resources" / "checkpoints" / "landcover-s2-s1-dem.safetensors"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = [f"| {' + '.join(item['available'])} | {item['miou']:.2f} | {item['oa']:.2f} |" for item in card.scores]
    assert len(rows) == 7
    assert not [row for row in rows if row not in readme]


@pytest.fixture(scope="module")
def findings(plugin):
    """What bandit finds with all the tests that the site runs, by test."""
    rules = ",".join(CRITICAL + WARNINGS)
    command = [sys.executable, "-m", "bandit", "-q", "-r", "-f", "json", "-t", rules, str(plugin)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    report = json.loads(done.stdout)
    assert not report["errors"]
    assert report["metrics"]["_totals"]["loc"] > 1000, "bandit has not read the plugin"
    return [(item["test_id"], item["filename"], item["line_number"], item["issue_text"]) for item in report["results"]]


@pytest.mark.slow
def test_no_finding_that_blocks_an_upload(findings):
    assert not [item for item in findings if item[0] in CRITICAL]


def test_no_warning_without_a_stated_reason(findings):
    """The site lets these pass with `# nosec Bxxx - reason`."""
    assert not [item for item in findings if item[0] in WARNINGS]


def test_critical_findings_are_not_silenced(plugin):
    pattern = re.compile(r"#\s*nosec(?!\s+B\d{3})|#\s*nosec[^#]*\b(" + "|".join(CRITICAL) + r")\b")
    assert not [path for path in plugin.rglob("*.py") if pattern.search(path.read_text(encoding="utf-8"))]


def test_style_as_the_site_checks_it(plugin):
    """The site runs flake8 at 120 columns; ruff's E and F are its rules."""
    rules = ["--isolated", "--no-cache", "--select", "E,F", "--line-length", "120"]
    command = [sys.executable, "-m", "ruff", "check", *rules, str(plugin)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout


PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("resources/**/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_between_pages_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link and not link.startswith("mailto:")]
    assert not [link for link in local if not (page.parent / link).exists()]
