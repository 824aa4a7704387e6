"""What happens when memory runs out: one error with numbers and advice, and a process that stays usable."""

import errno
import inspect
import os
import pickle
import re
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch

import mcdropout as mcd
from mcdropout.compute import memory, out_of_memory, threads
from mcdropout.sampling.results import GrowingArray

GIB = 1 << 30

PanicException = type("PanicException", (BaseException,), {})  # as safetensors raises it


def chained(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "numbers"),
    [
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried "
                "to allocate 4326400 bytes. Error code 12 (Cannot allocate memory)"
            ),
            "it asked for 4.1 MiB, and 3.0 GiB were free",
        ),
        (
            torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which "
                "1.23 GiB is free."
            ),
            "it asked for 2.0 GiB, and 1.23 GiB were free",
        ),
        (
            MemoryError("Unable to allocate 68.7 MiB for an array with shape (600, 30000) and data type float32"),
            "it asked for 68.7 MiB, and 3.0 GiB were free",
        ),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8000000000 bytes."), "it asked for 7.5 GiB, and"),
        (RuntimeError("unable to mmap 1048576 bytes from file </x>: Cannot allocate memory (12)"), "asked for 1.0 MiB"),
        (MemoryError(), "ran out of memory: 3.0 GiB were free; use"),
        (RuntimeError("Storage size calculation overflowed with sizes=[9007199254740991, 4]"), "3.0 GiB were free"),
        (OSError("codec configuration error when writing image file"), "3.0 GiB were free"),
        (RuntimeError("could not create a primitive"), '3.0 GiB were free ("could not create a primitive")'),
        (RuntimeError("can't start new thread"), '3.0 GiB were free ("can\'t start new thread")'),
        (RuntimeError("std::bad_alloc"), '3.0 GiB were free ("std::bad_alloc")'),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), "3.0 GiB were free"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), '3.0 GiB were free ("[Errno 12] Cannot allocate memory")'),
        (ImportError("libx.so: failed to map segment from shared object"), "3.0 GiB were free"),
        (
            PanicException("called `Result::unwrap()` on an `Err` value: PyErr { type: <class 'MemoryError'> }"),
            "3.0 GiB were free",
        ),
        (PanicException("PyObject pointer is null"), '3.0 GiB were free ("PyObject pointer is null")'),
        (
            RuntimeError("The following operation failed in the TorchScript interpreter.\nTraceback:\nRuntimeError: "
                         "DefaultCPUAllocator: can't allocate memory: you tried to allocate 512 bytes."),
            "it asked for 0.5 KiB",
        ),
        (chained(ValueError("`path` must be whole"), MemoryError()), "ran out of memory: 3.0 GiB were free; use"),
    ],
    ids=str,
)  # fmt: skip
def test_every_wording_of_too_little_memory_becomes_one_error_with_numbers(error, numbers, monkeypatch):
    monkeypatch.setattr(out_of_memory, "free_memory", lambda: 3 * GIB)

    @out_of_memory.explains_out_of_memory("mc_something")
    def fails(batch_size=1, workers=2):
        raise error

    with pytest.raises(mcd.OutOfMemory) as caught:
        fails()
    text = str(caught.value)
    assert text.startswith("`mc_something()` ran out of memory: ")
    assert numbers in text
    assert text.endswith("; use a smaller `batch_size`, fewer `workers` or a machine with more memory.")
    assert "\n" not in text
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [ValueError("the model is out of memory"), RuntimeError("no"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full"),
     PanicException("index out of bounds"), mcd.OutOfMemory("`x` is too large.")],
    ids=repr,
)  # fmt: skip
def test_every_other_error_passes_unchanged(error):
    @out_of_memory.explains_out_of_memory("mc_something")
    def fails():
        raise error

    with pytest.raises(type(error)) as caught:
        fails()
    assert caught.value is error
    assert caught.value.__cause__ is None


def test_an_error_is_raised_even_where_no_memory_is_left_for_its_numbers(monkeypatch):
    @out_of_memory.explains_out_of_memory("mc_something")
    def fails():
        raise MemoryError

    def fail(_):
        raise MemoryError

    monkeypatch.setattr(out_of_memory, "_numbers_of", fail)
    with pytest.raises(
        mcd.OutOfMemory, match=r"^`mc_something\(\)` ran out of memory; use a machine with more memory\.$"
    ):
        fails()


def test_an_error_of_memory_keeps_nothing_of_the_failed_call_alive():
    class Large:
        pass

    alive = weakref.WeakSet()

    @out_of_memory.explains_out_of_memory("mc_something")
    def fails():
        large = Large()
        alive.add(large)
        raise MemoryError

    with pytest.raises(mcd.OutOfMemory) as caught:
        fails()
    assert caught.value.__cause__ is not None
    assert not alive


