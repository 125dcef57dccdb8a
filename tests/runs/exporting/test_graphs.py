"""Graphs: plain operations alone, any number of rows, our actions in a runtime that knows nothing of rlrat."""

import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from rlrat.errors import InputError
from rlrat.networks import names
from rlrat.runs.exporting import graphs
from rlrat.runs.exporting.modules import plain_activation, plain_policy
from tests.runs.exporting.policies import difference, make_policy

OBSERVATIONS = np.random.default_rng(0).normal(size=(7, 11)).astype(np.float32)
ELSEWHERE = """
import sys
sys.modules.update(dict.fromkeys(["torch", "rlrat"]))  # an import of them fails
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession("policy.onnx")
(given,), (output,) = session.get_inputs(), session.get_outputs()
assert (given.name, given.shape, output.name) == ("observation", ["batch", 11], "action"), (given, output)
about = session.get_modelmeta()
assert about.custom_metadata_map == {"agent": "iql", "update": "40"}, about.custom_metadata_map
assert about.producer_name == "rlrat"
observations = np.load("observations.npy")
(actions,) = session.run(None, {"observation": observations})
(one,) = session.run(["action"], {"observation": observations[:1]})
assert np.allclose(one, actions[:1], atol=1e-6)
np.save("actions.npy", actions)
"""
LOOP = """
import sys
sys.modules.update(dict.fromkeys(["torch", "rlrat"]))
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession("policy.onnx")
shapes = {given.name: (1, *given.shape[1:]) for given in session.get_inputs()}
types = {"timesteps": np.int64}
context = {name: np.zeros(shape, types.get(name, np.float32)) for name, shape in shapes.items()}
context["returns_to_go"][:, -1] = 100.0
context["mask"][:, -1] = 1.0
actions = []
for observation in np.load("observations.npy"):
    context["observations"][:, -1] = observation
    action, *after = session.run(None, context)
    actions.append(action[0])
    context = dict(zip(context, after))
    context["returns_to_go"][:, -1] -= 0.5
np.save("actions.npy", actions)
"""


def run_elsewhere(code: str, folder) -> np.ndarray:
    np.save(folder / "observations.npy", OBSERVATIONS)
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return np.load(folder / "actions.npy")


@pytest.fixture
def onnx():
    for name in ("onnxruntime", "onnxscript"):
        pytest.importorskip(name)
    return pytest.importorskip("onnx")


def test_onnx_runs_where_there_is_no_rlrat(onnx, tmp_path):
    policy = make_policy(norm="layer", gated=True, head="sac")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graphs.write_onnx(plain_policy(policy), tmp_path / "policy.onnx", {"agent": "iql", "update": "40"})
    assert difference(policy, run_elsewhere(ELSEWHERE, tmp_path), OBSERVATIONS) < 1e-5
    assert [path.name for path in tmp_path.glob("policy*")] == ["policy.onnx"]  # the weights are inside
    content = (tmp_path / "policy.onnx").read_bytes()
    assert b"/rlrat" not in content  # no path of ours, and no line of source
    model = onnx.load(tmp_path / "policy.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", graphs.LEAST_OPSET)]
    operations = {node.op_type for node in model.graph.node}
    assert operations == {
        *("Sub", "Gemm", "LayerNormalization", "Clip", "Abs", "Concat", "Mul", "Add", "Split", "Div", "Tanh"),
    }
    # Far from all data, what is finite here is finite there.
    far = np.concatenate([OBSERVATIONS * scale for scale in (1e4, -1e8, 1e15)]).astype(np.float32)
    (found,) = graphs.open_onnx(tmp_path / "policy.onnx")([far])
    assert np.isfinite(policy(far)).all()
    assert np.isfinite(found).all()


@pytest.mark.slow
def test_onnx_of_a_decision_transformer_goes_on_from_its_own_outputs(onnx, tmp_path):
    policy = make_policy(sequence=True)
    policy.target_returns = (100.0,)
    graphs.write_onnx(plain_policy(policy), tmp_path / "policy.onnx", {}, opset=20)
    found = run_elsewhere(LOOP, tmp_path)
    policy.reset()
    for observation, action in zip(OBSERVATIONS, found, strict=True):
        assert difference(policy, action, observation) < 1e-5
        policy.observe(0.5, False)


