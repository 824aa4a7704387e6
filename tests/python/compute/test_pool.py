"""A pool of threads: order, errors, the end, and work after the end of the main thread."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import CancelledError

import pytest

from mcdropout.compute.pool import Pool


def test_results_come_in_order_and_an_error_where_its_result_is_read():
    with Pool(3) as pool:
        assert list(pool.map(lambda i: i * i, range(7))) == [0, 1, 4, 9, 16, 25, 36]
        results = pool.map(lambda i: 6 // (2 - i), range(4))
        assert [next(results), next(results)] == [3, 6]
        with pytest.raises(ZeroDivisionError):
            next(results)
        assert pool.submit(lambda: 5).result() == 5
    assert not any(thread.is_alive() for thread in pool.threads)


def test_the_end_of_a_pool_cancels_what_has_not_begun():
    begun, go_on = threading.Event(), threading.Event()
    pool = Pool(1)
    first = pool.submit(lambda: (begun.set(), go_on.wait(60)))
    second = pool.submit(lambda: None)
    assert begun.wait(60)
    pool.shutdown(wait=False)
    go_on.set()
    pool.shutdown()
    assert first.result() == (None, True)
    with pytest.raises(CancelledError):
        second.result()


def test_threads_that_started_end_if_the_system_has_no_room_for_more(monkeypatch):
    started, start = [], threading.Thread.start

    def start_two(thread):
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        start(thread)
        started.append(thread)

    monkeypatch.setattr(threading.Thread, "start", start_two)
    with pytest.raises(RuntimeError, match="can't start"):
        Pool(3)
    assert not any(thread.is_alive() for thread in started)


AFTER_MAIN = """
import sys, threading
import numpy as np, torch
from pathlib import Path
import mcdropout as mcd
from mcdropout.engine import chunks

chunks.CHUNK_BYTES = 64  # several chunks
folder = Path(sys.argv[1])
from PIL import Image
Image.new("RGB", (5, 4)).save(folder / "a.png")
images = mcd.ImageFiles([folder / "a.png"], size=(4, 5))
net = mcd.mc_mlp(3, labels=["a", "b"])
x = np.random.default_rng(0).normal(size=(23, 3))
predict = lambda: mcd.mc_predict(net, x, 5, workers=2, seed=1, progress=False).samples
expected = predict()

def after_the_main_thread():
    threading.main_thread().join()
    print(np.array_equal(predict(), expected), images.take(slice(None)).shape)

threading.Thread(target=after_the_main_thread).start()
"""


@pytest.mark.slow
def test_a_thread_predicts_and_reads_images_after_the_main_thread_has_ended(tmp_path):
    command = [sys.executable, "-c", AFTER_MAIN, str(tmp_path)]
    completed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert (completed.returncode, completed.stderr) == (0, "")
    assert completed.stdout.split(" ", 1) == ["True", "(1, 4, 5, 1)\n"]
