"""The two kinds of files: named arrays with a JSON description (safetensors), or JSON alone.

Models, checkpoints, predictions and policies are kept in them. Opening a file runs no code. A file is complete or does
not exist. It has the SHA-256 of its content, which is computed with zeros in the place of the checksum itself.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np
import safetensors.numpy

from . import disk
from .checks import check_path, shown, warn
from .errors import UnreadableFile

Arrays = dict[str, np.ndarray]

Facts = dict[str, Any]

# errors that parts which do not fit together raise
DAMAGED = (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError, OverflowError)

FORMAT = 2  # files of format 1 have no checksum

BLANK = "0" * hashlib.sha256().digest_size * 2

START = b'{"__metadata__":{"mcdropout":'  # after the eight bytes of safetensors' header length

PEEK = 256  # bytes that tell whether a file is of this package

# What is before the checksum in a file of arrays and in a JSON file.
BEFORE = 8, START + rb'"{\"sha256\": \"'
BEFORE_IN_TEXT = 0, b'{\n  "mcdropout": {\n    "sha256": "'

# In the order of safetensors, which puts the last first: then each array is aligned to its type.
TYPES = {
    **{"bool": "BOOL", "uint8": "U8", "int8": "I8", "int16": "I16", "uint16": "U16", "float16": "F16"},
    **{"int32": "I32", "uint32": "U32", "float32": "F32", "float64": "F64", "int64": "I64", "uint64": "U64"},
}


def write(path: str | os.PathLike[str], kind: str, arrays: Arrays, facts: Facts, name: str = "path") -> None:
    """Write arrays and facts (what JSON can hold) to `path`, in one step: until then an old file stays."""
    with disk.replaced(path, name) as file:
        _write_checked(file, _pieces(kind, arrays, facts))


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text to `path`, in one step."""
    with disk.replaced(path) as file:
        file.write(_encoded(text))


def to_text(kind: str, facts: Facts) -> str:
    """Facts (what JSON can hold) as JSON for people to read."""
    described = {"mcdropout": {"sha256": BLANK, "format": FORMAT, "kind": kind}, **facts}
    content = _encoded(json.dumps(described, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return content.decode().replace(BLANK, hashlib.sha256(content).hexdigest(), 1)


def _encoded(text: str) -> bytes:
    r"""The text in UTF-8. A file name that is not UTF-8 has characters that JSON and this write as \udcxx."""
    return text.encode("utf-8", "backslashreplace")


def read(path: str | os.PathLike[str], kinds: tuple[str, ...], name: str = "path") -> tuple[str, Arrays, Facts]:
    """Kind, arrays and facts of a file that is one of `kinds`. Warns of a file without a checksum.

    Raises UnreadableFile for a file that is missing, damaged, not ours, of another kind or a newer format.
    """
    got = shown(str(path))
    try:
        with disk.opened(check_path(path, name)) as file:
            start = file.read(PEEK)
            is_text = _is_text(start) and (b'"mcdropout"' in start or len(start) < PEEK)
            file.seek(0)
            content = file.read() if is_text or _is_arrays(start) else b""  # other files may be large
    except OSError as error:
        problem = error.strerror or "it cannot be read"
        raise UnreadableFile(f"`{name}` must be a file that can be read; got {got}: {problem}.") from error
    result = from_bytes(content, kinds, got, name)
    if _place_of_checksum(content) is None:
        warn(
            f"`{name}` is a file of an earlier version, {got}, which has no checksum: changed bytes are not noticed "
            "until it is saved again."
        )
    return result


def to_bytes(kind: str, arrays: Arrays, facts: Facts) -> bytes:
    """The content of the file that `write()` would write."""
    file = io.BytesIO()
    _write_checked(file, _pieces(kind, arrays, facts))
    return file.getvalue()


def from_bytes(
    content: bytes, kinds: tuple[str, ...], got: str = "bytes", name: str = "path"
) -> tuple[str, Arrays, Facts]:
    """Kind, arrays and facts of a result of `to_bytes()` or `to_text()`; messages call it `got`."""
    if not (_is_text(content) or _is_arrays(content)):
        raise UnreadableFile(f"`{name}` must be a file that mcdropout wrote; got {got}, which is not.")
    damaged = UnreadableFile(f"`{name}` must be a whole file; got {got}, which is cut short or was changed.")
    try:
        facts = _facts(content)
        version, kind = int(facts.pop("format")), facts.pop("kind")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise damaged from error
    if version > FORMAT:
        raise UnreadableFile(
            f"`{name}` must be of file format {FORMAT} or older; got {got} of format {version}. "
            "Install a newer mcdropout to open it."
        )
    if not _is_unchanged(content, version):
        raise damaged
    if kind not in kinds:
        words = " or ".join(filter(None, [", ".join(kinds[:-1]), kinds[-1]]))
        raise UnreadableFile(f"`{name}` must hold a {words}; got {got}, which holds a {kind}.")
    facts.pop("sha256", None)
    try:
        return kind, {} if _is_text(content) else safetensors.numpy.load(content), facts
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise damaged from error


def _is_arrays(content: bytes) -> bool:
    return content[8 : 8 + len(START)] == START


def _is_text(content: bytes) -> bool:
    return content[:1] == b"{" and not _is_arrays(content)


def _facts(content: bytes) -> Facts:
    if _is_text(content):
        facts = json.loads(content)
        return {**facts.pop("mcdropout"), **facts}
    length = int.from_bytes(content[:8], "little")
    return json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["mcdropout"])


def _place_of_checksum(content: bytes) -> int | None:
    """The position of the checksum; None in a file of format 1."""
    for offset, before in (BEFORE, BEFORE_IN_TEXT):
        if content.startswith(before, offset):
            return offset + len(before)
    return None


def _is_unchanged(content: bytes, version: int) -> bool:
    """Whether the content has its checksum. A file of format 1 may have none."""
    place = _place_of_checksum(content)
    if place is None:
        return version == 1
    view, end = memoryview(content), place + len(BLANK)
    digest = hashlib.sha256(view[:place])
    digest.update(BLANK.encode())
    digest.update(view[end:])
    return view[place:end] == digest.hexdigest().encode()


def _write_checked(file: BinaryIO, pieces: Iterable[bytes | memoryview]) -> None:
    """Write the pieces of a file of arrays, and then their checksum into the first piece."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
        file.write(piece)
    file.seek(BEFORE[0] + len(BEFORE[1]))
    file.write(digest.hexdigest().encode())


def _pieces(kind: str, arrays: Arrays, facts: Facts) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file: its header, then the arrays, of which none is copied."""
    described = json.dumps({"sha256": BLANK, "format": FORMAT, "kind": kind, **facts})
    header: Facts = {"__metadata__": {"mcdropout": described}}
    by_type = list(TYPES)
    in_order = sorted(arrays.items(), key=lambda item: (-by_type.index(item[1].dtype.name), item[0]))
    end = 0
    for name, values in in_order:
        start, end = end, end + values.nbytes
        header[name] = {"dtype": TYPES[values.dtype.name], "shape": values.shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for _, values in in_order:
        little_endian = np.asarray(values, values.dtype.newbyteorder("<"), order="C")
        yield little_endian.reshape(-1).view(np.uint8).data
