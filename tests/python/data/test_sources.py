"""Sources of inputs: batches of loaders and streams, with targets or without."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from input_models import LABELS, N, Net, Pair, Stream, assert_same, numbers, point, predict
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

import mcdropout as mcd


@pytest.fixture
def x():
    return numbers(N, 3)


@pytest.fixture
def expected(x):
    return predict(Net(), x)


def test_batches_of_three_parts_are_refused(x):
    left, right = torch.from_numpy(x), torch.from_numpy(x + 1)
    loader = DataLoader(TensorDataset(left, right, torch.zeros(N)), batch_size=4)
    for run in (point, predict, mcd.mc_sites):
        with pytest.raises(
            ValueError, match=r"`x` must come in batches of inputs, or of \(inputs, target\); got one of 3"
        ):
            run(Pair(), loader)
    with pytest.raises(ValueError, match="got one of 4 parts.* images as one array"):
        predict(Net(), iter([list(x[:4])]))


@pytest.mark.parametrize(
    "batch",
    [
        lambda left, right: ((left, right), torch.zeros(len(left))),
        lambda left, right: [[left, right], torch.zeros(len(left))],
        lambda left, right: ({"left": left, "right": right}, torch.zeros(len(left))),
        lambda left, right: {"left": left, "right": right, "labels": torch.zeros(len(left))},
        lambda left, right: {"left": left, "right": right, "name": ["word"] * len(left), "row": torch.zeros(len(left))},
    ],
    ids=["tuples", "lists", "mapping and target", "mapping with labels", "mapping with keys that the model lacks"],
)
def test_batches_of_every_form_pass_all_inputs(x, batch):
    left, right = torch.from_numpy(x), torch.from_numpy(x + 1)
    parts: Any = zip(left.split(4), right.split(4), strict=True)
    assert_same(predict(Pair(), (batch(*pair) for pair in parts)), predict(Pair(), (x, x + 1)))


class Named(Net):
    """The second input has a name of targets. It is optional if the name is "y"."""

    def __init__(self, name):
        super().__init__()
        self.forward = self.with_y if name == "y" else self.with_labels

    def with_y(self, left, y=None):
        return self.body(left if y is None else left * y)

    def with_labels(self, left, labels):
        return self.body(left * labels)


def test_a_key_that_the_model_accepts_is_not_a_target(x):
    for name in ("y", "labels"):
        batch = {"left": torch.from_numpy(x), name: torch.from_numpy(x + 1)}
        assert_same(predict(Named(name), iter([batch])), predict(Pair(), (x, x + 1)))


def test_a_misspelt_key_is_refused(x):
    batch = {"left": torch.from_numpy(x), "rigth": torch.from_numpy(x)}
    with pytest.raises(ValueError, match='batches with "rigth", which `model` does not take .it takes left, right'):
        predict(Pair(), iter([batch]))


def test_a_pair_for_a_model_of_two_inputs_is_refused(x):
    class Product(Net):
        def forward(self, left, right):
            return self.body(left * right)

    loader = DataLoader(TensorDataset(torch.from_numpy(x), torch.from_numpy(x)), batch_size=4)
    with pytest.raises(ValueError, match="inputs are one array, and `model` takes left, right; give them as"):
        predict(Product(), loader)


class Rows(nn.Module):
    """Uses the first eight numbers of each row, so it accepts a list of images as if their channels were inputs."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, LABELS))

    def forward(self, x):
        return self.body(x.flatten(1)[:, :8])


class Images(Dataset):
    def __init__(self, n, channels):
        self.images = torch.from_numpy(numbers(n, channels, 8, 8))

    def __len__(self):
        return len(self.images)

    def __getitem__(self, position):
        return self.images[position]


@pytest.mark.parametrize(("channels", "size"), [(3, 1), (3, 2), (1, 2), (2, 2)])
def test_lists_of_images_are_refused(channels, size):
    images = Images(5 if channels == 2 else 6, channels)  # with two channels, only the last batch of five has 1 image
    for run in (predict, point):
        with pytest.raises(ValueError, match="`x` must give as many inputs as its dataset has items; got"):
            run(Rows(), DataLoader(images, batch_size=size, collate_fn=list))
    if size == 2:
        for run in (predict, point):
            with pytest.raises(ValueError, match="got a list of two arrays of shape .*which may be two inputs"):
                run(Rows(), iter([list(images.images[:2]), list(images.images[2:4])]))


def test_a_frozen_backbone_refuses_lists_of_images():
    images = Images(6, 3)
    backbone = nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(8))
    model = mcd.mc_frozen_backbone(backbone, nn.Sequential(nn.Dropout(0.5), nn.Linear(8, LABELS)))
    assert len(predict(model, DataLoader(images, batch_size=4))) == 6
    with pytest.raises(ValueError, match="as its dataset has items; got 3 in a batch of 2"):
        predict(model, DataLoader(images, batch_size=2, collate_fn=list))
    with pytest.raises(ValueError, match="which may be two inputs"):
        predict(model, iter([list(images.images[:2])]))