def test_every_public_function_explains_too_little_memory_and_can_be_pickled():
    functions = [name for name in mcd.__all__ if inspect.isfunction(getattr(mcd, name))]
    assert len(functions) > 50
    for name in functions:
        function = getattr(mcd, name)
        assert function.__wrapped__.__name__ == name
        assert pickle.loads(pickle.dumps(function)) is function
        assert function is getattr(mcd, name)


def test_fewer_workers_start_where_memory_is_short(monkeypatch):
    for free, n_threads in ((GIB, 3), (150 << 20, 2), (100 << 20, 0), (0, 0)):
        monkeypatch.setattr(threads, "free_memory", lambda free=free: free)
        with threads.Workers(3) as workers:
            parts = [slice(number, number + 1) for number in range(4)]
            assert list(workers.map_parallel(lambda part: part.start, parts)) == [0, 1, 2, 3]
            assert (0 if workers.pool is None else len(workers.pool.threads)) == n_threads


LIMITED = """
import resource
import numpy as np, torch, mcdropout as mcd
torch.set_num_threads(1)
np.ones((300, 300)) @ np.ones((300, 300))  # OpenBLAS ends the process if it has no memory for its first product
net = mcd.mc_cnn((28, 28, 1), labels=["a", "b"])
x, y = np.random.default_rng(0).random((3000, 28, 28, 1), dtype=np.float32), ["a", "b"] * 1500
large = mcd.mc_mlp(30000, labels=["a", "b"], hidden=600)
mcd.mc_save(large, "large")
draws = mcd.mc_predict(net, x, n_samples=20, seed=1, progress=False)
small = mcd.mc_predict(net, x[:4], n_samples=3, seed=1, progress=False)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (20 << 20),) * 2)
for name, call in {
    "mc_mlp": lambda: mcd.mc_mlp(30000, labels=["a", "b"], hidden=600),
    "mc_fit": lambda: mcd.mc_fit(net, x, y, epochs=1, batch_size=3000, progress=False),
    "mc_predict": lambda: mcd.mc_predict(net, np.float64(x), n_samples=20, progress=False),
    "mc_predict keeping": lambda: mcd.mc_predict(net, x, n_samples=20000, progress=False),
    "mc_load": lambda: mcd.mc_load("large"),
    "mc_acquire": lambda: mcd.mc_acquire(draws[np.arange(3000).repeat(20)], 20, by="batchbald"),
}.items():
    try:
        call()
        print(name, "passes")
    except mcd.OutOfMemory as error:
        print(name, error)
    again = mcd.mc_predict(net, x[:4], n_samples=3, seed=1, progress=False)
    assert (again.mean == small.mean).all()
"""


@pytest.mark.slow  # a new process
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process")
def test_a_process_of_little_memory_says_so_and_stays_usable(tmp_path):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    completed = subprocess.run(
        [sys.executable, "-c", LIMITED], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert completed.returncode == 0, completed.stderr
    for line in completed.stdout.splitlines():
        assert re.search(r"[\d.]+ [KMG]iB (were|are) free", line) or line == "mc_predict passes"


def test_weights_and_summaries_that_do_not_fit_are_refused_before_they_are_made(monkeypatch):
    for module in (memory, out_of_memory):  # of a container, where the system has more
        monkeypatch.setattr(module, "free_memory", lambda: 30_000_000)
    message = r"`mc_mlp\(\)` ran out of memory: it asked for 38\.1 MiB, and 28\.6 MiB were free; use a smaller network"
    with pytest.raises(mcd.OutOfMemory, match=message):
        mcd.mc_mlp(1000, labels=["a", "b"], hidden=10_000)
    with pytest.raises(MemoryError, match="Unable to allocate 32000000 bytes"):
        GrowingArray((), n_inputs=10**6).put(np.arange(5), np.zeros((5, 4)))


@pytest.mark.parametrize("hidden", [10**12, 2**53 - 1, [4, 10**12]])
def test_networks_that_no_machine_can_hold_are_refused(hidden):
    with pytest.raises(mcd.OutOfMemory, match=r"`mc_mlp\(\)` ran out of memory: .*; use a smaller network"):
        mcd.mc_mlp(4, labels=["a", "b"], hidden=hidden)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("could not create a primitive"), RuntimeError("can't start new thread"),
     RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 512 bytes.")],
    ids=str,
)  # fmt: skip
def test_fewer_data_are_not_tried_where_they_would_not_help(error):
    with pytest.raises(RuntimeError, match=re.escape(str(error))) as caught, out_of_memory.suppress_out_of_memory():
        raise error
    assert caught.value is error
