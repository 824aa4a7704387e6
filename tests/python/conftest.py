"""What all Python tests share."""

import pytest
import torch


def pytest_collection_modifyitems(items):
    """Tests that need a GPU say so and are skipped where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
