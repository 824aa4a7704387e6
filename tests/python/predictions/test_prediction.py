"""The prediction object: its derived fields, indexing, tables, and its state as written to a file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import mcdropout as mcd
from mcdropout import MCPrediction

DRAWS, INPUTS, LABELS = 4, 6, 3
SETTINGS: dict[str, Any] = {
    "n_samples": DRAWS,
    "level": 0.9,
    "seed": 1,
    "masks": "shared",
    "engine": "folded",
    "engine_reason": "",
    "device": "cpu",
    "precision": "float32",
    "seconds": 0.5,
}


@pytest.fixture
def classes():
    samples = np.random.default_rng(0).dirichlet(np.ones(LABELS), (DRAWS, INPUTS)).astype(np.float32)
    mean = samples.mean(axis=0, dtype=np.float64)
    names = np.array(["a", "b", "c"], dtype=object)
    order = mean.argsort(axis=1)
    by_input = np.arange(INPUTS) / 10
    return MCPrediction(
        task="classification",
        mean=mean,
        variance=samples.var(axis=0, ddof=1, dtype=np.float64),
        lower=mean - 0.1,
        upper=mean + 0.1,
        labels=("a", "b", "c"),
        ids=np.array([f"case {i}" for i in range(INPUTS)]),
        predicted=names[order[:, -1]],
        second=names[order[:, -2]],
        confidence=mean.max(axis=1),
        margin=by_input,
        predictive_entropy=by_input + 0.5,
        expected_entropy=by_input + 0.2,
        mutual_information=np.full(INPUTS, 0.3),
        variation_ratio=by_input,
        samples=samples,
        **SETTINGS,
    )


@pytest.fixture
def values():
    rng = np.random.default_rng(1)
    samples = rng.normal(300, 5, (DRAWS, INPUTS, 2)).astype(np.float32)
    noise = rng.uniform(0.5, 2, (DRAWS, INPUTS, 2)).astype(np.float32)
    mean = samples.mean(axis=0, dtype=np.float64)
    variance = samples.var(axis=0, ddof=1, dtype=np.float64)
    aleatoric = noise.mean(axis=0, dtype=np.float64)
    return MCPrediction(
        task="regression",
        mean=mean,
        variance=variance,
        lower=mean - 1,
        upper=mean + 1,
        aleatoric_variance=aleatoric,
        total_variance=variance + aleatoric,
        pred_lower=mean - 3,
        pred_upper=mean + 3,
        samples=samples,
        noise_variances=noise,
        **SETTINGS,
    )


def test_std_and_its_monte_carlo_error(classes):
    np.testing.assert_allclose(classes.std**2, classes.variance, rtol=1e-15)
    np.testing.assert_allclose(classes.mcse, classes.std / 2)  # sqrt of 4 draws


def test_regression_has_two_intervals_and_classification_none(values, classes):
    np.testing.assert_array_equal(values.conf_int, np.stack([values.mean - 1, values.mean + 1], axis=-1))
    np.testing.assert_array_equal(values.pred_int, np.stack([values.mean - 3, values.mean + 3], axis=-1))
    np.testing.assert_array_equal(values.epistemic_variance, values.variance)
    assert classes.conf_int is classes.pred_int is classes.epistemic_variance is None


def test_log_density_is_the_log_density_of_the_mixture(values):
    y = np.random.default_rng(2).normal(300, 5, (INPUTS, 2))
    expected = np.log(stats.norm.pdf(y, values.samples, np.sqrt(values.noise_variances)).mean(axis=0))
    np.testing.assert_allclose(values.log_density(y), expected, rtol=1e-5)  # the parameters are float32


def test_log_density_by_hand(values):
    # Draws at 0 and 2, noise variance 1, y = 1: every term is Normal(1; 0, 1) = .241971; its log is -1.418939.
    settings: dict[str, Any] = SETTINGS | {"n_samples": 2}
    by_hand = MCPrediction(
        task="regression",
        mean=np.ones((1, 1)),
        variance=np.full((1, 1), 2.0),
        lower=np.zeros((1, 1)),
        upper=np.full((1, 1), 2.0),
        samples=np.array([[[0.0]], [[2.0]]], dtype=np.float32),
        noise_variances=np.ones((2, 1, 1), dtype=np.float32),
        **settings,
    )
    np.testing.assert_allclose(by_hand.log_density([1.0]), [[-1.418939]], atol=5e-7)


def test_log_density_refuses_predictions_without_noise_and_wrong_lengths(classes, values):
    with pytest.raises(ValueError, match="needs the draws and the noise variance of each; use a model that predicts"):
        classes.log_density(np.zeros(INPUTS))
    with pytest.raises(ValueError, match=r"`y` must be as long as `prediction` \(6\); got length 5."):
        values.log_density(np.zeros((5, 2)))


@pytest.mark.parametrize("where", [slice(1, 4), [1, 2, 3], np.array([False, True, True, True, False, False])])
def test_indexing_selects_every_field(classes, where):
    part = classes[where]
    assert len(part) == 3
    assert part.samples.shape == (DRAWS, 3, LABELS)
    np.testing.assert_array_equal(part.mean, classes.mean[1:4])
    np.testing.assert_array_equal(part.predicted, classes.predicted[1:4])
    assert part.ids.tolist() == ["case 1", "case 2", "case 3"]
    assert part.labels == classes.labels


def test_a_prediction_of_no_input_is_allowed(classes):
    assert classes[[]].mean.shape == classes[0:0].mean.shape == (0, LABELS)
    assert repr(classes[[]]).startswith("MCPrediction of 0 inputs, 3 labels: 4 draws")


def test_a_single_input_keeps_its_axis(classes):
    assert classes[2].mean.shape == (1, LABELS)


def test_the_table_has_one_row_per_input(classes, values):
    table = classes.to_pandas()
    assert table.index.tolist() == classes.ids.tolist()
    np.testing.assert_array_equal(table["mean_b"], classes.mean[:, 1])
    np.testing.assert_array_equal(table["upper_c"], classes.upper[:, 2])
    assert values.to_pandas().shape == (INPUTS, 2 * 8)
    np.testing.assert_array_equal(values.to_pandas()["pred_upper_2"], values.pred_upper[:, 1])


def test_the_print_shows_the_settings(classes):
    assert repr(classes) == (
        "MCPrediction of 6 inputs, 3 labels: 4 draws, shared masks, seed 1, folded on cpu in float32, 0.5 s"
    )


@pytest.mark.parametrize("task", ["classes", "values"])
def test_a_prediction_equals_the_one_from_its_state(task, request):
    prediction = request.getfixturevalue(task)
    restored = MCPrediction.from_state(*prediction.to_state())
    for name, value in vars(prediction).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(getattr(restored, name), value, err_msg=name)
        else:
            assert getattr(restored, name) == value, name


# The index of a table --------------------------------------------------------------------------------------

INDICES = [
    pd.Index([9, 4, 7, 1, 0]),
    pd.Index(list("pqrst"), name="who"),
    pd.Index([2.5, 0.5, 1.5, 4.5, 3.5]),
    pd.DatetimeIndex([f"2020-01-0{day}" for day in (3, 1, 5, 2, 4)], name="day"),
    pd.MultiIndex.from_product([["a"], range(5)], names=["ward", None]),
    pd.RangeIndex(3, 8),
]


def predict(x: object, model: torch.nn.Module | None = None, **options: Any) -> MCPrediction:
    model = mcd.mc_mlp(4, ["u", "v", "w"], hidden=8, dropout=0.5) if model is None else model
    return mcd.mc_predict(model, x, 6, seed=1, progress=False, **options)


@pytest.fixture(scope="module")
def rows():
    return pd.DataFrame(np.sin(np.arange(20.0)).reshape(5, 4), columns=list("abcd"))


@pytest.mark.parametrize("index", INDICES, ids=lambda index: type(index).__name__ + str(index.dtype))
def test_tables_have_the_index_of_the_inputs_and_masks_do_not_depend_on_it(index, rows, tmp_path):
    x = rows.set_axis(index)
    prediction = predict(x, masks="per_input")
    np.testing.assert_array_equal(prediction.samples, predict(rows.to_numpy(), masks="per_input").samples)
    tables = [prediction.to_pandas(), mcd.mc_decide(mcd.mc_triage(prediction, list("uvwuv"), budget=0.4), prediction)]
    for table in tables:
        pd.testing.assert_index_equal(table.index, index, exact="equiv")
    pd.testing.assert_index_equal(prediction[[3, 1]].to_pandas().index, index[[3, 1]], exact="equiv")
    acquired = mcd.mc_acquire(prediction, 2)
    assert acquired["id"].tolist() == index[acquired["input"]].tolist()
    mcd.mc_save(prediction, tmp_path / "file")
    loaded = mcd.mc_load(tmp_path / "file")
    assert isinstance(loaded, MCPrediction)
    index_of_file = loaded.to_pandas().index
    if index.nlevels == 1 and index.dtype.kind != "M":  # a file stores other ids as text
        pd.testing.assert_index_equal(index_of_file, index, exact="equiv")
    assert len(index_of_file.unique()) == 5


def test_ids_replace_the_index_and_positions_are_no_index(rows):
    x = rows.set_axis(list("pqrst"))
    index = predict(x, ids=[4, 3, 2, 1, 0]).to_pandas().index
    assert index.tolist() == [4, 3, 2, 1, 0]
    assert index.name == "id"
    assert predict(rows).ids is None
    assert predict(rows).to_pandas().index.name == "input"


def test_modules_of_several_inputs_and_samplers_keep_the_index(rows):
    class Sum(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.drop, self.head = torch.nn.Dropout(0.5), torch.nn.Linear(4, 3)

        def forward(self, x, other):
            return self.head(self.drop(x + other))

    x = rows.set_axis(list("pqrst"))
    for inputs in ((rows.to_numpy(), x), {"x": x, "other": rows}):
        ids = predict(inputs, Sum(), outputs="logits").ids
        assert ids is not None
        assert ids.tolist() == list("pqrst")
    sampler = mcd.mc_sampler(mcd.mc_mlp(4, ["u", "v"], dropout=0.5), x, 5, seed=1)
    assert sampler(x[2:4]).to_pandas().index.tolist() == ["r", "s"]
