"""What all Python tests share."""

import pytest
import torch

from mcdropout.draws import Plan


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small networks gain nothing from more, and lose much where another process wants the same cores.

    Put back after each file: the tests across the bridge compare with an R that has all threads.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def only_engine(monkeypatch):
    """A function that leaves one engine, beside the loop, which every choice is held against."""
    all_of_them = Plan._engines

    def leave(engine):
        kept = (engine, "loop")
        monkeypatch.setattr(
            Plan, "_engines", lambda self: {name: run for name, run in all_of_them(self).items() if name in kept}
        )

    return leave


def pytest_collection_modifyitems(items):
    """Tests that need a GPU say so and are skipped where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
