"""Activations with parameters of their own, found in a network."""

from torch import nn

from rlrat.networks.activations import make_activation
from rlrat.updates.trained_activations import trained_activations


class _Marked(nn.PReLU):
    trained_activation = True


class _Unmarked(nn.PReLU):
    pass


def test_trained_activations_are_known_by_their_mark_and_doubts_are_named_once(capsys):
    network = nn.ModuleDict(
        {
            "rational": make_activation("rational"), "prelu": make_activation("prelu"), "marked": _Marked(),
            "some": _Unmarked(), "activation": nn.Linear(1, 1), "relu": nn.ReLU(), "linear": nn.Linear(1, 1),
        }
    )  # fmt: skip
    network["activations"] = nn.Sequential(nn.ReLU(), _Marked())  # whose parameters are known
    network["activation_of_two"] = nn.Sequential(nn.Linear(1, 1), _Marked())
    network["not"] = _Unmarked()
    network["not"].trained_activation = False
    for _ in range(2):
        found = trained_activations(network)
        marked = {"activations.1": network["activations"][1], "activation_of_two.1": network["activation_of_two"][1]}
        assert found == {name: network[name] for name in ("rational", "prelu", "marked")} | marked
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" looks like")[0] for line in lines] == [
        "warning: some (_Unmarked)", "warning: activation (Linear)", "warning: activation_of_two (Sequential)"
    ]  # fmt: skip
    assert all("unless its class says trained_activation = True" in line for line in lines)
