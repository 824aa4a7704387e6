"""Frozen backbones: a trained network turns images into features once, and a small head learns.

Features depend on the backbone and the inputs alone, so they are computed once and kept: through all epochs of
`mc_fit()` and all draws of `mc_predict()`. The backbone runs as it predicts: neither its weights nor the statistics of
its batch norms are updated.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..checks import check_choice, check_count, check_flag, check_path, shown
from ..compute.devices import as_device, as_devices
from ..data.labels import Label
from ..data.rows import Rows, as_rows, check_finite
from ..data.sources import Counts, in_batches, inputs_in
from ..errors import UnreadableFile
from .features import POOLINGS, FeatureExtractor, InMemory, Kept, OnDisk, Prepare, made_features
from .network import MCNetwork, check_counts
from .pretrained import backbone_of

if TYPE_CHECKING:
    import pandas as pd

MakeHead = Callable[[tuple[int, ...]], nn.Module]


def mc_frozen_backbone(
    backbone: str | nn.Module,
    head: nn.Module | MakeHead,
    *,
    input_shape: Sequence[int] | None = None,
    layer: str | None = None,
    pooling: str | None = None,
    prepare: Prepare | None = None,
    pretrained: bool = True,
    cache: str | os.PathLike[str] = "memory",
    batch_size: int = 32,
) -> FrozenNetwork:
    """A network of a trained backbone, which stays as it is, and a stochastic head, which learns on its features.

    `mc_fit()` trains it (without `augment`, since features are computed once), `mc_predict()` samples it, and
    `mc_save()`
    writes it where the backbone is a name. Its method `features()` gives the features themselves.

    Args:
        backbone: A torch module, or a name: "efficientnet_lite0" (its weights come with the extra `backbones`),
            "torchvision:resnet18", "timm:resnet18", "keras:MobileNetV2" and so on; these packages fetch the weights.
            Backbones by name take images (input, height, width, channel), grey or RGB, with pixels in [0, 1] or of type
            uint8. A module takes inputs as they are given.
        head: What learns: any network for features of their shape, such as one of `mc_bayes_resnet()` (height, width,
            channel) or `mc_mlp()`; or a function from that shape to a network. Modules of your own get features
            channels first.
        input_shape: The shape of one input. It is needed for a function as `head` of a module; (224, 224, 3) by default
            for backbones by name.
        layer: The path of the layer whose output is taken. By default the last before the classifier where the backbone
            is known by name, else the output.
        pooling: "mean" or "max" over height and width.
        prepare: A function from a batch of inputs, a tensor, to what the backbone takes, instead of the usual scaling.
        pretrained: Whether trained weights are fetched, where the backbone is a name.
        cache: "memory", or a folder in which the features are kept.
        batch_size: Inputs that go through the backbone at once.

    Returns:
        The network, untrained.

    Raises:
        ValueError: For features that are neither (input, feature) nor (input, channel, height, width), for a head that
            cannot take them, and for images that the backbone cannot take.
        ImportError: Where the package of a named backbone is missing.

    Examples:
        >>> import mcdropout as mcd
        >>> import torch
        >>> backbone = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
        >>> net = mcd.mc_frozen_backbone(
        ...     backbone, lambda shape: mcd.mc_mlp(shape[0], ["a", "b"]), input_shape=(3, 16, 16), pooling="mean"
        ... )
        >>> net.head.input_shape
        (8,)
    """
    check_flag(pretrained, "pretrained")
    if pooling is not None:
        check_choice(pooling, "pooling", POOLINGS)
    if prepare is not None and not callable(prepare):
        raise ValueError(f"`prepare` must be a function; got {shown(prepare)}.")
    shape = None if input_shape is None else tuple(check_counts(input_shape, "input_shape"))
    source = backbone_of(backbone, shape, layer, prepare, pretrained)
    kept: Kept = InMemory() if cache == "memory" else OnDisk(check_path(cache, "cache"))
    looking = FeatureExtractor(source, pooling, check_count(batch_size, "batch_size"), kept)
    if not isinstance(head, nn.Module):
        head = made_features(head, looking)
    elif source.input_shape is not None:
        _check_head(head, looking.shape_of(source.input_shape))
    facts = {
        "name": backbone if isinstance(backbone, str) else None,
        "input_shape": None if source.input_shape is None else list(source.input_shape),
        "layer": layer,
        "pooling": pooling,
        "pretrained": pretrained,
        "own": prepare is not None,
    }
    return FrozenNetwork(looking, head, facts)


class FrozenNetwork(nn.Module):
    """What `mc_frozen_backbone()` returns: `head` learns, the backbone does not.

    Attributes:
        head: The network that learns, on features.
        task: The head's task.
        labels: The head's labels.
        outputs: What the head returns.
        history: The head's history.
        input_shape: The shape of one input of the backbone.
        facts: How it was made, as JSON can hold it.
    """

    def __init__(self, looking: FeatureExtractor, head: nn.Module, facts: dict[str, Any]) -> None:
        super().__init__()
        self.head = head
        self.facts = facts
        self.__dict__["looking"] = looking  # no submodule: its weights are no part of what is learnt
        self.eval()

    looking: FeatureExtractor

    @property
    def task(self) -> str:
        """Of the head."""
        return cast("Any", self.head).task

    @property
    def labels(self) -> tuple[Label, ...] | None:
        """Of the head."""
        return cast("Any", self.head).labels

    @property
    def outputs(self) -> str:
        """Of the head."""
        return cast("Any", self.head).outputs

    @property
    def history(self) -> pd.DataFrame | None:
        """A row per epoch of the last `mc_fit()`."""
        return getattr(cast("Any", self.head), "history", None)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one input, () where it is not known."""
        return self.looking.source.input_shape or ()

    def features(self, x: object, *, device: str | torch.device = "auto", name: str = "x") -> np.ndarray | Rows:
        """Features of inputs as the head takes them, computed once and kept.

        (input, height, width, channel) or (input, feature), float32; from a folder they come as rows that are read
        when they are needed. Heads that are not of this package get (input, channel, height, width).
        """
        rows = as_rows(x, name)
        check_finite(rows, name)
        found = self.looking.features(rows, as_device(device), isinstance(self.head, MCNetwork))
        _check_head(self.head, tuple(found.shape[1:]))
        return found

    def savable_facts(self) -> dict[str, Any]:
        """How the backbone was made, as JSON can hold it; refuses what only the caller has."""
        if self.facts["name"] is None or self.facts["own"]:
            raise ValueError(
                "`object` has a backbone or a `prepare` of your own, which no file of ours can hold; save its `head` "
                "and make it again."
            )
        return {**self.facts, "fingerprint": self.looking.source.fingerprint().hex()}

    def looked_at(self, x: object, *, device: str | torch.device = "auto", name: str = "x") -> np.ndarray:
        """As `features()`, but not kept."""
        rows = as_rows(x, name)
        check_finite(rows, name)
        found = self.looking.computed(rows, as_device(device), isinstance(self.head, MCNetwork))
        _check_head(self.head, tuple(found.shape[1:]))
        return found

    def forward(self, x: Tensor) -> Tensor:
        """The head's outputs for a batch of inputs."""
        return self.head(torch.from_numpy(self.looked_at(x, device=x.device)).to(x.device))

    def extra_repr(self) -> str:
        return (
            f"backbone={self.facts['name'] or type(self.looking.source.module).__name__}, layer={self.facts['layer']}"
        )


