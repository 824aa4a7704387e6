"""The same work in several threads at once gives the numbers of one thread to the bit, and no thread waits for ever."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_models import numbers, predict
from torch import nn

import mcdropout as mcd
from mcdropout.compute.devices import CPU
from mcdropout.compute.forks import in_forked_child, warnings_ignored
from mcdropout.compute.generators import torch_generators_kept
from mcdropout.compute.threads import DeviceThreads, Workers
from mcdropout.networks.network import weights_from

N, FEATURES, THREADS, PATIENCE = 11, 4, 4, 60  # inputs, features, threads, seconds until a thread counts as stuck

LABELS = ["a", "b"]

X = numbers(N, FEATURES)

Y = np.where(X[:, 0] > 0, *LABELS)


def in_daemon_thread(work: Callable[[], Any]) -> Future[Any]:
    """The result of `work` in a new thread, which does not keep the tests from ending."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def random_words() -> np.ndarray:
    """The state of NumPy's global generator: its words, and how many of them are used."""
    state: Any = np.random.get_state()
    return np.append(state[1], state[2])


def weights_of(net: nn.Module) -> list[np.ndarray]:
    return [value.numpy() for value in net.state_dict().values()]


def mlp(**options: Any) -> Any:
    return mcd.mc_mlp(FEATURES, LABELS, dropout=0.4, seed=1, **options)


def fitted(net: Any) -> list[np.ndarray]:
    return weights_of(mcd.mc_fit(net, X, Y, epochs=2, batch_size=5, seed=3, progress=False))


def foreign() -> nn.Module:
    """A module that draws random numbers of its own, of torch, where no generator can be given."""
    with weights_from(1):
        layers = nn.Sequential(nn.Linear(FEATURES, 8), nn.Dropout(0.3), nn.Linear(8, 2))

    class Noisy(nn.Module):
        task, labels, outputs = "classification", LABELS, "logits"

        def __init__(self) -> None:
            super().__init__()
            self.layers = layers

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers(torch.native_dropout(x, 0.2, True)[0])

    return Noisy()


def on_batches() -> list[np.ndarray]:
    net = mlp()
    for _ in range(2):
        mcd.mc_train_on_batch(net, X, Y)
    return weights_of(net)


def batch_acquired() -> list[np.ndarray]:
    prediction = mcd.mc_predict(mlp(), X, 7, seed=2, keep_samples=True, progress=False)
    return [mcd.mc_acquire(prediction, 3, by="batchbald", seed=5).to_numpy()]


def features_extracted() -> list[np.ndarray]:
    """Draws of a head on features of a backbone, which are kept in the memory that all threads share."""
    return [mcd.mc_predict(FROZEN, X, 7, seed=2, progress=False).mean]


def frozen() -> Any:
    with weights_from(1):
        backbone = nn.Sequential(nn.Linear(FEATURES, 6), nn.ReLU())
    return mcd.mc_frozen_backbone(
        backbone, lambda shape: mcd.mc_mlp(shape[0], LABELS, dropout=0.4, seed=1), input_shape=(FEATURES,)
    )


FROZEN = frozen()

SAMPLED, SAMPLER = mlp(), mcd.mc_sampler(mlp(), X[:2], 7, seed=2)

WORK: dict[str, Callable[[], list[Any]]] = {
    "mc_mlp": lambda: weights_of(mlp()),
    "mc_cnn": lambda: weights_of(mcd.mc_cnn((8, 8, 1), LABELS, seed=1)),
    "mc_bayes_mlp": lambda: weights_of(mcd.mc_bayes_mlp(FEATURES, LABELS, seed=1)),
    "mc_bayes_cnn": lambda: weights_of(mcd.mc_bayes_cnn((8, 8, 1), LABELS, seed=1)),
    "mc_bayes_resnet": lambda: weights_of(mcd.mc_bayes_resnet((8, 8, 1), LABELS, filters=(4, 6), seed=1)),
    "features of a new network": lambda: fitted(frozen()),
    "features of one network": features_extracted,
    "mc_fit of a network": lambda: fitted(mlp()),
    "mc_fit of a Bayesian network": lambda: fitted(mcd.mc_bayes_mlp(FEATURES, LABELS, seed=1)),
    "mc_fit of a module": lambda: fitted(foreign()),
    "mc_train_on_batch": on_batches,
    "mc_predict": lambda: [mcd.mc_predict(SAMPLED, X, 7, seed=2, progress=False).mean],
    "mc_predict of a module": lambda: [predict(foreign(), X).mean],
    "mc_sampler": lambda: [SAMPLER(X).mean],
    "mc_acquire": batch_acquired,
}


@contextmanager
def torch_threads(n: int):
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("work", WORK.values(), ids=WORK)
def test_work_in_several_threads_at_once_gives_the_numbers_of_one_thread(work):
    with torch_threads(1), torch.random.fork_rng():
        torch.manual_seed(5)
        states = torch.get_rng_state(), random_words()
        expected, together = work(), threading.Barrier(THREADS)

        def work_together() -> list[Any]:
            torch.set_num_threads(1)
            together.wait(PATIENCE)
            return work()

        for future in [in_daemon_thread(work_together) for _ in range(THREADS)]:
            for one, other in zip(expected, future.result(PATIENCE), strict=True):
                np.testing.assert_array_equal(one, other)
        assert torch.equal(states[0], torch.get_rng_state())
        assert np.array_equal(states[1], random_words())


