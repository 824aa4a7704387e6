"""Build a network from its specification in a saved file."""

from __future__ import annotations

from typing import Any

from ..checks import check_choice, shown
from ..variational.posteriors import Posterior
from ..variational.priors import Prior
from .bayesian import mc_bayes_cnn, mc_bayes_mlp, mc_bayes_resnet
from .conversion import mc_to_bayesian
from .network import MCNetwork
from .plain import build_plain as build_plain


def build(spec: dict[str, Any]) -> MCNetwork:
    """The network of a specification, with new weights. It is one of the kinds of this package.

    Refuses a specification that is not as the network that it gives describes itself.
    """
    if not isinstance(spec, dict):
        raise ValueError(f"The specification of a network must be a mapping; got {shown(spec)}.")
    if spec.get("task") != "regression" and "model" not in spec and not isinstance(spec.get("labels"), list):
        raise ValueError(f"`labels` must be a list of at least two labels; got {shown(spec.get('labels'))}.")
    network = _built(spec)
    described = savable_spec(network.spec)
    for name, value in spec.items():
        if described[name] != value:
            raise ValueError(f"`{name}` must be {shown(described[name])}, as for such a network; got {shown(value)}.")
    return network


def _built(spec: dict[str, Any]) -> MCNetwork:
    kinds = {"bayes_cnn": mc_bayes_cnn, "bayes_mlp": mc_bayes_mlp, "bayes_resnet": mc_bayes_resnet}
    kind = spec.get("kind")
    if kind not in (*kinds, "bayesian"):
        return build_plain(spec)
    arguments = {key: value for key, value in spec.items() if key not in ("kind", "custom")}
    arguments["prior"] = Prior.from_spec(arguments["prior"])
    arguments["posterior"] = Posterior.from_spec(arguments["posterior"])
    if kind != "bayesian":
        return kinds[check_choice(kind, "kind", list(kinds))](**arguments)
    plain = build(arguments.pop("model"))
    del arguments["seed"]
    return mc_to_bayesian(plain, **arguments)


def savable_spec(spec: dict[str, Any]) -> dict[str, Any]:
    """The specification of a network as JSON values. Refuses functions and distributions of the user."""
    return {name: value.to_spec() if isinstance(value, Prior | Posterior) else value for name, value in spec.items()}
