"""Written IDs taken apart: by hand, and against a walk over all items that knows nothing of trees."""

import numpy as np
import pytest
import reference_generation as reference
import torch

from musicrec_kit.analysis import written_ids
from musicrec_kit.analysis.written_ids import INVALID, ITEM, MISMATCH, NOTHING, read_written, whole_task, written
from musicrec_kit.data.splits import held_out
from musicrec_kit.generation.fit import Generator
from musicrec_kit.ids.vocabulary import EOS, PAD, Vocabulary
from musicrec_kit.params import GeneratorParams, IdsParams, Refused

# text codes, image codes: items 0 and 1 share the text part, 1 and 2 the image part, 3 has no picture
CODES = np.array([[0, 1, 2, 2], [0, 1, 3, 3], [1, 1, 3, 3], [2, 0, -1, -1]])
SEGMENTS = {"item": (("text", 2), ("image", 2))}


def vocabulary_of(codes=CODES, separators=False, suffix=None, segments=SEGMENTS):
    suffix = None if suffix is None else {"item": np.asarray(suffix, np.int32)}
    ids = reference.make_ids({"item": codes}, 4, suffix=suffix, segments=segments)
    return Vocabulary.from_ids(ids, IdsParams(separators=separators, tokens="mgr"))


def read(vocabulary, names, targets=(0,)):
    """Read IDs that are written as names, "<txt-1-0> <txt-2-1> ...", one row per example."""
    rows = [[vocabulary.token(name) for name in row.split()] for row in names]
    width = 8
    tokens = np.array([row + [PAD] * (width - len(row)) for row in rows])[:, None]
    return read_written(vocabulary, ("item",), tokens, np.resize(np.array(targets), len(rows)))


BY_HAND = [
    ("<txt-1-0> <txt-2-1> <img-1-2> <img-2-2> <eos>", ITEM, 0),
    ("<txt-1-0> <txt-2-1> <img-1-3> <img-2-3> <eos>", ITEM, 1),
    ("<txt-1-1> <txt-2-1> <img-1-2> <img-2-2> <eos>", MISMATCH, -1),  # text of item 2, image of item 0
    ("<txt-1-2> <txt-2-0> <eos>", ITEM, 3),  # has no image part
    ("<txt-1-2> <txt-2-0> <img-1-2> <img-2-2> <eos>", MISMATCH, -1),
    ("<txt-1-0> <txt-2-1> <eos>", MISMATCH, -1),  # items with this text have a picture
    ("<txt-1-3> <txt-2-3> <img-1-2> <img-2-2> <eos>", INVALID, -1),  # no item has this text
    ("<img-1-2> <img-2-2> <txt-1-0> <txt-2-1> <eos>", INVALID, -1),  # the wrong way round
    ("<txt-1-0> <img-1-2> <txt-2-1> <img-2-2> <eos>", INVALID, -1),  # both parts are there, but interleaved
    ("<txt-1-0> <txt-2-1> <img-1-2> <img-2-2>", INVALID, -1),  # never ends
    ("<pad>", NOTHING, -1),
]


@pytest.mark.parametrize(("name", "kind", "item"), BY_HAND)
def test_kinds_by_hand(name, kind, item):
    found = read(vocabulary_of(), [name])
    assert (int(found.kinds[0, 0]), int(found.items[0, 0])) == (kind, item)


def test_a_separator_is_part_of_the_id():
    vocabulary = vocabulary_of(separators=True)
    sep = vocabulary.name(vocabulary.separators[0])
    with_token = f"<txt-1-0> <txt-2-1> {sep} <img-1-2> <img-2-2> <eos>"
    found = read(vocabulary, [with_token, with_token.replace(f"{sep} ", "")])
    assert found.kinds[:, 0].tolist() == [ITEM, INVALID]
    assert [place.name for place in found.places] == ["text 1", "text 2", "separator", "image 1", "image 2", "end"]
    assert [place.part for place in found.places] == [0, 0, -1, 1, 1, -1]


def test_a_suffix_that_no_item_has_is_invalid_and_no_mismatch():
    codes = np.array([[0, 1, 2, 2], [0, 1, 2, 2], [1, 1, 3, 3]])
    vocabulary = vocabulary_of(codes, suffix=[0, 1, 0])
    end = {s: vocabulary.name(vocabulary.blocks[-1].first + s) for s in (0, 1)}
    first = "<txt-1-0> <txt-2-1> <img-1-2> <img-2-2>"
    other = "<txt-1-1> <txt-2-1> <img-1-3> <img-2-3>"
    found = read(vocabulary, [f"{first} {end[1]} <eos>", f"{other} {end[1]} <eos>", f"{first} <eos>"])
    assert found.kinds[:, 0].tolist() == [ITEM, INVALID, INVALID]
    assert found.items[:, 0].tolist() == [1, -1, -1]
    mixed = read(vocabulary, [f"{other[:19]} <img-1-2> <img-2-2> {end[1]} <eos>"])
    assert mixed.kinds.tolist() == [[MISMATCH]]


def test_equal_parts_have_equal_numbers():
    found = read(vocabulary_of(), [BY_HAND[2][0], BY_HAND[6][0]])
    text, image = found.of_items.T
    assert text[0] == text[1] != text[2] and image[1] == image[2] != image[0] and image[3] == -1
    assert found.numbers[0, 0].tolist() == [text[2], image[0]]
    assert found.numbers[1, 0].tolist() == [-1, image[0]]


