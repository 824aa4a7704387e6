"""Plain networks: shapes, tasks, units, seeds, and the messages of wrong arguments."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mcdropout.networks.network import ACTIVATIONS, MCNetwork
from mcdropout.networks.plain import build_plain, mc_cnn, mc_mlp

LABELS = ("cat", "dog", "emu")


def layer_kinds(model: MCNetwork) -> list[str]:
    return [type(layer).__name__ for layer in model.layers]


def test_the_default_cnn_is_the_network_of_the_r_keras_example():
    model = mc_cnn((28, 28, 1), n_outputs=10)
    hidden = ["Conv2d", "ReLU", "Dropout", "MaxPool2d"]
    assert layer_kinds(model) == [*hidden, *hidden, "Flatten", "Linear", "ReLU", "Dropout", "Linear"]
    # 3*3*1*32+32, 3*3*32*64+64, 5*5*64*128+128, 128*10+10
    assert sum(weights.numel() for weights in model.parameters()) == 320 + 18_496 + 204_928 + 1_290
    assert [layer.p for layer in model.layers if isinstance(layer, nn.Dropout)] == [0.25, 0.25, 0.5]


@pytest.mark.parametrize("shape", [(28, 28, 1), (8, 8, 1), (8, 9, 3), (5, 30, 2)])
def test_cnn_takes_images_channels_last_of_any_size_that_works(shape):
    model = mc_cnn(shape, LABELS, filters=(4, 6) if min(shape[:2]) > 5 else 4, hidden=7, dropout=0.1)
    assert model(torch.rand(2, *shape)).shape == (2, 3)


def test_cnn_reads_the_channel_axis_as_the_last():
    model = mc_cnn((6, 7, 2), LABELS, filters=4, hidden=5, dropout=0.2)
    x = torch.rand(3, 6, 7, 2)
    torch.testing.assert_close(model(x), model.layers(x.permute(0, 3, 1, 2)))
    assert model.layers[0](x.permute(0, 3, 1, 2)).shape == (3, 4, 4, 5)  # input, filter, height, width


@pytest.mark.parametrize(
    ("task", "noise", "columns", "outputs"),
    [
        ("classification", "homoscedastic", 3, "logits"),
        ("regression", "homoscedastic", 6, "mean_log_variance"),
        ("regression", "heteroscedastic", 6, "mean_log_variance"),
        ("regression", "none", 3, "values"),
    ],
)
def test_each_task_names_its_outputs(task, noise, columns, outputs):
    for model in (
        mc_mlp(5, n_outputs=3, task=task, noise=noise),
        mc_cnn((8, 8, 1), n_outputs=3, task=task, noise=noise),
    ):
        assert model(torch.rand(2, *model.input_shape)).shape == (2, columns)
        assert model.outputs == outputs


def test_a_binary_network_has_one_logit_and_two_labels():
    model = mc_mlp(5, ["no", "yes"], task="binary")
    assert model(torch.rand(4, 5)).shape == (4, 1)
    assert (model.outputs, model.labels) == ("logits", ("no", "yes"))


def test_the_noise_of_a_homoscedastic_network_is_one_number_per_output():
    model = mc_mlp(5, n_outputs=3, task="regression")
    log_variances = model(torch.rand(4, 5))[:, 3:]
    assert torch.equal(log_variances[0], log_variances[3])


def test_values_are_in_the_callers_units():
    model = mc_mlp(2, n_outputs=3, task="regression", noise="heteroscedastic")
    targets = np.array([[300.0, 1.0, -5.0], [300.02, 5.0, -5.0]])  # means 300.01, 3, -5; std 0.01, 2, none
    model.set_scales((np.zeros(2), np.ones(2)), targets)
    x = torch.rand(4, 2)
    mean, log_variance = model(x).chunk(2, dim=-1)
    standard_mean, standard_log_variance = model.standard_outputs(model.standard_inputs(x)).chunk(2, dim=-1)
    scale = torch.tensor([0.01, 2.0, 1.0])
    # 3e-5 is float32's rounding at 300
    torch.testing.assert_close(mean, standard_mean * scale + torch.tensor([300.01, 3, -5]), atol=3e-5, rtol=1e-5)
    torch.testing.assert_close(log_variance, standard_log_variance + 2 * scale.log(), atol=1e-5, rtol=1e-5)


def test_targets_far_from_zero_keep_their_digits():
    model = mc_mlp(2, task="regression")
    targets = 300 + 0.01 * np.linspace(-1, 1, 7)[:, None]
    model.set_scales(None, targets)
    standard = model.standard_targets(torch.from_numpy(targets)).numpy()
    # the centre is rounded to float32 (1.5e-5 at 300, 0.3 % of this spread); the spread is exact to 1e-5
    np.testing.assert_allclose(standard.std(), 1, rtol=1e-5)


def test_a_table_is_standardised_and_a_constant_column_is_not_scaled_up():
    model = mc_mlp(3, LABELS)
    mean, std = (
        np.array([10.0, -4.0, 7.1]),
        np.array([2.0, 0.5, 1e-16]),
    )  # rounding gives a constant column of 7.1 this std
    model.set_scales((mean, std), None)
    plain = mc_mlp(3, LABELS)
    x = torch.tensor([[12.0, -4.5, 7.1], [8.0, -3.0, 7.3]])
    z = torch.tensor([[1.0, -1.0, 0.0], [-1.0, 2.0, 0.2]])  # and not 2e15 standard deviations
    torch.testing.assert_close(model(x), plain(z), atol=1e-5, rtol=1e-5)


def test_units_are_set_only_once():
    model = mc_mlp(2, LABELS)
    model.set_scales((np.array([1.0, 2.0]), np.array([3.0, 4.0])), None)
    model.set_scales((np.array([5.0, 6.0]), np.array([7.0, 8.0])), None)
    assert model.feature_mean.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("make", [mc_mlp, lambda *a, **k: mc_cnn((8, 8, 1), *a[1:], **k)])
def test_the_first_weights_depend_only_on_the_seed(make):
    torch.manual_seed(11)
    first = make(4, LABELS, seed=5)
    torch.manual_seed(22)
    same, other = make(4, LABELS, seed=5), make(4, LABELS, seed=6)
    assert torch.equal(first.layers.output.weight, same.layers.output.weight)
    assert not torch.equal(first.layers.output.weight, other.layers.output.weight)


def numpy_state() -> np.ndarray:
    """The state of NumPy's global generator."""
    state: Any = np.random.get_state()
    return state[1]


