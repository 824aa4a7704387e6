"""Files of arrays and of JSON: the format of safetensors, their checksum, and what is refused before it is read."""

from __future__ import annotations

import json
import os
import random
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from safetensors.numpy import save_file

from mcdropout import containers
from mcdropout.errors import UnreadableFile

ARRAYS = {
    "b": np.arange(6, dtype=np.float32).reshape(2, 3).T,  # not in C order
    "a": np.arange(3),
    "none": np.zeros((0, 4), np.float16),
    "number": np.array(3.5),
    "flags": np.array([True, False, True]),
    "big-endian": np.arange(2, dtype=">u2"),
}
FACTS = {"labels": ["à", "b"], "n": 3}


def of_arrays() -> bytes:
    return containers.to_bytes("model", ARRAYS, FACTS)


def of_text() -> bytes:
    return containers.to_text("policy", FACTS).encode()


def opened(content: bytes):
    return containers.from_bytes(content, ("model", "policy"))


def test_arrays_and_facts_come_back():
    kind, arrays, facts = opened(of_arrays())
    assert (kind, facts) == ("model", FACTS)
    assert arrays.keys() == ARRAYS.keys()
    for name, values in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], values.astype(values.dtype.newbyteorder("=")), strict=True)
    assert opened(of_text()) == ("policy", {}, FACTS)


def test_the_bytes_are_those_of_safetensors():
    content = of_arrays()
    description = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    in_order = {name: np.ascontiguousarray(values).reshape(values.shape) for name, values in ARRAYS.items()}
    assert safetensors.numpy.save(in_order, description) == content


# The checksum ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [of_arrays(), of_text()], ids=["arrays", "text"])
def test_a_file_with_one_changed_byte_is_refused(content):
    rng = random.Random(1)
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] = rng.choice([value for value in range(256) if value != content[place]])
        with pytest.raises(UnreadableFile, match="^`path` must "):
            opened(bytes(changed))
    for other in (content[:-1], content + b"\0", content[:100] + content[101:], content.replace(b"2", b"1", 1)):
        with pytest.raises(UnreadableFile, match="which is cut short or was changed"):
            opened(other)


def test_a_file_that_was_rewritten_without_its_checksum_is_refused():
    state = json.loads(of_text())
    del state["mcdropout"]["sha256"]
    for text in (json.dumps(state), json.dumps(json.loads(of_text()), indent=1)):
        with pytest.raises(UnreadableFile, match="which is cut short or was changed"):
            opened(text.encode())


def test_a_file_of_the_first_format_opens_with_a_warning(tmp_path):
    described = {"format": 1, "kind": "model", **FACTS}
    save_file({"a": ARRAYS["a"]}, tmp_path / "arrays", {"mcdropout": json.dumps(described)})
    (tmp_path / "text").write_text(json.dumps({"mcdropout": {"format": 1, "kind": "policy"}, **FACTS}))
    for name in ("arrays", "text"):
        with pytest.warns(
            UserWarning, match=f'`path` is a file of an earlier version, ".*{name}", which has no'
        ) as log:
            assert containers.read(tmp_path / name, ("model", "policy"))[2] == FACTS
        assert len(log) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert opened((tmp_path / "text").read_bytes())[2] == FACTS  # R keeps such texts in its objects


def test_text_that_is_not_unicode_comes_back():
    """Linux allows file names, and so labels, that are not UTF-8."""
    facts = {"labels": [os.fsdecode(b"caf\xe9"), "café"]}
    assert opened(containers.to_text("policy", facts).encode()) == ("policy", {}, facts)
    assert opened(containers.to_bytes("model", {}, facts)) == ("model", {}, facts)


# What is refused before it is read -----------------------------------------------------------------------------


def in_time(path: Path | str) -> str:
    """The refusal of a file, which must not take long."""
    refusals: list[str] = []

    def read():
        try:
            containers.read(path, ("model", "policy"))
        except UnreadableFile as error:
            refusals.append(str(error))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(20)
    assert len(refusals) == 1
    return refusals[0]


def test_pipes_devices_and_folders_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    kinds = {tmp_path / "pipe": "a pipe", "/dev/zero": "a device", tmp_path: "a folder"}
    for path, kind in kinds.items():
        assert in_time(path) == f'`path` must be a file that can be read; got "{path}": it is {kind}.'


@pytest.mark.parametrize("start", [b"", b'{"rows": ['])
def test_only_the_start_of_a_foreign_file_is_read(tmp_path, start):
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.write(start)
        file.truncate(1 << 42)  # 4 TB, of which nothing is stored
    assert in_time(path).endswith("which is not.")


DEEP = b'{"a":' * 100_000
LONG = b'{"mcdropout": {"format": ' + b"9" * 10_000 + b"}}"
HEADER = containers.START + b'"{}"'


@pytest.mark.parametrize(
    "content",
    [
        DEEP,
        b'{"mcdropout": ' + b"[" * 100_000,
        LONG,
        b'{"mcdropout": {"format": 1e999, "kind": "policy"}}',
        (2**63).to_bytes(8, "little") + HEADER,
        (100).to_bytes(8, "little") + containers.START + b'"' + b"[" * 100_000,
        (10**6).to_bytes(8, "little") + containers.START + b'"' + b"[" * 10**6,
    ],
)
def test_json_that_is_too_deep_or_too_large_is_refused(content):
    with pytest.raises(UnreadableFile, match="which is cut short or was changed"):
        opened(content)


def test_an_array_that_claims_more_than_the_file_has_is_refused():
    described = json.dumps({"format": 1, "kind": "model"})
    header = {
        "__metadata__": {"mcdropout": described},
        "a": {"dtype": "F64", "shape": [1 << 40], "data_offsets": [0, 8 << 40]},
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    with pytest.raises(UnreadableFile, match="which is cut short or was changed"):
        opened(len(text).to_bytes(8, "little") + text)
