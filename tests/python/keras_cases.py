"""Tests on one of Keras's backends, which Keras fixes when it is imported: `test_keras.py` runs this file with pytest
in a process for each, by KERAS_BACKEND, and compares what they leave in the folder MCDROPOUT_KERAS_DRAWS.
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
    """As books have it."""

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
    """An object of the user's own, of which Keras knows nothing."""

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
    model.set_weights([rng.uniform(-0.3, 0.3, one.shape) + (len(one.shape) == 1) for one in model.weights])
    return model


def made(name) -> tuple[Any, Any, dict[str, Any]]:
    build, shape, kwargs = CASES[name]
    rng = np.random.default_rng(2)
    if shape is not None:
        x = rng.normal(size=(N, *shape)).astype(np.float32)
    else:
        x = {"words": rng.integers(0, 11, (N, 5)), "table": rng.normal(size=(N, 3)).astype(np.float32)}
    return with_weights(build()), x, kwargs


def predict(model, x, **kwargs: Any) -> Any:
    return mcd.mc_predict(model, x, **{"n_samples": DRAWS, "seed": 3, "progress": False, **kwargs})


def taken(x, part):
    return {name: one[part] for name, one in x.items()} if isinstance(x, dict) else x[part]


def state(model):
    """All that a prediction could change."""
    seeds = [np.array(one.value) for one in model.non_trainable_variables] if BACKEND != "torch" else []
    seeds += [keras.ops.convert_to_numpy(one.state) for one in model._flatten_layers() for one in one._seed_generators]
    attributes = [{name: id(one) for name, one in vars(layer).items()} for layer in model._flatten_layers()]
    return [*model.get_weights(), *seeds], attributes


# Cases whose batches, order and ids are varied: all of them where nothing is compiled, else a few.
WATCHED = CASES if BACKEND == "torch" else ("cnn", "subclassed", "attention")


# ---- the promises ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_draws_keep_their_promises(name):
    model, x, kwargs = made(name)
    weights, attributes = state(model)
    torch_state = torch.get_rng_state()
    whole = predict(model, x, **kwargs)
    assert whole.samples.std(axis=0).max(axis=-1).min() > 1e-4
    assert whole.engine == "vmap", whole.engine_reason
    own = predict(model, x, masks="per_input", **kwargs).samples
    np.savez(FOLDER / f"{BACKEND} {name}.npz", shared=whole.samples, per_input=own)
    slack = 1e-5 * np.abs(whole.samples).max()  # rounding: sums of float32 in another order
    assert np.abs(own - whole.samples).max() > 10 * slack
    if name in WATCHED:
        order = np.array([4, 0, 6])
        some = predict(model, taken(x, order), n_samples=3, batch_size=2, **kwargs).samples
        np.testing.assert_allclose(some, whole.samples[:3, order], rtol=0, atol=slack)
        some = predict(model, taken(x, order), masks="per_input", ids=order, batch_size=2, **kwargs).samples
        np.testing.assert_allclose(some, own[:, order], rtol=0, atol=slack)
    after, attributes_after = state(model)
    for one, other in zip(weights, after, strict=True):
        np.testing.assert_array_equal(one, other)
    assert attributes_after == attributes
    assert torch.equal(torch.get_rng_state(), torch_state)


@pytest.mark.parametrize("name", [name for name in CASES if name != "noise" and name in WATCHED])
def test_the_point_prediction_is_kerass_own(name):
    model, x, kwargs = made(name)
    own: Any = keras.ops.convert_to_numpy(model(x, training=False)) if name != "subclassed" else None
    point = mcd.mc_predict_point(model, x, **kwargs)
    if own is None:  # two layers there always drop
        assert np.abs(point - mcd.mc_predict_point(model, x, **kwargs)).max() == 0
        return
    if kwargs.get("outputs") == "logits":
        own = np.exp(own) / np.exp(own).sum(axis=-1, keepdims=True)
    own = np.concatenate([1 - own, own], axis=1) if own.shape[1] == 1 else own
    np.testing.assert_allclose(point, own, atol=1e-6)


