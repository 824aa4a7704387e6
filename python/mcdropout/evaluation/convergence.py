"""The number of draws that is enough, and the dropout rate that predicts best."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ..checks import check_count, check_number, check_seed, shown
from ..data.labels import Label
from ..networks.frozen import split_backbone
from ..predictions.outputs import Select
from ..predictions.prediction import Array, MCPrediction
from ..predictions.summaries import entropy_parts, mean_and_variance, standard_error
from ..predictions.truth import check_prediction, predicted_codes, true_codes, true_values
from ..progress import Progress
from ..sampling.draw import DRAWS_BYTES, draw_all
from ..sampling.model import network_of, sampler_for
from ..sampling.options import ModelOptions, SamplingOptions, SiteOptions
from ..sampling.predict import mc_predict
from ..sites.keras.loading import is_keras, is_keras_2

SHARE = 0.95  # the share of the inputs for which the recommended number of draws is enough

ENTROPIES = ("predictive_entropy", "expected_entropy", "mutual_information")


@dataclass(frozen=True, repr=False)
class MCConvergence:
    """The result of `mc_convergence()`.

    Attributes:
        n_inputs: The number of inputs.
        n_samples: The numbers of draws.
        tolerance: The Monte Carlo standard error that is asked for.
        table: One row for each number of draws and measure: `value`, the mean over the inputs; `mcse`, the root mean
            square of the Monte Carlo standard errors of the inputs; `difference`, the root mean square of the changes
            by the remaining draws; `settled`, the share of the inputs whose error is at most `tolerance`.
        needed: One row for each measure: the smallest number of draws with which 95 % of the inputs, and all, have an
            error of at most `tolerance`.
    """

    n_inputs: int
    n_samples: tuple[int, ...]
    tolerance: float | None
    table: pd.DataFrame
    needed: pd.DataFrame

    @property
    def recommended(self) -> int | None:
        """The number of draws with which the mean of 95 % of the inputs is within `tolerance`."""
        return None if self.tolerance is None else int(self.needed.loc[0, "n_samples"])  # pyright: ignore[reportArgumentType]

    def words(self) -> str:
        """The recommendation, and the errors of the largest number of draws, as text."""
        return "\n".join(_words(self))

    def __repr__(self) -> str:
        return self.words()


def mc_convergence(
    model: Any,
    x: Any,
    n_samples: Sequence[int] = (10, 20, 50, 100, 200),
    batch_size: int = 128,
    *,
    tolerance: float | None = None,
    masks: str = "shared",
    outputs: str | None = None,
    labels: Iterable[Label] | None = None,
    select: Select | None = None,
    constants: Mapping[str, Any] | None = None,
    stochastic_depth: bool = True,
    gaussian_noise: bool = False,
    precision: str = "float32",
    device: str | Sequence[str] = "auto",
    seed: int | None = None,
    progress: Progress = True,
) -> MCConvergence:
    """Measure how the uncertainty settles as draws are added, and how many draws are enough.

    All numbers come from one set of draws. The mutual information settles last, because it is too small on average
    with few draws.

    Args:
        model: As in `mc_predict()`.
        x: Inputs; some hundred are enough.
        n_samples: Numbers of draws, rising. The summaries for each number are those of `mc_predict()` with the same
            seed.
        batch_size: Inputs handled at a time.
        tolerance: The Monte Carlo standard error that is asked for. For classes it is in units of probability, and for
            entropies in nats; 0.01 by default. For values it is in their unit; without it no number is recommended. The
            error of an input's mean is that of its worst label or output. The number of draws that is needed is (its
            standard deviation over the draws / `tolerance`) squared.
        masks: As in `mc_predict()`.
        outputs: What a module of your own returns: "logits", "probabilities", "values", or "mean_log_variance" (means,
            then log variances, along the last axis). Of a Keras model it is read from the last activation or the loss,
            where that is sure. A single logit or probability is that of the second of two labels, as is a single
            channel (the second axis or the last) of a map. Several labels that may hold at once are "values", or one of
            them at a time by `select`.
        labels: The names of the classes of a module of your own; 0, 1, ... by default. With more than two axes they
            tell which axis is the classes'. Networks of this package have their own labels, and refuse others.
        select: Which part of a tuple or mapping that `model` returns, or a function that takes it out.
        constants: What else `model` is given, by keyword, the same for all inputs: flags, edges, an adjacency matrix.
            Arrays become tensors; floating ones get the type of the weights. Not for Keras models.
        stochastic_depth: Whether whole blocks that are skipped at random in training are sampled too.
        gaussian_noise: Whether normal noise that acts in training alone is sampled too, as that of Keras's
            `GaussianNoise`.
        precision: "float32", "bfloat16" or "float16" for the network. Summaries are always in float64.
        device: "auto" (the first GPU, if there is one), "cpu", "cuda", "cuda:1" and so on; or several, as in
            `["cuda:0", "cuda:1"]`, which take batches in turns. Precision and device of a Keras model are those that
            Keras has set.
        seed: From 0 to 2^53 - 1; decides every mask. None draws one, and the result carries it.
        progress: True shows a bar on long runs. A function is called with (done, total, text).

    Returns:
        The measures by number of draws: `mean` (of classes the probability of the predicted label), `std` (its standard
        deviation over the draws), and for classes the three entropies.

    Raises:
        ValueError: For numbers of draws that do not rise, and as `mc_predict()` does.

    Examples:
        >>> import mcdropout as mcd
        >>> import numpy as np
        >>> result = mcd.mc_convergence(
        ...     mcd.mc_mlp(4, labels=["no", "yes"]), np.ones((3, 4)), (10, 20), seed=1, progress=False
        ... )
        >>> result.n_samples
        (10, 20)
    """
    counts = _counts(n_samples)
    checked_tolerance = None if tolerance is None else check_number(tolerance, "tolerance", above=0)
    prediction = mc_predict(
        model, x, counts[-1], batch_size, masks=masks, outputs=outputs, labels=labels, select=select,
        constants=constants, stochastic_depth=stochastic_depth, gaussian_noise=gaussian_noise,
        precision=precision, device=device, seed=seed, progress=progress,
    )  # fmt: skip
    return convergence_of(prediction, counts, checked_tolerance)


def convergence_of(prediction: MCPrediction, counts: tuple[int, ...], tolerance: float | None) -> MCConvergence:
    """As `mc_convergence()`, of the draws of a prediction."""
    check_prediction(prediction, "x")
    assert prediction.samples is not None
    classes = prediction.task == "classification"
    if tolerance is None and classes:
        tolerance = 0.01
    size = max(1, DRAWS_BYTES // (4 * prediction.samples[:, :1].size))
    parts = []
    for start in range(0, len(prediction), size):
        inputs = slice(start, start + size)
        draws = torch.from_numpy(np.ascontiguousarray(prediction.samples[:, inputs])).flatten(2)
        codes = torch.from_numpy(predicted_codes(prediction[inputs])) if classes else None
        parts.append([_measures(draws[:count], codes) for count in counts])
    rows, needed = [], []
    for measure in parts[0][0]:
        values_and_errors = [[np.concatenate([part[place][measure][which] for part in parts]) for which in (0, 1)]
                             for place in range(len(counts))]  # fmt: skip
        last, last_errors = values_and_errors[-1]
        for count, (values, errors) in zip(counts, values_and_errors, strict=True):
            rows.append(
                {
                    "n_samples": count,
                    "measure": measure,
                    "value": float(values.mean()),
                    "mcse": float(np.sqrt(np.mean(errors**2))),
                    "difference": float(np.sqrt(np.mean((values - last) ** 2))),
                    "settled": math.nan if tolerance is None else float((errors <= tolerance).mean()),
                }
            )
        if tolerance is not None:
            n_needed = np.maximum(2, np.ceil(counts[-1] * (last_errors / tolerance) ** 2 - 1e-9)).astype(np.int64)
            for_most = int(np.quantile(n_needed, SHARE, method="inverted_cdf"))
            needed.append({"measure": measure, "n_samples": for_most, "n_samples_for_all": int(n_needed.max())})
    table = pd.DataFrame(rows).sort_values("n_samples", kind="stable", ignore_index=True)
    columns = ["measure", "n_samples", "n_samples_for_all"]
    return MCConvergence(len(prediction), counts, tolerance, table, pd.DataFrame(needed, columns=columns))


def _measures(draws: Tensor, codes: Tensor | None) -> dict[str, tuple[Array, Array]]:
    """Value and Monte Carlo standard error of each measure for each input, from draws (draw, input, output)."""
    mean, variance = mean_and_variance(draws)
    worst = standard_error(draws).amax(dim=1)
    std, std_error = _spread(draws, mean, variance)
    if codes is None:
        measures = {"mean": (mean.mean(dim=1), worst), "std": (std.mean(dim=1), std_error.amax(dim=1))}
    else:
        predicted = codes[:, None]
        measures = {"mean": (mean.gather(1, predicted)[:, 0], worst)}
        measures["std"] = (std.gather(1, predicted)[:, 0], std_error.gather(1, predicted)[:, 0])
        parts = entropy_parts(draws)
        measures |= {name: (parts[name], parts[f"{name}_mcse"]) for name in ENTROPIES}
    return {name: (value.numpy(), error.numpy()) for name, (value, error) in measures.items()}


def _spread(draws: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Standard deviation over the draws and its standard error, by the delta method from the fourth moment."""
    fourth = (draws.double() - mean).pow(4).mean(dim=0)
    std = variance.sqrt()
    error = ((fourth - variance.square()).clamp(min=0) / len(draws)).sqrt() / (2 * std)
    return std, torch.where(std > 0, error, torch.zeros_like(error))


