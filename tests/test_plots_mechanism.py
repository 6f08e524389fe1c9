"""Figures of the mechanism: what is drawn."""

import pandas as pd

from musicrec_kit import plots_mechanism


def test_levels_known_has_a_panel_per_modality_and_shows_what_is_shared() -> None:
    levels = [("text", 0, True), ("text", 1, False), ("image", 0, True), ("image", 1, False)]
    own = pd.DataFrame(levels, columns=["z_hat", "level", "shared"]).assign(decoded=[0.1, 0.2, 0.3, 0.4])
    known = pd.concat([own.assign(of=of, r2=0.2, r2_features=0.5) for of in ("text", "image")])
    text, image = plots_mechanism.levels_known(known).axes
    lines = {line.get_label(): line for line in image.lines}
    assert lines["itself, by the decoder"].get_ydata().tolist() == [0.3, 0.4]
    assert {"text, by a linear probe", "image, by a linear probe"} < set(lines)
    assert text.patches[0].get_width() == 1


def test_gradients_have_a_panel_per_side_and_leave_zeros_out() -> None:
    log = pd.DataFrame({"part": "all", "epoch": [0, 1], "gradient/a/encoder": [1.0, 2.0], "gradient/a/codebooks": 0.0})
    encoders, codebooks = plots_mechanism.gradients(log).axes
    assert encoders.lines[0].get_ydata().tolist() == [1, 2] and encoders.get_yscale() == "log"
    assert not codebooks.lines
    assert plots_mechanism.gradients(log[["part", "epoch"]]).axes[0].texts


def test_agreement_draws_changes_beside_chance() -> None:
    values = {"neighbours": [0.3, 0.2], "neighbours_chance": 0.1, "spearman": [0.5, 0.4], "spearman_chance": 0.0}
    table = pd.DataFrame({"part": ["seen", "held out"], "z_hat": "joint", "change": "as set", **values})
    table = pd.concat([table, table.assign(change="alpha = 0")]).assign(spearman_spread=0.02)
    neighbours, spearman = plots_mechanism.agreement(table).axes
    assert [bar.get_height() for bar in neighbours.patches] == [0.3, 0.3, 0.2, 0.2]
    assert [label.get_text() for label in spearman.get_xticklabels()] == ["as set", "alpha = 0"]


def test_churn_draws_bars_per_change_and_place() -> None:
    table = pd.DataFrame({"stream": ["shared", "text"], "level": [0, 1], "moved": [0.1, 0.2], "moved_chance": 0.7})
    table = table.assign(**{"moved low": 0.05, "moved high": 0.3})
    both = pd.concat([table.assign(change="beta = 0"), table.assign(change="seed")])
    (axis,) = plots_mechanism.churn(both).axes
    assert [bar.get_height() for bar in axis.patches] == [0.1, 0.2, 0.1, 0.2]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["shared\nlevel 1", "text\nlevel 2"]
