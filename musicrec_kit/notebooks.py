"""Run the numbered notebooks of a method, each a papermill job that calls the same `Job` as a direct run.

Data in: a `Job`. Data out: executed copies in `<run>/notebooks/`; the stages' results are the notebooks' doing.
"""

import logging
from pathlib import Path
from typing import Any

from musicrec_kit import runs
from musicrec_kit.params import Refused
from musicrec_kit.pipeline import Job

log = logging.getLogger(__name__)

# which notebook shows which stage; one that shows several stages is listed at the last of them
NOTEBOOK_OF_STAGE = {
    "data": "01_data_prep",
    "features": "02_feature_extraction",
    "tokenizer": "03_tokenizer_training",
    "ids": "04_codebook_usage_and_ami",
    "generator": "05_t5_training",
    "evaluate": "06_decode_and_rank",
}


def folder() -> Path:
    """Return the folder of the notebooks: `notebooks/` of the checkout, else the copy inside the installed package."""
    package = Path(__file__).parent
    checkout = package.parent / "notebooks"
    return checkout if checkout.is_dir() else package / "_notebooks"


def notebooks_of(job: Job, until: str | None = None) -> list[str]:
    """Return the notebooks that a method's stages need, in order, up to the stage `until`."""
    stages = list(job.stages[: job.stages.index(until) + 1] if until else job.stages)
    return [NOTEBOOK_OF_STAGE[stage] for stage in stages if stage in NOTEBOOK_OF_STAGE]


def parameters(job: Job) -> dict[str, Any]:
    """Return the values of the `parameters` cell, the same seven in every notebook."""
    return {
        "dataset": str(job.dataset_ref),
        "method": job.method,
        "size": job.size,
        "seed": job.seed,
        "runs_dir": str(job.runs_dir),
        "data_root": None if job.data_root is None else str(Path(job.data_root).resolve()),
        "overrides": dict(job.overrides),
    }


def code_hash(path: Path) -> str:
    """Return a hash of what a notebook's code cells say: outputs saved in JupyterLab, prose and ids do not count."""
    cells = runs.read_json(path)["cells"]
    return runs.key_of(["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"])


def is_executed(name: str, job: Job) -> bool:
    """Say whether a notebook was executed to its end, as it is now, with the job's stages as they are now."""
    record = job.run_folder / "notebooks" / f"{name}.json"
    return record.is_file() and record.with_suffix(".ipynb").is_file() and runs.read_json(record) == _now(name, job)


def _now(name: str, job: Job) -> dict[str, Any]:
    return {"code": code_hash(folder() / f"{name}.ipynb"), "keys": job.keys}


def execute(name: str, job: Job) -> Path:
    """Execute one notebook with the job's parameters, unless that is done, and return the executed copy's path.

    Raises:
        Refused: the notebook's parameters cell does not take a value that it would be given.
        papermill.PapermillExecutionError: a cell failed.
    """
    import papermill

    source = folder() / f"{name}.ipynb"
    values = parameters(job)
    takes = set(papermill.inspect_notebook(str(source)))
    if unknown := set(values) - takes:
        raise Refused(
            f"notebook {name} has no parameter {', '.join(sorted(unknown))}; its parameters cell has {sorted(takes)}"
        )
    target = job.run_folder / "notebooks" / f"{name}.ipynb"
    done = _now(name, job)  # of the notebook that is executed, if it is edited meanwhile
    if is_executed(name, job):
        log.info("%s: executed before, nothing changed", name)
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".running.ipynb")
    papermill.execute_notebook(
        str(source), str(part), parameters=values, kernel_name="python3", progress_bar=False, cwd=str(Path.cwd())
    )
    part.replace(target)
    runs.write_json(target.with_suffix(".json"), done)  # last: only a notebook that ran to its end is not run again
    return target


def execute_all(job: Job, until: str | None = None) -> None:
    """Execute the notebooks of every stage up to `until`, in order."""
    for name in notebooks_of(job, until):
        log.info("notebook %s", name)
        execute(name, job)
