"""A sampler: the plans of one model on all its devices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch

from ..checks import warn
from ..compute.generators import other_generators_kept
from ..compute.streams import OwnStream
from ..compute.threads import Workers
from ..data.inputs import Inputs
from ..errors import IdenticalDraws
from ..sites.table import caveats_on
from .plan import SamplingPlan


class Sampler:
    """Samples one model; for inputs of another shape, the model is probed again and other masks are made.

    make_plan: called with inputs on a device, and the device. If passes must not run at the same time, only the first
    device is used.
    """

    def __init__(
        self,
        make_plan: Callable[[Inputs, torch.device], SamplingPlan],
        example: Inputs,
        seed: int,
        workers: int | None,
        devices: list[torch.device],
    ) -> None:
        self.make_plan, self.seed, self.workers, self.warned = make_plan, seed, workers, False
        self.first = make_plan(example, devices[0])
        self.input_bytes = example.nbytes // len(example)
        self.devices = devices[:1] if self.first.passes.serial else devices
        self.plans = {(example.signature, 0): self.first}

    def plan(self, inputs: Inputs, device_index: int = 0) -> SamplingPlan:
        """The plan for inputs on a device; `device_index` is the position of the device in `devices`."""
        key = inputs.signature, device_index
        if key not in self.plans:
            self.plans[key] = self.make_plan(inputs, self.devices[device_index])
        return self.plans[key]

    @contextmanager
    def running(self) -> Iterator[list[Workers]]:
        """The workers of each device for one prediction.

        The first prediction warns of what the spread leaves out or depends on. Each prediction warns of calls that no
        probe had seen.
        """
        if not self.warned:
            for caveat in caveats_on(self.first.passes.probe):
                warn(caveat)
        self.warned = True
        with ExitStack() as stack:
            if self.first.passes.probe.serial:
                stack.enter_context(OwnStream(self.seed))
                stack.enter_context(other_generators_kept(self.seed))
            workers_of_devices = [
                Workers.for_device(self.workers, device, self.devices.count(device)) for device in self.devices
            ]
            yield [stack.enter_context(workers) for workers in workers_of_devices]
        all_passes = [plan.passes for plan in self.plans.values()]
        unknown = sorted({name for passes in all_passes for name in passes.unknown - passes.probe.passed_over})
        if unknown:
            warn(
                "`model` made dropout calls that its first inputs did not show and that were left out: "
                f"{', '.join(unknown)}."
            )
        numbers = sorted({name for passes in all_passes for name in passes.unknown_numbers})
        if numbers:
            warn(
                "`model` drew random numbers of its own that its first inputs did not show, by "
                f"{', '.join(numbers)}; they depend on `batch_size` too."
            )

    def check_spread(self) -> None:
        """Raise IdenticalDraws if all draws are the same."""
        if not any(plan.has_spread for plan in self.plans.values()):
            raise IdenticalDraws(
                "`model` gave the same outputs in every draw, so the spread would say nothing; see `mc_sites()` "
                "for what was sampled, and look whether what comes after it can change the output."
            )