class Calling(nn.Module):
    """Calls a function in every pass, and draws where no generator can be given."""

    task, labels, outputs = "classification", LABELS, "logits"

    def __init__(self, call: Callable[[], object]) -> None:
        super().__init__()
        with weights_from(1):
            self.layer, self.call = nn.Linear(FEATURES, 2), [call]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.call[0]()
        return F.dropout(self.layer(torch.native_dropout(x, 0.2, True)[0]), 0.3)


def trained(net: nn.Module) -> None:
    mcd.mc_fit(net, X, Y, epochs=1, batch_size=5, seed=3, progress=False)


def test_workers_and_threads_of_devices_do_not_wait_for_the_generators_that_their_caller_holds():
    def draw(*_: object) -> float:
        with torch_generators_kept(CPU):
            torch.manual_seed(5)
            return float(torch.rand(()))

    def within_a_step() -> list[float]:
        with torch_generators_kept(CPU), Workers(2) as workers, DeviceThreads(2) as devices:
            return [*workers.map_parallel(draw, [slice(i, i + 1) for i in range(6)]), *devices.in_order(draw, range(6))]

    assert set(in_daemon_thread(within_a_step).result(PATIENCE)) == {draw()}


def test_a_layer_that_predicts_in_training_and_a_prediction_in_another_thread_do_not_wait_for_each_other():
    in_training, in_probe = threading.Event(), threading.Event()

    def during_training() -> None:
        in_training.set()
        in_probe.wait(0.2)  # the other thread gets there only if it needs nothing that this one holds
        predict(mlp(), X, outputs=None)

    def during_prediction() -> None:
        in_probe.set()
        trained(foreign())

    training = in_daemon_thread(lambda: trained(Calling(during_training)))
    assert in_training.wait(PATIENCE)
    prediction = in_daemon_thread(lambda: predict(Calling(during_prediction), X))
    training.result(PATIENCE)
    prediction.result(PATIENCE)


@pytest.mark.parametrize("call", ["callbacks", "augment", "progress"])
def test_functions_of_the_user_during_training_may_wait_for_other_threads(call):
    n_calls = []

    def wait_for_another_thread(*args: Any) -> Any:
        n_calls.append(in_daemon_thread(lambda: trained(foreign())).result(PATIENCE))
        return args[0] if call == "augment" else None

    function = [wait_for_another_thread] if call == "callbacks" else wait_for_another_thread
    options: dict[str, Any] = {"progress": False} | {call: function}
    in_daemon_thread(lambda: mcd.mc_fit(foreign(), X, Y, epochs=1, seed=3, **options)).result(PATIENCE)
    assert n_calls


def test_predictions_are_the_same_to_the_bit_for_one_number_of_torch_threads_and_close_for_others():
    net, x = mcd.mc_mlp(300, LABELS, hidden=(700,), dropout=0.4, seed=1), numbers(70, 300)
    means = []
    for n in (1, 2, 3):
        with torch_threads(n):
            means.append(predict(net, x, outputs=None).mean)
            np.testing.assert_array_equal(predict(net, x, outputs=None).mean, means[-1])
        np.testing.assert_allclose(means[-1], means[0], atol=1e-5)


def test_overlapping_blocks_leave_the_filters_of_warnings_as_found() -> None:
    found, before = warnings.filters, list(warnings.filters)
    first, second = warnings_ignored(), warnings_ignored()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)  # the block that began first ends first, as in two threads
    with warnings.catch_warnings(record=True) as caught:
        warnings.warn("still ignored", stacklevel=1)
    assert not caught
    second.__exit__(None, None, None)
    assert warnings.filters is found
    assert list(warnings.filters) == before


def test_a_block_that_overlaps_with_catch_warnings_of_another_thread_ends_in_both_lists() -> None:
    before = list(warnings.filters)
    ours, theirs = warnings_ignored(), warnings.catch_warnings()
    ours.__enter__()
    theirs.__enter__()  # copies the filters, with ours
    ours.__exit__(None, None, None)
    inside = list(warnings.filters)
    theirs.__exit__(None, None, None)
    assert inside == before
    assert list(warnings.filters) == before


def test_a_block_ignores_its_category_alone() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with warnings_ignored(DeprecationWarning):
            warnings.warn("old", DeprecationWarning, stacklevel=1)
            warnings.warn("new", UserWarning, stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["new"]


def test_a_forked_process_does_not_keep_the_filters_of_other_threads() -> None:
    before = list(warnings.filters)
    with warnings_ignored():
        in_forked_child()
        assert list(warnings.filters) == before


def test_predictions_in_several_threads_leave_the_filters_of_warnings_as_found() -> None:
    before = list(warnings.filters)
    for future in [in_daemon_thread(lambda: predict(foreign(), X)) for _ in range(2 * THREADS)]:
        future.result(PATIENCE)
    assert list(warnings.filters) == before


def test_conversion_to_a_bayesian_network_does_not_move_the_generator_of_torch() -> None:
    net, before = mlp(), torch.get_rng_state()
    mcd.mc_to_bayesian(net)
    assert torch.equal(torch.get_rng_state(), before)
