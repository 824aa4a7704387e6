"""Checkpoints: which runs a file belongs to, and files that are damaged."""

from __future__ import annotations

import functools
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from optional import import_or_skip
from safetensors.numpy import save_file
from torch import nn

import mcdropout as mcd
from mcdropout import containers
from mcdropout.data.rows import ArrayRows
from mcdropout.errors import UnreadableFile
from mcdropout.training import fingerprints
from mcdropout.training.fingerprints import fingerprint_of_rows
from mcdropout.training.fit import mc_fit
from mcdropout.training.recipes import fingerprint_of_function

rng = np.random.default_rng(0)
X = rng.normal(size=(40, 3))
Y = np.where(X[:, 0] + rng.normal(size=40) > 0, "a", "b")
IMAGES = rng.integers(0, 256, (12, 4, 5, 1)).astype(np.uint8)
IMAGE_LABELS = ["a", "b"] * 6


def fit(path: Path, x: Any = X, y: Any = Y, model: Any = None, **arguments: Any) -> Any:
    model = model or mcd.mc_mlp(3, ["a", "b"], hidden=4, dropout=0.2)
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 16, "seed": 1, "progress": False, "checkpoint": path}
    return mc_fit(model, x, y, **{**settings, **arguments})


def refusal(path: Path, argument: str, *data: Any, **arguments: Any) -> None:
    """Check that the file is refused as one of another `argument`."""
    message = f"`checkpoint` must be of the same training; got .*made with another `{argument}`"
    with pytest.raises(ValueError, match=message):
        fit(path, *data, **arguments)


# Which run a file belongs to --------------------------------------------------------------------------------------


def cnn() -> mcd.MCNetwork:
    return mcd.mc_cnn((4, 5, 1), ["a", "b"], filters=(2,), hidden=(), dropout=0.1)


def test_other_images_are_refused(tmp_path):
    path = tmp_path / "run"
    fit(path, IMAGES, IMAGE_LABELS, cnn())
    changed = IMAGES.copy()
    changed[7, 1, 2, 0] ^= 1
    refusal(path, "x", changed, IMAGE_LABELS, cnn())
    refusal(path, "x", IMAGES[::-1], IMAGE_LABELS, cnn())
    assert len(fit(path, np.asfortranarray(IMAGES), IMAGE_LABELS, cnn(), epochs=3).history) == 3


def test_the_rows_of_a_table_in_another_order_are_refused(tmp_path):
    x = np.concatenate([X, -X])  # has the same mean and deviation, to the bit, in reverse
    y = np.array(["a", "b"] * 20 + ["b", "a"] * 20)
    fit(tmp_path / "run", x, y)
    refusal(tmp_path / "run", "x", x[::-1], y)


def test_other_validation_data_are_refused(tmp_path):
    path, x, y = tmp_path / "run", X[:9], Y[:9]
    fit(path, validation_data=(x, y))
    for other in ((x[::-1], y), (x, np.where(y == "a", "b", "a")), (X, Y), None):
        refusal(path, "validation_data", validation_data=other)
    assert len(fit(path, validation_data=(x.copy(), list(y)), epochs=3).history) == 3


def flipped(x, generator, scale=-1):
    return x * scale


class Flip:
    def __init__(self):
        self.calls = 0

    def __call__(self, x, generator):
        self.calls += 1
        return -x


def test_another_augmentation_is_refused(tmp_path):
    def with_a_value(scale):
        return lambda x, generator: x * scale

    functions = [
        None, flipped, Flip(), with_a_value(2), with_a_value(3), lambda x, generator: x,
        functools.partial(flipped, scale=-1), functools.partial(flipped, scale=-2),
    ]  # fmt: skip
    for number, function in enumerate(functions):
        fit(tmp_path / f"{number}", augment=function)
        for other in functions[:number]:
            refusal(tmp_path / f"{number}", "augment", augment=other)
    for number, same in {3: with_a_value(2), 2: Flip()}.items():
        assert len(fit(tmp_path / f"{number}", augment=same, epochs=3).history) == 3


