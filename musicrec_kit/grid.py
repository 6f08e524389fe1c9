"""A sweep on a workflow engine (Snakemake): shared stages once, then every run, in parallel, skipping what is done.

Data in: the cells of a sweep. Data out: finished runs, and `<runs>/.grid/<sweep>/`: a log and a record per task, and
`summary.csv` with a row per cell. Which tasks there are is decided here, in one process, by the stages' keys; Snakemake
(`grid.smk`) sees files only, and calls `musicrec job` for each task, on this machine or through SLURM.
"""

import contextlib
import importlib.util
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pandas as pd

from musicrec_kit import notebooks, runs, sweep
from musicrec_kit.grid_tasks import Task, command_of, die_with_parent, gpus, plan, task_name
from musicrec_kit.locks import locked
from musicrec_kit.params import Refused
from musicrec_kit.pipeline import Job

log = logging.getLogger(__name__)

SLURM_JOBS, SLURM_THREADS = 20, 4  # ours: at once, and of each, where the command line names none


@dataclass(frozen=True)
class Options:
    """How a grid is run."""

    runs_dir: Path
    data_root: str | None = None
    jobs: int | None = None
    threads: int | None = None
    executor: str = "local"
    notebooks: bool = False


# --- what is to do ---------------------------------------------------------------------------------------------------


def checked_jobs(todo: Sequence[sweep.Cell], options: Options) -> list[Job]:
    """Return the cells' jobs, their keys computed: what cannot run is refused before anything runs.

    Raises:
        Refused: settings are refused, files are not there, or two cells with other stages want one run folder.
    """
    try:
        jobs = sweep.jobs(todo, options.runs_dir, options.data_root)
        keys: dict[Path, dict[str, str]] = {}
        for job in jobs:
            if keys.setdefault(job.run_folder, job.keys) != job.keys:
                raise Refused(
                    f"two cells of the sweep want the folder {job.run_folder} for other settings: files of one "
                    f"name, or values that read alike; rename a file, or run them in two folders (--runs)"
                )
    except Refused as error:
        raise Refused(f"{error}; nothing was run") from error
    return jobs


def is_done(job: Job, with_notebooks: bool) -> bool:
    """Say whether a run is done, and its notebooks are executed if they are asked for."""
    if not sweep.is_done(job):
        return False
    return not with_notebooks or all(notebooks.is_executed(name, job) for name in notebooks.notebooks_of(job))


# --- the engine ------------------------------------------------------------------------------------------------------


def run(name: str, todo: Sequence[sweep.Cell], options: Options) -> pd.DataFrame:
    """Build every run of a sweep that is not done, and return one row per cell.

    Columns: the axes, dataset, method, seed, `state` (done, failed, not run), `seconds` that it took now, `error` (what
    failed, and in which stage), `log`, and `run`, its folder; the same is in `<runs>/.grid/<name>/summary.csv`.

    Raises:
        Refused: a cell cannot run, the engine is not installed, or another process runs this sweep.
    """
    jobs = checked_jobs(todo, options)
    lacking = [job for job in jobs if not is_done(job, options.notebooks)]
    folder = options.runs_dir / ".grid" / name
    tasks: list[Task] = []
    if lacking:
        refuse_without_engine(options.executor)
        tasks = plan(lacking)
        with _alone(folder) as lock:
            _write_plan(folder, tasks, options)
            _carry_out(folder, tasks, options, lock, len({task_name(job) for job in jobs}))
    table = _summary(todo, jobs, folder, {task.name: task for task in tasks})
    if lacking:
        runs.write_text(folder / "summary.csv", table.to_csv(index=False))
    return table


def states(todo: Sequence[sweep.Cell], options: Options) -> tuple[pd.DataFrame, list[Task]]:
    """Return one row per cell with its state (done, to do), and the tasks that would run."""
    jobs = checked_jobs(todo, options)
    done = [is_done(job, options.notebooks) for job in jobs]
    tasks = plan([job for job, is_there in zip(jobs, done, strict=True) if not is_there])
    rows = [
        {**_about(cell, job), "state": "done" if is_there else "to do"}
        for cell, job, is_there in zip(todo, jobs, done, strict=True)
    ]
    return pd.DataFrame(rows), tasks


def _about(cell: sweep.Cell, job: Job) -> dict[str, Any]:
    return {**cell.levels, "dataset": job.dataset_name, "method": cell.method, "seed": cell.seed}


