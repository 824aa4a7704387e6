"""Find the sites of a torch model by probes on one to three inputs.

A probe with all training flags set shows calls that the model skips when it is not training. Only the modules that make
such a call keep the flag.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..compute.precision import rounding
from ..compute.streams import generators_watched
from ..data.inputs import Inputs
from ..errors import NoStochasticSites
from .axes import check_mapped, site_of
from .calls import NUMBERS, STOCHASTIC_DEPTH, StochasticCall
from .comparison import alike
from .replica import Replica, raise_flags
from .site import REST, Call, Site, is_random, owner_of, tensors_in, where_of
from .trials import calls_in_training, noised_calls, owners_to_raise, probe_calls, without_effect


@dataclass
class Probe:
    """What the probes have shown of a model, for inputs of one shape."""

    sites: dict[str, Site]
    bytes: dict[str, int]  # by call, of its result for one input in one draw; "" is the largest of the other results
    output: Any  # of the last probe, on `n_inputs` inputs without dropout
    n_inputs: int
    own_randomness: tuple[str, ...]  # random numbers that cannot be keyed by input, as in "multinomial in head"
    training_randomness: tuple[str, ...]  # random numbers that the model draws only in training; they are not sampled
    training_noise: tuple[str, ...]  # the normal numbers among them; `gaussian_noise` would sample them
    passed_over: frozenset[str]  # stochastic calls that are no sites
    serial: bool  # the model draws from Python's or NumPy's generator, so passes must not run at the same time
    raised: list[str]  # modules whose training flag is set while sampling
    sole_uses: dict[str, Any]  # by dropout or fusable call whose result only one call uses: that call, or its function
    layers: tuple[int, int]  # linear layers and convolutions before the first site, and after it
    prefix_bytes: int  # of the largest result before the first site, for one input
    mixes_inputs: bool  # without dropout, the output for an input depends on the other inputs of the batch
    keeps_state: bool = field(default=False, kw_only=True)  # the output depends on the batch before
    fixed: frozenset[str] = field(default=frozenset(), kw_only=True)  # numbers that the model fixes by a seed

    def largest(self, without: frozenset[str]) -> int:
        """Bytes of the largest intermediate result after the first site, except the results of some calls."""
        return max((size for name, size in self.bytes.items() if name not in without), default=0)


def probe(
    model: nn.Module,
    replica: Replica,
    head: Callable[[int], Inputs],
    stochastic_depth: bool = True,
    gaussian_noise: bool = False,
) -> Probe:
    """Find the sites of `model`, and set the training flags that they need in `replica`.

    `head(n)` returns n inputs as the model gets them. Raises NoStochasticSites if nothing would be sampled, and
    ValueError if dropped parts cannot be assigned to inputs, or if training changes more than dropout.
    """
    in_training, others_in_training = calls_in_training(model, replica.device, head(1))
    originals = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    tolerance = max(1e-3, rounding(replica.precision, replica.device))
    with generators_watched() as others_moved, replica.generators_kept():
        plain, plain_output = probe_calls(replica, head(3), originals)
        idle = without_effect(plain.found, plain_output, lambda trial: probe_calls(replica, head(3), trial=trial)[1])

        def is_wanted(drop: StochasticCall) -> bool:
            """Whether a call that acts only in training is to be sampled."""
            noise, by_torch = drop.kind == "normals", drop.kind == "generator"
            whole_block = drop.operation == STOCHASTIC_DEPTH
            return not by_torch and (gaussian_noise or not noise) and (stochastic_depth or not whole_block)

        hidden = {name: call for name, call in in_training.items() if is_wanted(call.drop)}
        raised, only_dropout = owners_to_raise(hidden, plain.found, idle, in_training)
        raise_flags(replica, only_dropout)
        last = probe_calls(replica, head(3), originals) if only_dropout else (plain, plain_output)
        if not alike(plain_output, last[1], tolerance):
            where = ", ".join(path or "itself" for path in only_dropout)
            raise ValueError(
                f"`model` changes more than its dropout when training, in {where}, so it cannot be "
                "sampled as it predicts; call dropout there whatever `self.training` is, with `training=self.training`."
            )
        raise_flags(replica, raised)
        state = _state_of(replica)
        probes = [probe_calls(replica, head(1))]
        has_state = _differ(state, _state_of(replica))
        again = probe_calls(replica, head(1))[1] if has_state else probes[0][1]
        probes.append(probe_calls(replica, head(2)))
        probes.append(last if raised == only_dropout else probe_calls(replica, head(3)))
        others = others_moved(lambda: probe_calls(replica, head(3)))
    modes, output = [mode for mode, _ in probes], probes[-1][1]
    calls_of_probes = [mode.found for mode in modes]
    sites: dict[str, Site] = {}
    repeating = {name for name in calls_of_probes[0] if _repeats_itself([calls.get(name) for calls in calls_of_probes])}
    passed_over, by_batch, irregular, place = set(), [], [], 0
    for name in dict.fromkeys(name for calls in calls_of_probes for name in calls):
        calls = [calls.get(name) for calls in calls_of_probes]
        if all(call is None or call.x.numel() == 0 for call in calls):  # as for an expert that gets no input
            continue
        drop = next(call.drop for call in calls if call is not None)
        first = f"{owner_of(name)}[0]"  # if the model loops over inputs, only this call is in every probe
        active = drop.active or any(key in hidden and hidden[key].drop.active for key in (name, first))
        # normal numbers of training appear here too, if a dropout in the same module needs the flag
        acts = drop.kind != "normals" or name in hidden or (name in plain.found and name not in idle)
        if not (active and drop.samples and acts) or name in idle - hidden.keys() or name in repeating:
            passed_over.add(name)
            continue
        if is_random(drop) and drop.kind != "generator" and None in calls:
            irregular.append(where_of(name, drop))
            continue
        if stochastic_depth or drop.operation != STOCHASTIC_DEPTH:
            check_mapped(name, calls)
            sites[name] = site_of(name, place, calls, lambda: noised_calls(replica, head))
            if sites[name].kind == "generator" and len({call and call.drop.mask_shape for call in calls}) > 1:
                by_batch.append(where_of(name, drop))
        place += 1
    if irregular or any(site.kind in NUMBERS for site in sites.values()):
        sites[REST] = site_of_other_numbers(place, irregular)
        by_batch += dict.fromkeys(irregular)
    fixed = frozenset.intersection(*(frozenset(mode.fixed) for mode in modes))
    replica.passed_over, replica.fixed = frozenset(passed_over), fixed
    left_out = {
        name: call.drop
        for name, call in in_training.items()
        if is_random(call.drop) and call.drop.operation != STOCHASTIC_DEPTH and call.drop.samples
        if name not in sites and name not in repeating and where_of(name, call.drop) not in irregular
    }
    noise = tuple(where_of(name, drop) for name, drop in left_out.items() if drop.kind == "normals")
    other_numbers = tuple(where_of(name, drop) for name, drop in left_out.items() if drop.kind != "normals")
    other_numbers += tuple(generator for generator in others_in_training if generator not in others)
    if sites and all(site.rate == 1 for site in sites.values()):
        raise NoStochasticSites(
            "`model` has no dropout but of rate 1, which drops all of its input, so every draw would be the same; set "
            "a rate below 1 and train again."
        )
    if not sites:
        raise NoStochasticSites(nothing_to_sample(noise, (*others, *other_numbers)))
    sole_uses = {name: uses[0] for name, uses in modes[0].uses.items() if len(uses) == 1}
    sole_uses = {name: use for name, use in sole_uses.items() if all(mode.uses.get(name) == [use] for mode in modes)}
    before, after = modes[0].layers
    own = (*by_batch, *others)
    # outputs of probes can be compared only if the random numbers of an input do not depend on the others
    comparable = not others and all(map(_is_steady, sites.values()))
    if comparable and not has_state and not alike(probes[0][1], _firsts(output, 3), tolerance):
        comparable = alike(probes[0][1], probe_calls(replica, head(1))[1], tolerance)
        own = own if comparable else (*own, "what no call of torch's shows")
    return Probe(
        sites,
        modes[0].bytes,
        output,
        3,
        own,
        other_numbers,
        noise,
        frozenset(passed_over),
        bool(others) or not set(own) <= {*by_batch},
        raised,
        sole_uses,
        (before, after),
        modes[0].prefix_bytes,
        comparable and not alike(probes[0][1], _firsts(output, 3), tolerance),
        fixed=fixed,
        keeps_state=comparable and not alike(probes[0][1], again, tolerance),
    )


def site_of_other_numbers(place: int, irregular: list[str]) -> Site:
    """The site of random numbers that not all passes draw; `irregular` are those that a probe has seen."""
    operation = irregular[0].split(" in ")[0] if irregular else ""
    kind = "generator" if irregular else "start"
    return Site(REST, operation, math.nan, kind, (1,), (1,), None, True, (0,), torch.float32, place)


def nothing_to_sample(
    noise: tuple[str, ...],
    others: tuple[str, ...],
    layers: str = "torch.nn.Dropout",
    numbers: str = "`torch.rand` or `torch.bernoulli`",
) -> str:
    """The message of a model without sites."""
    if noise:
        return (
            "`model` has no dropout with a rate above 0, but draws normal numbers when training, by "
            f"{', '.join(noise)}; set `gaussian_noise` to true to sample them."
        )
    if others:
        return (
            "`model` has no dropout with a rate above 0, and what it draws itself, by "
            f"{', '.join(others)}, cannot be sampled; draw it by {numbers}."
        )
    return (
        "`model` has no dropout with a rate above 0, so every draw would be the same; "
        f"add `{layers}` layers and train again."
    )


def _repeats_itself(calls: list[Call | None]) -> bool:
    """Whether a call draws from a generator of the model that starts from the same state in each pass."""
    states = [call.own for call in calls if call is not None and call.own is not None]
    return len(states) > 1 and all(torch.equal(states[0], state) for state in states)


def _is_steady(site: Site) -> bool:
    """Whether an input gets the same random numbers in a probe alone as it gets as the first of several inputs."""
    return site.kind != "generator" and (
        site.kind not in (*NUMBERS, "keep") or site.axis is None or (site.axis == 0 and site.inputs_outermost)
    )


def _state_of(replica: Replica) -> list[tuple[Any, int]]:
    """The tensors in attributes of modules, each with its number of writes, and the numbers in attributes."""
    values = [value for module in replica.root.modules() for value in vars(module).values()]
    tensors = [tensor for value in values for tensor in tensors_in(value)]
    numbers = [value for value in values if isinstance(value, (int, float))]
    versions = [0 if tensor.is_inference() else tensor._version for tensor in tensors]
    return [*zip(tensors, versions, strict=True), *((number, 0) for number in numbers)]


def _differ(before: list[tuple[Any, int]], after: list[tuple[Any, int]]) -> bool:
    """Whether a pass has changed the state of modules."""
    pairs = zip(before, after, strict=False)
    return len(before) != len(after) or any(a is not b or n != m for (a, n), (b, m) in pairs)


def _firsts(output: Any, n: int) -> Any:
    """The part of an output on `n` inputs that belongs to the first input."""
    if isinstance(output, Tensor):
        return output[:1] if output.ndim and len(output) == n else output
    if isinstance(output, Mapping):
        return {name: _firsts(part, n) for name, part in output.items()}
    return [_firsts(part, n) for part in output] if isinstance(output, (tuple, list)) else output
