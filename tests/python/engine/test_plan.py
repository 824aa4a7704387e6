"""The plan of the passes: smaller chunks or another engine where the memory of a device is too small."""

import numpy as np
import pytest
import torch
from image_model import MASKS, N, Net, cuda_error, limit_memory, numbers, predict

import mcdropout as mcd
from mcdropout.engine.loop import LoopEngine


@pytest.fixture
def x():
    return numbers(N, 2, 8, 8)


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("error", [cuda_error, MemoryError], ids=["cuda", "host"])
def test_running_out_of_memory_halves_the_chunks(x, masks, error, monkeypatch):
    expected = predict(Net(), x, masks=masks)
    emptied = []
    monkeypatch.setattr("mcdropout.engine.plan.empty_cache", emptied.append)
    limit_memory(6, error, monkeypatch)
    prediction = predict(Net(), x, masks=masks)
    assert prediction.engine == "folded"
    assert emptied[0] == torch.device("cpu")
    np.testing.assert_allclose(prediction.samples, expected.samples, atol=1e-5)


def test_an_engine_that_needs_too_much_memory_is_replaced(x, monkeypatch):
    expected = predict(Net(), x)
    limit_memory(0, cuda_error, monkeypatch)
    prediction = predict(Net(), x)
    assert prediction.engine == "loop"
    assert prediction.engine_reason.startswith("folded failed: CUDA out of memory")
    np.testing.assert_allclose(prediction.samples, expected.samples, atol=1e-5)


def test_too_little_memory_for_one_draw_of_one_input_has_its_own_error(x, monkeypatch):
    def fail(*_):
        raise cuda_error()

    monkeypatch.setattr(LoopEngine, "run", fail)
    message = (
        r"`model` needs more memory for one draw of one input than there is: it asked for 2\.0 GiB, and .* were free; "
        r"use a smaller network\."
    )
    with pytest.raises(mcd.OutOfMemory, match=message):
        predict(Net(), x)
