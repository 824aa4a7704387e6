"""The bundled sample of real images, and a reader of idx files."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..checks import check_path, shown
from ..errors import UnreadableFile
from .images import in_unit_interval

SAMPLE_FILE = Path(__file__).parent / "fashion_mnist_sample.npz"

IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


@dataclass(frozen=True)
class SampleData:
    """Images with their labels, in one part to train and one part to test.

    Attributes:
        x_train: The images to train, (input, height, width, channel), float32 in [0, 1].
        y_train: The label of each, as strings.
        x_test: The images to test.
        y_test: The label of each.
        labels: All labels.

    Examples:
        >>> import mcdropout as mcd
        >>> data = mcd.mc_sample_data()
        >>> isinstance(data, mcd.SampleData), data.x_test.shape, data.y_test[0] in data.labels
        (True, (1000, 28, 28, 1), True)
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    labels: tuple[str, ...]

    def __repr__(self) -> str:
        return (
            f"SampleData: x_train {self.x_train.shape}, x_test {self.x_test.shape}, "
            f"{len(self.labels)} labels: {', '.join(self.labels)}"
        )


def mc_sample_data() -> SampleData:
    """The bundled real images: 6,000 to train and 1,000 to test, 28 x 28 grey, the ten Fashion-MNIST labels.

    They are the first 600 (100) images of each label, in the order of the full set.

    Returns:
        The images (input, 28, 28, 1) in [0, 1], their labels, and the names of the labels. The MIT licence lies in the
        folder of the data.

    References:
        Xiao, Rasul and Vollgraf (2017), Fashion-MNIST, arXiv:1708.07747.

    Examples:
        >>> import mcdropout as mcd
        >>> mcd.mc_sample_data().x_train.shape
        (6000, 28, 28, 1)
    """
    with np.load(SAMPLE_FILE, allow_pickle=False) as data:
        labels = data["labels"]
        return SampleData(
            x_train=in_unit_interval(data["x_train"])[..., None],
            y_train=labels[data["y_train"]],
            x_test=in_unit_interval(data["x_test"])[..., None],
            y_test=labels[data["y_test"]],
            labels=tuple(str(label) for label in labels),
        )


def mc_read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an idx file, the format of the MNIST family, gzipped or not.

    Args:
        path: The file.

    Returns:
        The array, with the shape and type that the file states: images are (input, 28, 28) uint8, labels (input,)
        uint8.

    Raises:
        UnreadableFile: For a file that is missing, not idx, or cut short.

    Examples:
        >>> import mcdropout as mcd
        >>> with open("labels", "wb") as file:
        ...     _ = file.write(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9]))
        >>> mcd.mc_read_idx("labels").tolist()
        [7, 8, 9]
    """
    content = _unzipped(check_path(path))
    rank = content[3] if len(content) >= 4 else 0
    if len(content) < 4 + 4 * rank or content[:2] != b"\0\0" or content[2] not in IDX_TYPES:
        raise UnreadableFile(f"`path` must be an idx file; got {shown(str(path))}, which starts differently.")
    dtype = np.dtype(IDX_TYPES[content[2]])
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", count=rank, offset=4))
    n_bytes = 4 + 4 * rank + dtype.itemsize * math.prod(shape)
    if len(content) != n_bytes:
        raise UnreadableFile(
            f"`path` must be a complete idx file; got {shown(str(path))}, "
            f"which has {len(content)} bytes instead of the {n_bytes} that its header states."
        )
    values = np.frombuffer(content, dtype, offset=4 + 4 * rank).reshape(shape)
    return values.astype(dtype.newbyteorder("="))


def _unzipped(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (OSError, EOFError, zlib.error) as error:
        raise UnreadableFile(f"`path` must be a readable file; got {shown(str(path))}: {error}.") from error
