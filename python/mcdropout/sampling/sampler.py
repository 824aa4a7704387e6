"""`mc_sampler()`: a model prepared once for many small predictions."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

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
from .options import SamplingOptions, SiteOptions
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
    """Prepare `mc_predict()` for a service that is asked again and again: the result is called with inputs.

    Sites, masks and chunks are made once, from `example` (inputs like those to come), and made anew in the first call
    after the model was changed: trained on, given other weights, statistics or rates. The answers are those of
    `mc_predict()` with shared masks, the same seed and no draws kept. Other arguments are those of `mc_predict()`.
    """
    request = SamplingOptions.checked(n_samples, 128, level, "shared", None, False, None, seed)
    besides = SiteOptions.checked(stochastic_depth, gaussian_noise)
    labels = None if labels is None else list(labels)
    if isinstance(model, (str, os.PathLike)) and str(model).endswith(".keras"):
        model = load_model(model)
    kind_of(model)

    def network() -> TorchModel | KerasModel:
        inner = model.head if isinstance(model, FrozenNetwork) else model
        return network_of(inner, outputs, labels, select, precision, device, constants)

    prepared = MCSampler(model, network, request, besides)
    prepared(example)  # the engine is chosen and the masks are made here, not in the first answer
    return prepared


class MCSampler:
    """What `mc_sampler()` gives: call it with inputs.

    It answers as the model is when it is called: the first call after a change takes as long as `mc_predict()` does.
    What is written behind torch's back into weights of another device than the one that draws (by `weight.data`, by
    NumPy) is not seen there; make a new sampler then.
    """

    def __init__(
        self, model: Any, network: Callable[[], TorchModel | KerasModel], request: SamplingOptions, besides: SiteOptions
    ) -> None:
        self.model, self.network, self.request, self.besides = model, network, request, besides
        self.prepared: tuple[Snapshot, TorchModel | KerasModel, Sampler] | None = None

    def __call__(self, x: Any) -> MCPrediction:
        """Predict these inputs."""
        names = row_names_of(x)
        started = time.perf_counter()
        known = self.prepared
        if known is None or not known[0].holds():
            seen, network = Snapshot(self.model), self.network()
            feed = self._feed(network, x)
            known = self.prepared = seen, network, sampler_for(network, feed, self.request, self.besides)
        else:
            feed = self._feed(known[1], x)
        _, network, sampler = known
        return with_index(draw_all(network, sampler, feed, self.request, None, False, started), names)

    def _feed(self, network: TorchModel | KerasModel, x: Any) -> InputSource:
        if isinstance(self.model, FrozenNetwork):
            x = self.model.looked_at(x, device=network.replica.device)
        return network.feed(x)