def refuse_without_engine(executor: str) -> None:
    """Refuse if what the executor needs is not installed, with the command that installs it."""
    if importlib.util.find_spec("snakemake") is None:
        raise Refused("musicrec grid needs Snakemake, which is not installed: pip install 'musicrec-kit[grid]'")
    if executor == "slurm":
        if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
            raise Refused(
                "--executor slurm needs Snakemake's SLURM plugin, which is not installed: "
                "pip install 'musicrec-kit[grid,slurm]'"
            )
        if shutil.which("sbatch") is None:
            raise Refused(
                "--executor slurm: no `sbatch` here; run it on the cluster's login node, or without --executor"
            )


@contextlib.contextmanager
def _alone(folder: Path, patience: int = 20) -> Iterator[IO[str]]:
    """Hold the sweep's lock; a grid that was killed keeps it until its engine, told to end, has ended."""
    folder.mkdir(parents=True, exist_ok=True)
    for _ in range(patience):
        if opened := locked(folder / "lock"):
            with opened:
                yield opened
            return
        time.sleep(1)
    raise Refused(f"another process runs the sweep {folder.name} in {folder.parent.parent}; wait for it, or stop it")


def _write_plan(folder: Path, tasks: Sequence[Task], options: Options) -> None:
    for name in ("done", "records"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir()
    (folder / "logs").mkdir(exist_ok=True)
    written = {}
    for task in tasks:
        job = task.job
        request = {"dataset_ref": str(job.dataset_ref), "method": job.method, "size": job.size, "seed": job.seed}
        request |= {"runs_dir": str(job.runs_dir), "data_root": job.data_root, "overrides": dict(job.overrides)}
        command = command_of(job, task.stage, options.notebooks)
        written[task.name] = {"command": command, "request": request, "stage": task.stage, "needs": task.needs}
    names = gpus() if options.executor == "local" else []  # SLURM says itself which GPU is whose
    parallel, threads = _shares(options, names)
    value = {"here": str(Path.cwd()), "jobs": parallel, "threads": threads, "notebooks": options.notebooks}
    value |= {"gpus": names, "jobs_per_gpu": math.ceil(parallel / len(names)) if names else 0}
    runs.write_json(folder / "plan.json", {**value, "tasks": written})


def _shares(options: Options, names: Sequence[str]) -> tuple[int, int]:
    """Return the number of tasks at once, and the threads of each."""
    if options.executor == "slurm":
        return options.jobs or SLURM_JOBS, options.threads or SLURM_THREADS
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parallel = options.jobs or len(names) or cores
    return parallel, options.threads or max(1, cores // parallel)


def engine_command(folder: Path, executor: str) -> list[str]:
    """Return Snakemake's command line for the plan in a folder."""
    written = runs.read_json(folder / "plan.json")
    words = [sys.executable, "-m", "snakemake", "--snakefile", str(Path(__file__).with_name("grid.smk"))]
    words += ["--directory", str(folder), "--cores", str(written["jobs"] * written["threads"]), "--keep-going"]
    # the plan is made anew each time, under a lock of ours: Snakemake's own locks and marks are of no use
    words += ["--nolock", "--rerun-incomplete", "--rerun-triggers", "mtime", "--scheduler", "greedy", "--nocolor"]
    words += ["--runtime-source-cache-path", str(folder / ".snakemake" / "sources")]
    if executor == "slurm":
        # sacct, the plugin's first choice, answers only where the cluster runs an accounting data base
        words += ["--executor", "slurm", "--jobs", str(written["jobs"]), "--slurm-status-command", "squeue"]
        if "SNAKEMAKE_PROFILE" not in os.environ:
            words += ["--default-resources", "mem_mb=8000", "runtime=1440"]  # ours; a profile says it better
    return words


def _carry_out(folder: Path, tasks: Sequence[Task], options: Options, lock: IO[str], total: int) -> None:
    """Run the engine to its end, telling how far it is; when this process is ended, the engine and its tasks are."""
    parallel = runs.read_json(folder / "plan.json")["jobs"]
    with (folder / "snakemake.log").open("w") as chatter:
        engine = subprocess.Popen(
            engine_command(folder, options.executor),
            stdin=subprocess.DEVNULL,
            stdout=chatter,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=[lock.fileno()],  # held until the engine has ended, too
            preexec_fn=lambda: _as_engine(options.executor),  # noqa: PLW1509  (this process has one thread)
        )
        try:
            progress = _Progress(folder, tasks, total, parallel)
            while engine.poll() is None:
                progress.tell()
                time.sleep(0.5)
            progress.tell(last=True)
        finally:
            _stop(engine)


def _as_engine(executor: str) -> None:
    """Let SIGINT end this process, and let it end when the grid is killed, and its tasks with it.

    Snakemake told by a signal cancels what it gave to SLURM, but waits for its own children: it is killed, and they
    notice (`die_with_parent`).
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell that starts a grid in the background has it ignored
    die_with_parent(signal.SIGKILL if executor == "local" else signal.SIGINT)


def _stop(engine: "subprocess.Popen[bytes]", patience: float = 30) -> None:
    """Terminate the engine and its tasks, if it still runs."""
    if engine.poll() is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(engine.pid, signal.SIGINT)
        try:
            engine.wait(patience)
        except subprocess.TimeoutExpired:
            os.killpg(engine.pid, signal.SIGKILL)
            engine.wait()


# --- how it goes, and how it went ------------------------------------------------------------------------------------


def outcomes(folder: Path, tasks: Mapping[str, Task], over: bool = False) -> dict[str, dict[str, Any]]:
    """Return task -> state, seconds, error and log, from the files of a grid.

    A state is done, failed (itself, or a task that it needs), running or waiting; once the grid is over, those that
    seem to run were killed, and count as failed.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, task in tasks.items():  # what a task needs comes before it
        path, mark = folder / "records" / f"{name}.json", folder / "done" / name
        record = runs.read_json(path) if path.is_file() else {"code": None, "error": "", "seconds": 0.0}
        state = "done" if mark.is_file() or record["code"] == 0 else "running" if path.is_file() else "waiting"
        made = {"state": "failed" if record["code"] else state, "seconds": record["seconds"], "error": record["error"]}
        made["log"] = folder / "logs" / f"{name}.log"
        if over and state == "running" and record["code"] is None:
            made |= {"state": "failed", "error": "killed before it could say why (out of memory?)"}
        elif over and state == "waiting":
            made |= {"state": "not run", "error": "the engine ended before it", "log": folder / "snakemake.log"}
        failed = [found[other] for other in task.needs if found[other]["state"] == "failed"]
        found[name] = {**failed[0], "seconds": 0.0} if failed else made
    return found


class _Progress:
    """The line that says how far a grid is: rewritten in place on a terminal, else logged when it changes."""

    def __init__(self, folder: Path, tasks: Sequence[Task], total: int, parallel: int) -> None:
        self.folder, self.tasks, self.parallel = folder, {task.name: task for task in tasks}, parallel
        self.before = total - sum(task.stage is None for task in tasks)
        self.total, self.said = total, ""

    def tell(self, last: bool = False) -> None:
        found = outcomes(self.folder, self.tasks)
        whole = [found[name] for name, task in self.tasks.items() if task.stage is None]
        done = [each for each in whole if each["state"] == "done"]
        failed = sum(each["state"] == "failed" for each in whole)
        left = len(whole) - len(done) - failed
        line = f"grid: {self.before + len(done)} of {self.total} runs done, {left} left, {failed} failed"
        if done and left:
            seconds = sum(each["seconds"] for each in done) / len(done) * left / self.parallel
            line += f", about {_duration(seconds)} left"
        in_place = sys.stderr.isatty()
        if in_place and (line != self.said or last):
            sys.stderr.write(f"\r{line:<78}" + ("\n" if last else ""))
            sys.stderr.flush()
        elif line != self.said:
            log.info(line)
        self.said = line


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{max(1, round(seconds))} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _summary(todo: Sequence[sweep.Cell], jobs: Sequence[Job], folder: Path, tasks: Mapping[str, Task]) -> pd.DataFrame:
    found, rows = outcomes(folder, tasks, over=True), []
    for cell, job in zip(todo, jobs, strict=True):
        how = found.get(task_name(job), {"state": "done", "seconds": 0.0, "error": "", "log": ""})
        row = {**_about(cell, job), "state": how["state"], "seconds": how["seconds"], "error": how["error"]}
        row["log"] = how["log"].relative_to(job.runs_dir).as_posix() if how["error"] else ""
        rows.append({**row, "run": job.run_folder.relative_to(job.runs_dir).as_posix()})
    return pd.DataFrame(rows)
