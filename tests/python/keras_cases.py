"""Tests on one backend of Keras, which is fixed when Keras is imported.

`test_keras.py` runs this file with pytest in one process for each backend, which KERAS_BACKEND names. The tests write
their draws to the folder MCDROPOUT_KERAS_DRAWS, and `test_keras.py` compares them.
"""

import multiprocessing
import os
import re
import signal
import threading
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from keras import layers
from torch import nn

import mcdropout as mcd
from mcdropout.compute.forks import in_forked_child
from mcdropout.engine.masks import keep_masks
from mcdropout.engine.randomness import SiteSeed
from mcdropout.sampling.keras_model import outputs_of
from mcdropout.sites.keras import numbers

BACKEND = keras.backend.backend()
FOLDER = Path(os.environ["MCDROPOUT_KERAS_DRAWS"])
N, DRAWS = 7, 6


class MCDropout(layers.Dropout):
    """The usual dropout layer that is always on."""

    def call(self, inputs):  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().call(inputs, training=True)


class Block(layers.Layer):
    def __init__(self, units):
        super().__init__()
        self.dense, self.norm, self.drops = layers.Dense(units), layers.LayerNormalization(), [layers.Dropout(0.3)]

    def build(self, shape):  # pyright: ignore[reportIncompatibleMethodOverride]
        self.dense.build(shape)
        self.norm.build((*shape[:-1], self.dense.units))

    def call(self, x, training=None):
        return self.norm(self.drops[0](keras.ops.relu(self.dense(x)), training=training))


class Parts:
    """A plain Python object, whose layers Keras does not track."""

    def __init__(self, layer):
        self.layer = layer


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.blocks = [Block(8), Block(6)]
        self.always = MCDropout(0.5)
        self.parts = Parts(layers.Dropout(0.25))
        self.last = layers.Dense(3)

    def build(self, shape):  # pyright: ignore[reportIncompatibleMethodOverride]
        for block, width in zip(self.blocks, (shape[-1], 8), strict=True):
            block.build((None, width))
        self.last.build((None, 6))

    def call(self, x, training=None):
        for block in self.blocks:
            x = block(x, training=training)
        return self.last(self.parts.layer(self.always(x), training=training))


def cnn():
    return keras.Sequential(
        [
            keras.Input((9, 8, 2)),
            layers.Conv2D(5, 3, activation="relu"),
            layers.Dropout(0.25),
            layers.MaxPooling2D(2),
            layers.SpatialDropout2D(0.3),
            layers.Flatten(),
            layers.Dropout(0.4),
            layers.Dense(6, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(3, activation="softmax"),
        ]
    )


def skip():
    x = keras.Input((6, 6, 3))
    y = layers.Conv2D(4, 3, padding="same")(x)
    z = layers.Dropout(0.5)(layers.BatchNormalization()(y), training=True)
    y = layers.Add()([y, z])
    y = keras.ops.relu(y)
    inner = keras.Sequential([keras.Input((6, 6, 4)), layers.Dropout(0.2), layers.Conv2D(4, 1)])
    y = layers.Concatenate()([inner(y), y])
    return keras.Model(x, layers.Dense(1, activation="sigmoid")(layers.GlobalAveragePooling2D()(y)))


def sequence(*middle):
    return keras.Sequential([keras.Input((5, 4)), *middle, layers.Flatten(), layers.Dense(3, activation="softmax")])


def attention():
    x = keras.Input((5, 8))
    y = layers.MultiHeadAttention(2, 4, dropout=0.3)(x, x)
    y = layers.LayerNormalization()(layers.Add()([x, layers.Dropout(0.2)(y)]))
    y = layers.Attention(dropout=0.4)([y, y])
    y = layers.GlobalAveragePooling1D()(y)
    return keras.Model(x, layers.Dense(2, activation="softmax")(y))


def two_inputs():
    words, table = keras.Input((5,), dtype="int32", name="words"), keras.Input((3,), name="table")
    x = layers.GlobalAveragePooling1D()(layers.SpatialDropout1D(0.4)(layers.Embedding(11, 6)(words)))
    x = layers.Concatenate()([x, layers.Dropout(0.3)(table)])
    return keras.Model({"words": words, "table": table}, layers.Dense(2)(x))


def subclassed():
    model = Subclassed()
    model.build((None, 4))
    return model


def volumes():
    return keras.Sequential(
        [
            keras.Input((4, 3, 5, 2)),
            layers.Conv3D(3, 2),
            layers.SpatialDropout3D(0.4),
            layers.Dropout(0.2, noise_shape=(None, 1, 1, None, None)),
            layers.GlobalAveragePooling3D(),
            layers.Dense(3, activation="softmax"),
        ]
    )


def signals():
    return keras.Sequential(
        [
            keras.Input((8, 2)),
            layers.Conv1D(4, 3, activation="relu"),
            layers.Dropout(0.3),
            layers.SpatialDropout1D(0.2),
            layers.Flatten(),
            layers.Dense(3, activation="softmax"),
        ]
    )


def selu():
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(9, activation="selu"),
            layers.AlphaDropout(0.3),
            layers.GaussianDropout(0.4),
            layers.Dense(3, activation="softmax"),
        ]
    )


def noise():
    return keras.Sequential([keras.Input((4,)), layers.GaussianNoise(0.5), layers.Dropout(0.1), layers.Dense(2)])


TABLE, SEQUENCE = (4,), (5, 4)
CASES = {
    "cnn": (cnn, (9, 8, 2), {}),
    "skip": (skip, (6, 6, 3), {}),
    "volumes": (volumes, (4, 3, 5, 2), {}),
    "signals": (signals, (8, 2), {}),
    "selu": (selu, TABLE, {}),
    "noise": (noise, TABLE, {"outputs": "values", "gaussian_noise": True}),
    "subclassed": (subclassed, TABLE, {"outputs": "logits"}),
    "attention": (attention, (5, 8), {}),
    "lstm": (lambda: sequence(layers.LSTM(6, dropout=0.3, recurrent_dropout=0.2)), SEQUENCE, {}),
    "lstm by gates": (lambda: sequence(Lstm(dropout=0.3, recurrent_dropout=0.2)), SEQUENCE, {}),
    "gru": (lambda: sequence(layers.GRU(6, dropout=0.3, return_sequences=True)), SEQUENCE, {}),
    "both ways": (lambda: sequence(layers.Bidirectional(layers.LSTM(3, dropout=0.4))), SEQUENCE, {}),
    "stacked": (
        lambda: sequence(layers.RNN([layers.GRUCell(3, dropout=0.4), layers.LSTMCell(3, recurrent_dropout=0.4)])),
        SEQUENCE,
        {},
    ),
    "each step": (lambda: sequence(layers.TimeDistributed(layers.Dropout(0.4))), SEQUENCE, {}),
    "two inputs": (two_inputs, None, {"outputs": "logits"}),
}


