"""Folders of images that are read when they are needed, and the scale of pixels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import check_choice, check_count, check_length, check_path, shown
from ..errors import UnreadableFile
from .labels import Label, as_label_set
from .rows import ArrayRows, Rows, as_rows, check_finite

if TYPE_CHECKING:
    from PIL import Image

IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}

MODES = {"grey": "L", "rgb": "RGB"}  # ours: Pillow's

DECODERS = min(8, os.cpu_count() or 1)  # threads: Pillow lets go of Python's lock while it decodes


def mc_read_images(
    path: str | os.PathLike[str],
    *,
    size: int | Sequence[int] = (224, 224),
    color: str = "grey",
    labels: Sequence[Label] | None = None,
) -> ImageFiles:
    """Images in folders, one folder for each label. None is opened before its pixels are needed.

    Args:
        path: The folder. If it has no folders in it, its images are without labels, to predict.
        size: Height and width in pixels, or one number for a square. Images are resized to it.
        color: "grey" or "rgb".
        labels: The labels in their order. They may name some that have no folder here. By default the names of the
            folders, sorted.

    Returns:
        The images, which `mc_fit()` and `mc_predict()` take.

    Raises:
        ValueError: Where there is no such folder, no image in it, or a folder that is not among `labels`.

    Examples:
        >>> import mcdropout as mcd
        >>> import numpy as np, os
        >>> from PIL import Image
        >>> os.makedirs("images/cat")
        >>> Image.fromarray(np.zeros((9, 9), np.uint8)).save("images/cat/1.png")
        >>> mcd.mc_read_images("images", size=8).shape
        (1, 8, 8, 1)
    """
    root = check_path(path)
    if not root.is_dir():
        raise ValueError(f"`path` must be a folder of folders, one per label; got {shown(str(path))}.")
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    files = {folder.name: _image_files(folder) for folder in folders} if folders else {"": _image_files(root)}
    paths = [file for found in files.values() for file in found]
    if not paths:
        raise ValueError(f"`path` must hold images ({_suffixes()}); got {shown(str(path))}, which has none.")
    if not folders:
        return ImageFiles(paths, None, labels, size, color)
    y = [name for name, found in files.items() for _ in found]
    if labels is None and len(set(y)) > 1:
        labels = sorted(set(y))
    return ImageFiles(paths, y, labels, size, color)


class ImageFiles:
    """Images on disk that behave as an array (input, height, width, channel), pixels in [0, 1].

    `y` has the label of each as a string (None if not known), `labels` all labels. `images[index]` is a
    choice of the files, still unread; `take(index)` reads and resizes those files alone.
    """

    def __init__(
        self,
        paths: Sequence[str | os.PathLike[str]],
        y: Sequence[str] | np.ndarray | None = None,
        labels: Sequence[Label] | None = None,
        size: int | Sequence[int] = (224, 224),
        color: str = "grey",
    ) -> None:
        self.paths = [str(path) for path in paths]
        self.color = check_choice(color, "color", list(MODES))
        self.size = _image_size(size)
        self.roughly = False
        self.y = None if y is None else np.asarray([str(label) for label in y])
        self.labels = None if labels is None else tuple(str(label) for label in as_label_set(labels))
        if self.y is not None:
            check_length(len(self.y), "y", len(self.paths), "paths")
            self._check_labels(self.y)

    def _check_labels(self, y: np.ndarray) -> None:
        strange = [] if self.labels is None else sorted(set(y.tolist()) - set(self.labels))
        if strange:
            raise ValueError(
                f"`labels` must include the label of every image; got {', '.join(self.labels or ())}, "
                f'without "{strange[0]}".'
            )

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(input, height, width, channel)."""
        return (len(self.paths), *self.size, 3 if self.color == "rgb" else 1)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: slice | np.ndarray | Sequence[int]) -> ImageFiles:
        chosen = np.arange(len(self))[index]
        if np.ndim(chosen) == 0:
            chosen = chosen[None]  # one image is still an array of inputs
        y = None if self.y is None else self.y[chosen]
        return ImageFiles([self.paths[i] for i in chosen], y, self.labels, self.size, self.color)

    def within(self, side: int) -> ImageFiles:
        """The same files, read no larger than fits into a square of that side; of JPEGs no more is decoded."""
        shrink = min(1.0, side / max(self.size))
        size = [max(1, round(shrink * one)) for one in self.size]
        small = ImageFiles(self.paths, self.y, self.labels, size, self.color)
        small.roughly = True
        return small

    def take(self, index: slice | np.ndarray) -> np.ndarray:
        """Pixels of those files, (input, height, width, channel) float32 in [0, 1]."""
        chosen = [self.paths[i] for i in np.arange(len(self))[index]]
        out = np.empty((len(chosen), *self.shape[1:]), np.float32)
        with ThreadPoolExecutor(DECODERS) as pool:
            for i, pixels in enumerate(pool.map(self._read, chosen)):
                out[i] = pixels
        return out

    def _read(self, path: str) -> np.ndarray:
        pillow, ops = _pillow()
        try:
            with pillow.open(path) as image:
                if self.roughly:
                    image.draft(None, (2 * self.size[1], 2 * self.size[0]))  # a JPEG is decoded at 1/2, 1/4 or 1/8
                return _resized(ops.exif_transpose(image), self.size, MODES[self.color])
        except (OSError, SyntaxError, ValueError, pillow.DecompressionBombError) as error:
            raise UnreadableFile(f"`x` must hold readable images; got {shown(path)}: {error}.") from error

    def __repr__(self) -> str:
        known = "no labels" if self.labels is None else f"labels: {', '.join(self.labels)}"
        return f"ImageFiles: {self.shape}, {self.color}, {known}"


