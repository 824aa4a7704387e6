"""Caches of the features of a frozen backbone: in memory, and as files in a folder."""

from __future__ import annotations

import hashlib
import io
import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from ..checks import shown
from ..data.rows import Rows
from ..disk import opened, replaced
from ..errors import UnreadableFile, UnwritableFile

MAX_SETS = 4  # sets of features in memory: training, validation and test inputs, and one more

END = "mcdropout features {} {}\n"  # of a file, after NumPy's content: the key and the SHA-256 of that content

CHUNK = 1 << 24  # bytes that are read at once


class InMemory:
    """The sets of features that were used last, in memory."""

    def __init__(self) -> None:
        self.sets: OrderedDict[str, np.ndarray] = OrderedDict()

    def get(self, key: str, n: int) -> np.ndarray | None:
        if key in self.sets:
            self.sets.move_to_end(key)
        return self.sets.get(key)

    def put(self, key: str, n: int, batches: Iterator[np.ndarray]) -> np.ndarray:
        first = next(batches)  # as_rows() refuses data without inputs
        features = np.empty((n, *first.shape[1:]), np.float32)
        features[: len(first)] = first
        start = len(first)
        for batch in batches:
            features[start : start + len(batch)] = batch
            start += len(batch)
        self.sets[key] = features
        while len(self.sets) > MAX_SETS:
            self.sets.popitem(last=False)
        return features


class OnDisk:
    """A folder with one NumPy file for each set of features. The features are read when they are needed.

    A file ends with its key and its checksum. It is checked when it is first used, and again if it has changed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checked: dict[Path, tuple[int, ...]] = {}

    def get(self, key: str, n: int) -> Rows | None:
        """The features of `n` inputs; None if there is no file of this key."""
        path = self.folder / f"{key}.npy"
        if not path.exists():
            return None
        try:
            status = os.stat(path)
            state = (status.st_ino, status.st_size, status.st_mtime_ns)
            if self.checked.get(path) != state:
                _check_end(path, key, status.st_size)
                self.checked[path] = state
            rows = _FeatureRows(path)
        except (OSError, ValueError, EOFError) as error:
            raise _unreadable(path, getattr(error, "strerror", None) or error) from error
        if rows.shape[0] != n:
            raise _unreadable(path, f"it has features of {rows.shape[0]} inputs instead of {n}")
        return rows

    def put(self, key: str, n: int, batches: Iterator[np.ndarray]) -> Rows:
        """Write the features of `n` inputs to a file."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UnwritableFile(
                f"`cache` must be a folder that can be written; got {shown(str(self.folder))}: {error.strerror}."
            ) from error
        path = self.folder / f"{key}.npy"
        digest = hashlib.sha256()
        try:
            with replaced(path, "cache") as file:
                for content in _npy(n, _marked(batches)):
                    digest.update(content)
                    file.write(content)
                file.write(END.format(key, digest.hexdigest()).encode())
        except _OfBatches as error:
            raise error.original from None
        return _FeatureRows(path)


class _OfBatches(Exception):
    """An OSError of the user's functions, which is no error of writing."""

    def __init__(self, original: OSError) -> None:
        super().__init__()
        self.original = original


def _marked(batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    try:
        yield from batches
    except OSError as error:
        raise _OfBatches(error) from error


def _npy(n: int, batches: Iterable[np.ndarray]) -> Iterator[bytes | memoryview]:
    """The content of NumPy's file of an array of `n` rows that comes in batches."""
    is_first = True
    for batch in batches:
        if is_first:
            header = io.BytesIO()
            facts = {"descr": "<f4", "fortran_order": False, "shape": (n, *batch.shape[1:])}
            np.lib.format.write_array_header_1_0(header, facts)
            yield header.getvalue()
            is_first = False
        yield np.ascontiguousarray(batch, "<f4").reshape(-1).view(np.uint8).data


def _check_end(path: Path, key: str, size: int) -> None:
    """Refuse a file whose content is not that of its end, or that has the features of another key."""
    digest = hashlib.sha256()
    left = size - len(END.format(key, digest.hexdigest()))
    with opened(path) as file:
        while left > 0 and (content := file.read(min(CHUNK, left))):
            digest.update(content)
            left -= len(content)
        if file.read() != END.format(key, digest.hexdigest()).encode():
            raise ValueError("it is cut short, was changed or belongs to other inputs")


def _unreadable(path: Path, problem: object) -> UnreadableFile:
    return UnreadableFile(
        f"`cache` must hold files of features as they were written; got {shown(str(path))}: {problem}. Remove the file "
        "to compute the features again."
    )


FeatureCache = InMemory | OnDisk


class _FeatureRows:
    """Features in a file, read batch by batch."""

    def __init__(self, path: Path) -> None:
        self.values = np.load(path, mmap_mode="r", allow_pickle=False)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def take(self, index: slice | np.ndarray) -> np.ndarray:
        return np.array(self.values[index], dtype=np.float32, order="C")
