"""Find the sites of a Keras model by probes on one to three inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...compute.out_of_memory import is_out_of_memory
from ...compute.streams import random_state_kept
from ...data.inputs import Inputs
from ...errors import NoStochasticSites
from ..axes import site_of
from ..calls import StochasticCall
from ..comparison import alike
from ..probe import Probe, nothing_to_sample
from ..site import Call, is_random, owner_of, where_of
from ..trials import USUAL, Trial, owners_to_raise, without_effect
from .loading import load_keras
from .numbers import TORCH_GENERATOR
from .passes import KerasCall, KerasSite, Layout, Pass, ProbePass
from .replica import Replica, original_text


@dataclass
class KerasProbe(Probe):
    """What the probes have shown of a model. `layouts` has the positions of channels at the sites."""

    layouts: dict[str, Layout]
    asked: dict[str, Any]  # see `Replica`

    def keras_sites(self) -> dict[str, KerasSite]:
        """The sites with their layouts."""
        return {name: KerasSite(site, self.layouts[name]) for name, site in self.sites.items()}

    def raise_in(self, replica: Replica) -> None:
        """Let the layers of a replica draw that draw only in training."""
        replica.asked, replica.raised = self.asked, frozenset(self.raised)


def probe_keras(replica: Replica, head: Callable[[int], Inputs], gaussian_noise: bool) -> KerasProbe:
    """Find the sites of the model, as `sites.probe()` does for torch, and set the flags that they need in the replica.

    Raises NoStochasticSites if nothing would be sampled, and ValueError if dropped parts cannot be assigned to inputs,
    or if training changes more than dropout.
    """
    tolerance = max(1e-3, replica.rounding())
    probed = partial(_probed, replica, gaussian_noise=gaussian_noise)
    replica.raised = frozenset()
    with random_state_kept():
        plain, plain_output, own = _watched(replica, head(3), gaussian_noise)
        idle = without_effect(plain.found, plain_output, lambda trial: probed(head(3), trial=trial)[1])
        in_training, own_in_training = _in_training(replica, head(1), gaussian_noise)
        augmenting = {name for name in in_training if replica.is_preprocessing(owner_of(name))}

        def is_wanted(name: str, drop: StochasticCall) -> bool:
            """Whether a call that acts only in training is to be sampled."""
            return drop.kind != "generator" and (gaussian_noise or drop.kind != "normals") and name not in augmenting

        hidden = {name: call for name, call in in_training.items() if is_wanted(name, call.drop)}
        raised, only_dropout = owners_to_raise(hidden, plain.found, idle, in_training)
        replica.raised = frozenset(only_dropout)
        if only_dropout and not alike(plain_output, probed(head(3))[1], tolerance):
            where = ", ".join(path or "itself" for path in only_dropout)
            raise ValueError(
                f"`model` changes more than its dropout when training, in {where}, so it cannot be sampled as it "
                "predicts; call dropout there whatever `training` is, and what else changes in a layer of its own."
            )
        replica.raised = frozenset(raised)
        passes, outputs = zip(*(probed(head(n_inputs)) for n_inputs in (1, 2, 3)), strict=True)
    sites, layouts = {}, {}
    passed_over, by_batch, place = set(), [], 0
    for name in dict.fromkeys(name for on in passes for name in on.found):
        calls = [on.found.get(name) for on in passes]
        call = next(call for call in calls if call is not None)
        by_noise = call.drop.operation == "gaussian_noise" and not gaussian_noise
        # normal numbers of training appear here too, if a dropout in the same layer needs the flag
        acts = call.drop.kind != "normals" or name in hidden or (name in plain.found and name not in idle)
        if by_noise or not acts or name in idle - hidden.keys():
            passed_over.add(name)
            continue
        layout = call.layout if _grows_first(calls) and call.drop.kind != "generator" else Layout()
        torch_calls = [_as_torch(replica, name, each, layout) for each in calls]
        sites[name] = site_of(name, place, torch_calls, partial(_noised, replica, probed, head, name, layout))
        layouts[name] = Layout() if sites[name].kind == "generator" else layout
        if sites[name].kind == "generator" and len({each and each.drop.mask_shape for each in calls}) > 1:
            by_batch.append(where_of(name, call.drop))
        place += 1
    left_out = {name: call.drop for name, call in in_training.items() if name not in sites}
    noise = tuple(where_of(name, drop) for name, drop in left_out.items() if drop.kind in ("normals", "noise"))
    other_numbers = {
        name: where_of(name, drop) for name, drop in left_out.items() if is_random(drop) and drop.kind != "normals"
    }
    others = tuple(source for source in own_in_training if source not in own and source not in plain.fixed)
    if all(site.rate == 1 and site.kind != "noise" for site in sites.values()):
        unsampled = tuple(where for name, where in other_numbers.items() if name not in augmenting)
        unsampled += tuple(sorted(plain.fixed))
        keys = "`keras.random.uniform` or `keras.random.dropout` with a `SeedGenerator`"
        raise NoStochasticSites(nothing_to_sample(noise, (*own, *others, *unsampled), "keras.layers.Dropout", keys))
    before, after = passes[0].weighted
    comparable = not own and not any(site.kind == "generator" for site in sites.values())
    return KerasProbe(
        sites,
        {"": passes[0].largest},
        outputs[2],
        3,
        (*by_batch, *own),
        (*other_numbers.values(), *others),
        noise,
        frozenset(passed_over),
        TORCH_GENERATOR in own,
        raised,
        {},
        (before, after),
        0,
        comparable and len(outputs[2]) == 3 and not alike(outputs[0], outputs[2][:1], tolerance),
        layouts,
        replica.asked,
    )


ELSEWHERE = "numbers that are not those of `keras.random`"


def _watched(
    replica: Replica, inputs: Inputs, gaussian_noise: bool, training: bool = False
) -> tuple[ProbePass, Tensor, tuple[str, ...]]:
    """A pass, its output, and its sources of random numbers other than Keras's functions; they make passes differ."""
    on = ProbePass(gaussian_noise)
    first, _ = with_errors_explained(replica, inputs, lambda: replica.watched(inputs, on, training))
    again, names = replica.watched(inputs, ProbePass(gaussian_noise), training)
    outputs = [replica.to_torch(replica.take(result)) for result in (first, again)]
    unnamed = (ELSEWHERE,) if not names and not alike(outputs[0], outputs[1], 1e-5) else ()
    return on, outputs[0], (*names, *unnamed)


