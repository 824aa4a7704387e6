"""Threads and processes beside ours: what they draw and how they compute is their own, and so is ours."""

import os
import re
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mcdropout as mcd
from mcdropout.compute.forks import shared_lock
from mcdropout.compute.streams import DRAWING, OwnDraws, OwnStream
from mcdropout.networks import network

N, FEATURES, DRAWS = 13, 3, 6
LABELS = ("a", "b")
X = np.random.default_rng(0).normal(size=(N, FEATURES)).astype(np.float32)
Y = np.where(X[:, 0] > 0, *LABELS)


def elsewhere(work):
    """What `work` gives in a thread of its own."""
    given = []
    thread = threading.Thread(target=lambda: given.append(work()))
    thread.start()
    thread.join()
    return given[0]


class Drawer:
    """A thread of the user's that draws a number from torch's global generator each time that it is asked."""

    def __init__(self):
        torch.manual_seed(7)
        self.drawn = []

    def __call__(self, *_):
        self.drawn.append(elsewhere(lambda: float(torch.rand(()))))

    def assert_undisturbed(self):
        alone = torch.rand(len(self.drawn) + 1, generator=torch.Generator().manual_seed(7)).tolist()
        assert len(self.drawn) > 0
        assert [*self.drawn, float(torch.rand(()))] == alone


@pytest.fixture
def drawer():
    with torch.random.fork_rng():
        yield Drawer()


class Foreign(nn.Module):
    """A module of the user's, with all that training needs to know."""

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


def trained(make, between=lambda: None):
    """Weights after three steps, with something done before each."""

    def augment(x, generator):
        between()
        return x

    net = mcd.mc_fit(make(), X, Y, epochs=1, batch_size=5, augment=augment, seed=3, progress=False)
    return [weights.detach() for weights in net.parameters()]


OURS = {name: make for name, make in NETWORKS.items() if name != "foreign"}


@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.parametrize("make", OURS.values(), ids=OURS)
def test_training_a_network_of_ours_and_a_thread_that_draws_in_its_layers_do_not_disturb_each_other(
    make, hooked, drawer, monkeypatch
):
    def made():
        net = make()
        if hooked:
            net.layers.register_forward_hook(lambda *_: None)
        return net

    alone, linear = trained(make), F.linear
    monkeypatch.setattr(F, "linear", lambda *given: (drawer(), linear(*given))[1])
    assert all(map(torch.equal, alone, trained(made)))
    drawer.assert_undisturbed()


def test_training_a_module_of_the_users_and_a_thread_that_draws_between_its_steps_do_not_disturb_each_other(drawer):
    alone = trained(Foreign)
    assert all(map(torch.equal, alone, trained(Foreign, drawer)))
    drawer.assert_undisturbed()


class Drawing(nn.Module):
    def forward(self, x):
        return F.dropout(x, 0.3, self.training)


def test_a_layer_of_the_users_in_a_network_of_ours_and_a_thread_that_draws_do_not_disturb_each_other(
    drawer, monkeypatch
):
    def make():
        net = NETWORKS["mlp"]()
        net.layers.dense1_activation = Drawing()
        return net

    alone, linear = trained(make), F.linear
    monkeypatch.setattr(F, "linear", lambda *given: (drawer(), linear(*given))[1])
    assert all(map(torch.equal, alone, trained(make)))
    drawer.assert_undisturbed()


def test_layers_are_as_they_were_after_training():
    net = NETWORKS["mlp"]()
    before = [set(vars(layer)) for layer in net.layers]
    mcd.mc_fit(net, X, Y, epochs=1, batch_size=5, progress=False)
    assert [set(vars(layer)) for layer in net.layers] == before


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_training_beside_training_in_other_threads_learns_what_it_learns_alone(make):
    alone = trained(make)
    others = []
    beside = trained(make, lambda: others.append(elsewhere(lambda: trained(make))))
    assert len(others) == 3
    assert all(all(map(torch.equal, alone, one)) for one in (beside, *others))


def test_steps_of_ones_own_and_a_thread_that_draws_do_not_disturb_each_other(drawer):
    def stepped(between):
        net = NETWORKS["mlp"]()
        hook = net.layers.register_forward_pre_hook(lambda *_: between())
        for _ in range(2):
            mcd.mc_train_on_batch(net, X, Y)
        hook.remove()
        return [weights.detach() for weights in net.parameters()]

    alone = stepped(lambda: None)
    assert all(map(torch.equal, alone, stepped(drawer)))
    drawer.assert_undisturbed()


def test_first_weights_and_a_thread_that_draws_do_not_disturb_each_other(drawer, monkeypatch):
    alone = NETWORKS["mlp"]().state_dict()

    class Linear(nn.Linear):
        def reset_parameters(self):
            drawer()
            super().reset_parameters()

    monkeypatch.setattr(nn, "Linear", Linear)
    made = NETWORKS["mlp"]().state_dict()
    assert all(map(torch.equal, alone.values(), made.values()))
    drawer.assert_undisturbed()


