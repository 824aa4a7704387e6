"""Draw batch by batch, in rounds.

A batch is summarised as soon as its draws are complete. So memory does not grow with inputs x draws, unless the draws
are kept.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from ..checks import check_length
from ..compute.devices import chunk_bytes, for_float64
from ..compute.threads import DeviceThreads, Workers
from ..data.inputs import Inputs
from ..data.labels import label_array
from ..data.sources import InputSource
from ..engine.plan import SamplingPlan
from ..engine.randomness import input_ids
from ..engine.sampler import Sampler
from ..predictions.prediction import MCPrediction
from ..progress import Progress, reporting
from .keras_model import KerasModel
from .options import SamplingOptions
from .results import Batch, BatchSummary, DrawnBatch, ResultBuilder, check_room
from .torch_model import TorchModel

GROUP_BYTES = 2 << 20  # batches are drawn together while neither their inputs nor their draws are larger

GPU_GROUP_BYTES = 32 << 20  # the same on a GPU, which would wait for the host after small groups

DRAWS_BYTES = 8 << 20  # float32 draws at a time on a CPU; several copies of them exist for a while


def draw_all(
    network: TorchModel | KerasModel,
    sampler: Sampler,
    source: InputSource,
    options: SamplingOptions,
    ids: Sequence[object] | None,
    progress: Progress,
    started: float,
) -> MCPrediction:
    """The prediction of a network whose sampler is ready."""
    out = network.outputs.tensor(sampler.first.passes.probe.output)
    values, noise = network.outputs.draws(out[None].to(for_float64(out.device)))
    if options.keep_samples and source.n_inputs is not None:
        shape = (options.n_samples, source.n_inputs, *values.shape[2:])
        check_room(shape, 1 if noise is None else 2, values.itemsize)
    devices = sampler.devices
    most_bytes = chunk_bytes(devices[0], DRAWS_BYTES)
    group_bytes = GROUP_BYTES if devices[0].type == "cpu" else GPU_GROUP_BYTES
    size = group_size(options, 4 * out[0].numel(), sampler.input_bytes, most_bytes, len(devices) > 1, group_bytes)
    collected = ResultBuilder(source.n_inputs, options)
    # on a GPU the next batch starts before the host waits for the summaries of this one
    behind = 0 if devices[0].type == "cpu" or len(devices) > 1 else 1
    under_way: deque[Iterable[BatchSummary]] = deque()
    with (
        sampler.running() as workers_of_devices,
        DeviceThreads(len(devices)) as device_threads,
        reporting(progress, source.n_inputs, "input", "Sampling") as report,
    ):
        in_threads = len(devices) > 1
        # small results that are kept for long fragment the memory
        at_once = behind == 0 and not in_threads

        def work(batch: Batch, device_index: int) -> tuple[int, Iterable[BatchSummary]]:
            inputs = network.placed(batch.inputs, devices[device_index])
            plan = sampler.plan(inputs, device_index)
            # the caller's function, which may be R's, is only called from the caller's thread
            report_draws = no_progress if in_threads else report
            workers = workers_of_devices[device_index]
            drawn = _drawn(plan, batch, inputs, options, workers, report_draws)
            summaries = (
                summary
                for part in _with_failures_explained(drawn, network, inputs, batch.first)
                for summary in workers.map_parallel(partial(part.summarised, options), part.pieces())
            )
            return len(inputs), summaries if at_once else list(summaries)

        batches = _batches(source, size, ids)
        for n_inputs, summaries in device_threads.in_order(work, batches):
            under_way.append(summaries)
            if in_threads:
                report(n_inputs)
            if len(under_way) > behind:
                collected.put(under_way.popleft())
        for summaries in under_way:
            collected.put(summaries)
    if ids is not None:
        check_length(len(ids), "ids", collected.n_seen, "x")
    sampler.check_spread()
    summary = collected.summary()
    for name in ("predicted", "second"):
        if name in summary:
            summary[name] = label_array(network.outputs.labels)[summary.pop(name)]
    return MCPrediction(
        task=network.outputs.task,
        n_samples=options.n_samples if options.tolerance is None else collected.n_drawn(),
        level=options.level,
        seed=options.seed,
        masks=options.masks,
        engine=sampler.first.choice.engine.name,
        engine_reason=sampler.first.choice.reason,
        device=", ".join(map(str, devices)),
        precision=network.replica.precision,
        seconds=time.perf_counter() - started,
        labels=network.outputs.labels if network.outputs.task == "classification" else None,
        ids=None if ids is None else np.asarray(ids),
        id_names=("id",),
        samples=collected.samples(),
        noise_variances=collected.noise_variances(),
        temperature=1.0,
        **summary,
    )


def group_size(
    options: SamplingOptions,
    output_bytes: int,
    input_bytes: int,
    most_bytes: int,
    single: bool,
    group_bytes: int = GROUP_BYTES,
) -> int:
    """The number of inputs that are drawn together.

    One batch; several batches if their inputs and draws are small; less than a batch if its draws are large.

    single: at most one batch, as where several devices take turns.
    """
    draws_bytes = options.n_samples * output_bytes
    batches = 1 if single else max(1, group_bytes // (max(draws_bytes, input_bytes) * options.batch_size))
    return max(1, min(batches * options.batch_size, most_bytes // draws_bytes))


def _batches(source: InputSource, size: int, ids: Sequence[object] | None) -> Iterator[Batch]:
    """All inputs in order, with the ids that key their masks."""
    first = 0
    for inputs in source.batches(size):
        names = None if ids is None else ids[first : first + len(inputs)]
        if names is not None and len(names) < len(inputs):
            raise ValueError(f"`ids` must be as long as `x`; got length {len(ids or ())}, and `x` goes on.")
        yield Batch(inputs, input_ids(names, len(inputs)) + (first if ids is None else 0), first)
        first += len(inputs)


def _drawn(
    plan: SamplingPlan,
    batch: Batch,
    inputs: Inputs,
    options: SamplingOptions,
    workers: Workers,
    report: Callable[[int], None],
) -> Iterator[DrawnBatch]:
    """Draw in rounds; after each, the inputs that have met `tolerance` are complete.

    inputs: those of the batch, on the device.
    """
    drawn, ids = None, batch.ids
    for draws in options.rounds():
        last = draws.stop == options.n_samples
        raw = plan.run(inputs, ids, draws, workers, report if last else no_progress).to(for_float64(plan.passes.device))
        if drawn is None:
            drawn = DrawnBatch(batch.first + np.arange(len(inputs)), raw, plan.passes.outputs)
        else:
            drawn.raw = torch.cat([drawn.raw, raw])
        if options.tolerance is None or last:
            break
        errors = torch.cat(list(workers.map_parallel(drawn.largest_error, drawn.pieces())))
        complete = errors <= options.tolerance
        if bool(complete.any()):
            yield replace(drawn, places=drawn.places[complete.cpu().numpy()], raw=drawn.raw[:, complete])
            report(int(complete.sum()))
            if bool(complete.all()):
                return
            left = (~complete).nonzero()[:, 0]
            left_on_host = left.cpu().numpy()
            inputs, ids = inputs[left.to(plan.passes.device)], ids[left_on_host]
            drawn = replace(drawn, places=drawn.places[left_on_host], raw=drawn.raw[:, left])
    assert drawn is not None
    yield drawn


def _with_failures_explained(
    drawn: Iterator[DrawnBatch], network: TorchModel | KerasModel, inputs: Inputs, first: int
) -> Iterator[DrawnBatch]:
    with network.failures_explained(inputs, first):
        yield from drawn


def no_progress(_: int) -> None:
    """Report nothing."""
