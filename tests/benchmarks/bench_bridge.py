"""The cost of the bridge from R: `mc_predict` on 2,000 images in an R array of doubles, compared with Python.

Run: python tests/benchmarks/bench_bridge.py [--rounds 3]
Each language predicts in its own process with the same network and settings. The processes alternate, and the ratio is
that of the medians.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import mcdropout as mcd

IN_R = """
library(mcdropout)
net <- mc_load("{path}")
x <- mc_sample_data()$x_train[1:2000, , , , drop = FALSE]
for (run in 0:2) {{
  took <- system.time(mc_predict(net, x, n_samples = 50, batch_size = 128, seed = 1, progress = FALSE))
  if (run > 0) cat(took[["elapsed"]], "")
}}
"""
IN_PYTHON = """
import time
import mcdropout as mcd
net = mcd.mc_load({path!r})
x = mcd.mc_sample_data().x_train[:2000]
for run in range(3):
    started = time.perf_counter()
    mcd.mc_predict(net, x, n_samples=50, batch_size=128, seed=1, progress=False)
    if run > 0:
        print(time.perf_counter() - started)
"""


def seconds(command: list[str]) -> list[float]:
    """Times that a process printed."""
    completed = subprocess.run(command, capture_output=True, text=True, check=True)
    return [float(word) for word in completed.stdout.split()]


def main() -> None:
    """Print the ratio."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    times: dict[str, list[float]] = {"R": [], "Python": []}
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "net.safetensors")
        mcd.mc_save(mcd.mc_cnn((28, 28, 1), labels=mcd.mc_sample_data().labels), path)
        script = Path(folder) / "in_r.R"
        script.write_text(IN_R.format(path=path))
        for _ in range(rounds):
            times["R"] += seconds(["Rscript", str(script)])
            times["Python"] += seconds([sys.executable, "-c", IN_PYTHON.format(path=path)])
    in_r, in_python = (statistics.median(times[language]) for language in ("R", "Python"))
    print(
        f"2000 images of 28 x 28, 50 draws: {in_r:.2f} s from R, {in_python:.2f} s from Python, "
        f"{in_r / in_python:.2f}x Python's time"
    )


if __name__ == "__main__":
    main()
