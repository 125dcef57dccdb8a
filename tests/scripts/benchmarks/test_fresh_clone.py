import re
import shutil
import subprocess

import pytest

from fresh_clone import main

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


@pytest.fixture
def repository(tmp_path):
    """`repository("echo hello")`: a repository whose `make train` does that."""

    def make(*lines: str):
        folder = tmp_path / "repository"
        folder.mkdir()
        (folder / "Makefile").write_text("train:\n" + "".join(f"\t@{line}\n" for line in lines))
        name = ("-c", "user.name=n", "-c", "user.email=e@example.org")
        for command in (["init", "-q"], ["add", "Makefile"], [*name, "commit", "-q", "-m", "Begin"]):
            subprocess.run(["git", *command], cwd=folder, check=True)
        return str(folder)

    return make


def test_the_first_evaluation_and_the_end_are_timed(repository, monkeypatch, capfd):
    monkeypatch.setenv("VIRTUAL_ENV", "/of/ours")
    source = repository("sleep 0.6; echo update 0: return 1", "sleep 1; echo update 0: $$VIRTUAL_ENV.")
    assert main([source]) == 0
    said = capfd.readouterr().out.splitlines()
    assert said[:2] == ["update 0: return 1", "update 0: ."]
    found = re.fullmatch(
        r"first evaluation after (\d+) s, end after (\d+) s; [\d.]+ processes ran before it began", said[2]
    )
    assert 1 <= int(found[1]) < int(found[2])


@pytest.mark.parametrize(("lines", "code"), [(["echo update 0: return 1", "exit 3"], 2), (["echo nothing"], 0)])
def test_without_a_figure_that_is_said(repository, lines, code, capfd):
    assert main([repository(*lines)]) == 1
    assert f"error: make train ended with {code} and no figure\n" in capfd.readouterr().err


def test_a_repository_that_is_not_there_is_gits_line(tmp_path, capfd):
    assert main([str(tmp_path / "none")]) == 2
    assert "does not exist" in capfd.readouterr().err
