"""The time of the engine that the rule chooses, compared with the loop and its prefix cache. It must not be slower.

Run: python tests/benchmarks/bench_engines.py [--repeats 7] [--draws 32] [--masks shared] [--only WRN]
Times are processor times of one thread, on which other work on the machine has little effect. A figure is the median,
over turns, of the time of the chosen engine divided by the time of the loop in the same turn.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mcdropout as mcd
from mcdropout.engine.torch_passes import TorchPasses


class Block(nn.Module):
    """A block of a wide residual network, with dropout between its convolutions."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.dropout = nn.Dropout(0.3)
        same = channels == width and stride == 1
        self.around = nn.Identity() if same else nn.Conv2d(channels, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.norm1(x)))
        return self.conv2(self.dropout(F.relu(self.norm2(y)))) + self.around(x)


def wide_resnet(k: int, blocks: int = 2) -> nn.Module:
    """A wide residual network of depth 16 and width `k` for images of 32 x 32."""
    channels = 16
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False)]
    for stage, width in enumerate((16 * k, 32 * k, 64 * k)):
        for block in range(blocks):
            layers.append(Block(channels, width, 2 if stage and not block else 1))
            channels = width
    head = (nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))
    return nn.Sequential(*layers, *head)


class Encoder(nn.Module):
    """Two layers of the transformer encoder of torch."""

    def __init__(self, size: int = 128) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(size, 4, 2 * size, dropout=0.1, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(size, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x).mean(dim=1))


class Recurrent(nn.Module):
    """A classifier of sequences by two LSTM layers."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.dropout = nn.LSTM(8, 32, 2, batch_first=True, dropout=0.3), nn.Dropout(0.2)
        self.head = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.rnn(x)[0][:, -1]))


def networks() -> Iterator[tuple[str, nn.Module, np.ndarray]]:
    """The networks with their names and inputs."""
    rng = np.random.default_rng(0)

    def numbers(*shape: int) -> np.ndarray:
        return rng.random(shape, dtype=np.float32)

    yield "R Keras example", mcd.mc_cnn((28, 28, 1), labels=range(10)), numbers(512, 28, 28, 1)
    yield "one image", mcd.mc_cnn((28, 28, 1), labels=range(10)), numbers(1, 28, 28, 1)
    yield "MLP 784-512-10", mcd.mc_mlp(784, labels=range(10), hidden=512, dropout=0.5), numbers(4096, 784)
    yield "128 filters", mcd.mc_cnn((28, 28, 1), labels=range(10), filters=(128, 128)), numbers(64, 28, 28, 1)
    for k, n_inputs in ((1, 64), (1, 256), (2, 64), (4, 32)):
        yield f"WRN-16-{k}, {n_inputs} inputs", wide_resnet(k).eval(), numbers(n_inputs, 3, 32, 32)
    yield "transformer", Encoder().eval(), numbers(128, 32, 128)
    yield "transformer, few inputs", Encoder().eval(), numbers(4, 32, 128)
    yield "LSTM", Recurrent().eval(), numbers(256, 20, 8)
    yield "Bayesian CNN", mcd.mc_bayes_cnn((28, 28, 1), labels=range(10)), numbers(128, 28, 28, 1)
    yield "Bayesian MLP", mcd.mc_bayes_mlp(8, labels=range(3)), numbers(2048, 8)


def main() -> None:
    """Print one line per network."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--draws", type=int, default=32)
    parser.add_argument("--masks", default="shared")
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    torch.set_num_threads(1)
    by_rule = TorchPasses.engines
    print(f"{options.draws} draws, {options.masks} masks, {torch.backends.cpu.get_cpu_capability()}")
    for name, model, x in networks():
        if options.only not in name:
            continue
        times: dict[str, list[float]] = {"rule": [], "loop": []}
        engine = ""
        for turn in range(options.repeats + 1):
            for way in times if turn % 2 else reversed(times):
                TorchPasses.engines = by_rule if way == "rule" else lambda self: by_rule(self)[-1:]
                started = time.process_time()
                settings = {"outputs": "logits", "masks": options.masks, "keep_samples": False, "progress": False}
                result = mcd.mc_predict(model, x, options.draws, seed=1, **settings)
                if turn > 0:  # the first turn is not counted
                    times[way].append(time.process_time() - started)
                engine = result.engine if way == "rule" else engine
        ratio = statistics.median(a / b for a, b in zip(times["rule"], times["loop"], strict=True))
        print(
            f"{name}: {engine}, {ratio:.2f} of the loop's time ({statistics.median(times['loop']):.2f} s)", flush=True
        )
    TorchPasses.engines = by_rule


if __name__ == "__main__":
    main()
