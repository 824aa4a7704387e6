"""Makes the bundled sample: python data-raw/fashion_mnist_sample.py FOLDER

FOLDER holds the four idx files of Fashion-MNIST. The Debian package dataset-fashion-mnist installs them in
/usr/share/datasets/fashion-mnist. The sample has the first 600 training and the first 100 test images of each label.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from mcdropout.data.samples import mc_read_idx

LABELS = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
OUT = Path(__file__).parent.parent / "python" / "mcdropout" / "data" / "fashion_mnist_sample.npz"


def first_of_each(part: str, folder: Path, per_label: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `per_label` images of each label, and their label codes, in the order of the files."""
    x = mc_read_idx(folder / f"{part}-images-idx3-ubyte.gz")
    y = mc_read_idx(folder / f"{part}-labels-idx1-ubyte.gz")
    kept = np.sort(np.concatenate([np.flatnonzero(y == code)[:per_label] for code in range(len(LABELS))]))
    return x[kept], y[kept]


folder = Path(sys.argv[1])
x_train, y_train = first_of_each("train", folder, 600)
x_test, y_test = first_of_each("t10k", folder, 100)
np.savez_compressed(OUT, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test, labels=np.array(LABELS))
print(f"{OUT.name}: {len(x_train)} + {len(x_test)} images, {OUT.stat().st_size / 1e6:.1f} MB")