def test_making_a_network_does_not_change_the_global_generators():
    torch.manual_seed(3)
    np.random.seed(3)
    torch_before, numpy_before = torch.get_rng_state(), numpy_state()
    mc_cnn((8, 8, 1), LABELS)
    with pytest.raises(ValueError, match="`dropout` must be"):
        mc_mlp(3, LABELS, dropout=2)
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert (numpy_state() == numpy_before).all()


@pytest.mark.parametrize(
    "model",
    [
        mc_cnn((9, 8, 2), [3, 1, 2], filters=(2, 3), hidden=(), dropout=(0.1, 0.2), activation="elu", seed=4),
        mc_cnn((8, 8, 1), n_outputs=2, task="regression", noise="heteroscedastic"),
        mc_mlp(4, ["b", "a"], task="binary", hidden=(5, 6), dropout=(0.3, 0.4), input_dropout=0.2),
        mc_mlp(4, task="regression", noise="none"),
    ],
    ids=["cnn classes", "cnn values", "mlp binary", "mlp values"],
)
def test_a_network_is_rebuilt_from_its_spec_through_json(model):
    rebuilt = build_plain(json.loads(json.dumps(model.spec)))
    rebuilt.load_state_dict(model.state_dict())
    x = torch.rand(3, *model.input_shape)
    assert torch.equal(rebuilt(x), model(x))
    assert (rebuilt.labels, rebuilt.outputs, rebuilt.spec) == (model.labels, model.outputs, model.spec)


def test_only_the_two_known_kinds_are_built():
    with pytest.raises(ValueError, match='`kind` must be one of "cnn", "mlp"; got "os.system"'):
        build_plain({"kind": "os.system", "command": "true"})


def test_whole_numbers_may_be_floats_as_in_r():
    sizes: dict[str, Any] = {"input_shape": [8.0, 8.0, 1.0], "filters": [2.0], "kernel_size": 3.0, "hidden": 4.0}
    labels: Any = [1.0, 2.0]
    seed: Any = 7.0
    model = mc_cnn(labels=labels, dropout=0.5, seed=seed, **sizes)
    assert model.labels == (1, 2)
    assert model.spec["filters"] == [2]


