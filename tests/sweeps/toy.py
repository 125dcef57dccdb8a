"""An agent that counts instead of learning: quick, without torch, and it goes wrong when asked to."""

import csv
import dataclasses
import errno
import json
import os
import signal
import time
from dataclasses import dataclass
from typing import Annotated, Literal

from rlrat.errors import InputError, one_line_errors
from rlrat.runs.arguments import Range, RunArguments, identity, parse, run_folder


@dataclass(frozen=True)
class Arguments(RunArguments):
    total_updates: int = 3
    """Updates, each with a checkpoint and an evaluation."""
    hold: int = 0
    """Before this update, wait while there is a file <run-dir>/hold."""
    size: Annotated[float, Range(0.0, 1.0)] = 0.5
    """A number with a range."""
    trouble: Literal["none", "mistake", "crash", "first", "passing", "killed", "diverge", "full", "unscored"] = "none"
    """At the last update; first and passing: only in the first process that gets there."""


COMPLETED = ("dataset", "env_id", "env_kwargs", "holdout")  # by the dataset, which this agent does not load
COLUMNS = ("update", "train_seconds", "wall_seconds", "target_return", "episodes", "return_mean", "normalized_score")


def misbehave(args: Arguments, folder) -> None:
    if args.trouble == "mistake":
        raise InputError("this cannot be: mend it")
    first = not (folder / "crashed").exists()
    (folder / "crashed").touch()
    if args.trouble == "crash" or (args.trouble == "first" and first):
        os.utime(folder / "checkpoint.pt")  # as a run that saves once more before its last evaluation
        raise RuntimeError("the last line of its log")
    if args.trouble == "passing" and first:
        try:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        except OSError as error:
            raise InputError("cannot write it: Stale file handle") from error
    if args.trouble == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if args.trouble == "full" and (args.run_dir / "full").exists():
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise InputError("cannot write it: No space left on device") from error


def is_finished(summary) -> bool:
    try:
        return json.loads(summary.read_text())["status"] in ("finished", "diverged")
    except (OSError, ValueError, TypeError, KeyError):
        return False


def main(args: Arguments) -> None:
    folders = [run_folder(args, "toy", args.seed + k) for k in range(args.num_seeds)]
    if all(is_finished(folder / "summary.json") for folder in folders):
        return
    states = []
    for k, folder in enumerate(folders):
        folder.mkdir(parents=True, exist_ok=True)
        alone = dataclasses.replace(args, seed=args.seed + k, num_seeds=1)
        config = {
            "agent": "toy",
            "seed": args.seed + k,
            "identity": {**{k: v for k, v in identity(alone).items() if k not in COMPLETED}, "agent": "toy"},
            "versions": {},
        }
        (folder / "config.json").write_text(json.dumps(config))
        checkpoint = folder / "checkpoint.pt"
        states.append(int(checkpoint.read_text()) if checkpoint.exists() else 0)
    for update in range(min(states) + 1, args.total_updates + 1):
        while update == args.hold and (args.run_dir / "hold").exists():
            time.sleep(0.02)
        if update == args.total_updates:
            misbehave(args, folders[0])
        for folder in folders:
            with (folder / "evaluations.csv").open("a") as file:
                writer = csv.writer(file, lineterminator="\n")
                if file.tell() == 0:
                    writer.writerow(COLUMNS)
                found = (0, "", "") if args.env_id == "none" else (1, 10 * update, update)
                writer.writerow((update, update * 0.1, update * 0.2, "", *found))
            judged, columns, row = "episodes.csv", "update,length", f"{update},{100}"
            if args.env_id == "none":
                judged, columns, row = "offline.csv", "update,fqe_value", f"{update},{update / 8}"
            with (folder / judged).open("a") as file:
                file.write(f"{columns}\n" * (file.tell() == 0) + f"{row}\n")
            temporary = folder / "checkpoint.tmp"
            temporary.write_text(str(update))
            os.replace(temporary, folder / "checkpoint.pt")
        print(f"update {update}")
    for folder in folders:
        status = "diverged" if args.trouble == "diverge" and folder is folders[0] else "finished"
        status = "failed" if args.trouble == "unscored" else status
        final = float(args.total_updates) if status == "finished" else None
        finals = {"final_return": final, "final_score": final}
        if args.env_id == "none":
            value = final and final / 8
            finals = {"final_return": None, "final_score": None, "final_value": value, "offline": {"fqe_value": value}}
        summary = {"status": status, **finals, "diverged_at": 2}
        (folder / "summary.json").write_text(json.dumps(summary))
    if args.trouble == "unscored":  # as where every evaluation failed
        raise SystemExit(1)


if __name__ == "__main__":
    with one_line_errors():
        main(parse(Arguments, __doc__))
