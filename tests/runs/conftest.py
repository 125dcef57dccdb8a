"""A run of which one seed diverges."""

import pytest

from agents import iql
from rlrat.datasets.batches import Batches


@pytest.fixture
def train_poisoned(small_dataset, tmp_path, monkeypatch):
    """`train_poisoned(eval_every=10)`: 40 updates of two seeds below `tmp_path`, the second with a NaN at update 12."""
    plain = Batches.at

    def poisoned(self, update):
        batch = plain(self, update)
        if update == 12 and len(batch.rewards) == 2:
            batch.rewards[1, 0] = float("nan")
        return batch

    def train(eval_every: int) -> None:
        monkeypatch.setattr("rlrat.runs.run.load_dataset", lambda *_, **__: small_dataset)
        monkeypatch.setattr(Batches, "at", poisoned)
        iql.main(
            iql.Arguments(
                dataset="test/hopper-v0", num_seeds=2, total_updates=40, eval_every=eval_every, eval_episodes=1,
                log_every=10, batch_size=8, hidden_dims=(8,), num_threads=1, run_dir=tmp_path, run_name="x",
            )
        )  # fmt: skip

    return train
