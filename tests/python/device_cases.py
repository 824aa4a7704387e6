"""What every public function does on a device: the host's numbers, and no wait for every batch.

`compute/test_on_devices.py` runs this file with pytest in a process of its own, since a backend is there for good. The
environment variable TEST_DEVICE names the device: "pretend", or "cuda" where there is one.
"""

import copy
import inspect
import os
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mcdropout as mcd

N, FEATURES, LABELS, DRAWS = 11, 3, ("a", "b", "c", "d"), 6
RNG = np.random.default_rng(0)
TABLE = RNG.normal(2e6, 3, (N, FEATURES))  # so far off that float32 would take two digits of the spread
IMAGES = RNG.random((N, 9, 8, 2))
MAPS = RNG.standard_normal((N, 2, 9, 8)).astype(np.float32)
CODES = np.arange(N) % len(LABELS)
NAMES = np.array(LABELS)[CODES]
VALUES = np.stack([TABLE.sum(axis=1), TABLE[:, 0] * 2 + 1e7], axis=1)
QUIET: dict[str, Any] = {"progress": False}
DEVICE = os.environ["TEST_DEVICE"]
BOTH = (DEVICE, "cpu")
if DEVICE == "pretend":
    from pretend_device import CROSSINGS, HERE
else:  # as exactly as on the host
    pytestmark = pytest.mark.gpu
    CROSSINGS, HERE = {}, torch.device(DEVICE, 0)
    torch.backends.cudnn.allow_tf32 = False
# A GPU drops other units in training than the host does with the same seed, so there two trainings are compared.
TRAINED_ON = BOTH if DEVICE == "pretend" else (DEVICE, DEVICE)


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.last = nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.Linear(5 * 9, 4)
        self.drop, self.channels = nn.Dropout(0.25), nn.Dropout2d(0.3)
        self.task, self.labels, self.outputs = "classification", LABELS, "logits"

    def forward(self, x):
        h = F.max_pool2d(self.drop(F.relu(self.norm(self.conv(x)))), 2)
        return self.last((h + self.channels(h)).flatten(1))


