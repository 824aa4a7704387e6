"""Every public function on a device: it gives the host's numbers and does not wait for the device at every batch.

`compute/test_on_devices.py` runs this file with pytest in a separate process, because a backend cannot be unregistered.
The environment variable TEST_DEVICE names the device: "pretend", or "cuda" on a machine with a GPU.
"""

from __future__ import annotations

import copy
import inspect
import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from device_models import CODES, LABELS, MAPS, MODELS, NAMES, TABLE, VALUES, N, values
from torch import nn

import mcdropout as mcd

DRAWS = 6
QUIET: dict[str, Any] = {"progress": False}
DEVICE = os.environ["TEST_DEVICE"]
DEVICES = (DEVICE, "cpu")
if DEVICE == "pretend":
    from pretend_device import CROSSINGS, HERE
else:
    pytestmark = pytest.mark.gpu
    CROSSINGS, HERE = Counter(), torch.device(DEVICE, 0)
    torch.backends.cudnn.allow_tf32 = False  # float32 arithmetic, as on the host


@pytest.fixture(params=MODELS)
def case(request) -> tuple[Any, Any, dict[str, Any]]:
    """A network, its inputs, and the options that its predictions need."""
    make, x, outputs = MODELS[request.param]
    return with_scales(make()), x, {} if outputs is None else {"outputs": outputs}


def on_device_and_host(call: Callable[[str], Any]) -> tuple[Any, Any]:
    """The result of a call on the device, and on the host."""
    return call(DEVICE), call("cpu")


def with_scales(model):
    """The network with the units of TABLE, as after training."""
    if isinstance(model, mcd.MCNetwork):
        model.set_scales((TABLE.mean(axis=0), TABLE.std(axis=0)), VALUES[:, : model.n_outputs])
    return model.eval()


def assert_close(actual: Any, expected: Any, rtol: float = 1e-6, atol: float = 1e-6) -> None:
    """Equal up to rounding: devices may differ in chunks and engines, and therefore in the order of sums."""
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol)


def assert_same_predictions(actual: mcd.MCPrediction, expected: mcd.MCPrediction) -> None:
    for name in ("mean", "variance", "samples", "mutual_information", "pred_lower", "n_samples"):
        if getattr(expected, name) is not None:
            scale = 1.0
            if expected.samples is not None and name != "n_samples":
                scale = max(float(np.nanstd(expected.samples)), 1.0)
            assert_close(getattr(actual, name), getattr(expected, name), atol=1e-5 * scale)


def assert_same_tables(tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    pd.testing.assert_frame_equal(tables[0], tables[1], rtol=1e-4, atol=1e-5)


# ---- prediction ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masks", ["shared", "per_input"])
def test_predictions(case, masks):
    model, x, options = case
    on_device, on_host = on_device_and_host(
        lambda device: mcd.mc_predict(model, x, DRAWS, 4, masks=masks, device=device, seed=3, **options, **QUIET)
    )
    assert (on_device.device, on_host.device) == (DEVICE, "cpu")
    assert_same_predictions(on_device, on_host)
    assert {weights.device.type for weights in model.parameters()} == {"cpu"}


def test_point_predictions_and_sites(case):
    model, x, options = case
    points = on_device_and_host(lambda device: mcd.mc_predict_point(model, x, 4, device=device, **options, **QUIET))
    assert_close(*points)
    table = mcd.mc_sites(model, x)
    pd.testing.assert_frame_equal(mcd.mc_sites(copy.deepcopy(model).to(HERE), x), table)


def test_a_network_whose_weights_are_on_the_device(case):
    model, x, options = case
    device_model = copy.deepcopy(model).to(HERE)
    on_device = mcd.mc_predict(device_model, x, DRAWS, device=DEVICE, seed=3, **options, **QUIET)
    assert_same_predictions(on_device, mcd.mc_predict(model, x, DRAWS, device="cpu", seed=3, **options, **QUIET))
    on_host = mcd.mc_predict(device_model, x, DRAWS, device="cpu", seed=3, **options, **QUIET)
    assert_same_predictions(on_host, on_device)
    assert {weights.device for weights in device_model.parameters()} == {HERE}


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["table", "values", "foreign", "transformer"])
def test_lower_precision(name, precision):
    make, x, outputs = MODELS[name]
    options = {"outputs": outputs, "precision": precision, "seed": 3, **QUIET}
    on_device, on_host = on_device_and_host(
        lambda device: mcd.mc_predict(with_scales(make()), x, DRAWS, device=device, **options)
    )
    # bfloat16 keeps 8 bits
    assert_close(on_device.mean, on_host.mean, rtol=0, atol=0.02 * np.abs(on_host.mean).max())


