"""Frozen backbones: a trained network turns images into features once, and a small head learns from them.

Features depend only on the backbone and the inputs. They are computed once and reused in all epochs of `mc_fit()` and
all draws of `mc_predict()`. The backbone runs in eval mode: its weights and the statistics of its batch norms stay the
same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..checks import check_choice, check_count, check_flag, check_path, shown
from ..compute.devices import as_device, as_devices
from ..data.labels import Label
from ..data.rows import Rows, as_rows, check_finite
from ..data.sources import Counts, in_batches, inputs_in
from ..errors import UnreadableFile
from .feature_cache import FeatureCache, InMemory, OnDisk
from .features import POOLINGS, FeatureExtractor, Prepare, make_head
from .network import MCNetwork, check_counts
from .pretrained import backbone_of

if TYPE_CHECKING:
    import pandas as pd

MakeHead = Callable[[tuple[int, ...]], nn.Module]

Features = TypeVar("Features", bound=np.ndarray | Rows)


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
    """A network of a trained backbone, which does not change, and a stochastic head, which learns from its features.

    `mc_fit()` trains the network, without `augment`, since features are computed once. `mc_predict()` samples it.
    `mc_save()` writes it if the backbone is a name. Its method `features()` returns the features.

    Args:
        backbone: A torch module, or a name: "efficientnet_lite0" (its weights come with the extra `backbones`),
            "torchvision:resnet18", "timm:resnet18", "keras:MobileNetV2" and so on; these packages download the weights.
            Backbones by name take images (input, height, width, channel), grey or RGB, with pixels in [0, 1] or of type
            uint8. A module gets the inputs unchanged.
        head: The network that learns: any network for features of their shape, such as one of `mc_bayes_resnet()`
            (height, width, channel) or `mc_mlp()`; or a function from that shape to a network. Other modules get
            features with the channels first.
        input_shape: The shape of one input. It is needed if `backbone` is a module and `head` a function. For backbones
            by name it is (224, 224, 3) by default.
        layer: The path of the layer whose output is used. By default the last layer before the classifier for a
            backbone by name, and the output for a module.
        pooling: "mean" or "max" over height and width.
        prepare: A function from a batch of inputs, a tensor, to the inputs of the backbone. It replaces the usual
            scaling.
        pretrained: Whether trained weights are downloaded, for a backbone by name.
        cache: "memory", or a folder that stores the features.
        batch_size: The number of inputs that go through the backbone at once.

    Returns:
        The network, untrained.

    Raises:
        ValueError: For features that are neither (input, feature) nor (input, channel, height, width), for a head that
            does not take them, and for images that the backbone does not take.
        ImportError: If the package of a named backbone is missing.

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
    store: FeatureCache = (
        InMemory() if isinstance(cache, str) and cache == "memory" else OnDisk(check_path(cache, "cache"))
    )
    extractor = FeatureExtractor(source, pooling, check_count(batch_size, "batch_size"), store)
    if not isinstance(head, nn.Module):
        head = make_head(head, extractor)
    elif source.input_shape is not None:
        _check_head(head, extractor.shape_of(source.input_shape))
    facts = {
        "name": backbone if isinstance(backbone, str) else None,
        "input_shape": None if source.input_shape is None else list(source.input_shape),
        "layer": layer,
        "pooling": pooling,
        "pretrained": pretrained,
        "own": prepare is not None,
    }
    return FrozenNetwork(extractor, head, facts)


