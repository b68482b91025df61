# SPDX-License-Identifier: GPL-2.0-or-later
"""The header of a safetensors file: whatever the bytes, the answer is a header or an error in words."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import struct
import zipfile

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lacuna.engine.checkpoint.header import MAX_HEADER, MAX_METADATA, read_header, read_metadata, sha256
from lacuna.engine.errors import LacunaError

KNOWN = ("pickle", "not-safetensors", "cut-short")
ENTRY = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def code_of(path, read=read_header):
    with pytest.raises(LacunaError) as caught:
        read(path)
    assert str(path) in caught.value.text
    assert caught.value.hint
    return caught.value.code


def attempt(path):
    """Return the metadata, or the code of the error, of a file; anything but LacunaError is raised."""
    try:
        return read_metadata(str(path))
    except LacunaError as problem:
        return problem.code


def announced(text):
    """Return `text` behind the length of a header that is one byte longer."""
    return struct.pack("<Q", len(text) + 1) + b"{" + text


def test_a_file_of_the_library_is_read(tmp_path):
    path = tmp_path / "a.safetensors"
    tensors = {
        "w": torch.zeros(2, 3),
        "h": torch.zeros(4, dtype=torch.float16),
        "n": torch.tensor(3),
        "e": torch.zeros(0),
    }
    safetensors.torch.save_file(tensors, path, metadata={"key": "value"})
    header = read_header(str(path))
    assert header["w"]["shape"] == [2, 3]
    assert header["h"]["dtype"] == "F16"
    assert header["n"]["shape"] == []
    assert read_metadata(str(path)) == {"key": "value"}


def test_a_missing_file_and_a_folder_are_said(tmp_path):
    assert code_of(tmp_path / "none.safetensors") == "file-missing"
    assert code_of(tmp_path) == "file-unreadable"


def test_a_pickle_in_disguise_is_named_as_such_and_not_opened(tmp_path):
    path = tmp_path / "model.safetensors"
    for protocol in (2, 3, 4, 5):
        path.write_bytes(pickle.dumps({"weights": list(range(50))}, protocol=protocol))
        assert code_of(path) == "pickle"
    torch.save({"w": torch.zeros(2)}, path)
    assert code_of(path) == "pickle"
    torch.save({"w": torch.zeros(2)}, path, _use_new_zipfile_serialization=False)
    assert code_of(path) == "pickle"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a", "b")
    path.write_bytes(buffer.getvalue())
    assert code_of(path) == "pickle"


@pytest.mark.parametrize("length", [0x0280, 0x0380, 0x0480, 0x0580])
def test_a_header_whose_length_looks_like_a_pickle_is_read(write_header, length):
    text = json.dumps({"w": ENTRY}).encode()
    path = write_header(text + b" " * (length - len(text)), body=bytes(24))
    assert read_header(path) == {"w": ENTRY}


@pytest.mark.parametrize("cut", [1, 8, 20, 60])
def test_a_file_cut_short_anywhere_is_refused(write_header, cut):
    path = write_header({"w": ENTRY}, body=bytes(24))
    with open(path, "rb") as stream:
        whole = stream.read()
    with open(path, "wb") as stream:
        stream.write(whole[:-cut])
    assert code_of(path) == "cut-short"


@pytest.mark.parametrize("kept", range(8))
def test_not_even_a_length(write_header, kept):
    path = write_header({"w": ENTRY}, body=bytes(24))
    with open(path, "r+b") as stream:
        stream.truncate(kept)
    assert code_of(path) == "not-safetensors"


@pytest.mark.parametrize("length", [0, 1, MAX_HEADER + 1, 2**63, 2**64 - 1])
def test_an_absurd_length_is_refused_without_reading_it(write_header, length):
    assert code_of(write_header({"w": ENTRY}, body=bytes(24), length=length)) == "not-safetensors"


ENTRIES = {
    "no object": 3,
    "lacks offsets": {"dtype": "F32", "shape": [2]},
    "one too many": {**ENTRY, "code": "print()"},
    "unknown type": {**ENTRY, "dtype": "OBJECT"},
    "type no text": {**ENTRY, "dtype": ["F32"]},
    "negative offsets": {**ENTRY, "data_offsets": [-24, 0]},
    "reversed offsets": {**ENTRY, "data_offsets": [24, 0]},
    "one offset": {**ENTRY, "data_offsets": [24]},
    "offsets of floats": {**ENTRY, "data_offsets": [0.0, 24.0]},
    "offset true": {"dtype": "U8", "shape": [1], "data_offsets": [False, True]},
    "huge offset": {**ENTRY, "data_offsets": [0, 2**80]},
    "negative shape": {**ENTRY, "shape": [-2, -3]},
    "too small for its shape": {**ENTRY, "shape": [2, 4]},
    "a hole before it": {**ENTRY, "data_offsets": [8, 32]},
    "too many dimensions": {"dtype": "U8", "shape": [1] * 17, "data_offsets": [0, 1]},
}


@pytest.mark.parametrize("fault", ENTRIES)
def test_an_entry_that_cannot_be_is_refused(write_header, fault):
    assert code_of(write_header({"w": ENTRIES[fault]}, body=bytes(32))) == "not-safetensors"


def test_overlapping_tensors_and_bytes_of_nobody_are_refused(write_header):
    other = {"dtype": "F32", "shape": [2], "data_offsets": [16, 24]}
    assert code_of(write_header({"v": ENTRY, "w": other}, body=bytes(24))) == "not-safetensors"
    assert code_of(write_header({"v": ENTRY, "w": ENTRY}, body=bytes(24))) == "not-safetensors"
    assert code_of(write_header({"v": ENTRY}, body=bytes(25))) == "not-safetensors"


@pytest.mark.parametrize(
    "text",
    [
        b'{"w": NaN}',
        b'{"w": 1e999}',
        b'{"w": 1, "w": 1}',
        b'{"w": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"w": "\xff"}',
        b'{"w": ' + b"9" * 5000 + b"}",
        b"{not json}",
        b"[1, 2]",
        b'  {"w": 1}',
    ],
)
def test_a_header_that_is_no_plain_json_object_is_refused(write_header, text):
    assert code_of(write_header(text)) == "not-safetensors"


@pytest.mark.parametrize("metadata", [["a"], {"a": 1}, {"a": None}, "text", {"a": "x" * (MAX_METADATA + 1)}])
def test_metadata_are_strings_of_bounded_size(write_header, metadata):
    assert code_of(write_header({"__metadata__": metadata}), read_metadata) == "not-safetensors"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(
    data=st.binary(max_size=200)
    | st.binary(max_size=60).map(lambda text: struct.pack("<Q", len(text) + 1) + b"{" + text)
)
def test_random_bytes_give_nothing_but_errors_in_words(tmp_path, data):
    path = tmp_path / "random.safetensors"
    path.write_bytes(data)
    assert attempt(path) in KNOWN or data[8:].startswith(b"{")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(place=st.integers(0, 10_000), value=st.integers(0, 255))
def test_one_changed_byte_gives_a_header_or_an_error_in_words(tmp_path, place, value):
    path = tmp_path / "changed.safetensors"
    data = bytearray(safetensors.torch.save({"w": torch.zeros(3), "v": torch.zeros(2)}, metadata={"k": "v"}))
    data[place % len(data)] = value
    path.write_bytes(data)
    found = attempt(path)
    assert found in KNOWN or isinstance(found, dict)


def test_sha256_is_that_of_the_bytes(tmp_path):
    data = bytes(range(256)) * 5000
    path = tmp_path / "bytes"
    path.write_bytes(data)
    assert sha256(str(path)) == hashlib.sha256(data).hexdigest()