def test_draws_are_those_by_hand():
    """Two dense layers in NumPy, with the masks that the key says."""
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
    """Keras's kernels into torch's convolutions and dense layers; `last_sides`: (height, width) before a flatten."""
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
    model, x, _ = made("cnn")
    parts = [nn.Conv2d(2, 5, 3), nn.Linear(45, 6), nn.Linear(6, 3)]
    twin = nn.Sequential(
        nn.Sequential(parts[0], nn.ReLU(), nn.Dropout(0.25), nn.MaxPool2d(2), nn.Dropout2d(0.3)),
        nn.Sequential(nn.Flatten(), nn.Dropout(0.4), parts[1], nn.ReLU(), nn.Dropout(0.5), parts[2], nn.Softmax(-1)),
    )
    weights_into(parts, model.get_weights(), last_sides=(3, 3))
    for masks in ("shared", "per_input"):
        theirs = predict(twin, np.moveaxis(x, -1, 1).copy(), outputs="probabilities", masks=masks)
        ours = predict(model, x, masks=masks)
        np.testing.assert_allclose(ours.samples, theirs.samples, rtol=0, atol=1e-4)
        np.testing.assert_allclose(ours.mutual_information, theirs.mutual_information, rtol=0, atol=1e-4)


def test_so_does_a_network_of_our_own():
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
    modules = [one for one in net.modules() if isinstance(one, (nn.Conv2d, nn.Linear))]
    weights_into(modules, model.get_weights(), last_sides=(3, 3))
    x = np.random.default_rng(0).normal(size=(N, 8, 8, 1)).astype(np.float32)
    np.testing.assert_allclose(predict(model, x).samples, predict(net, x).samples, rtol=0, atol=1e-4)


def test_attention_weights_are_dropped_as_torchs():
    x = keras.Input((5, 8))
    model = with_weights(keras.Model(x, layers.MultiHeadAttention(2, 4, dropout=0.3)(x, x)))
    query, query_bias, key, key_bias, value, value_bias, out, out_bias = map(torch.tensor, model.get_weights())

    class Twin(nn.Module):
        def forward(self, x):
            parts = ((query, query_bias), (key, key_bias), (value, value_bias))
            q, k, v = (torch.einsum("btd,dhk->bhtk", x, kernel) + bias[:, None] for kernel, bias in parts)
            found = nn.functional.scaled_dot_product_attention(q, k, v, dropout_p=0.3)
            return torch.einsum("bhtk,hkd->btd", found, out) + out_bias

    rows = np.random.default_rng(0).normal(size=(N, 5, 8)).astype(np.float32)
    theirs = predict(Twin(), rows, outputs="values").samples
    np.testing.assert_allclose(predict(model, rows, outputs="values").samples, theirs, rtol=0, atol=1e-4)


def test_signals_have_their_channels_last_too():
    model, x, _ = made("signals")
    parts = [nn.Conv1d(2, 4, 3), nn.Linear(24, 3)]
    flat = nn.Sequential(nn.Flatten(), parts[1], nn.Softmax(-1))
    twin = nn.Sequential(parts[0], nn.ReLU(), nn.Dropout(0.3), nn.Dropout1d(0.2), flat)
    weights_into(parts, model.get_weights(), last_sides=(6,))
    theirs = predict(twin, np.moveaxis(x, -1, 1).copy(), outputs="probabilities")
    np.testing.assert_allclose(predict(model, x).samples, theirs.samples, rtol=0, atol=1e-4)


# ---- what the outputs mean ------------------------------------------------------------------------------------


def ending(*last, **compiled):
    model = keras.Sequential([keras.Input((4,)), layers.Dropout(0.3), *last])
    if compiled:
        model.compile(**compiled)
    return with_weights(model)


