"""Folders of images that are read on demand, and the scale of pixels."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import check_choice, check_count, check_length, check_path, entries, listed, shown
from ..compute.pool import Pool
from ..disk import opened
from ..errors import UnreadableFile
from .labels import Label, as_label_set
from .rows import ArrayRows, Rows, as_rows, check_finite

if TYPE_CHECKING:
    from PIL import Image

IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}

MODES = {"grey": "L", "rgb": "RGB"}  # values of `color`: modes of Pillow

DECODERS = min(8, os.cpu_count() or 1)  # threads: Pillow releases Python's lock while it decodes


def mc_read_images(
    path: str | os.PathLike[str],
    *,
    size: int | Sequence[int] = (224, 224),
    color: str = "grey",
    labels: Sequence[Label] | None = None,
) -> ImageFiles:
    """Images in folders, one folder for each label. A file is opened only when its pixels are needed.

    Args:
        path: The folder. If it contains no folders, its images have no labels; they are for prediction.
        size: Height and width in pixels, or one number for a square. Images are resized to it.
        color: "grey" or "rgb".
        labels: The labels in their order. A label may have no folder here. By default the names of the folders,
            sorted.

    Returns:
        The images, which `mc_fit()` and `mc_predict()` take.

    Raises:
        ValueError: If there is no such folder, no image in it, or a folder that is not among `labels`.

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
    if not os.path.isdir(root):  # unlike `Path.is_dir()`, it answers for names that are too long
        raise ValueError(f"`path` must be a folder of folders, one per label; got {shown(str(path))}.")
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    files = {folder.name: _image_files(folder) for folder in folders} if folders else {"": _image_files(root)}
    paths = [file for in_folder in files.values() for file in in_folder]
    if not paths:
        raise ValueError(f"`path` must hold images ({_suffixes()}); got {shown(str(path))}, which has none.")
    if not folders:
        return ImageFiles(paths, None, labels, size, color)
    y = [name for name, in_folder in files.items() for _ in in_folder]
    if labels is None and len(set(y)) > 1:
        labels = sorted(set(y))
    return ImageFiles(paths, y, labels, size, color)


class ImageFiles:
    """Images on disk that behave as an array (input, height, width, channel), pixels in [0, 1].

    `images[index]` selects files without reading them; `take(index)` reads and resizes only the selected files.
    `mc_read_images()` makes one of a folder.

    Args:
        paths: The files.
        y: The label of each image; None if not known.
        labels: All labels.
        size: Height and width to which images are resized, or one number for both.
        color: "grey" or "rgb".

    Attributes:
        paths: The files.
        y: The label of each image as a string; None if not known.
        labels: All labels; None if not known.
        size: Height and width.
        shape: (input, height, width, channel).

    Raises:
        ValueError: For labels that do not fit, a size that is none, or an unknown color.

    Examples:
        >>> import mcdropout as mcd
        >>> images = mcd.ImageFiles(["a.png", "b.png"], y=["cat", "dog"], size=(32, 48))
        >>> images.shape, images[1:].y.tolist()
        ((2, 32, 48, 1), ['dog'])
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
        self.decode_small = False
        self.y = None if y is None else np.asarray([str(label) for label in y])
        self.labels = None if labels is None else tuple(str(label) for label in as_label_set(labels))
        if self.y is not None:
            check_length(len(self.y), "y", len(self.paths), "paths")
            self._check_labels(self.y)

    def _check_labels(self, y: np.ndarray) -> None:
        unknown = [] if self.labels is None else sorted(set(y.tolist()) - set(self.labels))
        if unknown:
            raise ValueError(
                f"`labels` must include the label of every image; got {listed(self.labels or ())}, "
                f"without {shown(unknown[0])}."
            )

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(input, height, width, channel)."""
        return (len(self.paths), *self.size, 3 if self.color == "rgb" else 1)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int | slice | np.ndarray | Sequence[int]) -> ImageFiles:
        positions = np.atleast_1d(np.arange(len(self))[index])  # one image is still an array of inputs
        y = None if self.y is None else self.y[positions]
        return ImageFiles([self.paths[i] for i in positions], y, self.labels, self.size, self.color)

    def within(self, side: int) -> ImageFiles:
        """The same files, read at a size that fits into a square of that side; JPEGs are decoded at a reduced size."""
        shrink = min(1.0, side / max(self.size))
        size = [max(1, round(shrink * length)) for length in self.size]
        small = ImageFiles(self.paths, self.y, self.labels, size, self.color)
        small.decode_small = True
        return small

    def take(self, index: slice | np.ndarray) -> np.ndarray:
        """Pixels of the selected files, (input, height, width, channel) float32 in [0, 1]."""
        paths = [self.paths[i] for i in np.arange(len(self))[index]]
        out = np.empty((len(paths), *self.shape[1:]), np.float32)
        with Pool(DECODERS) as pool:
            for i, pixels in enumerate(pool.map(self._read, paths)):
                out[i] = pixels
        return out

    def _read(self, path: str) -> np.ndarray:
        pillow, ops = _pillow()
        try:
            with opened(path) as file, pillow.open(file) as image:
                if self.decode_small:
                    image.draft(None, (2 * self.size[1], 2 * self.size[0]))  # a JPEG is decoded at 1/2, 1/4 or 1/8
                return _resized(ops.exif_transpose(image), self.size, MODES[self.color])
        except (OSError, SyntaxError, ValueError, pillow.DecompressionBombError) as error:
            unknown = isinstance(error, pillow.UnidentifiedImageError)
            problem = "it is no image" if unknown else getattr(error, "strerror", None) or error
            raise UnreadableFile(f"`x` must hold readable images; got {shown(path)}: {problem}.") from error

    def __repr__(self) -> str:
        labels = "no labels" if self.labels is None else f"labels: {', '.join(self.labels)}"
        return f"ImageFiles: {self.shape}, {self.color}, {labels}"


