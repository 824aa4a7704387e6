"""The speed of several implementations of Monte Carlo dropout: mcdropout, the loop that users write, other packages.

Run: make bench-peers (installs the other packages in .setup/peers), or
     python tests/benchmarks/bench_peers.py [--networks r-keras ...] [--repeats 3]
Everything runs in one process, one after the other, in several turns. A figure is the median, over these turns, of the
time of the naive loop for an input divided by that of the row in the same turn, so that a change in the speed of the
machine affects both. The loops and the other packages run on `few` inputs, because their time per input does not depend
on the number of inputs. mcdropout runs on all inputs; its time includes finding the sites and choosing the engine.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))

from torchvision_operators import declare_what_torchvision_lacks

import mcdropout as mcd

os.environ["KERAS_BACKEND"] = "torch"  # read when keras is first imported

declare_what_torchvision_lacks()  # baal and torch-uncertainty import it

DRAWS = 50
LABELS = 10
Run = Callable[[], Any]  # returns the draws: probabilities (draw, input, label)


# ---- networks -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A network and its inputs."""

    name: str
    model: nn.Module  # plain torch, in eval mode
    x: Tensor  # all inputs, channels first
    few: int
    batch: int  # batch size of the loops
    keras_layers: Callable[[Any], list[Any]] | None = None  # the same network in Keras, without its input
    ours: nn.Module | None = None  # the network of `mc_cnn()`, if the case has one

    @property
    def part(self) -> tuple[Tensor, ...]:
        """The `few` inputs, in batches."""
        return self.x[: self.few].split(self.batch)


def r_keras_example() -> Case:
    net = mcd.mc_cnn((28, 28, 1), labels=range(LABELS))

    def layers(keras: Any) -> list[Any]:
        return [
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.Dropout(0.25),
            keras.layers.MaxPooling2D(2),
            keras.layers.Conv2D(64, 3, activation="relu"),
            keras.layers.Dropout(0.25),
            keras.layers.MaxPooling2D(2),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(LABELS, activation="softmax"),
        ]

    return Case("R Keras example", net.layers, torch.rand(1024, 1, 28, 28), 128, 128, layers, net)


def wide_filters() -> Case:
    """The network of a popular question on uncertainty in Keras: 128 filters of 7 x 7."""
    model = nn.Sequential(
        *(nn.Conv2d(1, 128, 7), nn.ReLU(), nn.Dropout(0.2)),
        *(nn.Conv2d(128, 64, 3), nn.ReLU(), nn.Dropout(0.2), nn.Flatten()),
        *(nn.Linear(64 * 20 * 20, 64), nn.ReLU(), nn.Dropout(0.25), nn.Linear(64, LABELS)),
    )

    def layers(keras: Any) -> list[Any]:
        return [
            keras.layers.Conv2D(128, 7, activation="relu"),
            keras.layers.Dropout(0.2),
            keras.layers.Conv2D(64, 3, activation="relu"),
            keras.layers.Dropout(0.2),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dropout(0.25),
            keras.layers.Dense(LABELS, activation="softmax"),
        ]

    return Case("128 filters 7x7", model, torch.rand(64, 1, 28, 28), 16, 16, layers)


def dense() -> Case:
    model = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Dropout(0.5), nn.Linear(512, LABELS))

    def layers(keras: Any) -> list[Any]:
        return [
            keras.layers.Dense(512, activation="relu"),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(LABELS, activation="softmax"),
        ]

    return Case("MLP 784-512-10", model, torch.rand(8192, 784), 1024, 128, layers)


class Block(nn.Module):
    """A residual block: two convolutions with dropout between them."""

    def __init__(self, channels: int, width: int, stride: int, rate: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(rate) if rate > 0 else nn.Identity()
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.around = nn.Identity()
        if stride > 1:
            self.around = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.dropout(F.relu(self.norm1(self.conv1(x))))
        return F.relu(self.norm2(self.conv2(y)) + self.around(x))


def residual(rate: float, head_rate: float) -> nn.Module:
    """The size of ResNet-18: 11 million weights, 4 stages of 2 blocks."""
    blocks, channels = [], 64
    for stage, width in enumerate((64, 128, 256, 512)):
        for stride in (1 if stage == 0 else 2, 1):
            blocks.append(Block(channels, width, stride, rate))
            channels = width
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
        *blocks,
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(head_rate), nn.Linear(512, LABELS)),
    )


def residual_head() -> Case:
    return Case("ResNet-18, head", residual(0, 0.5), torch.rand(128, 3, 64, 64), 8, 8)