def test_dropout_follows_every_hidden_layer_and_with_input_dropout_the_features():
    model = mc_mlp(4, LABELS, hidden=(5, 6), dropout=(0.3, 0.4), input_dropout=0.2)
    assert layer_kinds(model) == ["Dropout", *(["Linear", "ReLU", "Dropout"] * 2), "Linear"]
    assert [layer.p for layer in model.layers if isinstance(layer, nn.Dropout)] == [0.2, 0.3, 0.4]


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_every_activation_is_made(activation):
    assert mc_mlp(4, LABELS, activation=activation)(torch.rand(2, 4)).isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "`labels` must name the classes; got nothing"),
        ({"labels": ["a"]}, r"`labels` must be a list of at least two labels; got \['a'\]"),
        ({"labels": "abc"}, '`labels` must be a list of at least two labels; got "abc"'),
        ({"labels": ["a", "b", "a"]}, '`labels` must all be different; got "a" more than once'),
        ({"labels": [1, "1"]}, '`labels` must all be different; got "1"|got 1 more than once'),
        ({"labels": [1.5, 2]}, "A label must be a string, a whole number or a truth value; got 1.5"),
        ({"labels": LABELS, "n_outputs": 4}, r"`n_outputs` must be the number of `labels` \(3\); got 4"),
        ({"n_outputs": 1}, "`n_outputs` must be a whole number of at least 2; got 1"),
        ({"labels": LABELS, "task": "binary"}, '`labels` must be two when `task` is "binary"; got 3'),
        ({"labels": LABELS, "task": "regression"}, '`labels` must be left out when `task` is "regression"'),
        ({"labels": LABELS, "task": "ranking"}, '`task` must be one of "classification", "binary", "regression"'),
        ({"labels": LABELS, "noise": "loud"}, '`noise` must be one of "homoscedastic"'),
        ({"labels": LABELS, "activation": "step"}, '`activation` must be one of "relu"'),
        ({"labels": LABELS, "hidden": 0}, "`hidden` must be a whole number of at least 1; got 0"),
        ({"labels": LABELS, "dropout": 1}, "`dropout` must be a number of at least 0 and below 1; got 1"),
        ({"labels": LABELS, "dropout": "a"}, '`dropout` must be a number of at least 0 and below 1; got "a"'),
        (
            {"labels": LABELS, "dropout": (0.1, 0.2)},
            r"`dropout` must be one rate, or one per layer of `hidden` \(1\); got 2 rates",
        ),
        ({"labels": LABELS, "input_dropout": -0.1}, "`input_dropout` must be a number of at least 0 and below 1"),
        ({"labels": LABELS, "seed": -1}, r"`seed` must be a whole number from 0 to 2\^53 - 1; got -1"),
    ],
)
def test_wrong_arguments_are_refused_with_one_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        mc_mlp(4, **arguments)


@pytest.mark.parametrize(
    ("shape", "arguments", "message"),
    [
        ((28, 28), {}, r"`input_shape` must be three whole numbers \(height, width, channel\); got \(28, 28\)"),
        (
            (4, 9, 1),
            {},
            r"`input_shape` must be large enough for 2 convolutions with `kernel_size` 3; got \(4, 9, 1\), which "
            r"leaves 4 - 2 = 2, 2 / 2 = 1, 1 - 2 = -1 on its shorter side",
        ),
        ((8, 8, 1), {"kernel_size": 9}, "leaves 8 - 8 = 0 on its shorter side"),
        ((8, 8, 1), {"filters": ()}, "`filters` must hold at least one whole number; got none"),
        (
            (8, 8, 1),
            {"dropout": (0.1, 0.2)},
            r"one per layer of `filters` and `hidden` together \(3\); got 2 rates",
        ),
    ],
)
def test_images_that_are_too_small_are_refused_with_the_arithmetic(shape, arguments, message):
    with pytest.raises(ValueError, match=message):
        mc_cnn(shape, LABELS, **arguments)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((5, 8, 9), r"must have shape \(input, 8, 9, 1\); got \(5, 8, 9\). Add the channel axis at the end"),
        ((8, 9, 1), "A single input also needs the input axis in front"),
        ((5, 1, 8, 9), "Move the channel axis to the end"),
        ((5, 8, 9, 3), r"must have shape \(input, 8, 9, 1\); got \(5, 8, 9, 3\)\.$"),
    ],
)
def test_inputs_of_another_shape_are_refused_with_a_suggestion(shape, message):
    with pytest.raises(ValueError, match=message):
        mc_cnn((8, 9, 1), LABELS).check_input_shape(shape)