class Meeting(nn.Module):
    """Does something each time that it runs, as another thread may; `noise`: draws numbers of its own."""

    def __init__(self, meet, noise=False):
        super().__init__()
        with network.weights_from(2):
            self.layer, self.drop = nn.Linear(FEATURES, 4), nn.Dropout(0.5)
        self.meet, self.noise = lambda: meet(), noise  # a function, of which replicas make no copies

    def forward(self, x):
        self.meet()
        h = self.layer(x)
        return self.drop(h + torch.randn_like(h)) if self.noise else self.drop(h)


def predict(model: nn.Module, x: object = X, **options: Any) -> mcd.MCPrediction:
    settings: dict[str, Any] = {"n_samples": DRAWS, "outputs": "values", "seed": 3, "progress": False} | options
    return mcd.mc_predict(model, x, **settings)


def test_a_prediction_and_a_thread_that_draws_do_not_disturb_each_other(drawer):
    alone = predict(Meeting(lambda: None)).samples
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # none says that the model draws numbers of its own
        beside = predict(Meeting(drawer)).samples
    np.testing.assert_array_equal(beside, alone)
    drawer.assert_undisturbed()


@pytest.mark.filterwarnings("error")
def test_a_model_with_noise_of_its_own_and_a_thread_that_draws_do_not_disturb_each_other(drawer):
    alone = predict(Meeting(lambda: None, noise=True)).samples
    np.testing.assert_array_equal(predict(Meeting(drawer, noise=True)).samples, alone)
    drawer.assert_undisturbed()


def test_a_custom_posterior_and_a_thread_that_draws_do_not_disturb_each_other(drawer):
    def posterior(meet):
        class Met(torch.distributions.Laplace):
            def rsample(self, sample_shape=torch.Size([])):  # noqa: B008 (the signature of torch)
                meet()
                return super().rsample(sample_shape)

        return mcd.mc_posterior_custom(Met)

    def layer(meet):
        with network.weights_from(1):
            return mcd.BayesLinear(FEATURES, 4, posterior=posterior(meet))

    alone = predict(layer(lambda: None)).samples
    torch.manual_seed(7)
    np.testing.assert_array_equal(predict(layer(drawer)).samples, alone)
    drawer.assert_undisturbed()


def test_a_loader_starts_with_the_global_generators_number_which_stays(drawer):
    seen = []

    class Rows(torch.utils.data.IterableDataset):
        def __iter__(self):
            drawer()
            seen.append(torch.initial_seed())
            yield from torch.from_numpy(X)

    predict(Meeting(lambda: None), torch.utils.data.DataLoader(Rows(), batch_size=4))
    drawer.assert_undisturbed()


# ---- a stream of one's own ------------------------------------------------------------------------------------

DRAWS_OF = {
    "dropout": lambda x: F.dropout(x, 0.3),
    "dropout in place": lambda x: F.dropout(x.clone(), 0.3, inplace=True),
    "all dropped": lambda x: F.dropout(x, 1.0),
    "alpha dropout": lambda x: F.alpha_dropout(x, 0.2, training=True),
    "channel dropout": lambda x: F.dropout1d(x[None], 0.4),
    "attention": lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None], dropout_p=0.3),
    "lstm": lambda x: lstm()(x)[0],
    "rrelu": lambda x: F.rrelu(-x, training=True),
    "gumbel": lambda x: F.gumbel_softmax(x),
    "rand": lambda x: torch.rand(4),
    "rand like": torch.rand_like,
    "randn like": torch.randn_like,
    "randint": lambda x: torch.randint(0, 9, (5,), device=x.device),
    "permutation": lambda x: torch.randperm(7),
    "normal": lambda x: torch.normal(x, 1.0),
    "normal in place": lambda x: x.clone().normal_(),
    "bernoulli": lambda x: torch.bernoulli(x.sigmoid()),
    "multinomial": lambda x: torch.multinomial(x.sigmoid(), 2),
    "poisson": lambda x: torch.poisson(x.exp()),
    "gamma": lambda x: torch.distributions.Gamma(x.exp(), 1.0).rsample(),
    "first weights": lambda x: nn.Linear(4, 3).weight,
}


def lstm():
    made = nn.LSTM(FEATURES, 4, num_layers=2, dropout=0.5)
    with torch.no_grad():
        for weights in made.parameters():
            weights.fill_(0.3)
    return made


@pytest.mark.parametrize("mode", [OwnStream, lambda seed: OwnDraws(OwnStream(seed))], ids=["stream", "draws"])
@pytest.mark.parametrize("draw", DRAWS_OF.values(), ids=DRAWS_OF)
def test_a_stream_of_ones_own_gives_the_numbers_of_the_global_one_which_stays(draw, mode):
    x = torch.from_numpy(X)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        wanted = [draw(x).detach() for _ in range(2)]
        state = torch.get_rng_state()
        with mode(5):
            got = [draw(x).detach() for _ in range(2)]
        assert all(map(torch.equal, wanted, got))
        assert torch.equal(torch.get_rng_state(), state)