@contextmanager
def opened_image(path: str) -> Iterator[io.BufferedReader]:
    """The file of an image, to learn of it without its pixels."""
    try:
        with opened(path) as file:
            yield file
    except OSError as error:
        raise UnreadableFile(f"`x` must hold readable images; got {shown(path)}: {error.strerror}.") from error


def _resized(image: Image.Image, size: tuple[int, int], mode: str) -> np.ndarray:
    """Pixels in [0, 1], (height, width, channel)."""
    bilinear = _pillow()[0].Resampling.BILINEAR
    height, width = size
    if image.mode.startswith("I"):  # 16-bit grey: Pillow would clip it at 255 instead of scaling it
        grey = np.asarray(image.convert("F").resize((width, height), bilinear)) / np.float32(65535)
        return np.repeat(grey[..., None], len(mode), axis=-1)
    pixels = in_unit_interval(np.asarray(image.convert(mode).resize((width, height), bilinear)))
    return pixels.reshape(height, width, len(mode))


def in_unit_interval(pixels: np.ndarray) -> np.ndarray:
    """Bytes, 0 to 255, as float32 in [0, 1]."""
    return pixels / np.float32(255)


def _image_size(size: int | Sequence[int]) -> tuple[int, int]:
    sizes = entries(size)
    sizes = [size, size] if sizes is None else sizes
    if len(sizes) != 2:
        raise ValueError(f"`size` must be height and width in pixels; got {shown(size)}.")
    return check_count(sizes[0], "size"), check_count(sizes[1], "size")


def _image_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and not file.is_dir())


def _suffixes() -> str:
    return ", ".join(sorted(IMAGE_SUFFIXES))


def _pillow() -> tuple[Any, Any]:
    """Pillow's modules Image and ImageOps, imported only where files are read: Pillow is an extra."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError("Reading image files needs Pillow; run `pip install mcdropout[images]`.") from error
    return Image, ImageOps


def as_image_rows(images: object, n_inputs: int | None = None) -> Rows:
    """Images that are read a batch at a time; with `n_inputs`, exactly one for each input of a prediction."""
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
    """A linear map of pixels from [low, high] to [0, 1]; pixels that are in [0, 1] already do not change."""

    low: float
    high: float

    @classmethod
    def of(cls, rows: Rows) -> Scale:
        """The scale of all images; pixels from files are in [0, 1]."""
        if not isinstance(rows, ArrayRows):
            return cls(0, 1)
        return cls(float(rows.values.min()), float(rows.values.max()))

    def applied(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels in [0, 1]; grey images lose their axis of channels."""
        if self.low < 0 or self.high > 1:
            pixels = (pixels - self.low) / max(self.high - self.low, np.finfo(np.float32).tiny)
        return pixels[..., 0] if pixels.shape[-1] == 1 and pixels.ndim == 4 else pixels
