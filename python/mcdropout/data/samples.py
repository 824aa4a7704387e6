"""The bundled sample of real images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .images import in_unit_interval

SAMPLE_FILE = Path(__file__).parent / "fashion_mnist_sample.npz"


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
