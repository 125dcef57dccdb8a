import contextlib
import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rlrat.errors import InputError
from rlrat.runs.folder import RunFolder, starts
from rlrat.runs.schema import ACTIVATIONS, COLUMNS, EVALUATIONS

CONFIG = {"identity": {"expectile": 0.7, "batch_size": 256}, "versions": {"torch": "2.13.0"}}


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "runs" / "seed0")
    folder.create(CONFIG)
    return folder


def _evaluation(update):
    evaluation = dict.fromkeys(COLUMNS[EVALUATIONS], 1.5) | {"update": update, "normalized_score": None}
    episodes = [{"update": update, "episode": e, "reset_seed": 5, "return": 0.1 + e, "length": 3} for e in range(2)]
    return [evaluation], episodes


def test_the_same_run_may_go_on(folder):
    folder.check(CONFIG, resume=True)
    folder.create(CONFIG, update=100)
    assert folder.config() == {**CONFIG, "resumed": []}


def test_a_run_says_how_it_went_on(folder):
    """Each start from a checkpoint in another way, but none that a start from an earlier update made void."""
    way = {"device": "cpu", "versions": {"torch": "2.14.0"}, "arguments": {"num_threads": 1, "batch_size": 256}}
    expected = []
    for update, members in ((100, 2), (200, 2), (300, 5), (400, 2), (250, 3), (250, 4)):
        folder.create({**CONFIG, **way, "members": members}, update)
        expected = [one for one in expected if one[0] < update]
        if not expected or expected[-1][1] != members:
            expected.append((update, members))
        assert [(start["update"], start["members"]) for start in folder.config()["resumed"]] == expected
    assert expected == [(100, 2), (250, 4)]
    last = folder.config()["resumed"][-1]
    assert last["versions"] == way["versions"]
    assert last["arguments"] == {"num_threads": 1, "compile": None, "capture": None}
    assert folder.config()["identity"] == CONFIG["identity"]
    folder.create({**CONFIG, **way, "members": 4, "device": "cuda"}, 260)
    assert [start["device"] for start in folder.config()["resumed"]] == ["cpu", "cpu", "cuda"]
    folder.create({**CONFIG, **way})  # it begins anew
    assert folder.config() == {**CONFIG, **way}


def test_another_identity_is_refused_by_the_differing_setting(folder):
    other = CONFIG | {"identity": {"expectile": 0.9, "batch_size": 256}}
    with pytest.raises(InputError, match=r"expectile is 0\.7 there and 0\.9 here\)") as caught:
        folder.check(other, resume=True)
    assert "batch_size" not in str(caught.value)
    folder.delete()
    folder.create(other)
    assert json.loads((folder.path / "config.json").read_text()) == other


def test_a_setting_newer_than_the_run_was_its_default(folder):
    for value, others in ((32, []), (16, ["precision is 32 there and 16 here"])):
        config = {**CONFIG, "identity": {**CONFIG["identity"], "precision": value}}
        if not others:
            folder.check(config, resume=True, defaults={"precision": 32, "expectile": 0.9})
        for message in others:
            with pytest.raises(InputError, match=message):
                folder.check(config, resume=True, defaults={"precision": 32, "expectile": 0.9})


@pytest.mark.parametrize("resumed", [None, 3, [3], [{}], {"a": 1}, [{"update": "x"}]])
def test_damage_to_how_a_run_went_on_does_no_harm(folder, resumed):
    folder.create({**CONFIG, "resumed": resumed})
    assert starts(folder.config()) == [folder.config()]
    folder.create({**CONFIG, "members": 2}, 10)
    assert [start["members"] for start in folder.config()["resumed"]] == [2]


def test_a_folder_that_is_a_link_stays_one(tmp_path):
    (tmp_path / "scratch" / "more").mkdir(parents=True)
    (tmp_path / "seed0").symlink_to(tmp_path / "scratch")
    for name in ("config.json", "checkpoint.pt", "summary.json", "more/file"):
        (tmp_path / "scratch" / name).write_text("{}")
    RunFolder(tmp_path / "seed0").delete()
    assert (tmp_path / "seed0").is_symlink()
    assert not list((tmp_path / "scratch").iterdir())


def test_an_unfinished_run_is_not_resumed_against_the_users_will(folder):
    with pytest.raises(InputError, match="unfinished run"):
        folder.check(CONFIG, resume=False)


def test_a_changed_version_warns(folder, capsys):
    folder.check(CONFIG | {"versions": {"torch": "2.14.0"}}, resume=True)
    assert "begun with torch 2.13.0 and goes on with 2.14.0" in capsys.readouterr().err


