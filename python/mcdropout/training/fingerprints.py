"""Fingerprints of the data and the optimizer of a training run, by which a checkpoint recognises its run."""

from __future__ import annotations

import hashlib
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from torch.optim import Optimizer

from ..data.images import ImageFiles, opened_image
from ..data.rows import ArrayRows, Rows

WHOLE = 1 << 26  # bytes of an array that are all read; of a larger one a part

PIECES, BLOCK = 4096, 8192  # pieces of an array, and bytes at both ends of each that are read

OFF = ("None", "False", "0", "0.0")  # settings of an optimizer

SAMPLED = 256  # inputs that are read of files


def fingerprint_of_rows(rows: Rows) -> str:
    """A fingerprint of inputs in their order.

    Arrays up to 64 MB are read whole. Of each piece of a larger array the ends and the sum of all its words are read.
    So a change between the ends is missed if the sum stays, as when two rows of one piece change places. Of image files
    the names, the sizes and the start of some are read, of other rows on disk some rows.
    """
    digest = hashlib.sha256(str(tuple(rows.shape)).encode())
    sample = np.unique(np.linspace(0, rows.shape[0] - 1, SAMPLED).astype(np.int64))
    if isinstance(rows, ArrayRows):
        _read_array(rows.values, digest)
    elif isinstance(rows, ImageFiles):
        sampled = set(sample.tolist())
        for number, path in enumerate(rows.paths):
            with opened_image(path) as file:
                name, size = "/".join(Path(path).parts[-2:]), os.fstat(file.fileno()).st_size  # folders may move
                digest.update(f"{name} {size}\n".encode(errors="backslashreplace"))
                digest.update(file.read(BLOCK) if number in sampled else b"")
    else:
        digest.update(rows.take(sample).tobytes())
    return digest.hexdigest()


def _read_array(values: np.ndarray, digest: Any) -> None:
    if values.dtype.itemsize > 8:  # the extended type of this machine, which has unused bytes
        values = values.astype(np.float64)
    digest.update(values.dtype.str.encode())
    bounds = np.linspace(0, len(values), min(len(values), PIECES) + 1).astype(np.int64)
    for start, stop in pairwise(bounds):
        words = np.ascontiguousarray(values[start:stop]).reshape(-1).view(f"u{values.dtype.itemsize}")
        content = words.view(np.uint8)
        if values.nbytes <= WHOLE:
            digest.update(content)
        else:
            for part in (content[:BLOCK], content[-BLOCK:], words.sum(dtype=np.uint64, keepdims=True)):
                digest.update(part)


def fingerprint_of_optimizer(optimizer: Optimizer) -> list[Any]:
    """The class of an optimizer and the settings of its groups. Settings that are off are left out.

    So a newer torch may have more of them.
    """
    groups = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    words = [{name: repr(value) for name, value in group.items()} for group in groups]
    return [type(optimizer).__name__, *({k: v for k, v in group.items() if v not in OFF} for group in words)]
