"""Index files: the lineage's and ours, read and written; the published ones with their known health."""

import gzip
import json

import numpy as np
import pytest

from musicrec_kit.ids.index_files import export_index, import_index
from musicrec_kit.ids.semantic_ids import make_ids
from musicrec_kit.params import IdsParams, Refused
from musicrec_kit.tokenizers.codes import ItemCodes


def write(path, index):
    path.write_bytes(gzip.compress(json.dumps(index).encode()) if path.suffix == ".gz" else json.dumps(index).encode())
    return path


def test_lineage_tokens_are_read_as_they_are(tmp_path):
    text = write(
        tmp_path / "text.index.json.gz", {"0": ["<a_170>", "<b_3>"], "1": ["<a_170>", "<b_3>"], "9": ["<a_0>", "<b_0>"]}
    )
    image = write(tmp_path / "image.index.json", {"0": ["<A_1>", "<B_2>"], "2": ["<A_3>", "<B_0>"]})
    ids = import_index({"text": text, "image": image}, ["0", "1", "2"])
    assert ids.views["text"].tolist() == [[170, 3], [170, 3], [-1, -1]]
    assert ids.views["image"].tolist() == [[1, 2], [-1, -1], [3, 0]]
    assert ids.segments == {"text": (("text", 2),), "image": (("image", 2),)}
    assert ids.sizes == {"text": (256, 256), "image": (4, 4)}
    assert ids.collisions["text"]["after"] == ids.collisions["text"]["before"]
    assert ids.collisions["text"]["after"]["colliding"] == 2


@pytest.mark.parametrize("tokens", ["musicrec", "mgr"])
@pytest.mark.parametrize("separators", [False, True])
@pytest.mark.parametrize(
    "views", [{"text": ("text",), "image": ("image",), "audio": ("audio",)}, {"main": ("image", "text", "audio")}]
)
@pytest.mark.parametrize("shared_levels", [0, 2])
def test_what_is_written_is_read_back(tmp_path, tokens, separators, views, shared_levels):
    rng = np.random.default_rng(0)
    streams = {name: rng.integers(0, 3, (30, 3)).astype(np.int32) for name in ("text", "image", "audio")}
    streams["image"][:4] = -1
    codes = ItemCodes(streams, {name: (3,) * 3 for name in streams}, shared_levels)
    params = IdsParams(collisions="suffix", tokens=tokens, separators=separators, tie_shared_tokens=True)
    ids = make_ids(codes, views, params, seed=0)
    keys = [f"B{item:03d}" for item in range(30)]
    read = import_index(export_index(ids, tmp_path, params, keys), keys, ids.sizes)
    for view in views:
        assert (read.views[view] == ids.views[view]).all()
        assert (read.suffix[view] == ids.suffix[view]).all()
    assert read.segments == ids.segments
    assert read.sizes == ids.sizes
    assert read.shared_levels == (shared_levels if tokens == "musicrec" else 0)


def test_the_lineage_s_own_names_are_written(tmp_path):
    streams = {"text": np.array([[1, 2], [1, 2]], np.int32), "image": np.array([[7, 0], [-1, -1]], np.int32)}
    codes = ItemCodes(streams, {"text": (8, 8), "image": (8, 8)})
    ids = make_ids(codes, {"text": ("text",), "image": ("image",)}, IdsParams(collisions="suffix"), seed=0)
    paths = export_index(ids, tmp_path, IdsParams(), lineage=True)
    text = json.loads(paths["text"].read_text())
    assert sorted(text["0"] + text["1"]) == ["<a_1>", "<a_1>", "<b_2>", "<b_2>", "<c_0>", "<c_1>"]
    assert json.loads(paths["image"].read_text()) == {"0": ["<A_7>", "<B_0>"]}


def test_ids_of_varying_length(tmp_path):
    path = write(tmp_path / "text.index.json", {"0": ["<a_1>"], "1": ["<a_1>", "<b_2>", "<c_0>"], "2": []})
    assert import_index({"text": path}, ["0", "1", "2"]).views["text"].tolist() == [
        [1, -1, -1],
        [1, 2, 0],
        [-1, -1, -1],
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"0": ["<a170>"]}', "no semantic ID token"),
        (b'{"0": ["<b_1>", "<a_1>"]}', "not in order"),
        (b'{"x": ["<a_1>"]}', "none of the 1 items"),
        (b'["<a_1>"]', "holds a list"),
        (b"{", "not a readable index file"),
    ],
)
def test_files_that_make_no_sense_are_refused(tmp_path, content, said):
    path = tmp_path / "text.index.json"
    path.write_bytes(content)
    with pytest.raises(Refused, match=said):
        import_index({"text": path}, ["0"])


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(Refused, match="there is no file"):
        import_index({"text": tmp_path / "absent.json"}, ["0"])


def test_the_published_instruments_ids(real_data):
    folder = real_data / "instruments"
    paths = {"text": folder / "Instruments.index_lemb.json.gz", "image": folder / "Instruments.index_vitemb.json.gz"}
    ids = import_index(paths, [str(item) for item in range(6250)])
    assert ids.sizes == {"text": (256,) * 4, "image": (256,) * 4}
    counts = {view: record["after"] for view, record in ids.collisions.items()}
    assert (counts["text"]["items"], counts["text"]["distinct"]) == (6250, 5988)
    assert (counts["image"]["items"], counts["image"]["distinct"]) == (6250, 6250)
    prefixes = [len(np.unique(ids.views["text"][:, : level + 1], axis=0)) for level in range(4)]
    assert prefixes == [126, 1708, 5012, 5988]
    assert ids.views["text"][0].tolist() == [170, 224, 251, 151]
