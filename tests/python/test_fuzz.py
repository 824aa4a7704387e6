"""Values that do not fit, in every argument of every public function: a result, or one sentence of ours."""

from __future__ import annotations

import inspect
import os
import random
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mcdropout as mcd

PACKAGE = str(Path(mcd.__file__).parent)

N, FEATURES, LABELS = 24, 3, ["no", "yes"]

X = np.random.default_rng(0).normal(size=(N, FEATURES)).astype(np.float32)

Y = np.tile(LABELS, N // 2)

FUNCTIONS = [
    name
    for name in mcd.__all__
    if inspect.isfunction(getattr(mcd, name)) and name != "mc_sample_data"  # no arguments
]


class Fault(Exception):
    """What the hostile objects below raise."""


class Hostile:
    """An object whose methods fail."""

    def fail(self, *_: object) -> Any:
        raise Fault("a fault of the object")

    __repr__ = __str__ = __len__ = __iter__ = __bool__ = __float__ = __index__ = __eq__ = __getitem__ = fail  # type: ignore[assignment]  # hostile

    __hash__ = None  # type: ignore[assignment]  # hostile


class WithoutText:
    """An object that cannot be shown."""

    def __repr__(self) -> str:
        raise Fault("no text")


class WithoutNumbers:
    """An object that NumPy cannot take."""

    def __array__(self, *_: object, **__: object) -> Any:
        raise Fault("no numbers")


class OfTwoLines:
    """An object that is shown in two lines."""

    def __repr__(self) -> str:
        return "one\ntwo\ud800"


def nested(depth: int) -> list[Any]:
    return [] if depth == 0 else [nested(depth - 1)]


VALUES: dict[str, Callable[[], Any]] = {
    "None": lambda: None, "True": lambda: True, "0": lambda: 0, "-1": lambda: -1, "1.5": lambda: 1.5,
    "10**400": lambda: 10**400, "2**63": lambda: 2**63, "nan": lambda: float("nan"), "inf": lambda: float("inf"),
    "1 - 1e-16": lambda: 1 - 1e-16, "1e-320": lambda: 1e-320, "1j": lambda: 1j, "empty text": lambda: "",
    "text": lambda: "text", "lines": lambda: "a\nb", "surrogate": lambda: "a\ud800", "NUL": lambda: "a\0b",
    "long text": lambda: "a" * 5000, "bytes": lambda: b"\xff\xfe", "empty list": list, "empty dict": dict,
    "set": lambda: {"a", "b"}, "dict": lambda: {"a": 1, 2: "b"}, "nested": lambda: nested(60),
    "mixed list": lambda: [1, "a", None, 2.5], "list of lists": lambda: [[1, 2], [3]], "range": lambda: range(3),
    "generator": lambda: (value for value in (1, 2)), "function": lambda: len, "lambda": lambda: lambda *_, **__: None,
    "class": lambda: dict, "module": lambda: np, "exception": lambda: ValueError("a"), "object": object,
    "hostile": Hostile, "without text": WithoutText, "of two lines": OfTwoLines,
    "without numbers": WithoutNumbers, "2-d objects": lambda: np.array([[None, "a"], [1j, {}]], dtype=object),
    "0-d array": lambda: np.array(1.0), "empty array": lambda: np.zeros((0, FEATURES)),
    "array": lambda: np.arange(6.0).reshape(2, 3), "long array": lambda: np.arange(2000),
    "strings": lambda: np.array(["a", "b\nc"]),
    "object array": lambda: np.array([None, "a", 1j], dtype=object), "complex array": lambda: np.ones(N, complex),
    "NaN array": lambda: np.full((N, FEATURES), np.nan), "5-d array": lambda: np.ones((1, 2, 1, 2, 1)),
    "dates": lambda: np.array(["2020-01-01"] * N, "datetime64[D]"), "records": lambda: np.zeros(N, [("a", int)]),
    "masked": lambda: np.ma.masked_array([1.0, 2.0], [True, False]), "matrix": lambda: np.ones((N, FEATURES + 1)),
    "huge values": lambda: np.full((N, FEATURES), 1e300), "scipy sparse": lambda: scipy.sparse.eye(3).tocsr(),
    "tensor": lambda: torch.ones(2, 3), "0-d tensor": lambda: torch.tensor(2.0),
    "sparse tensor": lambda: torch.eye(3).to_sparse(), "meta tensor": lambda: torch.empty(N, FEATURES, device="meta"),
    "nested tensor": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "quantized tensor": lambda: torch.quantize_per_tensor(torch.ones(N, FEATURES), 0.1, 0, torch.quint8),
    "frame": lambda: pd.DataFrame({"a": [1, 2], "b": ["x", None]}), "empty frame": pd.DataFrame,
    "frame of one name": lambda: pd.DataFrame(np.ones((N, 3)), columns=pd.Index(["a", "a", "b"])),
    "series": lambda: pd.Series([1.0, None]), "categories": lambda: pd.Categorical(["a", None]), "NA": lambda: pd.NA,
    "date": lambda: pd.Timestamp("2020-01-01"), "folder": lambda: Path(os.curdir), "device file": lambda: os.devnull,
    "missing": lambda: Path("no-such-folder") / "file", "layer": lambda: torch.nn.Linear(2, 2),
    "dtype": lambda: torch.float32,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def in_a_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The tests run in an empty folder, because some values are names of files."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("work"))
    yield
    os.chdir(before)


class Calls(dict[str, dict[str, Any]]):
    """Arguments of calls, by the name of the function; hypothesis would show them whole."""

    def __repr__(self) -> str:
        return "calls"


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Calls:
    """The arguments of a call that works, for each public function."""
    warnings.simplefilter("ignore")  # for example about a calibration that so few inputs do not determine
    folder = tmp_path_factory.mktemp("fuzz")
    network = mcd.mc_fit(mcd.mc_mlp(FEATURES, LABELS, hidden=4, seed=1), X, Y, epochs=1, progress=False)
    bayesian = mcd.mc_bayes_mlp(FEATURES, LABELS, hidden=4, seed=1)
    values = mcd.mc_predict(mcd.mc_mlp(1, task="regression", hidden=4), X[:, :1], 5, seed=1, progress=False)
    prediction = mcd.mc_predict(network, X, 5, seed=1, progress=False)
    monitor = mcd.mc_monitor(prediction).update(prediction)
    convergence = mcd.mc_convergence(network, X, (2, 4), seed=1, progress=False)
    policy, scores = mcd.mc_triage(prediction, Y, budget=0.1), mcd.mc_scores(prediction, Y)
    mcd.mc_save(prediction, folder / "saved")
    images = folder / "images" / "cat"
    images.mkdir(parents=True)
    mcd.mc_plot_draws(prediction, path=images / "a.png")
    (folder / "file.idx").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 5, 6]))
    pictures, picture = np.zeros((N, 4, 4, 1)), folder / "picture.png"
    run = {"model": network, "x": X, "n_samples": 3, "progress": False}
    cnn: dict[str, Any] = {"input_shape": (4, 4, 1), "labels": LABELS}
    cases = {
        "mc_acquire": {"prediction": prediction, "n": 2},
        "mc_apply": {"learnt": mcd.mc_calibrate(prediction, Y), "prediction": prediction},
        "mc_balance_table": {"y": Y},
        "mc_band_table": {"prediction": values, "x": X[:, 0]},
        "mc_bayes_cnn": {**cnn, "filters": 2, "hidden": 2},
        "mc_bayes_mlp": {"n_features": FEATURES, "labels": LABELS, "hidden": 2},
        "mc_bayes_resnet": {**cnn, "filters": 2},
        "mc_calibrate": {"prediction": prediction, "y": Y},
        "mc_cnn": {**cnn, "filters": 2, "hidden": 2, "dropout": 0.1},
        "mc_compare_rates": {**run, "y": Y, "rates": (0.1, 0.2)},
        "mc_conformal": {"prediction": prediction, "y": Y, "level": 0.8},
        "mc_convergence": {**run, "n_samples": (2, 4)},
        "mc_decide": {"policy": policy, "prediction": prediction},
        "mc_draws_table": {"prediction": prediction},
        "mc_fit": {"model": network, "x": X, "y": Y, "epochs": 1, "progress": False},
        "mc_frozen_backbone": {
            "backbone": torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.ReLU()),
            "head": lambda shape: mcd.mc_mlp(shape[0], LABELS), "input_shape": (1, 4, 4), "pooling": "mean",
        },
        "mc_load": {"path": folder / "saved"},
        "mc_mlp": {"n_features": FEATURES, "labels": LABELS, "hidden": 2},
        "mc_monitor": {"reference": prediction},
        "mc_ood_scores": {"prediction_in": prediction, "prediction_out": prediction},
        "mc_plot_balance": {"y": Y, "path": picture},
        "mc_plot_band": {"prediction": values, "x": X[:, 0], "path": picture},
        "mc_plot_convergence": {"convergence": convergence, "path": picture},
        "mc_plot_draws": {"prediction": prediction, "inputs": [0], "path": picture},
        "mc_plot_drift": {"monitor": monitor, "path": picture},
        "mc_plot_history": {"model": network, "path": picture},
        "mc_plot_images": {"images": pictures, "inputs": [0], "path": picture},
        "mc_plot_posterior": {"model": bayesian, "path": picture},
        "mc_plot_probabilities": {"prediction": prediction, "inputs": [0], "path": picture},
        "mc_plot_reliability": {"scores": scores, "path": picture},
        "mc_plot_risk_coverage": {"scores": scores, "path": picture},
        "mc_plot_uncertainty": {"prediction": prediction, "path": picture},
        "mc_posterior_custom": {"make": lambda loc, scale: torch.distributions.Normal(loc, scale)},
        "mc_posterior_multivariate_normal": {},
        "mc_posterior_normal": {},
        "mc_posterior_parameters": {"posterior": mcd.mc_posterior_normal(), "n_weights": 3},
        "mc_posterior_table": {"model": bayesian},
        "mc_predict": run,
        "mc_predict_point": {"model": network, "x": X, "progress": False},
        "mc_prior_cauchy": {},
        "mc_prior_custom": {"distribution": torch.distributions.Normal(0.0, 1.0)},
        "mc_prior_horseshoe": {},
        "mc_prior_laplace": {},
        "mc_prior_mixture": {},
        "mc_prior_normal": {},
        "mc_prior_student_t": {},
        "mc_probabilities_table": {"prediction": prediction},
        "mc_read_idx": {"path": folder / "file.idx"},
        "mc_read_images": {"path": images.parent, "size": 8},
        "mc_report": {"prediction": prediction, "path": folder / "report.html", "n_shown": 2},
        "mc_sampler": {"model": network, "example": X, "n_samples": 3},
        "mc_save": {"object": prediction, "path": folder / "again"},
        "mc_scores": {"prediction": prediction, "y": Y},
        "mc_sites": {"model": network, "x": X},
        "mc_to_bayesian": {"model": network},
        "mc_train_on_batch": {"model": network, "x": X, "y": Y},
        "mc_triage": {"prediction": prediction, "y": Y, "budget": 0.1},
        "mc_uncertainty_table": {"prediction": prediction},
        "mc_weights_table": {"model": bayesian},
    }  # fmt: skip
    return Calls(cases)