def _in_training(
    replica: Replica, inputs: Inputs, gaussian_noise: bool
) -> tuple[dict[str, KerasCall], tuple[str, ...]]:
    """The calls with an effect in training, and the other sources of random numbers; none if the pass fails."""

    def run(trial: Trial) -> Tensor:
        on = ProbePass(gaussian_noise, trial)
        return replica.to_torch(replica.take(replica.run(inputs, on, training=True)))

    asked = replica.asked
    replica.asked = {}
    try:
        on, output, names = _watched(replica, inputs, gaussian_noise, training=True)
        idle = without_effect(on.found, output, run)
    except Exception:  # some models need targets in training; then only prediction shows calls
        return {}, ()
    finally:
        replica.asked = asked
    return {name: call for name, call in on.found.items() if name not in idle}, (*names, *sorted(on.fixed))


def _probed(replica: Replica, inputs: Inputs, gaussian_noise: bool, trial: Trial = USUAL) -> tuple[ProbePass, Tensor]:
    on = ProbePass(gaussian_noise, trial)
    return on, replica.to_torch(replica.take(run_or_explain(replica, inputs, on)))


def run_or_explain(replica: Replica, inputs: Inputs, on: Pass) -> Any:
    """The result of the model; errors of the model become one sentence."""
    return with_errors_explained(replica, inputs, lambda: replica.run(inputs, on))


def with_errors_explained(replica: Replica, inputs: Inputs, run: Callable[[], Any]) -> Any:
    """The result of `run` for these inputs; errors of the model become one sentence."""
    try:
        return run()
    except Exception as error:  # each backend raises its own types of errors
        if is_out_of_memory(error) or str(error).startswith("`model`"):
            raise
        size = next((size for size in fixed_sizes(replica.model) if _takes(replica, inputs.cycled(size))), None)
        if size is not None:
            raise ValueError(
                f"`model` takes only {size} inputs at a time, and what it says of one must not depend on how many "
                "come with it; build it once more without a batch size (and not `stateful`), and give that its weights "
                "by `set_weights(model.get_weights())`."
            ) from error
        text = (original_text(error).strip() or "no words").splitlines()[0].rstrip(".: ")
        raise ValueError(
            f"`model` fails on inputs of shape {inputs.shapes}, {len(inputs)} at a time: {type(error).__name__}, "
            f"{text}; it must take any number of inputs, each as it was made for."
        ) from error


def fixed_sizes(model: Any) -> list[int]:
    """The batch sizes that the model was built for, if any."""
    shapes = [x.shape for x in symbolic_inputs(model)]
    shapes += [state.shape for layer in model._flatten_layers() for state in _states_of(layer)]
    return sorted({int(shape[0]) for shape in shapes if len(shape) and shape[0] is not None})


def _states_of(layer: Any) -> list[Any]:
    """The states that a stateful layer keeps from one call to the next."""
    return load_keras().tree.flatten(getattr(layer, "states", None)) if getattr(layer, "stateful", False) else []


def _takes(replica: Replica, inputs: Inputs) -> bool:
    try:
        replica.run(inputs, Pass())
    except Exception:
        return False
    return True


def symbolic_inputs(model: Any) -> list[Any]:
    """The symbolic inputs of a functional or sequential model; a subclassed model has none."""
    try:
        return list(model.inputs or [])
    except AttributeError:
        return []


def _grows_first(calls: list[KerasCall | None]) -> bool:
    """Whether the inputs lie along the first axis; only then the position of the channels is known."""
    sizes = [int(call.x.shape[0]) if len(call.x.shape) else 1 for call in calls if call is not None]
    return sizes == [sizes[0] * n for n in (1, 2, 3)]


def _as_torch(replica: Replica, name: str, call: KerasCall | None, layout: Layout) -> Call | None:
    if call is None:
        return None
    x = layout.inward(replica.as_site_input(call.x))
    drop = replace(call.drop, mask_shape=layout.shape(call.drop.mask_shape))
    return Call(name, drop, x, tuple(range(x.ndim)))


def _noised(
    replica: Replica,
    probed: Callable[[Inputs], tuple[ProbePass, Tensor]],
    head: Callable[[int], Inputs],
    name: str,
    layout: Layout,
) -> tuple[dict[str, Call], dict[str, Call]]:
    """The calls on one and on three inputs, with noise added that makes all inputs different."""
    calls = []
    for n_inputs in (1, 3):
        noised = head(n_inputs).noised(torch.Generator().manual_seed(0))
        call = _as_torch(replica, name, probed(noised)[0].found.get(name), layout)
        calls.append({} if call is None else {name: call})
    return calls[0], calls[1]
