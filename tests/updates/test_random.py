import threading

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from scipy import stats

from rlrat.updates.random import DropoutMasks, Stream, UpdateBlocks, _philox, generator


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # the known answers that Random123 publishes for philox4x32-10
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_the_known_answers(counter, key, expected):
    words = _philox([torch.tensor([c]) for c in counter], tuple(torch.tensor([k]) for k in key))
    assert [word.item() for word in words] == expected


@settings(max_examples=30, deadline=None)
@given(
    seeds=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=5, unique=True),
    update=st.integers(0, 2**40),
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3),
)
def test_a_seed_draws_the_same_numbers_whatever_is_beside_it(seeds, update, shape):
    together = Stream(seeds, "noise")
    alone = [Stream([seed], "noise") for seed in seeds]
    for name in ("uniform", "normal"):
        many = getattr(together, name)(update, shape)
        assert many.shape == (len(seeds), *shape)
        assert torch.equal(many, torch.cat([getattr(one, name)(update, shape) for one in alone]))
    updates = torch.tensor([update, update + 1])
    block = together.integers(updates, shape, high=1000)
    assert torch.equal(block[1], together.integers(update + 1, shape, high=1000))
    assert torch.equal(block, together.integers(range(update, update + 2), shape, high=1000))


def test_purposes_updates_and_seeds_differ():
    draws = {
        (seed, purpose, update): tuple(Stream([seed], purpose).bits(update, 4)[0].tolist())
        for seed in (0, 1)
        for purpose in ("batch", "noise")
        for update in (0, 1, 2**33)
    }
    assert len(set(draws.values())) == len(draws)


def test_distributions():
    stream = Stream([7], "test")
    uniform = stream.uniform(3, (100_000,)).flatten().double()
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert stats.kstest(uniform.numpy(), "uniform").pvalue > 0.01
    assert stats.kstest(stream.normal(3, (100_001,)).flatten().numpy(), "norm").pvalue > 0.01
    signed = stream.uniform(3, (100_000,), signed=True).flatten().double()
    assert torch.equal(signed, 2 * uniform - 1)
    counts = torch.bincount(stream.integers(3, (100_000,), high=7).flatten(), minlength=7)
    assert stats.chisquare(counts.numpy()).pvalue > 0.01


@pytest.mark.parametrize("high", [1, 2**31])
def test_integers_stay_in_range(high):
    index = Stream([0], "range").integers(0, (10_000,), high)
    assert index.min() >= 0
    assert index.max() < high
    assert index.max() >= 0.99 * (high - 1)


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.5, 0.999])
def test_dropout_drops_the_share(rate):
    count = 2_000_003
    multipliers = Stream([4], "dropout").dropout(torch.tensor(9), rate, (1000, 2003))
    assert multipliers.shape == (1, 1000, 2003)
    assert set(multipliers.unique().tolist()) == {0.0, float(torch.tensor(1.0) / (1.0 - rate))}
    dropped = int((multipliers == 0).sum())
    # Elements of a row share a threshold, which adds to the binomial's variance.
    assert abs(dropped - rate * 2_003_000) < 5 * np.sqrt(count * rate * (1 - rate) + 2003**2 * 1000 / 256**2 / 4)


def test_dropout_is_each_seeds_own():
    both, alone = (Stream(seeds, "dropout").dropout(2, 0.3, (5, 7, 3)) for seeds in ([1, 4], [4]))
    assert torch.equal(both[1], alone[0])
    assert not torch.equal(both[0], both[1])
    other = Stream([4], "dropout").dropout(torch.tensor(3), 0.3, (5, 7, 3))
    assert not torch.equal(alone, other)


def test_masks_are_the_streams_dropout_and_none_at_rate_0():
    streams = [Stream([1, 4], f"dropout {place}") for place in range(3)]
    masks = DropoutMasks(streams, [0.3, 0.0, 0.5], [(5, 7, 3), (2, 2), (4,)]).at(6)
    assert masks[1] is None
    assert torch.equal(masks[0], streams[0].dropout(6, 0.3, (5, 7, 3)))
    assert torch.equal(masks[2], streams[2].dropout(6, 0.5, (4,)))
    assert DropoutMasks(streams[:2], [0.0, 0.0], [(5, 7), (2, 2)]).at(6) is None


def test_on_the_meta_device_shapes_are_drawn():
    stream = Stream([1, 4], "dropout", "meta")
    mask = stream.dropout(2, 0.3, (5, 7, 3))
    assert (mask.shape, mask.dtype, mask.is_meta) == ((2, 5, 7, 3), torch.float32, True)
    assert stream.normal(range(3, 7), (3,)).shape == (4, 2, 3)


def test_generator_is_a_function_of_seed_and_purpose():
    draw = lambda seed, purpose: torch.rand(3, generator=generator(seed, purpose))  # noqa: E731
    assert torch.equal(draw(3, "actor"), draw(3, "actor"))
    assert not torch.equal(draw(3, "actor"), draw(3, "critic"))
    assert not torch.equal(draw(3, "actor"), draw(4, "actor"))


def test_errors():
    with pytest.raises(ValueError, match="seeds must lie"):
        Stream([-1], "x")
    with pytest.raises(ValueError, match="high must lie"):
        Stream([0], "x").integers(0, (1,), 0)


def test_blocks_are_the_streams_numbers():
    stream = Stream([7, 8], "blocks")
    integers, normal = UpdateBlocks(stream.integers, (5,), high=100), UpdateBlocks(stream.normal, (3, 2))
    for update in (0, 1, 63, 64, 1000, 2):
        assert torch.equal(integers.at(update), stream.integers(update, (5,), high=100))
        torch.testing.assert_close(normal.at(update), stream.normal(update, (3, 2)))


def test_a_block_of_many_numbers_is_short():
    stream = Stream([7, 8], "blocks")
    blocks = UpdateBlocks(stream.uniform, (300, 500))
    for update in (0, 2, 3, 100):
        assert torch.equal(blocks.at(update), stream.uniform(update, (300, 500)))
    assert blocks._numbers.numel() <= 2**20


def test_what_is_drawn_ahead_is_drawn_by_one_torch_thread():
    stream, seen = Stream([7], "blocks"), []

    def draw(updates):
        seen.append((threading.current_thread() is threading.main_thread(), torch.get_num_threads()))
        return stream.uniform(updates, (3,))

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        blocks = UpdateBlocks(draw, ahead=True)
        for update in (0, 64, 128):
            assert torch.equal(blocks.at(update), stream.uniform(update, (3,)))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert (False, 1) in seen
    assert {threads for in_main, threads in seen if in_main} == {2}
    assert {threads for in_main, threads in seen if not in_main} == {1}
