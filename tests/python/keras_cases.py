"""Tests on one of Keras's backends, which Keras fixes when it is imported: `test_keras.py` runs this file with pytest
in a process for each, by KERAS_BACKEND, and compares what they leave in the folder MCDROPOUT_KERAS_DRAWS.
"""

import multiprocessing
import os
from pathlib import Path

import keras
import numpy as np
import pytest
import torch
from keras import layers
from torch import nn

import mcdropout as mcd
from mcdropout.devices import in_forked_child
from mcdropout.keras_draws import outputs_of
from mcdropout.randomness import keep_masks

BACKEND = keras.backend.backend()
FOLDER = Path(os.environ["MCDROPOUT_KERAS_DRAWS"])
N, DRAWS = 7, 6


class MCDropout(layers.Dropout):
    """As books have it."""

    def call(self, inputs):
        return super().call(inputs, training=True)


class Block(layers.Layer):
    def __init__(self, units):
        super().__init__()
        self.dense, self.norm, self.drops = layers.Dense(units), layers.LayerNormalization(), [layers.Dropout(0.3)]

    def build(self, shape):
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

    def build(self, shape):
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


def made(name):
    build, shape, kwargs = CASES[name]
    rng = np.random.default_rng(2)
    if shape is not None:
        x = rng.normal(size=(N, *shape)).astype(np.float32)
    else:
        x = {"words": rng.integers(0, 11, (N, 5)), "table": rng.normal(size=(N, 3)).astype(np.float32)}
    return with_weights(build()), x, kwargs


def predict(model, x, **kwargs):
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
    own = keras.ops.convert_to_numpy(model(x, training=False)) if name != "subclassed" else None
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
    kept = keep_masks(3, "shared", "0", 0.25, 5, torch.arange(DRAWS), torch.zeros(1, dtype=torch.int64)).numpy()
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


def test_a_sampler_sees_new_weights():
    model, x, _ = made("cnn")
    sampler = mcd.mc_sampler(model, x[:2], n_samples=DRAWS, seed=3)
    np.testing.assert_allclose(sampler(x).mean, predict(model, x).mean, rtol=0, atol=1e-5)
    with_weights(model, seed=9)
    np.testing.assert_allclose(sampler(x[:4]).mean, predict(model, x[:4]).mean, rtol=0, atol=1e-5)


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
    assert mcd.mc_sites(model, x).operation.tolist() == ["dropout"]
    table = mcd.mc_sites(model, x, gaussian_noise=True)
    assert table.operation.tolist() == ["gaussian_noise", "dropout"]
    model, x, _ = made("lstm")
    table = mcd.mc_sites(model, x)
    assert table.operation.tolist() == ["dropout"] * 4 + ["recurrent_dropout"] * 4  # one for each gate
    assert table["shape"].tolist() == ["4"] * 4 + ["6"] * 4
    assert all("lstm" in one for one in table.site)


def test_numbers_of_the_models_own_are_told_of():
    class Jitter(layers.Layer):
        def __init__(self):
            super().__init__()
            self.seed_generator = keras.random.SeedGenerator(1)

        def call(self, x, training=False):
            return x + keras.random.normal(keras.ops.shape(x), seed=self.seed_generator) if training else x

    model = ending(Jitter(), layers.Dense(3, activation="softmax"))
    x = np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32)
    with pytest.warns(UserWarning, match="draws random numbers of its own when training, besides dropout"):
        predict(model, x)


def test_numbers_that_are_always_drawn_differ_between_draws():
    class Jitter(layers.Layer):
        def __init__(self):
            super().__init__()
            self.seed_generator = keras.random.SeedGenerator(1)

        def call(self, x):
            return x + keras.random.normal((1, 4), seed=self.seed_generator)

    model = with_weights(keras.Sequential([keras.Input((4,)), Jitter(), layers.Dense(2), layers.Dropout(0.01)]))
    x = np.zeros((N, 4), np.float32)
    with pytest.warns(UserWarning, match="draws random numbers of its own besides dropout"):
        prediction = predict(model, x, outputs="values")
    assert prediction.engine == "loop"
    assert len(np.unique(prediction.samples[:, 0, 0])) == DRAWS
    assert np.array_equal(model.layers[0].seed_generator.state.value.cpu() if BACKEND == "torch" else [1, 0], [1, 0])


# ---- errors ---------------------------------------------------------------------------------------------------


def raised(model, x, **kwargs):
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
    assert "`precision` of a Keras model" in raised(model, x, precision="bfloat16")
    assert raised(model, x, device="cuda:7").startswith("`device` of a Keras model is where Keras has put it, cpu;")
    assert raised(model, x[:, :5]).startswith("`model` fails on inputs of shape (input, 5, 8, 2): ValueError, ")
    assert raised(model, x, outputs="logits").startswith('`outputs` is "logits", but `model` returned probabilities')
    fixed = ending(layers.Dropout(0.3, noise_shape=(None, 3)), layers.Dense(2, activation="softmax"))
    assert "whose `noise_shape` (None, 3) does not fit what it meets" in raised(fixed, x[:, 0, 0, :1].repeat(4, 1))


def ending_without_dropout():
    return with_weights(keras.Sequential([keras.Input((2,)), layers.Dense(3, activation="softmax")]))


def test_a_forked_process_predicts_or_says_what_does(monkeypatch):
    model, x, _ = made("cnn")
    here = predict(model, x).mean
    if BACKEND != "torch":  # would wait for ever
        monkeypatch.setattr("mcdropout.devices.LEFT_BEHIND", set())
        monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
        in_forked_child()
        with pytest.raises(RuntimeError, match='Keras\'s backend .* forked .*"spawn" or "forkserver".*makeCluster'):
            predict(model, x)
        return
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=lambda: queue.put(np.abs(predict(model, x).mean - here).max()))
    child.start()
    child.join(60)
    child.kill()
    assert child.exitcode == 0
    assert queue.get() < 1e-5
