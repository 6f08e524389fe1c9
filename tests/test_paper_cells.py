"""Which cells a notebook shows: its own seed, and the other seeds that are finished."""

from pathlib import Path

import pytest

from musicrec_kit import paper_cells, sweep

SWEEP = """
datasets: [demo]
size: small
seeds: [0, 1, 2]
settings:
  - {set: {rank: {beam: 10}}}
axes: {row: {a: {method: popularity}, b: {method: markov, rank: {beam: 5}}}}
"""


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine.yaml").write_text(SWEEP)

    def missing(todo: list, *_: object) -> list:
        return [cell for cell in todo if cell.seed != 2]

    monkeypatch.setattr(sweep, "missing", missing, raising=False)
    return tmp_path / "mine.yaml"


def test_the_seed_asked_for_and_those_that_are_done(asked: Path) -> None:
    cells = paper_cells.shown(str(asked), "demo_tiny", "smoke", 1, "runs", None, {"rank": {"batch": 7}})
    assert [(c.levels["row"], c.seed) for c in cells] == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    assert {(c.dataset, c.size) for c in cells} == {("demo_tiny", "smoke")}
    assert cells[0].overrides == {"rank": {"beam": 10, "batch": 7}}
    assert cells[2].overrides == {"rank": {"beam": 5, "batch": 7}}, "a row's own settings win"


def test_rows_that_are_not_asked_for_are_shown_if_they_are_done(asked: Path) -> None:
    cells = paper_cells.shown(str(asked), "demo_tiny", "smoke", 0, "runs", rows={"b"}.__contains__)
    assert [(c.levels["row"], c.seed) for c in cells] == [("a", 2), ("b", 0), ("b", 2)]


def test_what_is_asked_is_a_table(asked: Path) -> None:
    table = paper_cells.asked(paper_cells.shown(str(asked), "demo_tiny", "smoke", 0, "runs"))
    assert table.to_dict("records") == [
        {"row": "a", "method": "popularity", "differs": "rank.beam=10", "seeds": [0, 2]},
        {"row": "b", "method": "markov", "differs": "rank.beam=5", "seeds": [0, 2]},
    ]