def parameters_of(name: str) -> list[str]:
    return list(inspect.signature(getattr(mcd, name)).parameters)


def state_of_process() -> list[Any]:
    """What no call may change."""
    numpy_state: Any = np.random.get_state()
    return [
        *(numpy_state[1].tolist(), numpy_state[2:], torch.get_rng_state().tolist(), random.getstate()),
        *(torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()),
        *(list(warnings.filters), Path.cwd()),
    ]


def fault_of(name: str, arguments: dict[str, Any]) -> str | None:
    """What is wrong with the answer of a call; None if nothing is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = state_of_process()
        try:
            getattr(mcd, name)(**arguments)
        except Fault:
            fault = None  # a fault of the caller's object reaches the caller
        except Exception as error:
            fault = fault_of_error(error, [*parameters_of(name), "x"])  # `example` of `mc_sampler()` is checked as `x`
        else:
            fault = None
        if state_of_process() != before:
            return "the state of the process has changed"
    return fault


def fault_of_error(error: Exception, parameters: list[str]) -> str | None:
    """What is wrong with an error; None if it is one sentence of ours."""
    message = str(error)
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"
    text = f"{type(error).__name__} at {where}: {message[:200]!a}"
    if not frames[-1].filename.startswith(PACKAGE + os.sep):
        return f"an error of another library, {text}"
    if not isinstance(error, ValueError | TypeError | OSError | MemoryError | ImportError | FloatingPointError):
        return f"an error of another class, {text}"
    if not message.isprintable() or len(message) > 600:
        return f"no sentence, {text}"
    names_one = any(f"`{parameter}" in message for parameter in parameters)  # or one that it does not agree with
    if not names_one and not message.startswith("A label must "):
        return f"no name of an argument, {text}"
    return None


FUNCTION_VALUES = {"function", "lambda", "class", "layer"}

CALLED = {
    *("model", "head", "make", "backbone", "prepare", "select", "augment", "callbacks", "progress", "optimizer"),
    *("kl_weight", "distribution"),
}  # arguments that may be functions; those above fail when they are called


def fault_with(calls: Calls, name: str, parameter: str, label: str) -> list[str]:
    """What is wrong with the answer to a value in one argument."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some kinds of tensors will leave torch
        value = VALUES[label]()
    fault = fault_of(name, {**calls[name], parameter: value})
    if fault is None or (label in FUNCTION_VALUES and parameter in CALLED and fault.startswith(("an error", "no "))):
        return []
    return [f"{name}({parameter}={label}): {fault}"]