def test_a_stream_tells_whether_anything_was_drawn():
    x = torch.from_numpy(X)
    with OwnStream(0) as stream:
        F.dropout(x, 0.5, training=False)
        F.rrelu(-x)
        F.scaled_dot_product_attention(x[None], x[None], x[None])
        torch.rand(2, generator=torch.Generator())
        assert not stream.has_drawn
        F.dropout(x, 0.5)
        assert stream.has_drawn


def test_what_takes_no_generator_has_the_global_ones_lent_and_put_back():
    x = torch.from_numpy(X)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        wanted = [torch.ops.aten.native_dropout(x, 0.5, True)[0], torch.rand(3)]
        state = torch.get_rng_state()
        with OwnStream(5) as stream:
            got = [torch.ops.aten.native_dropout(x, 0.5, True)[0], torch.rand(3)]
        assert all(map(torch.equal, wanted, got))
        assert stream.has_drawn
        assert torch.equal(torch.get_rng_state(), state)


def test_every_operation_of_torchs_that_draws_has_a_word_in_its_name():
    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("aten::")]
    drawing = set()
    for name in names:
        base, _, overload = name.removeprefix("aten::").partition(".")
        found = getattr(getattr(torch.ops.aten, base, None), overload or "default", None)
        if found is not None and torch.Tag.nondeterministic_seeded in found.tags:
            drawing.add(base)
    assert "bernoulli_" in drawing
    assert not [name for name in drawing if not any(word in name for word in (*DRAWING, "miopen"))]


# ---- threads of torch -----------------------------------------------------------------------------------------


def test_new_threads_have_as_many_threads_of_torch_while_workers_work_and_afterwards(monkeypatch):
    monkeypatch.setattr("mcdropout.engine.chunks.CHUNK_BYTES", 64)  # several chunks
    before, counts, own = torch.get_num_threads(), [], set()

    def meet():
        own.add(torch.get_num_threads())
        counts.append(elsewhere(torch.get_num_threads))

    torch.set_num_threads(3)
    try:
        predict(Meeting(meet), np.tile(X, (5, 1)), workers=2)
        counts.append(elsewhere(torch.get_num_threads))
        assert set(counts) == {3}
        assert own == {1, 3}  # a worker's, and that of whoever asked, which looks at the first inputs
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


# ---- processes that are forked off ----------------------------------------------------------------------------

FORK = """
import multiprocessing, signal, sys
import numpy as np, torch
import mcdropout as mcd

torch.set_num_threads(2)
x = np.random.default_rng(0).normal(size=(300, 40)).astype("float32")
y = np.where(x[:, 0] > 0, "a", "b")
net = mcd.mc_mlp(40, labels=["a", "b"], hidden=(400,))
ask = mcd.mc_sampler(net, x[:5], 7, seed=1)
torch.zeros(3_000_000).add_(1).exp_()  # shared out among the threads
work = {
    "predict": lambda: mcd.mc_predict(net, x, 7, seed=1, progress=False).mean,
    "sampler": lambda: ask(x).mean,
    "fit": lambda: mcd.mc_fit(mcd.mc_mlp(40, labels=["a", "b"], hidden=(400,)), x, y, epochs=1, seed=1, progress=False)
    .state_dict()["layers.dense1.weight"].numpy(),
    "make": lambda: mcd.mc_mlp(40, labels=["a", "b"], hidden=(9000,)).state_dict()["layers.dense1.weight"].numpy(),
}[sys.argv[1]]
here = work()
context = multiprocessing.get_context("fork")
queue = context.SimpleQueue()

def again():
    signal.alarm(200)  # ends it with whoever waits for it
    queue.put(float(np.abs(work() - here).max()))

child = context.Process(target=again)
child.start()
child.join()
print(queue.get() if child.exitcode == 0 else "failed", torch.get_num_threads())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("what", ["predict", "sampler", "fit", "make"])
def test_a_forked_process_computes_and_the_parent_keeps_its_threads(what):
    done = subprocess.run([sys.executable, "-c", FORK, what], capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    difference, threads = done.stdout.split()
    assert float(difference) < 1e-5  # one thread of torch adds in another order than two
    assert threads == "2"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_our_locks_are_free_in_a_forked_process_whoever_held_them():
    def forked():
        child = os.fork()
        if child == 0:
            os._exit(0 if lock.acquire(blocking=False) else 1)
        return os.waitpid(child, 0)[1]

    lock = shared_lock()
    with lock:
        assert elsewhere(forked) == 0
    package = Path(mcd.__file__).parent
    made = [line for file in package.rglob("*.py") for line in re.findall(r"\bR?Lock\(\)", file.read_text())]
    assert made == ["RLock()"]  # in `shared_lock()`


def test_a_gpu_in_a_forked_process_is_refused_with_a_way_out(monkeypatch):
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    monkeypatch.setattr("mcdropout.compute.devices.has_gpu", lambda: True)
    for device in ("cuda", "auto"):
        with pytest.raises(RuntimeError, match='`device` is a GPU.* forked .*"spawn" or "forkserver".*makeCluster'):
            predict(Meeting(lambda: None), device=device)
