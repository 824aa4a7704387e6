"""Thumbnails of the images in a report."""

from __future__ import annotations

import base64
import io
import os

import numpy as np

from ..compute.pool import Pool
from ..data.images import ImageFiles, Scale
from ..data.rows import Rows
from ..predictions.prediction import Array

THUMBNAIL = 88  # side in pixels of the square on the page that holds an image

QUALITY = 80  # JPEG quality of images that are made smaller

BATCH = 64  # images in memory at a time

ENCODERS = min(8, os.cpu_count() or 1)  # threads: Pillow releases Python's lock while it resizes and encodes


def thumbnails(images: Rows | None, order: Array) -> tuple[list[str | None], bool]:
    """The images in this order, as the part of a data URL after `data:image/`; and whether the page enlarges them."""
    if images is None:
        return [None] * len(order), False
    scale, small = Scale.of(images), max(images.shape[1:3]) <= THUMBNAIL
    # large image files are decoded only to the size of a thumbnail
    rows = images.within(THUMBNAIL) if isinstance(images, ImageFiles) else images
    encoded: list[str | None] = []
    with Pool(ENCODERS) as pool:
        for start in range(0, len(order), BATCH):
            batch = rows.take(order[start : start + BATCH])
            encoded += pool.map(lambda pixels: _thumbnail(pixels, scale, small), batch)
    return encoded, small


def _thumbnail(pixels: Array, scale: Scale, small: bool) -> str:
    """One image: PNG if it keeps its size or is transparent, else JPEG."""
    from PIL import Image

    # scaled one by one, because one image fits into the processor's cache and a batch does not
    pixels = scale.applied(pixels[None])[0] * np.float32(255)
    pixels += np.float32(0.5)
    image = Image.fromarray(pixels.astype(np.uint8))
    if max(image.size) > THUMBNAIL:
        # `reducing_gap` shrinks by a whole number first, which is fast, and interpolates afterwards
        image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR, reducing_gap=1.0)
    file = io.BytesIO()
    kind = "png" if small or image.mode == "RGBA" else "jpeg"
    image.save(file, kind, **({"quality": QUALITY} if kind == "jpeg" else {}))
    return f"{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