def Lstm(**rates):
    return layers.RNN(layers.LSTMCell(6, implementation=1, **rates))


def with_weights(model, seed=1):
    """Weights that are the same on every backend."""
    rng = np.random.default_rng(seed)
    model.set_weights([rng.uniform(-0.3, 0.3, weight.shape) + (len(weight.shape) == 1) for weight in model.weights])
    return model


def build_case(name) -> tuple[Any, Any, dict[str, Any]]:
    build, shape, kwargs = CASES[name]
    rng = np.random.default_rng(2)
    if shape is not None:
        x = rng.normal(size=(N, *shape)).astype(np.float32)
    else:
        x = {"words": rng.integers(0, 11, (N, 5)), "table": rng.normal(size=(N, 3)).astype(np.float32)}
    return with_weights(build()), x, kwargs


def predict(model, x, **kwargs: Any) -> Any:
    return mcd.mc_predict(model, x, **{"n_samples": DRAWS, "seed": 3, "progress": False, **kwargs})


def rows_of(x, part):
    return {name: array[part] for name, array in x.items()} if isinstance(x, dict) else x[part]


def state(model):
    """All values of the model that a prediction could change."""
    seeds = [np.array(variable.value) for variable in model.non_trainable_variables] if BACKEND != "torch" else []
    seeds += [
        keras.ops.convert_to_numpy(generator.state)
        for layer in model._flatten_layers()
        for generator in layer._seed_generators
    ]
    attributes = [{name: id(value) for name, value in vars(layer).items()} for layer in model._flatten_layers()]
    return [*model.get_weights(), *seeds], attributes


# Cases whose batch sizes, order and ids are varied. torch compiles nothing and runs all of them; the others run a few.
VARIED = CASES if BACKEND == "torch" else ("cnn", "subclassed", "attention")


# ---- properties of the draws ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_draws_keep_their_promises(name):
    model, x, kwargs = build_case(name)
    weights, attributes = state(model)
    torch_state = torch.get_rng_state()
    full = predict(model, x, **kwargs)
    assert full.samples.std(axis=0).max(axis=-1).min() > 1e-4
    assert full.engine == "vmap", full.engine_reason
    per_input = predict(model, x, masks="per_input", **kwargs).samples
    np.savez(FOLDER / f"{BACKEND} {name}.npz", shared=full.samples, per_input=per_input)
    tolerance = 1e-5 * np.abs(full.samples).max()  # float32 sums in another order
    assert np.abs(per_input - full.samples).max() > 10 * tolerance
    if name in VARIED:
        order = np.array([4, 0, 6])
        subset = predict(model, rows_of(x, order), n_samples=3, batch_size=2, **kwargs).samples
        np.testing.assert_allclose(subset, full.samples[:3, order], rtol=0, atol=tolerance)
        subset = predict(model, rows_of(x, order), masks="per_input", ids=order, batch_size=2, **kwargs).samples
        np.testing.assert_allclose(subset, per_input[:, order], rtol=0, atol=tolerance)
    after, attributes_after = state(model)
    for before, now in zip(weights, after, strict=True):
        np.testing.assert_array_equal(before, now)
    assert attributes_after == attributes
    assert torch.equal(torch.get_rng_state(), torch_state)


@pytest.mark.parametrize("name", [name for name in CASES if name != "noise" and name in VARIED])
def test_the_point_prediction_is_kerass_own(name):
    model, x, kwargs = build_case(name)
    expected: Any = keras.ops.convert_to_numpy(model(x, training=False)) if name != "subclassed" else None
    point = mcd.mc_predict_point(model, x, **kwargs)
    if expected is None:  # this model has dropout that is always on
        assert np.abs(point - mcd.mc_predict_point(model, x, **kwargs)).max() == 0
        return
    if kwargs.get("outputs") == "logits":
        expected = np.exp(expected) / np.exp(expected).sum(axis=-1, keepdims=True)
    expected = np.concatenate([1 - expected, expected], axis=1) if expected.shape[1] == 1 else expected
    np.testing.assert_allclose(point, expected, atol=1e-6)


def test_draws_are_those_by_hand():
    """Compare with two dense layers in NumPy under the keyed masks."""
    model = with_weights(
        keras.Sequential([keras.Input((4,)), layers.Dense(5, activation="relu"), layers.Dropout(0.25), layers.Dense(2)])
    )
    x = np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32)
    kernel, bias, last, last_bias = model.get_weights()
    kept = keep_masks(
        SiteSeed(3, "shared", "0"), 0.25, 5, torch.arange(DRAWS), torch.zeros(1, dtype=torch.int64)
    ).numpy()
    hidden = np.maximum(x @ kernel + bias, 0) * kept / 0.75  # (draw, input, unit)
    expected = hidden @ last + last_bias
    np.testing.assert_allclose(predict(model, x, outputs="values").samples, expected, rtol=0, atol=1e-5)


# ---- the same draws as torch ----------------------------------------------------------------------------------


def weights_into(modules, weights, last_sides=None):
    """Copy the weights of Keras into layers of torch. `last_sides` are the sides of the images before a flatten."""
    pairs = zip(modules, weights[::2], weights[1::2], strict=True)
    for module, kernel, bias in pairs:
        kernel = torch.tensor(kernel)
        if kernel.ndim > 2:
            kernel = kernel.permute(-1, -2, *range(kernel.ndim - 2))
        elif last_sides is not None:
            channels = kernel.shape[0] // np.prod(last_sides)
            kernel = kernel.view(*last_sides, channels, -1).movedim(len(last_sides), 0).flatten(0, -2).T
            last_sides = None
        else:
            kernel = kernel.T
        with torch.no_grad():
            module.weight.copy_(kernel)
            module.bias.copy_(torch.tensor(bias))


def test_a_torch_model_with_the_same_weights_draws_the_same():
    model, x, _ = build_case("cnn")
    parts = [nn.Conv2d(2, 5, 3), nn.Linear(45, 6), nn.Linear(6, 3)]
    torch_model = nn.Sequential(
        nn.Sequential(parts[0], nn.ReLU(), nn.Dropout(0.25), nn.MaxPool2d(2), nn.Dropout2d(0.3)),
        nn.Sequential(nn.Flatten(), nn.Dropout(0.4), parts[1], nn.ReLU(), nn.Dropout(0.5), parts[2], nn.Softmax(-1)),
    )
    weights_into(parts, model.get_weights(), last_sides=(3, 3))
    for masks in ("shared", "per_input"):
        of_torch = predict(torch_model, np.moveaxis(x, -1, 1).copy(), outputs="probabilities", masks=masks)
        of_keras_model = predict(model, x, masks=masks)
        np.testing.assert_allclose(of_keras_model.samples, of_torch.samples, rtol=0, atol=1e-4)
        np.testing.assert_allclose(of_keras_model.mutual_information, of_torch.mutual_information, rtol=0, atol=1e-4)


