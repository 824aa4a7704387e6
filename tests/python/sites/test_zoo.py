"""Networks of torchvision, timm and transformers, with random weights and small sizes.

For each network the engines give the same draws, the batch size does not change them, the buffers and the modes of the
model do not change, and the draws differ from each other.
"""

import os
from typing import Any

import numpy as np
import pytest
import torch
from optional import import_or_skip

import mcdropout as mcd

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # these tests download nothing


pytestmark = pytest.mark.usefixtures("torchvision")  # timm and transformers import it too


IMAGES = {
    "alexnet": 64,
    "vgg11_bn": 32,
    "squeezenet1_1": 48,
    "googlenet": 48,
    "mobilenet_v2": 32,
    "mobilenet_v3_small": 32,
    "efficientnet_b0": 32,
    "efficientnet_v2_s": 32,
    "densenet121": 32,
    "convnext_tiny": 32,
    "swin_t": 32,
    "swin_v2_t": 32,
    "vit_b_16": 32,
}
TIMM = {
    "resnet18": {"drop_rate": 0.3},
    "resnet26d": {"drop_path_rate": 0.3},
    "convnext_atto": {"drop_path_rate": 0.3},
    "vit_tiny_patch16_224": {"img_size": 32, "drop_rate": 0.2, "attn_drop_rate": 0.2, "drop_path_rate": 0.2},
    "mobilenetv3_small_050": {"drop_rate": 0.2},
    "regnetx_002": {"drop_rate": 0.2},
    "mixer_s16_224": {"img_size": 32, "drop_rate": 0.2, "drop_path_rate": 0.2},
    "swin_s3_tiny_224": {"img_size": 64, "window_size": 2, "drop_rate": 0.2, "attn_drop_rate": 0.1},
    "efficientformer_l1": {"drop_path_rate": 0.2},
}
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 50,
    "num_labels": 4,
    "pad_token_id": 0,
}


def images(size, n=5):
    return np.random.default_rng(0).standard_normal((n, 3, size, size)).astype(np.float32)


def tokens(n=5, length=7):
    rng = np.random.default_rng(0)
    mask = np.ones((n, length), dtype=np.int64)
    mask[1, 5:] = mask[3, 3:] = 0
    return {"input_ids": rng.integers(1, 50, (n, length)) * mask, "attention_mask": mask}


def seeded(make):
    """A network in eval mode. Its weights are changed a little: with initial zeros the draws would not differ."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = make().eval()
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
        return model


def assert_promises(model, x, only_engine, engine="folded", **options):
    """Check the properties in the docstring of this module for one network."""
    flags = [module.training for module in model.modules()]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}

    def predict(x=x, **more: Any) -> Any:
        settings: dict[str, Any] = {"outputs": "values", "seed": 1, "progress": False, "batch_size": 5} | options | more
        return mcd.mc_predict(model, x, 4, **settings)

    def rows_of(x, part):
        return {name: value[part] for name, value in x.items()} if isinstance(x, dict) else x[part]

    for masks in ("shared", "per_input"):
        full = predict(masks=masks)
        scale = np.abs(full.samples).max()
        assert full.engine == engine, full.engine_reason
        # With `per_input` masks and stochastic depth, the four draws of an input may be equal.
        assert (full.std.max(axis=-1) > 0).mean() >= (1 if masks == "shared" else 0.5)
        np.testing.assert_allclose(predict(masks=masks, batch_size=2).samples, full.samples, atol=1e-4 * scale)
        alone = predict(rows_of(x, slice(3, 4)), masks=masks, ids=[3])
        np.testing.assert_allclose(alone.samples[:, 0], full.samples[:, 3], atol=1e-4 * scale)
    only_engine("loop")
    looped = predict(masks="per_input")
    assert looped.engine == "loop"
    np.testing.assert_allclose(looped.samples, full.samples, atol=1e-4 * scale)
    assert [module.training for module in model.modules()] == flags
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, buffers[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("name", IMAGES)
def test_torchvision(name, torchvision, only_engine):
    settings = {"init_weights": True, "aux_logits": False} if name == "googlenet" else {}
    if name == "densenet121":
        settings = {"drop_rate": 0.2}
    if name == "vit_b_16":
        settings = {"image_size": 32, "dropout": 0.1, "attention_dropout": 0.1}
    model = seeded(lambda: torchvision.models.get_model(name, weights=None, num_classes=6, **settings))
    assert_promises(model.eval(), images(IMAGES[name]), only_engine)


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
def test_timm(name, only_engine):
    timm = import_or_skip("timm")
    settings = dict(TIMM[name])
    size = settings.get("img_size", 224 if name == "efficientformer_l1" else 64)
    model = seeded(lambda: timm.create_model(name, pretrained=False, num_classes=6, **settings))
    engine = "loop" if "swin" in name else "folded"  # windows: docs/decisions/folding-of-windows.md
    assert_promises(model.eval(), images(size), only_engine, engine)


TEXT = ["Bert", "DistilBert", "Roberta", "Electra", "Albert"]


@pytest.mark.slow
@pytest.mark.parametrize("name", TEXT)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_transformers(name, attention, only_engine):
    transformers = import_or_skip("transformers")
    settings = dict(SMALL)
    if name == "DistilBert":
        settings = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "vocab_size": 50, "num_labels": 4}
    if name in ("Albert", "Electra"):
        settings["embedding_size"] = 8
    config = getattr(transformers, f"{name}Config")(**settings, attn_implementation=attention)
    if name == "Albert":
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.1
    model = seeded(lambda: getattr(transformers, f"{name}ForSequenceClassification")(config))
    table = mcd.mc_sites(model.eval(), tokens())
    assert len(table) >= 6, table  # embeddings, attention, hidden layers, head
    assert_promises(model, tokens(), only_engine, outputs="logits")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT", "Swin", "ConvNext"])
def test_transformers_for_images(name, only_engine):
    transformers = import_or_skip("transformers")
    settings = {
        "ViT": SMALL | {"image_size": 32, "patch_size": 8, "hidden_dropout_prob": 0.1},
        "Swin": {
            "image_size": 32,
            "patch_size": 4,
            "embed_dim": 8,
            "depths": [2, 2],
            "num_heads": [2, 4],
            "window_size": 2,
            "hidden_dropout_prob": 0.1,
        },
        "ConvNext": {"hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 1, 1], "drop_path_rate": 0.3},
    }[name]
    config = getattr(transformers, f"{name}Config")(**(settings | {"num_labels": 4}))
    model = seeded(lambda: getattr(transformers, f"{name}ForImageClassification")(config))
    engine = "loop" if name == "Swin" else "folded"  # windows: docs/decisions/folding-of-windows.md
    assert_promises(model.eval(), images(32), only_engine, engine, outputs="logits")
