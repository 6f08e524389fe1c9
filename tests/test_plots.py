"""Figures: what is drawn, and that equal input gives equal bytes."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from musicrec_kit import plots
from musicrec_kit.data import Dataset, ImageStore

TABLE = pd.DataFrame(
    {
        "list": ["merged", "text", "markov"],
        "HR@10 new": [0.3, 0.2, 0.1],
        "HR@10 low new": [0.25, 0.15, 0.05],
        "HR@10 high new": [0.35, 0.25, 0.15],
    }
)
LOG = pd.DataFrame(
    {"part": "all", "epoch": range(4), "loss": [4.0, 2, 1, 0.5], "valid": [None, 3, None, 2], "off": 0.0}
)


def test_save_writes_the_same_bytes_twice(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        path = plots.save(plots.metric_bars(TABLE, ceilings={"both": 0.5}), TABLE, "bars", tmp_path / folder)
        assert path == tmp_path / folder / "bars.png"
        with Image.open(path) as picture:
            assert picture.width > 300
    for name in ("bars.png", "bars.pdf", "bars.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "one" / "bars.csv"), TABLE)
    pdf = (tmp_path / "one" / "bars.pdf").read_bytes()
    assert b"CreationDate" not in pdf and b"/Type3" not in pdf, "text stays text (font type 42)"


def test_save_goes_to_the_figures_of_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSICREC_HOME", str(tmp_path))
    assert plots.save(plots.histogram([1, 2], "n"), TABLE, "x").parent == tmp_path / "figures"


def test_metric_bars_draw_intervals_and_ceilings() -> None:
    (axis,) = plots.metric_bars(TABLE, ceilings={"both": 0.5, "text": 0.4}).axes
    assert [bar.get_height() for bar in axis.patches] == [0.3, 0.2, 0.1]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["merged", "text", "markov"]
    assert {"ceiling both", "ceiling text"} == {text.get_text() for text in axis.texts}
    assert len(axis.containers) == 6, "three bars and three intervals"


def test_learning_curve_draws_a_panel_per_part_and_leaves_gaps_out() -> None:
    figure = plots.learning_curve(pd.concat([LOG, LOG.assign(part="image")]))
    assert len(figure.axes) == 2
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert lines["valid"].get_xdata().tolist() == [2, 4] and lines["loss"].get_ydata().tolist() == [4, 2, 1, 0.5]
    assert len({(line.get_linestyle(), line.get_marker()) for line in lines.values()}) == 2, "told apart without colour"
    assert plots.learning_curve(LOG.iloc[:0]).axes, "a training of no epochs has an empty panel"


def test_loss_terms_leave_out_what_is_zero() -> None:
    (axis,) = plots.loss_terms(LOG, ["loss", "off", "never"]).axes
    assert [line.get_label() for line in axis.lines] == ["loss"] and axis.get_yscale() == "log"
    assert not plots.loss_terms(LOG, ["off"]).axes[0].lines


def test_codebook_usage_draws_shares() -> None:
    usage = pd.DataFrame({"view": ["a", "a"], "level": [0, 1], "size": 8, "used": [8, 4], "perplexity": [4.0, 2.0]})
    (axis,) = plots.codebook_usage(usage).axes
    assert [bar.get_height() for bar in axis.patches] == [1, 0.5, 0.5, 0.25]


def test_a_heat_map_writes_its_numbers() -> None:
    frame = pd.DataFrame([[1.0, np.nan], [0.25, 0.5]], index=["a", "b"], columns=["x", "y"])
    axis = plots.heat_map(frame).axes[0]
    assert [text.get_text() for text in axis.texts] == ["1.00", "0.25", "0.50"]
    assert plots.heat_map(pd.DataFrame()).axes[0].texts[0].get_text() == "nothing to compare"


def test_the_ami_map_has_a_row_per_level_in_order() -> None:
    rows = [("text", "image", 1, "prefix", 0.1), ("text", "image", 1, "code", 0.9), ("text", "kind", 0, "prefix", 0.2)]
    axis = plots.ami_map(pd.DataFrame(rows, columns=["a", "b", "level", "labels", "ami"])).axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["text, level 1", "text, level 2"]
    assert sorted(text.get_text() for text in axis.texts) == ["0.10", "0.20"]
    assert plots.ami_map(pd.DataFrame()).axes[0].texts[0].get_text() == "nothing to compare"


def test_a_notebook_shows_figures_as_pictures() -> None:
    assert plots.histogram([1, 2, 2], "n")._repr_png_().startswith(b"\x89PNG")


@pytest.fixture
def toy(tmp_path: Path) -> Dataset:
    """Return two items: a red picture under a title with dollars, and no picture and no title."""
    Image.new("RGB", (8, 8), "red").save(tmp_path / "0.png")
    items = pd.DataFrame({"item": [0, 1], "raw_id": ["a", "b"], "title": ["cost $5 or $6", ""], "description": ""})
    items = items.assign(brand="", categories=[[], []], image=["0.png", None])
    columns = ["user", "item", "time", "position", "split"]
    empty = pd.DataFrame({name: [] for name in columns})
    return Dataset("toy", empty, items, {"users": 0}, ImageStore(tmp_path))


def test_lines_have_a_panel_per_measure_and_a_line_per_row_in_the_order_of_places() -> None:
    place = pd.Categorical(["b", "a", "a", "b"] * 2, ["a", "sep", "b"])
    table = pd.DataFrame({"place": place, "row": ["x", "x", "(chance)", "(chance)"] * 2, "value": range(8)})
    table["measure"] = ["one"] * 4 + ["two"] * 4
    first, second = plots.lines(table, "place", "value", by="row", panel="measure").axes
    assert (first.get_title(loc="left"), second.get_title(loc="left")) == ("one", "two")
    assert [label.get_text() for label in first.get_xticklabels()] == ["a", "sep", "b"]
    drawn = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in second.lines}
    assert drawn == {"x": ([2, 0], [4, 5]), "(chance)": ([0, 2], [6, 7])}
    by_number = table.assign(place=[1.0, 2.0, 1.0, 2.0] * 2)
    assert plots.lines(by_number, "place", "value", "row", "measure").axes[0].lines[0].get_xdata().tolist() == [1, 2]


def test_rows_of_pictures_have_headings_captions_and_empty_tiles(toy: Dataset, tmp_path: Path) -> None:
    rows = [("one $", [0, -1], ["first\n<a> <b>", "none"]), ("two", [1], [])]
    figure = plots.picture_rows(toy, rows)
    assert [band.get_suptitle() for band in figure.subfigs] == ["one \\$", "two"]
    texts = [[text.get_text() for text in axis.texts] for axis in figure.axes]
    assert texts == [["cost \\$5 or \\$6\nfirst\n<a> <b>"], ["no item\nnone"], ["item b"], []]
    assert plots.save(figure, TABLE, "rows", tmp_path).read_bytes()[:4] == b"\x89PNG"


def test_pictures_of_others_stay_in_the_run_folder(toy: Dataset) -> None:
    class Ran:
        run_folder = Path("runs/toy")

    assert plots.folder_for_pictures(toy, Ran()) == Path("runs/toy/figures")
    ours = Dataset("demo", toy.interactions, toy.items, {"source": "demo"}, toy.images)
    assert plots.folder_for_pictures(ours, Ran()) is None


def test_a_picture_grid_shows_pictures_and_titles(toy: Dataset, tmp_path: Path) -> None:
    figure = plots.picture_grid(toy, [0, 1], ["first"], columns=3)
    assert len(figure.axes) == 3
    assert [axis.get_title() for axis in figure.axes] == ["cost \\$5 or \\$6\nfirst", "item b", ""]
    red, green, blue = np.asarray(figure.axes[0].images[0].get_array())[80, 80].tolist()
    assert red > 250 and green < 5 and blue < 5
    plots.save(figure, TABLE, "grid", tmp_path)


def test_the_stem_fits_a_file_name() -> None:
    class Asked:
        dataset_name, method_name, variant, size, seed = "my/set", "musicrec", "+a='b c'", "smoke", 3

    assert plots.stem(Asked(), "curve") == "my-set_musicrec+a=-b-c-_smoke_seed3_curve"
