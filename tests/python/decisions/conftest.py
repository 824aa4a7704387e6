"""What the tests of decisions share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest


@pytest.fixture(scope="session")
def uncertainties(classes_of):
    """`uncertainties(values)`: a prediction with this predictive entropy."""
    template = classes_of(np.array([[[0.6, 0.4]], [[0.7, 0.3]]]), ["no", "yes"])
    return lambda values: replace(
        template[np.zeros(len(values), dtype=int)], predictive_entropy=np.asarray(values, dtype=float)
    )
