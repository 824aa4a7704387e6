"""Thumbnails of the images in a report."""

from __future__ import annotations

import base64
import io
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ..data.images import ImageFiles, Scale
from ..data.rows import Rows
from ..predictions.prediction import Array

THUMBNAIL = 88  # pixels: the side of the square on the page that an image is fitted into

QUALITY = 80  # of JPEG, for images that are made smaller

BATCH = 64  # images in memory at a time

ENCODERS = min(8, os.cpu_count() or 1)  # threads: Pillow lets go of Python's lock while it resizes and encodes


def thumbnails(images: Rows | None, order: Array) -> tuple[list[str | None], bool]:
    """Each image in the order given, as what follows `data:image/`; and whether they are so small as to be enlarged."""
    if images is None:
        return [None] * len(order), False
    scale, small = Scale.of(images), max(images.shape[1:3]) <= THUMBNAIL
    # of large image files only so much is decoded as a thumbnail needs
    rows = images.within(THUMBNAIL) if isinstance(images, ImageFiles) else images
    found: list[str | None] = []
    with ThreadPoolExecutor(ENCODERS) as pool:
        for start in range(0, len(order), BATCH):
            found += pool.map(lambda one: _thumbnail(one, scale, small), rows.take(order[start : start + BATCH]))
    return found, small


def _thumbnail(pixels: Array, scale: Scale, small: bool) -> str:
    """PNG where it stays as it is or can be seen through, else JPEG."""
    from PIL import Image

    # image by image: one fits into the processor's cache, a batch does not
    pixels = scale.applied(pixels[None])[0] * np.float32(255)
    pixels += np.float32(0.5)
    image = Image.fromarray(pixels.astype(np.uint8))
    if max(image.size) > THUMBNAIL:
        # first by a whole number, which is quick, then smoothly
        image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR, reducing_gap=1.0)
    file = io.BytesIO()
    kind = "png" if small or image.mode == "RGBA" else "jpeg"
    image.save(file, kind, **({"quality": QUALITY} if kind == "jpeg" else {}))
    return f"{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