def _resized(image: Image.Image, size: tuple[int, int], mode: str) -> np.ndarray:
    """Pixels in [0, 1], (height, width, channel)."""
    bilinear = _pillow()[0].Resampling.BILINEAR
    height, width = size
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would cut off at 255 instead of scaling
        grey = np.asarray(image.convert("F").resize((width, height), bilinear)) / np.float32(65535)
        return np.repeat(grey[..., None], len(mode), axis=-1)
    pixels = in_unit_interval(np.asarray(image.convert(mode).resize((width, height), bilinear)))
    return pixels.reshape(height, width, len(mode))


def in_unit_interval(pixels: np.ndarray) -> np.ndarray:
    """Bytes, 0 to 255, as float32 in [0, 1]."""
    return pixels / np.float32(255)


def _image_size(size: int | Sequence[int]) -> tuple[int, int]:
    sizes = list(size) if isinstance(size, Iterable) else [size, size]
    if len(sizes) != 2:
        raise ValueError(f"`size` must be height and width in pixels; got {shown(size)}.")
    return check_count(sizes[0], "size"), check_count(sizes[1], "size")


def _image_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)


def _suffixes() -> str:
    return ", ".join(sorted(IMAGE_SUFFIXES))


def _pillow() -> tuple[Any, Any]:
    """Pillow's modules Image and ImageOps: an extra, so looked for only where files are read."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError("Reading image files needs Pillow; run `pip install mcdropout[images]`.") from error
    return Image, ImageOps


def as_image_rows(images: object, n_inputs: int | None = None) -> Rows:
    """Images that can be taken a batch at a time, one for each of the inputs of a prediction, if there is one."""
    rows = as_rows(images, "images")
    if n_inputs is not None:
        check_length(rows.shape[0], "images", n_inputs, "prediction")
    if len(rows.shape) not in (3, 4) or (len(rows.shape) == 4 and rows.shape[3] not in (1, 3, 4)):
        raise ValueError(
            "`images` must have shape (input, height, width) or (input, height, width, channel) with 1, 3 or 4 "
            f"channels; got {tuple(rows.shape)}."
        )
    check_finite(rows, "images")
    return rows


@dataclass(frozen=True)
class Scale:
    """From the least and the greatest of some pixels to [0, 1], if they are not within it already."""

    low: float
    high: float

    @classmethod
    def of(cls, rows: Rows) -> Scale:
        """That of all images; what is read from files is in [0, 1]."""
        if not isinstance(rows, ArrayRows):
            return cls(0, 1)
        return cls(float(rows.values.min()), float(rows.values.max()))

    def applied(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels in [0, 1], grey ones without an axis of channels."""
        if self.low < 0 or self.high > 1:
            pixels = (pixels - self.low) / max(self.high - self.low, np.finfo(np.float32).tiny)
        return pixels[..., 0] if pixels.shape[-1] == 1 and pixels.ndim == 4 else pixels