def test_a_network_of_this_package_with_the_same_weights_draws_the_same():
    net = mcd.mc_cnn((8, 8, 1), n_outputs=3, filters=(4,), hidden=(6,), dropout=(0.25, 0.5))
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.Dropout(0.25),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(6, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(3, activation="softmax"),
        ]
    )
    with_weights(model)
    modules = [module for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    weights_into(modules, model.get_weights(), last_sides=(3, 3))
    x = np.random.default_rng(0).normal(size=(N, 8, 8, 1)).astype(np.float32)
    np.testing.assert_allclose(predict(model, x).samples, predict(net, x).samples, rtol=0, atol=1e-4)


def test_attention_weights_are_dropped_like_in_torch():
    x = keras.Input((5, 8))
    model = with_weights(keras.Model(x, layers.MultiHeadAttention(2, 4, dropout=0.3)(x, x)))
    query, query_bias, key, key_bias, value, value_bias, out, out_bias = map(torch.tensor, model.get_weights())

    class TorchAttention(nn.Module):
        def forward(self, x):
            parts = ((query, query_bias), (key, key_bias), (value, value_bias))
            q, k, v = (torch.einsum("btd,dhk->bhtk", x, kernel) + bias[:, None] for kernel, bias in parts)
            attended = nn.functional.scaled_dot_product_attention(q, k, v, dropout_p=0.3)
            return torch.einsum("bhtk,hkd->btd", attended, out) + out_bias

    rows = np.random.default_rng(0).normal(size=(N, 5, 8)).astype(np.float32)
    of_torch = predict(TorchAttention(), rows, outputs="values").samples
    np.testing.assert_allclose(predict(model, rows, outputs="values").samples, of_torch, rtol=0, atol=1e-4)


def test_signals_have_their_channels_last():
    model, x, _ = build_case("signals")
    parts = [nn.Conv1d(2, 4, 3), nn.Linear(24, 3)]
    flat = nn.Sequential(nn.Flatten(), parts[1], nn.Softmax(-1))
    torch_model = nn.Sequential(parts[0], nn.ReLU(), nn.Dropout(0.3), nn.Dropout1d(0.2), flat)
    weights_into(parts, model.get_weights(), last_sides=(6,))
    of_torch = predict(torch_model, np.moveaxis(x, -1, 1).copy(), outputs="probabilities")
    np.testing.assert_allclose(predict(model, x).samples, of_torch.samples, rtol=0, atol=1e-4)


# ---- the meaning of the outputs -------------------------------------------------------------------------------


def ending(*last, **compiled):
    model = keras.Sequential([keras.Input((4,)), layers.Dropout(0.3), *last])
    if compiled:
        model.compile(**compiled)
    return with_weights(model)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (lambda: ending(layers.Dense(3, activation="softmax")), "probabilities"),
        (lambda: ending(layers.Dense(3), layers.Softmax()), "probabilities"),
        (lambda: ending(layers.Dense(3), layers.Activation("softmax")), "probabilities"),
        (lambda: ending(layers.Dense(1, activation="sigmoid")), "probabilities"),
        (lambda: ending(ending(layers.Dense(3, activation="softmax"))), "probabilities"),
        (lambda: ending(layers.Dense(1), loss="mse"), "values"),
        (lambda: ending(layers.Dense(2), loss=keras.losses.Huber()), "values"),
        (lambda: ending(layers.Dense(3), loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True)), "logits"),
    ],
)
def test_the_last_activation_or_the_loss_says_what_is_returned(model, expected):
    assert outputs_of(model(), None) == expected


@pytest.mark.parametrize(
    "model",
    [
        lambda: ending(layers.Dense(3)),
        lambda: ending(layers.Dense(3, activation="sigmoid")),
        lambda: ending(layers.Dense(3, activation="relu")),
        lambda: ending(layers.Dense(3), loss="categorical_crossentropy"),
        subclassed,
    ],
)
def test_outputs_must_be_given_where_the_model_does_not_show_them(model):
    with pytest.raises(ValueError, match="`outputs` must say what `model` returns"):
        predict(model(), np.zeros((2, 4), np.float32))


def test_one_of_several_outputs_is_chosen():
    x = keras.Input((4,))
    hidden = layers.Dropout(0.3)(x)
    outputs = {"a": layers.Dense(3, activation="softmax")(hidden), "b": layers.Dense(1)(hidden)}
    model = with_weights(keras.Model(x, outputs))
    rows = np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32)
    assert predict(model, rows, select="a").task == "classification"
    assert predict(model, rows, select="b", outputs="values").mean.shape == (N, 1)
    assert predict(model, rows, select=lambda outputs: outputs["b"], outputs="values").mean.shape == (N, 1)
    with pytest.raises(TypeError, match='`model` returns several parts \\("a", "b"\\); say which with `select`'):
        predict(model, rows, outputs="values")


# ---- other forms of inputs ------------------------------------------------------------------------------------


def test_inputs_by_position_and_in_a_stream():
    model, x, kwargs = build_case("two inputs")
    full = predict(model, x, **kwargs).samples
    inputs = [tensor.name for tensor in model.inputs]
    by_position = keras.Model([model.inputs[inputs.index(name)] for name in ("words", "table")], model.outputs[0])
    by_position_draws = predict(by_position, (x["words"], x["table"]), **kwargs).samples
    np.testing.assert_allclose(by_position_draws, full, rtol=0, atol=1e-5)
    stream = ({name: array[start : start + 3] for name, array in x.items()} for start in range(0, N, 3))
    np.testing.assert_allclose(predict(model, stream, **kwargs).samples, full, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["int64", "int8", "uint8", "float32", "float64"])
def test_codes_of_any_dtype_are_accepted_and_fractions_are_refused(kind):
    model, x, kwargs = build_case("two inputs")
    full = predict(model, x, **kwargs).samples
    x["words"] = x["words"].astype(kind)
    np.testing.assert_array_equal(predict(model, x, **kwargs).samples, full)
    if "float" in kind:
        x["words"][5, 2] = 1.5
        assert "`words` must hold whole numbers, because `model` needs them there; got 1.5" in raised(
            model, x, **kwargs
        )


