"""A torch model as `mc_predict()` sees it."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import check_choice
from ..compute.devices import as_devices
from ..compute.precision import PRECISIONS
from ..compute.streams import random_state_kept
from ..data.conversion import InputConversion, has_whole_numbers, ways_to_take
from ..data.inputs import Casts, Inputs, Kinds, Path, Takes, as_constants, check_given_once, placed_constants
from ..data.labels import Label
from ..data.sources import ArraySource, InputSource, source_of
from ..engine.plan import SamplingPlan
from ..engine.sampler import Sampler
from ..engine.torch_passes import TorchPasses
from ..networks.network import MCNetwork
from ..predictions.outputs import Outputs, Select
from ..sites.interception import CarefulMode, StochasticMode
from ..sites.probe import Probe, probe
from ..sites.replica import Replica, explained, first_line, replicate, unwrapped, with_gradients_if_asked
from ..sites.site import at_rate
from ..variational.convolutions import BayesConv2d
from .options import SamplingOptions, SiteOptions


@dataclass
class TorchModel:
    """The model to sample: how it takes inputs, and what its outputs mean."""

    model: nn.Module
    replica: Replica
    outputs: Outputs
    taking: InputConversion
    devices: list[torch.device]  # the replica's is the first
    constants: dict[torch.device, dict[str, Any]]  # what the model is given beside its inputs, by where it is
    # how it takes arrays of these types, or why it takes them in no way
    settled: dict[Kinds, tuple[Casts, ValueError | None]] = field(default_factory=dict)
    settling: Any = field(default_factory=threading.Lock)

    @classmethod
    def of(
        cls,
        model: Any,
        outputs: str | None,
        labels: Iterable[Label] | None,
        select: Select | None,
        precision: str,
        device: str | Sequence[str],
        constants: Mapping[str, Any] | None = None,
    ) -> TorchModel:
        """Check what can be known before anything runs."""
        check_choice(precision, "precision", PRECISIONS)
        ours = isinstance(model, MCNetwork)
        known = Outputs(model.outputs, model.labels or ()) if isinstance(model, MCNetwork) else None
        if isinstance(model, MCNetwork):
            # `feed()` and `Outputs.draws()` put numbers into units, in float64; `select` gets the caller's
            model = model.standard_view(values=select is None)
        meaning = Outputs.declared(outputs, labels, select, known)
        devices = as_devices(device)
        modules = list(model.modules())
        dtypes = [parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()]
        taking = InputConversion(
            dtype=dtypes[0] if dtypes else torch.float32,
            floats=ours,
            channels_last=not ours
            and any(isinstance(one, nn.Conv2d | BayesConv2d) for one in modules),  # ours do so themselves
            columns=model.columns if isinstance(model, MCNetwork) else (),
            takes=Takes.of(unwrapped(model).forward),
        )
        given = as_constants(constants, taking.takes, taking.dtype)
        there = {devices[0]: placed_constants(given, devices[0])}
        return cls(model, replicate(model, devices[0], precision), meaning, taking, devices, there)

    def feed(self, x: Any) -> InputSource:
        """`x` checked, as inputs that can be taken batch by batch."""
        if isinstance(self.model, MCNetwork) and not self.model.is_image:
            self.taking = replace(self.taking, standard=self.model.units("feature", "cpu").standard)
        if isinstance(self.model, MCNetwork) and self.model.gives_standard and self.outputs.task == "regression":
            self.outputs.callers = _in_callers_units(self.model)
        feed = source_of(x, self.taking)
        if isinstance(self.model, MCNetwork):
            shape = feed.shape if isinstance(feed, ArraySource) else (1, *feed.head(1).args[0].shape[1:])
            self.model.check_input_shape(shape)
        if constants := self.constants[self.devices[0]]:
            check_given_once(constants, feed.head(1), self.taking.takes)
        return feed

    def placed(self, inputs: Inputs, device: torch.device) -> Inputs:
        """Inputs as the model takes them on a device."""
        if device not in self.constants:
            self.constants[device] = placed_constants(self.constants[self.devices[0]], device)
        inputs = inputs.cast(self.settle(inputs))
        return self.taking.placed(inputs, device).with_constants(self.constants[device])

    def settle(self, inputs: Inputs) -> Casts:
        """The types that the model takes for those of these inputs; found out on the first three where they are new."""
        kinds = inputs.kinds
        with self.settling:
            if kinds not in self.settled:
                self.settled[kinds] = self._found_out(inputs)
            return self.settled[kinds][0]

    def _found_out(self, inputs: Inputs) -> tuple[Casts, ValueError | None]:
        """See `ways_to_take()` for whole numbers.

        Inputs stay in their own order in memory if it, as one that calls `view()`, can take no other.
        """
        head = inputs.cycled(3)
        whole = not self.taking.floats and has_whole_numbers(head)
        if not (whole or self.taking.channels_last):
            return {}, None
        failures = []
        for casts in ways_to_take(head, self.taking.dtype) if whole else ({},):
            failure = self._failure(head, casts)
            if self.taking.channels_last and "view size is not compatible" in str(failure):
                self.taking = replace(self.taking, channels_last=False)
                failure = self._failure(head, casts)
            if failure is None:
                return casts, None
            failures.append(failure)
        told = next((one for one in failures if str(one).startswith("`")), None)
        given, floating = first_line(failures[0]), first_line(failures[-1])
        if told is not None or (given != floating and any(not x.is_floating_point() for x in head.arrays.values())):
            return {}, ValueError(
                told
                or f"`model` fails on inputs of shape {head.shapes}, as they are ({given}) and as floating point "
                f"numbers ({floating}); give it what it takes."
            )
        return {}, None

    def _failure(self, inputs: Inputs, casts: Casts) -> Exception | None:
        """The error that the model raises."""
        floated = frozenset(path for path, dtype in casts.items() if dtype.is_floating_point)
        try:
            with random_state_kept(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._carefully(self.taking.placed(inputs.cast(casts), self.replica.device), floated=floated)
        except Exception as error:  # it comes again, and is told of, when the model is probed
            return error
        return None

    def _carefully(self, inputs: Inputs, first: int = 0, floated: frozenset[Path] = frozenset()) -> None:
        def work() -> None:
            own = inputs.with_constants(self.constants[self.devices[0]]).clone()
            with self.replica.predicting(), CarefulMode(self.replica, own, first, floated):
                self.replica.run(own)

        with_gradients_if_asked(self.replica, work)

    def point(self, inputs: Inputs) -> Any:
        """What the model returns with nothing dropped."""

        def work() -> Any:
            with self.replica.predicting(), StochasticMode(self.replica):
                return self.replica.run(inputs.clone())

        with explained(self.replica, inputs):
            return with_gradients_if_asked(self.replica, work)

    @contextmanager
    def telling(self, inputs: Inputs, first: int = 0) -> Iterator[None]:
        """If the model fails on these inputs, say which of them are whole numbers out of range, if any are."""
        try:
            yield
        except (RuntimeError, LookupError, TypeError, ValueError) as error:
            if str(error).startswith("`") and error.__cause__ is None:  # not of the model's
                raise
            # told of once: other numbers of these types may be taken
            _, trouble = self.settled.pop(inputs.kinds, ({}, None))
            inputs = inputs.each_tensor(lambda x: x.to(self.replica.device))
            try:
                with random_state_kept():
                    self._carefully(inputs, first)
            except ValueError as found:
                if str(found).startswith("`"):
                    raise found from error
            except Exception:  # as before
                pass
            if trouble is not None:
                raise trouble from error
            raise

    def probed(self, head: Callable[[int], Inputs], besides: SiteOptions) -> Probe:
        """Its sites, and what else the probes find out."""
        with self.telling(head(3)):
            return probe(self.model, self.replica, head, besides.stochastic_depth, besides.gaussian_noise)

    def is_of_values(self) -> bool:
        """Whether it is known to be a network for values."""
        return isinstance(self.model, MCNetwork) and self.outputs.task != "classification"

    def sampler(
        self, example: Inputs, request: SamplingOptions, besides: SiteOptions, rate: float | None = None
    ) -> Sampler:
        """Find the sites, check the outputs, and make ready to draw; `rate` in place of the rates of all sites."""
        # hooks of the user may share what they note, so nothing runs beside them
        hooked = any(module._forward_hooks or module._forward_pre_hooks for module in self.model.modules())

        def make_plan(inputs: Inputs, device: torch.device) -> SamplingPlan:
            def new_replica() -> Replica:
                return replicate(self.model, device, self.replica.precision)

            replica = new_replica()
            with self.telling(inputs):
                probed = probe(self.model, replica, inputs.cycled, besides.stochastic_depth, besides.gaussian_noise)
            if rate is not None:
                probed.sites = at_rate(probed.sites, rate)
            self.outputs.check(probed.output, probed.n_inputs)
            more_replicas = None if hooked else new_replica
            passes = TorchPasses(probed, replica, more_replicas, self.outputs, request.seed, request.masks)
            return SamplingPlan.of(passes, request.n_samples, request.batch_size)

        return Sampler(make_plan, example, request.seed, request.workers, self.devices)


def _in_callers_units(model: MCNetwork) -> Callable[[Tensor], Tensor]:
    """With the units of now, which go to each device once: to copy them there for every batch would make a GPU wait."""
    units = cache(partial(model.units, "target"))
    return lambda out: model.in_callers_units(out, units(out.device))
