"""The Python file: our actions with NumPy alone, short enough to read."""

import subprocess
import sys
from itertools import product

import numpy as np
import pytest

from rlrat.networks import names
from rlrat.rational import VERSIONS
from rlrat.runs.exporting.numpy_source import open_numpy, write_numpy
from tests.runs.exporting.policies import difference, make_policy, roughen

OBSERVATIONS = np.random.default_rng(0).normal(size=(30, 11)).astype(np.float32)


def differs(policy, folder, observations=OBSERVATIONS) -> float:
    write_numpy(policy, folder / "policy.py", {"agent": "iql"})
    (found,) = open_numpy(folder / "policy.py")([observations])
    assert found.dtype == np.float32
    return difference(policy, found, observations)


@pytest.mark.parametrize("activation", names())
def test_every_activation(activation, tmp_path):
    for network in ({}, *({"gated": True, "norm": norm, "norm_epsilon": 0.1} for norm in ("layer", "layer_after"))):
        assert differs(make_policy(head="sac", activation=activation, **network), tmp_path) < 1e-5


@pytest.mark.parametrize(("version", "degrees"), [*product(VERSIONS, [(5, 4), (3, 3), (2, 4), (4, 2)])])
def test_every_rational_is_finite_where_ours_is(version, degrees, tmp_path):
    settings = {"version": version, "degrees": degrees, "groups": 2}
    policy = make_policy(hidden_dims=(8,), activation="rational:identity", activation_settings=settings)
    roughen(policy.mean.hidden[0].activation)
    policy.mean.output.weight.mul_(1e-3)
    scales = np.float32([1.0, 1e3, 1e6, -1e9])[:, None]
    observations = np.concatenate([OBSERVATIONS[:4] * scale for scale in scales])
    with np.errstate(over="ignore"):
        assert np.isfinite(policy(observations)).all()
        assert differs(policy, tmp_path, observations) < 1e-5


def test_a_polynomial_of_zeros_is_no_division_by_zero(tmp_path):
    policy = make_policy(hidden_dims=(8,))
    policy.mean.hidden[0].activation.numerator.zero_()
    policy.mean.hidden[0].activation.denominator.zero_()
    assert differs(policy, tmp_path) < 1e-5


def test_it_runs_where_there_is_numpy_alone_on_one_observation_or_many(tmp_path):
    policy = make_policy(norm="layer", gated=True)
    write_numpy(policy, tmp_path / "robot.py", {"agent": "iql", "dataset": "a/b-v0"})
    assert {path.name for path in tmp_path.iterdir()} == {"robot.py", "robot.npz"}
    np.save(tmp_path / "observations.npy", OBSERVATIONS)
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'rlrat', 'scipy']))\n"
        "import numpy as np, robot\n"
        "observations = np.load('observations.npy')\n"
        "actions = robot.act(observations)\n"
        "assert np.allclose(robot.act(list(observations[0])), actions[0], atol=1e-6)\n"
        "np.save('actions.npy', actions)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    np.testing.assert_allclose(np.load(tmp_path / "actions.npy"), policy(OBSERVATIONS), rtol=0, atol=1e-5)
    text = (tmp_path / "robot.py").read_text()
    assert len(text.splitlines()) < 100
    assert "dataset: a/b-v0" in text
    assert max(map(len, text.splitlines())) <= 120


def test_what_stands_in_the_metadata_is_no_code(tmp_path):
    words = '"""\nraise SystemExit\n"""\\'
    write_numpy(make_policy(), tmp_path / "policy.py", {"dataset": words})
    open_numpy(tmp_path / "policy.py")