class Attending(keras.Model):
    """A subclassed model: it does not declare its inputs."""

    def __init__(self):
        super().__init__()
        self.attend, self.drop, self.last = layers.MultiHeadAttention(2, 3), layers.Dropout(0.3), layers.Dense(2)

    def call(self, x, visible=None):
        visible = None if visible is None else keras.ops.expand_dims(keras.ops.cast(visible, "bool"), 1)
        return self.last(self.drop(self.attend(x, x, attention_mask=visible)[:, 0]))


@pytest.mark.parametrize("kind", ["bool", "int32", "uint8"])
def test_masks_and_pixels_reach_a_subclassed_model(kind):
    rng = np.random.default_rng(0)
    x, visible = rng.normal(size=(N, 5, 4)).astype(np.float32), np.arange(5) < rng.integers(1, 4, N)[:, None]
    model = Attending()
    model(x, visible=visible)
    with_weights(model)
    inputs = {"x": x, "visible": visible.astype(kind)}
    expected: Any = keras.ops.convert_to_numpy(model(x, visible=visible))
    point = mcd.mc_predict_point(model, inputs, outputs="values", progress=False)
    np.testing.assert_allclose(point, expected, rtol=0, atol=1e-5)  # rounding of float32
    unchanged = predict(model, inputs, outputs="values").samples
    x[~visible] = 9  # the values under the mask
    np.testing.assert_allclose(predict(model, inputs, outputs="values").samples, unchanged, rtol=0, atol=1e-5)
    pixels = rng.integers(0, 2, (N, 5, 4)).astype(kind)
    samples = predict(model, pixels, outputs="values").samples
    np.testing.assert_allclose(samples, predict(model, pixels.astype(np.float32), outputs="values").samples, atol=1e-5)


def test_a_single_channel_of_a_map_is_the_probability_of_the_second_label():
    x = keras.Input((6, 7, 2))
    y = layers.Conv2D(1, 1, activation="sigmoid")(layers.SpatialDropout2D(0.4)(layers.Conv2D(4, 3)(x)))
    model, rows = with_weights(keras.Model(x, y)), np.random.default_rng(0).normal(size=(N, 6, 7, 2))
    maps = predict(model, rows, outputs="probabilities", labels=["no", "yes"])
    assert maps.mean.shape == (N, 4, 5, 2)
    np.testing.assert_allclose(maps.mean[..., 1:], predict(model, rows, outputs="values").mean, rtol=0, atol=1e-6)


def test_a_dataset_that_shuffles_is_refused():
    tensorflow = pytest.importorskip("tensorflow")
    model, x, _ = build_case("cnn")
    data = tensorflow.data.Dataset.from_tensor_slices((x, np.zeros(N)))
    np.testing.assert_allclose(predict(model, data.batch(3)).samples, predict(model, x).samples, rtol=0, atol=1e-5)
    assert raised(model, data.shuffle(5).batch(3).prefetch(1)).startswith("`x` is a dataset that shuffles, so results")
    three = tensorflow.data.Dataset.from_tensor_slices((x, np.zeros(N), np.ones(N))).batch(3)
    assert "got one of 3 parts" in raised(model, three)


CHANGES = {
    "weights": lambda model: with_weights(model, seed=9),
    "a rate": lambda model: setattr(model.layers[-2], "rate", 0.125),
    "statistics": lambda model: model.layers[1].moving_mean.assign(model.layers[1].moving_mean + 1.0),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_sampler_sees_new_weights_rates_and_statistics(change):
    layers = keras.layers
    model = keras.Sequential([
        layers.Dense(5), layers.BatchNormalization(), layers.Dropout(0.5), layers.Dense(2, activation="softmax")
    ])  # fmt: skip
    x = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")
    model(x)
    with_weights(model)
    sampler = mcd.mc_sampler(model, x[:2], n_samples=DRAWS, seed=3)
    before = sampler(x).mean
    np.testing.assert_allclose(before, predict(model, x).mean, rtol=0, atol=1e-5)
    CHANGES[change](model)
    after = sampler(x).mean
    assert np.abs(after - before).max() > 1e-3
    np.testing.assert_allclose(after, predict(model, x).mean, rtol=0, atol=1e-5)


def test_tolerance_gives_the_draws_of_a_plain_prediction():
    model, x, _ = build_case("cnn")
    adaptive = predict(model, x, n_samples=15, tolerance=0.03)  # draws in two rounds
    full = predict(model, x, n_samples=15).samples
    for row, n_draws in enumerate(adaptive.n_samples):
        np.testing.assert_allclose(adaptive.samples[:n_draws, row], full[:n_draws, row], rtol=0, atol=1e-5)


def test_a_saved_model_draws_the_same(tmp_path):
    model, x, _ = build_case("cnn")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    samples = predict(model, x).samples
    np.testing.assert_array_equal(predict(loaded, x).samples, samples)
    np.testing.assert_array_equal(predict(tmp_path / "model.keras", x).samples, samples)
    with pytest.raises(ValueError, match="`model` must be a model or a file that exists; got"):
        predict(tmp_path / "another.keras", x)


def test_a_prediction_does_not_change_training():
    def weights_after_training(predict_between):
        keras.utils.set_random_seed(1)
        model = with_weights(cnn())
        model.compile(optimizer="sgd", loss="sparse_categorical_crossentropy")
        x, y = np.random.default_rng(0).normal(size=(8, 9, 8, 2)).astype(np.float32), np.arange(8) % 3
        model.train_on_batch(x, y)
        if predict_between:
            predict(model, x)
        model.train_on_batch(x, y)
        return model.get_weights()

    for weights, expected in zip(weights_after_training(True), weights_after_training(False), strict=True):
        np.testing.assert_array_equal(weights, expected)


def test_sites_are_named_and_gaussian_noise_is_left_out_by_default():
    model, x, _ = build_case("noise")
    with pytest.warns(UserWarning, match="by gaussian_noise in .*; they are left out unless `gaussian_noise` is true"):
        assert mcd.mc_sites(model, x).operation.tolist() == ["dropout"]
    table = mcd.mc_sites(model, x, gaussian_noise=True)
    assert table.operation.tolist() == ["gaussian_noise", "dropout"]
    model, x, _ = build_case("lstm")
    table = mcd.mc_sites(model, x)
    assert table.operation.tolist() == ["dropout"] * 4 + ["recurrent_dropout"] * 4  # one for each gate
    assert table["shape"].tolist() == ["4"] * 4 + ["6"] * 4
    assert all("lstm" in site for site in table.site)


# ---- random numbers of the model itself -----------------------------------------------------------------------


class Drawing(layers.Layer):
    """A layer that draws random numbers itself, in training or always."""

    def __init__(self, draw, always=False):
        super().__init__(name="own")
        self.draw, self.always, self.seeds = draw, always, keras.random.SeedGenerator(1)

    def call(self, x, training=None):
        return self.draw(x, self.seeds) if training or self.always else x


def operation_in_both(operation):
    """The same operation for a layer of Keras and for a module of torch."""
    random, ops = keras.random, keras.ops
    return {
        "dropout": (
            lambda x, seed: random.dropout(x, 0.4, seed=seed),
            lambda x: nn.functional.dropout(x, 0.4),
        ),
        "uniform": (
            lambda x, seed: x * random.uniform(ops.shape(x), 0.5, 2.0, seed=seed),
            lambda x: x * (torch.rand_like(x) * 1.5 + 0.5),
        ),
        "bernoulli": (
            lambda x, seed: x * random.binomial(ops.shape(x), 1, 0.7, seed=seed),
            lambda x: x * torch.empty_like(x).bernoulli_(0.7),
        ),
        "locked": (
            lambda x, seed: x * random.binomial((1, 4), 1, ops.full((1, 4), 0.7), seed=seed),
            lambda x: x * torch.bernoulli(torch.full((1, 4), 0.7)),
        ),
        "one number": (
            lambda x, seed: x * random.uniform((), seed=seed),
            lambda x: x * torch.rand(()),
        ),
        "normal": (
            lambda x, seed: x + random.normal(ops.shape(x), 0.5, 0.3, seed=seed),
            lambda x: x + torch.randn_like(x) * 0.3 + 0.5,
        ),
    }[operation]


class TorchDrawing(nn.Module):
    def __init__(self, draw, always, model):
        super().__init__()
        self.draw, self.always, self.drop, self.last = draw, always, nn.Dropout(0.25), nn.Linear(4, 2)
        weights_into([self.last], model.get_weights())

    def forward(self, x):
        return self.last(self.drop(self.draw(x) if self.training or self.always else x))


OPERATIONS = ("dropout", "uniform", "bernoulli", "locked", "one number", "normal")


@pytest.mark.parametrize("always", [False, True])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_drawing_layer_draws_the_same_as_a_torch_module(operation, always):
    in_keras, in_torch = operation_in_both(operation)
    model = ending_in(Drawing(in_keras, always), layers.Dropout(0.25), layers.Dense(2))
    torch_model = TorchDrawing(in_torch, always, model)
    x = np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32)
    options = {"outputs": "values", "gaussian_noise": operation == "normal"}
    table = mcd.mc_sites(model, x, gaussian_noise=operation == "normal")
    assert len(table) == 2
    assert table.site[0] == "own[0]"
    for masks in ("shared", "per_input"):
        samples = predict(model, x, masks=masks, **options).samples
        np.testing.assert_allclose(samples, predict(torch_model, x, masks=masks, **options).samples, rtol=0, atol=1e-4)
        if BACKEND != "torch":  # the others compile for each number of inputs, which is slow
            return
        subset = predict(model, x[[5, 2]], masks=masks, batch_size=1, ids=[5, 2], **options).samples
        np.testing.assert_allclose(subset, samples[:, [5, 2]], rtol=0, atol=1e-5)
    alone = with_weights(ending_in(Drawing(in_keras, always), layers.Dense(2)))
    assert predict(alone, x, **options).std.min() > 1e-3
    if operation not in ("dropout", "normal"):  # its rate does not change
        changed = mcd.mc_compare_rates(model, x, x[:, :2], (0.25,), DRAWS, outputs="values", seed=3, progress=False)
        squares = (predict(model, x, outputs="values").mean - x[:, :2]) ** 2
        np.testing.assert_allclose(changed.loss[0], squares.mean(), rtol=1e-4)


