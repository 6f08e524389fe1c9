"""The form of notebooks: architecture.md section 6, as far as a program can see it."""

import ast
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml

from musicrec_kit.pipeline import Job
from tests.notebooks.conftest import NOTEBOOKS, read

PARAMETERS = {
    "dataset": "demo_tiny",
    "method": "musicrec",
    "size": "smoke",
    "seed": 0,
    "runs_dir": "runs",
    "data_root": None,
    "overrides": {},
}
ORDER = ("Imports", "Parameters", "Resolved settings", "What we saw", "Recorded results")
EXPECTED = (
    "00_start_here 01_data_prep 02_feature_extraction 03_tokenizer_training "
    "04_codebook_usage_and_ami 05_t5_training 06_decode_and_rank 07_baselines 10_musicrec_table2 "
    "11_musicrec_table3_ablation "
    "12_musicrec_fig3_alpha_beta 13_musicrec_fig4_codebook 20_mgr_tables_1_2_3 21_mgr_table5 "
    "22_mgr_fig4_groups 23_mgr_fig5_fig6 90_against_the_papers"
)

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_numbered_notebooks_are_there() -> None:
    assert set(EXPECTED.split()) <= {path.stem for path in NOTEBOOKS}


@every_notebook
def test_one_parameters_cell_the_same_in_all(path: Path) -> None:
    cells = [cell for cell in code(read(path)) if "parameters" in cell.metadata.get("tags", [])]
    assert len(cells) == 1
    tree = ast.parse(cells[0].source)
    found = {node.target.id: ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.AnnAssign)}
    assert found == PARAMETERS and len(tree.body) == len(PARAMETERS)
    assert all("  # " in line for line in cells[0].source.splitlines()), "every parameter is explained"
    asked = papermill.inspect_notebook(str(path))
    assert set(asked) == set(PARAMETERS) and all(value["help"] for value in asked.values())


@every_notebook
def test_prose_and_size(path: Path) -> None:
    notebook = read(path)
    prose = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    assert 15 <= len(notebook.cells) <= 30
    assert len(prose) / len(notebook.cells) >= 0.4
    lengths = [len(cell.source.splitlines()) for cell in code(notebook)]
    assert max(lengths) <= 14 and sum(length > 10 for length in lengths) <= 1
    assert all(len(line) <= 120 for cell in code(notebook) for line in cell.source.splitlines())


@every_notebook
def test_order_of_sections(path: Path) -> None:
    prose = [cell.source for cell in read(path).cells if cell.cell_type == "markdown"]
    assert prose[0].startswith("# ") and "**Question.**" in prose[0] and "**What you will see.**" in prose[0]
    assert "| size | " in prose[0], "how long it takes at each size"
    headings = [text.splitlines()[0].removeprefix("## ") for text in prose if text.startswith("## ")]
    places = [headings.index(name) for name in ORDER]
    assert places == sorted(places)


@every_notebook
def test_notebooks_call_the_kit_and_define_nothing(path: Path) -> None:
    cells = code(read(path))
    assert cells[0].source.startswith("import musicrec_kit\n"), "the first import prepares torchvision"
    tree = ast.parse("\n".join(cell.source for cell in cells))
    defined = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert not defined
    calls = {
        node.func.attr for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    assert not calls & {"backward", "zero_grad", "step"}, "no training loops"


@every_notebook
def test_a_checked_table_is_kept_and_nothing_else(path: Path) -> None:
    checked = [cell for cell in code(read(path)) if cell.source.startswith("# NBVAL_CHECK_OUTPUT\n")]
    assert checked
    for cell in checked:
        assert "keep_output" in cell.metadata.tags and cell.outputs and cell.execution_count
    others = [cell for cell in code(read(path)) if cell not in checked]
    assert not any(cell.outputs for cell in others)


def test_committed_notebooks_equal_their_stripped_selves() -> None:
    command = [sys.executable, "-m", "nbstripout", "--keep-count", "--verify", *map(str, NOTEBOOKS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


RUNS = sorted((Path(__file__).parents[2] / "params" / "runs").glob("*.yaml"))


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_files_for_papermill_hold_the_parameters(path: Path, tmp_path: Path) -> None:
    values = yaml.safe_load(path.read_text())
    assert set(values) <= set(PARAMETERS), "papermill would only log a parameter that the notebooks do not have"
    assert Job(
        **{"runs_dir": str(tmp_path), **{("dataset_ref" if k == "dataset" else k): v for k, v in values.items()}}
    )
