"""Sweeps of real agents whose workers, nodes and own processes are killed, against one that nobody disturbs."""

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from rlrat.runs.locks import Watch
from rlrat.sweeps.folder import SweepFolder
from tests.sweeps.whole_sweeps import begin, check


def torment(
    run_dir: Path,
    extra: tuple[str, ...],
    *,
    workers: int,
    sweeps: int,
    halfway: Callable[[], None] = lambda: None,
    seconds: float = 400.0,
) -> None:
    """Sweep, and kill so many workers and the sweep so often, at random times spread over each other."""
    chance, folder, watch = random.Random(0), SweepFolder(run_dir), Watch()
    victims = ["worker"] * workers + ["sweep"] * sweeps
    chance.shuffle(victims)
    total, until = len(victims), time.monotonic() + seconds
    process = begin(run_dir, *extra)
    while victims:
        assert time.monotonic() < until
        time.sleep(chance.uniform(0.2, 2.0))
        assert process.poll() is None, f"the sweep ended with {process.returncode}, {len(victims)} kills too early"
        if len(victims) == total // 2:
            halfway()
            halfway = lambda: None  # noqa: E731
        if victims[-1] == "sweep":
            process.kill()
            process.wait()
            process = begin(run_dir, *extra)
            victims.pop()
            continue
        owners = {watch.holder(folder.lock(path)) for path in folder.locked()} - {None}
        if owners:
            with suppress(ProcessLookupError):
                os.kill(chance.choice(sorted(owners, key=str)).pid, signal.SIGKILL)
                victims.pop()
    assert process.wait(max(1.0, until - time.monotonic())) == 0


@pytest.mark.slow
def test_a_local_sweep_survives_30_kills_of_workers_and_3_of_itself(tmp_path, undisturbed):
    torment(tmp_path / "runs", (), workers=30, sweeps=3)
    check(tmp_path / "runs", undisturbed)


@pytest.mark.slow
def test_a_sweep_on_ray_survives_that_and_the_loss_of_a_node(tmp_path, undisturbed):
    pytest.importorskip("ray", reason='needs Ray: pip install "rlrat[ray]"')
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    try:
        extra = ("--launcher", "ray", "--ray.address", cluster.address)
        torment(
            tmp_path / "runs",
            extra,
            workers=30,
            sweeps=3,
            halfway=lambda: cluster.remove_node(second, allow_graceful=False),
        )
    finally:
        cluster.shutdown()
    check(tmp_path / "runs", undisturbed)
