"""Notebooks run from their defaults, and under the methods that have fewer stages or views, as papermill jobs."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.notebooks.conftest import NOTEBOOKS, read

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
# methods of one view, of no training, and without collaborative vectors, where they could trip
OTHERS = [
    ("00_start_here", "markov"),
    ("04_codebook_usage_and_ami", "tiger"),
    ("05_t5_training", "tiger"),
    ("06_decode_and_rank", "tiger"),
    ("06_decode_and_rank", "popularity"),
]


def run(name: str, target: Path, home: dict[str, str], *more: str) -> None:
    """Run a notebook from the repository's root, as the README says."""
    command = [sys.executable, "-m", "papermill", f"notebooks/{name}.ipynb", str(target), "--no-progress-bar", *more]
    done = subprocess.run(command, env=home, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    record = read(target).metadata.papermill
    assert record.exception is None or record.exception is False


# notebooks of whole sweeps are run by `make notebooks` from the same defaults; here one stands for all of them
STAGES = [path.stem for path in NOTEBOOKS if path.stem < "10"]


@pytest.mark.parametrize("name", [*STAGES, "12_musicrec_fig3_alpha_beta"])
def test_runs_from_its_defaults(name: str, tmp_path: Path, home: dict[str, str]) -> None:
    run(name, tmp_path / "out.ipynb", home, "-p", "dataset", "demo_tiny", "-p", "size", "smoke")
    assert not (ROOT / "notebooks" / "runs").exists(), "a relative runs_dir starts from home, not from the notebook"
    pages = [
        output.data["text/html"]
        for cell in read(tmp_path / "out.ipynb").cells
        if cell.cell_type == "code" and "inspector.sheet" in cell.source
        for output in cell.outputs
    ]
    assert len(pages) == name.startswith("04"), "without a browser, the inspector is a sheet"
    assert all(page.count('<img src="data:image/jpeg') > 20 and "&lt;s1." in page for page in pages)


@pytest.mark.parametrize(("name", "method"), OTHERS)
def test_runs_with_other_methods(name: str, method: str, tmp_path: Path, home: dict[str, str]) -> None:
    run(name, tmp_path / "out.ipynb", home, "-p", "method", method)
