"""Files of features: whole, of the right inputs and backbone, or refused."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from optional import import_or_skip
from torch import nn

import mcdropout as mcd
from mcdropout.errors import UnreadableFile
from mcdropout.networks.feature_cache import InMemory, OnDisk

RNG = np.random.default_rng(0)
X = RNG.normal(size=(10, 2, 6, 6)).astype(np.float32)
BATCHES = [RNG.normal(size=(n, 3)).astype(np.float32) for n in (4, 4, 2)]


def frozen(folder: Path, last: nn.Module | None = None) -> mcd.FrozenNetwork:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(2, 3, 3), last or nn.ReLU())
    head = mcd.mc_mlp(3, ["a", "b"], hidden=4)
    return mcd.mc_frozen_backbone(backbone, head, pooling="mean", cache=folder)


def values_of(rows: Any) -> np.ndarray:
    return rows.take(slice(None))


def test_the_file_is_one_of_numpy(tmp_path):
    expected = np.concatenate(BATCHES)
    np.testing.assert_array_equal(values_of(OnDisk(tmp_path).put("key", 10, iter(BATCHES))), expected)
    np.testing.assert_array_equal(values_of(OnDisk(tmp_path).get("key", 10)), expected)
    np.testing.assert_array_equal(np.load(tmp_path / "key.npy"), expected)
    assert OnDisk(tmp_path).get("other", 10) is None


def test_a_file_with_a_changed_byte_is_refused(tmp_path):
    OnDisk(tmp_path).put("key", 10, iter(BATCHES))
    path, places = tmp_path / "key.npy", random.Random(1)
    content = path.read_bytes()
    changes = [content[:-1], content[:50], b"", content + b"\n", content[: -len("\n")] + b"\r"]
    for place in [0, 5, 9, 127, *places.choices(range(len(content)), k=40), len(content) - 1]:
        changes.append(content[:place] + bytes([content[place] ^ 1 << places.randrange(8)]) + content[place + 1 :])
    for changed in changes:
        path.write_bytes(changed)
        with pytest.raises(UnreadableFile, match='^`cache` must hold files of features .*; got ".*key.npy": it is cut'):
            OnDisk(tmp_path).get("key", 10)


def test_a_file_that_changes_after_its_first_use_is_refused(tmp_path):
    cache = OnDisk(tmp_path)
    cache.put("key", 10, iter(BATCHES))
    for _ in range(2):
        assert cache.get("key", 10) is not None
    with (tmp_path / "key.npy").open("r+b") as file:
        file.truncate(200)
    with pytest.raises(UnreadableFile, match="Remove the file to compute the features again"):
        cache.get("key", 10)


def test_the_file_of_other_inputs_is_refused(tmp_path):
    network = frozen(tmp_path)
    mcd.mc_predict(network, X, 4, seed=1, progress=False)
    path = next(tmp_path.iterdir())
    mcd.mc_predict(network, X[:7], 4, seed=1, progress=False)
    other = next(file for file in tmp_path.iterdir() if file != path)
    os.replace(other, path)
    for one in (network, frozen(tmp_path)):
        with pytest.raises(UnreadableFile, match="it is cut short, was changed or belongs to other inputs"):
            mcd.mc_predict(one, X, 4, seed=1, progress=False)


def test_a_file_of_fewer_inputs_is_refused(tmp_path):
    OnDisk(tmp_path).put("key", 4, iter(BATCHES[:1]))
    with pytest.raises(UnreadableFile, match="it has features of 4 inputs instead of 10"):
        OnDisk(tmp_path).get("key", 10)


def test_a_backbone_of_the_same_weights_and_other_layers_has_other_features(tmp_path):
    first, second = (values_of(frozen(tmp_path, last).features(X)) for last in (nn.ReLU(), nn.Tanh()))
    assert len(list(tmp_path.iterdir())) == 2
    assert not np.allclose(first, second)


def test_what_cannot_be_read_or_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match='^`cache` must be a folder that can be written; got ".*file": File exists'):
        frozen(tmp_path / "file").features(X)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "folder" / "key.npy")
    with pytest.raises(UnreadableFile, match="it is a pipe"):
        OnDisk(tmp_path / "folder").get("key", 10)
    with pytest.raises(ValueError, match="`cache` must be a file; got .*, which is a pipe"):
        OnDisk(tmp_path / "folder").put("key", 10, iter(BATCHES))


def test_an_error_of_the_functions_of_the_user_is_passed_on(tmp_path):
    def failing():
        yield BATCHES[0]
        raise ConnectionError("no answer")

    with pytest.raises(ConnectionError, match="^no answer$"):
        OnDisk(tmp_path).put("key", 10, failing())
    assert os.listdir(tmp_path) == []


def test_an_interrupt_leaves_nothing_in_memory():
    def interrupted():
        yield BATCHES[0]
        raise KeyboardInterrupt

    cache = InMemory()
    with pytest.raises(KeyboardInterrupt):
        cache.put("key", 10, interrupted())
    assert cache.get("key", 10) is None


def test_an_image_that_is_gone_is_named(tmp_path):
    image = import_or_skip("PIL.Image")
    for number in range(12):
        image.new("L", (6, 6), number).save(tmp_path / f"{number:02}.png")
    images = mcd.mc_read_images(tmp_path, size=6)
    (tmp_path / "11.png").unlink()
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(6, 3, 1), nn.ReLU())
    head = mcd.mc_mlp(3, ["a", "b"], hidden=4)
    network = mcd.mc_frozen_backbone(backbone, head, pooling="mean", cache=tmp_path / "cache")
    with pytest.raises(UnreadableFile, match='`x` must hold readable images; got ".*11.png": No such file'):
        network.features(images)
