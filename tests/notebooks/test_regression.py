"""A changed number makes nbval fail: shown on a copy of the quickest notebook."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tests.notebooks.conftest import NOTEBOOKS, read

ROOT = Path(__file__).parents[2]


def nbval(notebook: Path, home: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run nbval as `make notebooks` does."""
    options = ["--nbval-lax", "--nbval-current-env", "--nbval-sanitize-with", str(ROOT / "tests/nbval_sanitize.cfg")]
    command = [
        sys.executable,
        "-m",
        "pytest",
        *options,
        "--rootdir",
        str(notebook.parent),
        "-c",
        "/dev/null",
        str(notebook),
    ]
    return subprocess.run(command, env=home, cwd=notebook.parent, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_changed_number_makes_nbval_fail(tmp_path: Path, home: dict[str, str]) -> None:
    (source,) = [path for path in NOTEBOOKS if path.stem == "01_data_prep"]
    untouched = tmp_path / "untouched.ipynb"
    untouched.write_text(source.read_text())
    done = nbval(untouched, home)
    assert done.returncode == 0, done.stdout[-3000:]
    notebook = read(source)
    (cell,) = [cell for cell in notebook.cells if cell.source.startswith("# NBVAL_CHECK_OUTPUT")]
    (output,) = cell.outputs
    changed = re.sub(r"(users +)200", r"\g<1>201", output.text, count=1)
    assert changed != output.text
    output.text = changed
    nbformat.write(notebook, tmp_path / "tampered.ipynb")
    done = nbval(tmp_path / "tampered.ipynb", home)
    assert done.returncode == 1 and "mismatch" in done.stdout, done.stdout[-3000:]
