# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading catalogues: from servers, shares and disks; those that are broken, and those that lie."""

from __future__ import annotations

import copy
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lacuna.engine.catalogue import listing
from lacuna.engine.catalogue.address import file_name
from lacuna.engine.catalogue.entry import entry_from_item, item_of
from lacuna.engine.catalogue.listing import parse_catalogue, read_catalogue
from lacuna.engine.checkpoint.card_file import read_card
from lacuna.engine.errors import LacunaError, UsageError

from .conftest import BUNDLED, NAME, collection

REMOTE = "https://example.org/models/catalogue.json"


def changed(item, **fields):
    """Return a copy of an item with other values, by dotted names with __ for the dots."""
    item = copy.deepcopy(item)
    for path, value in fields.items():
        place = item
        *steps, last = path.split("__")
        for step in steps:
            place = place[step]
        place[last.replace("_", ":", 1) if last.startswith(("file_", "lacuna_")) else last] = value
    return item


def test_a_catalogue_of_a_server_shows_cards_before_anything_is_fetched(server, network, reporter):
    catalogue = read_catalogue(f"{server.address}/catalogue.json", network, reporter)
    (entry,) = catalogue.entries
    assert (entry.name, entry.file_name, entry.size) == (NAME, f"{NAME}.safetensors", 1938186)
    assert entry.address == f"{server.address}/{NAME}.safetensors"
    assert entry.card.names == ["optical", "radar", "elevation"]
    assert round(entry.card.miou(("optical", "radar")), 2) == 0.37
    assert [path for path, _ in server.asked] == ["/catalogue.json"]


def test_a_catalogue_on_a_share_by_file_folder_and_file_url(item, network, reporter, tmp_path):
    (tmp_path / "a share").mkdir()
    file = tmp_path / "a share" / "catalogue.json"
    file.write_bytes(collection(item))
    for text in (str(file), str(file.parent), file.as_uri()):
        (entry,) = read_catalogue(text, network, reporter).entries
        assert entry.address == str(file.parent / f"{NAME}.safetensors")


def test_one_item_alone_is_a_catalogue_of_one(item):
    catalogue = parse_catalogue(json.dumps(item).encode(), REMOTE)
    assert catalogue.find("").name == NAME


def test_a_checkpoint_is_found_by_any_of_its_names(item):
    item["id"], item["properties"]["lacuna:card"]["name"] = "the-id", "Land cover (10 m)"
    catalogue = parse_catalogue(collection(item), REMOTE)
    for name in ("the-id", "Land cover (10 m)", f"{NAME}.safetensors"):
        assert catalogue.find(name).name == "the-id"
    for name in ("other", ""):
        other = changed(item, id="b", assets__model__href="b.safetensors")
        catalogue = parse_catalogue(collection(item, other), REMOTE)
        with pytest.raises(UsageError, match="the-id, b"):
            catalogue.find(name)


def test_one_bad_item_does_not_hide_the_others(item):
    newer = changed(item, id="newer")
    newer["properties"]["lacuna:card"]["schema"] = 99
    catalogue = parse_catalogue(collection(newer, 7, item, item), REMOTE)
    assert [entry.name for entry in catalogue.entries] == [NAME]
    assert [problem.code for problem in catalogue.faults.values()] == ["newer-schema", "bad-catalogue", "bad-catalogue"]
    with pytest.raises(LacunaError, match="newer Lacuna"):
        catalogue.find("newer")


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"<html>Sign in</html>", b"\xff\xfe", b"[]", b"7", b"[" * 10**5),
        *(b'{"features": 3}', b'{"features": [1, 2]}', b'{"type": "FeatureCollection", "features": [NaN]}'),
        b'{"type": "FeatureCollection", "type": 1, "features": []}',
    ],
)
def test_what_is_no_catalogue_is_said(text):
    with pytest.raises(LacunaError) as caught:
        parse_catalogue(text, REMOTE)
    assert caught.value.code == "bad-catalogue" and REMOTE in caught.value.text


def test_too_large_a_catalogue_is_not_read_to_its_end(server, network, reporter, monkeypatch):
    monkeypatch.setattr(listing, "MAX_BYTES", 300_000)
    server.endless, server.announces, server.cuts = True, False, [10**12]
    with pytest.raises(LacunaError, match="larger than"):
        read_catalogue(f"{server.address}/catalogue.json", network, reporter)


def test_too_many_items(monkeypatch, item):
    monkeypatch.setattr(listing, "MAX_ITEMS", 1)
    with pytest.raises(LacunaError, match="2 items"):
        parse_catalogue(collection(item, item), REMOTE)


