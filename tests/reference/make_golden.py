"""Record the numbers that the package computes, to show that a change of its structure changes no number.

Run: python tests/reference/make_golden.py write PATH      (before a change)
     python tests/reference/make_golden.py compare PATH    (after it; `--tolerance 1e-6` where sums may be reordered)
     python tests/reference/make_golden.py saved           (writes golden.json and the files of `saved/`)

`write` stores complete arrays. Numbers are equal to the bit only on one machine with one version of torch, so this
record is not in the repository. `golden.json` has a few rounded numbers of each case, with which
`tests/python/test_golden.py` compares on every machine. This file and `golden_networks.py` use public names only.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from golden_networks import IMAGES, LABELS, NAMES, NETWORKS, QUIET, TABLE, VALUES, N, keras_network
from torch import nn

import mcdropout as mcd

HERE = Path(__file__).parent
Case = Callable[[], dict[str, np.ndarray]]

OPTIONS: dict[str, dict[str, Any]] = {
    "shared": {},
    "per input": {"masks": "per_input", "batch_size": 5, "ids": range(50, 50 + N)},
    "bfloat16": {"precision": "bfloat16"},
    "float16": {"precision": "float16"},
    "tolerance": {"tolerance": 0.05},
    "no samples": {"keep_samples": False, "batch_size": 5},
}


def numbers_in(value: Any) -> Iterator[float]:
    """All numbers of a JSON value."""
    if isinstance(value, dict):
        for name in sorted(value):
            yield from numbers_in(value[name])
    elif isinstance(value, list):
        for part in value:
            yield from numbers_in(part)
    elif isinstance(value, (int, float)):
        yield float(value)


def arrays_of(thing: Any) -> dict[str, np.ndarray]:
    """All numbers of a prediction, a table or any other result, by name."""
    if isinstance(thing, mcd.MCPrediction):
        arrays, _ = thing.to_state()
        return {**arrays, "engine": np.array(thing.engine)}
    if hasattr(thing, "to_state"):
        state = thing.to_state()
        text = json.dumps(state, sort_keys=True, default=str)
        return {"state": np.array(text), "numbers": np.array(list(numbers_in(json.loads(text))))}
    if hasattr(thing, "columns"):
        return {str(name): column.to_numpy() for name, column in thing.items()}
    arrays = {}
    for name, value in vars(thing).items():
        if isinstance(value, (int, float, np.ndarray)):
            arrays[name] = np.asarray(value)
        elif hasattr(value, "columns"):
            arrays |= {f"{name}.{column}": values for column, values in arrays_of(value).items()}
    return arrays


def sampled(name: str, n_samples: int = 8, **options: Any) -> mcd.MCPrediction:
    """A prediction of one of the networks."""
    make, x, network_options = NETWORKS[name]
    return mcd.mc_predict(make(), x, n_samples, **{"seed": 3, **QUIET, **network_options, **options})


def trained(name: str) -> dict[str, np.ndarray]:
    """Weights and history after two epochs."""
    make, x, network_options = NETWORKS[name]
    model = make()
    y = VALUES if name == "mlp values" else NAMES
    if network_options:
        model.task, model.labels, model.outputs = "classification", tuple(LABELS), "logits"  # type: ignore[assignment]
    mcd.mc_fit(model, x, y, epochs=2, batch_size=5, seed=4, validation_split=0.25, **QUIET)
    weights = {key: value.numpy() for key, value in model.state_dict().items()}
    return {**weights, **arrays_of(model.history)}


def evaluations() -> Iterator[tuple[str, Case]]:
    """Scores, calibration, decisions and monitoring."""
    classifier = NETWORKS["mlp classes"][0]

    def labelled(seed: int, shift: float = 0.0) -> tuple[mcd.MCPrediction, np.ndarray]:
        rng = np.random.default_rng(seed)
        x = (rng.normal(3, 2, (400, 5)) + shift).astype(np.float32)
        prediction = mcd.mc_predict(classifier(), x, 8, seed=5, **QUIET)
        return prediction, _some_wrong(prediction, rng, 0.2)

    def values() -> tuple[mcd.MCPrediction, np.ndarray]:
        rng = np.random.default_rng(5)
        x = rng.normal(3, 2, (300, 5)).astype(np.float32)
        prediction = mcd.mc_predict(NETWORKS["mlp values"][0](), x, 8, seed=5, **QUIET)
        return prediction, prediction.mean.reshape(-1) + rng.normal(0, 0.5, 300)

    yield "scores", lambda: arrays_of(mcd.mc_scores(*labelled(1), n_resamples=20, seed=1))
    yield "scores of values", lambda: arrays_of(mcd.mc_scores(*values()))
    yield "out of distribution", lambda: arrays_of(mcd.mc_ood_scores(labelled(1)[0], labelled(2, 4)[0]))
    yield "calibration", lambda: arrays_of(mcd.mc_calibrate(*labelled(1)))
    yield "applied calibration", lambda: arrays_of(mcd.mc_apply(mcd.mc_calibrate(*labelled(1)), labelled(2)[0]))
    yield "conformal", lambda: arrays_of(mcd.mc_conformal(*labelled(1)))
    yield "conformal values", lambda: arrays_of(mcd.mc_conformal(*values()))
    yield "triage", lambda: arrays_of(mcd.mc_triage(*labelled(1), max_error=0.25))
    yield "triage by costs", lambda: arrays_of(mcd.mc_triage(*labelled(1), costs={"error": 5, "refer": 1}))
    yield "decisions", lambda: arrays_of(mcd.mc_decide(mcd.mc_triage(*labelled(1), max_error=0.25), labelled(2)[0]))
    yield "acquisition", lambda: arrays_of(mcd.mc_acquire(labelled(1)[0], 5))
    yield "batchbald", lambda: arrays_of(mcd.mc_acquire(labelled(1)[0], 3, by="batchbald"))
    yield "monitor", lambda: arrays_of(mcd.mc_monitor(labelled(1)[0]))
    yield "drift", lambda: arrays_of(monitor_after(labelled(1)[0], labelled(2, 2)[0]))
    yield "uncertainty table", lambda: arrays_of(mcd.mc_uncertainty_table(labelled(1)[0]))
    yield "convergence", lambda: arrays_of(mcd.mc_convergence(classifier(), TABLE, (5, 10), seed=2, **QUIET))
    yield (
        "rates",
        lambda: arrays_of(mcd.mc_compare_rates(classifier(), TABLE, NAMES, (0.1, 0.4), 8, seed=2, **QUIET)),
    )


def monitor_after(reference: mcd.MCPrediction, batch: mcd.MCPrediction) -> mcd.MCMonitor:
    """A monitor after one batch."""
    monitor = mcd.mc_monitor(reference)
    monitor.update(batch)
    return monitor


def cases() -> Iterator[tuple[str, Case]]:
    """All cases, by name."""
    for network in NETWORKS:
        for options in OPTIONS:
            yield f"{network}, {options}", lambda n=network, o=options: arrays_of(sampled(n, **OPTIONS[o]))
    for network in ("mlp classes", "convolutions", "bayes cnn"):
        make, x, network_options = NETWORKS[network]
        sampler_options = {"seed": 3, "device": "cpu", **network_options}
        yield (
            f"{network}, sampler",
            lambda m=make, x=x, o=sampler_options: arrays_of(mcd.mc_sampler(m(), x[:2], 8, **o)(x[:3])),
        )
        yield (
            f"{network}, stream",
            lambda m=make, x=x, o=network_options: arrays_of(
                mcd.mc_predict(m(), iter(torch.from_numpy(x).split(5)), 8, seed=3, **QUIET, **o)
            ),
        )
        yield (
            f"{network}, point",
            lambda m=make, x=x, o=network_options: {"point": mcd.mc_predict_point(m(), x, **QUIET, **o)},
        )
        yield f"{network}, sites", lambda m=make, x=x: arrays_of(mcd.mc_sites(m(), x))
    for network in ("mlp classes", "mlp values", "cnn", "convolutions", "bayes mlp"):
        yield f"{network}, trained", lambda n=network: trained(n)
    for options in ("shared", "per input"):
        yield (
            f"keras, {options}",
            lambda o=options: arrays_of(mcd.mc_predict(keras_network(), IMAGES, 8, seed=3, **QUIET, **OPTIONS[o])),
        )
    yield from evaluations()


def computed(case: Case) -> dict[str, np.ndarray]:
    """The arrays of a case, computed by one thread."""
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arrays = {name: np.asarray(value) for name, value in case().items() if value is not None}
    return {name: array.astype(str) if array.dtype.kind == "O" else array for name, array in arrays.items()}


TIMED = ("seconds",)  # these differ between runs


def all_arrays() -> dict[str, np.ndarray]:
    """All arrays of all cases."""
    arrays = {}
    for name, case in cases():
        arrays |= {f"{name}: {part}": array for part, array in computed(case).items() if part not in TIMED}
    return arrays


def differences(before: dict[str, np.ndarray], now: dict[str, np.ndarray], tolerance: float) -> list[str]:
    """The arrays that differ, each with a description."""
    lines = [f"{name}: is missing" for name in before.keys() - now.keys()]
    lines += [f"{name}: is new" for name in now.keys() - before.keys()]
    for name in sorted(before.keys() & now.keys()):
        old, new = before[name], now[name]
        if old.dtype != new.dtype or old.shape != new.shape:
            lines.append(f"{name}: was {old.dtype} {old.shape}, is {new.dtype} {new.shape}")
        elif old.tobytes() != new.tobytes():
            if old.dtype.kind != "f" or (np.isnan(old) != np.isnan(new)).any():
                lines.append(f"{name}: differs")
                continue
            difference = float(np.nanmax(np.abs(old - new) / max(1.0, float(np.nanmax(np.abs(old))))))
            if difference > tolerance:
                lines.append(f"{name}: differs by up to {difference:.2g}")
    return lines


def rounded(array: np.ndarray) -> list[Any]:
    """Four numbers of an array that all machines can compare: its mean, spread, first and last."""
    if array.dtype.kind not in "fiub":
        return [str(value)[:60] for value in array.reshape(-1)[:3].tolist()]
    flat = array.reshape(-1).astype(np.float64)
    flat = flat[np.isfinite(flat)]
    return [float(f"{number:.6g}") for number in (flat.mean(), flat.std(), flat[0], flat[-1])] if len(flat) else []


BRIEF = ("mean", "samples", "mutual_information", "lower", "point", "engine", "rate", "numbers")


def brief() -> dict[str, dict[str, list[Any]]]:
    """The cases in `golden.json`."""
    numbers: dict[str, dict[str, list[Any]]] = {}
    for name, case in cases():
        if "float16" in name or name.startswith(
            "keras"
        ):  # 16-bit rounding differs between machines; Keras needs its own process
            continue
        parts = computed(case)
        chosen = [part for part in BRIEF if part in parts] or [part for part in parts if parts[part].dtype.kind == "f"]
        numbers[name] = {part: rounded(parts[part]) for part in chosen[:4] if part not in TIMED}
    return numbers


SAVED: dict[str, Callable[[], Any]] = {
    "mlp": lambda: NETWORKS["mlp classes"][0](),
    "values": lambda: NETWORKS["mlp values"][0](),
    "cnn": lambda: NETWORKS["cnn"][0](),
    "bayes": lambda: NETWORKS["bayes mlp"][0](),
    "prediction": lambda: sampled("mlp classes"),
    "policy": lambda: mcd.mc_triage(*_labelled(), max_error=0.25),
    "calibration": lambda: mcd.mc_calibrate(*_labelled()),
    "conformal": lambda: mcd.mc_conformal(*_labelled()),
    "monitor": lambda: mcd.mc_monitor(_labelled()[0]),
}


def _labelled() -> tuple[mcd.MCPrediction, np.ndarray]:
    rng = np.random.default_rng(1)
    x = rng.normal(3, 2, (200, 5)).astype(np.float32)
    prediction = mcd.mc_predict(NETWORKS["mlp classes"][0](), x, 8, seed=5, **QUIET)
    return prediction, _some_wrong(prediction, rng, 0.1)


def _some_wrong(prediction: mcd.MCPrediction, rng: np.random.Generator, share: float) -> np.ndarray:
    """The predicted labels, of which about this share is replaced by random ones."""
    assert prediction.predicted is not None
    replaced = rng.random(len(prediction)) < share
    return np.where(replaced, rng.choice(LABELS, len(prediction)), prediction.predicted)


def opened(path: Path) -> dict[str, np.ndarray]:
    """The numbers of a saved object; for a network, those of its prediction."""
    thing = mcd.mc_load(path)
    if isinstance(thing, nn.Module):
        return arrays_of(mcd.mc_predict(thing, IMAGES if path.stem == "cnn" else TABLE, 8, seed=3, **QUIET))
    return arrays_of(thing)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=("write", "compare", "saved"))
    parser.add_argument("path", nargs="?", default=str(Path(tempfile.gettempdir()) / "golden.npz"))
    parser.add_argument("--tolerance", type=float, default=0.0)
    options = parser.parse_args()
    if options.task == "saved":
        torch.set_num_threads(1)
        for name, make in SAVED.items():
            mcd.mc_save(make(), HERE / "saved" / name)
        files = {name: {k: rounded(v) for k, v in opened(HERE / "saved" / name).items()} for name in SAVED}
        saved = {name: {k: v for k, v in parts.items() if k in BRIEF} for name, parts in files.items()}
        text = json.dumps({"cases": brief(), "saved": saved}, indent=0)
        (HERE / "golden.json").write_text(text + "\n", encoding="utf-8")
        return 0
    if options.task == "write":
        np.savez_compressed(options.path, **all_arrays())  # type: ignore[arg-type]
        return 0
    with np.load(options.path) as before:
        lines = differences(dict(before), all_arrays(), options.tolerance)
    print("\n".join(lines) or "Every number is the same.")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main())
