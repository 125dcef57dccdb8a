import os
import time
from dataclasses import replace

from rlrat.runs.locks import STALE_SECONDS, Owner
from rlrat.sweeps.folder import SweepFolder, read_progress
from rlrat.sweeps.grid import Block, Grid, expand, make_jobs
from tests.sweeps.whole_sweeps import TOY_FILE


def test_the_newest_evaluation_is_read_from_the_end_of_a_long_file(tmp_path):
    header = (
        "update,train_seconds,wall_seconds,target_return,episodes,return_mean,return_std,length_mean,normalized_score\n"
    )
    lines = [
        f"{n},{n / 10},{n / 5},{target},2,{n}.5,0,9,{score}\n"
        for n in range(3000)
        for target, score in ((2, 7), (1, 3))
    ]
    (tmp_path / "evaluations.csv").write_text(header + "".join(lines) + "3000,1")
    progress = read_progress(tmp_path)
    assert (progress.update, progress.return_mean, progress.score) == (2999, 2999.5, 7)
    for text in (None, "", header, header + "1,2\n", "what\nis this\n"):
        (tmp_path / "evaluations.csv").unlink(missing_ok=True)
        if text is not None:
            (tmp_path / "evaluations.csv").write_text(text)
        assert read_progress(tmp_path) is None


def test_room_is_tried_for_not_believed(tmp_path, monkeypatch):
    (cell,) = expand(Grid((Block((str(TOY_FILE),)),)), tmp_path)
    (job,) = make_jobs([cell], None)
    folder = SweepFolder(tmp_path)
    assert folder.has_room(job)
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert not folder.has_room(job)
    assert os.listdir(folder.path) == []


def test_a_sweep_of_another_host_is_under_way_while_it_touches_its_permit(tmp_path):
    folder = SweepFolder(tmp_path)
    owner = replace(Owner(), machine="another", host="node7")
    permit = folder.permit(owner)
    assert folder.sweeps() == [owner]
    before = time.time() - STALE_SECONDS - 5
    os.utime(permit, (before, before))
    assert folder.sweeps() == []
    here = folder.permit(Owner())
    os.utime(here, (before, before))
    assert len(folder.sweeps()) == 1