def test_a_folder_killed_before_it_began_is_taken_over(tmp_path):
    (tmp_path / "seed0").mkdir()
    (tmp_path / "seed0" / "config.json.tmp").write_text('{"iden')
    RunFolder(tmp_path / "seed0").create(CONFIG)
    assert json.loads((tmp_path / "seed0" / "config.json").read_text()) == CONFIG


def test_an_unwritable_place_is_one_line(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(InputError, match=r"cannot write .*seed0: Not a directory: choose another --run-dir"):
        RunFolder(tmp_path / "runs" / "seed0").create(CONFIG)


def test_evaluations_survive_a_line_cut_short(folder):
    for update in (0, 100, 200):
        folder.append_evaluation(*_evaluation(update))
    path = folder.path / "evaluations.csv"
    path.write_text(path.read_text()[:-4])
    assert [row["update"] for row in folder.evaluations()] == ["0", "100"]
    folder.go_back(0, {0})
    folder.append_evaluation(*_evaluation(100))
    assert [row["update"] for row in folder.evaluations()] == ["0", "100"]
    lines = (folder.path / "episodes.csv").read_text().splitlines()
    assert lines[0] == "update,target_return,episode,reset_seed,return,length,success"
    assert [line.split(",")[0] for line in lines[1:]] == ["0", "0", "100", "100"]
    assert lines[2] == "0,,1,5,1.1,3,"


def test_a_folder_is_one_processs_at_a_time(folder):
    script = """if True:
        import sys
        from pathlib import Path
        from rlrat.runs.folder import RunFolder
        with RunFolder(Path(sys.argv[1])).locked():
            print("mine", flush=True)
            sys.stdin.read()
    """
    command = [sys.executable, "-c", script, str(folder.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "mine\n"
        with pytest.raises(InputError, match=r"seed0 is being trained by another process: wait until"), folder.locked():
            pass
        process.kill()
    with folder.locked():  # a kill leaves no lock
        pass


def test_going_back_cuts_activations_of_no_evaluation(folder):
    row = dict.fromkeys(COLUMNS[ACTIVATIONS], "1")
    for update in (0, 100, 200):
        folder.append_activations(update, [row | {"part": part} for part in (0, 1)])
    path = folder.path / "activations.csv"
    path.write_text(path.read_text()[:-4])  # a kill in the middle of a line
    two = ["0", "0"]
    for evaluations, pending, left in (({0}, {100}, [*two, "100", "100"]), ({0}, set(), two), (set(), set(), [])):
        folder.go_back(100, evaluations, pending)
        header, *lines = path.read_text().splitlines()
        assert header == ",".join(COLUMNS[ACTIVATIONS])
        assert [line.split(",")[0] for line in lines] == left


def test_a_curve_is_of_the_first_target_return(folder):
    for update in (0, 100):
        (line,), episodes = _evaluation(update)
        folder.append_evaluation([line | {"target_return": target} for target in ("3600", "1800")], episodes)
    assert len(folder.evaluations()) == 4
    assert [(row["update"], row["target_return"]) for row in folder.curve()] == [("0", "3600"), ("100", "3600")]


def _checkpoint(update):
    return {"update": update, "state": {"weight": torch.full((50_000,), float(update))}}


def test_two_checkpoints_are_kept(folder):
    assert folder.checkpoints() == {}
    for update in (10, 20, 30):
        folder.save_checkpoint(_checkpoint(update))
    found = folder.checkpoints()
    assert list(found) == [30, 20]
    assert torch.equal(found[30]["state"]["weight"], _checkpoint(30)["state"]["weight"])
    assert not list(folder.path.glob("*.tmp"))


def test_a_second_checkpoint_of_an_update_leaves_the_one_before(folder):
    for update in (10, 20, 20, 20):
        folder.save_checkpoint(_checkpoint(update))
    assert list(folder.checkpoints()) == [20, 10]
    folder.go_back(20, set())
    folder.save_checkpoint(_checkpoint(20))
    assert list(folder.checkpoints()) == [20, 10]


@pytest.mark.parametrize("damage", ["truncate", "garbage", "empty", "flip", "list", "keys"])
def test_the_checkpoint_before_a_damaged_one_is_used(folder, damage, capsys):
    for update in (10, 20):
        folder.save_checkpoint(_checkpoint(update))
    path = folder.path / "checkpoint.pt"
    content = bytearray(path.read_bytes())
    if damage == "truncate":
        content = content[: len(content) // 2]
    elif damage == "garbage":
        content = b"not a checkpoint"
    elif damage == "empty":
        content = b""
    elif damage == "flip":
        content[len(content) // 2] ^= 0xFF
    if damage in ("list", "keys"):
        torch.save([1, 2] if damage == "list" else {"weight": 1}, path)
    else:
        path.write_bytes(content)
    assert list(folder.checkpoints()) == [10]
    assert "checkpoint.pt is damaged" in capsys.readouterr().err


def test_a_group_interrupted_twice_between_its_saves_keeps_the_update_that_all_have(tmp_path):
    folders = [RunFolder(tmp_path / f"seed{s}") for s in (0, 1)]
    for folder in folders:
        folder.create(CONFIG)
        for update in (10, 20):
            folder.save_checkpoint(_checkpoint(update))
    for _ in range(2):  # seed 0 saves update 30, then a kill comes before seed 1 does
        folders[0].save_checkpoint(_checkpoint(30))
        found = [folder.checkpoints() for folder in folders]
        assert max(set(found[0]) & set(found[1])) == 20
        for folder in folders:
            folder.go_back(20, set())
    assert set(folders[0].checkpoints()) == {20}
    assert set(folders[1].checkpoints()) == {20, 10}


def test_a_failed_save_leaves_both_checkpoints(folder, monkeypatch):
    for update in (10, 20):
        folder.save_checkpoint(_checkpoint(update))

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match="cannot write"):
        folder.save_checkpoint(_checkpoint(30))
    assert set(folder.checkpoints()) == {20, 10}


def test_a_damaged_checkpoint_never_pushes_out_the_one_before_it(folder):
    for update in (10, 20):
        folder.save_checkpoint(_checkpoint(update))
    (folder.path / "checkpoint.pt").write_bytes(b"torn")
    folder.checkpoints()
    folder.go_back(10, set())
    folder.save_checkpoint(_checkpoint(20))
    assert set(folder.checkpoints()) == {20, 10}


def test_checkpoints_of_which_none_loads_are_one_line_and_stay(folder):
    folder.save_checkpoint(_checkpoint(10))
    (folder.path / "checkpoint.pt").write_bytes(b"torn")
    with pytest.raises(InputError, match=r"no checkpoint in .* can be read: give --overwrite"):
        folder.checkpoints()
    assert (folder.path / "checkpoint.pt").exists()


@pytest.mark.parametrize("name", ["config.json", "summary.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]"])
def test_a_damaged_json_file_is_one_line(folder, name, content):
    (folder.path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name} is damaged \(.*--overwrite"):
        folder.check({**CONFIG, "versions": {"torch": "2.14.0"}}, resume=True)
    folder.delete()
    folder.create(CONFIG)
    folder.check(CONFIG, resume=True)
    assert folder.summary() is None


@pytest.mark.parametrize("status", ["weird", 3, None, ["finished"], {}])
def test_a_status_that_no_run_has_is_damage(folder, status):
    (folder.path / "summary.json").write_text(json.dumps({"status": status}))
    with pytest.raises(InputError, match=r"summary.json is damaged \(it has no status of a run\)"):
        folder.is_done()


def test_a_full_disk_is_one_line_and_keeps_what_was_saved(folder, monkeypatch):
    folder.save_checkpoint(_checkpoint(10))

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match="No space left on device; what was saved before is whole: make room"):
        folder.save_checkpoint(_checkpoint(20))
    assert list(folder.checkpoints()) == [10]
    assert not list(folder.path.glob("*.tmp"))


def test_without_hard_links_the_checkpoint_is_copied(folder, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    for update in (10, 20):
        folder.save_checkpoint(_checkpoint(update))
    assert list(folder.checkpoints()) == [20, 10]


def test_a_folder_that_is_half_deleted_is_nobodys_run_to_go_on_from(tmp_path, monkeypatch):
    """Killed before each step of `--overwrite`: no finished run is left, and no checkpoint without its settings."""
    files = ("config.json", "checkpoint.pt", "checkpoint.previous.pt", "evaluations.csv", "summary.json")
    plain, steps = Path.unlink, range(len(files))
    for step in steps:
        path, count = tmp_path / str(step), 0
        path.mkdir()
        for name in files:
            (path / name).write_text(json.dumps({"identity": {}, "versions": {}}))

        def unlink(self, missing_ok=False):
            nonlocal count
            count += 1
            if count > step:  # noqa: B023
                raise KeyboardInterrupt
            plain(self, missing_ok)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", unlink)
            with contextlib.suppress(KeyboardInterrupt):
                RunFolder(path).delete()
        left = {file.name for file in path.iterdir()} if path.exists() else set()
        assert step == 0 or "summary.json" not in left
        assert "checkpoint.pt" not in left or "config.json" in left


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("rlrat.json_files.open_file", refuse)
    with pytest.raises(InputError, match=r"config\.json \(Permission denied\): make it readable, or choose") as caught:
        RunFolder(tmp_path).config()
    assert "overwrite" not in str(caught.value)
