"""CSV files of a run that were cut, emptied, deleted, doubled or mixed before it goes on."""

import itertools
import json
import os
import random

import pytest
import torch

from rlrat.errors import InputError
from rlrat.runs.arguments import RunArguments
from rlrat.runs.folder import RunFolder
from rlrat.runs.recovery import recover
from rlrat.runs.schema import ACTIVATIONS, COLUMNS
from tests.short_runs import assert_equal_runs, read_run

UPDATES = (0, 10, 20, 30, 40)
START, WAITING = 40, 30
ARGUMENTS = RunArguments(eval_every=10, total_updates=50)
INITIAL = {"weight": torch.zeros(2)}
FILES = ("evaluations.csv", "episodes.csv", "activations.csv", "metrics.csv")


def _checkpoint(update, **more):
    state = {"policy.weight": torch.full((2,), float(update)), "guard.first_update": torch.tensor(-1)}
    return {"update": update, "train_seconds": 1.0, "wall_seconds": 2.0, "state": state, "pending": [], **more}


def write_run(path) -> tuple[RunFolder, dict]:
    """A run folder with its evaluations but one, that waits, and its checkpoints."""
    folder = RunFolder(path)
    path.mkdir()
    for update in UPDATES:
        folder.append_activations(
            update,
            [dict.fromkeys(COLUMNS[ACTIVATIONS], "0.5") | {"layer": layer, "part": 0, "group": 0} for layer in "ab"],
        )
        folder.lines["metrics.csv"].append([{"update": update, "losses/q": update / 9, "charts/gap": "nan"}])
        if update == WAITING:
            continue
        evaluation = {
            **{"update": update, "train_seconds": f"{update / 7:.3f}", "wall_seconds": f"{update / 3:.3f}"},
            **{"episodes": 2, "return_mean": update + 0.123456789, "return_std": 0.5, "length_mean": 9.0},
            **{"normalized_score": update / 2},
        }
        episodes = [
            {"update": update, "episode": e, "reset_seed": 7 + e, "return": update + e * 0.1, "length": 9}
            for e in (0, 1)
        ]
        folder.append_evaluation([evaluation], episodes)
    waiting = [{"update": WAITING, "wanted": True, "train_seconds": 1.0, "wall_seconds": 2.0, "state": INITIAL}]
    lines = {name: dict(own.expected) for name, own in folder.lines.items()}
    return folder, {START: _checkpoint(START, pending=waiting, failed=[], lines=lines), 20: _checkpoint(20)}


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "seed0")