def residual_blocks() -> Case:
    return Case("ResNet-18, blocks", residual(0.1, 0.5), torch.rand(16, 3, 64, 64), 8, 8)


class Transformer(nn.Module):
    """Two layers of the transformer encoder of torch over 32 tokens of 128 numbers."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(128, 4, 256, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(128, LABELS)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x).mean(dim=1))


def transformer() -> Case:
    return Case("transformer", Transformer(), torch.randn(128, 32, 128), 32, 32)


CASES = {
    "r-keras": r_keras_example,
    "wide": wide_filters,
    "mlp": dense,
    "resnet-head": residual_head,
    "resnet-blocks": residual_blocks,
    "transformer": transformer,
}


# ---- methods of sampling -------------------------------------------------------------------------------------


class NotApplicable(Exception):
    """The reason why a method does not apply to a network."""


def stochastic(model: nn.Module) -> nn.Module:
    """The correct form of what users write: `model.train()`, with batch norm in evaluation mode."""
    model = copy.deepcopy(model).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model


def loop(model: nn.Module, batches: tuple[Tensor, ...]) -> Tensor:
    with torch.no_grad():
        parts = [torch.stack([model(batch).softmax(dim=-1) for _ in range(DRAWS)]) for batch in batches]
    return torch.cat(parts, dim=1)


def naive(case: Case) -> Run:
    model = stochastic(case.model)
    return lambda: loop(model, case.part)


def naive_channels_last(case: Case) -> Run:
    if case.x.ndim != 4:
        raise NotApplicable("no images")
    model: Any = stochastic(case.model)  # the types of torch do not know `memory_format`
    model = model.to(memory_format=torch.channels_last)
    batches = tuple(batch.contiguous(memory_format=torch.channels_last) for batch in case.part)
    return lambda: loop(model, batches)


def baal(case: Case, repeat: bool) -> Run:
    from baal.bayesian.dropout import patch_module
    from baal.modelwrapper import ModelWrapper, TrainingArgs

    settings = TrainingArgs(use_cuda=False, replicate_in_memory=repeat)
    wrapper = ModelWrapper(patch_module(case.model, inplace=False).eval(), settings)

    def run() -> Tensor:
        parts = [wrapper.predict_on_batch(batch, DRAWS).softmax(dim=1) for batch in case.part]
        return torch.cat(parts).permute(2, 0, 1)  # from (input, label, draw)

    return run


def torch_uncertainty(case: Case, repeat: bool) -> Run:
    from torch_uncertainty.methods import mc_dropout

    model = mc_dropout(copy.deepcopy(case.model), DRAWS, on_batch=repeat).eval()

    def run() -> Tensor:
        with torch.no_grad():
            parts = [model(batch).softmax(dim=-1).view(DRAWS, len(batch), -1) for batch in case.part]
        return torch.cat(parts, dim=1)

    return run


def keras_loop(case: Case) -> Run:
    if case.keras_layers is None:
        raise NotApplicable("not written in Keras")
    import keras

    batches = [batch.movedim(1, -1).contiguous() for batch in case.part] if case.x.ndim == 4 else list(case.part)
    model = keras.Sequential([keras.Input(batches[0].shape[1:]), *case.keras_layers(keras)])

    def run() -> Tensor:
        with torch.no_grad():
            return torch.cat([torch.stack([model(batch, training=True) for _ in range(DRAWS)]) for batch in batches], 1)

    return run


def ours(case: Case, **settings: Any) -> Run:
    if case.ours is not None:
        x = case.x.movedim(1, -1).contiguous().numpy()
        return lambda: mcd.mc_predict(case.ours, x, DRAWS, seed=1, progress=False, **settings).samples
    x = case.x.numpy()
    return lambda: mcd.mc_predict(case.model, x, DRAWS, outputs="logits", seed=1, progress=False, **settings).samples


WAYS: dict[str, Callable[[Case], Run]] = {
    "naive loop": naive,
    "naive loop, channels-last": naive_channels_last,
    "baal, inputs repeated": lambda case: baal(case, True),
    "baal, loop": lambda case: baal(case, False),
    "torch-uncertainty, inputs repeated": lambda case: torch_uncertainty(case, True),
    "torch-uncertainty, loop": lambda case: torch_uncertainty(case, False),
    "Keras, loop": keras_loop,
    "ours, float32 (the defaults)": ours,
    "ours, float32, masks per input": lambda case: ours(case, masks="per_input"),
    "ours, bfloat16": lambda case: ours(case, precision="bfloat16"),
    "ours, bfloat16, masks per input": lambda case: ours(case, precision="bfloat16", masks="per_input"),
}
DEFAULTS = "ours, float32 (the defaults)"


# ---- measuring ------------------------------------------------------------------------------------------------


def seconds(run: Run) -> float:
    """Wall-clock seconds of one run."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def fault(draws: Any, n_labels: int) -> str | None:
    """The fault of these draws (draw, input, label), or None."""
    draws = np.asarray(draws)
    if draws.ndim != 3 or draws.shape[0] != DRAWS or draws.shape[2] != n_labels:
        return f"wrong: shape {draws.shape}"
    # another order of sums changes equal draws by about 1e-7; dropout changes them by far more
    return "wrong: no spread" if float(draws.std(axis=0).max()) < 1e-6 else None


