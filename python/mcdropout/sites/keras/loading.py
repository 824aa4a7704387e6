"""Load Keras and Keras models, and check that both can be sampled."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

from ...checks import shown
from ...compute.forks import check_can_go_on

BACKENDS = ("torch", "tensorflow", "jax")

KERAS_2_MODULES = (
    "tf_keras.",
    "keras.engine.",
    "keras.src.engine.",
    "tensorflow.python.keras.",
)  # modules of the classes of Keras 2

SHARED_ATTRIBUTES = ("_inbound_nodes", "_outbound_nodes", "_tracker", "optimizer", "_optimizer", "history")

ATTENTION = "attention"  # its weights (input, head, query, key) have no channels, as images have

RECURRENT_MASKS = ("get_dropout_mask", "get_recurrent_dropout_mask")


def is_keras(model: object) -> bool:
    """Whether this is a Keras 3 model or layer; does not import Keras."""
    keras = sys.modules.get("keras")
    return keras is not None and hasattr(keras, "Layer") and isinstance(model, keras.Layer) and not is_keras_2(model)


def is_keras_2(model: object) -> bool:
    """Whether this is a model of the older `tf.keras`, with which Keras 3 cannot work."""
    return any(f"{base.__module__}.".startswith(KERAS_2_MODULES) for base in type(model).__mro__)


def load_keras() -> Any:
    """The module `keras`. Raises ImportError with what to install."""
    try:
        keras = import_module("keras")
    except ImportError as error:
        if error.name in (None, "keras"):
            raise ImportError("Keras models need Keras; run `pip install mcdropout[keras]`.") from error
        package = error.name.split(".")[0]
        raise ImportError(
            f"Keras is set to a backend that needs {package}; run `pip install {package}`, or choose another by "
            'the environment variable KERAS_BACKEND before Keras is loaded: "torch" is there.'
        ) from error
    check_can_go_on(keras.backend.backend())
    return keras


def load_model(path: str | os.PathLike[str]) -> Any:
    """The model in a `.keras` file, loaded by `keras.saving.load_model()`, which runs no code of the file."""
    if not os.path.exists(path):
        raise ValueError(f"`model` must be a model or a file that exists; got {shown(str(path))}.")
    return load_keras().saving.load_model(path)


def check_keras(model: Any) -> str:
    """The backend of this Keras model.

    Raises TypeError for Keras 2, and ValueError for an unsupported backend or a model without weights.
    """
    if is_keras_2(model):
        raise TypeError(
            '`model` is a Keras 2 model (tf.keras): save it by `model.save("model.h5")` and load it in Keras 3 by '
            '`keras.saving.load_model("model.h5", compile=False)`.'
        )
    backend = load_keras().backend.backend()
    if backend not in BACKENDS:
        words = ", ".join(f'"{name}"' for name in BACKENDS)
        raise ValueError(
            f"`model` must be on one of Keras's backends {words}; got {shown(backend)}. Set the environment variable "
            "KERAS_BACKEND before Keras is loaded."
        )
    if not model.built:
        raise ValueError("`model` has no weights yet; fit it, load its weights, or call it on some inputs first.")
    return backend


def keras_source(keras: Any) -> str:
    """The package of the modules in this version of Keras."""
    return keras.layers.Dropout.__module__.split(".layers.")[0]
