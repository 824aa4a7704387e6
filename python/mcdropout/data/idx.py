"""A reader of idx files, the format of the MNIST family."""

from __future__ import annotations

import gzip
import io
import math
import os
import zlib

import numpy as np

from ..checks import check_path, shown
from ..compute.memory import free_memory
from ..disk import opened
from ..errors import OutOfMemory, UnreadableFile

MOST_AXES = 32  # of an array of NumPy 1

MOST_UNPACKED = 1032  # bytes that deflate can make of one byte

CHUNK = 1 << 24  # bytes

IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def mc_read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an idx file, the format of the MNIST family, gzipped or not.

    Args:
        path: The file.

    Returns:
        The array, with the shape and type that the file states: images are (input, 28, 28) uint8, labels (input,)
        uint8.

    Raises:
        UnreadableFile: For a file that is missing, not idx, or cut short.
        OutOfMemory: For an array that does not fit in memory.

    Examples:
        >>> import mcdropout as mcd
        >>> with open("labels", "wb") as file:
        ...     _ = file.write(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9]))
        >>> mcd.mc_read_idx("labels").tolist()
        [7, 8, 9]
    """
    got = shown(str(path))
    try:
        with opened(check_path(path)) as file:
            is_packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            size = os.fstat(file.fileno()).st_size
            return _idx_values(gzip.GzipFile(fileobj=file) if is_packed else file, size, is_packed, got)
    except (OSError, EOFError, zlib.error) as error:
        problem = getattr(error, "strerror", None) or error
        raise UnreadableFile(f"`path` must be a readable file; got {got}: {problem}.") from error


def _idx_values(file: io.BufferedReader | gzip.GzipFile, size: int, is_packed: bool, got: str) -> np.ndarray:
    """The array in an idx file of `size` bytes. No memory is taken for an array that the file cannot hold."""
    start = file.read(4)
    rank = start[3] if len(start) == 4 else 0
    sizes = file.read(4 * rank)
    if len(start + sizes) < 4 + 4 * rank or start[:2] != b"\0\0" or start[2] not in IDX_TYPES:
        raise UnreadableFile(f"`path` must be an idx file; got {got}, which starts differently.")
    if rank > MOST_AXES:
        raise UnreadableFile(f"`path` must be an idx file of at most {MOST_AXES} axes; got {got}, which has {rank}.")
    dtype = np.dtype(IDX_TYPES[start[2]])
    shape = tuple(int(length) for length in np.frombuffer(sizes, ">u4"))
    stated = 4 + 4 * rank + dtype.itemsize * math.prod(shape)
    problem = None
    if is_packed and stated > MOST_UNPACKED * size:
        problem = f"{size} packed bytes, too few for"
    elif not is_packed and stated != size:
        problem = f"{size} bytes instead of"
    elif stated > (free := free_memory()):
        raise OutOfMemory(
            f"`path` must be an idx file that fits in memory; got {got}, whose array has {stated / 1e6:,.0f} MB where "
            f"{free / 1e6:,.0f} MB are free."
        )
    else:
        values = np.empty(shape, dtype)
        n_read = 4 + 4 * rank + _read_into(file, values)
        if n_read < stated:
            problem = f"{n_read} bytes instead of"
        elif file.read(1):
            problem = "more bytes than"
        else:
            return values.astype(dtype.newbyteorder("="), copy=False)
    raise UnreadableFile(
        f"`path` must be a complete idx file; got {got}, which has {problem} the {stated} that its header states."
    )


def _read_into(file: io.BufferedReader | gzip.GzipFile, values: np.ndarray) -> int:
    """Fill an array from a file; returns the number of bytes, which is smaller where the file ends."""
    memory, done = values.reshape(-1).view(np.uint8).data, 0
    while done < len(memory):
        n = file.readinto(memory[done : done + CHUNK])
        if not n:
            break
        done += n
    return done
