"""Save and load networks, predictions and decisions: one file each, for both languages. Loading runs no code."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from . import containers
from .checks import shown
from .decisions.monitoring import MCMonitor
from .decisions.policy import MCPolicy
from .errors import UnreadableFile
from .evaluation.calibration import MCCalibration
from .evaluation.conformal import MCConformal
from .predictions.prediction import MCPrediction

if TYPE_CHECKING:
    from .networks.frozen import FrozenNetwork
    from .networks.network import MCNetwork

TEXTS = {  # kept as JSON
    "policy": MCPolicy,
    "calibration": MCCalibration,
    "conformal": MCConformal,
    "monitor": MCMonitor,
}

Learnt: TypeAlias = MCPolicy | MCCalibration | MCConformal | MCMonitor

LARGEST_IMAGE = 1 << 27  # numbers in one input of a backbone

Saveable: TypeAlias = "MCNetwork | FrozenNetwork | MCPrediction | Learnt"


def mc_save(object: Saveable, path: str | os.PathLike[str]) -> None:
    """Write a network of this package, a prediction, or what was learnt on one to one file.

    Networks and predictions become a safetensors file: arrays and a JSON description. The results of `mc_triage()`,
    `mc_calibrate()`, `mc_conformal()` and `mc_monitor()` become JSON. Both have a checksum. The file appears in one
    step, so an older file of that name is replaced only when the new one is complete and on the disk. The file keeps
    its permissions, and a symbolic link stays one. Of a network with a frozen backbone, the head and the name of the
    backbone are written.

    Args:
        object: What to write.
        path: The file.

    Raises:
        TypeError: For anything else; torch saves modules of your own.
        ValueError: For priors, posteriors and backbones of your own, and for a path that cannot be written.

    Examples:
        >>> import mcdropout as mcd
        >>> mcd.mc_save(mcd.mc_mlp(4, labels=["no", "yes"]), "net.safetensors")
        >>> mcd.mc_load("net.safetensors").labels
        ('no', 'yes')
    """
    if isinstance(object, MCPrediction):
        arrays, facts = object.to_state()
        containers.write(path, "prediction", arrays, facts)
    elif isinstance(object, (MCPolicy, MCCalibration, MCConformal, MCMonitor)):
        containers.write_text(path, text_of(object))
    else:
        containers.write(path, "model", *_model_state(object))


def mc_load(path: str | os.PathLike[str]) -> Any:
    """Open what `mc_save()` wrote, from Python or from R. Opening runs no code.

    Args:
        path: The file.

    Returns:
        The object: a network, a prediction, a policy, a calibration, conformal limits or a monitor.

    Raises:
        UnreadableFile: For a file that is missing, cut short, changed, not of this package, or of a newer format.

    Warns:
        UserWarning: For a file of an earlier version, which has no checksum.

    Examples:
        >>> import mcdropout as mcd
        >>> mcd.mc_save(mcd.mc_mlp(4, labels=["no", "yes"]), "net.safetensors")
        >>> mcd.mc_load("net.safetensors").task
        'classification'
    """
    kind, arrays, facts = containers.read(path, ("model", "prediction", *TEXTS))
    try:
        if kind in TEXTS:
            return TEXTS[kind].from_state(facts)
        return MCPrediction.from_state(arrays, facts) if kind == "prediction" else _model(arrays, facts)
    except UnreadableFile:
        raise
    except containers.DAMAGED as error:
        raise UnreadableFile(
            f"`path` must be a file as mc_save() writes it; got {shown(str(path))}, whose parts do not fit."
        ) from error


def model_to_bytes(model: MCNetwork | FrozenNetwork) -> bytes:
    """The content of the file that `mc_save()` would write, to keep a network elsewhere than in a file."""
    return containers.to_bytes("model", *_model_state(model))


def model_from_bytes(content: bytes) -> MCNetwork | FrozenNetwork:
    """The network whose bytes `model_to_bytes()` returned."""
    _, arrays, facts = containers.from_bytes(bytes(content), ("model",))
    return _model(arrays, facts)


def text_of(learnt: Learnt) -> str:
    """The content of the file that `mc_save()` would write of a result that is kept as JSON."""
    kind = next(kind for kind, cls in TEXTS.items() if isinstance(learnt, cls))
    return containers.to_text(kind, learnt.to_state())


def from_text(text: str) -> Learnt:
    """The object whose text `text_of()` returned."""
    kind, _, facts = containers.from_bytes(text.encode(), tuple(TEXTS))
    return TEXTS[kind].from_state(facts)


def _model_state(model: MCNetwork | FrozenNetwork) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    from .networks.frozen import FrozenNetwork
    from .networks.network import MCNetwork
    from .networks.specs import savable_spec

    if isinstance(model, FrozenNetwork):
        arrays, facts = _model_state(model.head)  # type: ignore[arg-type]  # it refuses heads of other packages
        return arrays, {**facts, "backbone": model.savable_facts()}
    if not isinstance(model, MCNetwork):
        raise TypeError(
            "`object` must be a network of mc_cnn() or mc_mlp(), a prediction, or what was learnt on one; "
            f"got {type(model).__name__}. Save other torch modules with torch.save()."
        )
    # float32, because NumPy has no bfloat16
    arrays = {
        name: (values.float() if values.is_floating_point() else values).detach().cpu().numpy()
        for name, values in model.state_dict().items()
    }
    history = None if model.history is None else model.history.to_dict(orient="list")
    return arrays, {"spec": savable_spec(model.spec), "history": history, "columns": list(model.columns)}


def _model(arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> MCNetwork | FrozenNetwork:
    import pandas as pd
    import torch

    from .networks.frozen import rebuild_frozen
    from .networks.specs import build

    _check_sizes(facts["spec"], arrays)
    if "backbone" in facts and math.prod(facts["backbone"]["input_shape"] or ()) > LARGEST_IMAGE:
        raise ValueError("The images that the file describes are too large.")
    with torch.device("meta"):  # only shapes: no memory is allocated for a network that the arrays do not fill
        shapes = {name: tuple(values.shape) for name, values in build(facts["spec"]).state_dict().items()}
    remainders = {name for name in shapes if name.endswith("_rest")}
    if remainders.isdisjoint(arrays):  # files of the first version have none
        arrays |= {name: np.zeros(shapes[name], np.float32) for name in remainders}
    if shapes != {name: values.shape for name, values in arrays.items()}:
        raise ValueError("The arrays do not fit the network that the file describes.")
    model = build(facts["spec"])
    model.load_state_dict({name: torch.from_numpy(values.copy()) for name, values in arrays.items()})
    model.columns = tuple(facts.get("columns", ()))  # files of the first version have none
    history = facts["history"]
    model.history = None if history is None else pd.DataFrame(history)
    return rebuild_frozen(facts["backbone"], model) if "backbone" in facts else model


def _check_sizes(spec: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Refuse layers and outputs for which the file has too few numbers, before they take memory."""
    if "model" in spec:
        _check_sizes(spec["model"], arrays)
    layers = [*_as_list(spec.get("hidden")), *_as_list(spec.get("filters"))]
    sizes = [*layers, spec.get("n_features") or 0, spec.get("n_outputs") or 0]
    if len(layers) > len(arrays) or max(sizes) > sum(values.size for values in arrays.values()):
        raise ValueError("The file is smaller than the network that it describes.")


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value or 0]
