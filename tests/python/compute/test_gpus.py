"""Predictions on a CUDA device, compared with those on a CPU. Without such a device these tests are skipped."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from image_model import MASKS, N, Net, assert_same, cuda_error, limit_memory, numbers, predict
from torch import nn

import mcdropout as mcd
from mcdropout.compute.transfers import to_device, to_host_async


@pytest.fixture
def x():
    return numbers(N, 2, 8, 8)


@pytest.mark.gpu
@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("engine", ["folded", "loop"])
def test_a_gpu_gives_the_numbers_of_the_cpu(x, masks, engine, only_engine):
    only_engine(engine)
    cpu = predict(Net(), x, masks=masks, device="cpu")
    for batch_size in (2, 128):
        gpu = predict(Net(), x, masks=masks, device="cuda", batch_size=batch_size)
        assert gpu.engine == engine
        # float32 convolutions may use TF32 (10 bits) if the user's settings allow it; the defaults of torch do
        np.testing.assert_allclose(gpu.samples, cpu.samples, atol=5e-3)
        assert np.abs(gpu.samples - cpu.samples).mean() < 1e-3


@pytest.mark.gpu
def test_tolerance_and_streams_on_a_gpu(x):
    for options in ({"tolerance": 0.05}, {"keep_samples": False}, {"precision": "bfloat16"}):
        gpu = predict(Net(), iter(torch.from_numpy(x).split(3)), device="cuda", **options)
        np.testing.assert_allclose(gpu.mean, predict(Net(), x, device="cpu", **options).mean, atol=3e-2)


@pytest.mark.gpu
def test_two_runs_on_a_gpu_agree_to_the_bit(x):
    first, second = predict(Net(), x, device="cuda"), predict(Net(), x, device="cuda")
    for name in ("predicted", "samples", "mean", "variance", "lower", "mutual_information"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)


@pytest.mark.gpu
def test_copies_to_and_from_a_gpu_are_complete():
    cuda = torch.device("cuda")
    tensors = [torch.randn(1000, 100, generator=torch.Generator().manual_seed(i)) for i in range(20)]
    pending = []
    for tensor in tensors:
        copy = to_device(tensor, cuda)
        pending.append(to_host_async({"twice": copy * 2, "sum": copy.double().sum(dim=1), "sign": copy > 0}))
    for tensor, result_of in zip(tensors, pending, strict=True):
        arrays = result_of()
        np.testing.assert_array_equal(arrays["twice"], (tensor * 2).numpy())
        np.testing.assert_allclose(arrays["sum"], tensor.double().sum(dim=1).numpy(), atol=1e-10)
        np.testing.assert_array_equal(arrays["sign"], (tensor > 0).numpy())


@pytest.mark.gpu
def test_running_out_of_memory_on_a_gpu_halves_the_chunks(x, monkeypatch):
    expected = predict(Net(), x, device="cuda")
    limit_memory(6, cuda_error, monkeypatch)
    np.testing.assert_allclose(predict(Net(), x, device="cuda").samples, expected.samples, atol=5e-3)


@pytest.mark.gpu
def test_predicting_does_not_change_the_settings_of_a_gpu(x):
    def settings():
        backends = torch.backends
        return (
            *(backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32, backends.cudnn.benchmark),
            *(backends.cudnn.deterministic, torch.get_float32_matmul_precision(), torch.cuda.current_device()),
            *(torch.cuda.current_stream(), torch.cuda.get_rng_state().tolist(), torch.get_rng_state().tolist()),
        )

    model, before = Net(), settings()
    predict(model, x, device="cuda")
    assert settings() == before
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


@pytest.mark.gpu
def test_random_numbers_that_a_model_draws_on_a_gpu_are_keyed(x):
    class Noisy(Net):
        def forward(self, x):
            return super().forward(x + torch.randn(x.shape, device=x.device))

    before = torch.cuda.get_rng_state()
    gpu = predict(Noisy(), x, device="cuda")
    np.testing.assert_allclose(predict(Noisy(), x, device="cpu").samples, gpu.samples, atol=1e-4)  # float32 sums
    assert torch.equal(torch.cuda.get_rng_state(), before)


@pytest.mark.gpu
def test_several_gpus_give_the_numbers_of_one(x):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    of_one_gpu = predict(Net(), x, batch_size=2, device="cuda:0")
    for device in (["cuda:0", "cuda:1"], "cuda:1"):  # TF32, as above
        assert_same(predict(Net(), x, batch_size=2, device=device), of_one_gpu, atol=5e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("outputs", ["values", "logits"])
def test_one_input_on_a_gpu(x, outputs):
    model = Net()
    gpu, cpu = (predict(model, x[:1], outputs=outputs, device=device) for device in ("cuda", "cpu"))
    np.testing.assert_allclose(gpu.samples, cpu.samples, atol=5e-3)  # TF32, as above
    point = mcd.mc_predict_point(model, x[:1], outputs=outputs, device="cuda")
    assert len(point) == 1


class Recurrent(nn.Module):
    def __init__(self, make, **options):
        super().__init__()
        torch.manual_seed(0)
        self.layers = make(3, 8, num_layers=3, dropout=0.3, batch_first=True, **options)
        self.last = nn.LazyLinear(2)
        self.last(self.layers(torch.zeros(1, 4, 3))[0])

    def forward(self, x):
        return self.last(self.layers(x)[0][:, -1])


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")  # of torch 2.11 on a CPU
@pytest.mark.parametrize(
    ("make", "options"),
    [
        (nn.LSTM, {}),
        (nn.LSTM, {"proj_size": 5}),
        (nn.GRU, {"bidirectional": True}),
        (nn.RNN, {"bias": False}),
        (nn.RNN, {"nonlinearity": "relu"}),
    ],
)
def test_recurrent_layers_on_a_gpu_warn_of_nothing_and_give_the_numbers_of_the_cpu(make, options):
    model, x = Recurrent(make, **options), np.random.default_rng(0).normal(size=(7, 4, 3)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gpu = predict(model, x, outputs="values", device="cuda")
    cpu = predict(model, x, outputs="values", device="cpu")
    np.testing.assert_allclose(gpu.samples, cpu.samples, atol=1e-3)  # cuDNN uses TF32 here too


class Lookup(nn.Module):
    def __init__(self, look_up):
        super().__init__()
        self.embed, self.drop, self.last = nn.Embedding(20, 6), nn.Dropout(0.5), nn.Linear(6, 5)
        self.look_up = look_up

    def forward(self, codes):
        return self.last(self.drop(self.look_up(self.embed, codes).mean(dim=1)))


@pytest.mark.gpu
@pytest.mark.parametrize(
    "look_up",
    [
        lambda embed, codes: embed(codes),
        lambda embed, codes: embed.weight[codes],
        lambda embed, codes: embed.weight.index_select(0, codes.flatten()).unflatten(0, codes.shape),
    ],
    ids=["embedding", "indexing", "index_select"],
)
def test_codes_out_of_range_do_not_disable_a_gpu(x, look_up):
    codes = np.arange(33).reshape(11, 3) % 20
    model = Lookup(look_up)
    expected = predict(model, codes, device="cuda")
    for row in (0, 9):
        wrong = codes.copy()
        wrong[row, 1] = 20
        for batch_size in (2, 128):
            with pytest.raises(ValueError, match=f"whole numbers .* got 20 in input number {row + 1}"):
                predict(model, wrong, device="cuda", batch_size=batch_size)
        with pytest.raises(ValueError, match="whole numbers .* got 20"):
            mcd.mc_predict_point(model, wrong, outputs="logits", device="cuda")
    np.testing.assert_array_equal(predict(model, codes, device="cuda").samples, expected.samples)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "densenet121", "convnext_tiny", "efficientnet_b0"])
def test_networks_of_many_convolutions_keep_their_engine_on_a_gpu(torchvision, name):
    torch.manual_seed(0)
    options = {"drop_rate": 0.3} if name == "densenet121" else {}
    model = getattr(torchvision.models, name)(num_classes=5, **options)
    if name == "resnet18":
        model.fc = nn.Sequential(nn.Dropout(0.3), model.fc)
    x = torch.rand(5, 3, 64, 64)
    options: dict[str, Any] = {"outputs": "values", "seed": 1, "progress": False}
    gpu, cpu = (mcd.mc_predict(model.eval(), x, 4, device=device, **options) for device in ("cuda", "cpu"))
    assert gpu.engine == "folded", gpu.engine_reason
    assert gpu.samples is not None
    assert cpu.samples is not None
    np.testing.assert_allclose(gpu.samples, cpu.samples, atol=2e-2 * np.abs(cpu.samples).max())  # TF32