def test_lists_of_images_from_an_iterable_dataset_are_refused():
    images = Images(6, 3).images
    with pytest.raises(ValueError, match="as its dataset has items; got 3 in a batch of 2"):
        predict(Rows(), DataLoader(Stream(images), batch_size=2, collate_fn=list))


def test_batches_of_a_custom_batch_sampler_are_counted():
    images, sampler = Images(6, 3), [[0, 1], [2, 3], [4, 5]]
    assert len(predict(Rows(), DataLoader(images, batch_sampler=sampler))) == 6
    with pytest.raises(ValueError, match="got 9 inputs of 6 items"):  # as soon as there are too many
        predict(Rows(), DataLoader(images, batch_sampler=sampler, collate_fn=list))
    with pytest.raises(ValueError, match="got 3 inputs of 6 items"):
        predict(Rows(), DataLoader(Images(6, 1), batch_sampler=sampler, collate_fn=list))


def test_items_that_are_batches_may_have_any_length(x):
    parts: Any = [torch.from_numpy(x[:7]), torch.from_numpy(x[7:])]
    assert_same(predict(Net(), DataLoader(parts, batch_size=None)), predict(Net(), x))
    with pytest.raises(ValueError, match="set `batch_size` of a DataLoader whose items are batches to none"):
        predict(Net(), DataLoader(parts, batch_size=1, collate_fn=lambda items: items[0]))


def test_a_loader_may_have_images_as_targets():
    images = Images(6, 3).images
    for size in (2, 3, 4):
        assert len(predict(Rows(), DataLoader(TensorDataset(images, images), batch_size=size))) == 6
    assert len(predict(Rows(), iter([(images, images)]))) == 6  # a tuple is (inputs, target)


def test_inputs_and_targets_of_unequal_lengths_are_refused(x):
    with pytest.raises(ValueError, match="of one length; got 4 inputs and 5 targets"):
        predict(Net(), iter([(torch.from_numpy(x[:4]), torch.zeros(5))]))


class InOrder(Sampler):
    """A custom sampler."""

    def __init__(self, order):
        self.order = order

    def __iter__(self):
        return iter(self.order)

    def __len__(self):
        return len(self.order)


def loader_of(data, sampler=None, batches=None, **options: Any):
    options |= {} if batches else {"batch_size": 4}
    return DataLoader(data, sampler=sampler, batch_sampler=batches, **options)


NOT_IN_ORDER = {
    "subset": lambda data: loader_of(data, SubsetRandomSampler(range(N))),
    "weighted": lambda data: loader_of(data, WeightedRandomSampler([1.0] * N, N)),
    "batches": lambda data: loader_of(data, batches=BatchSampler(RandomSampler(data), 4, False)),
    "batches of a subset": lambda data: loader_of(data, batches=BatchSampler(SubsetRandomSampler(range(N)), 4, False)),
    "distributed": lambda data: loader_of(data, DistributedSampler(data, 1, 0, shuffle=True)),
    "a share": lambda data: loader_of(data, DistributedSampler(data, 2, 0, shuffle=False)),
    "backwards": lambda data: loader_of(data, InOrder(range(N)[::-1])),
    "too few": lambda data: loader_of(data, InOrder(range(N - 1))),
    "too many": lambda data: loader_of(data, InOrder([*range(N), 0])),
    "batches by length": lambda data: loader_of(data, batches=InOrder([[3, 1, 2], [0, *range(4, N)]])),
    "of a part": lambda data: loader_of(data, SequentialSampler(range(4))),
    "drop_last": lambda data: loader_of(data, drop_last=True),
    "drop_last of a stream": lambda data: DataLoader(Stream(data.tensors[0]), batch_size=4, drop_last=True),
}


@pytest.mark.parametrize("name", NOT_IN_ORDER)
def test_loaders_that_do_not_yield_all_inputs_in_order_are_refused(x, name):
    loader = NOT_IN_ORDER[name](TensorDataset(torch.from_numpy(x)))
    state = torch.get_rng_state()
    for run in (point, predict, mcd.mc_sites):
        with pytest.raises(ValueError, match="so results could not be matched to inputs"):
            run(Net(), loader)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "load",
    [
        lambda data: loader_of(data, SequentialSampler(data)),
        lambda data: loader_of(data, InOrder(range(N))),
        lambda data: loader_of(data, batches=InOrder([range(4), [4, 5], [*range(6, N)]])),
        lambda data: loader_of(data, DistributedSampler(data, 1, 0, shuffle=False)),
        lambda data: DataLoader(data, batch_size=N, drop_last=True),
        lambda data: loader_of(Subset(data, range(N))),
        lambda data: DataLoader(data, sampler=BatchSampler(SequentialSampler(data), 4, False), batch_size=None),
    ],
)
def test_loaders_that_yield_all_inputs_in_order_are_accepted(x, expected, load):
    assert_same(predict(Net(), load(TensorDataset(torch.from_numpy(x)))), expected)