@pytest.mark.parametrize(
    ("model", "said"),
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
def test_the_last_activation_or_the_loss_says_what_is_returned(model, said):
    assert outputs_of(model(), None) == said


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
def test_what_is_not_sure_is_asked(model):
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
    assert predict(model, rows, select=lambda found: found["b"], outputs="values").mean.shape == (N, 1)
    with pytest.raises(TypeError, match='`model` returns several parts \\("a", "b"\\); say which with `select`'):
        predict(model, rows, outputs="values")


# ---- other ways in --------------------------------------------------------------------------------------------


def test_inputs_by_position_and_in_a_stream():
    model, x, kwargs = made("two inputs")
    whole = predict(model, x, **kwargs).samples
    inputs = [one.name for one in model.inputs]
    by_position = keras.Model([model.inputs[inputs.index(name)] for name in ("words", "table")], model.outputs[0])
    found = predict(by_position, (x["words"], x["table"]), **kwargs).samples
    np.testing.assert_allclose(found, whole, rtol=0, atol=1e-5)
    stream = ({name: one[start : start + 3] for name, one in x.items()} for start in range(0, N, 3))
    np.testing.assert_allclose(predict(model, stream, **kwargs).samples, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["int64", "int8", "uint8", "float32", "float64"])
def test_codes_of_any_type_are_whole_numbers_and_others_are_not_cut(kind):
    model, x, kwargs = made("two inputs")
    whole = predict(model, x, **kwargs).samples
    x["words"] = x["words"].astype(kind)
    np.testing.assert_array_equal(predict(model, x, **kwargs).samples, whole)
    if "float" in kind:
        x["words"][5, 2] = 1.5
        assert "`words` must hold whole numbers, because `model` needs them there; got 1.5" in raised(
            model, x, **kwargs
        )


class Attending(keras.Model):
    """A subclassed model, which says nothing of its inputs."""

    def __init__(self):
        super().__init__()
        self.attend, self.drop, self.last = layers.MultiHeadAttention(2, 3), layers.Dropout(0.3), layers.Dense(2)

    def call(self, x, seen=None):
        seen = None if seen is None else keras.ops.expand_dims(keras.ops.cast(seen, "bool"), 1)
        return self.last(self.drop(self.attend(x, x, attention_mask=seen)[:, 0]))


@pytest.mark.parametrize("kind", ["bool", "int32", "uint8"])
def test_masks_and_pixels_reach_a_subclassed_model(kind):
    rng = np.random.default_rng(0)
    x, seen = rng.normal(size=(N, 5, 4)).astype(np.float32), np.arange(5) < rng.integers(1, 4, N)[:, None]
    model = Attending()
    model(x, seen=seen)
    with_weights(model)
    given = {"x": x, "seen": seen.astype(kind)}
    own: Any = keras.ops.convert_to_numpy(model(x, seen=seen))
    point = mcd.mc_predict_point(model, given, outputs="values", progress=False)
    np.testing.assert_allclose(point, own, rtol=0, atol=1e-5)  # rounding of float32
    usual = predict(model, given, outputs="values").samples
    x[~seen] = 9  # what is hidden
    np.testing.assert_allclose(predict(model, given, outputs="values").samples, usual, rtol=0, atol=1e-5)
    pixels = rng.integers(0, 2, (N, 5, 4)).astype(kind)
    found = predict(model, pixels, outputs="values").samples
    np.testing.assert_allclose(found, predict(model, pixels.astype(np.float32), outputs="values").samples, atol=1e-5)


def test_a_single_channel_of_a_map_is_that_of_the_second_label():
    x = keras.Input((6, 7, 2))
    y = layers.Conv2D(1, 1, activation="sigmoid")(layers.SpatialDropout2D(0.4)(layers.Conv2D(4, 3)(x)))
    model, rows = with_weights(keras.Model(x, y)), np.random.default_rng(0).normal(size=(N, 6, 7, 2))
    found = predict(model, rows, outputs="probabilities", labels=["no", "yes"])
    assert found.mean.shape == (N, 4, 5, 2)
    np.testing.assert_allclose(found.mean[..., 1:], predict(model, rows, outputs="values").mean, rtol=0, atol=1e-6)


def test_a_dataset_that_shuffles_is_refused():
    tensorflow = pytest.importorskip("tensorflow")
    model, x, _ = made("cnn")
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
    model, x, _ = made("cnn")
    some = predict(model, x, n_samples=15, tolerance=0.03)  # two rounds
    whole = predict(model, x, n_samples=15).samples
    for place, n_draws in enumerate(some.n_samples):
        np.testing.assert_allclose(some.samples[:n_draws, place], whole[:n_draws, place], rtol=0, atol=1e-5)


def test_a_saved_model_draws_the_same(tmp_path):
    model, x, _ = made("cnn")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    found = predict(model, x).samples
    np.testing.assert_array_equal(predict(loaded, x).samples, found)
    np.testing.assert_array_equal(predict(tmp_path / "model.keras", x).samples, found)
    with pytest.raises(ValueError, match="`model` must be a model or a file that exists; got"):
        predict(tmp_path / "another.keras", x)


def test_training_goes_on_as_before():
    def trained(between):
        keras.utils.set_random_seed(1)
        model = with_weights(cnn())
        model.compile(optimizer="sgd", loss="sparse_categorical_crossentropy")
        x, y = np.random.default_rng(0).normal(size=(8, 9, 8, 2)).astype(np.float32), np.arange(8) % 3
        model.train_on_batch(x, y)
        if between:
            predict(model, x)
        model.train_on_batch(x, y)
        return model.get_weights()

    for one, other in zip(trained(True), trained(False), strict=True):
        np.testing.assert_array_equal(one, other)


def test_sites_are_named_and_gaussian_noise_is_left_out_unasked():
    model, x, _ = made("noise")
    with pytest.warns(UserWarning, match="by gaussian_noise in .*; they are left out unless `gaussian_noise` is true"):
        assert mcd.mc_sites(model, x).operation.tolist() == ["dropout"]
    table = mcd.mc_sites(model, x, gaussian_noise=True)
    assert table.operation.tolist() == ["gaussian_noise", "dropout"]
    model, x, _ = made("lstm")
    table = mcd.mc_sites(model, x)
    assert table.operation.tolist() == ["dropout"] * 4 + ["recurrent_dropout"] * 4  # one for each gate
    assert table["shape"].tolist() == ["4"] * 4 + ["6"] * 4
    assert all("lstm" in one for one in table.site)


# ---- numbers of the model's own -------------------------------------------------------------------------------


class Own(layers.Layer):
    """Draws by a function of its own, in training or always."""

    def __init__(self, draw, always=False):
        super().__init__(name="own")
        self.draw, self.always, self.seeds = draw, always, keras.random.SeedGenerator(1)

    def call(self, x, training=None):
        return self.draw(x, self.seeds) if training or self.always else x


def of_keras(operation):
    """How a layer of Keras draws, and a module of torch: the same made of the same numbers."""
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
        "one for all": (
            lambda x, seed: x * random.uniform((), seed=seed),
            lambda x: x * torch.rand(()),
        ),
        "normal": (
            lambda x, seed: x + random.normal(ops.shape(x), 0.5, 0.3, seed=seed),
            lambda x: x + torch.randn_like(x) * 0.3 + 0.5,
        ),
    }[operation]