def _damages(content: bytes) -> dict[str, bytes | None]:
    """What may have become of a file."""
    lines = content.splitlines(keepends=True)
    chance = random.Random(0)
    found = {"deleted": None, "emptied": b"", "as it was": content, "doubled": content * 2, "headless": content[42:]}
    found |= {f"cut at {at}": content[:at] for at in range(0, len(content), 11)}
    for first, second in itertools.combinations(range(len(lines)), 2):
        swapped = list(lines)
        swapped[first], swapped[second] = swapped[second], swapped[first]
        found[f"swapped {first} {second}"] = b"".join(swapped)
    for at in range(len(lines)):
        found[f"line {at} doubled"] = b"".join([*lines[: at + 1], *lines[at:]])
        found[f"line {at} lost"] = b"".join([*lines[:at], *lines[at + 1 :]])
        changed = lines[at].replace(b"0", b"1").replace(b"9", b"8")
        found[f"line {at} twice, one changed"] = b"".join([*lines[:at], changed, *lines[at:]])
    for number in range(50):
        flipped = bytearray(content)
        flipped[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        found[f"flipped {number}"] = bytes(flipped)
    return found


@pytest.mark.parametrize("name", FILES)
def test_nothing_of_a_damaged_file_vanishes_unsaid(run, capsys, monkeypatch, name):
    monkeypatch.setattr("os.fsync", lambda _: None)  # no power is lost here
    folder, checkpoints = run
    files = {file: (folder.path / file).read_bytes() for file in FILES}
    rows = {row["update"]: row for row in folder.evaluations()}
    for damage, content in _damages(files[name]).items():
        for file in FILES:
            (folder.path / file).write_bytes(files[file])
        if content is None:
            (folder.path / name).unlink()
        else:
            (folder.path / name).write_bytes(content)
        again = RunFolder(folder.path)
        found = recover(again, "seed 0", checkpoints, START, ARGUMENTS, 1, INITIAL)
        again.go_back(START, found.whole, found.pending.keys(), found.missing)
        said = capsys.readouterr().err
        left = again.evaluations()
        assert all(row == rows[row["update"]] for row in left), damage
        assert [int(row["update"]) for row in left] == sorted(found.whole), damage
        made = found.whole | found.pending.keys() | {START}
        assert made | found.missing == set(UPDATES), damage
        assert not made & found.missing, damage
        assert found.missing <= {10}, damage  # of all others the policy is known
        for update in found.missing:
            assert f"the evaluations at update {update} are missing" in said, damage
        lost = {int(update) for update in rows} - found.whole
        assert not lost or "made again" in said or "missing" in said, damage
        for file in FILES:
            text = (again.path / file).read_text().splitlines() if (again.path / file).exists() else []
            assert set(text) - {"update"} <= set(files[file].decode().splitlines()), damage  # of metrics without lines
            assert len(text) == len(set(text)), damage
            if len(text) < len(files[file].splitlines()):
                assert said.startswith("warning: seed 0: lines of its CSV files were lost or changed: "), damage
        if damage == "as it was" or "swapped" in damage or "doubled" in damage:
            assert not said or "swapped" in damage, damage  # a header between the lines is known, too
            assert not lost, damage
            assert {file: (again.path / file).read_bytes() for file in FILES} == files, damage


def test_a_line_that_was_missing_and_is_put_back_is_there_again(run, capsys):
    folder, checkpoints = run
    whole = (folder.path / "evaluations.csv").read_text()
    (folder.path / "evaluations.csv").write_text("")
    once = RunFolder(folder.path)
    found = recover(once, "seed 0", checkpoints, START, ARGUMENTS, 1, INITIAL)
    once.go_back(START, found.whole, found.pending.keys(), found.missing)
    assert found.missing == {10}
    assert set(found.pending) == {0, 20, 30}
    checkpoints[START]["lines"] = {name: dict(own.expected) for name, own in once.lines.items()}  # it went on
    twice = recover(RunFolder(folder.path), "seed 0", checkpoints, START, ARGUMENTS, 1, INITIAL)
    assert twice.missing == {10}
    (folder.path / "evaluations.csv").write_text(whole)
    capsys.readouterr()
    assert recover(RunFolder(folder.path), "seed 0", checkpoints, START, ARGUMENTS, 1, INITIAL).missing == set()


def test_of_a_checkpoint_of_before_what_is_due_is_known_from_the_settings(run, capsys):
    folder, checkpoints = run
    for checkpoint in checkpoints.values():
        checkpoint.pop("lines", None)
    found = recover(RunFolder(folder.path), "seed 0", checkpoints, START, ARGUMENTS, 1, INITIAL)
    assert (found.whole, set(found.pending), found.missing) == ({0, 10, 20, 40}, {30}, set())
    assert capsys.readouterr().err == ""
    lines = (folder.path / "evaluations.csv").read_text().splitlines(keepends=True)
    (folder.path / "evaluations.csv").write_text("".join([*lines[:2], "11" + lines[2][2:], *lines[3:]]))
    found = recover(RunFolder(folder.path), "seed 0", checkpoints, START, ARGUMENTS, 1, INITIAL)
    assert (found.whole, set(found.pending), found.missing) == ({0, 20, 40}, {30}, {10})
    assert "the evaluations at update 10 are missing" in capsys.readouterr().err
    checkpoints[START]["state"]["guard.first_update"] = torch.tensor(5)
    found = recover(RunFolder(folder.path), "seed 0", checkpoints, START, ARGUMENTS, 1, INITIAL)
    assert (found.whole, found.missing) == ({0}, set())  # a diverged run had no more


def test_an_evaluation_with_fewer_lines_than_targets_is_not_whole(run):
    folder, checkpoints = run
    found = recover(folder, "seed 0", checkpoints, START, ARGUMENTS, 2, INITIAL)
    assert (found.whole, set(found.pending), found.missing) == (set(), {0, 20, 30}, {10})


def test_failed_evaluations_are_tried_again_where_there_is_no_other(run, capsys):
    folder, checkpoints = run
    for update in (10, 20, 30, 40):
        for lines in checkpoints[START]["lines"].values():
            lines.pop(update, None)
    checkpoints[START] |= {"pending": [], "failed": [10, 20, 30, 40]}
    folder.lines["evaluations.csv"].keep({0})
    found = recover(folder, "seed 0", checkpoints, START, ARGUMENTS, 1, INITIAL)
    assert (found.whole, set(found.pending), found.failed) == ({0}, {20}, {10, 30})  # and 40, when training begins
    assert "the evaluations at updates 20 and 40 failed and are tried again" in capsys.readouterr().err


LONG = ("--total-updates", 80)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without named pipes")
@pytest.mark.parametrize("kind", ["a pipe", "a device without end"])
def test_what_is_no_file_is_not_waited_for(run, kind):
    folder, checkpoints = run
    path = folder.path / FILES[0]
    path.unlink()
    os.mkfifo(path) if kind == "a pipe" else path.symlink_to("/dev/zero")
    with pytest.raises(InputError, match=r"cannot read .*evaluations\.csv"):
        recover(folder, "seed 0", checkpoints, START, ARGUMENTS, 1, INITIAL)


def _folder(tmp_path):
    (folder,) = tmp_path.glob("runs/*/*/*/seed0")
    return folder


def test_a_run_without_its_lines_says_what_is_missing_in_its_summary(run_agent, tmp_path):
    run_agent(*LONG)
    folder = _folder(tmp_path)
    whole = read_run(folder)
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["missing_evaluations"], summary["final_evaluations"]) == ([], 4)
    lines = (folder / "evaluations.csv").read_text()
    (folder / "summary.json").unlink()
    (folder / "evaluations.csv").write_text(lines[: lines.index("\n60,") + 1])
    assert "the evaluations at updates 60 and 80 are made again" in run_agent(*LONG).stderr
    assert_equal_runs(read_run(folder), whole)
    (folder / "summary.json").unlink()
    (folder / "evaluations.csv").unlink()
    for _ in range(2):  # also after another kill
        assert "the evaluations at updates 20 and 40 are missing" in run_agent(*LONG).stderr
        last = (folder / "summary.json").read_text()
        (folder / "summary.json").unlink()
    (folder / "summary.json").write_text(last)
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["missing_evaluations"], summary["final_evaluations"]) == ([20, 40], 2)
    left = read_run(folder)["rows"]
    assert left == [row for row in whole["rows"] if row["update"] in ("0", "60", "80")]
    assert summary["final_return"] == pytest.approx(sum(float(row["return_mean"]) for row in left[1:]) / 2)


def test_lines_lost_while_a_run_trains_are_missing_in_its_summary(run_agent, tmp_path, monkeypatch):
    plain = RunFolder.append_evaluation

    def losing(self, lines, episodes):
        plain(self, lines, episodes)
        if lines[0]["update"] == 20:
            (self.path / "evaluations.csv").unlink()

    monkeypatch.setattr(RunFolder, "append_evaluation", losing)
    result = run_agent()
    summary = RunFolder(_folder(tmp_path)).summary()
    assert (summary["missing_evaluations"], summary["final_evaluations"]) == ([0, 20], 1)
    assert "2 evaluations are missing" in result.stderr
