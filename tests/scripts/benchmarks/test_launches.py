import json
from collections import Counter

import pytest
import torch

from launches import LaunchCounter, Settings, run
from rlrat.rational import launching


def _counted(function):
    counter = LaunchCounter()
    with counter:
        function()
    found = Counter()
    for launch in counter.launches:
        found[launch.name] += launch.count
    return found, counter.copies


def _meta(*shape, **settings):
    return torch.empty(*shape, device="meta", **settings)


def test_an_operation_is_a_launch_and_a_view_or_an_allocation_is_none():
    x = _meta(4, 6)
    assert _counted(lambda: (x + 1.0).T.unflatten(0, (2, 3))) == ({"add": 1}, [])
    assert _counted(lambda: torch.empty_like(x).split(2)) == ({}, [])
    assert _counted(lambda: x.add_(1.0)) == ({"add_": 1}, [])
    assert _counted(lambda: torch.add(x, x, out=_meta(4, 6))) == ({"add": 1}, [])
    assert _counted(lambda: torch.zeros(3) + 1.0) == ({}, [])  # not on the device


@pytest.mark.parametrize(
    ("function", "launches"),
    [
        (lambda: torch.baddbmm(_meta(2, 1, 5), _meta(2, 3, 4), _meta(2, 4, 5)), 2),
        (lambda: torch.bmm(_meta(2, 3, 4), _meta(2, 4, 5)), 1),
        (lambda: torch.where(_meta(3, dtype=torch.bool), 1.0, 2.0), 3),
        (lambda: torch.logsumexp(_meta(3, 4), 1), 9),
        (lambda: torch._foreach_copy_([_meta(3, 4), _meta(5)], [_meta(3, 4), _meta(5)]), 1),
        (lambda: torch._foreach_copy_([_meta(3, 4), _meta(5)], [_meta(4, 3).T, _meta(5)]), 2),  # other strides
        (lambda: torch._foreach_copy_([_meta(3, 9)[:, :4]] * 3, [_meta(3, 9)[:, :4]] * 3), 3),  # gaps
        (lambda: torch._foreach_copy_([_meta(5)] * 2, [_meta(5), _meta(5, dtype=torch.int64)]), 2),
        (lambda: torch._foreach_copy_([_meta(5)] * 70, [_meta(5)] * 70), 2),
    ],
)
def test_some_operations_launch_more(function, launches):
    assert sum(_counted(function)[0].values()) == launches


def test_copies_between_cpu_and_device_are_apart():
    assert _counted(lambda: torch.arange(3).to("meta") + 1) == ({"add": 1}, ["_to_copy"])


def test_what_only_metrics_need_is_a_part():
    counter, state, batch = LaunchCounter(), _meta(3), _meta(3)
    counter.part = "optimizer"
    with counter:
        moved = batch * 2.0
        (moved - 1.0).mean()
        state.sub_(moved)
    assert counter.by_part([state]) == {"optimizer": {"sub_": 1, "mul": 1}, "metrics": {"sub": 1, "mean": 1}}


def test_an_agents_updates_are_counted_inside_and_outside_their_graph(tmp_path, capsys):
    if launching.problem() is not None:
        pytest.skip(launching.problem())
    file = tmp_path / "launches.json"
    found = run(Settings(agents=("td3_bc",), seeds=(1,), detail="td3_bc", output=file))
    assert json.loads(file.read_text()) == found
    assert [row["activation"] for row in found] == ["relu"] * 2 + ["rational"] * 2
    assert [row["kind"] for row in found] == ["actor_step=False", "actor_step=True"] * 2
    for critics, both in (found[:2], found[2:]):
        assert 0 < critics["inside"] < both["inside"] < 200
        assert 0 < critics["outside"] < 20
        assert sum(sum(part.values()) for part in both["parts"].values()) == both["inside"]
        assert {"forward", "backward", "optimizer"} <= set(both["parts"])
    kernels = found[2]["parts"]  # two hidden layers: the targets of actor and critics, and the critics
    assert (kernels["forward"]["forward_kernel"], kernels["backward"]["backward_kernel"]) == (6, 2)
    assert "actor_step=True" in capsys.readouterr().out
    assert launching.is_gpu(torch.device("meta")) is False  # as before
