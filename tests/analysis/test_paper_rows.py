"""Rows below a printed table: the paper's own stay as printed, and ours stand apart."""

import numpy as np
import pandas as pd
import pytest

from musicrec_kit.analysis.paper_rows import below_printed, pairs_as_row, split_statistics
from musicrec_kit.data import Dataset, ImageStore


def test_ours_stand_below_the_printed_rows():
    table = below_printed("mgr_table1", {"demo": {"Img vs. Txt": 0.25, "Txt vs. Multimodal": np.nan, "more": 12345}})
    assert table["from"].tolist() == ["paper"] * 3 + ["here"]
    assert table["row"].tolist() == ["Toys", "Beauty", "Sports", "demo"]
    assert table.columns.tolist()[2:] == ["Img vs. Txt", "Img vs. Multimodal", "Txt vs. Multimodal", "more"]
    assert table["Img vs. Txt"].tolist() == ["0.2765", "0.2920", "0.3976", "0.2500"]
    assert table.loc[3, "Txt vs. Multimodal"] == table.loc[3, "Img vs. Multimodal"] == "" == table.loc[0, "more"]
    assert table.loc[3, "more"] == "12,345"


def test_pairs_become_a_row_without_the_diagonal():
    table = pd.DataFrame([("Img", "Img", 0.9), ("Img", "Txt", 0.2)], columns=["a", "b", "ami"])
    assert pairs_as_row(table, "ami") == {"Img vs. Txt": 0.2}


def test_leave_one_out_shares_follow_from_the_length():
    split = [*["train"] * 3, "valid", "test", *["train"] * 13, "valid", "test"]
    rows = pd.DataFrame({"user": np.repeat([0, 1], [5, 15]), "item": np.arange(20) % 7})
    rows = rows.assign(time=None, position=0, split=split)
    items = pd.DataFrame({"item": range(7), "raw_id": list("abcdefg"), "title": "", "description": "", "brand": ""})
    items = items.assign(categories=[[]] * 7, image=None)
    found = split_statistics(Dataset("toy", rows, items, {"users": 2, "items": 7}, ImageStore(None)))
    assert (found["users"], found["items"], found["interactions"], found["mean length"]) == (2, 7, 20, 10)
    assert [found[name] for name in ("train", "valid", "test")] == pytest.approx([0.8, 0.1, 0.1])
