"""`mc_predict()`: draw networks, run the inputs through them, and summarise the outputs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from ..checks import check_count, check_length, warn
from ..compute.devices import for_float64
from ..compute.generators import other_generators_kept
from ..compute.streams import OwnStream
from ..data.inputs import Inputs
from ..data.labels import Label
from ..data.rows import row_names_of
from ..networks.frozen import split_backbone
from ..networks.network import MCNetwork
from ..predictions.outputs import Select
from ..predictions.prediction import MCPrediction, with_index
from ..progress import Progress, reporting
from ..sites.keras.loading import is_keras
from ..sites.table import advice_on, caveats_on, sites_table
from .draw import draw_all
from .model import network_of, sampler_for
from .options import ModelOptions, SamplingOptions, SiteOptions, check_ids
from .results import check_numbers, check_sound, is_sound


def mc_predict(
    model: Any,
    x: Any,
    n_samples: int = 50,
    batch_size: int = 128,
    *,
    level: float = 0.95,
    masks: str = "shared",
    ids: Sequence[object] | None = None,
    tolerance: float | None = None,
    keep_samples: bool = True,
    outputs: str | None = None,
    labels: Iterable[Label] | None = None,
    select: Select | None = None,
    constants: Mapping[str, Any] | None = None,
    stochastic_depth: bool = True,
    gaussian_noise: bool = False,
    workers: int | None = None,
    precision: str = "float32",
    device: str | Sequence[str] = "auto",
    seed: int | None = None,
    progress: Progress = True,
) -> MCPrediction:
    """Predict with many networks, drawn by dropout masks and by the posteriors of Bayesian layers.

    The result for an input depends only on the model, that input, `seed` and `n_samples`, up to rounding (about 1e-5;
    1e-3 where a GPU computes convolutions in TF32). The same call gives the same numbers to the bit on one machine with
    the same number of threads of torch.

    Args:
        model: Any torch module with dropout or Bayesian layers, or a Keras 3 model on its backend torch, TensorFlow or
            JAX (or the path of its `.keras` file). It stays as it is. Networks of this package and Keras models take
            images as (input, height, width, channel); other modules get tensors as they are given. Random numbers that
            the model draws itself, as by `rand` or `bernoulli`, are sampled too; uniform ones and decisions also where
            training alone draws them.
        x: The inputs along the first axis: an array; a tuple (by position) or a mapping (by keyword) of several, in
            which a mapping may stand for one argument, as in `({"ids": ids, "mask": mask},)`; a torch Dataset or
            DataLoader; or any iterator of batches, so that data larger than memory can be streamed. A batch is one of
            these forms, or a pair (inputs, target), of which the inputs are taken. Three parts or more are refused, and
            so is a list of two arrays of one shape with three axes or more, unless a DataLoader made it: it may be two
            images. In batches by keyword, what `model` has no argument for is left out, and so are `labels`, `label`,
            `targets` and `target` unless it must have them. A loader must give all inputs in their order. Truth values
            and whole numbers reach a module as they are, floating numbers in the type of its weights. Where it fails on
            its first inputs, whole numbers are tried as int64 and then as floating numbers.
        n_samples: The number of draws, at least 2.
        batch_size: Inputs handled at a time. It changes the result by rounding alone.
        level: The level of the intervals, in (0, 1).
        masks: "shared": draw t is the same network for every input. "per_input": each input has masks of its own, keyed
            by its id. Weights of Bayesian layers are drawn once for all inputs in both cases.
        ids: What identifies each input; its position by default. Inputs with the same id get the same masks. An index
            of `x` names inputs in tables but keys no masks.
        tolerance: Draw only until the largest Monte Carlo standard error of each input's `mean` is below this, at most
            `n_samples` times. `prediction.n_samples` then says how many each input took, and kept draws end in NaN.
            Inputs whose first draws happen to agree stop early, so answers lean to the certain side: on real images,
            with a tolerance that 100 draws meet, the most probable label gained 0.002 and mutual information lost 0.009
            nats.
        keep_samples: Whether the draws are kept: float32 (draw, input, output), float64 for values of networks of this
            package.
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
        workers: Threads that each work on a chunk of draws x inputs with one thread of torch; one alone uses all of
            torch's. By default as many as torch uses on a CPU, and one on a GPU. Keras on TensorFlow and JAX has
            threads of its own. Forked processes compute with one thread; there GPUs and Keras on TensorFlow or JAX are
            refused, and want processes that are started by "spawn".
        precision: "float32", "bfloat16" or "float16" for the network. Summaries are always in float64. On real images
            either of the last two moves the mean by less than a tenth of what another `seed` does.
        device: "auto" (the first GPU, if there is one), "cpu", "cuda", "cuda:1" and so on; or several, as in
            `["cuda:0", "cuda:1"]`, which take batches in turns. Precision and device of a Keras model are those that
            Keras has set.
        seed: From 0 to 2^53 - 1; decides every mask. None draws one, and the result carries it.
        progress: True shows a bar on long runs. A function is called with (done, total, text).

    Returns:
        The prediction: means, intervals and measures of uncertainty for each input.

    Raises:
        ValueError: For arguments that cannot be.
        NoStochasticSites: Where there is no dropout or Bayesian layer to sample.
        IdenticalDraws: Where all draws are the same.
        OutOfMemory: Where memory runs out, and before any draw where those to keep would not fit.

    References:
        Gal and Ghahramani (2016), Dropout as a Bayesian approximation, arXiv:1506.02142.

    Examples:
        >>> import mcdropout as mcd
        >>> import numpy as np
        >>> net = mcd.mc_mlp(4, labels=["no", "yes"])
        >>> prediction = mcd.mc_predict(net, np.ones((3, 4)), n_samples=20, seed=1, progress=False)
        >>> prediction.mean.shape, prediction.samples.shape
        ((3, 2), (20, 3, 2))
    """
    started = time.perf_counter()
    options = SamplingOptions.checked(n_samples, batch_size, level, masks, tolerance, keep_samples, workers, seed)
    names = row_names_of(x)
    model, x = split_backbone(model, x, device)
    site_options = SiteOptions.checked(stochastic_depth, gaussian_noise)
    network = network_of(model, ModelOptions(outputs, labels, select, precision, device, constants))
    source = network.source(x)
    ids = None if ids is None else check_ids(ids)
    if ids is not None and source.n_inputs is not None:
        check_length(len(ids), "ids", source.n_inputs, "x")
    sampler = sampler_for(network, source, options, site_options)
    return with_index(draw_all(network, sampler, source, options, ids, progress, started), names)


def mc_predict_point(
    model: Any,
    x: Any,
    batch_size: int = 128,
    *,
    outputs: str | None = None,
    labels: Iterable[Label] | None = None,
    select: Select | None = None,
    constants: Mapping[str, Any] | None = None,
    precision: str = "float32",
    device: str | Sequence[str] = "auto",
    progress: Progress = True,
) -> np.ndarray:
    """The ordinary prediction with dropout off, to compare with.

    Random numbers that the model draws in prediction are those that a call of the model would draw now. The generators
    that they come from are not moved.

    Args:
        model: As in `mc_predict()`.
        x: As in `mc_predict()`.
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
        precision: "float32", "bfloat16" or "float16" for the network. Summaries are always in float64.
        device: As in `mc_predict()`; of several devices the first is taken.
        progress: True shows a bar on long runs. A function is called with (done, total, text).

    Returns:
        Probabilities (input, label), in the order of `model.labels`, or values (input, output).

    Raises:
        ValueError: For arguments that cannot be.

    Examples:
        >>> import mcdropout as mcd
        >>> import numpy as np
        >>> mcd.mc_predict_point(mcd.mc_mlp(4, labels=["no", "yes"]), np.ones((3, 4)), progress=False).shape
        (3, 2)
    """
    batch_size = check_count(batch_size, "batch_size")
    model, x = split_backbone(model, x, device)
    network = network_of(model, ModelOptions(outputs, labels, select, precision, device, constants))
    source = network.source(x)
    parts, n_seen, stream = [], 0, OwnStream(None)

    def point(placed: Inputs) -> Any:
        with stream:
            return network.point(placed)

    with (
        reporting(progress, source.n_inputs, "input", "Predicting") as report,
        other_generators_kept(waits=False) as moved,
    ):
        network.casts_for(source.head(3))
        for inputs in source.batches(batch_size):
            placed = network.placed(inputs, network.replica.device)
            with network.failures_explained(placed, n_seen):
                result = point(placed)
            if not parts:
                network.outputs.check(result, len(inputs))
            raw = network.outputs.tensor(result).detach()
            values = network.outputs.draws(raw.to(for_float64(raw.device))[None])[0]
            check_sound(is_sound(values).cpu().numpy(), n_seen + np.arange(len(inputs)))
            parts.append(values[0].cpu().numpy())
            n_seen += len(inputs)
            report(len(inputs))
        moved(lambda: point(network.placed(source.head(1), network.replica.device)))
    return np.concatenate(parts)


def mc_sites(
    model: Any,
    x: Any,
    *,
    constants: Mapping[str, Any] | None = None,
    stochastic_depth: bool = True,
    gaussian_noise: bool = False,
) -> pd.DataFrame:
    """List the places where `mc_predict(model, x)` samples: one row for each site.

    Warns of random numbers that are left out or cannot be keyed. Warns also where the spread is likely to say little:
    dropout before the last layer alone, and rates under 0.1 or over 0.7 (but not for values, in networks of this
    package and Keras models).

    Args:
        model: As in `mc_predict()`.
        x: Inputs like those to predict; the first three are used.
        constants: What else `model` is given, by keyword, the same for all inputs: flags, edges, an adjacency matrix.
            Arrays become tensors; floating ones get the type of the weights. Not for Keras models.
        stochastic_depth: Whether whole blocks that are skipped at random in training are sampled too.
        gaussian_noise: Whether normal noise that acts in training alone is sampled too, as that of Keras's
            `GaussianNoise`.

    Returns:
        A table with columns site (module path and number of the call), operation, rate (of dropping; of a 0 where the
        model draws decisions itself; NaN where numbers or weights are drawn) and shape (of the mask of one input, or
        how many weights). Masks are keyed by the row, so models with the same rows draw the same masks, from torch and
        from Keras.

    Raises:
        NoStochasticSites: Where there is nothing to sample.

    Examples:
        >>> import mcdropout as mcd
        >>> import numpy as np
        >>> mcd.mc_sites(mcd.mc_mlp(4, labels=["no", "yes"], dropout=0.2), np.ones((3, 4))).rate.tolist()
        [0.2]
    """
    model, x = split_backbone(model, x)
    site_options = SiteOptions.checked(stochastic_depth, gaussian_noise)
    where = "cpu" if isinstance(model, nn.Module) and not is_keras(model) else "auto"
    outputs = None if isinstance(model, MCNetwork) else "values"
    network = network_of(model, ModelOptions(outputs, device=where, constants=constants))
    source = network.source(x)
    network.casts_for(source.head(3))
    probe = network.probed(lambda n: network.placed(source.head(n), network.replica.device), site_options)
    check_numbers(probe.output, probe.n_inputs)
    for text in (*caveats_on(probe), *advice_on(probe, classifier=not network.is_of_values())):
        warn(text)
    return sites_table(probe)
