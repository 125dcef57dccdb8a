import pytest
import torch

from export_speed import Settings, main, measure
from rlrat.errors import InputError
from tests.runs.exporting.policies import make_policy, save_run


def test_each_format_is_timed_beside_ours(tmp_path, capsys):
    before = torch.get_num_threads()
    run = save_run(tmp_path / "seed0", make_policy())
    settings = Settings(run, formats=("numpy", "torchscript"), seconds=0.002, turns=2)
    times = measure(settings)
    assert list(times) == ["rlrat", "numpy", "torchscript"]
    assert all(0 < seconds < 1 for seconds in times.values())
    main(settings)
    assert "times as fast as rlrat" in capsys.readouterr().out
    assert {path.name for path in run.iterdir()} == {"checkpoint.pt", "config.json"}
    with pytest.raises(InputError, match="holds a Decision Transformer: give the run of an MLP"):
        measure(Settings(save_run(tmp_path / "seed1", make_policy(sequence=True))))
    torch.set_num_threads(before)