def ending_in(*last):
    return with_weights(keras.Sequential([keras.Input((4,)), *last]))


def test_the_functions_of_keras_are_restored():
    from keras.src.backend import random

    before = dict(vars(random))
    x = np.zeros((N, 4), np.float32)
    model = ending_in(Drawing(operation_in_both("dropout")[0]), layers.Dense(2))
    used = []
    recording = ending_in(
        Drawing(lambda x, seed: used.append(random.uniform) or x + keras.random.uniform((), seed=seed))
    )
    with pytest.raises(mcd.IdenticalDraws):
        predict(model, x, outputs="values")
    with pytest.raises(ValueError, match="`model` fails on inputs of shape"):
        predict(model, x[:, :3], outputs="values")
    predict(recording, x + 1, outputs="values")
    assert used[-1] is not before["uniform"]
    assert dict(vars(random)) == before
    state: Any = keras.ops.convert_to_numpy(model.layers[0].seeds.state.value)
    assert state.tolist() == [1, 0]


class Mixed(layers.Layer):
    """A drawing layer with inner layers that must stay in inference mode."""

    def __init__(self):
        super().__init__(name="mixed")
        self.norm, self.inner = (
            layers.BatchNormalization(),
            Drawing(lambda x, seed: x + keras.random.normal((1, 4), seed=seed)),
        )
        self.seeds = keras.random.SeedGenerator(1)

    def call(self, x, training=None):
        x = self.inner(self.norm(x, training=training), training=training)
        return keras.random.dropout(x, 0.4, seed=self.seeds) if training else x


def test_inner_layers_of_a_drawing_layer_stay_in_inference_mode():
    x = np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32)
    mixed = ending_in(Mixed(), layers.Dense(2))
    plain = ending_in(layers.BatchNormalization(), layers.Dropout(0.4), layers.Dense(2))
    words = "`model` draws normal numbers when training, by normal in mixed/own; they are left out unless"
    with pytest.warns(UserWarning, match=words):
        samples = predict(mixed, x, outputs="values").samples
    plain.set_weights(mixed.get_weights())
    np.testing.assert_allclose(samples, predict(plain, x, outputs="values").samples, rtol=0, atol=1e-5)


def test_a_layer_that_does_more_than_draw_in_training_is_refused():
    model = ending_in(Drawing(lambda x, seed: 2 * keras.random.dropout(x, 0.4, seed=seed)), layers.Dense(2))
    message = raised(model, np.ones((N, 4), np.float32), outputs="values")
    assert message.startswith(
        "`model` changes more than its dropout when training, in own, so it cannot be sampled as it"
    )


