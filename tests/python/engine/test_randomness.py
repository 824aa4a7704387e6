"""The generator: its written test vectors, its rates, and that nothing correlates that should not."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mcdropout.compute.streams import OwnStream, seeded_generators
from mcdropout.engine.masks import keep_masks
from mcdropout.engine.randomness import (
    UNIFORM_BITS,
    WORD,
    SiteSeed,
    generator_starts,
    input_ids,
    normals,
    philox,
    uniforms,
)

REFERENCE = Path(__file__).parents[2] / "reference"
VECTORS = json.loads((REFERENCE / "randomness.json").read_text())

spec = importlib.util.spec_from_file_location("make_randomness", REFERENCE / "make_randomness.py")
assert spec is not None
assert spec.loader is not None
naive = importlib.util.module_from_spec(spec)
spec.loader.exec_module(naive)


def masks(seed=1, kind="shared", site="a[0]", rate=0.25, n_elements=1000, draws=(0,), ids=(0,), device="cpu"):
    where = {"dtype": torch.int64, "device": device}
    return keep_masks(
        SiteSeed(seed, kind, site), rate, n_elements, torch.tensor(draws, **where), torch.tensor(ids, **where)
    )


@pytest.mark.parametrize("case", VECTORS["philox4x32_10"])
def test_philox_meets_the_published_answers(case):
    x0, x1, x2, x3 = (torch.tensor([word]) for word in case["counter"])
    words = philox(tuple(case["key"]), (x0, x1, x2, x3))
    assert [f"{int(word):08x}" for word in words] == case["words"]


@pytest.mark.parametrize("case", VECTORS["philox4x64_10"])
def test_numpys_philox_meets_the_published_answers(case):
    before = [(word - 1) % 2**64 for word in case["counter"][:1]]  # NumPy counts on before each block
    borrowed = case["counter"][0] == 0
    counter = [*before, *((word - borrowed) % 2**64 for word in case["counter"][1:])]
    words = np.random.Philox(key=case["key"], counter=counter).random_raw(4)
    assert [f"{int(word):016x}" for word in words] == case["words"]
    assert [f"{word:016x}" for word in naive.philox(case["key"], case["counter"], bits=64)] == case["words"]


@pytest.mark.parametrize("case", VECTORS["masks"], ids=lambda case: case["site"])
def test_masks_meet_the_written_vectors(case):
    got = masks(
        case["seed"], case["masks"], case["site"], case["rate"], case["n_elements"], [case["draw"]], [case["id"]]
    )
    assert "".join(str(int(one)) for one in got[0, 0]) == case["kept"]


@pytest.mark.parametrize("rate", [0.5, 0.25, 0.75, 0.0625, 0.001, 1.0, 0.3])
@pytest.mark.parametrize(("channels", "places"), [(32, 9), (64, 7), (8, 5), (6, 4), (16, 1)])
def test_channels_can_come_innermost(rate, channels, places):
    draws, ids = torch.arange(3), torch.arange(2)
    given = SiteSeed(1, "per_input", "a[0]"), rate, channels * places, draws, ids
    usual = keep_masks(*given).view(3, 2, channels, places)
    assert torch.equal(keep_masks(*given, channels).view(3, 2, places, channels), usual.transpose(2, 3))


@pytest.mark.gpu
@pytest.mark.parametrize("case", VECTORS["masks"], ids=lambda case: case["site"])
def test_masks_meet_the_written_vectors_on_a_gpu(case):
    got = masks(
        case["seed"],
        case["masks"],
        case["site"],
        case["rate"],
        case["n_elements"],
        [case["draw"]],
        [case["id"]],
        "cuda",
    )
    assert "".join(str(int(one)) for one in got[0, 0]) == case["kept"]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**53 - 1),
    rate=st.one_of(st.sampled_from([0.5, 0.25, 0.75, 0.125, 0.2]), st.floats(1e-6, 1 - 1e-6)),
    n_elements=st.integers(1, 200),
    draw=st.integers(0, 2**31),
    one=st.integers(-(2**63), 2**63 - 1),
)
def test_masks_equal_the_plain_implementation(seed, rate, n_elements, draw, one):
    got = masks(seed, "per_input", "x.y[3]", rate, n_elements, [draw], [one])
    assert got[0, 0].int().tolist() == naive.kept(seed, "per_input", "x.y[3]", rate, n_elements, draw, one)


def test_a_mask_does_not_depend_on_which_others_are_made_with_it():
    together = masks(rate=0.3, n_elements=5001, draws=range(7), ids=[11, 5, 3])  # several pieces of work
    alone = masks(rate=0.3, n_elements=5001, draws=[4], ids=[5])
    assert torch.equal(together[4, 1], alone[0, 0])


@pytest.mark.parametrize("rate", [0.5, 0.25, 0.0625, 0.1, 1 / 3, 0.9, 0.001])
def test_ten_million_masks_have_the_rate(rate):
    dropped = 1 - masks(rate=rate, n_elements=100_000, draws=range(100)).double().mean().item()
    # Ten million decisions: the standard error of a share; 5 of them leave a chance of 6e-7 per case.
    assert abs(dropped - rate) < 5 * np.sqrt(rate * (1 - rate) / 1e7)


def correlation(one, other):
    """Of two runs of masks, in standard errors: normal(0, 1) if they are independent."""
    one, other = one.flatten().double(), other.flatten().double()
    return float(torch.corrcoef(torch.stack([one, other]))[0, 1] * np.sqrt(len(one)))


@pytest.mark.parametrize("rate", [0.5, 0.25, 0.1])
def test_ten_million_masks_show_no_correlation(rate):
    def run(**keys):
        return masks(rate=rate, **({"n_elements": 100_000, "draws": range(100)} | keys))

    base = run()
    pairs = {
        "next draw": (base[:-1], base[1:]),
        "next element": (base[..., :-1], base[..., 1:]),
        "next byte run": (base[..., :-12_500], base[..., 12_500:]),  # where a byte's next 1-bit field lies
        "other site": (base, run(site="a[1]")),
        "other seed": (base, run(seed=2)),
        "per input": (base, run(kind="per_input")),
        "other input": (run(kind="per_input"), run(kind="per_input", ids=[1])),
        "input against draw": (run(kind="per_input", draws=[0], ids=range(100)), base),
    }
    # 8 pairs x 3 rates: 4.9 standard errors leave a chance of 1e-6 each.
    scores = {name: correlation(*pair) for name, pair in pairs.items()}
    assert max(abs(score) for score in scores.values()) < 4.9, scores


def test_runs_of_kept_elements_have_the_lengths_of_independent_ones():
    kept = masks(rate=0.5, n_elements=2_000_000)[0, 0].numpy().astype(int)
    ends = np.flatnonzero(np.diff(kept)) + 1
    lengths = np.minimum(np.diff(ends), 12)  # 12 stands for 12 and more
    expected = np.array([0.5**n for n in range(1, 12)] + [0.5**11]) * len(lengths)
    assert stats.chisquare(np.bincount(lengths, minlength=13)[1:], expected).pvalue > 1e-6


def test_masks_of_one_place_are_binomial_over_draws():
    kept = masks(rate=0.1, n_elements=20_000, draws=range(200)).sum(dim=0).flatten().numpy()
    edges = [-1, 173, 176, 178, 180, 182, 184, 187, 200]
    expected = np.diff(stats.binom.cdf(edges, 200, 0.9)) * len(kept)
    assert stats.chisquare(np.histogram(kept, np.array(edges) + 0.5)[0], expected).pvalue > 1e-6


def drawn(seed=1, site="a[0]", n_elements=1000, draws=(0,)):
    return normals(
        SiteSeed(seed, "shared", site), n_elements, torch.tensor(draws, dtype=torch.int64), torch.tensor([0])
    )[:, 0]


@pytest.mark.parametrize("case", VECTORS["normals"], ids=lambda case: f"{case['site']} {case['draw']}")
def test_normals_meet_the_written_vectors(case):
    got = drawn(case["seed"], case["site"], case["n_elements"], [case["draw"]])[0]
    # float64 by another library's logarithm, sine and cosine: some units in the last place of numbers up to 7
    np.testing.assert_allclose(got.numpy(), case["normals"], rtol=0, atol=1e-14)


@pytest.mark.parametrize("case", VECTORS["normals"], ids=lambda case: f"{case['site']} {case['draw']}")
def test_generators_meet_the_written_seeds_and_leave_no_trace(case):
    before = torch.get_rng_state()
    starts = generator_starts(case["seed"], case["site"], torch.tensor([case["draw"]]))
    with seeded_generators(int(starts[0])):
        inside = torch.rand(5)
    own = torch.Generator().manual_seed(case["generator_seed"])
    assert torch.equal(inside, torch.rand(5, generator=own))
    assert torch.equal(before, torch.get_rng_state())


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**53 - 1),
    n_elements=st.integers(1, 60),
    draw=st.integers(0, 2**31),
)
def test_normals_equal_the_plain_implementation(seed, n_elements, draw):
    got = drawn(seed, "x.y[3]", n_elements, [draw])[0]
    np.testing.assert_allclose(got.numpy(), naive.normals(seed, "x.y[3]", n_elements, draw), rtol=0, atol=1e-14)


def test_normals_of_a_draw_do_not_depend_on_which_others_are_made_with_it():
    together = drawn(n_elements=4 * (1 << 14) + 9, draws=[3, 1, 8])  # several pieces of work
    assert torch.equal(together[2], drawn(n_elements=4 * (1 << 14) + 9, draws=[8])[0])


def test_a_million_normals_are_normal():
    got = drawn(n_elements=100_000, draws=range(10)).flatten().numpy()
    assert stats.kstest(got, "norm").pvalue > 1e-6
    # The fourth moment has standard error sqrt(96 / n); 5 of them.
    assert abs((got**4).mean() - 3) < 5 * np.sqrt(96 / len(got))


def test_normals_show_no_correlation():
    base = drawn(n_elements=100_000, draws=range(10))
    quarter = 25_000  # where the partner from the same block lies
    pairs = {
        "next draw": (base[:-1], base[1:]),
        "next element": (base[:, :-1], base[:, 1:]),
        "same block": (base[:, :-quarter], base[:, quarter:]),
        "squares in the same block": (base[:, :-quarter].square(), base[:, quarter:].square()),
        "other site": (base, drawn(site="a[1]", n_elements=100_000, draws=range(10))),
        "other seed": (base, drawn(seed=2, n_elements=100_000, draws=range(10))),
    }
    scores = {name: correlation(*pair) for name, pair in pairs.items()}
    assert max(abs(score) for score in scores.values()) < 4.9, scores  # as for the masks


def test_ids_are_positions_numbers_or_hashed_text():
    assert input_ids(None, 3).tolist() == [0, 1, 2]
    assert input_ids([7, 7.0, np.int32(9)], 3).tolist() == [7, 7, 9]
    text = input_ids(["a", "b", "a"], 3)
    assert text[0] == text[2] != text[1]


def test_counter_words_are_32_bits():
    largest = torch.full((5,), WORD)
    words = philox((WORD, WORD), (largest, largest, largest, largest))
    assert all(int(word.min()) >= 0 and int(word.max()) <= WORD for word in words)


@pytest.mark.parametrize("case", VECTORS["uniforms"], ids=lambda case: f"{case['site']} {case['draw']}")
def test_uniforms_meet_the_written_vectors(case):
    dtype = next(dtype for dtype, bits in UNIFORM_BITS.items() if bits == case["bits"])
    draws, ids = torch.tensor([case["draw"]]), torch.tensor([case["id"]])
    got = uniforms(SiteSeed(case["seed"], case["masks"], case["site"]), case["n_elements"], draws, ids, dtype)
    assert got.dtype == dtype
    assert got[0, 0].double().tolist() == case["uniforms"]


def test_uniforms_are_uniform_and_the_same_in_any_pieces(monkeypatch):
    draws, ids = torch.arange(5), torch.tensor([3, 8, 2**40])
    together = uniforms(SiteSeed(1, "per_input", "0"), 4001, draws, ids)
    # 60,015 numbers: the largest gap to the line is above 1.63 / sqrt(n) in 1 of 100 samples; the seed is fixed
    ordered = together.double().flatten().sort().values
    line = (torch.arange(len(ordered)) + 0.5) / len(ordered)
    assert float((ordered - line).abs().max()) < 1.63 / len(ordered) ** 0.5
    assert 0 <= float(together.min()) < float(together.max()) < 1
    assert len(together.unique()) > 0.99 * together.numel()  # 2^24 values: about 107 pairs meet by chance
    monkeypatch.setattr("mcdropout.engine.randomness.BLOCKS_AT_ONCE", 7)
    for place, draw in enumerate(draws):
        for other, one in enumerate(ids):
            alone = uniforms(SiteSeed(1, "per_input", "0"), 4001, draw[None], one[None])
            assert torch.equal(alone[0, 0], together[place, other])


def test_a_stream_of_ones_own_serves_operations_that_are_given_no_generator_by_position():
    before = torch.get_rng_state()
    with OwnStream(3):
        made = torch.distributions.Gamma(torch.full((5,), 2.0), 1.0).sample()
    with OwnStream(3):
        again = torch.distributions.Gamma(torch.full((5,), 2.0), 1.0).sample()
    assert torch.equal(made, again)
    assert torch.equal(torch.get_rng_state(), before)
