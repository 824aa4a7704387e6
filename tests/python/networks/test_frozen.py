"""A frozen backbone: it never changes, runs once, can be cut at a layer and works with any stochastic head."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset

import mcdropout as mcd
from mcdropout.networks import features

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 2, 8, 8)).astype(np.float32)
Y = ["a" if image.mean() > 0 else "b" for image in X]
LABELS = ["a", "b"]


class Backbone(nn.Module):
    """Convolution, batch norm, dropout, pool, classifier."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(5)
        self.drop = nn.Dropout(0.5)
        self.pool = nn.AvgPool2d(2)
        self.classifier = nn.Linear(5 * 16, 7)

    def forward(self, x):
        return self.classifier(self.pool(self.drop(self.norm(self.conv(x)))).flatten(1))


def backbone():
    torch.manual_seed(0)
    return Backbone().train()


def samples_of(prediction: mcd.MCPrediction) -> np.ndarray:
    assert prediction.samples is not None
    return prediction.samples


HEADS = {
    "dropout": lambda shape: mcd.mc_cnn(shape, LABELS, filters=(4,), hidden=(5,), kernel_size=2, dropout=0.2),
    "dense": lambda shape: mcd.mc_bayes_mlp(shape[0], LABELS, hidden=(5,)),
    "residual": lambda shape: mcd.mc_bayes_resnet(shape, LABELS, filters=(4,)),
}


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("cache", ["memory", "folder"])
def test_any_head_learns_and_samples_and_the_backbone_never_changes(kind, cache, tmp_path):
    net = backbone()
    before = copy.deepcopy(net.state_dict())
    options: dict[str, Any] = {"pooling": "mean"} if kind == "dense" else {}
    frozen = mcd.mc_frozen_backbone(
        net,
        HEADS[kind],
        input_shape=(2, 8, 8),
        layer="pool",
        cache="memory" if cache == "memory" else tmp_path / "features",
        **options,
    )
    trained = mcd.mc_fit(frozen, X, Y, epochs=2, batch_size=8, validation_split=0.2, seed=1, progress=False)
    assert trained is frozen
    prediction = mcd.mc_predict(frozen, X, 6, seed=1, progress=False)
    assert prediction.mean.shape == (30, 2)
    assert prediction.variance.max() > 0
    assert frozen.history is not None
    assert len(frozen.history) == 2
    assert all(torch.equal(values, before[name]) for name, values in net.state_dict().items())
    assert all(module.training for module in net.modules())
    assert all(weights.requires_grad and weights.grad is None for weights in net.parameters())
    assert not net.pool._forward_hooks
    # the head gives the same prediction for features computed by hand
    net.eval()
    with torch.no_grad():
        features = net.pool(net.norm(net.conv(torch.from_numpy(X))))
        features = features.mean((2, 3)) if kind == "dense" else features.permute(0, 2, 3, 1)
    net.train()
    of_head = mcd.mc_predict(frozen.head, features.numpy(), 6, seed=1, progress=False)
    samples, expected = samples_of(prediction), samples_of(of_head)
    np.testing.assert_allclose(samples, expected, rtol=0, atol=1e-5)  # rounding of convolutions
    point = mcd.mc_predict_point(frozen, X, progress=False)
    np.testing.assert_allclose(point, frozen(torch.from_numpy(X)).softmax(-1).detach(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("cache", ["memory", "folder"])
def test_features_are_computed_once_through_training_and_sampling(cache, tmp_path, monkeypatch):
    counts = []  # the number of inputs of each batch that goes through the backbone
    real = features._features
    monkeypatch.setattr(features, "_features", lambda run, x: (counts.append(len(x)), real(run, x))[1])
    frozen = mcd.mc_frozen_backbone(
        backbone(),
        mcd.mc_bayes_resnet((4, 4, 5), LABELS, filters=(4,)),
        layer="pool",
        cache="memory" if cache == "memory" else tmp_path,
        batch_size=7,
    )
    mcd.mc_fit(frozen, X, Y, epochs=3, validation_data=(X[:6], Y[:6]), seed=1, progress=False)
    mcd.mc_predict(frozen, X, 6, seed=1, progress=False)
    mcd.mc_predict(frozen, X, 9, seed=2, progress=False)
    assert sum(counts) == 30 + 6
    mcd.mc_predict(frozen, X[::-1], 6, seed=1, progress=False)  # in another order they count as other inputs
    assert sum(counts) == 66
    with torch.no_grad():
        frozen.extractor.source.module.conv.weight.mul_(2)  # other weights give other features
    mcd.mc_predict(frozen, X, 6, seed=1, progress=False)
    assert sum(counts) == 96


def test_features_in_a_folder_serve_the_next_session(tmp_path, monkeypatch):
    def make():
        return mcd.mc_frozen_backbone(
            backbone(), HEADS["residual"], input_shape=(2, 8, 8), layer="pool", cache=tmp_path
        )

    first: Any = make().features(X)
    monkeypatch.setattr(features.FeatureExtractor, "_batches", lambda *_: pytest.fail("computed again"))
    frozen = mcd.mc_frozen_backbone(
        backbone(), mcd.mc_bayes_resnet((4, 4, 5), LABELS, filters=(4,)), layer="pool", cache=tmp_path
    )
    second: Any = frozen.features(X)
    np.testing.assert_array_equal(second.take(slice(None)), first.take(slice(None)))
    assert [path.suffix for path in tmp_path.iterdir()] == [".npy"]


def test_an_interrupted_computation_leaves_no_file(tmp_path, monkeypatch):
    frozen = mcd.mc_frozen_backbone(
        backbone(), mcd.mc_bayes_resnet((4, 4, 5), LABELS, filters=(4,)), layer="pool", cache=tmp_path, batch_size=8
    )
    real, calls = features._features, []

    def interrupted(run, x):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(run, x)

    monkeypatch.setattr(features, "_features", interrupted)
    with pytest.raises(KeyboardInterrupt):
        frozen.features(X)
    assert list(tmp_path.iterdir()) == []


def test_batches_of_a_stream_go_through_the_backbone_one_by_one():
    frozen = mcd.mc_frozen_backbone(backbone(), HEADS["residual"], input_shape=(2, 8, 8), layer="pool")
    expected = samples_of(mcd.mc_predict(frozen, X, 6, seed=1, progress=False))
    loader = DataLoader(TensorDataset(torch.from_numpy(X)), batch_size=9)
    for stream in (loader, TensorDataset(torch.from_numpy(X)), iter([X[:10], X[10:]])):
        prediction = mcd.mc_predict(frozen, stream, 6, seed=1, progress=False)
        np.testing.assert_allclose(samples_of(prediction), expected, rtol=0, atol=1e-5)


def test_batches_for_a_backbone_follow_the_rule_of_batches():
    frozen = mcd.mc_frozen_backbone(backbone(), HEADS["residual"], input_shape=(2, 8, 8), layer="pool")
    data = TensorDataset(torch.from_numpy(X))
    for shuffled in (
        DataLoader(data, 4, shuffle=True),
        DataLoader(data, 4, sampler=SubsetRandomSampler(range(len(X)))),
    ):
        with pytest.raises(ValueError, match="so results could not be matched to inputs"):
            mcd.mc_predict(frozen, shuffled, 6, progress=False)
    three = DataLoader(TensorDataset(*[torch.from_numpy(X)] * 3), batch_size=9)
    with pytest.raises(ValueError, match="got one of 3 parts"):
        mcd.mc_predict(frozen, three, 6, progress=False)
    state = torch.get_rng_state()
    mcd.mc_predict(frozen, data, 6, seed=1, progress=False)
    assert torch.equal(torch.get_rng_state(), state)


def test_services_steps_and_sites_go_through_the_backbone():
    frozen = mcd.mc_frozen_backbone(backbone(), HEADS["residual"], input_shape=(2, 8, 8), layer="pool")
    expected = mcd.mc_predict(frozen, X[:5], 6, seed=1, keep_samples=False, progress=False)
    sampler = mcd.mc_sampler(frozen, X[:3], 6, seed=1)
    np.testing.assert_allclose(sampler(X[:5]).mean, expected.mean, rtol=0, atol=1e-6)
    assert mcd.mc_sites(frozen, X)["site"].str.startswith("layers.").all()
    assert set(mcd.mc_train_on_batch(frozen, X, Y, kl_weight=0.1)) == {"loss", "accuracy", "nll", "kl"}


def test_a_head_of_the_user_gets_channels_first():
    class Head(nn.Module):
        task, labels, outputs = "classification", ("a", "b"), "logits"

        def __init__(self):
            super().__init__()
            self.drop, self.last = nn.Dropout(0.2), nn.Linear(5 * 16, 2)

        def forward(self, x):
            assert tuple(x.shape[1:]) == (5, 4, 4)
            return self.last(self.drop(x).flatten(1))

    frozen = mcd.mc_frozen_backbone(backbone(), Head(), layer="pool")
    mcd.mc_fit(frozen, X, Y, epochs=1, seed=1, progress=False)
    assert mcd.mc_predict(frozen, X, 6, outputs="logits", seed=1, progress=False).variance.max() > 0


# ---- wrong arguments ------------------------------------------------------------------------------------------


NUMBER: Any = 3  # of no accepted type


class Computes(nn.Module):
    """A module that computes a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            lambda: mcd.mc_frozen_backbone(NUMBER, HEADS["dense"]),
            '`backbone` must be a torch module or a name; got "int".',
        ),
        (
            lambda: mcd.mc_frozen_backbone("resnet18", HEADS["dense"]),
            '`backbone` must be a torch module, "efficientnet_lite0", or a name after "torchvision:", "timm:" or '
            '"keras:"; got "resnet18".',
        ),
        (
            lambda: mcd.mc_frozen_backbone(backbone(), HEADS["dense"]),
            "`input_shape` must be given where `head` is a function and `backbone` a module; got none.",
        ),
        (
            lambda: mcd.mc_frozen_backbone(backbone(), NUMBER),
            "`head` must be a network, or a function from the features' shape to one; got 3.",
        ),
        (
            lambda: mcd.mc_frozen_backbone(backbone(), lambda shape: NUMBER, input_shape=(2, 8, 8)),
            '`head` must give a network; got "int".',
        ),
        (
            lambda: mcd.mc_frozen_backbone(backbone(), HEADS["dense"], input_shape=(2, 8, 8), layer="poll"),
            '`layer` must be the path of a layer of `backbone`; got "poll".',
        ),
        (
            lambda: mcd.mc_frozen_backbone(backbone(), HEADS["dense"], input_shape=(3, 8, 8)),
            None,
        ),
        (
            lambda: mcd.mc_frozen_backbone(Computes(lambda x: x[:, 0]), HEADS["dense"], input_shape=(2, 8, 8)),
            "`backbone` must give features (input, feature) or (input, channel, height, width); got (1, 8, 8) for 1 "
            "inputs. Name a `layer` that does.",
        ),
        (
            lambda: mcd.mc_frozen_backbone(Computes(lambda x: (x, x)), HEADS["dense"], input_shape=(2, 8, 8)),
            '`backbone` must give features (input, feature) or (input, channel, height, width); got "tuple" for 1 '
            "inputs. Name a `layer` that does.",
        ),
        (
            lambda: mcd.mc_frozen_backbone(Computes(lambda x: x / 0), HEADS["residual"], input_shape=(2, 8, 8)),
            "`backbone` must give finite features; it gave NaN or infinite ones.",
        ),
        (
            lambda: mcd.mc_frozen_backbone(backbone(), mcd.mc_mlp(6, LABELS), layer="pool").features(X),
            "`head` must take features of shape (4, 4, 5); it takes (6,). Flatten them with `pooling`.",
        ),
        (
            lambda: mcd.mc_frozen_backbone(backbone(), HEADS["residual"], pooling="sum"),
            '`pooling` must be one of "mean", "max"; got "sum".',
        ),
        (
            lambda: mcd.mc_fit(
                mcd.mc_frozen_backbone(backbone(), mcd.mc_mlp(7, LABELS)), X, Y, augment=lambda x, generator: x
            ),
            "`augment` must be left out where `model` has a frozen backbone, whose features are computed once; change "
            "the inputs before training.",
        ),
        (
            lambda: mcd.mc_predict(mcd.mc_frozen_backbone(backbone(), mcd.mc_mlp(7, LABELS)), (X, X)),
            "`x` must be one array of inputs where `model` has a frozen backbone; got several.",
        ),
        (
            lambda: mcd.mc_save(mcd.mc_frozen_backbone(backbone(), mcd.mc_mlp(7, LABELS)), "net"),
            "`object` has a backbone or a `prepare` of your own, which cannot be saved; save its `head` and make "
            "the network again.",
        ),
    ],
)
def test_wrong_arguments_are_refused_with_one_sentence(act, message):
    if message is None:
        with pytest.raises(ValueError, match="^`") as error:
            act()
        assert "\n" not in str(error.value)
        return
    with pytest.raises(ValueError) as error:  # noqa: PT011  (the whole sentence is compared)
        act()
    assert str(error.value) == message