class Twin(nn.Module):
    def __init__(self, draw, always, model):
        super().__init__()
        self.draw, self.always, self.drop, self.last = draw, always, nn.Dropout(0.25), nn.Linear(4, 2)
        weights_into([self.last], model.get_weights())

    def forward(self, x):
        return self.last(self.drop(self.draw(x) if self.training or self.always else x))


OPERATIONS = ("dropout", "uniform", "bernoulli", "locked", "one for all", "normal")


@pytest.mark.parametrize("always", [False, True])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_a_layer_draws_itself_is_what_a_torch_module_draws(operation, always):
    ours, theirs = of_keras(operation)
    model = ending_in(Own(ours, always), layers.Dropout(0.25), layers.Dense(2))
    twin = Twin(theirs, always, model)
    x = np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32)
    given = {"outputs": "values", "gaussian_noise": operation == "normal"}
    table = mcd.mc_sites(model, x, gaussian_noise=operation == "normal")
    assert len(table) == 2
    assert table.site[0] == "own[0]"
    for masks in ("shared", "per_input"):
        found = predict(model, x, masks=masks, **given).samples
        np.testing.assert_allclose(found, predict(twin, x, masks=masks, **given).samples, rtol=0, atol=1e-4)
        if BACKEND != "torch":  # where every number of inputs is compiled anew
            return
        some = predict(model, x[[5, 2]], masks=masks, batch_size=1, ids=[5, 2], **given).samples
        np.testing.assert_allclose(some, found[:, [5, 2]], rtol=0, atol=1e-5)
    alone = with_weights(ending_in(Own(ours, always), layers.Dense(2)))
    assert predict(alone, x, **given).std.min() > 1e-3
    if operation not in ("dropout", "normal"):  # a rate of its own, which is left alone
        changed = mcd.mc_compare_rates(model, x, x[:, :2], (0.25,), DRAWS, outputs="values", seed=3, progress=False)
        squares = (predict(model, x, outputs="values").mean - x[:, :2]) ** 2
        np.testing.assert_allclose(changed.loss[0], squares.mean(), rtol=1e-4)


def ending_in(*given):
    return with_weights(keras.Sequential([keras.Input((4,)), *given]))


def test_keras_s_functions_are_put_back():
    from keras.src.backend import random

    before = dict(vars(random))
    x = np.zeros((N, 4), np.float32)
    model = ending_in(Own(of_keras("dropout")[0]), layers.Dense(2))
    seen = []
    watching = ending_in(Own(lambda x, seed: seen.append(random.uniform) or x + keras.random.uniform((), seed=seed)))
    with pytest.raises(mcd.IdenticalDraws):
        predict(model, x, outputs="values")
    with pytest.raises(ValueError, match="`model` fails on inputs of shape"):
        predict(model, x[:, :3], outputs="values")
    predict(watching, x + 1, outputs="values")
    assert seen[-1] is not before["uniform"]
    assert dict(vars(random)) == before
    state: Any = keras.ops.convert_to_numpy(model.layers[0].seeds.state.value)
    assert state.tolist() == [1, 0]


