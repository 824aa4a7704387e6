"""`mc_convergence()` and `mc_compare_rates()`: how many draws are enough, and which dropout rate predicts best."""

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

from ..checks import as_list, check_count, check_number, check_seed, shown
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

SHARE = 0.95  # share of the inputs for which the recommended number of draws is enough

ENTROPIES = ("predictive_entropy", "expected_entropy", "mutual_information")


@dataclass(frozen=True, repr=False)
class MCConvergence:
    """How the measures settle as draws are added; `mc_convergence()` returns it.

    Attributes:
        n_inputs: Number of inputs.
        n_samples: The numbers of draws.
        tolerance: The largest accepted Monte Carlo standard error.
        table: One row for each number of draws and measure. `value` is the mean over the inputs. `mcse` is the root
            mean square over the inputs of their Monte Carlo standard errors. `difference` is the root mean square over
            the inputs of the change by the remaining draws. `settled` is the share of the inputs with an error of at
            most `tolerance`.
        needed: One row for each measure: the smallest numbers of draws with which 95 % of the inputs, and all inputs,
            have an error of at most `tolerance`.
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
        """The recommendation, and the errors with the largest number of draws, as text."""
        return "\n".join(_words(self))

    def __repr__(self) -> str:
        return self.words()


def mc_convergence(
    model: Any,
    x: Any,
    n_samples: int | Sequence[int] = (10, 20, 50, 100, 200),
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

    All numbers are computed from one set of draws. The mutual information takes longest to settle, because from few
    draws it is too small on average.

    Args:
        model: As in `mc_predict()`.
        x: Inputs. Some hundreds are enough.
        n_samples: One number of draws or several, in increasing order. The summaries for n draws are those of the first
            n draws of one set, as `mc_predict()` with the same seed would give.
        batch_size: Number of inputs per batch.
        tolerance: The largest accepted Monte Carlo standard error. For classes it is in units of probability and, for
            entropies, in nats, with default 0.01. For values it is in their own unit; without it no number is
            recommended. The error of an input's mean is the error of its worst label or output. The number needed is
            (standard deviation over the draws / `tolerance`) squared.
        masks: As in `mc_predict()`.
        outputs: What a module of your own returns: "logits", "probabilities", "values", or "mean_log_variance" (means,
            then log variances, along the last axis). For a Keras model it is read from the last activation or from the
            loss, if they are clear. A single logit or probability belongs to the second of two labels, and so does a
            single channel (the second axis or the last) of a map. For several labels that may be true at the same time,
            use "values", or one label at a time by `select`.
        labels: The names of the classes of a module of your own; 0, 1, ... by default. If its outputs have more than
            two axes, the labels tell which axis has the classes. Networks of this package have their own labels and
            refuse others.
        select: The part to use, if `model` returns a tuple or mapping, or a function that takes it out.
        constants: Further arguments of `model`, by keyword, the same for all inputs: flags, edges, an adjacency matrix.
            Arrays become tensors; floating ones get the type of the weights. Not for Keras models.
        stochastic_depth: Whether whole blocks that are skipped at random in training are sampled too.
        gaussian_noise: Whether normal noise that acts only in training is sampled too, such as Keras's `GaussianNoise`.
        precision: "float32", "bfloat16" or "float16" for the network. Summaries are always in float64.
        device: "auto" (the first GPU, if there is one), "cpu", "cuda", "cuda:1" and so on; or several, as in
            `["cuda:0", "cuda:1"]`, which take batches in turns. Keras determines precision and device of a Keras model.
        seed: From 0 to 2^53 - 1; it determines every mask. None draws a seed, which the result contains.
        progress: True shows a bar on long runs. A function is called with (done, total, text).

    Returns:
        The measures by number of draws: `mean` (for classes the probability of the predicted label), `std` (its
        standard deviation over the draws), and for classes the three entropies.

    Raises:
        ValueError: If the numbers of draws do not rise, and as in `mc_predict()`.

    Examples:
        >>> import mcdropout as mcd
        >>> import numpy as np
        >>> convergence = mcd.mc_convergence(
        ...     mcd.mc_mlp(4, labels=["no", "yes"]), np.ones((3, 4)), (10, 20), seed=1, progress=False
        ... )
        >>> convergence.n_samples
        (10, 20)
    """
    counts = _counts(n_samples)
    tolerance = None if tolerance is None else check_number(tolerance, "tolerance", above=0)
    prediction = mc_predict(
        model, x, counts[-1], batch_size, masks=masks, outputs=outputs, labels=labels, select=select,
        constants=constants, stochastic_depth=stochastic_depth, gaussian_noise=gaussian_noise,
        precision=precision, device=device, seed=seed, progress=progress,
    )  # fmt: skip
    return convergence_of(prediction, counts, tolerance)