def test_random_numbers_without_a_key_are_named():
    random, ops = keras.random, keras.ops
    x = np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32)
    options = {"outputs": "values"}
    left_out = {
        "normal": (
            lambda x, seed: x + random.normal((1, 4), seed=seed),
            "draws normal numbers when training, by normal in own",
        ),
        "gamma": (
            lambda x, seed: x + random.gamma((1, 4), 2.0, seed=seed),
            "when training, besides dropout, by gamma in own",
        ),
        "a number": (lambda x, seed: random.dropout(x, 0.4, seed=7), "by dropout of a fixed seed in own"),
        "seeds": (lambda x, seed: x + ops.cast(seed.next()[1], "float32"), "by the seeds of own"),
    }
    for draw, words in left_out.values():
        messages = warnings_of(
            lambda draw=draw: predict(ending_in(Drawing(draw), layers.Dropout(0.3), layers.Dense(2)), x, **options)
        )
        assert len(messages) == 1
        assert words in messages[0]
        assert "left out" in messages[0]
        with pytest.raises(mcd.NoStochasticSites) as error:
            predict(ending_in(Drawing(draw), layers.Dense(2)), x, **options)
        assert words.rpartition("by ")[2] in str(error.value)
        assert "layers and train again" not in str(error.value)
    by_batch = Drawing(lambda x, seed: x + random.gamma(ops.shape(x), 2.0, seed=seed), always=True)
    messages = warnings_of(lambda: predict(ending_in(by_batch, layers.Dense(2)), x, **options))
    assert "cannot be keyed by input, by gamma in own; they depend on `batch_size`" in messages[0]
    model = ending_in(Drawing(lambda x, seed: x + random.gamma((1, 4), 2.0, seed=seed), always=True), layers.Dense(2))
    first, again = (predict(model, x, batch_size=size, **options) for size in (7, 3))
    np.testing.assert_allclose(first.samples, again.samples, rtol=0, atol=1e-5)
    assert len(np.unique(first.samples[:, 0, 0])) == DRAWS


class Tagged(keras.Model):
    """Two embeddings, of the input and of shifted codes; the model does not declare its inputs."""

    def __init__(self):
        super().__init__()
        self.words, self.shifted = layers.Embedding(11, 6, name="words"), layers.Embedding(12, 6, name="shifted")
        self.drop, self.last = layers.Dropout(0.3), layers.Dense(2)

    def call(self, x, training=None):
        codes: Any = keras.ops.cast(x, "int32")
        words = self.words(x) + self.shifted(codes + 1)
        return self.last(self.drop(keras.ops.mean(words, axis=1), training=training))


def tagged():
    model = Tagged()
    model(np.zeros((2, 5), np.int32))
    return with_weights(model)


WORDS = np.random.default_rng(4).integers(0, 11, (N, 5))


@pytest.mark.parametrize(("value", "number", "batch_size"), [(-1, 2, 128), (11, 6, 128), (-1, 6, 4)])
def test_codes_out_of_range_are_named(value, number, batch_size):
    words = WORDS.copy()
    words[number - 1, 3] = value
    table = np.ones((N, 3), np.float32)
    message = (
        rf"must hold whole numbers from 0 to 10, which `model` looks up in `(words|embedding\w*)`; got {value} in "
    )
    message += f"input number {number}"
    both, alone = build_case("two inputs")[0], tagged()
    plain = ending_in(layers.Embedding(11, 6), layers.Flatten(), layers.Dropout(0.3), layers.Dense(2))
    point = {"outputs": "values", "batch_size": batch_size, "progress": False}
    for name, model, x, valid in (
        ("words", both, {"words": words, "table": table}, {"words": WORDS, "table": table}),
        ("x", alone, words, WORDS),
        ("x", alone, words.astype(float), WORDS),
        ("x", plain, words[:, :4], WORDS[:, :4]),
    ):
        with pytest.raises(ValueError, match=f"^`{name}` {message}"):
            predict(model, x, outputs="values", batch_size=batch_size)
        with pytest.raises(ValueError, match=f"^`{name}` {message}"):
            mcd.mc_predict_point(model, x, **point)
        sampler = mcd.mc_sampler(model, valid, 3, outputs="values", seed=3)
        with pytest.raises(ValueError, match=f"^`{name}` {message}"):
            sampler(x)
        assert len(sampler(valid)) == N
        if number < 4:
            with pytest.raises(ValueError, match=f"^`{name}` {message}"):
                mcd.mc_sites(model, x)


def test_codes_are_checked_by_a_pass_that_ends_after_the_embeddings():
    sampler = mcd.mc_sampler(tagged(), WORDS, DRAWS, outputs="values", seed=3)
    assert sampler.prepared is not None
    network: Any = sampler.prepared[1]
    with network.failures_explained(network.placed(network.source(WORDS).head(3), network.replica.device)):
        assert network.replica.now.on.n_looked_up == 2
        assert not network.replica.now.on.counts  # the pass did not reach the dropout


def test_codes_and_features_may_change_their_dtype_between_calls():
    x = np.random.default_rng(5).integers(0, 2, (N, 4))
    dense = build_case("subclassed")[0]
    for model, rows, kinds in (
        (dense, x, (np.float32, np.int64, np.uint8, bool)),
        (tagged(), WORDS, (np.int64, float, np.int8)),
    ):
        expected = predict(model, rows.astype(np.float32), outputs="values")
        for order in (kinds, kinds[::-1]):
            sampler = mcd.mc_sampler(model, rows.astype(order[0]), DRAWS, outputs="values", seed=3)
            for kind in order:
                np.testing.assert_allclose(sampler(rows.astype(kind)).mean, expected.mean, rtol=0, atol=1e-5)
            streamed = predict(model, iter([rows.astype(kind) for kind in order]), outputs="values")
            np.testing.assert_allclose(streamed.mean, np.tile(expected.mean, (len(order), 1)), rtol=0, atol=1e-5)


class Summed(keras.Model):
    """Takes one dictionary; its first operation is dropout, which needs floating point numbers."""

    def __init__(self):
        super().__init__()
        self.drop, self.dense = layers.Dropout(0.4), layers.Dense(3)

    def call(self, inputs, training=None):
        return self.dense(self.drop(inputs["left"], training=training) + inputs["right"])


def test_a_dictionary_may_be_the_only_argument_with_arrays_of_any_dtype():
    x = {"left": np.arange(4 * N).reshape(N, 4) % 3, "right": np.arange(4 * N).reshape(N, 4) % 5}
    floating, model = {name: array.astype(np.float32) for name, array in x.items()}, Summed()
    model(floating)
    expected = predict(model, floating, outputs="values")
    sampler = mcd.mc_sampler(model, floating, DRAWS, outputs="values", seed=3)
    for inputs in (floating, x, (x,)):
        np.testing.assert_allclose(sampler(inputs).mean, expected.mean, rtol=0, atol=1e-5)
        assert np.abs(predict(model, inputs, outputs="values").mean - expected.mean).max() < 1e-5
    streamed = predict(model, iter([floating, (x, np.ones(N))]), outputs="values")
    np.testing.assert_allclose(streamed.mean, np.tile(expected.mean, (2, 1)), rtol=0, atol=1e-5)


