"""The speed on a GPU: the network of the R Keras example, batches of 128, 50 draws, compared with the naive loop.

Run: python tests/benchmarks/bench_gpu.py [--inputs 4096] [--repeats 5]
Each method reads all inputs from the memory of the host and returns the mean of its draws there. The methods alternate,
and the times are medians. Two shares compare the speed with the limits of the GPU: operations per second of matrix
products and convolutions, relative to one large product in the same precision, and bytes per second that all operations
read and write, relative to one large copy. Without a GPU the script only says so; `--device cpu` shows that it works.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import mcdropout as mcd

BATCH, DRAWS = 128, 50
Run = Callable[[], Any]


class Traffic(TorchDispatchMode):
    """Counts the bytes that operations read and write. Views move none."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.bytes += sum(leaf.nbytes for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor))
        return result


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def naive(net: mcd.MCNetwork, x: np.ndarray, device: torch.device, reduced: bool) -> Run:
    """The loop that users write: dropout in training mode, one pass for each draw."""
    model = copy.deepcopy(net).to(device)
    for module in model.modules():
        module.training = isinstance(module, nn.Dropout)
    precision: AbstractContextManager[Any] = torch.autocast(device.type, torch.bfloat16) if reduced else nullcontext()

    def run() -> Tensor:
        means = []
        with torch.inference_mode(), precision:
            for batch in torch.from_numpy(x).split(BATCH):
                on_device = batch.to(device)
                draws = torch.stack([model(on_device).float().softmax(dim=-1) for _ in range(DRAWS)])
                means.append(draws.mean(dim=0).cpu())
        return torch.cat(means)

    return run


def ours(net: mcd.MCNetwork, x: np.ndarray, device: torch.device, **settings: Any) -> Run:
    options = {"seed": 1, "keep_samples": False, "progress": False, "device": str(device), **settings}
    return lambda: mcd.mc_predict(net, x, DRAWS, BATCH, **options).mean


def seconds(run: Run, device: torch.device) -> float:
    wait_for(device)
    started = time.perf_counter()
    run()
    wait_for(device)
    return time.perf_counter() - started


def matrix_rate(dtype: torch.dtype, device: torch.device, size: int) -> float:
    """Operations a second of a large product of random numbers."""
    a, b = torch.randn(2, size, size, device=device).to(dtype)
    return 2 * size**3 / min(seconds(lambda: a @ b, device) for _ in range(10))


def copy_rate(device: torch.device, n_bytes: int) -> float:
    """Bytes a second, read and written, of a large copy on the device."""
    a = torch.rand(n_bytes // 4, device=device)
    b = torch.empty_like(a)
    return 2 * a.nbytes / min(seconds(lambda: b.copy_(a), device) for _ in range(10))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("This machine has no CUDA device, so nothing is measured.")
        return
    net = mcd.mc_cnn((28, 28, 1), labels=range(10))
    x = np.random.default_rng(0).random((options.inputs, 28, 28, 1), dtype=np.float32)
    on_gpu = device.type != "cpu"
    size, n_bytes = (8192, 4 << 30) if on_gpu else (1024, 64 << 20)
    rates = {dtype: matrix_rate(dtype, device, size) for dtype in (torch.float32, torch.bfloat16)}
    bandwidth = copy_rate(device, n_bytes)
    print(f"{torch.cuda.get_device_name(device) if on_gpu else 'CPU'}, {options.inputs} inputs, {DRAWS} draws")
    print(
        f"float32 product {rates[torch.float32] / 1e12:.1f} TFLOP/s (TF32 if torch uses it), bfloat16 "
        f"{rates[torch.bfloat16] / 1e12:.1f} TFLOP/s, copy {bandwidth / 1e9:.0f} GB/s\n"
    )
    methods = {
        "naive loop": (naive(net, x, device, False), torch.float32),
        "naive loop, bfloat16 by autocast": (naive(net, x, device, True), torch.bfloat16),
        "ours, float32": (ours(net, x, device), torch.float32),
        "ours, float32, masks per input": (ours(net, x, device, masks="per_input"), torch.float32),
        "ours, bfloat16": (ours(net, x, device, precision="bfloat16"), torch.bfloat16),
    }
    times: dict[str, list[float]] = {name: [] for name in methods}
    for turn in range(options.repeats + 1):
        for name, (run, _) in methods.items():
            took = seconds(run, device)
            if turn > 0:  # the first turn is not counted
                times[name].append(took)
    print("| | seconds | inputs a second | times the naive loop | share of matrix rate | share of bandwidth |")
    print("|---|---|---|---|---|---|")
    for name, (run, dtype) in methods.items():
        with FlopCounterMode(display=False) as flops, Traffic() as traffic:
            run()
        took = statistics.median(times[name])
        ratio = statistics.median(loop / time for loop, time in zip(times["naive loop"], times[name], strict=True))
        print(
            f"| {name} | {took:.3f} | {options.inputs / took:.0f} | {ratio:.1f}x "
            f"| {100 * flops.get_total_flops() / took / rates[dtype]:.0f} % "
            f"| {100 * traffic.bytes / took / bandwidth:.0f} % |",
            flush=True,
        )


if __name__ == "__main__":
    main()