@pytest.mark.parametrize("name", ["table", "values", "foreign", "Bayesian"])
@pytest.mark.parametrize("option", [{"tolerance": 0.05}, {"keep_samples": False}])
def test_tolerance_and_no_draws_kept(name, option):
    make, x, outputs = MODELS[name]
    options = {"outputs": outputs, "seed": 3, **option, **QUIET}
    predictions = on_device_and_host(
        lambda device: mcd.mc_predict(with_scales(make()), x, 40, 5, device=device, **options)
    )
    assert_same_predictions(*predictions)


@pytest.mark.parametrize("name", ["table", "values", "images", "foreign", "transformer"])
def test_several_devices(name):
    make, x, outputs = MODELS[name]
    options = {"outputs": outputs, "seed": 3, **QUIET}
    on_host = mcd.mc_predict(with_scales(make()), x, DRAWS, 2, device="cpu", **options)
    for devices in ([DEVICE, "cpu"], ["cpu", DEVICE], [DEVICE, DEVICE]):
        on_devices = mcd.mc_predict(with_scales(make()), x, DRAWS, 2, device=devices, **options)
        assert_same_predictions(on_devices, on_host)


def test_streams():
    model = values()
    of_the_array = mcd.mc_predict(model, TABLE, DRAWS, device="cpu", seed=3, **QUIET)
    batches = torch.from_numpy(TABLE).split(4)
    of_the_stream = mcd.mc_predict(model, iter(batches), DRAWS, device=DEVICE, seed=3, **QUIET)
    assert_same_predictions(of_the_stream, of_the_array)


@pytest.mark.parametrize("name", ["table", "values", "images", "Bayesian", "foreign", "transformer"])
def test_samplers(name):
    make, x, outputs = MODELS[name]
    on_device, on_host = on_device_and_host(
        lambda device: mcd.mc_sampler(with_scales(make()), x, DRAWS, outputs=outputs, device=device, seed=3)(x)
    )
    assert_same_predictions(on_device, on_host)


@pytest.mark.parametrize("name", ["table", "values", "foreign"])
def test_convergence(name):
    make, x, outputs = MODELS[name]
    on_device, on_host = on_device_and_host(
        lambda device: mcd.mc_convergence(
            with_scales(make()), x, (4, DRAWS), outputs=outputs, tolerance=0.1, device=device, seed=3, **QUIET
        )
    )
    for table in ("table", "needed"):
        assert_same_tables((getattr(on_device, table), getattr(on_host, table)))


@pytest.mark.parametrize("name", ["table", "values", "foreign"])
def test_compared_rates(name):
    make, x, outputs = MODELS[name]
    y = VALUES if name == "values" else CODES if name == "foreign" else NAMES
    tables = on_device_and_host(
        lambda device: mcd.mc_compare_rates(
            with_scales(make()), x, y, (0.2, 0.5), DRAWS, outputs=outputs, device=device, seed=3, **QUIET
        )
    )
    assert_same_tables(tables)


# ---- training ------------------------------------------------------------------------------------------------------


def fitted(model, x, y, **options: Any) -> Any:
    settings: dict[str, Any] = {"epochs": 3, "batch_size": 4, "seed": 1} | options
    return mcd.mc_fit(model, x, y, **settings, **QUIET)


def assert_same_networks(actual, expected):
    """Equal histories, except for the seconds, and equal weights, which are on the host."""
    assert actual.history.columns.tolist() == expected.history.columns.tolist()
    histories = (network.history.drop(columns="seconds") for network in (actual, expected))
    assert_close(*histories, rtol=1e-4, atol=1e-5)
    for name, weights in expected.state_dict().items():
        assert actual.state_dict()[name].device.type == "cpu"
        assert_close(actual.state_dict()[name].numpy(), weights.numpy(), rtol=1e-4, atol=1e-5)


