"""What tests of notebooks share: where they are, and one folder of runs, so that a stage is built once."""

import os
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


def read(path: Path) -> nbformat.NotebookNode:
    """Return a notebook."""
    return nbformat.read(path, as_version=4)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the environment of a process whose runs and figures go to a folder of this session.

    Processes of pytest-xdist share it: stages are locked, so each is built once.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "notebooks-home"
    folder.mkdir(exist_ok=True)
    return {**os.environ, "MUSICREC_HOME": str(folder), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")}