def _counts(n_samples: object) -> tuple[int, ...]:
    several = isinstance(n_samples, (Sequence, np.ndarray)) and not isinstance(n_samples, str)
    values = list(n_samples) if several else [n_samples]  # pyright: ignore[reportArgumentType]
    counts = tuple(check_count(value, "n_samples", at_least=2) for value in values)
    if not counts or any(later <= earlier for earlier, later in itertools.pairwise(counts)):
        raise ValueError(f"`n_samples` must be rising numbers of draws; got {shown(list(values))}.")
    return counts


def _words(result: MCConvergence) -> list[str]:
    last = result.table[result.table["n_samples"] == result.n_samples[-1]]
    lines = [f"# How {result.n_samples[-1]} draws settle, over {result.n_inputs} inputs"]
    lines += [f"{row.measure}: {row.value:.4g}, Monte Carlo error {row.mcse:.2g}" for row in last.itertuples()]
    if result.tolerance is None:
        return [*lines, "`tolerance`, in the unit of the values, would give the number of draws needed."]
    needed: list[Any] = list(result.needed.itertuples())
    for place, row in enumerate(needed):
        start = f"For an error of at most {result.tolerance:g}" if place == 0 else "The same"
        lines.append(
            f"{start} in {row.measure}: {row.n_samples} draws for {100 * SHARE:g} % of the inputs, "
            f"{row.n_samples_for_all} for all."
        )
    return lines


