"""One sweep, any executor: threads, processes, a Dask cluster that loses a worker. Results agree bit for bit."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from pregate.ask.capturing.request import request
from pregate.ask.capturing.schedule_cache import ScheduleCache
from pregate.cli import main as cli
from pregate.named import load_hardware
from pregate.routing_traces import synthesize
from pregate.sweeps import sweep_work
from pregate.sweeps.axes import LatinHypercube
from pregate.sweeps.sweep import SweepFailed, sweep
from pregate.sweeps.sweep_file import read_sweep
from pregate.sweeps.workloads import TraceRecipe
from tests.small_models import MODELS

MODEL = MODELS["encoder-decoder"]
HW = load_hardware("a100-sxm4-80gb")
STATIC_BYTES = request(MODEL, HW, synthesize(MODEL, 4, 12, 2, 1), "on_demand").plan.static_bytes
"""HBM before the first expert slot; what is added below decides how many there are."""


def swept(**more: Any) -> Any:
    """Holes, two traces, several schedules a policy, some hundred machines: 390 evaluations."""
    axes = {
        "hbm_bytes": STATIC_BYTES + MODEL.expert_bytes * np.array([1, 3, 6, 9, 60]),
        "link.h2d_bytes_per_s": np.geomspace(4e9, 64e9, 13),
        "batch": [1, 2],
    }
    policies = ["gpu_only", "pregate", "lru"]
    arguments = {"policies": policies, "axes": axes, "cache_dir": False} | more
    return sweep(MODEL, HW, TraceRecipe(4, 12, seed=1), **arguments)


@pytest.fixture(scope="module")
def alone() -> Any:
    """The sweep on one thread."""
    with ThreadPoolExecutor(1) as one:
        dataset = swept(executor=one)
    assert 0 < dataset["fits"].values.mean() < 1
    return dataset


class InTurn(Executor):
    """The smallest executor: runs what it is given at once."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def test_threads_and_no_threads_agree(alone: Any) -> None:
    assert alone.identical(swept())
    assert alone.identical(swept(executor=InTurn()))
    with ThreadPoolExecutor(5) as threads:
        assert alone.identical(swept(executor=threads))


@pytest.mark.parametrize("n", [1, 7, 16, 33])
def test_chunks_of_any_size_agree(alone: Any, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_work, "CHUNK_MACHINES", n)
    chunked = swept()
    assert alone.drop_attrs().identical(chunked.drop_attrs())
    for name, value in alone.attrs.items():
        assert name == "sweep_digest" or chunked.attrs[name] == value


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    """A process that knows nothing of this one; `jobs` has two of them."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield pool


def test_processes_agree_and_share_schedules_on_disk(
    alone: Any, processes: ProcessPoolExecutor, tmp_path: Path
) -> None:
    assert alone.identical(swept(jobs=2, cache_dir=ScheduleCache(tmp_path)))
    assert alone.identical(swept(executor=processes, cache_dir=tmp_path))
    assert processes.submit(os.getpid).result() != os.getpid()  # a given executor stays open
    assert len(list(tmp_path.glob("*.safetensors"))) == len(list(tmp_path.glob("*.json"))) > 5


def test_a_sample_agrees_on_processes(processes: ProcessPoolExecutor) -> None:
    more: Any = {
        "axes": {
            "link.h2d_bytes_per_s": (4e9, 64e9, "log"),
            "hbm_bytes": (STATIC_BYTES, STATIC_BYTES + 60 * MODEL.expert_bytes),
            "batch": (1, 2),
        },
        "sample": LatinHypercube(40, 3),
    }
    assert swept(**more).identical(swept(**more, executor=processes))


def test_a_dead_process_is_reported_and_what_is_done_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more tasks than are handed out at a time, so that some are left however fast it was."""
    monkeypatch.setattr(sweep_work, "CHUNK_MACHINES", 2)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
        pid = processes.submit(os.getpid).result()

        def kill(done: int, total: int) -> None:
            if done:
                with suppress(ProcessLookupError):  # after the first time
                    os.kill(pid, signal.SIGKILL)

        with pytest.raises(SweepFailed, match=r"tasks failed, first with BrokenProcessPool.*sweep again"):
            swept(executor=processes, checkpoint=tmp_path, progress=kill)
    kept = len(list(tmp_path.iterdir()))
    assert kept >= 1
    seen: list[int] = []
    whole = swept(checkpoint=tmp_path, progress=lambda done, total: seen.append(done))
    assert seen[0] >= 1
    monkeypatch.undo()
    assert whole.drop_attrs().identical(swept().drop_attrs())


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """A client of two worker processes that need no network but the loopback."""
    import dask
    from distributed import Client, LocalCluster

    patience = {f"distributed.comm.timeouts.{kind}": "1 hour" for kind in ("connect", "tcp")}
    with (
        dask.config.set({**patience, "distributed.scheduler.worker-ttl": None}),
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        yield client


def test_a_dask_cluster_that_loses_a_worker_agrees(alone: Any, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_work, "CHUNK_MACHINES", 2)
    victims = list(client.run(os.getpid).values())
    killed: list[tuple[int, int]] = []

    def kill(done: int, total: int) -> None:
        if done and not killed:
            os.kill(victims[0], signal.SIGKILL)
            killed.append((done, total))

    found = swept(executor=client, progress=kill)
    assert alone.drop_attrs().identical(found.drop_attrs())
    assert killed[0][0] < killed[0][1]
    while any(worker.pid == victims[0] for worker in list(client.cluster.scheduler.workers.values())):
        time.sleep(0.01)  # until the cluster has noticed, however busy it is
    assert victims[0] not in client.run(os.getpid).values()
    monkeypatch.undo()
    assert alone.identical(swept(executor=client))


def test_the_command_runs_on_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reached by its address; a worker that is a thread, since the cluster above has processes."""
    from distributed import LocalCluster

    (tmp_path / "s.yaml").write_text(
        "{model: switch-base-8, hardware: t4, policies: [gpu_only, pregate], workload: {output_tokens: 8},"
        " axes: {link.h2d_bytes_per_s: {log: [1e9, 64e9, 9]}}}"
    )
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, protocol="tcp://", dashboard_address="127.0.0.1:0"
    ) as cluster:
        words = ["sweep", str(tmp_path / "s.yaml"), "--no-cache", "--dask", cluster.scheduler_address]
        monkeypatch.setattr("sys.argv", ["pregate", *words, "-o", str(tmp_path / "s.nc")])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    assert not stopped.value.code
    with xr.open_dataset(tmp_path / "s.nc") as dataset:
        assert dataset.load().identical(sweep(**read_sweep(tmp_path / "s.yaml"), cache_dir=False))
