import torch

from threads import Threads, run_threads


def test_every_size_is_measured_with_every_number_of_threads(capsys):
    before = torch.get_num_threads()
    rows = run_threads(Threads(sizes=((1, 8, 4), (2, 8, 4)), threads=(1, 2), rounds=1, seconds=0.005))
    torch.set_num_threads(before)
    assert list(rows) == ["1, 8, 4", "2, 8, 4"]
    for row in rows.values():
        assert row["1"] > 0
        assert row["2"] > 0
        assert row["chosen"] == 1  # too small for two
    assert "a run takes" in capsys.readouterr().out


def test_by_default_powers_of_two_up_to_the_cores(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 12)
    assert Threads().threads == (1, 2, 4, 8)
    monkeypatch.setattr("os.cpu_count", lambda: None)
    assert Threads().threads == (1,)