@pytest.mark.parametrize(
    "fields",
    [
        {"id": "../../x"},
        {"id": 7},
        {"assets": {}},
        {"assets__model__href": 3},
        {"assets__model__href": ""},
        {"assets__model__file_size": -1},
        {"assets__model__file_size": True},
        {"assets__model__file_size": 1e6},
        {"assets__model__file_size": 1 << 50},
        {"assets__model__file_checksum": "abc"},
        {"assets__model__file_checksum": "1114" + "0" * 40},
        {"assets__model__file_checksum": None},
        {"links": [{"rel": "license", "href": "javascript:alert(1)"}]},
        {"links": 3},
        {"properties": {}},
        {"properties__lacuna_card": []},
        {"properties__lacuna_accept_licence": "yes"},
        {"properties__lacuna_accept_licence": True},
        {"properties__lacuna_licence_text": ["a"]},
        {"properties__mlm:input": []},
        {"properties__title": "\x1b[2Jgone"},
    ],
    ids=str,
)
def test_an_item_with_a_fault_is_refused_in_words(item, fields):
    with pytest.raises(LacunaError) as caught:
        entry_from_item(changed(item, **fields), REMOTE)
    assert caught.value.code in ("bad-catalogue", "bad-card")


@pytest.mark.parametrize(
    "href",
    [
        "../../x", "..", "a/..", "x.safetensors/", "/etc/passwd", "file:///etc/passwd", "file:x.safetensors",
        "ftp://example.org/x.safetensors", "http://example.org/x.safetensors", "data:,x.safetensors",
        "https://user:secret@example.org/x.safetensors", "https://example.org:x/a.safetensors",
        "x.pt", ".safetensors", "..safetensors", "-x.safetensors", "a%2Fb.safetensors", "..%2F..%2Fx.safetensors",
        "a%5Cb.safetensors", "a%00.safetensors", "%FF.safetensors", "C%3A.safetensors", "con.safetensors",
        "a\nb.safetensors", "aux.x.safetensors", "x" * 200 + ".safetensors",
    ],
)  # fmt: skip
def test_hrefs_that_lead_astray_are_refused(item, href):
    with pytest.raises(LacunaError):
        entry_from_item(changed(item, assets__model__href=href), REMOTE)


@pytest.mark.parametrize(
    "href",
    [
        *("../x.safetensors", "https:///x.safetensors", "/etc/x.safetensors", "file:///x.safetensors"),
        *("C:\\x.safetensors", "\\\\a\\x.safetensors"),
    ],
)
def test_a_catalogue_on_disk_names_files_in_its_own_folder_only(item, href, tmp_path):
    with pytest.raises(LacunaError):
        entry_from_item(changed(item, assets__model__href=href), str(tmp_path / "catalogue.json"))


def test_a_link_does_not_lead_out_of_the_folder_of_a_catalogue_on_disk(item, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "x.safetensors").symlink_to("/etc/passwd")
    with pytest.raises(LacunaError):
        entry_from_item(changed(item, assets__model__href="x.safetensors"), str(tmp_path / "models" / "catalogue.json"))


@given(st.text(max_size=40))
def test_whatever_a_file_is_called_it_stays_in_its_folder(href):
    try:
        name = file_name(href + ".safetensors")
    except LacunaError:
        return
    assert os.path.basename(name) == name
    assert not set(name) & set('/\\:*?"<>|\0') and name.isprintable()
    assert not name.startswith(("-", ".", " "))


def test_relative_and_absolute_addresses(item):
    def address(href, catalogue=REMOTE):
        return entry_from_item(changed(item, assets__model__href=href), catalogue).address

    assert address("v2/a%20b.safetensors") == "https://example.org/models/v2/a%20b.safetensors"
    assert address("https://cdn.example.net/a.safetensors") == "https://cdn.example.net/a.safetensors"
    assert address("https://cdn.example.net/a.safetensors", "/share/c.json") == "https://cdn.example.net/a.safetensors"
    assert address("https://b/a.safetensors", "http://a/c.json") == "https://b/a.safetensors"


def test_an_item_says_what_stac_and_its_file_extension_ask_for(item):
    asset = item["assets"]["model"]
    assert asset["file:checksum"].startswith("1220") and len(asset["file:checksum"]) == 68
    assert asset["file:size"] == 1938186
    assert "https://stac-extensions.github.io/file/v2.1.0/schema.json" in item["stac_extensions"]
    assert item["properties"]["license"] == "CC-BY-SA-4.0"


def test_a_licence_is_text_or_link(checkpoint_card):
    text = item_of(checkpoint_card, "a.safetensors", 1, "0" * 64, "Only\non Sundays.")
    link = item_of(checkpoint_card, "a.safetensors", 1, "0" * 64, "https://example.org/licence")
    assert entry_from_item(text, REMOTE).licence_text == "Only\non Sundays."
    entry = entry_from_item(link, REMOTE)
    assert (entry.must_accept, entry.licence_link) == (True, "https://example.org/licence")


@pytest.fixture
def checkpoint_card():
    return read_card(str(BUNDLED))