def test_an_augmentation_of_another_python_is_accepted(tmp_path, monkeypatch):
    fit(tmp_path / "run", augment=flipped)
    monkeypatch.setattr("mcdropout.training.recipes.sys.version_info", (3, 99))
    assert len(fit(tmp_path / "run", augment=flipped, epochs=3).history) == 3
    refusal(tmp_path / "run", "augment")


def test_another_weight_of_the_divergence_is_refused(tmp_path):
    def model():
        return mcd.mc_bayes_mlp(3, ["a", "b"], hidden=4)

    fit(tmp_path / "run", model=model(), kl_weight=lambda epoch: epoch / 40)
    refusal(tmp_path / "run", "kl_weight", X, Y, model(), kl_weight=lambda epoch: epoch / 50)
    assert len(fit(tmp_path / "run", model=model(), kl_weight=lambda epoch: epoch / 40, epochs=3).history) == 3


def test_another_optimizer_is_refused(tmp_path):
    path = tmp_path / "run"

    def sgd(momentum):
        return lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=momentum)

    fit(path, optimizer=sgd(0.9))
    refusal(path, "optimizer", optimizer=sgd(0.8))
    refusal(path, "optimizer", optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.01))
    assert len(fit(path, optimizer=sgd(0.9), epochs=3).history) == 3


def test_other_images_behind_a_frozen_backbone_are_refused(tmp_path):
    backbone = nn.Sequential(nn.Conv2d(4, 3, 2), nn.ReLU())

    def frozen():
        head = mcd.mc_mlp(3, ["a", "b"], hidden=4)
        return mcd.mc_frozen_backbone(backbone, head, pooling="mean")

    x = IMAGES.astype(np.float32)  # four channels of 5 x 1
    x = np.concatenate([x, x], axis=3)
    path = tmp_path / "run"
    fit(path, x, IMAGE_LABELS, frozen(), validation_data=(x[:4], IMAGE_LABELS[:4]))
    refusal(path, "x", x + 1, IMAGE_LABELS, frozen(), validation_data=(x[:4], IMAGE_LABELS[:4]))
    refusal(path, "validation_data", x, IMAGE_LABELS, frozen(), validation_data=(x[4:8], IMAGE_LABELS[:4]))
    arguments: dict[str, Any] = {"validation_data": (x[:4], IMAGE_LABELS[:4]), "epochs": 3}
    assert len(fit(path, x, IMAGE_LABELS, frozen(), **arguments).history) == 3


def test_image_files_are_known_by_their_names_sizes_and_contents(tmp_path):
    image = import_or_skip("PIL.Image")
    for folder in ("one", "moved"):
        for number, label in enumerate(IMAGE_LABELS[:6]):
            (tmp_path / folder / label).mkdir(parents=True, exist_ok=True)
            image.fromarray(IMAGES[number, :, :, 0]).save(tmp_path / folder / label / f"{number}.bmp")
    images = mcd.mc_read_images(tmp_path / "one", size=4)
    print_of_images = fingerprint_of_rows(images)
    assert fingerprint_of_rows(mcd.mc_read_images(tmp_path / "moved", size=4)) == print_of_images
    assert fingerprint_of_rows(images[::-1]) != print_of_images
    assert fingerprint_of_rows(mcd.mc_read_images(tmp_path / "one", size=5)) != print_of_images
    image.fromarray(IMAGES[9, :, :, 0]).save(tmp_path / "one" / "a" / "4.bmp")
    assert fingerprint_of_rows(images) != print_of_images
    (tmp_path / "one" / "a" / "4.bmp").unlink()
    with pytest.raises(UnreadableFile, match='`x` must hold readable images; got ".*4.bmp": No such file'):
        fingerprint_of_rows(images)


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "u1", "i8", "?", "longdouble"])
def test_every_value_of_a_large_array_counts(monkeypatch, dtype):
    """Arrays that are not read whole: a change outside of the blocks changes a sum."""
    for name, value in {"WHOLE": 0, "PIECES": 5, "BLOCK": 8}.items():
        monkeypatch.setattr(fingerprints, name, value)
    values = rng.integers(0, 2 if dtype == "?" else 99, (60, 7)).astype(dtype)
    known = fingerprint_of_rows(ArrayRows(values))
    assert fingerprint_of_rows(ArrayRows(np.asfortranarray(values))) == known
    assert fingerprint_of_rows(ArrayRows(values[::-1])) != known
    assert fingerprint_of_rows(ArrayRows(values.reshape(60, 7, 1))) != known
    for place in range(values.size):
        changed = values.copy()
        changed.flat[place] = not changed.flat[place]
        assert fingerprint_of_rows(ArrayRows(changed)) != known