@pytest.mark.slow
def test_onnx_has_every_activation(onnx, tmp_path):
    class All(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sources = [make_policy(activation=name).mean.hidden[0].activation for name in names()]
            self.plain = torch.nn.ModuleList(plain_activation(source, 16) for source in self.sources)

        def forward(self, x):
            return tuple(plain(x) for plain in self.plain)

    module, x = All(), 3.0 * torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    with graphs._quietly("torch.onnx"):
        torch.onnx.export(module, (x,), tmp_path / "all.onnx", dynamo=True, verbose=False, opset_version=18)
    found = graphs.open_onnx(tmp_path / "all.onnx")([x.numpy()])
    for name, source, y in zip(names(), module.sources, found, strict=True):
        expected = source(x[None])[0]
        torch.testing.assert_close(torch.from_numpy(y), expected, rtol=1e-5, atol=1e-5, msg=name)


def test_an_opset_that_cannot_be_written_is_one_line(onnx, tmp_path):
    with pytest.raises(InputError, match=r"^--opset is 17, which is too old: give at least 18$"):
        graphs.check_needs("onnx", 17)
    with pytest.raises(InputError, match=r"^--opset is for --format onnx, not c: leave it out$"):
        graphs.check_needs("c", 18)


@pytest.mark.slow
def test_an_opset_that_is_not_written_yet_is_one_line(onnx, tmp_path):
    with pytest.raises(InputError, match=r"^--opset is 99, but torch .* wrote 18: give a lower one$"):
        graphs.write_onnx(plain_policy(make_policy()), tmp_path / "policy.onnx", {}, opset=99)
    assert not list(tmp_path.iterdir())


def test_what_onnxruntime_does_not_run_is_one_line(onnx, tmp_path):
    (tmp_path / "policy.onnx").write_bytes(b"nonsense")
    with pytest.raises(InputError, match=r"^onnxruntime .* does not run it: ") as caught:
        graphs.open_onnx(tmp_path / "policy.onnx")
    assert "\n" not in str(caught.value)


def test_without_onnx_the_package_is_named(monkeypatch):
    monkeypatch.setattr(graphs, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(InputError, match=r'^--format onnx needs onnxscript: pip install "rlrat\[export\]"$'):
        graphs.check_needs("onnx", None)
    graphs.check_needs("torch-export", None)


def test_without_a_compiler_there_is_no_aoti(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match=r"^--format aoti compiles C\+\+, and there is no compiler: install g\+\+"):
        graphs.check_needs("aoti", None)
    graphs.check_needs("numpy", None)


@pytest.mark.slow
@pytest.mark.parametrize("sequence", [False, True])
def test_torch_export_needs_no_rlrat(sequence, tmp_path):
    """Nor does TorchScript; both say which policy it is."""
    policy = make_policy(sequence=sequence)
    plain, about = plain_policy(policy), {"agent": "iql"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graphs.write_torch_export(plain, tmp_path / "policy.pt2", about)
        graphs.write_torchscript(plain, tmp_path / "policy.pt", about)
        runners = [graphs.open_torch_export(tmp_path / "policy.pt2"), graphs.open_torchscript(tmp_path / "policy.pt")]
    inputs = [part.numpy() for part in plain.start(7, 100.0)] if sequence else [OBSERVATIONS]
    expected = plain(*map(torch.from_numpy, inputs))
    for run in runners:
        found = run(inputs)
        assert len(found) == (6 if sequence else 1)
        np.testing.assert_allclose(found[0], expected[0] if sequence else expected, rtol=0, atol=1e-5)
    code = f"""
import sys, warnings
sys.modules["rlrat"] = None
import torch
about = dict.fromkeys(["agent"], "")
torch.export.load("policy.pt2", extra_files=about)
assert about == {{"agent": "iql"}}, about
torch.jit.load("policy.pt", _extra_files=about)
assert about["agent"] in ("iql", b"iql"), about
assert not any(name.startswith("rlrat.") for name in sys.modules), {sequence}
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
def test_aoti_is_compiled_for_this_machine(tmp_path):
    policy = make_policy(hidden_dims=(8,))
    graphs.write_aoti(plain_policy(policy), tmp_path / "policy.pt2", {"agent": "iql"})
    run = graphs.open_aoti(tmp_path / "policy.pt2")
    for rows in (OBSERVATIONS, OBSERVATIONS[:1]):
        assert difference(policy, run([rows])[0], rows) < 1e-5