def test_names_that_the_model_does_not_take_are_refused():
    model, x, _ = build_case("two inputs")
    with pytest.raises(ValueError, match='`x` must have names that `model` takes .*words, table.*; got "tabel"'):
        predict(model, {"words": x["words"], "tabel": x["table"]}, outputs="values")
    assert len(predict(model, {**x}, outputs="values")) == N
    table, rows, _ = build_case("cnn")
    np.testing.assert_array_equal(predict(table, {"inputs": rows}).mean, predict(table, rows).mean)


def test_augmentation_is_left_out_and_named():
    x = np.random.default_rng(0).normal(size=(N, 5, 4, 1)).astype(np.float32)
    flips = [keras.Input((5, 4, 1)), layers.RandomFlip(name="flip"), layers.Flatten()]
    messages = warnings_of(lambda: predict(keras.Sequential([*flips, layers.Dropout(0.3)]), x, outputs="values"))
    assert messages == [
        "`model` draws random numbers of its own when training, besides dropout, by uniform in flip; they are left out."
    ]
    with pytest.raises(mcd.NoStochasticSites, match="add `keras.layers.Dropout` layers and train again"):
        predict(keras.Sequential([*flips, layers.Dense(2)]), x, outputs="values")


def test_noise_that_is_not_requested_is_named():
    model, x, kwargs = build_case("noise")
    messages = warnings_of(lambda: predict(model, x, outputs="values"))
    assert len(messages) == 1
    assert messages[0].startswith("`model` draws normal numbers when training, by gaussian_noise in gaussian_noise")
    assert warnings_of(lambda: predict(model, x, **kwargs)) == []


def test_random_numbers_without_effect_are_no_sites():
    def draw(x, seed):
        return x + 0 * keras.random.uniform(keras.ops.shape(x), seed=seed)

    model = ending_in(Drawing(draw, always=True), layers.Dropout(0.3), layers.Dense(2))
    x = np.ones((N, 4), np.float32)
    assert mcd.mc_sites(model, x).operation.tolist() == ["dropout"]
    assert warnings_of(lambda: predict(model, x, outputs="values")) == []


# ---- warnings about a model -----------------------------------------------------------------------------------


class Centre(layers.Layer):
    def call(self, x):
        return x - keras.ops.mean(x, axis=0, keepdims=True)


class Normalised(layers.BatchNormalization):
    """Batch normalisation that is always in training mode."""

    def call(self, x):  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().call(x, training=True)


class Impossible(layers.Layer):
    """Adds the logit of an impossible class."""

    def __init__(self, logit):
        super().__init__()
        self.logit = logit

    def call(self, x):
        return keras.ops.concatenate([x, keras.ops.full_like(x[:, :1], self.logit)], axis=-1)