def behind_the_same(facts: Mapping[str, Any], head: MCNetwork) -> FrozenNetwork:
    """The network whose `savable_facts()` these are."""
    given = {name: facts[name] for name in ("input_shape", "layer", "pooling", "pretrained")}
    made = mc_frozen_backbone(facts["name"], head, **given)
    if made.savable_facts()["fingerprint"] != facts["fingerprint"]:
        raise UnreadableFile(
            f"`path` must be of a network whose backbone has the same weights; got one made with other weights of "
            f"{shown(facts['name'])}."
        )
    return made


def split_backbone(model: Any, x: Any, device: object = "auto", name: str = "x") -> tuple[Any, Any]:
    """The network that learns and samples, and what it gets: behind a frozen backbone, the head and its features.

    What comes in batches is looked at batch by batch, and not kept. Of several devices the first looks.
    """
    if not isinstance(model, FrozenNetwork):
        return model, x
    where = as_devices(device)[0]
    if isinstance(x, Mapping | tuple):
        raise ValueError(f"`{name}` must be one array of inputs where `model` has a frozen backbone; got several.")
    batches = in_batches(x, model.looking.batch_size)
    if batches is not None:
        return model.head, _streamed(model, batches, Counts.of(x, model.looking.batch_size), where)
    return model.head, model.features(x, device=where, name=name)


def _streamed(
    model: FrozenNetwork, batches: Iterable[Any], counts: Counts | None, device: torch.device
) -> Iterator[Any]:
    seen = 0
    for batch in batches:
        features = model.looked_at(inputs_in(batch, counts is not None), device=device)
        if counts is not None:
            counts.check(len(features), seen)
        seen += len(features)
        yield features
    if counts is not None:
        counts.check_end(seen)


def _check_head(head: nn.Module, shape: tuple[int, ...]) -> None:
    if isinstance(head, MCNetwork) and head.input_shape != shape:
        words = " Flatten them with `pooling`." if len(shape) == 3 and len(head.input_shape) == 1 else ""
        raise ValueError(f"`head` must take features of shape {shape}; it takes {head.input_shape}.{words}")