def labels_or_values_for(model):
    if model.task == "regression":
        return VALUES[:, : model.n_outputs]
    return np.array(model.labels)[CODES % len(model.labels)]


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("transformer", "recurrent")])
def test_training(name):
    make, x, _ = MODELS[name]
    y = labels_or_values_for(make())
    assert_same_networks(*on_device_and_host(lambda device: fitted(make(), x, y, device=device)))


SPLIT: dict[str, Any] = {"validation_split": 0.4}
TRAINING_OPTIONS: dict[str, dict[str, Any]] = {
    "class_weight": {"class_weight": "balanced"},
    "augment": {"augment": lambda x, generator: x + torch.rand(x.shape, generator=generator).to(x.device)},
    "validation_split": {**SPLIT, "early_stopping": 1, "reduce_lr": 1, "monitor": "val_loss"},
    "validation_data": {"validation_data": (TABLE[:5], NAMES[:5]), "early_stopping": 2},
    "optimizer": {"optimizer": "sgd", "weight_decay": 0.1},
    "optimizer function": {"optimizer": lambda parameters: torch.optim.Adagrad(parameters, lr=0.01)},
    "callback": {"callbacks": lambda row: row["epoch"] == 2},
}


@pytest.mark.parametrize("name", TRAINING_OPTIONS)
def test_options_of_training(name):
    make, options = MODELS["table"][0], TRAINING_OPTIONS[name]
    assert_same_networks(*on_device_and_host(lambda device: fitted(make(), TABLE, NAMES, device=device, **options)))


@pytest.mark.parametrize("name", ["values", "values, predicted noise", "images, values", "converted to Bayesian"])
def test_regression_with_validation_and_augmentation(name):
    make, x, _ = MODELS[name]
    y = labels_or_values_for(make())
    split_and_augment = {**TRAINING_OPTIONS["validation_split"], **TRAINING_OPTIONS["augment"]}
    for options in (split_and_augment, {"validation_data": (x[:3], y[:3])}):
        networks = on_device_and_host(lambda device, options=options: fitted(make(), x, y, device=device, **options))
        assert_same_networks(*networks)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_training_in_lower_precision(precision):
    on_device, on_host = on_device_and_host(
        lambda device: fitted(values(), TABLE, VALUES, precision=precision, device=device).history["loss"].iloc[-1]
    )
    assert on_device == pytest.approx(on_host, rel=0.05)  # bfloat16 keeps 8 bits


@pytest.mark.parametrize("name", ["table", "values", "Bayesian", "foreign"])
def test_training_continues_from_a_checkpoint(name, tmp_path):
    make, x, _ = MODELS[name]
    y, path = labels_or_values_for(make()), tmp_path / "run"
    without_a_break = fitted(make(), x, y, device=DEVICE, epochs=4)
    fitted(make(), x, y, device=DEVICE, epochs=2, checkpoint=path)
    continued = fitted(make(), x, y, device=DEVICE, epochs=4, checkpoint=path)
    assert_same_networks(continued, without_a_break)


@pytest.mark.parametrize("name", ["table", "binary", "values", "values, no noise", "images", "Bayesian", "foreign"])
def test_steps_on_batches(name):
    make, x, _ = MODELS[name]
    y = labels_or_values_for(make())
    options: dict[str, Any] = {"kl_weight": 0.1} if name == "Bayesian" else {}
    steps = []
    for device in DEVICES:
        model = make().to(device)
        steps.append(pd.DataFrame([mcd.mc_train_on_batch(model, x, y, **options) for _ in range(3)]))
        assert {weights.device.type for weights in model.parameters()} == {device}
    assert_close(steps[0], steps[1], rtol=1e-4)


def test_a_network_that_diverges_keeps_its_last_finite_weights():
    model = MODELS["table"][0]()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(FloatingPointError, match="in epoch 1"):
        fitted(model, TABLE, NAMES, device=DEVICE, augment=lambda x, generator: x * np.nan)
    assert all(torch.equal(weights, before[name]) for name, weights in model.state_dict().items())


# ---- frozen backbones, files, tables -------------------------------------------------------------------------------


