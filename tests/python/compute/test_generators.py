"""The generators of torch on a device are seeded and restored."""

from contextlib import nullcontext
from types import SimpleNamespace

import torch

from mcdropout.compute import generators
from mcdropout.compute.streams import OwnStream


def test_the_generator_of_a_device_is_seeded_and_restored(monkeypatch):
    """A generator of the host replaces that of the device, because torch creates no others."""
    device_generator, calls = torch.Generator().manual_seed(5), []

    def get_state(*args):
        calls.append(args)
        return device_generator.get_state()

    def set_state(state, *args):
        calls.append(args)
        device_generator.set_state(state)

    device_module = SimpleNamespace(
        get_rng_state=get_state, set_rng_state=set_state, manual_seed=device_generator.manual_seed
    )
    monkeypatch.setattr(torch, "get_device_module", lambda _: device_module)
    monkeypatch.setattr(generators, "current_device", lambda _: nullcontext())
    before = device_generator.get_state(), torch.get_rng_state()
    expected = [torch.rand(3, generator=torch.Generator().manual_seed(8)) for _ in range(2)]
    for name, device_arguments in (("cuda:1", (torch.device("cuda:1"),)), ("mps", ())):
        stream, device = OwnStream(8), torch.device(name)
        with stream.lent(device):
            first_two = torch.rand(2, generator=device_generator), torch.rand(2)
        assert stream.has_drawn
        with stream.lent(device):
            third = torch.rand(1, generator=device_generator), torch.rand(1)
        assert all(map(torch.equal, map(torch.cat, zip(first_two, third, strict=True)), expected))
        assert torch.equal(device_generator.get_state(), before[0])
        assert torch.equal(torch.get_rng_state(), before[1])
        assert set(calls) == {device_arguments}
        calls.clear()