def warnings_of(run):
    """The texts of the warnings of a call."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    return [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]


@pytest.mark.parametrize("logit", [None, -1e9, -np.inf])
@pytest.mark.parametrize("mixing", [Centre, Normalised])
def test_a_model_that_mixes_inputs_gets_the_same_warning_as_in_torch(mixing, logit):
    after = [] if logit is None else [Impossible(logit)]
    model = ending(mixing(), layers.Dense(3), *after)
    x = np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32)
    messages = warnings_of(lambda: predict(model, x, outputs="logits"))
    assert len(messages) == 1
    assert messages[0].startswith(
        "`model` gives an input other numbers when other inputs come with it, so results depend"
    )


@pytest.mark.parametrize("logit", [-1e9, -np.inf])
def test_an_impossible_class_gets_no_warning(logit):
    model = ending(layers.Dense(3), Impossible(logit))
    x = np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32)
    assert warnings_of(lambda: predict(model, x, outputs="logits")) == []
    assert predict(model, x, outputs="logits").engine == "vmap"


def head(rate, n_before=2, n_after=1, **compiled):
    dense = [layers.Dense(5, activation="relu") for _ in range(n_before + n_after - 1)]
    model = keras.Sequential([keras.Input((4,)), *dense[:n_before], layers.Dropout(rate), *dense[n_before:]])
    model.add(layers.Dense(2))
    if compiled:
        model.compile(**compiled)
    return model


LAST_ALONE = "`model` has dropout before its last layer alone"
LOW, HIGH = "`model` has dropout rates under 0.1", "`model` has dropout rates over 0.7"


@pytest.mark.parametrize(
    ("model", "starts"),
    [
        (lambda: head(0.05), [LAST_ALONE, LOW]),
        (lambda: head(0.8), [LAST_ALONE, HIGH]),
        (lambda: head(0.3), [LAST_ALONE]),
        (lambda: head(0.3, n_before=1), []),
        (lambda: head(0.3, n_after=2), []),
        (lambda: head(0.05, n_after=2, loss="mse"), []),
        (lambda: head(0.05, n_after=2, loss=keras.losses.CategoricalCrossentropy(from_logits=True)), [LOW]),
    ],
)
def test_sites_give_the_same_advice_as_in_torch(model, starts):
    x = np.zeros((N, 4), np.float32)
    messages = warnings_of(lambda: mcd.mc_sites(model(), x))
    assert len(messages) == len(starts)
    assert all(message.startswith(start) for message, start in zip(messages, starts, strict=True))
    if starts == [LAST_ALONE, LOW]:
        torch_model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 5), nn.Dropout(0.05), nn.Linear(5, 2))
        of_torch = warnings_of(lambda: mcd.mc_sites(torch_model, x))
        assert [
            re.sub(r"dropout\w*\[", "2[", message) for message in messages
        ] == of_torch  # the names of the layer differ


def test_a_compared_rate_gives_the_numbers_of_a_model_with_that_rate():
    x, y = np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32), list("abaabba")
    options = {"outputs": "logits", "labels": ["a", "b"], "seed": 3, "progress": False}
    model, other_rate = (
        with_weights(
            keras.Sequential([keras.Input((4,)), layers.Dropout(rate), layers.AlphaDropout(rate), layers.Dense(2)])
        )
        for rate in (0.2, 0.4)
    )
    table = mcd.mc_compare_rates(model, x, y, (0.4, 0.1), DRAWS, **options)
    mean = mcd.mc_predict(other_rate, x, DRAWS, **options).mean
    codes = ["ab".index(label) for label in y]
    np.testing.assert_allclose(table.loss[0], -np.log(mean[np.arange(N), codes]).mean(), rtol=1e-5)
    assert table.loss[0] != table.loss[1]
    refitted = mcd.mc_compare_rates(lambda rate: other_rate, x, y, (0.1,), DRAWS, **options)
    np.testing.assert_allclose(refitted.loss[0], table.loss[0], rtol=1e-5)


# ---- errors ---------------------------------------------------------------------------------------------------


FIXED = (
    "`model` takes only 8 inputs at a time, and what it says of one must not depend on how many come with it; build it "
    "once more without a batch size (and not `stateful`), and give that its weights by "
    "`set_weights(model.get_weights())`."
)


class FixedBatchSize(layers.Layer):
    """Adds a state with the fixed batch size 8."""

    def call(self, x):
        return x + keras.ops.zeros((8, 1, 4))


def test_a_fixed_batch_size_is_reported_with_the_remedy():
    x = np.random.default_rng(0).normal(size=(16, 5, 4)).astype(np.float32)
    recurrent = [keras.Input((5, 4), batch_size=8), layers.LSTM(3, stateful=True), layers.Dropout(0.3), layers.Dense(2)]
    with_state = [
        keras.Input((5, 4), batch_size=8),
        FixedBatchSize(),
        layers.Flatten(),
        layers.Dropout(0.3),
        layers.Dense(2),
    ]
    for model in (keras.Sequential(recurrent), keras.Sequential(with_state)):
        assert raised(model, x, outputs="values") == FIXED
        for run in (
            mcd.mc_sites,
            lambda *arguments: mcd.mc_predict_point(*arguments, outputs="values", progress=False),
        ):
            with pytest.raises(ValueError, match="`model` takes only 8 inputs at a time"):
                run(model, x)
    model = with_weights(keras.Sequential([keras.Input((5, 4), batch_size=8), layers.Dropout(0.3), layers.Flatten()]))
    assert predict(model, x[:N], outputs="values").mean.shape == (N, 20)  # this model takes any number of inputs


def test_a_model_that_takes_no_single_input_gets_an_error_about_the_number_of_inputs():
    x = keras.Input((4,))
    fixed = keras.Model(x, layers.Dense(2)(layers.Dropout(0.3)(x + np.zeros((5, 4), np.float32))))
    message = raised(fixed, np.zeros((N, 4), np.float32), outputs="values")
    assert message.startswith("`model` fails on inputs of shape (input, 4), 3 at a time: ")
    assert message.endswith("; it must take any number of inputs, each as it was made for.")


@pytest.mark.parametrize("weight", [np.nan, np.inf])
def test_weights_that_are_nan_or_infinite_raise_an_error_that_names_the_input(weight):
    model = ending(layers.Dense(3), layers.Dense(2))
    model.set_weights([np.full_like(array, weight) for array in model.get_weights()])
    x = np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32)
    for run in (
        lambda: predict(model, x, outputs="values"),
        lambda: mcd.mc_predict_point(model, x, outputs="values", progress=False),
        lambda: mcd.mc_sampler(model, x, outputs="values"),
        lambda: mcd.mc_sites(model, x),
    ):
        with pytest.raises(ValueError, match="`model` returned NaN or infinite values for input number 1; look at its"):
            run()


def test_outputs_without_a_number_are_refused():
    model = ending(layers.Dense(3), layers.Lambda(lambda x: x[:, :0]))
    x = np.zeros((N, 4), np.float32)
    assert (
        raised(model, x, outputs="values") == "`model` must return at least one number for an input; got shape (3, 0)."
    )


def raised(model, x, **kwargs: Any) -> str:
    with pytest.raises((ValueError, TypeError)) as error:
        predict(model, x, **kwargs)
    return str(error.value)


def test_errors_name_the_remedy():
    model, x, _ = build_case("cnn")
    assert raised(ending_without_dropout(), x[:, 0, 0, :]) == (
        "`model` has no dropout with a rate above 0, so every draw would be the same; "
        "add `keras.layers.Dropout` layers and train again."
    )
    assert raised(Subclassed(), x) == (
        "`model` has no weights yet; fit it, load its weights, or call it on some inputs first."
    )
    assert raised(model, x, constants={"scale": 2}).startswith(
        "`constants` are for torch modules, and Keras models take"
    )
    assert "`precision` of a Keras model" in raised(model, x, precision="bfloat16")
    assert raised(model, x, device="cuda:7").startswith("`device` of a Keras model is where Keras has put it, cpu;")
    assert raised(model, x[:, :5]).startswith(
        "`model` fails on inputs of shape (input, 5, 8, 2), 3 at a time: ValueError, "
    )
    assert raised(model, x, outputs="logits").startswith('`outputs` is "logits", but `model` returned probabilities')
    fixed = ending(layers.Dropout(0.3, noise_shape=(None, 3)), layers.Dense(2, activation="softmax"))
    assert "whose `noise_shape` (None, 3) does not fit what it meets" in raised(fixed, x[:, 0, 0, :1].repeat(4, 1))


def ending_without_dropout():
    return with_weights(keras.Sequential([keras.Input((2,)), layers.Dense(3, activation="softmax")]))


def test_a_forked_process_predicts_or_names_the_remedy(monkeypatch):
    model, x, _ = build_case("cnn")
    expected = predict(model, x).mean
    if BACKEND != "torch":  # these backends hang in a forked process
        monkeypatch.setattr("mcdropout.compute.forks.BROKEN_BY_FORK", set())
        monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
        in_forked_child()
        with pytest.raises(RuntimeError, match='Keras\'s backend .* forked .*"spawn" or "forkserver".*makeCluster'):
            predict(model, x)
        return
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()

    def work():
        signal.alarm(300)  # ends the process if it hangs
        queue.put(np.abs(predict(model, x).mean - expected).max())

    child = context.Process(target=work)
    child.start()
    child.join()
    assert child.exitcode == 0
    assert queue.get() < 1e-5


@pytest.mark.skipif(BACKEND != "torch", reason="only torch works in a forked process")
def test_a_process_forked_during_a_pass_has_the_original_functions_of_keras():
    functions = keras.src.backend.random  # pyright: ignore[reportAttributeAccessIssue]
    original, exit_codes = functions.dropout, []

    def forked():
        child = os.fork()
        if child == 0:
            # The original function is restored, and no thread holds the lock of the replacement.
            os._exit(0 if functions.dropout is original and numbers.PATCH_LOCK.acquire(blocking=False) else 1)
        exit_codes.append(os.waitpid(child, 0)[1])

    class Forking(layers.Layer):
        def call(self, x):
            if functions.dropout is not original and not exit_codes:  # during a sampled pass
                with numbers.PATCH_LOCK:
                    thread = threading.Thread(target=forked)
                    thread.start()
                    thread.join()
            return x

    model = keras.Sequential([layers.Dropout(0.5), Forking()])
    model.build((None, 3))
    predict(model, np.ones((4, 3), "float32"), outputs="values")
    assert exit_codes == [0]
    assert functions.dropout is original
