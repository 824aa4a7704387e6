"""What all tests share: where there is a GPU, only those that are marked so work on it.

The others hold numbers to the host's rounding, and their own networks make tensors there.
"""

import os

import pytest
import torch

HAS_GPU = torch.cuda.is_available()
VISIBLE = os.environ.get("CUDA_VISIBLE_DEVICES")
# Files that take minutes. They come first, so that no worker is left with one of them at the end.
LONG_FILES = ("test_keras.py", "test_quickstart.py", "test_on_devices.py", "test_triage_example.py")


def pytest_collection_modifyitems(items):
    """Long files come first; tests that need a GPU are skipped if there is none."""
    items.sort(key=lambda item: item.path.name not in LONG_FILES)
    if not HAS_GPU:
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session", autouse=True)
def on_the_host():
    """Whoever leaves the device to us gets the host, and processes that tests start find no other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setattr("mcdropout.compute.devices.has_gpu", lambda: False)
        patch.setattr("torch.cuda.is_available", lambda: False)  # which remembers what it found
        yield


@pytest.fixture(autouse=True)
def gpus_where_asked_for(request, monkeypatch):
    """Tests that are marked find the GPUs that this process was started with."""
    if request.node.get_closest_marker("gpu"):
        monkeypatch.setattr("torch.cuda.is_available", lambda: HAS_GPU)
        if VISIBLE is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", VISIBLE)
