from functools import partial

import numpy as np
import pytest
import torch

from rlrat.datasets import batches as module
from rlrat.datasets import rows
from rlrat.datasets.batches import Batches, Windows
from rlrat.datasets.units import Units


@pytest.mark.parametrize("kind", [Batches, Windows])
def test_what_is_read_ahead_is_what_would_be_on_the_device(small_dataset, monkeypatch, kind):
    units = Units.of(small_dataset, True, 1e-6, "iql")
    more = (16, "cpu", units) if kind is Batches else (16, 6, "cpu", units, 100.0)
    on_device = kind(small_dataset, [3, 9], *more)
    monkeypatch.setattr(module, "Rows", partial(rows.Rows, resident=False))
    ahead = kind(small_dataset, [3, 9], *more)
    for update in (0, 1, 63, 64, 65, 500, 2):  # on to the next block, and elsewhere
        for ours, theirs in zip(ahead.at(update), on_device.at(update), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("free", "resident"), [(None, True), (10**9, True), (2 * 4 * 30 * 7 - 1, False)])
def test_rows_are_kept_where_they_fit_into_half_of_what_is_free(monkeypatch, free, resident):
    monkeypatch.setattr(rows, "available_memory", lambda _: free)
    monkeypatch.setattr(rows, "_CHUNK", 8)
    data, asked = np.random.default_rng(0).normal(size=(30, 7)), []

    def read(index):
        asked.append(index)
        return data[index]

    def draw(updates, device):
        return (torch.as_tensor(updates).unsqueeze(-1) + torch.arange(3)) % 30

    kept = rows.Rows(read, 30, (5, 2), draw, "cpu")
    before = len(asked)
    columns = kept.at(5)
    assert [column.shape for column in columns] == [(3, 5), (3, 2)]
    assert torch.equal(torch.cat(columns, dim=-1), torch.from_numpy(data[5:8].astype(np.float32)))
    assert (len(asked) == before) == resident


@pytest.mark.parametrize("gathered", [1, 3 * 7 * 5, 3 * 7 * 64])  # numbers: of one update, of five, of a block
def test_rows_of_several_updates_are_gathered_at_once(monkeypatch, gathered):
    monkeypatch.setattr(rows, "_GATHERED", gathered)
    data = torch.randn(300, 7, generator=torch.Generator().manual_seed(0))

    def draw(updates, device):
        return torch.as_tensor(updates).unsqueeze(-1) + torch.arange(3)

    kept = rows.Rows(lambda index: data[index].numpy(), 300, (5, 2), draw, "cpu")
    for update in (0, 1, 4, 5, 63, 64, 200, 199, 0):
        assert torch.equal(torch.cat(kept.at(update), dim=-1), data[update : update + 3])
    assert len(kept._updates) == {1: 1, 105: 5, 1344: 64}[gathered]