RECIPE = """
import sys; sys.path.insert(0, {path!r})
from mcdropout.training.recipes import fingerprint_of_function
SCALE = 3
import json
def inner(x): return json.dumps(x) in {{"a", "b", "c"}} and SCALE
def outer(x, generator): return inner(x) or outer(x, [word for word in ("d", "e")])
print(fingerprint_of_function(outer)[1])
"""


def test_the_fingerprint_of_a_function_is_the_same_in_every_process():
    code = RECIPE.format(path=str(Path(mcd.__file__).parents[1]))
    found = {
        subprocess.run(
            [sys.executable, "-c", text], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed, text in (("1", code), ("2", code), ("3", code.replace("SCALE = 3", "SCALE = 4")))
    }
    assert len(found) == 2
    assert fingerprint_of_function(None) is None


@pytest.mark.parametrize("same_object", [False, True])
def test_a_network_with_statistics_of_its_batches_is_continued(tmp_path, same_object):
    """Training changes the buffers of batch norm."""

    def model():
        return mcd.mc_bayes_resnet((4, 5, 1), ["a", "b"], filters=(2,))

    whole = fit(tmp_path / "one", IMAGES, IMAGE_LABELS, model(), epochs=3)
    first = fit(tmp_path / "two", IMAGES, IMAGE_LABELS, model())
    resumed = fit(tmp_path / "two", IMAGES, IMAGE_LABELS, first if same_object else model(), epochs=3)
    weights = zip(resumed.state_dict().values(), whole.state_dict().values(), strict=True)
    assert all(torch.equal(left, right) for left, right in weights)


class Plain(nn.Module):
    """A network of a user, in a type that NumPy lacks."""

    task, labels, outputs = "classification", ("a", "b"), "logits"

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.2), nn.Linear(4, 2)).bfloat16()

    def forward(self, x):
        return self.layers(x.bfloat16())


def test_weights_of_a_type_that_numpy_lacks_are_kept(tmp_path):
    whole = fit(tmp_path / "one", model=Plain(), epochs=3)
    fit(tmp_path / "two", model=Plain())
    resumed = fit(tmp_path / "two", model=Plain(), epochs=3)
    weights = zip(resumed.state_dict().values(), whole.state_dict().values(), strict=True)
    assert all(torch.equal(left, right) for left, right in weights)


# Files of earlier versions, and damaged ones ----------------------------------------------------------------------


def test_a_checkpoint_of_an_earlier_version_is_continued_with_a_warning(tmp_path):
    path = tmp_path / "run"
    whole = fit(path, epochs=3)
    path.unlink()
    fit(path)
    _, arrays, facts = containers.read(path, ("checkpoint",))
    del facts["arguments"]
    described = {"format": 1, "kind": "checkpoint", **facts}
    save_file(arrays, path, {"mcdropout": json.dumps(described)})
    with pytest.warns(UserWarning, match="`checkpoint` is a file of an earlier version, .* which has no checksum"):
        resumed = fit(path, epochs=3)
    weights = zip(resumed.state_dict().values(), whole.state_dict().values(), strict=True)
    assert all(torch.equal(left, right) for left, right in weights)
    refusal(path, "x", X[::-1].copy(), Y)  # the file has been written again


def settings_of(**changes: Any) -> dict[str, Any]:
    return {"early_stopping": 5, "reduce_lr": 2, "validation_split": 0.2, **changes}


def weight_in(part: str, arrays: containers.Arrays) -> str:
    return next(name for name in sorted(arrays) if name.startswith(part) and name.endswith(".weight"))