def test_every_public_function_is_tried(calls: Calls) -> None:
    assert sorted(calls) == sorted(FUNCTIONS)
    assert {name: fault for name in calls if (fault := fault_of(name, calls[name])) is not None} == {}


ARGUMENTS = [(name, parameter) for name in FUNCTIONS for parameter in parameters_of(name)]


QUICK = settings(deadline=None, database=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@settings(QUICK, max_examples=600)
@given(st.sampled_from(ARGUMENTS), st.sampled_from(list(VALUES)))
def test_values_that_do_not_fit(calls: Calls, argument: tuple[str, str], label: str) -> None:
    assert fault_with(calls, *argument, label) == []


@settings(QUICK, max_examples=300)
@given(
    st.sampled_from(ARGUMENTS),
    st.floats() | st.text() | st.integers(-9, 9) | st.integers(2**62, 2**70) | st.lists(st.floats() | st.text()),
)
def test_generated_values(calls: Calls, argument: tuple[str, str], value: object) -> None:
    name, parameter = argument
    assert fault_of(name, {**calls[name], parameter: value}) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_value_in_every_argument(calls: Calls, name: str) -> None:
    faults = [
        fault
        for parameter in parameters_of(name)
        for label in VALUES
        for fault in fault_with(calls, name, parameter, label)
    ]
    assert faults == []