class Mixed(layers.Layer):
    """Draws beside parts that must stay as in prediction."""

    def __init__(self):
        super().__init__(name="mixed")
        self.norm, self.inner = (
            layers.BatchNormalization(),
            Own(lambda x, seed: x + keras.random.normal((1, 4), seed=seed)),
        )
        self.seeds = keras.random.SeedGenerator(1)

    def call(self, x, training=None):
        x = self.inner(self.norm(x, training=training), training=training)
        return keras.random.dropout(x, 0.4, seed=self.seeds) if training else x


def test_what_lies_in_a_layer_that_draws_stays_as_in_prediction():
    x = np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32)
    mixed = ending_in(Mixed(), layers.Dense(2))
    plain = ending_in(layers.BatchNormalization(), layers.Dropout(0.4), layers.Dense(2))
    words = "`model` draws normal numbers when training, by normal in mixed/own; they are left out unless"
    with pytest.warns(UserWarning, match=words):
        found = predict(mixed, x, outputs="values").samples
    plain.set_weights(mixed.get_weights())
    np.testing.assert_allclose(found, predict(plain, x, outputs="values").samples, rtol=0, atol=1e-5)


def test_a_layer_that_does_more_than_draw_in_training_is_refused():
    model = ending_in(Own(lambda x, seed: 2 * keras.random.dropout(x, 0.4, seed=seed)), layers.Dense(2))
    said = raised(model, np.ones((N, 4), np.float32), outputs="values")
    assert said.startswith("`model` changes more than its dropout when training, in own, so it cannot be sampled as it")


def test_what_cannot_be_keyed_is_named():
    random, ops = keras.random, keras.ops
    x = np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32)
    given = {"outputs": "values"}
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
        said = told(lambda draw=draw: predict(ending_in(Own(draw), layers.Dropout(0.3), layers.Dense(2)), x, **given))
        assert len(said) == 1
        assert words in said[0]
        assert "left out" in said[0]
        with pytest.raises(mcd.NoStochasticSites) as error:
            predict(ending_in(Own(draw), layers.Dense(2)), x, **given)
        assert words.rpartition("by ")[2] in str(error.value)
        assert "layers and train again" not in str(error.value)
    by_batch = Own(lambda x, seed: x + random.gamma(ops.shape(x), 2.0, seed=seed), always=True)
    said = told(lambda: predict(ending_in(by_batch, layers.Dense(2)), x, **given))
    assert "cannot be keyed by input, by gamma in own; they depend on `batch_size`" in said[0]
    model = ending_in(Own(lambda x, seed: x + random.gamma((1, 4), 2.0, seed=seed), always=True), layers.Dense(2))
    first, again = (predict(model, x, batch_size=size, **given) for size in (7, 3))
    np.testing.assert_allclose(first.samples, again.samples, rtol=0, atol=1e-5)
    assert len(np.unique(first.samples[:, 0, 0])) == DRAWS


class Tagged(keras.Model):
    """Looks up what it is given, and once more what it makes of it; says nothing of its inputs."""

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
    said = rf"must hold whole numbers from 0 to 10, which `model` looks up in `(words|embedding\w*)`; got {value} in "
    said += f"input number {number}"
    both, alone = made("two inputs")[0], tagged()
    plain = ending_in(layers.Embedding(11, 6), layers.Flatten(), layers.Dropout(0.3), layers.Dense(2))
    point = {"outputs": "values", "batch_size": batch_size, "progress": False}
    for name, model, x, fine in (
        ("words", both, {"words": words, "table": table}, {"words": WORDS, "table": table}),
        ("x", alone, words, WORDS),
        ("x", alone, words.astype(float), WORDS),
        ("x", plain, words[:, :4], WORDS[:, :4]),
    ):
        with pytest.raises(ValueError, match=f"^`{name}` {said}"):
            predict(model, x, outputs="values", batch_size=batch_size)
        with pytest.raises(ValueError, match=f"^`{name}` {said}"):
            mcd.mc_predict_point(model, x, **point)
        asked = mcd.mc_sampler(model, fine, 3, outputs="values", seed=3)
        with pytest.raises(ValueError, match=f"^`{name}` {said}"):
            asked(x)
        assert len(asked(fine)) == N
        if number < 4:
            with pytest.raises(ValueError, match=f"^`{name}` {said}"):
                mcd.mc_sites(model, x)