def frozen_network(head):
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return mcd.mc_frozen_backbone(backbone, head, input_shape=(2, 9, 8))


HEADS = {"classes": lambda: mcd.mc_mlp(4, LABELS, dropout=0.3), "values": lambda: mcd.mc_mlp(4, task="regression")}


@pytest.mark.parametrize("kind", HEADS)
def test_frozen_backbones(kind):
    y = NAMES if kind == "classes" else VALUES[:, :1]

    def results(device):
        network = frozen_network(HEADS[kind]())
        features = network.features(MAPS, device=device)
        fitted(network, MAPS, y, device=device, validation_data=(MAPS[:3], y[:3]))
        options: dict[str, Any] = {"device": device, "seed": 3}
        stream = iter(torch.from_numpy(MAPS).split(4))
        means = {
            "predict": mcd.mc_predict(network, MAPS, DRAWS, **options, **QUIET).mean,
            "sampler": mcd.mc_sampler(network, MAPS, DRAWS, **options)(MAPS).mean,
            "point": mcd.mc_predict_point(network, MAPS, device=device, **QUIET),
            "stream": mcd.mc_predict(network, stream, DRAWS, **options, **QUIET).mean,
        }
        return features, network.head, means

    (features, head, means), (host_features, host_head, host_means) = on_device_and_host(results)
    assert_close(features, host_features)
    assert_same_networks(head, host_head)
    for name, mean in means.items():
        assert_close(mean, host_means[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["table", "values", "images", "Bayesian", "residual", "converted to Bayesian"])
def test_a_network_on_the_device_is_saved_loaded_and_listed_in_tables(name, tmp_path):
    make, x, _ = MODELS[name]
    model = fitted(make(), x, labels_or_values_for(make()), device=DEVICE)
    mcd.mc_save(model, tmp_path / "host")
    mcd.mc_save(copy.deepcopy(model).to(HERE), tmp_path / "device")
    assert_same_networks(mcd.mc_load(tmp_path / "device"), mcd.mc_load(tmp_path / "host"))
    if name in ("Bayesian", "residual", "converted to Bayesian"):
        device_model = copy.deepcopy(model).to(HERE)
        for table in (mcd.mc_posterior_table, mcd.mc_weights_table):
            pd.testing.assert_frame_equal(table(device_model), table(model))
    if name == "table":
        converted = mcd.mc_to_bayesian(make().to(HERE))
        assert {weights.device for weights in converted.parameters()} == {HERE}


def test_every_function_with_an_argument_device_is_tested_here():
    public = {name: getattr(mcd, name) for name in dir(mcd) if name.startswith("mc_")}
    with_a_device = {name for name, function in public.items() if "device" in inspect.signature(function).parameters}
    assert with_a_device == {
        *("mc_predict", "mc_predict_point", "mc_sampler", "mc_convergence", "mc_compare_rates", "mc_fit")
    }


# ---- no wait for the device at every batch -------------------------------------------------------------------------


def crossings(call: Callable[[], object]) -> dict[str, int]:
    CROSSINGS.clear()
    call()
    return dict(CROSSINGS)


BAYESIAN = ["Bayesian", "Bayesian, full", "Bayesian, flipout", "Bayesian, local"]
TRAININGS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in ("table", "binary", "values", "images", "foreign", *BAYESIAN)),
    *((name, SPLIT) for name in ("table", "values", "Bayesian")),
    ("table", {"class_weight": "balanced"}),
]


@pytest.mark.skipif(DEVICE != "pretend", reason="only the pretend device counts its crossings")
@pytest.mark.parametrize(("name", "options"), TRAININGS)
def test_the_number_of_crossings_does_not_depend_on_the_number_of_steps(name, options):
    make, x, _ = MODELS[name]
    y = labels_or_values_for(make())

    def crossings_of_training(batch_size, epochs):
        return crossings(lambda: fitted(make(), x, y, device=DEVICE, batch_size=batch_size, epochs=epochs, **options))

    one_step, many_steps = crossings_of_training(N, epochs=2), crossings_of_training(1, epochs=2)
    assert one_step == many_steps
    one_more_epoch = crossings_of_training(1, epochs=3)
    assert one_more_epoch["asked"] - many_steps["asked"] <= 1  # the check that all weights are finite
