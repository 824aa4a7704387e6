"""The specification of a network in a file: built as it says, or refused."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mcdropout as mcd
from mcdropout.networks.specs import build, savable_spec
from mcdropout.predictions.parts import DAMAGED

plain = mcd.mc_mlp(3, labels=["a", "b", "c"], hidden=(4, 5), dropout=(0.1, 0.2), input_dropout=0.05)
mixture = mcd.mc_prior_mixture((1.0, 0.1, 0.3), (0.3, 0.3, 0.1))
NETWORKS = {
    "mlp": plain,
    "values": mcd.mc_mlp(3, task="regression", n_outputs=2, noise="heteroscedastic"),
    "cnn": mcd.mc_cnn((8, 9, 2), [7, 3], task="binary", filters=(2,), hidden=(), dropout=0.1),
    "bayes_mlp": mcd.mc_bayes_mlp(3, [True, False], prior=mixture, posterior=mcd.mc_posterior_normal(0.01, 0.5)),
    "bayes_cnn": mcd.mc_bayes_cnn((6, 6, 1), n_outputs=3, filters=2, hidden=3, prior=mcd.mc_prior_student_t(0, 0.1)),
    "bayes_resnet": mcd.mc_bayes_resnet((4, 4, 1), ["a", "b"], filters=(2, 3)),
    "bayesian": mcd.mc_to_bayesian(plain, layers="output", prior=mcd.mc_prior_laplace(0, 0.1)),
}


def spec_of(name: str) -> dict[str, Any]:
    return json.loads(json.dumps(savable_spec(NETWORKS[name].spec)))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_specification_gives_a_network_of_the_same_specification(name):
    with torch.device("meta"):
        assert savable_spec(build(spec_of(name)).spec) == spec_of(name)


@pytest.mark.parametrize(
    ("name", "part", "value", "sentence"),
    [
        ("mlp", "labels", None, "`labels` must be a list of at least two labels; got None."),
        ("mlp", "labels", "abc", '`labels` must be a list of at least two labels; got "abc".'),
        ("mlp", "n_outputs", 2, r"`n_outputs` must be the number of `labels` \(3\); got 2."),
        ("mlp", "hidden", 4, "`dropout` must be one rate, or one per layer of `hidden`"),
        ("mlp", "dropout", 0.1, r"`dropout` must be \[0.1, 0.1\], as for such a network; got 0.1."),
        ("bayes_mlp", "prior", {"family": "mixture", "scales": [1.0], "weights": [-1.0], "loc": 0.0}, "`weights`"),
        ("bayes_mlp", "prior", {"family": "normal", "loc": 0, "scale": -1}, "`scale` must be a number"),
        ("bayes_cnn", "prior", {"family": "student_t", "loc": 0, "scale": 1, "df": 0}, "`df` must be a number above 0"),
        ("bayes_resnet", "posterior", {"family": "normal", "scale": 0, "mean": None}, "`scale` must be a number"),
        ("bayes_mlp", "kl_samples", 0, "`kl_samples` must be a whole number of at least 1; got 0."),
    ],
)  # fmt: skip
def test_a_part_that_cannot_be_is_refused(name, part, value, sentence):
    with pytest.raises(ValueError, match=sentence), torch.device("meta"):
        build({**spec_of(name), part: value})


def test_many_labels_without_names_take_no_memory():
    small = {**spec_of("mlp"), "labels": None, "n_outputs": 300_000_000}
    with pytest.raises(ValueError, match="`labels` must be a list"):
        build(small)


odd = st.one_of(
    st.sampled_from([None, True, False, -1, 0, 1, 2, 3, 7, 0.5, float("nan"), "", "x", "mlp", "bayesian", [], {}]),
    st.floats(), st.integers(-5, 50), st.text(max_size=3), st.lists(st.integers(0, 5), max_size=3),
)  # fmt: skip


def damage(data: st.DataObject, part: Any) -> Any:
    if isinstance(part, (list, dict)) and part and data.draw(st.integers(0, 3)):
        place = data.draw(st.sampled_from(range(len(part)) if isinstance(part, list) else sorted(part)))
        changed = copy.copy(part)
        changed[place] = damage(data, part[place])
        return changed
    return data.draw(odd)


@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=30, deadline=None, derandomize=True)
@given(data=st.data())
def test_damage_is_refused_or_gives_a_network_of_that_specification(name, data):
    spec = spec_of(name)
    part = data.draw(st.sampled_from(sorted(spec)))
    spec[part] = damage(data, spec[part])
    try:
        with torch.device("meta"):
            network = build(copy.deepcopy(spec))
    except DAMAGED:
        return
    assert savable_spec(network.spec) == spec