def test_what_is_looked_up_is_checked_without_going_on():
    asked = mcd.mc_sampler(tagged(), WORDS, DRAWS, outputs="values", seed=3)
    assert asked.prepared is not None
    network: Any = asked.prepared[1]
    with network.failures_explained(network.placed(network.source(WORDS).head(3), network.replica.device)):
        assert network.replica.now.on.n_looked_up == 2
        assert not network.replica.now.on.counts  # the dropout behind was not met


def test_codes_and_features_of_any_type_may_follow_those_of_another():
    x = np.random.default_rng(5).integers(0, 2, (N, 4))
    dense = made("subclassed")[0]
    for model, rows, kinds in (
        (dense, x, (np.float32, np.int64, np.uint8, bool)),
        (tagged(), WORDS, (np.int64, float, np.int8)),
    ):
        usual = predict(model, rows.astype(np.float32), outputs="values")
        for order in (kinds, kinds[::-1]):
            asked = mcd.mc_sampler(model, rows.astype(order[0]), DRAWS, outputs="values", seed=3)
            for kind in order:
                np.testing.assert_allclose(asked(rows.astype(kind)).mean, usual.mean, rtol=0, atol=1e-5)
            streamed = predict(model, iter([rows.astype(kind) for kind in order]), outputs="values")
            np.testing.assert_allclose(streamed.mean, np.tile(usual.mean, (len(order), 1)), rtol=0, atol=1e-5)


class Summed(keras.Model):
    """Takes one dictionary, and drops first, which whole numbers would be spoilt by."""

    def __init__(self):
        super().__init__()
        self.drop, self.dense = layers.Dropout(0.4), layers.Dense(3)

    def call(self, inputs, training=None):
        return self.dense(self.drop(inputs["left"], training=training) + inputs["right"])


def test_a_dictionary_may_be_the_one_argument_in_any_form_and_of_any_type():
    x = {"left": np.arange(4 * N).reshape(N, 4) % 3, "right": np.arange(4 * N).reshape(N, 4) % 5}
    floating, model = {name: one.astype(np.float32) for name, one in x.items()}, Summed()
    model(floating)
    usual = predict(model, floating, outputs="values")
    asked = mcd.mc_sampler(model, floating, DRAWS, outputs="values", seed=3)
    for given in (floating, x, (x,)):
        np.testing.assert_allclose(asked(given).mean, usual.mean, rtol=0, atol=1e-5)
        assert np.abs(predict(model, given, outputs="values").mean - usual.mean).max() < 1e-5
    streamed = predict(model, iter([floating, (x, np.ones(N))]), outputs="values")
    np.testing.assert_allclose(streamed.mean, np.tile(usual.mean, (2, 1)), rtol=0, atol=1e-5)


def test_names_that_the_model_does_not_take_are_refused():
    model, x, _ = made("two inputs")
    with pytest.raises(ValueError, match='`x` must have names that `model` takes .*words, table.*; got "tabel"'):
        predict(model, {"words": x["words"], "tabel": x["table"]}, outputs="values")
    assert len(predict(model, {**x}, outputs="values")) == N
    table, rows, _ = made("cnn")
    np.testing.assert_array_equal(predict(table, {"inputs": rows}).mean, predict(table, rows).mean)


def test_augmentation_is_left_out_and_named():
    x = np.random.default_rng(0).normal(size=(N, 5, 4, 1)).astype(np.float32)
    flips = [keras.Input((5, 4, 1)), layers.RandomFlip(name="flip"), layers.Flatten()]
    said = told(lambda: predict(keras.Sequential([*flips, layers.Dropout(0.3)]), x, outputs="values"))
    assert said == [
        "`model` draws random numbers of its own when training, besides dropout, by uniform in flip; they are left out."
    ]
    with pytest.raises(mcd.NoStochasticSites, match="add `keras.layers.Dropout` layers and train again"):
        predict(keras.Sequential([*flips, layers.Dense(2)]), x, outputs="values")


def test_noise_that_is_not_asked_for_is_named():
    model, x, kwargs = made("noise")
    said = told(lambda: predict(model, x, outputs="values"))
    assert len(said) == 1
    assert said[0].startswith("`model` draws normal numbers when training, by gaussian_noise in gaussian_noise")
    assert told(lambda: predict(model, x, **kwargs)) == []