def mc_compare_rates(
    model: Any | Callable[[float], Any],
    x: Any,
    y: object,
    rates: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7),
    n_samples: int = 50,
    batch_size: int = 128,
    *,
    outputs: str | None = None,
    labels: Iterable[Label] | None = None,
    select: Select | None = None,
    constants: Mapping[str, Any] | None = None,
    gaussian_noise: bool = False,
    precision: str = "float32",
    device: str | Sequence[str] = "auto",
    seed: int | None = None,
    progress: Progress = True,
) -> pd.DataFrame:
    """Compare dropout rates by the log loss on inputs that were not used in training: one row for each rate.

    All rates share one seed.

    Args:
        model: As in `mc_predict()`. It is sampled with each rate at all its dropouts, whatever their rate in training;
            the skipping of whole blocks and random numbers of the model do not change. Or a function that takes a rate
            and returns a model fitted with it, which says more and takes longer.
        x: As in `mc_predict()`, but no stream that can be read only once.
        y: The true label of each input, or the values observed.
        rates: Rates of dropping, in (0, 1).
        n_samples: The number of draws for each rate.
        batch_size: Inputs handled at a time.
        outputs: What a module of your own returns: "logits", "probabilities", "values", or "mean_log_variance" (means,
            then log variances, along the last axis). Of a Keras model it is read from the last activation or the loss,
            where that is sure. A single logit or probability is that of the second of two labels, as is a single
            channel (the second axis or the last) of a map. Several labels that may hold at once are "values", or one of
            them at a time by `select`.
        labels: The names of the classes of a module of your own; 0, 1, ... by default. With more than two axes they
            tell which axis is the classes'. Networks of this package have their own labels, and refuse others.
        select: Which part of a tuple or mapping that `model` returns, or a function that takes it out.
        constants: What else `model` is given, by keyword, the same for all inputs: flags, edges, an adjacency matrix.
            Arrays become tensors; floating ones get the type of the weights. Not for Keras models.
        gaussian_noise: Whether normal noise that acts in training alone is sampled too, as that of Keras's
            `GaussianNoise`.
        precision: "float32", "bfloat16" or "float16" for the network. Summaries are always in float64.
        device: "auto" (the first GPU, if there is one), "cpu", "cuda", "cuda:1" and so on; or several, as in
            `["cuda:0", "cuda:1"]`, which take batches in turns. Precision and device of a Keras model are those that
            Keras has set.
        seed: From 0 to 2^53 - 1; decides every mask. None draws one, and the result carries it.
        progress: True shows a bar on long runs. A function is called with (done, total, text).

    Returns:
        A table with columns rate; loss (mean over the inputs: for classes the log loss of the mean over the draws, in
        nats; for values minus the log density of the mixture of the draws, for each output, or the squared error where
        the network has no noise); difference (from the lowest loss) and difference_se (its standard error over the
        inputs, paired), so that a difference of less than two of them says little; accuracy (classes); spread (mean
        mutual information in nats, or mean standard deviation over the draws); best.

    Raises:
        ValueError: For rates outside (0, 1), and as `mc_predict()` does.
        NoStochasticSites: Where there is no dropout whose rate could be another.

    References:
        Gal, Hron and Kendall (2017), Concrete dropout, arXiv:1705.07832: the rate must fit the data for the spread to
        mean much.

    Examples:
        >>> import mcdropout as mcd
        >>> import numpy as np
        >>> net, x = mcd.mc_mlp(4, labels=["no", "yes"]), np.random.default_rng(0).normal(size=(20, 4))
        >>> mcd.mc_compare_rates(net, x, ["no", "yes"] * 10, (0.1, 0.3), seed=1, progress=False).rate.tolist()
        [0.1, 0.3]
    """
    values = [rates] if not isinstance(rates, (Sequence, np.ndarray)) else list(rates)
    checked = [check_number(value, "rates", above=0, below=1) for value in values]
    if not checked or len(set(checked)) < len(checked):
        raise ValueError(f"`rates` must be at least one rate, all different; got {shown(values)}.")
    if isinstance(x, Iterator) and len(checked) > 1:
        raise ValueError("`x` must be inputs that can be read anew for each rate; got a stream that is read but once.")
    seed, site_options = check_seed(seed), SiteOptions.checked(True, gaussian_noise)
    refit = callable(model) and not isinstance(model, nn.Module) and not is_keras(model) and not is_keras_2(model)
    losses, rows = [], []
    for rate in checked:
        started = time.perf_counter()
        network_to_ask, inputs = split_backbone(model(rate) if refit else model, x, device)
        network = network_of(network_to_ask, ModelOptions(outputs, labels, select, precision, device, constants))
        keep_samples = network.outputs.task == "regression"  # the loss of values needs the draws
        options = SamplingOptions.checked(n_samples, batch_size, 0.95, "shared", None, keep_samples, None, seed)
        source = network.source(inputs)
        sampler = sampler_for(network, source, options, site_options, rate=None if refit else rate)
        sampler.warned = bool(rows) and not refit  # the first rate has already warned about this model
        prediction = draw_all(network, sampler, source, options, None, progress, started)
        loss, other_columns = _loss(check_prediction(prediction, "x"), y)
        losses.append(loss)
        rows.append({"rate": rate, "loss": float(loss.mean()), **other_columns})
    table = pd.DataFrame(rows)
    best = int(table["loss"].argmin())
    differences = [loss - losses[best] for loss in losses]
    table.insert(2, "difference", table["loss"] - table["loss"][best])
    errors = [
        float(difference.std(ddof=1) / math.sqrt(len(difference))) if len(difference) > 1 else math.nan
        for difference in differences
    ]
    table.insert(3, "difference_se", errors)
    table["best"] = np.arange(len(table)) == best
    return table


def _loss(prediction: MCPrediction, y: object) -> tuple[Array, dict[str, float]]:
    """Loss of each input, and the other columns of the table."""
    if prediction.task == "classification":
        codes = true_codes(y, prediction, of="x")
        of_truth = prediction.mean[np.arange(len(codes)), codes]
        right = predicted_codes(prediction) == codes
        spread = float(np.mean(np.asarray(prediction.mutual_information)))
        # if all draws give the true label probability 0, the smallest number above 0 keeps the mean loss finite
        loss = -np.log(np.maximum(of_truth, np.finfo(np.float64).tiny))
        return loss, {"accuracy": float(right.mean()), "spread": spread}
    values = true_values(y, prediction, of="x")
    if prediction.noise_variances is None:
        each = (values - prediction.mean) ** 2
    else:
        each = -prediction.log_density(values)
    return each.reshape(len(each), -1).mean(axis=1), {"spread": float(prediction.std.mean())}
