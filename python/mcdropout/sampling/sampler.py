"""`mc_sampler()`: a model that is prepared once for many small predictions."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..checks import as_list
from ..compute.out_of_memory import explains_out_of_memory
from ..data.labels import Label
from ..data.rows import row_names_of
from ..data.sources import InputSource
from ..engine.sampler import Sampler
from ..networks.frozen import FrozenNetwork
from ..predictions.outputs import Select
from ..predictions.prediction import MCPrediction, with_index
from ..sites.keras.loading import load_model
from .draw import draw_all
from .keras_model import KerasModel
from .model import kind_of, network_of, sampler_for
from .options import ModelOptions, SamplingOptions, SiteOptions
from .snapshots import Snapshot
from .torch_model import TorchModel


def mc_sampler(
    model: Any,
    example: Any,
    n_samples: int = 50,
    *,
    level: float = 0.95,
    outputs: str | None = None,
    labels: Iterable[Label] | None = None,
    select: Select | None = None,
    constants: Mapping[str, Any] | None = None,
    stochastic_depth: bool = True,
    gaussian_noise: bool = False,
    precision: str = "float32",
    device: str | Sequence[str] = "auto",
    seed: int | None = None,
) -> MCSampler:
    """Prepare `mc_predict()` for a service that predicts again and again.

    Sites, masks and chunks are made once. They are made anew in the first call after the model was changed: trained, or
    given other weights, statistics or rates. Predictions are those of `mc_predict()` with shared masks, the same seed
    and `keep_samples=False`.

    Args:
        model: As in `mc_predict()`.
        example: Inputs like those to come.
        n_samples: The number of draws, at least 2.
        level: The level of the intervals, in (0, 1).
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

    Returns:
        A sampler: call it with inputs to get a prediction.

    Raises:
        ValueError: For arguments that cannot be.
        NoStochasticSites: Where there is nothing to sample.

    Examples:
        >>> import mcdropout as mcd
        >>> import numpy as np
        >>> ask = mcd.mc_sampler(mcd.mc_mlp(4, labels=["no", "yes"]), np.ones((3, 4)), seed=1)
        >>> ask(np.zeros((1, 4))).mean.shape
        (1, 2)
    """
    options = SamplingOptions.checked(n_samples, 128, level, "shared", None, False, None, seed)
    site_options = SiteOptions.checked(stochastic_depth, gaussian_noise)
    labels = None if labels is None else as_list(labels)  # an iterator could be read only once
    model_options = ModelOptions(outputs, labels, select, precision, device, constants)
    if isinstance(model, (str, os.PathLike)) and str(model).endswith(".keras"):
        model = load_model(model)
    kind_of(model)
    prepared = MCSampler(model, model_options, options, site_options)
    prepared(example)  # so that the engine is chosen and the masks are made here, not in the first prediction
    return prepared


class MCSampler:
    """A prepared model, made by `mc_sampler()`; call it with inputs to predict them.

    Predictions follow the model: the first call after a change of the model takes as long as `mc_predict()` does. One
    kind of change is not seen: numbers written by `weight.data` or by NumPy into weights on another device than the one
    that draws. Make a new sampler after such a change.

    Attributes:
        model: The model, as it was given to `mc_sampler()`.

    Examples:
        >>> import mcdropout as mcd
        >>> import numpy as np
        >>> sampler = mcd.mc_sampler(mcd.mc_mlp(4, labels=["no", "yes"]), np.ones((3, 4)), seed=1)
        >>> isinstance(sampler, mcd.MCSampler), len(sampler(np.zeros((2, 4))))
        (True, 2)
    """

    def __init__(
        self,
        model: Any,
        model_options: ModelOptions,
        options: SamplingOptions,
        site_options: SiteOptions,
    ) -> None:
        self.model, self.model_options, self.options, self.site_options = model, model_options, options, site_options
        self.prepared: tuple[Snapshot, TorchModel | KerasModel, Sampler] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What a copy has: the model and the options. Its first call prepares it, as after a change of the model."""
        return {**vars(self), "prepared": None}

    @explains_out_of_memory("mc_sampler")
    def __call__(self, x: Any) -> MCPrediction:
        """Predict inputs like those of the `example`.

        Args:
            x: The inputs, as in `mc_predict()`.

        Returns:
            The prediction, without its draws.

        Raises:
            ValueError: For inputs that the model cannot take.
        """
        names = row_names_of(x)
        started = time.perf_counter()
        prepared = self.prepared
        if prepared is None or not prepared[0].holds():
            snapshot, network = Snapshot(self.model), self._network()
            source = self._source(network, x)
            prepared = snapshot, network, sampler_for(network, source, self.options, self.site_options)
            self.prepared = prepared
        else:
            source = self._source(prepared[1], x)
        _, network, sampler = prepared
        return with_index(draw_all(network, sampler, source, self.options, None, False, started), names)

    def _network(self) -> TorchModel | KerasModel:
        inner = self.model.head if isinstance(self.model, FrozenNetwork) else self.model
        return network_of(inner, self.model_options)

    def _source(self, network: TorchModel | KerasModel, x: Any) -> InputSource:
        if isinstance(self.model, FrozenNetwork):
            x = self.model.extract(x, device=network.replica.device)
        return network.source(x)
