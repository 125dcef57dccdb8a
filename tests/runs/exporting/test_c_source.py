"""The C header: our actions from plain loops, compiled as C99 without a warning."""

import shutil
import subprocess

import numpy as np
import pytest

from rlrat.errors import InputError
from rlrat.networks import names
from rlrat.rational import VERSIONS
from rlrat.runs.exporting import c_source
from rlrat.runs.exporting.c_source import NoCompiler, open_c, write_c
from tests.runs.exporting.policies import difference, make_policy, roughen

needs_compiler = pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc")
OBSERVATIONS = np.random.default_rng(0).normal(size=(30, 11)).astype(np.float32)
FEW = ("rational", "gelu", "prelu", "logsoftmax")


def differs(policy, folder, observations=OBSERVATIONS) -> float:
    write_c(policy, folder / "policy.h", {"agent": "iql"})
    (found,) = open_c(folder / "policy.h")([observations])
    return difference(policy, found, observations)


@needs_compiler
@pytest.mark.parametrize("activation", [n if n in FEW else pytest.param(n, marks=pytest.mark.slow) for n in names()])
def test_every_activation(activation, tmp_path):
    norm = {"rational": "layer", "prelu": "layer", "gelu": "layer_after"}.get(activation)
    network = {} if norm is None else {"gated": True, "norm": norm, "norm_epsilon": 0.1}
    assert differs(make_policy(head="sac", activation=activation, **network), tmp_path) < 1e-5


@needs_compiler
@pytest.mark.parametrize("version", [v if v == "C" else pytest.param(v, marks=pytest.mark.slow) for v in VERSIONS])
def test_every_rational_is_finite_where_ours_is(version, tmp_path):
    for degrees in ((5, 4), (4, 2)):
        settings = {"version": version, "degrees": degrees, "groups": 2}
        policy = make_policy(hidden_dims=(8,), activation="rational:identity", activation_settings=settings)
        roughen(policy.mean.hidden[0].activation)
        policy.mean.output.weight.mul_(1e-3)
        scales = np.float32([1.0, 1e3, 1e6, -1e9])[:, None]
        observations = np.concatenate([OBSERVATIONS[:4] * scale for scale in scales])
        assert np.isfinite(policy(observations)).all()
        assert differs(policy, tmp_path, observations) < 1e-5


@needs_compiler
def test_a_program_of_ones_own_includes_it(tmp_path):
    """In two headers, every name its own, without a warning; code that a person can read."""
    policy = make_policy(norm="layer", gated=True)
    for name in ("left", "right"):
        write_c(policy, tmp_path / f"{name}.h", {"agent": "iql", "dataset": "*/ int main;\\n/* \\\\"})
    (tmp_path / "main.c").write_text("""
#include <stdio.h>
#include "left.h"
#include "right.h"
int main(void) {
    float observation[LEFT_OBSERVATION_SIZE] = {0}, action[LEFT_ACTION_SIZE], other[RIGHT_ACTION_SIZE];
    left_act(observation, action);
    right_act(observation, other);
    for (int i = 0; i < LEFT_ACTION_SIZE; i++) printf("%.9g %.9g\\n", action[i], other[i]);
    return 0;
}
""")
    flags = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    subprocess.run(["gcc", *flags, "main.c", "-o", "main", "-lm"], cwd=tmp_path, check=True)
    said = subprocess.run(["./main"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    found = np.array([line.split() for line in said.splitlines()], np.float32)
    np.testing.assert_allclose(found.T, np.repeat(policy(np.zeros((1, 11), np.float32)), 2, 0), rtol=0, atol=1e-5)
    assert len((tmp_path / "left.h").read_text().splitlines()) < 300
    assert max(map(len, (tmp_path / "left.h").read_text().splitlines())) <= 120


def test_without_a_compiler_nothing_is_compared(tmp_path, monkeypatch):
    write_c(make_policy(), tmp_path / "policy.h", {})
    monkeypatch.setattr(c_source.shutil, "which", lambda name: None)
    with pytest.raises(NoCompiler):
        open_c(tmp_path / "policy.h")


@needs_compiler
def test_what_the_compiler_refuses_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("CC", "gcc")
    (tmp_path / "policy.h").write_text("nonsense")
    with pytest.raises(InputError, match="gcc does not compile what was written: ") as caught:
        open_c(tmp_path / "policy.h")
    assert "\n" not in str(caught.value)
