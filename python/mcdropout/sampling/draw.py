"""Draw batch by batch, in rounds.

The summaries of a batch are made when its draws are complete. So memory does not grow with inputs x draws, unless the
draws are kept.
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

GROUP_BYTES = 2 << 20  # batches are drawn together as long as neither they nor their draws are larger

GPU_GROUP_BYTES = 32 << 20  # the same on a GPU, which small groups leave waiting for the host

DRAWS_BYTES = 8 << 20  # draws at a time on a CPU, float32; there are some copies of them for a while


def draw_all(
    network: TorchModel | KerasModel,
    sampler: Sampler,
    feed: InputSource,
    request: SamplingOptions,
    ids: Sequence[object] | None,
    progress: Progress,
    started: float,
) -> MCPrediction:
    """The prediction of a network whose sampler is ready: batches, rounds of draws, summaries."""
    out = network.outputs.tensor(sampler.first.passes.probe.output)
    values, noise = network.outputs.draws(out[None].to(for_float64(out.device)))
    if request.keep_samples and feed.n_inputs is not None:
        shape = (request.n_samples, feed.n_inputs, *values.shape[2:])
        check_room(shape, 1 if noise is None else 2, values.itemsize)
    devices = sampler.devices
    most_bytes = chunk_bytes(devices[0], DRAWS_BYTES)
    group_bytes = GROUP_BYTES if devices[0].type == "cpu" else GPU_GROUP_BYTES
    size = group_size(request, 4 * out[0].numel(), sampler.input_bytes, most_bytes, len(devices) > 1, group_bytes)
    collected = ResultBuilder(feed.n_inputs, request)
    # beside a GPU: the next batch is on its way before this one's summaries are waited for
    behind = 0 if devices[0].type == "cpu" or len(devices) > 1 else 1
    under_way: deque[tuple[int, Iterable[BatchSummary]]] = deque()
    with (
        sampler.running() as workers_of_devices,
        DeviceThreads(len(devices)) as device_threads,
        reporting(progress, feed.n_inputs, "input", "Sampling") as report,
    ):
        in_threads = len(devices) > 1
        # small results that lie about for long keep the memory around them from being used again
        at_once = behind == 0 and not in_threads

        def work(batch: Batch, device_index: int) -> tuple[int, Iterable[BatchSummary]]:
            inputs = network.placed(batch.inputs, devices[device_index])
            plan = sampler.plan(inputs, device_index)
            # a caller's function, which may be R's, is called from the caller's thread alone
            told = no_progress if in_threads else report
            drawn = _drawn(plan, batch, inputs, request, workers_of_devices[device_index], told)
            done = (
                one
                for part in _told(drawn, network, inputs, batch.first)
                for one in workers_of_devices[device_index].map_parallel(
                    partial(part.summarised, request), part.pieces()
                )
            )
            return len(inputs), done if at_once else list(done)

        batches = _batches(feed, size, ids)
        for done in device_threads.in_order(work, batches):
            under_way.append(done)
            if in_threads:
                report(done[0])
            if len(under_way) > behind:
                collected.put(under_way.popleft()[1])
        for _, parts in under_way:
            collected.put(parts)
    if ids is not None:
        check_length(len(ids), "ids", collected.n_seen, "x")
    sampler.check_spread()
    summary = collected.summary()
    for name in ("predicted", "second"):
        if name in summary:
            summary[name] = label_array(network.outputs.labels)[summary.pop(name)]
    return MCPrediction(
        task=network.outputs.task,
        n_samples=request.n_samples if request.tolerance is None else collected.n_drawn(),
        level=request.level,
        seed=request.seed,
        masks=request.masks,
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
    request: SamplingOptions,
    output_bytes: int,
    input_bytes: int,
    most_bytes: int,
    single: bool,
    group_bytes: int = GROUP_BYTES,
) -> int:
    """Inputs that are drawn together: a batch, several where both they and their draws are small, fewer where large.

    `single`: one batch at most, as where several devices take turns.
    """
    draws_bytes = request.n_samples * output_bytes
    batches = 1 if single else max(1, group_bytes // (max(draws_bytes, input_bytes) * request.batch_size))
    return max(1, min(batches * request.batch_size, most_bytes // draws_bytes))


def _batches(feed: InputSource, size: int, ids: Sequence[object] | None) -> Iterator[Batch]:
    """All inputs, in order, with what their masks are keyed by."""
    first = 0
    for inputs in feed.batches(size):
        names = None if ids is None else ids[first : first + len(inputs)]
        if names is not None and len(names) < len(inputs):
            raise ValueError(f"`ids` must be as long as `x`; got length {len(ids or ())}, and `x` goes on.")
        yield Batch(inputs, input_ids(names, len(inputs)) + (first if ids is None else 0), first)
        first += len(inputs)


def _drawn(
    plan: SamplingPlan,
    batch: Batch,
    inputs: Inputs,
    request: SamplingOptions,
    workers: Workers,
    report: Callable[[int], None],
) -> Iterator[DrawnBatch]:
    """Draw in rounds; the inputs that are known well enough leave after each. `inputs`: the batch's, on the device."""
    drawn, ids = None, batch.ids
    for draws in request.rounds():
        last = draws.stop == request.n_samples
        raw = plan.run(inputs, ids, draws, workers, report if last else no_progress).to(for_float64(plan.passes.device))
        if drawn is None:
            drawn = DrawnBatch(batch.first + np.arange(len(inputs)), raw, plan.passes.outputs)
        else:
            drawn.raw = torch.cat([drawn.raw, raw])
        if request.tolerance is None or last:
            break
        errors = torch.cat(list(workers.map_parallel(drawn.largest_error, drawn.pieces())))
        done = errors <= request.tolerance
        if bool(done.any()):
            yield replace(drawn, places=drawn.places[done.cpu().numpy()], raw=drawn.raw[:, done])
            report(int(done.sum()))
            if bool(done.all()):
                return
            left = (~done).nonzero()[:, 0]
            still = left.cpu().numpy()
            inputs, ids = inputs[left.to(plan.passes.device)], ids[still]
            drawn = replace(drawn, places=drawn.places[still], raw=drawn.raw[:, left])
    assert drawn is not None
    yield drawn


def _told(
    drawn: Iterator[DrawnBatch], network: TorchModel | KerasModel, inputs: Inputs, first: int
) -> Iterator[DrawnBatch]:
    with network.telling(inputs, first):
        yield from drawn


def no_progress(_: int) -> None:
    """Report nothing."""