class Transformer(nn.Module):
    """Words and a mask, attention, dropout of several kinds."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words, self.last = nn.Embedding(13, 8), nn.Linear(8, 4)
        self.layers = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 12, 0.2, batch_first=True), 2, enable_nested_tensor=False
        )
        self.alpha = nn.AlphaDropout(0.1)

    def forward(self, ids, hidden):
        h = self.layers(self.words(ids), src_key_padding_mask=hidden)
        return self.last(self.alpha(h[:, 0]))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.cell, self.last, self.drop = nn.RNNCell(2, 6), nn.Linear(6, 2), nn.Dropout(0.4)

    def forward(self, x):
        h = torch.zeros(len(x), 6, device=x.device)
        for step in range(x.shape[2]):
            h = self.cell(x[:, :, step, 0], h)
        return self.last(self.drop(h))


def words():
    hidden = np.zeros((N, 5), bool)
    hidden[::2, 3:] = True
    return {"ids": RNG.integers(0, 13, (N, 5)), "hidden": hidden}


def bayesian(**options: Any) -> mcd.MCNetwork:
    return mcd.mc_bayes_mlp(FEATURES, LABELS, hidden=5, **options)


def values(noise="homoscedastic"):
    return mcd.mc_mlp(FEATURES, n_outputs=2, task="regression", noise=noise, hidden=(6, 5), dropout=0.2)


MODELS = {  # a function that makes it, inputs, what it returns if it does not say so itself
    "table": (lambda: mcd.mc_mlp(FEATURES, LABELS, dropout=0.3, input_dropout=0.1), TABLE, None),
    "binary": (lambda: mcd.mc_mlp(FEATURES, LABELS[:2], task="binary", dropout=0.3), TABLE, None),
    "values": (values, TABLE, None),
    "values, own noise": (lambda: values("heteroscedastic"), TABLE, None),
    "values, no noise": (lambda: values("none"), TABLE, None),
    "images": (lambda: mcd.mc_cnn((9, 8, 2), LABELS, filters=(4, 3), hidden=6), IMAGES, None),
    "images, values": (
        lambda: mcd.mc_cnn((9, 8, 2), task="regression", filters=4, hidden=6, dropout=0.2),
        IMAGES,
        None,
    ),
    "Bayesian": (bayesian, TABLE, None),
    "Bayesian, full": (lambda: bayesian(posterior=mcd.mc_posterior_multivariate_normal()), TABLE, None),
    "Bayesian, flipout": (lambda: bayesian(estimator="flipout", prior=mcd.mc_prior_student_t(3)), TABLE, None),
    "Bayesian, local": (
        lambda: bayesian(estimator="local_reparameterization", prior=mcd.mc_prior_mixture((1, 0.1))),
        TABLE,
        None,
    ),
    "Bayesian images": (lambda: mcd.mc_bayes_cnn((9, 8, 2), LABELS, filters=(3,), hidden=5), IMAGES, None),
    "residual": (lambda: mcd.mc_bayes_resnet((9, 8, 2), LABELS, filters=(3, 4)), IMAGES, None),
    "made Bayesian": (lambda: mcd.mc_to_bayesian(values()), TABLE, None),
    "foreign": (Convolutions, MAPS, "logits"),
    "foreign made Bayesian": (lambda: mcd.mc_to_bayesian(Convolutions()), MAPS, "logits"),
    "transformer": (Transformer, words(), "logits"),
    "recurrent": (Recurrent, MAPS, "mean_log_variance"),
}


@pytest.fixture(params=MODELS)
def known(request) -> tuple[Any, Any, dict[str, Any]]:
    """A network, inputs, and the options that it needs."""
    make, x, outputs = MODELS[request.param]
    return ready(make()), x, {} if outputs is None else {"outputs": outputs}


def on_each(call, devices=BOTH) -> Any:
    """What a call gives on the device, and on the host."""
    return [call(device) for device in devices]


def ready(model):
    """In the units of TABLE, as after training."""
    if isinstance(model, mcd.MCNetwork):
        model.set_scales((TABLE.mean(axis=0), TABLE.std(axis=0)), VALUES[:, : model.n_outputs])
    return model.eval()


def same(one, other, rtol=1e-6, atol=1e-6):
    """Equal up to rounding: chunks and engines may differ between devices, and so the order of sums."""
    np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)


def same_predictions(one, other, **tolerance: Any) -> None:
    for name in ("mean", "variance", "samples", "mutual_information", "pred_lower", "n_samples"):
        if getattr(other, name) is not None:
            scale = np.nanstd(other.samples) if other.samples is not None and name != "n_samples" else 1
            same(getattr(one, name), getattr(other, name), atol=1e-5 * max(scale, 1), **tolerance)


# ---- prediction ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masks", ["shared", "per_input"])
def test_predictions(known, masks):
    model, x, options = known
    one, other = on_each(
        lambda device: mcd.mc_predict(model, x, DRAWS, 4, masks=masks, device=device, seed=3, **options, **QUIET)
    )
    assert (one.device, other.device) == (DEVICE, "cpu")
    same_predictions(one, other)
    assert {weights.device.type for weights in model.parameters()} == {"cpu"}


def test_points_and_sites(known):
    model, x, options = known
    same(*on_each(lambda device: mcd.mc_predict_point(model, x, 4, device=device, **options, **QUIET)))
    table = mcd.mc_sites(model, x)
    pd.testing.assert_frame_equal(mcd.mc_sites(copy.deepcopy(model).to(HERE), x), table)


def test_a_network_that_lives_on_the_device(known):
    model, x, options = known
    there = copy.deepcopy(model).to(HERE)
    one = mcd.mc_predict(there, x, DRAWS, device=DEVICE, seed=3, **options, **QUIET)
    same_predictions(one, mcd.mc_predict(model, x, DRAWS, device="cpu", seed=3, **options, **QUIET))
    same_predictions(mcd.mc_predict(there, x, DRAWS, device="cpu", seed=3, **options, **QUIET), one)
    assert {weights.device for weights in there.parameters()} == {HERE}


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["table", "values", "foreign", "transformer"])
def test_lower_precision(name, precision):
    make, x, outputs = MODELS[name]
    options = {"outputs": outputs, "precision": precision, "seed": 3, **QUIET}
    one, other = on_each(lambda device: mcd.mc_predict(ready(make()), x, DRAWS, device=device, **options))
    same(one.mean, other.mean, rtol=0, atol=0.02 * np.abs(other.mean).max())  # 8 bits


@pytest.mark.parametrize("name", ["table", "values", "foreign", "Bayesian"])
@pytest.mark.parametrize("more", [{"tolerance": 0.05}, {"keep_samples": False}])
def test_tolerance_and_no_draws_kept(name, more):
    make, x, outputs = MODELS[name]
    options = {"outputs": outputs, "seed": 3, **more, **QUIET}
    same_predictions(*on_each(lambda device: mcd.mc_predict(ready(make()), x, 40, 5, device=device, **options)))


@pytest.mark.parametrize("name", ["table", "values", "images", "foreign", "transformer"])
def test_several_devices(name):
    make, x, outputs = MODELS[name]
    options = {"outputs": outputs, "seed": 3, **QUIET}
    alone = mcd.mc_predict(ready(make()), x, DRAWS, 2, device="cpu", **options)
    for devices in ([DEVICE, "cpu"], ["cpu", DEVICE], [DEVICE, DEVICE]):
        same_predictions(mcd.mc_predict(ready(make()), x, DRAWS, 2, device=devices, **options), alone)


def test_streams():
    model = values()
    whole = mcd.mc_predict(model, TABLE, DRAWS, device="cpu", seed=3, **QUIET)
    batches = torch.from_numpy(TABLE).split(4)
    same_predictions(mcd.mc_predict(model, iter(batches), DRAWS, device=DEVICE, seed=3, **QUIET), whole)


@pytest.mark.parametrize("name", ["table", "values", "images", "Bayesian", "foreign", "transformer"])
def test_samplers(name):
    make, x, outputs = MODELS[name]
    samplers = on_each(lambda device: mcd.mc_sampler(ready(make()), x, DRAWS, outputs=outputs, device=device, seed=3))
    same_predictions(*(sampler(x) for sampler in samplers))


@pytest.mark.parametrize("name", ["table", "values", "foreign"])
def test_convergence(name):
    make, x, outputs = MODELS[name]
    found = on_each(
        lambda device: mcd.mc_convergence(
            ready(make()), x, (4, DRAWS), outputs=outputs, tolerance=0.1, device=device, seed=3, **QUIET
        )
    )
    for table in ("table", "needed"):
        pd.testing.assert_frame_equal(*(getattr(one, table) for one in found), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["table", "values", "foreign"])
def test_compared_rates(name):
    make, x, outputs = MODELS[name]
    y = VALUES if name == "values" else CODES if name == "foreign" else NAMES
    tables = on_each(
        lambda device: mcd.mc_compare_rates(
            ready(make()), x, y, (0.2, 0.5), DRAWS, outputs=outputs, device=device, seed=3, **QUIET
        )
    )
    pd.testing.assert_frame_equal(*tables, rtol=1e-4, atol=1e-5)


# ---- training ------------------------------------------------------------------------------------------------------


def fitted(model, x, y, **options: Any) -> Any:
    settings: dict[str, Any] = {"epochs": 3, "batch_size": 4, "seed": 1} | options
    return mcd.mc_fit(model, x, y, **settings, **QUIET)


def same_networks(one, other):
    assert one.history.columns.tolist() == other.history.columns.tolist()
    same(one.history.drop(columns="seconds"), other.history.drop(columns="seconds"), rtol=1e-4, atol=1e-5)
    for name, values in other.state_dict().items():
        assert one.state_dict()[name].device.type == "cpu"
        same(one.state_dict()[name].numpy(), values.numpy(), rtol=1e-4, atol=1e-5)


def truth_for(model):
    if model.task == "regression":
        return VALUES[:, : model.n_outputs]
    return np.array(model.labels)[CODES % len(model.labels)]


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("transformer", "recurrent")])
def test_training(name):
    make, x, _ = MODELS[name]
    same_networks(*on_each(lambda device: fitted(make(), x, truth_for(make()), device=device), TRAINED_ON))


HALVES = {"validation_split": 0.4}
WAYS = {
    "class_weight": {"class_weight": "balanced"},
    "augment": {"augment": lambda x, generator: x + torch.rand(x.shape, generator=generator).to(x.device)},
    "held out": {**HALVES, "early_stopping": 1, "reduce_lr": 1, "monitor": "val_loss"},
    "validation_data": {"validation_data": (TABLE[:5], NAMES[:5]), "early_stopping": 2},
    "optimizer": {"optimizer": "sgd", "weight_decay": 0.1},
    "function": {"optimizer": lambda parameters: torch.optim.Adagrad(parameters, lr=0.01)},
    "callback": {"callbacks": lambda row: row["epoch"] == 2},
}


@pytest.mark.parametrize("way", WAYS)
def test_ways_of_training(way):
    make = MODELS["table"][0]
    same_networks(*on_each(lambda device: fitted(make(), TABLE, NAMES, device=device, **WAYS[way]), TRAINED_ON))


@pytest.mark.parametrize("name", ["values", "values, own noise", "images, values", "made Bayesian"])
def test_values_are_validated_and_augmented(name):
    make, x, _ = MODELS[name]
    y = truth_for(make())
    given = {**WAYS["held out"], **WAYS["augment"]}
    same_networks(*on_each(lambda device: fitted(make(), x, y, device=device, **given), TRAINED_ON))
    given = {"validation_data": (x[:3], y[:3])}
    same_networks(*on_each(lambda device: fitted(make(), x, y, device=device, **given), TRAINED_ON))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_training_in_lower_precision(precision):
    found = on_each(lambda device: fitted(values(), TABLE, VALUES, precision=precision, device=device), TRAINED_ON)
    assert found[0].history["loss"].iloc[-1] == pytest.approx(found[1].history["loss"].iloc[-1], rel=0.05)  # 8 bits


@pytest.mark.parametrize("name", ["table", "values", "Bayesian", "foreign"])
def test_training_goes_on_from_a_checkpoint(name, tmp_path):
    make, x, _ = MODELS[name]
    y, path = truth_for(make()), tmp_path / "run"
    whole = fitted(make(), x, y, device=DEVICE, epochs=4)
    fitted(make(), x, y, device=DEVICE, epochs=2, checkpoint=path)
    same_networks(fitted(make(), x, y, device=DEVICE, epochs=4, checkpoint=path), whole)


@pytest.mark.parametrize("name", ["table", "binary", "values", "values, no noise", "images", "Bayesian", "foreign"])
def test_steps_on_batches(name):
    make, x, _ = MODELS[name]
    y, found = truth_for(make()), []
    options: dict[str, Any] = {"kl_weight": 0.1} if name == "Bayesian" else {}
    for device in TRAINED_ON:
        model = make().to(device)
        found.append([mcd.mc_train_on_batch(model, x, y, **options) for _ in range(3)])
        assert {weights.device.type for weights in model.parameters()} == {device}
    same(pd.DataFrame(found[0]), pd.DataFrame(found[1]), rtol=1e-4)


def test_what_diverges_keeps_its_last_good_weights():
    spoil = {"augment": lambda x, generator: x * np.nan}
    model = MODELS["table"][0]()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(FloatingPointError, match="in epoch 1"):
        fitted(model, TABLE, NAMES, device=DEVICE, **spoil)
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())


# ---- frozen backbones, files, tables -------------------------------------------------------------------------------


def behind(head):
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return mcd.mc_frozen_backbone(backbone, head, input_shape=(2, 9, 8))


HEADS = {"classes": lambda: mcd.mc_mlp(4, LABELS, dropout=0.3), "values": lambda: mcd.mc_mlp(4, task="regression")}


@pytest.mark.parametrize("kind", HEADS)
def test_frozen_backbones(kind):
    y, found = NAMES if kind == "classes" else VALUES[:, :1], []
    for device in TRAINED_ON:
        net = behind(HEADS[kind]())
        features = net.features(MAPS, device=device)
        fitted(net, MAPS, y, device=device, validation_data=(MAPS[:3], y[:3]))
        options: dict[str, Any] = {"device": device, "seed": 3}
        predicted = mcd.mc_predict(net, MAPS, DRAWS, **options, **QUIET)
        asked = mcd.mc_sampler(net, MAPS, DRAWS, **options)(MAPS)
        point = mcd.mc_predict_point(net, MAPS, device=device, **QUIET)
        streamed = mcd.mc_predict(net, iter(torch.from_numpy(MAPS).split(4)), DRAWS, **options, **QUIET)
        found.append((features, predicted, asked, point, streamed, net))
    one, other = found
    same(one[0], other[0])
    same_networks(one[-1].head, other[-1].head)
    for place in (1, 2, 4):
        same(one[place].mean, other[place].mean, rtol=1e-4, atol=1e-4)
    same(one[3], other[3], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["table", "values", "images", "Bayesian", "residual", "made Bayesian"])
def test_a_network_on_the_device_is_saved_opened_and_told_of(name, tmp_path):
    make, x, _ = MODELS[name]
    model = fitted(make(), x, truth_for(make()), device=DEVICE)
    mcd.mc_save(model, tmp_path / "host")
    mcd.mc_save(copy.deepcopy(model).to(HERE), tmp_path / "device")
    one, other = (mcd.mc_load(tmp_path / where) for where in ("device", "host"))
    same_networks(one, other)
    if name in ("Bayesian", "residual", "made Bayesian"):
        there = copy.deepcopy(model).to(HERE)
        for table in (mcd.mc_posterior_table, mcd.mc_weights_table):
            pd.testing.assert_frame_equal(table(there), table(model))
    made = mcd.mc_to_bayesian(make().to(HERE)) if name == "table" else None
    assert made is None or {weights.device for weights in made.parameters()} == {HERE}


def test_no_function_with_a_device_is_left_out():
    public = {name: getattr(mcd, name) for name in dir(mcd) if name.startswith("mc_")}
    with_a_device = {name for name, one in public.items() if "device" in inspect.signature(one).parameters}
    assert with_a_device == {
        *("mc_predict", "mc_predict_point", "mc_sampler", "mc_convergence", "mc_compare_rates", "mc_fit")
    }


# ---- nothing waits for every batch ---------------------------------------------------------------------------------


def crossings(call):
    CROSSINGS.clear()
    call()
    return dict(CROSSINGS)


BAYESIAN = ["Bayesian", "Bayesian, full", "Bayesian, flipout", "Bayesian, local"]
ASKED = [(name, {}) for name in ("table", "binary", "values", "images", "foreign", *BAYESIAN)]
ASKED += [("table", HALVES), ("table", {"class_weight": "balanced"}), ("values", HALVES), ("Bayesian", HALVES)]


@pytest.mark.skipif(DEVICE != "pretend", reason="only the pretend device counts what it is asked")
@pytest.mark.parametrize(("name", "way"), ASKED)
def test_an_epoch_asks_the_device_as_often_however_many_steps_it_has(name, way):
    make, x, _ = MODELS[name]
    y = truth_for(make())
    few, many = (
        crossings(lambda n=n: fitted(make(), x, y, device=DEVICE, batch_size=n, epochs=2, **way)) for n in (N, 1)
    )
    assert few == many
    one_more = crossings(lambda: fitted(make(), x, y, device=DEVICE, batch_size=1, epochs=3, **way))
    assert one_more["asked"] - many["asked"] <= 1  # whether all weights are numbers