def measure(case: Case, repeats: int) -> dict[str, str | list[float]]:
    """Seconds for one input of each method, in turns, or the reason why there are none."""
    runs: dict[str, Run] = {}
    results: dict[str, str | list[float]] = {}
    for name, prepare in WAYS.items():
        try:
            run = prepare(case)
            problem = fault(run(), LABELS)  # the first run is not timed
        except ImportError as error:
            problem = f"not installed ({error.name})"
        except NotApplicable as reason:
            problem = str(reason)
        except Exception as error:  # other packages raise many types of errors; the table names the type
            problem = f"fails: {type(error).__name__}"
        else:
            runs[name] = run
        results[name] = problem or []
    for _ in range(repeats):
        for name, run in runs.items():
            times = results[name]
            if isinstance(times, list):
                times.append(seconds(run) / (len(case.x) if name.startswith("ours") else case.few))
    return results


def matrix_rate() -> float:
    """Operations per second of the float32 matrix product of torch, the best of five."""
    a, b = torch.rand(2, 2048, 2048)
    return 2 * 2048**3 / min(seconds(lambda: a @ b) for _ in range(5))


def operations(case: Case) -> tuple[int, int]:
    """Multiplications and additions of one forward in matrix products and convolutions: all, and after a dropout."""
    model, before = stochastic(case.model), []
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        for module in model.modules():
            if isinstance(
                module, nn.Dropout
            ):  # attention has no such module, so that of the first layer counts as before its dropout
                module.register_forward_pre_hook(lambda *_: before.append(counter.get_total_flops()))
        model(case.x[:1])
    total = counter.get_total_flops()
    return total, total - min(before)


def cell(times: str | list[float], naive_times: list[float]) -> str:
    """The speed relative to the naive loop, and the least time."""
    if isinstance(times, str):
        return times
    ratio = statistics.median(naive / other for naive, other in zip(naive_times, times, strict=True))
    return f"{ratio:.1f}x ({1000 * min(times):.3g} ms)"


def column(case: Case, repeats: int) -> dict[str, str]:
    """The column of a network in the table."""
    results = measure(case, repeats)
    naive_times, default_times = results["naive loop"], results[DEFAULTS]
    assert isinstance(naive_times, list), naive_times
    cells = {name: cell(times, naive_times) for name, times in results.items()}
    total, after = operations(case)
    if isinstance(default_times, list) and after > total / 2:  # otherwise the draws share most of the work
        rate = DRAWS * after / statistics.median(default_times)
        cells["ours, float32: share of the matrix rate"] = f"{100 * rate / matrix_rate():.0f} %"
    return cells


def main() -> None:
    """Print a table: methods by networks."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--networks", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    columns: dict[str, dict[str, str]] = {}
    print(
        f"{DRAWS} draws, {torch.get_num_threads()} threads, {options.repeats} turns: times the speed of the naive loop "
        "(median), and the least time for one input.\nShare of the matrix rate: operations after the first dropout in "
        "a second, over those of a float32 product of 2048 x 2048.\n"
    )
    for key in options.networks:
        began = time.perf_counter()
        torch.manual_seed(0)
        case = CASES[key]()
        case.model.eval()
        columns[case.name] = column(case, options.repeats)
        sizes = f"{len(case.x)} inputs of {tuple(case.x.shape[1:])}, {case.few} for the other methods"
        print(f"{case.name}: {sizes}; took {time.perf_counter() - began:.0f} s", flush=True)
    print("\n| | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name in dict.fromkeys(name for cells in columns.values() for name in cells):
        print(f"| {name} | " + " | ".join(cells.get(name, "-") for cells in columns.values()) + " |")


if __name__ == "__main__":
    main()