class FrozenNetwork(nn.Module):
    """The result of `mc_frozen_backbone()`: `head` learns, the backbone does not.

    Attributes:
        head: The network that learns from features.
        task: The head's task.
        labels: The head's labels.
        outputs: The kind of the head's outputs.
        history: The head's history.
        input_shape: The shape of one input of the backbone.
        facts: The arguments it was made with, as JSON values.
    """

    def __init__(self, extractor: FeatureExtractor, head: nn.Module, facts: dict[str, Any]) -> None:
        super().__init__()
        self.head = head
        self.facts = facts
        self.__dict__["extractor"] = extractor  # not a submodule, so training does not see the backbone's weights
        self.eval()

    extractor: FeatureExtractor

    @property
    def task(self) -> str:
        """The task of the head."""
        return cast("Any", self.head).task

    @property
    def labels(self) -> tuple[Label, ...] | None:
        """The labels of the head."""
        return cast("Any", self.head).labels

    @property
    def outputs(self) -> str:
        """The kind of the head's outputs."""
        return cast("Any", self.head).outputs

    @property
    def history(self) -> pd.DataFrame | None:
        """One row for each epoch of the last `mc_fit()`."""
        return getattr(cast("Any", self.head), "history", None)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input; () if it is not known."""
        return self.extractor.source.input_shape or ()

    def features(self, x: object, *, device: str | torch.device = "auto", name: str = "x") -> np.ndarray | Rows:
        """Features of inputs in the form that the head takes, computed once and cached.

        Their shape is (input, height, width, channel) or (input, feature), their type float32. A cache in a folder
        returns rows that are read when they are needed. Heads from outside this package get (input, channel, height,
        width).
        """
        return self._checked_features(self.extractor.features, x, device, name)

    def savable_facts(self) -> dict[str, Any]:
        """The arguments that make the backbone, as JSON values. Refuses modules and functions of the user."""
        if self.facts["name"] is None or self.facts["own"]:
            raise ValueError(
                "`object` has a backbone or a `prepare` of your own, which cannot be saved; save its `head` and make "
                "the network again."
            )
        return {**self.facts, "fingerprint": self.extractor.source.fingerprint().hex()}

    def extract(self, x: object, *, device: str | torch.device = "auto", name: str = "x") -> np.ndarray:
        """Features of inputs like those of `features()`, but not cached."""
        return self._checked_features(self.extractor.computed, x, device, name)

    def _checked_features(
        self,
        compute: Callable[[Rows, torch.device, bool], Features],
        x: object,
        device: str | torch.device,
        name: str,
    ) -> Features:
        rows = as_rows(x, name)
        check_finite(rows, name)
        features = compute(rows, as_device(device), isinstance(self.head, MCNetwork))
        _check_head(self.head, tuple(features.shape[1:]))
        return features

    def forward(self, x: Tensor) -> Tensor:
        """The head's outputs for a batch of inputs."""
        return self.head(torch.from_numpy(self.extract(x, device=x.device)).to(x.device))

    def extra_repr(self) -> str:
        name = self.facts["name"] or type(self.extractor.source.module).__name__
        return f"backbone={name}, layer={self.facts['layer']}"


def rebuild_frozen(facts: Mapping[str, Any], head: MCNetwork) -> FrozenNetwork:
    """The frozen network that the result of `savable_facts()` describes, with this head."""
    arguments = {name: facts[name] for name in ("input_shape", "layer", "pooling", "pretrained")}
    network = mc_frozen_backbone(facts["name"], head, **arguments)
    if network.savable_facts()["fingerprint"] != facts["fingerprint"]:
        raise UnreadableFile(
            f"`path` must be of a network whose backbone has the same weights; got one made with other weights of "
            f"{shown(facts['name'])}."
        )
    return network


def split_backbone(model: Any, x: Any, device: object = "auto", name: str = "x") -> tuple[Any, Any]:
    """The network that learns and samples, and its inputs. A frozen network gives its head and the features of `x`.

    Features of a stream are computed batch by batch and not cached. The backbone runs on the first of several devices.
    """
    if not isinstance(model, FrozenNetwork):
        return model, x
    first_device = as_devices(device)[0]
    if isinstance(x, Mapping | tuple):
        raise ValueError(f"`{name}` must be one array of inputs where `model` has a frozen backbone; got several.")
    batches = in_batches(x, model.extractor.batch_size)
    if batches is not None:
        return model.head, _streamed(model, batches, Counts.of(x, model.extractor.batch_size), first_device)
    return model.head, model.features(x, device=first_device, name=name)


def _streamed(
    model: FrozenNetwork, batches: Iterable[Any], counts: Counts | None, device: torch.device
) -> Iterator[Any]:
    seen = 0
    for batch in batches:
        features = model.extract(inputs_in(batch, counts is not None), device=device)
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
