"""Other threads and processes: the package does not change their random numbers or settings, nor they the package's."""

import os
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mcdropout as mcd
from mcdropout.compute.forks import shared_lock
from mcdropout.networks import network

N, FEATURES, DRAWS = 13, 3, 6
LABELS = ("a", "b")
X = np.random.default_rng(0).normal(size=(N, FEATURES)).astype(np.float32)
Y = np.where(X[:, 0] > 0, *LABELS)


def in_new_thread(work: Callable[[], Any]) -> Any:
    """The result of `work` in a new thread."""
    results = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    thread.join()
    return results[0]


class Drawer:
    """A thread of the user that draws a number from torch's global generator at every call."""

    def __init__(self):
        torch.manual_seed(7)
        self.drawn = []

    def __call__(self, *_):
        self.drawn.append(in_new_thread(lambda: float(torch.rand(()))))

    def assert_undisturbed(self):
        expected = torch.rand(len(self.drawn) + 1, generator=torch.Generator().manual_seed(7)).tolist()
        assert len(self.drawn) > 0
        assert [*self.drawn, float(torch.rand(()))] == expected


@pytest.fixture
def drawer():
    with torch.random.fork_rng():
        yield Drawer()


class Foreign(nn.Module):
    """A module of the user, with the attributes that training needs."""

    task, labels, outputs = "classification", LABELS, "logits"

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.last = nn.Linear(FEATURES, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.last(F.dropout(self.first(x), 0.3, self.training))


NETWORKS = {
    "mlp": lambda: mcd.mc_mlp(FEATURES, labels=LABELS, dropout=0.4),
    "bayes": lambda: mcd.mc_bayes_mlp(FEATURES, labels=LABELS),
    "reparameterized": lambda: mcd.mc_bayes_mlp(FEATURES, labels=LABELS, estimator="reparameterization"),
    "foreign": Foreign,
}


def trained(make: Callable[[], Any], before_step: Callable[[], object] = lambda: None) -> list[torch.Tensor]:
    """The weights after three steps; `before_step` is called before each."""

    def augment(x, generator):
        before_step()
        return x

    net = mcd.mc_fit(make(), X, Y, epochs=1, batch_size=5, augment=augment, seed=3, progress=False)
    return [weights.detach() for weights in net.parameters()]


def draw_in_every_linear_layer(drawer: Drawer, monkeypatch: pytest.MonkeyPatch) -> None:
    linear = F.linear

    def draw_and_apply(*args):
        drawer()
        return linear(*args)

    monkeypatch.setattr(F, "linear", draw_and_apply)


MC_NETWORKS = {name: make for name, make in NETWORKS.items() if name != "foreign"}


@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.parametrize("make", MC_NETWORKS.values(), ids=MC_NETWORKS)
def test_training_a_network_and_a_thread_that_draws_in_its_layers_do_not_disturb_each_other(
    make, hooked, drawer, monkeypatch
):
    def make_hooked():
        net = make()
        if hooked:
            net.layers.register_forward_hook(lambda *_: None)
        return net

    expected = trained(make)
    draw_in_every_linear_layer(drawer, monkeypatch)
    assert all(map(torch.equal, expected, trained(make_hooked)))
    drawer.assert_undisturbed()


def test_training_a_foreign_module_and_a_thread_that_draws_between_its_steps_do_not_disturb_each_other(drawer):
    expected = trained(Foreign)
    assert all(map(torch.equal, expected, trained(Foreign, drawer)))
    drawer.assert_undisturbed()


class Drawing(nn.Module):
    def forward(self, x):
        return F.dropout(x, 0.3, self.training)


def test_a_foreign_layer_in_a_network_and_a_thread_that_draws_do_not_disturb_each_other(drawer, monkeypatch):
    def make():
        net = NETWORKS["mlp"]()
        net.layers.dense1_activation = Drawing()
        return net

    expected = trained(make)
    draw_in_every_linear_layer(drawer, monkeypatch)
    assert all(map(torch.equal, expected, trained(make)))
    drawer.assert_undisturbed()


def test_training_adds_no_attributes_to_layers():
    net = NETWORKS["mlp"]()
    before = [set(vars(layer)) for layer in net.layers]
    mcd.mc_fit(net, X, Y, epochs=1, batch_size=5, progress=False)
    assert [set(vars(layer)) for layer in net.layers] == before


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_training_during_training_in_other_threads_gives_the_same_weights(make):
    expected = trained(make)
    of_other_threads = []
    weights = trained(make, lambda: of_other_threads.append(in_new_thread(lambda: trained(make))))
    assert len(of_other_threads) == 3
    assert all(all(map(torch.equal, expected, actual)) for actual in (weights, *of_other_threads))


def test_steps_on_batches_and_a_thread_that_draws_do_not_disturb_each_other(drawer):
    def after_two_steps(before_forward):
        net = NETWORKS["mlp"]()
        hook = net.layers.register_forward_pre_hook(lambda *_: before_forward())
        for _ in range(2):
            mcd.mc_train_on_batch(net, X, Y)
        hook.remove()
        return [weights.detach() for weights in net.parameters()]

    expected = after_two_steps(lambda: None)
    assert all(map(torch.equal, expected, after_two_steps(drawer)))
    drawer.assert_undisturbed()


def test_initial_weights_and_a_thread_that_draws_do_not_disturb_each_other(drawer, monkeypatch):
    expected = NETWORKS["mlp"]().state_dict()

    class Linear(nn.Linear):
        def reset_parameters(self):
            drawer()
            super().reset_parameters()

    monkeypatch.setattr(nn, "Linear", Linear)
    actual = NETWORKS["mlp"]().state_dict()
    assert all(map(torch.equal, expected.values(), actual.values()))
    drawer.assert_undisturbed()


class Calling(nn.Module):
    """Calls a function in every forward pass. With `noise` it also draws random numbers."""

    def __init__(self, call, noise=False):
        super().__init__()
        with network.weights_from(2):
            self.layer, self.drop = nn.Linear(FEATURES, 4), nn.Dropout(0.5)
        self.call, self.noise = lambda: call(), noise  # replicas do not copy functions

    def forward(self, x):
        self.call()
        h = self.layer(x)
        return self.drop(h + torch.randn_like(h)) if self.noise else self.drop(h)


def predict(model: nn.Module, x: object = X, **options: Any) -> mcd.MCPrediction:
    settings: dict[str, Any] = {"n_samples": DRAWS, "outputs": "values", "seed": 3, "progress": False} | options
    return mcd.mc_predict(model, x, **settings)


def test_a_prediction_and_a_thread_that_draws_do_not_disturb_each_other(drawer):
    expected = predict(Calling(lambda: None)).samples
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no warning that the model itself draws numbers
        actual = predict(Calling(drawer)).samples
    np.testing.assert_array_equal(actual, expected)
    drawer.assert_undisturbed()


@pytest.mark.filterwarnings("error")
def test_a_model_with_noise_and_a_thread_that_draws_do_not_disturb_each_other(drawer):
    expected = predict(Calling(lambda: None, noise=True)).samples
    np.testing.assert_array_equal(predict(Calling(drawer, noise=True)).samples, expected)
    drawer.assert_undisturbed()


def test_a_custom_posterior_and_a_thread_that_draws_do_not_disturb_each_other(drawer):
    def posterior(call):
        class CallingLaplace(torch.distributions.Laplace):
            def rsample(self, sample_shape=torch.Size([])):  # noqa: B008 (the signature of torch)
                call()
                return super().rsample(sample_shape)

        return mcd.mc_posterior_custom(CallingLaplace)

    def layer(call):
        with network.weights_from(1):
            return mcd.BayesLinear(FEATURES, 4, posterior=posterior(call))

    expected = predict(layer(lambda: None)).samples
    torch.manual_seed(7)
    np.testing.assert_array_equal(predict(layer(drawer)).samples, expected)
    drawer.assert_undisturbed()


def test_starting_a_loader_does_not_change_the_global_generator(drawer):
    class Rows(torch.utils.data.IterableDataset):
        def __iter__(self):
            drawer()
            yield from torch.from_numpy(X)

    predict(Calling(lambda: None), torch.utils.data.DataLoader(Rows(), batch_size=4))
    drawer.assert_undisturbed()


# ---- threads of torch -----------------------------------------------------------------------------------------


def test_workers_do_not_change_the_number_of_torch_threads_in_new_threads(monkeypatch):
    monkeypatch.setattr("mcdropout.engine.chunks.CHUNK_BYTES", 64)  # several chunks
    before, in_new_threads, in_the_model = torch.get_num_threads(), [], set()

    def count():
        in_the_model.add(torch.get_num_threads())
        in_new_threads.append(in_new_thread(torch.get_num_threads))

    torch.set_num_threads(3)
    try:
        predict(Calling(count), np.tile(X, (5, 1)), workers=2)
        in_new_threads.append(in_new_thread(torch.get_num_threads))
        assert set(in_new_threads) == {3}
        assert in_the_model == {1, 3}  # 1 in a worker, 3 in the thread of the caller, which probes the first inputs
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


# ---- forked processes -----------------------------------------------------------------------------------------

FORK = """
import multiprocessing, signal, sys, threading
import numpy as np, torch
import mcdropout as mcd
from mcdropout.compute.generators import generators_held

torch.set_num_threads(2)
x = np.random.default_rng(0).normal(size=(300, 40)).astype("float32")
y = np.where(x[:, 0] > 0, "a", "b")
net = mcd.mc_mlp(40, labels=["a", "b"], hidden=(400,))
sampler = mcd.mc_sampler(net, x[:5], 7, seed=1)
torch.zeros(3_000_000).add_(1).exp_()  # starts the threads of torch
work = {
    "predict": lambda: mcd.mc_predict(net, x, 7, seed=1, progress=False).mean,
    "sampler": lambda: sampler(x).mean,
    "fit": lambda: mcd.mc_fit(mcd.mc_mlp(40, labels=["a", "b"], hidden=(400,)), x, y, epochs=1, seed=1, progress=False)
    .state_dict()["layers.dense1.weight"].numpy(),
    "make": lambda: mcd.mc_mlp(40, labels=["a", "b"], hidden=(9000,)).state_dict()["layers.dense1.weight"].numpy(),
}[sys.argv[1]]
of_the_parent = work()
held, go_on = threading.Event(), threading.Event()

def hold():
    with generators_held():
        held.set()
        go_on.wait()

threading.Thread(target=hold).start()  # during the fork another thread holds the generators
held.wait()
context = multiprocessing.get_context("fork")
queue = context.SimpleQueue()

def compare():
    signal.alarm(200)  # ends a child that waits forever
    queue.put(float(np.abs(work() - of_the_parent).max()))

child = context.Process(target=compare)
child.start()
child.join()
go_on.set()
print(queue.get() if child.exitcode == 0 else "failed", torch.get_num_threads())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("work", ["predict", "sampler", "fit", "make"])
def test_a_forked_process_computes_and_the_parent_keeps_its_threads(work):
    command = [sys.executable, "-c", FORK, work]
    completed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert completed.returncode == 0, completed.stderr
    difference, threads = completed.stdout.split()
    assert float(difference) < 1e-5  # one thread of torch and two add in different orders
    assert threads == "2"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_lock_of_the_package_is_free_in_a_forked_process():
    def forked():
        child = os.fork()
        if child == 0:
            os._exit(0 if lock.acquire(blocking=False) else 1)
        return os.waitpid(child, 0)[1]

    lock = shared_lock()
    with lock:
        assert in_new_thread(forked) == 0
    package = Path(mcd.__file__).parent
    locks = [call for file in package.rglob("*.py") for call in re.findall(r"\bR?Lock\(\)", file.read_text())]
    assert locks == ["RLock()"]  # in `shared_lock()`


def test_a_gpu_in_a_forked_process_is_refused_with_a_remedy(monkeypatch):
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    monkeypatch.setattr("mcdropout.compute.devices.has_gpu", lambda: True)
    for device in ("cuda", "auto"):
        with pytest.raises(RuntimeError, match='`device` is a GPU.* forked .*"spawn" or "forkserver".*makeCluster'):
            predict(Calling(lambda: None), device=device)
