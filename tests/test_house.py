"""The rules of the house: imports run one way, no method is named in code, what is committed agrees with itself."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from musicrec_kit import methods

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "musicrec_kit"

# a room may import rooms to its left (architecture.md section 3, top to bottom)
ORDER = (
    "torchvision_hook settings_help stage_params sequential_params params methods seeds locks sorted_rows distributed "
    "runs training data features tokenizers evaluation ids generation sequential analysis plots plots_mechanism tables "
    "orderings row_tables paper_tables paper_plots plan pipeline recommender forecast notebooks sweep grid_tasks grid "
    "paper_cells ledger cli"
).split()


def _modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("musicrec_kit"):
            inside = (node.module or "").split(".")[1:]
            rooms |= {inside[0]} if inside else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            rooms |= {a.name.split(".")[1] for a in node.names if a.name.startswith("musicrec_kit.")}
    return rooms & set(ORDER)


@pytest.mark.parametrize("path", _modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_one_way(path: Path) -> None:
    room = _room(path)
    if room in ("__init__", "__main__"):
        return
    assert room in ORDER, f"{room} is a room that ORDER does not know"
    later = {other for other in _imported_rooms(path) if ORDER.index(other) > ORDER.index(room)}
    assert not later, f"{path.name} imports {later}, which come after {room}"


def test_no_module_names_a_method() -> None:
    names = set(methods.names("methods")) - {"popularity", "markov"}  # these two are also the names of lists
    for path in _modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare):
                words = {c.value for c in ast.walk(node) if isinstance(c, ast.Constant) and isinstance(c.value, str)}
                assert not words & names, f"{path.name}:{node.lineno} branches on the method {words & names}"


@pytest.mark.parametrize("path", _modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_public_functions_and_modules_have_docstrings(path: Path) -> None:
    tree = ast.parse(path.read_text())
    if tree.body:
        assert ast.get_docstring(tree), f"{path} has no docstring"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path.name}: {node.name} has no docstring"


def test_importing_the_kit_imports_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "sklearn", "matplotlib", "papermill", "polars", "open_clip", "ipywidgets")
    code = f"import sys, musicrec_kit, musicrec_kit.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_torchvision_and_what_needs_it_import_beside_this_torch() -> None:
    code = "import musicrec_kit, torchvision, open_clip; from transformers import T5ForConditionalGeneration, CLIPModel"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True)


def _project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_environment_yml_agrees_with_pyproject() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python = next(d for d in environment["dependencies"] if isinstance(d, str) and d.startswith("python="))
    lowest = re.search(r">=(\d+)\.(\d+)", _project()["project"]["requires-python"])
    assert lowest is not None
    assert tuple(map(int, python.split("=")[1].split("."))) >= tuple(map(int, lowest.groups()))
    pip = next(d for d in environment["dependencies"] if isinstance(d, dict))["pip"]
    assert pip == ["-r requirements-dev.txt"]
    requirements = (ROOT / "requirements-dev.txt").read_text().split("\n")
    assert "-c constraints.txt" in requirements
    extras = set(_project()["project"]["optional-dependencies"]) - {"slurm", "crosscheck"}  # asked for by name
    asked = next(line for line in requirements if line.startswith("-e"))
    assert set(re.findall(r"\w+", asked.split("[")[1])) == extras
    assert set(re.findall(r"\w+", re.search(r"-e '\.\[(.*?)\]'", (ROOT / "Makefile").read_text())[1])) == extras


def test_constraints_satisfy_the_ranges() -> None:
    from packaging.requirements import Requirement

    pinned = dict(re.findall(r"^([\w.-]+)==(.+)$", (ROOT / "constraints.txt").read_text(), re.M))
    pinned = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pinned.items()}
    project = _project()["project"]
    wanted = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    for text in wanted:
        requirement = Requirement(text)
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        assert name in pinned, f"{name} is not in constraints.txt"
        assert requirement.specifier.contains(pinned[name]), f"{text} refuses the tested {pinned[name]}"


def _tracked() -> list[Path]:
    try:
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def test_no_large_file_and_no_path_of_a_machine_is_committed() -> None:
    for path in _tracked():
        assert path.stat().st_size < 1_000_000, f"{path} is over 1 MB"
        if (
            path.suffix in (".py", ".md", ".yaml", ".yml", ".toml", ".ipynb", ".txt", ".cfg", "")
            and path.name != "LICENSE"
        ):
            text = path.read_text(errors="ignore")
            assert not re.search(r"(^|[^\w.])/(work|home|root)/\w", text), f"{path} holds a path of a machine"


def test_readme_and_notebooks_do_not_name_the_developers_data_folder() -> None:
    for path in [ROOT / "README.md", *sorted((ROOT / "notebooks").glob("*.ipynb"))]:
        assert "../shared" not in path.read_text()


def test_every_name_in_the_readmes_paper_table_exists() -> None:
    import importlib

    text = (ROOT / "README.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and "musicrec_kit." in line]
    assert len(rows) >= 10, "README's table 'in the paper -> in the kit -> in the notebook' is missing"
    for row in rows:
        for dotted in re.findall(r"`(musicrec_kit\.[\w.]+)`", row):
            module, _, name = dotted.rpartition(".")
            assert hasattr(importlib.import_module(module), name), f"README names {dotted}, which is not there"
        for notebook in re.findall(r"`(\d\d_\w+)`", row):
            assert (ROOT / "notebooks" / f"{notebook}.ipynb").is_file(), f"README names {notebook}, which is not there"
