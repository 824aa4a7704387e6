"""The two kinds of files: named arrays with a JSON description (safetensors), or JSON alone.

Models, checkpoints, predictions and policies are kept in them. Opening a file runs no code. A file is complete or does
not exist.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from .checks import check_path, shown
from .errors import UnreadableFile

Arrays = dict[str, np.ndarray]

Facts = dict[str, Any]

FORMAT = 1

START = b'{"__metadata__":{"mcdropout":'  # after the eight bytes of safetensors' header length


def write(path: str | os.PathLike[str], kind: str, arrays: Arrays, facts: Facts) -> None:
    """Write arrays and facts (what JSON can hold) to `path`, in one step: until then an old file stays."""
    _in_one_step(path, lambda file: safetensors.numpy.save_file(_in_c_order(arrays), file, _metadata(kind, facts)))


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write the result of `to_text()` to `path`, in one step."""
    _in_one_step(path, lambda file: file.write_text(text, encoding="utf-8"))


def to_text(kind: str, facts: Facts) -> str:
    """Facts (what JSON can hold) as JSON for people to read."""
    described = {"mcdropout": {"format": FORMAT, "kind": kind}, **facts}
    return json.dumps(described, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _in_one_step(path: str | os.PathLike[str], write_to: Callable[[Path], object]) -> None:
    target = check_path(path)
    if not target.parent.is_dir():
        raise ValueError(f"`path` must be in a folder that exists; got {shown(str(path))}.")
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        unfinished.touch()
        mode = unfinished.stat().st_mode  # that of new files in this folder; safetensors makes its files private
        write_to(unfinished)
        unfinished.chmod(mode)
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)


def read(path: str | os.PathLike[str], kinds: tuple[str, ...]) -> tuple[str, Arrays, Facts]:
    """Kind, arrays and facts of a file that is one of `kinds`.

    Raises UnreadableFile for a file that is missing, cut short, not ours, of another kind or a newer format.
    """
    name = shown(str(path))
    try:
        content = check_path(path).read_bytes()
    except OSError as error:
        problem = error.strerror or "it cannot be read"
        raise UnreadableFile(f"`path` must be a file that can be read; got {name}: {problem}.") from error
    return from_bytes(content, kinds, name)


def to_bytes(kind: str, arrays: Arrays, facts: Facts) -> bytes:
    """The content of the file that `write()` would write."""
    return safetensors.numpy.save(_in_c_order(arrays), _metadata(kind, facts))


def from_bytes(content: bytes, kinds: tuple[str, ...], name: str = "bytes") -> tuple[str, Arrays, Facts]:
    """Kind, arrays and facts of a result of `to_bytes()` or `to_text()`; messages call it `name`."""
    is_text = content[:1] == b"{" and content[8 : 8 + len(START)] != START
    if not is_text and content[8 : 8 + len(START)] != START:
        raise UnreadableFile(f"`path` must be a file that mcdropout wrote; got {name}, which is not.")
    try:
        arrays, facts = ({}, _facts_of_text(content)) if is_text else _parts(content)
        version, kind = int(facts.pop("format")), facts.pop("kind")
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UnreadableFile(f"`path` must be a whole file; got {name}, which is cut short.") from error
    if version > FORMAT:
        raise UnreadableFile(
            f"`path` must be of file format {FORMAT} or older; got {name} of format {version}. "
            "Install a newer mcdropout to open it."
        )
    if kind not in kinds:
        words = " or ".join(filter(None, [", ".join(kinds[:-1]), kinds[-1]]))
        raise UnreadableFile(f"`path` must hold a {words}; got {name}, which holds a {kind}.")
    return kind, arrays, facts


def _parts(content: bytes) -> tuple[Arrays, Facts]:
    arrays = safetensors.numpy.load(content)
    length = int.from_bytes(content[:8], "little")
    return arrays, json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["mcdropout"])


def _facts_of_text(content: bytes) -> Facts:
    facts = json.loads(content)
    return {**facts.pop("mcdropout"), **facts}


def _metadata(kind: str, facts: Facts) -> dict[str, str]:
    return {"mcdropout": json.dumps({"format": FORMAT, "kind": kind, **facts})}


def _in_c_order(arrays: Arrays) -> Arrays:
    return {name: np.asarray(values, order="C") for name, values in arrays.items()}