def convergence_of(prediction: MCPrediction, counts: tuple[int, ...], tolerance: float | None) -> MCConvergence:
    """How the measures settle, from a prediction with its draws; see `mc_convergence()`."""
    check_prediction(prediction, "x")
    assert prediction.samples is not None
    is_classes = prediction.task == "classification"
    if tolerance is None and is_classes:
        tolerance = 0.01
    size = max(1, DRAWS_BYTES // (4 * prediction.samples[:, :1].size))
    parts = []
    for start in range(0, len(prediction), size):
        piece = slice(start, start + size)
        draws = torch.from_numpy(np.ascontiguousarray(prediction.samples[:, piece])).flatten(2)
        codes = torch.from_numpy(predicted_codes(prediction[piece])) if is_classes else None
        parts.append([_measures(draws[:count], codes) for count in counts])
    rows, needed = [], []
    for measure in parts[0][0]:
        by_count = [[np.concatenate([part[place][measure][which] for part in parts]) for which in (0, 1)]
                    for place in range(len(counts))]  # fmt: skip
        last, last_errors = by_count[-1]
        for count, (values, errors) in zip(counts, by_count, strict=True):
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
            enough = np.maximum(2, np.ceil(counts[-1] * (last_errors / tolerance) ** 2 - 1e-9)).astype(np.int64)
            most = int(np.quantile(enough, SHARE, method="inverted_cdf"))
            needed.append({"measure": measure, "n_samples": most, "n_samples_for_all": int(enough.max())})
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
    """The numbers of draws, which must rise."""
    numbers = as_list(n_samples)
    counts = tuple(check_count(number, "n_samples", at_least=2) for number in numbers)
    if not counts or any(later <= earlier for earlier, later in itertools.pairwise(counts)):
        raise ValueError(f"`n_samples` must be rising numbers of draws; got {shown(numbers)}.")
    return counts


def _words(convergence: MCConvergence) -> list[str]:
    n_draws = convergence.n_samples[-1]
    last = convergence.table[convergence.table["n_samples"] == n_draws]
    lines = [f"# How {n_draws} draws settle, over {convergence.n_inputs} inputs"]
    lines += [f"{row.measure}: {row.value:.4g}, Monte Carlo error {row.mcse:.2g}" for row in last.itertuples()]
    if convergence.tolerance is None:
        return [*lines, "Give `tolerance`, in the unit of the values, to get the number of draws needed."]
    needed: list[Any] = list(convergence.needed.itertuples())
    lines += [
        f"For an error of at most {convergence.tolerance:g} in {row.measure}: {row.n_samples} draws for "
        f"{100 * SHARE:g} % of the inputs, {row.n_samples_for_all} for all."
        for row in needed
    ]
    return lines


def mc_compare_rates(
    model: Any | Callable[[float], Any],
    x: Any,
    y: object,
    rates: float | Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7),
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
    """Compare dropout rates by the log loss of inputs that were not used in training: one row for each rate.

    The seed is the same for all rates.

    Args:
        model: A model as in `mc_predict()`, which is sampled with each rate at all its dropouts, whatever rate it was
            trained with. Blocks that are skipped as a whole, and random numbers that the model draws itself, keep their
            rates. Or a function that takes a rate and returns a model that was trained with it, which tells more and
            takes longer.
        x: As in `mc_predict()`, but not a stream that can be read only once.
        y: The true label of each input, or the observed values.
        rates: One dropout rate or several, in (0, 1).
        n_samples: The number of draws for each rate.
        batch_size: Number of inputs per batch.
        outputs: What a module of your own returns: "logits", "probabilities", "values", or "mean_log_variance" (means,
            then log variances, along the last axis). For a Keras model it is read from the last activation or from the
            loss, if they are clear. A single logit or probability belongs to the second of two labels, and so does a
            single channel (the second axis or the last) of a map. For several labels that may be true at the same time,
            use "values", or one label at a time by `select`.
        labels: The names of the classes of a module of your own; 0, 1, ... by default. If its outputs have more than
            two axes, the labels tell which axis has the classes. Networks of this package have their own labels and
            refuse others.
        select: The part to use, if `model` returns a tuple or mapping, or a function that takes it out.
        constants: Further arguments of `model`, by keyword, the same for all inputs: flags, edges, an adjacency matrix.
            Arrays become tensors; floating ones get the type of the weights. Not for Keras models.
        gaussian_noise: Whether normal noise that acts only in training is sampled too, such as Keras's `GaussianNoise`.
        precision: "float32", "bfloat16" or "float16" for the network. Summaries are always in float64.
        device: "auto" (the first GPU, if there is one), "cpu", "cuda", "cuda:1" and so on; or several, as in
            `["cuda:0", "cuda:1"]`, which take batches in turns. Keras determines precision and device of a Keras model.
        seed: From 0 to 2^53 - 1; it determines every mask. None draws a seed, which the result contains.
        progress: True shows a bar on long runs. A function is called with (done, total, text).

    Returns:
        A table with columns rate; loss (mean over the inputs: for classes the log loss of the mean over the draws, in
        nats; for values minus the log density of the mixture of the draws, per output, or the squared error if the
        network does not estimate its noise); difference (from the lowest loss) and difference_se (its standard error
        over the inputs, paired; a difference of less than two standard errors says little); accuracy (for classes);
        spread (mean mutual information in nats, or mean standard deviation over the draws); best.

    Raises:
        ValueError: If a rate lies outside (0, 1), and as in `mc_predict()`.
        NoStochasticSites: If the model has no dropout whose rate can be changed.

    References:
        Gal, Hron and Kendall (2017), Concrete dropout, arXiv:1705.07832: the spread is meaningful only if the rate fits
        the data.

    Examples:
        >>> import mcdropout as mcd
        >>> import numpy as np
        >>> net, x = mcd.mc_mlp(4, labels=["no", "yes"]), np.random.default_rng(0).normal(size=(20, 4))
        >>> mcd.mc_compare_rates(net, x, ["no", "yes"] * 10, (0.1, 0.3), seed=1, progress=False).rate.tolist()
        [0.1, 0.3]
    """
    checked_rates = [check_number(rate, "rates", above=0, below=1) for rate in as_list(rates)]
    if not checked_rates or len(set(checked_rates)) < len(checked_rates):
        raise ValueError(f"`rates` must be at least one rate, all different; got {shown(rates)}.")
    if isinstance(x, Iterator) and len(checked_rates) > 1:
        raise ValueError(
            "`x` must be inputs that can be read again for each rate; got a stream that is read only once."
        )
    seed, sites = check_seed(seed), SiteOptions.checked(True, gaussian_noise)
    refit = callable(model) and not isinstance(model, nn.Module) and not is_keras(model) and not is_keras_2(model)
    losses, rows = [], []
    for rate in checked_rates:
        started = time.perf_counter()
        sampled_model, inputs = split_backbone(model(rate) if refit else model, x, device)
        network = network_of(sampled_model, ModelOptions(outputs, labels, select, precision, device, constants))
        keep_samples = network.outputs.task == "regression"  # the loss of values needs the draws
        options = SamplingOptions.checked(n_samples, batch_size, 0.95, "shared", None, keep_samples, None, seed)
        source = network.source(inputs)
        sampler = sampler_for(network, source, options, sites, rate=None if refit else rate)
        sampler.warned = bool(rows) and not refit  # the first rate already warned of the same model
        prediction = draw_all(network, sampler, source, options, None, progress, started)
        loss, details = _loss(check_prediction(prediction, "x"), y)
        losses.append(loss)
        rows.append({"rate": rate, "loss": float(loss.mean()), **details})
    table = pd.DataFrame(rows)
    best = int(table["loss"].argmin())
    differences = [loss - losses[best] for loss in losses]
    table.insert(2, "difference", table["loss"] - table["loss"][best])
    errors = [float(d.std(ddof=1) / math.sqrt(len(d))) if len(d) > 1 else math.nan for d in differences]
    table.insert(3, "difference_se", errors)
    table["best"] = np.arange(len(table)) == best
    return table


def _loss(prediction: MCPrediction, y: object) -> tuple[Array, dict[str, float]]:
    """The loss of each input, (input,), and the further columns of the table."""
    if prediction.task == "classification":
        codes = true_codes(y, prediction, of="x")
        of_truth = prediction.mean[np.arange(len(codes)), codes]
        right = predicted_codes(prediction) == codes
        spread = float(np.mean(np.asarray(prediction.mutual_information)))
        # a probability of 0 becomes the smallest number above 0, so that a single input leaves the mean loss finite
        loss = -np.log(np.maximum(of_truth, np.finfo(np.float64).tiny))
        return loss, {"accuracy": float(right.mean()), "spread": spread}
    values = true_values(y, prediction, of="x")
    if prediction.noise_variances is None:
        loss = (values - prediction.mean) ** 2
    else:
        loss = -prediction.log_density(values)
    return loss.reshape(len(loss), -1).mean(axis=1), {"spread": float(prediction.std.mean())}
