"""A torch model, wrapped for `mc_predict()`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import check_choice
from ..compute.devices import as_devices
from ..compute.forks import warnings_ignored
from ..compute.precision import PRECISIONS
from ..compute.streams import random_state_kept
from ..data.conversion import InputConversion, has_whole_numbers, ways_to_take
from ..data.inputs import Casts, Inputs, Kinds, Path, Takes, as_constants, check_given_once, placed_constants
from ..data.sources import ArraySource, InputSource, source_of
from ..engine.plan import SamplingPlan
from ..engine.sampler import Sampler
from ..engine.torch_passes import TorchPasses
from ..networks.network import MCNetwork
from ..predictions.outputs import Outputs
from ..sites.interception import CarefulMode, StochasticMode
from ..sites.probe import Probe, probe
from ..sites.replica import Replica, explained, first_line, replicate, unwrapped, with_gradients_if_asked
from ..sites.site import at_rate
from ..variational.convolutions import BayesConv2d
from .options import ModelOptions, SamplingOptions, SiteOptions


@dataclass
class TorchModel:
    """The model to sample: how it takes inputs, and what its outputs mean."""

    model: nn.Module
    replica: Replica
    outputs: Outputs
    conversion: InputConversion
    devices: list[torch.device]  # the first is the replica's
    constants: dict[torch.device, dict[str, Any]]  # keyword arguments of the model, on each device
    # the types to which arrays of these types are cast, or the error if the model takes none
    known_casts: dict[Kinds, tuple[Casts, ValueError | None]] = field(default_factory=dict)
    casts_lock: Any = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, model: Any, options: ModelOptions) -> TorchModel:
        """The wrapped model; checks everything that can be checked before the model runs."""
        check_choice(options.precision, "precision", PRECISIONS)
        is_ours = isinstance(model, MCNetwork)
        known = Outputs(model.outputs, model.labels or ()) if isinstance(model, MCNetwork) else None
        if isinstance(model, MCNetwork):
            # `source()` and `Outputs.draws()` convert units, in float64; `select` gets outputs in the caller's units
            model = model.standard_view(values=options.select is None)
        outputs = Outputs.declared(options.outputs, options.labels, options.select, known)
        devices = as_devices(options.device)
        modules = list(model.modules())
        dtypes = [parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()]
        conversion = InputConversion(
            dtype=dtypes[0] if dtypes else torch.float32,
            floats=is_ours,
            # networks of this package change the memory format themselves
            channels_last=not is_ours and any(isinstance(module, nn.Conv2d | BayesConv2d) for module in modules),
            columns=model.columns if isinstance(model, MCNetwork) else (),
            takes=Takes.of(unwrapped(model).forward),
        )
        constants = as_constants(options.constants, conversion.takes, conversion.dtype)
        on_device = {devices[0]: placed_constants(constants, devices[0])}
        return cls(model, replicate(model, devices[0], options.precision), outputs, conversion, devices, on_device)

    def source(self, x: Any) -> InputSource:
        """The source of the inputs `x`, checked."""
        if isinstance(self.model, MCNetwork) and not self.model.is_image:
            self.conversion = replace(self.conversion, standard=self.model.units("feature", "cpu").standard)
        if isinstance(self.model, MCNetwork) and self.model.gives_standard and self.outputs.task == "regression":
            self.outputs.callers = _in_callers_units(self.model)
        source = source_of(x, self.conversion)
        if isinstance(self.model, MCNetwork):
            shape = source.shape if isinstance(source, ArraySource) else (1, *source.head(1).args[0].shape[1:])
            self.model.check_input_shape(shape)
        if constants := self.constants[self.devices[0]]:
            check_given_once(constants, source.head(1), self.conversion.takes)
        return source

    def placed(self, inputs: Inputs, device: torch.device) -> Inputs:
        """Inputs on a device, in the types and the memory format that the model takes."""
        if device not in self.constants:
            self.constants[device] = placed_constants(self.constants[self.devices[0]], device)
        inputs = inputs.cast(self.casts_for(inputs))
        return self.conversion.placed(inputs, device).with_constants(self.constants[device])

    def casts_for(self, inputs: Inputs) -> Casts:
        """The types to which these inputs are cast; for new types, three inputs are tried."""
        kinds = inputs.kinds
        with self.casts_lock:
            if kinds not in self.known_casts:
                self.known_casts[kinds] = self._find_casts(inputs)
            return self.known_casts[kinds][0]

    def _find_casts(self, inputs: Inputs) -> tuple[Casts, ValueError | None]:
        """Try the casts of `ways_to_take()` if there are whole numbers.

        A model that calls `view()` may need inputs with channels first; they keep their memory format then.
        """
        head = inputs.cycled(3)
        whole_numbers = not self.conversion.floats and has_whole_numbers(head)
        if not (whole_numbers or self.conversion.channels_last):
            return {}, None
        failures = []
        for casts in ways_to_take(head, self.conversion.dtype) if whole_numbers else ({},):
            failure = self._failure(head, casts)
            if self.conversion.channels_last and "view size is not compatible" in str(failure):
                self.conversion = replace(self.conversion, channels_last=False)
                failure = self._failure(head, casts)
            if failure is None:
                return casts, None
            failures.append(failure)
        explained_failure = next((failure for failure in failures if str(failure).startswith("`")), None)
        uncast, floating = first_line(failures[0]), first_line(failures[-1])
        has_non_floating = any(not x.is_floating_point() for x in head.arrays.values())
        if explained_failure is not None or (uncast != floating and has_non_floating):
            return {}, ValueError(
                explained_failure
                or f"`model` fails on inputs of shape {head.shapes}, as they are ({uncast}) and as floating point "
                f"numbers ({floating}); give it what it takes."
            )
        return {}, None

    def _failure(self, inputs: Inputs, casts: Casts) -> Exception | None:
        """The error that the model raises, if any."""
        floated = frozenset(path for path, dtype in casts.items() if dtype.is_floating_point)
        try:
            with random_state_kept(), warnings_ignored():
                self._carefully(self.conversion.placed(inputs.cast(casts), self.replica.device), floated=floated)
        except Exception as error:  # the probe will meet it again and report it
            return error
        return None

    def _carefully(self, inputs: Inputs, first: int = 0, floated: frozenset[Path] = frozenset()) -> None:
        """Run the model, checking each lookup; the inputs start at number `first`."""

        def work() -> None:
            copy = inputs.with_constants(self.constants[self.devices[0]]).clone()
            with self.replica.predicting(), CarefulMode(self.replica, copy, first, floated):
                self.replica.run(copy)

        with_gradients_if_asked(self.replica, work)

    def point(self, inputs: Inputs) -> Any:
        """The output of the model with dropout off."""

        def work() -> Any:
            with self.replica.predicting(), StochasticMode(self.replica):
                return self.replica.run(inputs.clone())

        with explained(self.replica, inputs):
            return with_gradients_if_asked(self.replica, work)

    @contextmanager
    def failures_explained(self, inputs: Inputs, first: int = 0) -> Iterator[None]:
        """If the model fails on these inputs inside, name a whole number that is out of range, if there is one."""
        try:
            yield
        except (RuntimeError, LookupError, TypeError, ValueError) as error:
            if str(error).startswith("`") and error.__cause__ is None:  # an error of this package
                raise
            # other numbers of these types may work, so their casts are determined again
            _, cast_failure = self.known_casts.pop(inputs.kinds, ({}, None))
            inputs = inputs.each_tensor(lambda x: x.to(self.replica.device))
            try:
                with random_state_kept():
                    self._carefully(inputs, first)
            except ValueError as lookup_error:
                if str(lookup_error).startswith("`"):
                    raise lookup_error from error
            except Exception:  # the error that is being handled
                pass
            if cast_failure is not None:
                raise cast_failure from error
            raise

    def probed(self, head: Callable[[int], Inputs], site_options: SiteOptions) -> Probe:
        """The probe of the model: its sites, among others."""
        with self.failures_explained(head(3)):
            return probe(self.model, self.replica, head, site_options.stochastic_depth, site_options.gaussian_noise)

    def is_of_values(self) -> bool:
        """Whether the model is known to predict values."""
        return isinstance(self.model, MCNetwork) and self.outputs.task != "classification"

    def sampler(
        self, example: Inputs, options: SamplingOptions, site_options: SiteOptions, rate: float | None = None
    ) -> Sampler:
        """Find the sites, check the outputs, and prepare to draw; `rate` replaces the rates of all sites."""
        # hooks of the user may share state, so no two passes run at the same time
        hooked = any(module._forward_hooks or module._forward_pre_hooks for module in self.model.modules())

        def make_plan(inputs: Inputs, device: torch.device) -> SamplingPlan:
            def new_replica() -> Replica:
                return replicate(self.model, device, self.replica.precision)

            replica = new_replica()
            with self.failures_explained(inputs):
                result = probe(
                    self.model, replica, inputs.cycled, site_options.stochastic_depth, site_options.gaussian_noise
                )
            if rate is not None:
                result.sites = at_rate(result.sites, rate)
            self.outputs.check(result.output, result.n_inputs)
            more_replicas = None if hooked else new_replica
            passes = TorchPasses(result, replica, more_replicas, self.outputs, options.seed, options.masks)
            return SamplingPlan.of(passes, options.n_samples, options.batch_size)

        return Sampler(make_plan, example, options.seed, options.workers, self.devices)


def _in_callers_units(model: MCNetwork) -> Callable[[Tensor], Tensor]:
    """A function that converts outputs into the caller's units as they are now.

    The units are copied to each device once, because a copy for every batch would make a GPU wait.
    """
    units = cache(partial(model.units, "target"))
    return lambda out: model.in_callers_units(out, units(out.device))
