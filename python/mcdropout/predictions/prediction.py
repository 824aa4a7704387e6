"""The result of `mc_predict()`: NumPy arrays and their provenance. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import logsumexp

from ..checks import check_choice, check_count, check_length, check_number
from ..data.labels import Label, label_array
from .parts import (
    agree,
    as_tuple,
    check_array,
    check_given_seed,
    check_label_set,
    check_temperature,
    check_text,
    codes_of,
    opening,
)

Array = np.ndarray

BY_INPUT = (  # one entry per input along the first axis
    "mean",
    "variance",
    "lower",
    "upper",
    "predicted",
    "second",
    "confidence",
    "margin",
    "predictive_entropy",
    "expected_entropy",
    "mutual_information",
    "predictive_entropy_mcse",
    "expected_entropy_mcse",
    "mutual_information_mcse",
    "variation_ratio",
    "aleatoric_variance",
    "total_variance",
    "pred_lower",
    "pred_upper",
)

BY_DRAW = ("samples", "noise_variances")  # (draw, input, ...)

TASKS = ("classification", "regression")

MASKS = ("shared", "per_input")

LIKE_MEAN = ("mean", "variance", "lower", "upper")  # every prediction has them; the shape is that of `mean`

OF_CLASSES = BY_INPUT[4:15]  # without the axis of the labels

OF_VALUES = BY_INPUT[15:]  # of the shape of `mean`

LABEL_CODES = ("predicted", "second")

OPTIONAL_FOR_CLASSES = ("predictive_entropy_mcse", "expected_entropy_mcse", "mutual_information_mcse")

SUM_TOLERANCE = 1e-2  # probabilities in bfloat16 sum to 1 to about this

VARIANCES = ("variance", "aleatoric_variance", "total_variance", "noise_variances")

SHARES = ("mean", "lower", "upper", "confidence", "margin", "variation_ratio", "samples")  # for classes

BOUNDS_OF_VALUES: dict[str, dict[str, Any]] = {name: {"least": 0.0} for name in VARIANCES}

BOUNDS_OF_CLASSES: dict[str, dict[str, Any]] = BOUNDS_OF_VALUES | {
    name: {"least": -SUM_TOLERANCE, "most": 1 + SUM_TOLERANCE} for name in SHARES
}


@dataclass(frozen=True, repr=False)
class MCPrediction:
    """Predictions with their uncertainty, one entry for each input.

    For classes the numbers describe the class probabilities, (input, label). For values they describe the mean that the
    model predicts, (input, output).

    Attributes:
        mean: The mean over the draws.
        variance: The variance over the draws, with divisor n - 1; for values the epistemic part.
        std: The square root of `variance`.
        lower: The lower end of the interval of the draws at `level`.
        upper: The upper end of that interval.
        mcse: The Monte Carlo standard error of `mean`.
        predicted: The most probable label, (input,).
        second: The second most probable label, (input,).
        confidence: The mean probability of `predicted`, (input,).
        margin: The mean probability of `predicted` minus that of `second`, (input,).
        predictive_entropy: The total uncertainty in nats, (input,): `expected_entropy` + `mutual_information`.
        expected_entropy: The aleatoric part in nats, (input,).
        mutual_information: The epistemic part in nats, (input,).
        aleatoric_variance: For values: the variance of the noise, if the model predicts it.
        total_variance: For values: `variance` + `aleatoric_variance`.
        samples: The draws (draw, input, output), or None: float32, or float64 for values of a network of this package.
        noise_variances: The variance of the noise of each draw.
        temperature: The temperature that `mc_apply()` applied to the draws: 1 if none, None in older files.
        ids: The names of the inputs in tables and pictures: the argument `ids`, else the index of a pandas `x`.
    """

    task: str  # "classification" or "regression"
    mean: Array
    variance: Array
    lower: Array
    upper: Array
    n_samples: int | Array  # draws of all inputs; with `tolerance`, draws of each input
    level: float
    seed: int
    masks: str
    engine: str
    engine_reason: str
    device: str
    precision: str
    seconds: float
    labels: tuple[Label, ...] | None = None
    ids: Array | None = None
    predicted: Array | None = None
    second: Array | None = None
    confidence: Array | None = None
    margin: Array | None = None
    predictive_entropy: Array | None = None
    expected_entropy: Array | None = None
    mutual_information: Array | None = None
    predictive_entropy_mcse: Array | None = None
    expected_entropy_mcse: Array | None = None
    mutual_information_mcse: Array | None = None
    variation_ratio: Array | None = None
    aleatoric_variance: Array | None = None
    total_variance: Array | None = None
    pred_lower: Array | None = None
    pred_upper: Array | None = None
    samples: Array | None = None
    noise_variances: Array | None = None
    temperature: float | None = 1.0
    id_names: tuple[str | None, ...] = ("id",)  # names of the index of tables; several if an id has several parts

    def __post_init__(self) -> None:
        """Refuse parts of another type or range than `mc_predict()` gives, and parts that do not fit together."""
        of_classes = check_choice(self.task, "task", TASKS) == "classification"
        check_number(self.level, "level", above=0, below=1)
        check_given_seed(self.seed)
        check_choice(self.masks, "masks", MASKS)
        for name in ("engine", "engine_reason", "device", "precision"):
            check_text(getattr(self, name), name)
        check_number(self.seconds, "seconds", at_least=0)
        check_temperature(self.temperature)
        check_array(self.mean, "mean")
        agree(
            self.mean.ndim >= 2 and 0 not in self.mean.shape[1:], "mean", "have shape (input, output), or further axes"
        )
        self._check_labels(of_classes)
        bounds = BOUNDS_OF_CLASSES if of_classes else BOUNDS_OF_VALUES
        for name in BY_INPUT:
            if name not in LABEL_CODES and getattr(self, name) is not None:
                shape = self.mean.shape[:-1] if name in OF_CLASSES else self.mean.shape
                check_array(getattr(self, name), name, shape, **bounds.get(name, {}))
        self._check_draws(bounds)
        with np.errstate(invalid="ignore"):  # NaN fits; the functions that need numbers refuse it
            too_far = of_classes and (np.abs(self.mean.sum(axis=-1) - 1) > 2 * SUM_TOLERANCE).any()
            agree(not too_far, "mean", "hold probabilities that sum to 1")
            agree(not (self.lower > self.upper).any(), "lower", "not be above `upper`")
        if self.ids is not None:
            agree(isinstance(self.ids, np.ndarray) and self.ids.ndim, "ids", "be an array")
            check_length(len(self.ids), "ids", len(self), "mean")
        self._check_id_names()

    def _check_labels(self, of_classes: bool) -> None:
        """Classes have labels and what is said of them; values have neither."""
        own, foreign = (OF_CLASSES, OF_VALUES) if of_classes else (OF_VALUES, ("labels", *OF_CLASSES))
        if of_classes:
            check_label_set(self.labels)
            check_length(len(self.labels or ()), "labels", self.mean.shape[-1], "the last axis of mean")
        needed = [*LIKE_MEAN, *(name for name in own if of_classes and name not in OPTIONAL_FOR_CLASSES)]
        for name in needed:
            agree(getattr(self, name) is not None, name, f'be given where `task` is "{self.task}"; got none')
        for name in foreign:
            agree(getattr(self, name) is None, name, f'be left out where `task` is "{self.task}"')
        for name in LABEL_CODES if of_classes else ():
            labels = getattr(self, name)
            fits = isinstance(labels, np.ndarray) and labels.shape == self.mean.shape[:-1]
            agree(fits, name, f"be an array of labels of shape {self.mean.shape[:-1]}")

    def _check_draws(self, bounds: Mapping[str, Any]) -> None:
        """As many draws of each input as `n_samples` says."""
        if isinstance(self.n_samples, np.ndarray):
            check_array(self.n_samples, "n_samples", (len(self),), least=2, whole=True)
        else:
            check_count(self.n_samples, "n_samples", at_least=2)
        for name in BY_DRAW:
            draws = getattr(self, name)
            if draws is None:
                continue
            check_array(draws, name, **bounds.get(name, {}))
            agree(draws.shape[1:] == self.mean.shape, name, f"have shape (draw, {str(self.mean.shape)[1:]}")
            # an input that met `tolerance` has no further draws, but NaN
            n_drawn = (~np.isnan(draws[(..., *(0,) * (draws.ndim - 2))])).sum(axis=0)
            agree((n_drawn == self.n_samples).all(), name, "hold as many draws of each input as `n_samples` says")

    def _check_id_names(self) -> None:
        names = self.id_names
        are_names = (
            isinstance(names, tuple) and len(names) and all(n is None or isinstance(n, (str, int)) for n in names)
        )
        agree(are_names, "id_names", "be the names of the index of a table")
        if len(names) > 1:
            has_parts = self.ids is not None and all(isinstance(i, tuple) and len(i) == len(names) for i in self.ids)
            agree(has_parts, "ids", "have a part for each of `id_names`")

    @property
    def std(self) -> Array:
        """Standard deviation over the draws, in the units of `mean`."""
        return np.sqrt(self.variance)

    @property
    def mcse(self) -> Array:
        """Monte Carlo standard error of `mean`: the part of its error that more draws reduce."""
        return self.std / np.sqrt(self._draws_of_each())

    @property
    def epistemic_variance(self) -> Array | None:
        """Variance of the model's mean over the draws (values only)."""
        return self.variance if self.task == "regression" else None

    @property
    def conf_int(self) -> Array | None:
        """Interval of the model's mean, (input, output, 2) (values only)."""
        return np.stack([self.lower, self.upper], axis=-1) if self.task == "regression" else None

    @property
    def pred_int(self) -> Array | None:
        """Interval of a new observation, noise included, (input, output, 2); None if the model predicts no noise."""
        if self.pred_lower is None or self.pred_upper is None:
            return None
        return np.stack([self.pred_lower, self.pred_upper], axis=-1)

    def log_density(self, y: Sequence[float] | Array) -> Array:
        """Log density of observed values under the mixture of the draws, (input, output), in nats per output.

        This is the log of the mean over the draws of Normal(y; mean_t, noise variance_t), not the density at the mean
        parameters. It needs the draws and a model that predicts its noise.
        Reference: Gal and Ghahramani (2016), arXiv:1506.02142, appendix 4.4.
        """
        if self.samples is None or self.noise_variances is None:
            raise ValueError(
                "`log_density()` needs the draws and the noise variance of each; use a model that predicts its noise "
                "and set `keep_samples` to true."
            )
        observed = np.asarray(y, dtype=np.float64)
        check_length(len(observed), "y", len(self), "prediction")
        observed = observed.reshape(self.mean.shape)
        means, variances = self.samples.astype(np.float64), self.noise_variances.astype(np.float64)
        terms = -0.5 * (np.log(2 * np.pi * variances) + (observed - means) ** 2 / variances)
        terms = np.where(np.isnan(means), -np.inf, terms)  # an input that met `tolerance` has no further draws
        return logsumexp(terms, axis=0) - np.log(self._draws_of_each())

    def _draws_of_each(self) -> Array:
        """Number of draws, as a divisor: one number, or one for each input along the first axis."""
        counts = np.asarray(self.n_samples)
        return counts.reshape(-1, *(1,) * (self.mean.ndim - 1)) if counts.ndim else counts

    def __len__(self) -> int:
        return len(self.mean)

    def __getitem__(self, inputs: slice | Sequence[int] | Array) -> MCPrediction:
        """The prediction for some of the inputs (a slice, positions, or a boolean mask)."""
        index = inputs if isinstance(inputs, slice) else np.atleast_1d(np.asarray(inputs))
        if isinstance(index, np.ndarray) and index.size == 0:
            index = index.astype(np.int64)  # an empty list has no type
        by_input = (*BY_INPUT, "ids", *(["n_samples"] if isinstance(self.n_samples, np.ndarray) else []))
        selected = {name: value[index] for name in by_input if (value := getattr(self, name)) is not None}
        selected |= {name: value[:, index] for name in BY_DRAW if (value := getattr(self, name)) is not None}
        return replace(self, **selected)

    def __repr__(self) -> str:
        size = f"{self.mean[:1].size} outputs" if self.labels is None else f"{len(self.labels)} labels"
        calibrated = f"calibrated at temperature {self.temperature:.4g}, " if self.is_calibrated() else ""
        return (
            f"MCPrediction of {len(self)} inputs, {size}: {self.draws_in_words()}, {calibrated}{self.masks} masks, "
            f"seed {self.seed}, {self.engine} on {self.device} in {self.precision}, {self.seconds:.1f} s"
        )

    def is_calibrated(self) -> bool:
        """Whether `mc_apply()` has changed the draws; False if an older file does not say."""
        return self.temperature not in (None, 1)

    def draws_in_words(self) -> str:
        """The number of draws in words: with `tolerance`, the smallest and the largest number of an input."""
        counts = np.atleast_1d(self.n_samples)
        least, most = (counts.min(), counts.max()) if len(counts) else (0, 0)
        return f"{most} draws" if least == most else f"{least} to {most} draws"

    def to_pandas(self) -> pd.DataFrame:
        """One row per input; for classes one column per label for the mean, lower and upper probability.

        For values, lower and upper are the interval of the mean. pred_lower and pred_upper are the interval of a new
        observation, if the model predicts its noise (`.pred_lower` and `.pred_int_lower` in R, as in tidymodels).

        Raises ValueError for class probabilities with further axes, such as segmentation maps: use the arrays.
        """
        if self.task == "classification" and self.mean.ndim > 2:
            raise ValueError(f"`to_pandas()` needs one row of probabilities per input; got shape {self.mean.shape}.")
        if self.task == "classification":
            return self._classes_table()
        return self._values_table()

    def _classes_table(self) -> pd.DataFrame:
        single_columns = (
            "predicted",
            "confidence",
            "second",
            "margin",
            "predictive_entropy",
            "expected_entropy",
            "mutual_information",
            "variation_ratio",
        )
        columns: dict[str, Any] = {name: getattr(self, name) for name in single_columns}
        assert self.labels is not None
        for code, label in enumerate(self.labels):
            columns[f"mean_{label}"] = self.mean[:, code]
            columns[f"lower_{label}"] = self.lower[:, code]
            columns[f"upper_{label}"] = self.upper[:, code]
        return pd.DataFrame(columns, index=index_of(self))

    def _values_table(self) -> pd.DataFrame:
        names = (
            "mean",
            "std",
            "lower",
            "upper",
            "aleatoric_variance",
            "total_variance",
            "pred_lower",
            "pred_upper",
        )
        columns: dict[str, Any] = {}
        for name in names:
            value = getattr(self, name)
            if value is None:
                continue
            flat = value.reshape(len(self), -1)
            for output in range(flat.shape[1]):
                columns[name if flat.shape[1] == 1 else f"{name}_{output + 1}"] = flat[:, output]
        return pd.DataFrame(columns, index=index_of(self))

    def to_state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """The content of a file: numeric arrays, and facts as JSON can hold them. Labels are kept as codes."""
        self.__post_init__()  # what was changed in place since must not give a file that cannot be opened
        arrays: dict[str, Array] = {}
        facts: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "id_names" and (self.ids is None or value == ("id",) or len(value) > 1):
                continue
            if field.name in ("predicted", "second") and value is not None:
                assert self.labels is not None
                arrays[field.name] = codes_of(value, self.labels, field.name)
            elif isinstance(value, np.ndarray) and value.dtype.kind in "iuf":
                arrays[field.name] = value
            elif field.name in ("ids", "id_names") and value is not None:
                facts[field.name] = [_plain(name) for name in value]
            elif value is not None:
                facts[field.name] = list(value) if isinstance(value, (tuple, np.ndarray)) else value
        return arrays, facts

    @classmethod
    def from_state(cls, arrays: Mapping[str, Array], facts: Mapping[str, Any]) -> MCPrediction:
        """The prediction of what `to_state()` returned."""
        optional = [field.name for field in fields(cls) if field.default is not MISSING]
        with opening("prediction", cls, [*arrays, *facts], optional):
            values: dict[str, Any] = {"temperature": None, **facts, **arrays}
            if values.get("labels") is not None:
                values["labels"] = as_tuple(values["labels"], "labels")
                check_label_set(values["labels"])
                names = label_array(values["labels"])
                for name in LABEL_CODES:
                    check_array(values.get(name), name, least=0, most=len(names) - 1, whole=True)
                    values[name] = names[values[name].astype(np.int64)]
            if isinstance(values.get("ids"), list):
                agree(all(isinstance(i, (str, int, float)) for i in values["ids"]), "ids", "be text or numbers")
                values["ids"] = np.array(values["ids"], dtype=object)
            if "id_names" in values:
                values["id_names"] = as_tuple(values["id_names"], "id_names")
            return cls(**values)


def index_of(prediction: MCPrediction) -> pd.Index:
    """The index of a table with one row per input: the ids, or positions from 0."""
    if prediction.ids is None:
        return pd.RangeIndex(len(prediction), name="input")
    names = prediction.id_names
    if len(names) == 1:
        return pd.Index(prediction.ids, name=names[0])
    return pd.MultiIndex.from_tuples(prediction.ids.tolist(), names=names)


def with_index(prediction: MCPrediction, index: Any | None) -> MCPrediction:
    """The prediction with the index of a table as ids, if it has no ids."""
    if index is None or prediction.ids is not None:
        return prediction
    return replace(prediction, ids=index.to_numpy(), id_names=tuple(index.names))


def _plain(name: Any) -> Any:
    """An id, or the name of ids, as JSON can hold it: a number or text."""
    if name is None or isinstance(name, (str, int)):
        return name
    if isinstance(name, np.integer):
        return int(name)
    return ", ".join(map(str, name)) if isinstance(name, tuple) else str(name)