@pytest.mark.parametrize("separators", [False, True])
def test_random_writings_agree_with_a_walk_over_the_items(separators):
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 3, (30, 4))
    codes[:4, 2:] = -1
    vocabulary = vocabulary_of(codes, separators)
    tokens, lengths = vocabulary.tokens_of("item")
    ids = [tuple(row[:n]) for row, n in zip(tokens.tolist(), lengths, strict=True)]
    texts, images = {row[:2] for row in ids}, {row[2:] for row in ids}
    pieces = [*texts, *(row for row in images if row), (), (vocabulary.separators or (3,))]
    rows = [sum((pieces[i] for i in rng.integers(0, len(pieces), rng.integers(1, 4))), ()) for _ in range(300)]
    rows += ids + [a[:2] + b[2:] for a, b in zip(ids, ids[::-1], strict=True)]
    table = np.full((len(rows), 1, 12), PAD)
    for at, row in enumerate(rows):
        table[at, 0, : len(row) + 1] = [*row, EOS]
    found = read_written(vocabulary, ("item",), table, np.zeros(len(rows), int))
    for at, row in enumerate(rows):
        if row in ids:
            expected = (ITEM, ids.index(row))
        else:
            expected = (MISMATCH if row[:2] in texts and row[2:] in images else INVALID, -1)
        assert (int(found.kinds[at, 0]), int(found.items[at, 0])) == expected, row
    assert len(set(found.kinds.ravel().tolist())) == 3


def generator_of(ids, **changes):
    params = GeneratorParams(backbone="tiny", tasks=("next",), prompt_tokens=2).model_copy(update=changes)
    return Generator.untrained(ids, params, IdsParams(tokens="mgr"), history=5, seed=0)


def late_fusion_ids(n=40, seed=0):
    codes = np.random.default_rng(seed).permuted(np.tile(np.arange(4), (n, 1)), axis=1)
    return reference.make_ids({"item": codes}, 4, suffix=None, segments=SEGMENTS)


def test_what_beam_search_writes_obeys_its_tree():
    ids = late_fusion_ids()
    generator, sequences = generator_of(ids), reference.random_sequences(20, ids.n_items)
    examples = held_out(sequences, "test", 5)
    made = {tree: written(generator, sequences, examples, tree, beam=8) for tree in ("joint", "per_modality", "free")}
    assert set(made["joint"].kinds.ravel()) == {ITEM}
    assert set(made["per_modality"].kinds.ravel()) <= {ITEM, MISMATCH}
    assert MISMATCH in made["per_modality"].kinds and INVALID in made["free"].kinds
    for found in made.values():
        assert found.targets.tolist() == examples.target.tolist()
        assert found.kinds.shape == (20, 5)


def test_written_ids_are_those_of_the_ranking():
    from musicrec_kit.generation.ranking import rank
    from musicrec_kit.params import RankParams

    ids = reference.random_ids(40, ("text", "image"))
    generator, sequences = generator_of(ids, tasks=("next", "joint")), reference.random_sequences(20, 40)
    generator.model.eval()
    examples, full = held_out(sequences, "test", 5), held_out(sequences, "test", 10**9)
    lists = rank(generator, sequences, examples, full, RankParams(beam=10))
    assert whole_task(generator).name == "joint"
    found = written(generator, sequences, examples, "joint", beam=10)
    np.testing.assert_array_equal(found.items, lists["joint"].items[:, :5])


def test_width_beyond_the_beam_is_nothing():
    ids = late_fusion_ids(6)
    generator, sequences = generator_of(ids), reference.random_sequences(5, ids.n_items)
    found = written(generator, sequences, held_out(sequences, "test", 5), "joint", beam=3, width=5)
    assert (found.kinds[:, 3:] == NOTHING).all() and (found.kinds[:, :3] == ITEM).all()


def test_refusals_name_what_to_do():
    ids = late_fusion_ids()
    sequences = reference.random_sequences(5, ids.n_items)
    examples = held_out(sequences, "test", 5)
    with pytest.raises(Refused, match="softmax=vocabulary"):
        written(generator_of(ids, softmax="legal"), sequences, examples)
    with pytest.raises(Refused, match="joint"):
        whole_task(generator_of(reference.random_ids(20), tasks=("next",)))
    shared = reference.make_ids({"text": CODES[:3, :2], "image": CODES[:3, 2:]}, 4, shared=1)
    tied = Vocabulary.from_ids(shared, IdsParams(tie_shared_tokens=True))
    with pytest.raises(Refused, match="tie_shared_tokens"):
        written_ids.parts_of(tied, ("text", "image"))


def test_beam_search_says_the_tokens_of_the_ids_it_found():
    from musicrec_kit.generation.beam_search import search, written_search
    from musicrec_kit.generation.legal import make_legal

    ids = late_fusion_ids()
    generator = generator_of(ids)
    generator.model.eval()
    legal = make_legal(generator.vocabulary, ("item",), "joint")
    with torch.inference_mode():
        memory = generator.model.encode(torch.randint(2, 10, (7, 6), generator=torch.Generator().manual_seed(0)))
        plain = search(generator.model, legal, memory, 9)
        found, tokens = written_search(generator.model, legal, memory, 9)
    assert torch.equal(found.leaf, plain.leaf)
    for leaf, row in zip(found.leaf.flatten().tolist(), tokens.flatten(0, 1).tolist(), strict=True):
        assert legal.tree.find(row[: row.index(EOS) + 1]) == leaf
