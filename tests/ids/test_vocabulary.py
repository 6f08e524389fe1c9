"""Vocabulary: names of both papers, the numbering of tokens, and ID -> tokens -> ID."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from musicrec_kit.ids.semantic_ids import SemanticIds, make_ids
from musicrec_kit.ids.vocabulary import Vocabulary, code_name
from musicrec_kit.params import IdsParams, Refused
from musicrec_kit.tokenizers.codes import ItemCodes

TEXT = np.array([[1, 2, 3, 4], [0, 0, 0, 0], [1, 2, 0, 7], [-1] * 4], np.int32)
IMAGE = np.array([[1, 2, 5, 6], [0, 0, 1, 1], [1, 2, 5, 5], [3, 3, 3, 3]], np.int32)


def ids_of(views, shared_levels=2, **streams):
    streams = streams or {"text": TEXT, "image": IMAGE}
    codes = ItemCodes(streams, {name: (8,) * matrix.shape[1] for name, matrix in streams.items()}, shared_levels)
    return make_ids(codes, views, IdsParams(collisions="suffix"), seed=0)


def written(ids, view, item, **params):
    vocabulary = Vocabulary.from_ids(ids, IdsParams(**params))
    tokens, lengths = vocabulary.tokens_of(view)
    return vocabulary.text(tokens[item][: lengths[item]])


PER_MODALITY = {"text": ("text",), "image": ("image",)}
JOINED = {"main": ("text", "image")}


def test_musicrec_writes_shared_and_specific_levels_apart():
    ids = ids_of(PER_MODALITY)
    assert written(ids, "text", 0) == "<s1.1><s2.2><a.3><b.4>"
    assert written(ids, "image", 0) == "<S1.1><S2.2><A.5><B.6>"
    assert written(ids, "text", 3) == ""


def test_separate_tokenizers_have_no_shared_level():
    ids = ids_of(PER_MODALITY, shared_levels=0)
    assert written(ids, "text", 0) == "<a.1><b.2><c.3><d.4>"
    assert written(ids, "image", 2) == "<A.1><B.2><C.5><D.5>"


def test_a_third_modality_is_written_by_its_name():
    ids = ids_of({"audio": ("audio",)}, audio=TEXT)
    assert written(ids, "audio", 0) == "<audio:s1.1><audio:s2.2><audio:a.3><audio:b.4>"
    assert written(ids, "audio", 0, tokens="mgr") == "<audio-1-1><audio-2-2><audio-3-3><audio-4-4>"


def test_mgr_writes_one_id_with_a_separator_between_modalities():
    ids = ids_of(JOINED, shared_levels=0, text=TEXT[:, :2], image=IMAGE[:, 2:])
    params = {"tokens": "mgr", "separators": True}
    assert written(ids, "main", 0, **params) == "<txt-1-1><txt-2-2><sep.1><img-1-5><img-2-6>"
    assert written(ids, "main", 3, **params) == "<img-1-3><img-2-3>"


def test_a_borrowed_separator_is_a_code_s_token_and_the_same_for_every_item():
    ids = ids_of(JOINED, shared_levels=0, text=TEXT[:, :2], image=IMAGE[:, 2:])
    vocabulary = Vocabulary.from_ids(ids, IdsParams(tokens="mgr", separators=True, separator_token="borrowed"))
    (token,) = vocabulary.separators
    assert vocabulary.name(token).startswith(("<txt-", "<img-"))
    tokens, lengths = vocabulary.tokens_of("main")
    assert lengths.tolist() == [5, 5, 5, 2] and (tokens[:3, 2] == token).all()
    assert vocabulary.size == Vocabulary.from_ids(ids, IdsParams(tokens="mgr")).size


def test_k_modalities_have_k_minus_1_different_separators():
    ids = ids_of({"main": ("text", "image", "audio")}, 0, text=TEXT[:, :1], image=IMAGE[:, :1], audio=IMAGE[:, 3:])
    assert written(ids, "main", 0, tokens="mgr", separators=True) == "<txt-1-1><sep.1><img-1-1><sep.2><audio-1-6>"
    # item 3 has no text: no separator stands before its first segment
    assert written(ids, "main", 3, tokens="mgr", separators=True) == "<img-1-3><sep.2><audio-1-3>"


def test_tied_shared_tokens_are_the_same_in_every_view():
    ids = ids_of(PER_MODALITY)
    tied = Vocabulary.from_ids(ids, IdsParams(tie_shared_tokens=True))
    apart = Vocabulary.from_ids(ids, IdsParams())
    assert apart.size - 2 == 2 * 4 * 8
    assert tied.size - 2 == (2 + 2 * 2) * 8
    text, image = (tied.tokens_of(view)[0] for view in ("text", "image"))
    assert (text[:3, :2] == image[:3, :2]).all()
    assert (text[:3, 2:] != image[:3, 2:]).all()


def test_every_code_has_a_token_whether_used_or_not():
    vocabulary = Vocabulary.from_ids(ids_of(PER_MODALITY), IdsParams())
    for stream, shown in (("text", "asx"), ("image", "ASX")):
        for level in range(4):
            names = [code_name(stream, level, code, 2, "musicrec") for code in range(8)]
            assert [vocabulary.name(vocabulary.token(name)) for name in names] == names
            assert all(name[1].islower() == shown.islower() for name in names)


def test_pad_and_eos_come_first_and_prompts_do_not_overlap():
    vocabulary = Vocabulary.from_ids(ids_of(PER_MODALITY), IdsParams(), tasks=3, prompt_tokens=4)
    assert (vocabulary.pad, vocabulary.eos, vocabulary.names[:2]) == (0, 1, ("<pad>", "<eos>"))
    prompts = np.concatenate([vocabulary.prompts(task) for task in range(3)])
    tokens = [token for view in PER_MODALITY for token in vocabulary.tokens_of(view)[0].ravel() if token]
    assert len(set(prompts)) == 12
    assert not set(prompts) & {0, 1, *tokens}
    assert vocabulary.size == len(vocabulary.names) == len(set(vocabulary.names))


def test_a_view_with_suffixes_writes_one_for_every_item():
    ids = ids_of({"text": ("text",)}, text=np.array([[1, 1], [1, 1], [0, 1], [-1, -1]], np.int32))
    vocabulary = Vocabulary.from_ids(ids, IdsParams())
    tokens, lengths = vocabulary.tokens_of("text")
    assert lengths.tolist() == [3, 3, 3, 0]
    last = [vocabulary.name(token) for token in tokens[:3, 2]]
    assert sorted(last[:2]) == ["<dup:text.0>", "<dup:text.1>"]
    assert last[2] == "<dup:text.0>"


def test_joined_ids_stand_one_after_the_other_and_padding_at_the_end():
    vocabulary = Vocabulary.from_ids(ids_of(PER_MODALITY), IdsParams())
    tokens, lengths = vocabulary.joined(("text", "image"))
    assert vocabulary.text(tokens[0]) == "<s1.1><s2.2><a.3><b.4><S1.1><S2.2><A.5><B.6>"
    assert vocabulary.text(tokens[3][: lengths[3]]) == "<S1.3><S2.3><A.3><B.3>"
    assert lengths.tolist() == [8, 8, 8, 4]
    assert (tokens[3, 4:] == 0).all()


def test_level_slices_hold_one_level_each():
    vocabulary = Vocabulary.from_ids(ids_of(PER_MODALITY), IdsParams())
    slices = vocabulary.level_slices(("text",))
    assert [stop - first for first, stop in slices] == [8] * 4
    tokens, _ = vocabulary.tokens_of("text")
    for (first, stop), column in zip(slices, tokens[:3].T, strict=True):
        assert ((first <= column) & (column < stop)).all()


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_ids_can_be_read_back_from_their_tokens(data):
    n_streams, n_items = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 6))
    shared = data.draw(st.integers(0, 2))
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=shared + 1, max_size=4))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    names = ["text", "image", "audio"][:n_streams]
    streams = {name: rng.integers(0, sizes, (n_items, len(sizes))).astype(np.int32) for name in names}
    for matrix in streams.values():
        matrix[rng.random(n_items) < 0.3] = -1
    codes = ItemCodes(streams, {name: tuple(sizes) for name in names}, shared)
    ids = make_ids(codes, {"main": tuple(names)}, IdsParams(collisions="keep"), 0)
    params = IdsParams(separators=data.draw(st.booleans()), tokens=data.draw(st.sampled_from(["musicrec", "mgr"])))
    vocabulary = Vocabulary.from_ids(ids, params, tasks=data.draw(st.integers(0, 2)))
    tokens, lengths = vocabulary.tokens_of("main")
    block_of = {block.key: block for block in vocabulary.blocks if block.kind == "code"}
    keys = [(name, level) for name in names for level in range(len(sizes))]
    read = np.full((n_items, len(keys)), -1)
    for column, key in enumerate(keys):
        block = block_of[key]
        item, at = np.nonzero((tokens >= block.first) & (tokens < block.first + block.size))
        read[item, column] = tokens[item, at] - block.first
    assert (read == ids.views["main"]).all()
    assert ((tokens != 0).sum(axis=1) == lengths).all()


def test_names_that_would_be_alike_are_refused():
    ids = ids_of({"main": ("text", "txt")}, text=TEXT, txt=TEXT)
    with pytest.raises(Refused, match="rename a modality"):
        _ = Vocabulary.from_ids(ids, IdsParams(tokens="mgr")).names


def test_an_unknown_name_is_refused():
    with pytest.raises(Refused, match="no token is written"):
        Vocabulary.from_ids(ids_of(PER_MODALITY), IdsParams()).token("<z.1>")


def test_new_items_are_written_like_known_ones():
    ids = ids_of(PER_MODALITY)
    vocabulary = Vocabulary.from_ids(ids, IdsParams())
    assert vocabulary.write("text", TEXT[2:3])[0].tolist() == vocabulary.tokens_of("text")[0][2:3].tolist()


def test_many_items_are_written():
    codes = np.random.default_rng(0).integers(0, 256, (200_000, 4)).astype(np.int32)
    ids = SemanticIds(
        {"text": codes}, {"text": np.zeros(len(codes), np.int32)}, {"text": (("text", 4),)}, {"text": (256,) * 4}
    )
    tokens, lengths = Vocabulary.from_ids(ids, IdsParams()).tokens_of("text")
    assert (tokens == codes + 2 + np.arange(4) * 256).all()
    assert (lengths == 4).all()
