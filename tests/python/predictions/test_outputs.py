"""Outputs of a model: selected parts, axes of labels, maps and sequences."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from input_models import DRAWS, LABELS, STEPS, Maps, N, Net, assert_same, numbers, point, predict
from torch import nn

from mcdropout import MCPrediction


@pytest.fixture
def x():
    return numbers(N, 3)


@pytest.fixture
def expected(x):
    return predict(Net(), x)


RESULTS: dict[str, tuple[Callable[..., Any], Any]] = {  # how the network wraps its result, and `select`
    "tuple": (lambda out: (out * 0, out), 1),
    "list": (lambda out: [out, out * 0], 0),
    "mapping": (lambda out: OrderedDict(other=out * 0, scores=out), "scores"),
    "mapping by position": (lambda out: OrderedDict(other=out * 0, scores=out), 1),
    "function": (lambda out: (out - 1, 1), lambda result: result[0] + result[1]),
}


@pytest.mark.parametrize("name", RESULTS)
def test_a_part_of_the_result_is_selected(x, expected, name):
    wrap, select = RESULTS[name]
    model = Net(wrap=wrap)
    assert_same(predict(model, x, select=select), expected)
    of_the_part = point(model, x, outputs="logits", select=select)
    np.testing.assert_allclose(of_the_part, point(Net(), x, outputs="logits"), atol=1e-6)


def test_logits_of_hugging_face_need_no_select(x, expected):
    assert_same(predict(Net(wrap=lambda out: OrderedDict(loss=None, logits=out)), x), expected)


def test_several_parts_without_select_are_refused(x):
    with pytest.raises(TypeError, match=r"returns several parts \(2 without names\); say which with `select`"):
        predict(Net(wrap=lambda out: (out, out)), x)
    with pytest.raises(ValueError, match=r'`select` must name a part of what `model` returns \("a"\); got "b"'):
        predict(Net(wrap=lambda out: {"a": out}), x, select="b")
    with pytest.raises(TypeError, match='`model` must return a tensor; got "NoneType"'):
        predict(Net(wrap=lambda out: None), x)


@pytest.mark.parametrize("last", [False, True])
def test_segmentation_maps(last, monkeypatch):
    x = numbers(N, 2, 8, 9)
    names = list("abcde")
    result = predict(Maps(last), x, labels=names)
    assert result.mean.shape == (N, 6, 7, LABELS)
    assert result.predicted.shape == result.mutual_information.shape == (N, 6, 7)
    assert result.samples.shape == (DRAWS, N, 6, 7, LABELS)
    np.testing.assert_allclose(result.mean.sum(axis=-1), 1, atol=1e-6)
    monkeypatch.setattr("mcdropout.sampling.draw.DRAWS_BYTES", 3 * 4 * DRAWS * 6 * 7 * LABELS)  # three inputs at a time
    assert_same(predict(Maps(last), x, labels=names), result)
    with pytest.raises(ValueError, match="needs one row of probabilities per input"):
        result.to_pandas()
    restored = MCPrediction.from_state(*result.to_state())
    np.testing.assert_array_equal(restored.predicted, result.predicted)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("outputs", ["logits", "probabilities"])
def test_a_single_channel_belongs_to_the_second_of_two_labels(last, outputs):
    class Single(Maps):
        def forward(self, x):
            out = super().forward(x)[..., :1] if last else super().forward(x)[:, :1]
            return out.sigmoid() if outputs == "probabilities" else out

    def add_first_label(out):
        axis = out.ndim - 1 if last else 1
        return torch.cat([1 - out, out] if outputs == "probabilities" else [torch.zeros_like(out), out], dim=axis)

    x = numbers(N, 2, 8, 9)
    options = {"outputs": outputs, "labels": ["no", "yes"]}
    result = predict(Single(last), x, **options)
    assert result.mean.shape == (N, 6, 7, 2)
    assert_same(result, predict(Single(last), x, select=add_first_label, **options))
    np.testing.assert_allclose(
        point(Single(last), x, **options), point(Single(last), x, select=add_first_label, **options), atol=1e-6
    )
    with pytest.raises(ValueError, match="2 labels fit 2 axes.*two for a single channel"):
        predict(Single(last), numbers(N, 2, 8, 4), **options)  # maps are 2 wide too


def test_the_message_on_multilabel_outputs_does_not_suggest_a_softmax(x):
    model = Net(wrap=torch.sigmoid)
    for run in (point, predict):
        with pytest.raises(
            ValueError, match="do not sum to 1, as where several labels.*one label at a time by `select`"
        ):
            run(model, x, outputs="probabilities", labels=list("abcde"))
    of_one_label = predict(model, x, outputs="probabilities", labels=["no", "yes"], select=lambda out: out[:, 3])
    np.testing.assert_allclose(of_one_label.mean[:, 1], predict(model, x, outputs="values").mean[:, 3], atol=1e-6)


def test_labels_must_identify_their_axis():
    with pytest.raises(ValueError, match="`labels` must tell the axis of the classes in outputs of shape"):
        predict(Maps(), numbers(N, 2, 8, 9))
    with pytest.raises(ValueError, match="5 labels fit 2 axes"):
        predict(Maps(), numbers(N, 2, 7, 9), labels=list("abcde"))


def test_sequences_of_values():
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    result = predict(model, numbers(N, STEPS, 3), outputs="values")
    assert result.mean.shape == (N, STEPS, 2)
    assert result.conf_int.shape == (N, STEPS, 2, 2)
    assert result.to_pandas().shape[0] == N
