"""The command line `musicrec`: a thin layer over `Job`.

Exit codes: 0 done; 2 refused (settings or data); 3 failed in a stage (a rerun resumes); 130 / 143 interrupted.
"""

import argparse
import json
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from musicrec_kit import distributed, methods, runs
from musicrec_kit.locks import locked
from musicrec_kit.params import Refused
from musicrec_kit.pipeline import Job, StageFailed, pick_device

REFUSED, FAILED, INTERRUPTED = 2, 3, 130
SIZES = ("smoke", "small", "paper")


def parser() -> argparse.ArgumentParser:
    """Return the parser of every command."""
    top = argparse.ArgumentParser(prog="musicrec", description="Multimodal generative recommendation, stage by stage.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="build a run: data set x method x size x seed")
    _add_job(run)
    run.add_argument("--until", metavar="STAGE", help="stop after this stage")
    run.add_argument("--no-notebooks", action="store_true", help="run the stages directly, without executed notebooks")
    run.add_argument("--processes", type=int, metavar="N", help="train, rank and extract features in N processes")
    run.add_argument(
        "--dry-run", action="store_true", help="print stages, parameters, time, memory and disk; build nothing"
    )
    grid = commands.add_parser("grid", help="build every run of a sweep, in parallel, and print its table")
    grid.add_argument("sweep", metavar="SWEEP", help="a name in params/sweeps, or a path to such a YAML file")
    grid.add_argument("--dataset", action="append", help="in the place of the sweep's data sets; may be given again")
    grid.add_argument("--size", choices=SIZES, help="in the place of the sweep's size")
    grid.add_argument("--seeds", help="training seeds, comma separated, in the place of the sweep's")
    grid.add_argument("--data-root", help="folder that the data sets' relative paths start from")
    grid.add_argument("--jobs", type=int, help="runs at once (default: one per GPU, without GPUs one per core)")
    grid.add_argument("--threads", type=int, help="CPU threads of each (default: cores divided by jobs)")
    grid.add_argument("--executor", choices=("local", "slurm"), default="local", help="default: %(default)s")
    grid.add_argument("--notebooks", action="store_true", help="execute the notebooks of every run, too")
    grid.add_argument("--figures", metavar="DIR", help="write the tables to DIR/<sweep>.csv")
    grid.add_argument("--dry-run", action="store_true", help="list the cells and their state; build nothing")
    job = commands.add_parser("job")  # what a grid's engine calls: no help, no name in the list of commands
    job.add_argument("folder", type=Path)
    job.add_argument("task")
    listing = commands.add_parser("list", help="list the finished runs")
    results = commands.add_parser("results", help="print the metrics of the finished runs")
    results.add_argument("--sweep", help="only the finished runs of this sweep, with its axes")
    for name in ("dataset", "method", "list"):
        results.add_argument(f"--{name}", action="append", help=f"only this {name}; may be given again")
    results.add_argument("--size", choices=SIZES, help="only this size")
    results.add_argument("--metric", default="hr@10,ndcg@10", help="metrics, comma separated (default: %(default)s)")
    compare = commands.add_parser("compare", help="compare two runs: the settings that differ, and a paired test")
    compare.add_argument("run", nargs=2, metavar="RUN", help="run folder, or its name as `musicrec list` prints it")
    recommend = commands.add_parser("recommend", help="recommend items after a history")
    recommend.add_argument("run", metavar="RUN", help="run folder, or its name as `musicrec list` prints it")
    recommend.add_argument("--history", nargs="+", required=True, metavar="RAW_ID", help="item ids, oldest first")
    recommend.add_argument("-k", "--k", type=int, default=10, help="how many items (default: %(default)s)")
    doctor = commands.add_parser(
        "doctor", help="look at a data set: counts beside the published, ties, cold items, gaps"
    )
    _add_job(doctor, method="popularity")
    clean = commands.add_parser("clean", help="remove stage results that no finished run points to")
    clean.add_argument("--yes", action="store_true", help="remove them; without it they are only listed")
    for command in (grid, listing, results, compare, recommend, clean):
        command.add_argument("--runs", default="runs", help="folder of runs (default: %(default)s)")
    return top


def _add_job(command: argparse.ArgumentParser, method: str = "musicrec") -> None:
    command.add_argument("dataset", metavar="DATASET", help="a name in params/datasets, or a path to such a YAML file")
    command.add_argument("--method", default=method, help="a name in params/methods, or a path (default: %(default)s)")
    command.add_argument("--size", choices=SIZES, default="small", help="default: %(default)s")
    command.add_argument("--seed", type=int, default=0, help="seed of training (default: %(default)s)")
    command.add_argument("--runs", default="runs", help="folder of runs (default: %(default)s)")
    command.add_argument("--data-root", help="folder that the data set's relative paths start from")
    command.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="assignments", help="a setting"
    )
    command.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: %(default)s)")
    command.add_argument("--threads", type=int, help="CPU threads (default: all)")


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if not distributed.is_first():  # it works, and the first one talks
        logging.getLogger().setLevel(logging.ERROR)
        os.environ["TQDM_DISABLE"], sys.stdout = "1", Path(os.devnull).open("w")
    for noisy in ("httpx", "papermill", "traitlets"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    signal.signal(signal.SIGTERM, _on_term)
    try:
        return COMMANDS[options.command](options)
    except Refused as error:
        print(f"refused: {error}", file=sys.stderr)
        return REFUSED
    except StageFailed as error:
        logging.getLogger(__name__).debug("", exc_info=True)
        print(f"{error}; the same command continues from what is done", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("interrupted; the same command continues from what is done", file=sys.stderr)
        return INTERRUPTED


def _on_term(number: int, _frame: Any) -> None:
    print("terminated; the same command continues from what is done", file=sys.stderr)
    sys.exit(128 + number)


def make_job(options: argparse.Namespace) -> Job:
    """Return the job that a command's options describe."""
    _set_threads(options.threads)
    return Job(
        dataset_ref=options.dataset,
        method=options.method,
        size=options.size,
        seed=options.seed,
        runs_dir=Path(options.runs),
        data_root=options.data_root,
        overrides=methods.parse_set(options.assignments),
        device=options.device,
    )


def _set_threads(threads: int | None) -> None:
    if threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)
        import torch

        torch.set_num_threads(threads)


def _set_processes(options: argparse.Namespace) -> None:
    if distributed.size() > 1 and (options.processes or not options.no_notebooks):
        raise Refused(
            "under torchrun there are processes already, and no notebooks: start it with --no-notebooks and without "
            "--processes, or `musicrec run --processes N` without torchrun"
        )
    if options.processes is not None:
        if options.processes < 1:
            raise Refused(f"--processes {options.processes}: at least 1")
        os.environ[distributed.PROCESSES] = str(options.processes)  # notebooks and what they start read it


def run(options: argparse.Namespace) -> int:
    """`musicrec run`: build the stages, by notebooks or directly; the last line on stdout is one JSON object."""
    start = time.perf_counter()
    job = make_job(options)
    if options.dry_run:
        from musicrec_kit.forecast import forecast

        print(forecast(job).to_string(index=False))
        return 0
    _set_processes(options)
    pick_device(options.device)
    _ = job.keys  # a missing file is refused before anything is built
    if options.until is not None and options.until not in job.stages:
        raise Refused(f"--until {options.until}: method {job.method} has the stages {', '.join(job.stages)}")
    return _carry_out(job, options.until, not options.no_notebooks, start)


def _carry_out(job: Job, until: str | None, with_notebooks: bool, start: float) -> int:
    if with_notebooks:
        _run_notebooks(job, until)
    metrics = job.build(until)
    if metrics is None:
        return 0
    from musicrec_kit import tables

    print(tables.show(tables.run_table(job.run_folder)))
    print(f"\nrun folder: {os.path.relpath(job.run_folder)}")
    if with_notebooks:
        print(f"notebooks:  {os.path.relpath(job.run_folder / 'notebooks')} (executed; open them with: jupyter lab)")
    main_list = metrics["main_list"]
    keys = [f"test/{main_list}/{metric}" for metric in ("hr@10", "ndcg@10")]
    line: dict[str, Any] = {
        "run": str(job.run_folder),
        "dataset": job.dataset_name,
        "method": job.method_name,
        "variant": job.variant,
    }
    line |= {"size": job.size, "seed": job.seed, "main_list": main_list, **{key: metrics[key] for key in keys}}
    print(json.dumps({**line, "seconds": round(time.perf_counter() - start, 1)}))
    return 0


def _run_notebooks(job: Job, until: str | None) -> None:
    from musicrec_kit import notebooks

    if "tokenizer" in job.stages:
        job.refuse_more_codes_than_items()
    try:
        notebooks.execute_all(job, until)
    except (Refused, KeyboardInterrupt):
        raise
    except Exception as error:
        # what happened inside the notebook, not that it was in one
        kind, says = getattr(error, "ename", ""), getattr(error, "evalue", "")
        if kind == Refused.__name__:
            raise Refused(says) from error
        stage = says.split()[1] if kind == StageFailed.__name__ else "notebooks"
        raise StageFailed(stage, error) from error


def grid(options: argparse.Namespace) -> int:
    """`musicrec grid`: every cell of a sweep, in parallel; prints its table and what failed."""
    from musicrec_kit import grid as engine
    from musicrec_kit import sweep, tables

    raw = sweep.read(options.sweep)
    seeds = [int(seed) for seed in options.seeds.split(",")] if options.seeds else None
    asked = sweep.chosen(raw, datasets=options.dataset, size=options.size, seeds=seeds)
    todo, folder, root = list(sweep.cells(asked)), _runs_dir(options.runs), options.data_root
    how = engine.Options(folder, root, options.jobs, options.threads, options.executor, options.notebooks)
    if options.dry_run:
        table, tasks = engine.states(todo, how)
        print(tables.show(table))
        shared = [task.name for task in tasks if task.stage]
        print(f"{len(tasks) - len(shared)} runs to do, and {len(shared)} stages that several of them share", *shared)
        return 0
    cells = engine.run(Path(options.sweep).stem, todo, how)
    runs.results_table(folder)
    split = asked.get("split", "test")  # a sweep that chooses a setting looks at `valid`
    found = sweep.results(todo, folder, root, split)
    print(f"split {split}, lists of record")
    made = {"": sweep.with_ceilings(sweep.wide(found), folder)}
    print(tables.show(sweep.summary(found, list(asked.get("axes") or {}))))
    if asked.get("contrast"):
        made["_differences"] = sweep.contrasts(todo, asked["contrast"], folder, root)
        print(tables.show(made["_differences"]))
    for end, table in made.items() if options.figures else ():
        path = methods.home() / options.figures / f"{Path(options.sweep).stem}{end}.csv"
        runs.write_text(path, table.to_csv(index=False, float_format="%.6f"))
        print(f"table: {os.path.relpath(path)}")
    failed = cells[cells["state"] != "done"]
    for cell in failed.to_dict("records"):
        where = os.path.relpath(folder / cell["log"])
        print(f"{cell['state']}: {cell['run']}: {cell['error']} (log: {where})", file=sys.stderr)
    return FAILED if len(failed) else 0


def job(options: argparse.Namespace) -> int:
    """`musicrec job`: one task of a grid, called by its engine."""
    from musicrec_kit import grid_tasks

    start = time.perf_counter()
    with grid_tasks.recorded(options.folder, options.task) as task:
        made = Job(**task["request"])
        if task["stage"]:
            made.make(task["stage"])
            return 0
        return _carry_out(made, None, task["notebooks"], start)


def find_run(name: str, folder: str) -> runs.Run:
    """Return a run by its folder, or by its name as `musicrec list` prints it."""
    if (Path(name) / "stages.json").is_file():
        return runs.load_run(name)
    found = [run for run in runs.list_runs(_runs_dir(folder)) if run.name == name]
    if not found:
        raise Refused(f"no run {name!r}: it is neither a run folder nor listed by `musicrec list --runs {folder}`")
    return found[0]


def _runs_dir(folder: str) -> Path:
    return methods.home() / folder


def show_list(options: argparse.Namespace) -> int:
    """`musicrec list`: one line per finished run."""
    found = runs.list_runs(_runs_dir(options.runs))
    for each in found:
        print(each.name)
    if not found:
        print(
            f"no finished runs in {options.runs}; make one with: musicrec run demo_tiny --size smoke", file=sys.stderr
        )
    return 0


def results(options: argparse.Namespace) -> int:
    """`musicrec results`: one row per run and list."""
    from musicrec_kit import tables

    folder, metrics = _runs_dir(options.runs), options.metric.split(",")
    axes: list[str] = []
    table = runs.results_table(folder)
    if options.sweep:
        from musicrec_kit import sweep

        raw = sweep.chosen(sweep.read(options.sweep), datasets=options.dataset, size=options.size)
        table = sweep.results(list(sweep.cells(raw)), folder)
        axes = list(raw.get("axes") or {})
    else:
        metrics = [f"test/{metric}" for metric in metrics]
    for name in ("dataset", "method", "list"):
        if getattr(options, name):
            table = table[table[name].isin(getattr(options, name))]
    if options.size:
        table = table[table["size"] == options.size]
    print(tables.show(tables.results_wide(table, metrics, axes)))
    return 0


def compare(options: argparse.Namespace) -> int:
    """`musicrec compare`: the settings that differ and a paired comparison of the lists of record."""
    from musicrec_kit import tables

    first, second = (find_run(name, options.runs) for name in options.run)
    print(tables.show(tables.differing_settings(first, second)))
    print(tables.show(tables.paired(first, second)))
    return 0


def recommend(options: argparse.Namespace) -> int:
    """`musicrec recommend`: titles, scores and IDs of the next items after a history."""
    from musicrec_kit import tables
    from musicrec_kit.recommender import Recommender

    recommender = Recommender.load(find_run(options.run, options.runs).folder)
    print(tables.show(recommender.recommend([options.history], options.k)))
    return 0


def doctor(options: argparse.Namespace) -> int:
    """`musicrec doctor`: what a data set holds, beside what was published."""
    from musicrec_kit import tables

    job = make_job(options)
    print(tables.show(tables.data_report(job.dataset, job.settings.data.expected)))
    return 0


def clean(options: argparse.Namespace) -> int:
    """`musicrec clean`: remove stage results that no finished run points to."""
    import shutil

    folder = _runs_dir(options.runs)
    for held in folder.glob(".grid/*/lock"):
        if (free := locked(held)) is None:
            raise Refused(f"a grid is running in {held.parent}: its runs will need what looks unused now")
        free.close()
    kept = {run.stage(stage) for run in runs.list_runs(folder) for stage in run.stages}
    unused = [path for path in sorted(folder.glob("*/stages/*/*")) if path.is_dir() and path.resolve() not in kept]
    for path in unused:
        if (free := locked(path.parent / f".{path.name}.lock")) is None:
            print(f"kept {os.path.relpath(path)}: it is being made")
            continue
        with free:
            print(("removed " if options.yes else "would remove ") + os.path.relpath(path))
            if options.yes:
                shutil.rmtree(path)
    return 0


COMMANDS = {
    "run": run,
    "grid": grid,
    "job": job,
    "list": show_list,
    "results": results,
    "compare": compare,
    "recommend": recommend,
    "doctor": doctor,
    "clean": clean,
}
