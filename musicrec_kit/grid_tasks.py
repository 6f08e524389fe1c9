"""The tasks of a grid: which there are, and how one is carried out in its own process.

Data in: the jobs of a sweep's cells that are not done. Data out: tasks, each a whole run or a stage that several runs
share, and what each must wait for; of a task that ran, a record.
"""

import contextlib
import ctypes
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from musicrec_kit import runs
from musicrec_kit.locks import locked
from musicrec_kit.params import Refused
from musicrec_kit.pipeline import Job, StageFailed

Node = tuple[str, str]  # (data set, key) of a stage's result


@dataclass(frozen=True)
class Task:
    """One job of the engine: a whole run (`stage` None), or a stage that several runs share, after what it needs."""

    name: str
    job: Job
    stage: str | None
    needs: tuple[str, ...]


# --- which there are --------------------------------------------------------------------------------------------------


def task_name(job: Job) -> str:
    """Return the name of the task that makes a run, good for a file's name; equal runs have equal names."""
    name = f"{job.dataset_name}-{job.method}{job.variant}-{job.size}-seed{job.seed}"
    plain = re.sub(r"[^\w.,=+-]", "_", name)
    return plain if plain == name else f"{plain}-{runs.key_of(name)}"


def plan(jobs: Sequence[Job]) -> list[Task]:
    """Return the tasks that make the runs, each after those it needs; none waits for a stage that another is making.

    A stage that several runs lack is a task of its own, together with the stages before it that the same runs lack and
    that nothing else reads. Every lacking stage is thus made by one task, and those that read it wait. Jobs of equal
    runs count once.
    """
    made = _Planner(list({job.run_folder: job for job in jobs}.values()))
    for number, job in enumerate(made.jobs):
        if task_name(job) not in made.tasks:
            made.add(number, "evaluate")
    return list(made.tasks.values())


class _Planner:
    """Which runs lack which stage, and which task makes it."""

    def __init__(self, jobs: list[Job]) -> None:
        self.jobs = jobs
        self.users: dict[Node, list[int]] = {}
        self.maker: dict[Node, str] = {}
        self.tasks: dict[str, Task] = {}
        for number, job in enumerate(jobs):
            for stage in job.keys:
                if not job.is_built(stage):
                    self.users.setdefault(self.node(number, stage), []).append(number)

    def node(self, number: int, stage: str) -> Node:
        return self.jobs[number].dataset_name, self.jobs[number].keys[stage]

    def last_of(self, number: int, stage: str) -> str:
        """Return the stage whose task makes this one, too: the last that all its users need, without a fork."""
        users = self.users[self.node(number, stage)]
        if len(users) == 1:
            return "evaluate"
        job = self.jobs[number]
        readers = [r for r in job.keys if stage in job.reads(r) and self.users.get(self.node(number, r)) == users]
        return self.last_of(number, readers[0]) if len(readers) == 1 else stage

    def add(self, number: int, last: str) -> str:
        """Add the task that makes a run's stage `last`, after the tasks that make what it needs; return its name."""
        job, whole, needs = self.jobs[number], last == "evaluate", []
        name = task_name(job) if whole else f"{job.dataset_name}-{last}-{job.keys[last]}"
        for stage in job.upstream(last):
            node = self.node(number, stage)
            if node not in self.users:
                continue  # built before
            if node not in self.maker and (end := self.last_of(number, stage)) == last:
                self.maker[node] = name
            elif self.maker.get(node) != name:
                needs.append(self.maker.get(node) or self.add(number, end))
        self.tasks[name] = Task(name, job, None if whole else last, tuple(dict.fromkeys(needs)))
        return name


# --- one of them, in its own process ----------------------------------------------------------------------------------


@contextlib.contextmanager
def recorded(folder: Path, name: str) -> Iterator[dict[str, Any]]:
    """Give a task of the plan in `folder` to carry out, with a GPU if there are any; leave a record of how it ended.

    The record has `code` (the exit code; None while it runs), `error` (stage and cause) and `seconds`.
    """
    die_with_parent()
    plan_ = runs.read_json(folder / "plan.json")
    task, record = plan_["tasks"][name], folder / "records" / f"{name}.json"
    print(f"$ {task['command']}", file=sys.stderr, flush=True)
    start = time.perf_counter()

    def write(code: int | None, error: str = "") -> None:
        runs.write_json(record, {"code": code, "error": error, "seconds": round(time.perf_counter() - start, 1)})

    write(None)
    try:
        with gpu_slot(plan_["gpus"], plan_["jobs_per_gpu"], folder.parent / "gpus") as gpu:
            if gpu is not None:
                os.environ["CUDA_VISIBLE_DEVICES"] = gpu
            yield {**task, "notebooks": plan_["notebooks"]}
    except BaseException as error:
        codes = {Refused: 2, StageFailed: 3, KeyboardInterrupt: 130}
        code = error.code if isinstance(error, SystemExit) else codes.get(type(error), 1)
        known = isinstance(error, Refused | StageFailed)
        text = " ".join(str(error).split())[:1000]
        write(int(code or 0), text if known else f"{type(error).__name__}: {text}")
        raise
    write(0)


def die_with_parent(how: int = signal.SIGTERM) -> None:
    """Ask the kernel for a signal to this process when the one that started it dies; Linux only, elsewhere nothing."""
    if platform.system() == "Linux":
        ctypes.CDLL(None).prctl(1, how)  # PR_SET_PDEATHSIG


def gpus() -> list[str]:
    """Return the GPUs that tasks may use: those of CUDA_VISIBLE_DEVICES where it is set, else all there are."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        try:
            asked = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
            given = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.replace("\n", ",")
        except (OSError, subprocess.CalledProcessError):
            given = ""
    return [name.strip() for name in given.split(",") if name.strip() not in ("", "-1")]


@contextlib.contextmanager
def gpu_slot(names: Sequence[str], jobs_per_gpu: int, folder: Path) -> Iterator[str | None]:
    """Hold a place on the least used of some GPUs and give its name, waiting for one; without GPUs give None.

    A place is a locked file: it is free again when the process ends, however it ends.
    """
    held = _take(names, jobs_per_gpu, folder) if names else None
    while names and held is None:
        time.sleep(1)
        held = _take(names, jobs_per_gpu, folder)
    if held is None:
        yield None
        return
    with held[1]:
        yield held[0]


def _take(names: Sequence[str], jobs_per_gpu: int, folder: Path) -> tuple[str, IO[str]] | None:
    folder.mkdir(parents=True, exist_ok=True)
    for place in range(jobs_per_gpu):
        for name in names:
            slot = folder / f"{platform.node()}.{name.replace('/', '_')}.{place}"
            if opened := locked(slot):
                return name, opened
    return None


def command_of(job: Job, stage: str | None, with_notebooks: bool) -> str:
    """Return the command that does what a task does, for people."""
    return shlex.join(["musicrec", *job.arguments(stage, with_notebooks)])
