"""Registration of a cohort on the workers of a Dask scheduler: one task a pair."""

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from patchmorph.cluster.cohort import Task
from patchmorph.cluster.connection import RETRIES, connected
from patchmorph.cluster.ledger import RESULTS, Ledger, Outcome
from patchmorph.errors import PatchMorphError, one_line
from patchmorph.heap import keep_freed_memory
from patchmorph.io.atomic import whole_file
from patchmorph.io.extras import extra
from patchmorph.io.unfinished import clear_abandoned
from patchmorph.jobs import register_files
from patchmorph.progress import advance, step
from patchmorph.report.cohort import FAILED

CORES_PER_WORKER = 2
LOOPBACK = "127.0.0.1"
NO_PROFILES = {"distributed.worker.profile.enabled": False}
"""Workers of Dask write down every 10 ms what they compute, and keep an hour of that: 0.3 MiB a second."""


@dataclass(frozen=True)
class Workers:
    """Where tasks run.

    Attributes:
        scheduler: address of a running scheduler, such as ``tcp://host:8786``, or the file that it wrote
            (``--scheduler-file``); ``None``: processes on this computer, which end with the batch.
        count: number of these processes; ``None``: one for each GPU, or for each two processor cores.
    """

    scheduler: str | None = None
    count: int | None = None


def register_cohort(tasks: list[Task], folder: Path, workers: Workers) -> Iterator[Outcome]:
    """Register the pairs that are not done, and record each in the cohort's table as soon as it has ended.

    Pairs that cannot be registered are outcomes too, and stop nobody. The table of an earlier run in
    ``folder`` tells which pairs are done; pairs that are no longer in their source leave it, and those of
    other sources stay.

    Args:
        tasks: the pairs, one or more of one source.
        folder: of the cohort.
        workers: where they run.

    Yields:
        How each pair ended, in the order of their ends.

    Raises:
        PatchMorphError: the extra ``large`` is not installed, or the scheduler cannot be reached.
    """
    ledger = Ledger(folder)
    clear_unfinished(folder)
    waiting = [task for task in tasks if not ledger.is_done(task.name, task.fingerprint, task.request.output)]
    ledger.keep([task.name for task in tasks], tasks[0].source)
    if not waiting:
        return
    with step("register pairs", len(waiting)) as pairs, _client(workers, waiting) as client:
        futures = {client.submit(register_task, task, retries=RETRIES, pure=False): task for task in waiting}
        for future in extra("distributed", "large").as_completed(futures, loop=client.loop):
            task = futures.pop(future)
            error = future.exception()
            outcome = future.result() if error is None else _failed(task, f"{type(error).__name__}: {error}")
            if outcome.verdict == FAILED:
                unlink_results(task, folder)
            else:
                link_results(task, folder)
            ledger.add(outcome)
            advance(pairs)
            yield outcome
    clear_unfinished(folder)


def clear_unfinished(folder: Path) -> None:
    """Remove what workers that were killed have left among the results."""
    for place in (folder / RESULTS, *(folder / RESULTS).glob("*")):
        clear_abandoned(place)


def register_task(task: Task) -> Outcome:
    """Register one pair on a worker; an input that cannot be used is an outcome, not an error."""
    keep_freed_memory()
    request = replace(task.request, method=replace(task.request.method, device=_device(task)))
    try:
        summary = register_files(request)
    except PatchMorphError as error:
        return _failed(task, str(error))
    paths = (request.paths.fixed, request.paths.moving)
    return Outcome.of(task.name, summary, task.fingerprint, paths, task.source)


def link_results(task: Task, folder: Path) -> None:
    """Give results their further names, as hard links where the file system has them, else as copies.

    Links of an earlier run to what is no longer written are removed.
    """
    for name, link in task.links.items():
        source, target = task.request.output / name, folder / link
        if not source.is_file():
            target.unlink(missing_ok=True)
        else:
            with whole_file(target) as temporary:
                try:
                    os.link(source, temporary)
                except OSError:
                    temporary.write_bytes(source.read_bytes())


def unlink_results(task: Task, folder: Path) -> None:
    """Take the further names from results of an earlier run, which are not those of the pair as it is now."""
    for link in task.links.values():
        (folder / link).unlink(missing_ok=True)


def _failed(task: Task, reason: str) -> Outcome:
    paths = task.request.paths
    return Outcome(
        task.name,
        FAILED,
        one_line(reason),
        fixed=str(paths.fixed),
        moving=str(paths.moving),
        fingerprint=task.fingerprint,
        source=task.source,
    )


def _device(task: Task) -> str:
    """The device of this worker: workers of this computer, which have numbers for names, share its GPUs."""
    device, name = task.request.method.device, str(extra("distributed", "large").get_worker().name)
    gpus = torch.cuda.device_count()
    if device in ("auto", "cuda") and gpus > 1 and name.isdigit():
        return f"cuda:{int(name) % gpus}"
    return device


@contextlib.contextmanager
def _client(workers: Workers, tasks: list[Task]) -> Iterator[Any]:
    """A client of the scheduler, or of processes of its own."""
    distributed = extra("distributed", "large")
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # failures are outcomes
    if workers.scheduler is not None:
        with connected(workers.scheduler) as client:
            yield client
        return
    count = workers.count or _default_count(tasks)
    threads = max(1, min(torch.get_num_threads(), (os.cpu_count() or 1) // count))
    with (
        extra("dask", "large").config.set(NO_PROFILES),  # which the workers get from this process
        distributed.LocalCluster(
            n_workers=min(count, len(tasks)),
            threads_per_worker=1,
            host=LOOPBACK,
            dashboard_address=f"{LOOPBACK}:0",
            memory_limit=0,  # the system's own
            env={"OMP_NUM_THREADS": str(threads)},
            silence_logs=logging.CRITICAL,
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


def _default_count(tasks: list[Task]) -> int:
    on_gpu = tasks[0].request.method.device != "cpu" and torch.cuda.is_available()
    return torch.cuda.device_count() if on_gpu else max(1, (os.cpu_count() or 1) // CORES_PER_WORKER)