def test_numbers_that_make_no_difference_are_no_sites():
    def draw(x, seed):
        return x + 0 * keras.random.uniform(keras.ops.shape(x), seed=seed)

    model = ending_in(Own(draw, always=True), layers.Dropout(0.3), layers.Dense(2))
    x = np.ones((N, 4), np.float32)
    assert mcd.mc_sites(model, x).operation.tolist() == ["dropout"]
    assert told(lambda: predict(model, x, outputs="values")) == []


# ---- what is told of a model ----------------------------------------------------------------------------------


class Centre(layers.Layer):
    def call(self, x):
        return x - keras.ops.mean(x, axis=0, keepdims=True)


class Normalised(layers.BatchNormalization):
    """As in training, whatever is asked."""

    def call(self, x):  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().call(x, training=True)


class Impossible(layers.Layer):
    """Logits of a class that cannot be."""

    def __init__(self, logit):
        super().__init__()
        self.logit = logit

    def call(self, x):
        return keras.ops.concatenate([x, keras.ops.full_like(x[:, :1], self.logit)], axis=-1)


def told(run):
    """What is warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    return [str(one.message) for one in caught if issubclass(one.category, UserWarning)]


@pytest.mark.parametrize("logit", [None, -1e9, -np.inf])
@pytest.mark.parametrize("mixing", [Centre, Normalised])
def test_inputs_that_influence_each_other_are_told_of_as_in_torch(mixing, logit):
    after = [] if logit is None else [Impossible(logit)]
    model = ending(mixing(), layers.Dense(3), *after)
    x = np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32)
    said = told(lambda: predict(model, x, outputs="logits"))
    assert len(said) == 1
    assert said[0].startswith("`model` gives an input other numbers when other inputs come with it, so results depend")


@pytest.mark.parametrize("logit", [-1e9, -np.inf])
def test_an_impossible_class_is_nothing_to_be_told_of(logit):
    model = ending(layers.Dense(3), Impossible(logit))
    x = np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32)
    assert told(lambda: predict(model, x, outputs="logits")) == []
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
def test_sites_come_with_torchs_advice(model, starts):
    x = np.zeros((N, 4), np.float32)
    said = told(lambda: mcd.mc_sites(model(), x))
    assert len(said) == len(starts)
    assert all(one.startswith(start) for one, start in zip(said, starts, strict=True))
    if starts == [LAST_ALONE, LOW]:
        twin = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 5), nn.Dropout(0.05), nn.Linear(5, 2))
        of_torch = told(lambda: mcd.mc_sites(twin, x))
        assert [re.sub(r"dropout\w*\[", "2[", one) for one in said] == of_torch  # what each calls the layer


def test_rates_are_compared_as_those_of_a_model_made_with_them():
    x, y = np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32), list("abaabba")
    given = {"outputs": "logits", "labels": ["a", "b"], "seed": 3, "progress": False}
    model, twin = (
        with_weights(
            keras.Sequential([keras.Input((4,)), layers.Dropout(rate), layers.AlphaDropout(rate), layers.Dense(2)])
        )
        for rate in (0.2, 0.4)
    )
    found = mcd.mc_compare_rates(model, x, y, (0.4, 0.1), DRAWS, **given)
    mean = mcd.mc_predict(twin, x, DRAWS, **given).mean
    codes = ["ab".index(one) for one in y]
    np.testing.assert_allclose(found.loss[0], -np.log(mean[np.arange(N), codes]).mean(), rtol=1e-5)
    assert found.loss[0] != found.loss[1]
    refitted = mcd.mc_compare_rates(lambda rate: twin, x, y, (0.1,), DRAWS, **given)
    np.testing.assert_allclose(refitted.loss[0], found.loss[0], rtol=1e-5)


# ---- errors ---------------------------------------------------------------------------------------------------


FIXED = (
    "`model` takes only 8 inputs at a time, and what it says of one must not depend on how many come with it; build it "
    "once more without a batch size (and not `stateful`), and give that its weights by "
    "`set_weights(model.get_weights())`."
)


class Eight(layers.Layer):
    """Has a hidden state made for eight inputs."""

    def call(self, x):
        return x + keras.ops.zeros((8, 1, 4))


def test_a_model_built_for_so_many_inputs_says_so_and_what_to_do():
    x = np.random.default_rng(0).normal(size=(16, 5, 4)).astype(np.float32)
    recurrent = [keras.Input((5, 4), batch_size=8), layers.LSTM(3, stateful=True), layers.Dropout(0.3), layers.Dense(2)]
    own = [keras.Input((5, 4), batch_size=8), Eight(), layers.Flatten(), layers.Dropout(0.3), layers.Dense(2)]
    for model in (keras.Sequential(recurrent), keras.Sequential(own)):
        assert raised(model, x, outputs="values") == FIXED
        for act in (mcd.mc_sites, lambda *given: mcd.mc_predict_point(*given, outputs="values", progress=False)):
            with pytest.raises(ValueError, match="`model` takes only 8 inputs at a time"):
                act(model, x)
    model = with_weights(keras.Sequential([keras.Input((5, 4), batch_size=8), layers.Dropout(0.3), layers.Flatten()]))
    assert predict(model, x[:N], outputs="values").mean.shape == (N, 20)  # which takes any number all the same


def test_a_model_that_takes_no_single_input_is_not_told_that_its_input_is_wrong():
    x = keras.Input((4,))
    fixed = keras.Model(x, layers.Dense(2)(layers.Dropout(0.3)(x + np.zeros((5, 4), np.float32))))
    said = raised(fixed, np.zeros((N, 4), np.float32), outputs="values")
    assert said.startswith("`model` fails on inputs of shape (input, 4), 3 at a time: ")
    assert said.endswith("; it must take any number of inputs, each as it was made for.")


@pytest.mark.parametrize("weight", [np.nan, np.inf])
def test_weights_that_are_no_numbers_end_in_the_sentence_that_names_the_input(weight):
    model = ending(layers.Dense(3), layers.Dense(2))
    model.set_weights([np.full_like(one, weight) for one in model.get_weights()])
    x = np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32)
    for act in (
        lambda: predict(model, x, outputs="values"),
        lambda: mcd.mc_predict_point(model, x, outputs="values", progress=False),
        lambda: mcd.mc_sampler(model, x, outputs="values"),
        lambda: mcd.mc_sites(model, x),
    ):
        with pytest.raises(ValueError, match="`model` returned NaN or infinite values for input number 1; look at its"):
            act()


def test_a_model_that_returns_no_number_is_told_so():
    model = ending(layers.Dense(3), layers.Lambda(lambda x: x[:, :0]))
    x = np.zeros((N, 4), np.float32)
    assert (
        raised(model, x, outputs="values") == "`model` must return at least one number for an input; got shape (3, 0)."
    )


def raised(model, x, **kwargs: Any) -> str:
    with pytest.raises((ValueError, TypeError)) as error:
        predict(model, x, **kwargs)
    return str(error.value)


def test_errors_say_what_to_do():
    model, x, _ = made("cnn")
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


def test_a_forked_process_predicts_or_says_what_does(monkeypatch):
    model, x, _ = made("cnn")
    here = predict(model, x).mean
    if BACKEND != "torch":  # would wait for ever
        monkeypatch.setattr("mcdropout.compute.forks.BROKEN_BY_FORK", set())
        monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
        in_forked_child()
        with pytest.raises(RuntimeError, match='Keras\'s backend .* forked .*"spawn" or "forkserver".*makeCluster'):
            predict(model, x)
        return
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()

    def work():
        signal.alarm(300)  # ends it if it hangs
        queue.put(np.abs(predict(model, x).mean - here).max())

    child = context.Process(target=work)
    child.start()
    child.join()
    assert child.exitcode == 0
    assert queue.get() < 1e-5


@pytest.mark.skipif(BACKEND != "torch", reason="others are not forked")
def test_a_process_that_is_forked_off_during_a_pass_has_keras_own_functions():
    functions = keras.src.backend.random  # pyright: ignore[reportAttributeAccessIssue]
    own, seen = functions.dropout, []

    def forked():
        child = os.fork()
        if child == 0:
            # Keras's own function is there again, and nobody holds the lock that it is exchanged under
            os._exit(0 if functions.dropout is own and numbers.PATCH_LOCK.acquire(blocking=False) else 1)
        seen.append(os.waitpid(child, 0)[1])

    class Forking(layers.Layer):
        def call(self, x):
            if functions.dropout is not own and not seen:  # in a pass of ours
                with numbers.PATCH_LOCK:
                    thread = threading.Thread(target=forked)
                    thread.start()
                    thread.join()
            return x

    model = keras.Sequential([layers.Dropout(0.5), Forking()])
    model.build((None, 3))
    predict(model, np.ones((4, 3), "float32"), outputs="values")
    assert seen == [0]
    assert functions.dropout is own
