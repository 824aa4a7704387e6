"""The cost of sampling a Keras model, compared with the loop `[model(x, training=True) for _ in range(T)]` of Keras.

Run: python tests/benchmarks/bench_keras.py [--inputs 512] [--draws 50] [--repeats 3] [--backends torch tensorflow jax]
The network is that of the R Keras example, with inputs of 28 x 28. Each backend runs in its own process. Each ratio is
the median over pairs of consecutive runs. The loop runs on a quarter of the inputs, because its time is per input. The
first prediction, in which TensorFlow and JAX compile, is shown separately.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

import mcdropout as mcd


def seconds(run: Callable[[], object]) -> float:
    """Wall-clock seconds of one run."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def network(keras: Any) -> Any:
    """The network of the R Keras example."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.Dropout(0.25),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, activation="relu"),
            layers.Dropout(0.25),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(10, activation="softmax"),
        ]
    )


def on_this_backend(n_inputs: int, draws: int, repeats: int) -> None:
    """Print the ratio on the backend of this process."""
    keras = import_module("keras")
    model = network(keras)
    x = np.random.default_rng(0).random((n_inputs, 28, 28, 1), dtype=np.float32)
    few = x[: max(128, n_inputs // 4)]

    def keras_loop() -> np.ndarray:
        parts = []
        for start in range(0, len(few), 128):
            batch = few[start : start + 128]
            passes = [keras.ops.convert_to_numpy(model(batch, training=True)) for _ in range(draws)]
            parts.append(np.stack(passes))
        return np.concatenate(parts, axis=1)

    def predict() -> object:
        return mcd.mc_predict(model, x, draws, seed=1, progress=False)

    model(few[:1], training=True)
    first = seconds(predict)
    ratios, times = [], []
    for _ in range(repeats):
        loop_seconds = seconds(keras_loop) * len(x) / len(few)
        times.append(seconds(predict))
        ratios.append(loop_seconds / times[-1])
    per_input = statistics.median(times) / n_inputs * 1000
    print(
        f"mc_predict on {keras.backend.backend()}: {statistics.median(ratios):.1f}x Keras's loop "
        f"({per_input:.2f} ms per input; the first time {first:.1f} s, then {statistics.median(times):.1f} s)"
    )


def main() -> None:
    """Print one line per backend."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=int, default=512)
    parser.add_argument("--draws", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--backends", nargs="+", default=["torch", "tensorflow"])
    parser.add_argument("--here", action="store_true", help="in this process, on the backend of KERAS_BACKEND")
    options = parser.parse_args()
    if options.here:
        on_this_backend(options.inputs, options.draws, options.repeats)
        return
    print(f"{options.inputs} inputs of 28 x 28, {options.draws} draws", flush=True)
    arguments = ["--inputs", options.inputs, "--draws", options.draws, "--repeats", options.repeats]
    for backend in options.backends:
        environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, __file__, "--here", *map(str, arguments)]
        completed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if completed.returncode != 0:
            raise SystemExit(completed.stderr)
        print(completed.stdout.strip(), flush=True)


if __name__ == "__main__":
    main()