DAMAGES: dict[str, Any] = {
    "no run": lambda arrays, facts: facts.pop("run"),
    "no seed": lambda arrays, facts: facts["run"].pop("seed"),
    "a run that is none": lambda arrays, facts: facts.update(run=3),
    "arguments that are none": lambda arrays, facts: facts.update(arguments=[]),
    "no functions": lambda arrays, facts: facts.pop("functions"),
    "no rows": lambda arrays, facts: facts.pop("rows"),
    "a row less": lambda arrays, facts: facts["rows"].pop(0),
    "rows that are none": lambda arrays, facts: facts.update(rows=[1, 2]),
    "waited for ever": lambda arrays, facts: facts.update(waited="a"),
    "no plateau": lambda arrays, facts: facts.update(plateau=None),
    "rates": lambda arrays, facts: facts.update(rates=[]),
    "rates in words": lambda arrays, facts: facts.update(rates=["a"]),
    "a best value in words": lambda arrays, facts: facts.update(best_value="a"),
    "no weight": lambda arrays, facts: arrays.pop(weight_in("model.", arrays)),
    "another weight": lambda arrays, facts: arrays.update({weight_in("model.", arrays): np.ones(3, np.float32)}),
    "no best weight": lambda arrays, facts: arrays.pop(weight_in("best.", arrays)),
    "a best weight of another shape": lambda arrays, facts: arrays.update({weight_in("best.", arrays): np.ones(3)}),
    "no moment": lambda arrays, facts: arrays.pop("optimizer.0.exp_avg"),
    "another moment": lambda arrays, facts: arrays.update({"optimizer.0.exp_avg": np.ones(7, np.float32)}),
    "a moment of no weight": lambda arrays, facts: arrays.update({"optimizer.99.exp_avg": np.ones(7, np.float32)}),
    "a moment without a number": lambda arrays, facts: arrays.update({"optimizer.a.exp_avg": np.ones(7, np.float32)}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_checkpoint_whose_parts_do_not_fit_is_refused_and_changes_nothing(tmp_path, damage):
    path = tmp_path / "run"
    fit(path, **settings_of())
    _, arrays, facts = containers.read(path, ("checkpoint",))
    assert all(any(name.startswith(part) for name in arrays) for part in ("model.", "best.", "optimizer."))
    DAMAGES[damage](arrays, facts)
    containers.write(path, "checkpoint", arrays, facts)
    model = mcd.mc_mlp(3, ["a", "b"], hidden=4, dropout=0.2)
    before = {name: values.clone() for name, values in model.state_dict().items()}
    message = "`checkpoint` must be a file as mc_fit.* writes it; got .*run.*, whose parts do not fit"
    with pytest.raises(UnreadableFile, match=message):
        fit(path, model=model, **settings_of(epochs=4))
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())


def test_a_lack_of_memory_is_not_taken_for_damage(tmp_path, monkeypatch):
    def exhausted(run, arrays, facts):
        raise RuntimeError("CUDA out of memory")

    fit(tmp_path / "run")
    monkeypatch.setattr("mcdropout.training.checkpoints._restore", exhausted)
    with pytest.raises(RuntimeError, match="CUDA out of memory"):
        fit(tmp_path / "run")


def test_a_checkpoint_with_a_changed_byte_is_refused(tmp_path):
    path, places = tmp_path / "run", random.Random(3)
    fit(path)
    content = path.read_bytes()
    for place in [0, 7, 8, len(content) - 1, *places.choices(range(len(content)), k=40)]:
        changed = bytearray(content)
        changed[place] ^= 1 << places.randrange(8)
        path.write_bytes(changed)
        with pytest.raises(UnreadableFile, match="^`checkpoint` must "):
            fit(path)


def test_a_checkpoint_that_cannot_be_written_is_refused_before_training(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    rows: list[Any] = []
    for name in ("folder", "pipe", "none/run", "n" * 256, "a\0b"):
        with pytest.raises(ValueError, match="^`checkpoint` must be "):
            fit(tmp_path / name, callbacks=rows.append)
    assert rows == []
