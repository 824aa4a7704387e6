"""What all Python tests share."""

import os

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small networks gain nothing from more, and lose much where another process wants the same cores.

    Put back after each file: the tests across the bridge compare with an R that has all threads.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_collection_modifyitems(items):
    """Tests that need a GPU say so and are skipped where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def torchvision():
    """Its wheel wants two operators that a CPU build of torch lacks; declared, they are never called."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    if os.environ.get("CI") == "true":  # which promises to have it
        __import__("torchvision")
    yield pytest.importorskip("torchvision")
    del library
