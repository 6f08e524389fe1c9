"""Tasks against a loader that writes strings one by one."""

from collections import Counter

import numpy as np
import pytest
import reference_generation as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from musicrec_kit.data.splits import Sequences, train_prefixes
from musicrec_kit.generation import tasks
from musicrec_kit.generation.fit import shuffled_partners
from musicrec_kit.generation.tasks import TokenStore
from musicrec_kit.ids.vocabulary import Vocabulary
from musicrec_kit.params import IdsParams, Refused

WORDS = ("next", "joint", "align", "cross")


def setting(ids, words=WORDS, prompt_tokens=2, **params):
    families = tasks.expand(words, ids.segments)
    every = [task for word in families.values() for family in word for task in family]
    n_prompts = sum(task.prompt >= 0 for task in every)
    vocabulary = Vocabulary.from_ids(ids, IdsParams(**params), n_prompts, prompt_tokens)
    return vocabulary, families, every


def read(vocabulary, every, source, target):
    """Return (task name, source, target) of one row as strings; the task is told by its prompt."""
    prompts = {tuple(vocabulary.prompts(t.prompt).tolist()): t.name for t in every if t.prompt >= 0}
    source = source[source != 0].tolist()
    target = target[target != 0].tolist()
    assert source[-1] == 1 and target[-1] == 1 and 1 not in source[:-1] and 1 not in target[:-1]
    n = next((len(prompt) for prompt in prompts if tuple(source[: len(prompt)]) == prompt), 0)
    name = prompts[tuple(source[:n])] if n else "next"
    return name, vocabulary.text(source[n:-1]), vocabulary.text(target[:-1])


def epoch_of(vocabulary, families, every, sequences, history, seed=0, epoch=0, batch=3):
    store = TokenStore(vocabulary, sequences, every)
    flat = [family for word in families.values() for family in word]
    spans = tasks.draw_epoch(store, flat, train_prefixes(sequences, history), seed, epoch)
    made = list(tasks.batches(store, spans, batch, seed, epoch))
    rows = [read(vocabulary, every, s, t) for source, target in made for s, t in zip(source, target, strict=True)]
    return rows, made


def expected_of(vocabulary, sequences, words, history):
    made = []
    for word in words:
        made += reference.slow_examples(vocabulary, sequences, word, history)
    return [("next" if name.startswith("next") else name, source, target) for name, source, target in made]


@st.composite
def worlds(draw):
    n_items, levels = draw(st.integers(3, 8)), draw(st.integers(1, 3))
    views = draw(st.sampled_from([("text", "image"), ("text", "image", "audio")]))
    generator = np.random.default_rng(draw(st.integers(0, 10_000)))
    codes = {view: generator.integers(0, 3, (n_items, levels)) for view in views}
    for matrix in codes.values():  # items without an ID, and IDs that end early
        matrix[generator.random(n_items) < 0.2] = -1
        matrix[generator.random(n_items) < 0.2, -1] = -1
    suffix = {views[0]: generator.integers(0, 2, n_items).astype(np.int32)}
    ids = reference.make_ids(codes, 3, suffix=suffix)
    sequences = reference.random_sequences(draw(st.integers(1, 4)), n_items, seed=draw(st.integers(0, 99)), most=7)
    return ids, sequences, draw(st.integers(1, 4)), draw(st.booleans())


@settings(max_examples=40, deadline=None)
@given(worlds())
def test_examples_equal_the_string_loader(world):
    ids, sequences, history, separators = world
    words = ("next", "joint", "align")
    vocabulary, families, every = setting(ids, words, separators=separators)
    found, _ = epoch_of(vocabulary, families, every, sequences, history)
    assert Counter(found) == Counter(expected_of(vocabulary, sequences, words, history))


@settings(max_examples=20, deadline=None)
@given(worlds())
def test_cross_draws_one_possible_direction_per_example(world):
    ids, sequences, history, _ = world
    vocabulary, families, every = setting(ids, ("next", "cross"))
    found, _ = epoch_of(vocabulary, families, every, sequences, history, epoch=3)
    found = Counter(row for row in found if row[0] != "next")
    possible = Counter(row for row in expected_of(vocabulary, sequences, ("cross",), history))
    assert not found - possible
    # an example counts if any direction has both a history and a target
    ends = train_prefixes(sequences, history)
    store = TokenStore(vocabulary, sequences, every)
    usable = np.stack([store.spans(task, ends).usable for task in families["cross"][0]]).any(axis=0)
    assert found.total() == usable.sum()


def test_direction_is_drawn_anew_in_every_epoch_and_evenly():
    ids = reference.random_ids(30, levels=3)
    sequences = reference.random_sequences(200, 30, most=12)
    vocabulary, families, every = setting(ids, ("next", "cross"))
    rows = [epoch_of(vocabulary, families, every, sequences, 5, epoch=epoch, batch=64)[0] for epoch in (0, 0, 1)]
    drawn = [sorted(row for row in epoch if row[0] != "next") for epoch in rows]
    assert drawn[0] == drawn[1] != drawn[2]
    share = np.mean([name == "cross/text/image" for name, _, _ in drawn[0]])
    assert abs(share - 0.5) < 0.06  # about 1,100 draws


def test_joint_history_is_interleaved_text_first():
    ids = reference.make_ids({"text": [[0, 1], [2, 3]], "image": [[4, 5], [6, 7]]})
    vocabulary, families, every = setting(ids, ("next", "joint"))
    sequences = Sequences.from_lists([[0, 1]], 2)
    found, _ = epoch_of(vocabulary, families, every, sequences, 20)
    assert ("joint", "<a.0><b.1><A.4><B.5>", "<a.2><b.3><A.6><B.7>") in found
    assert len(found) == 3


def test_items_without_an_id_vanish_from_histories_and_targets():
    ids = reference.make_ids({"text": [[0], [1], [2]], "image": [[0], [-1], [2]]})
    vocabulary, families, every = setting(ids, ("next", "align"))
    found, _ = epoch_of(vocabulary, families, every, Sequences.from_lists([[0, 1, 2, 0, 1]], 3), 20)
    nexts = sorted(row[1:] for row in found if row[0] == "next")
    # image: item 1 cannot be a target, and of (0, 1) -> 2 only item 0 is seen
    assert nexts == [("<A.0>", "<A.2>"), ("<a.0>", "<a.1>"), ("<a.0><a.1>", "<a.2>")]
    assert sum(row[0].startswith("align") for row in found) == 4  # two items, two directions


def test_one_view_of_segments_aligns_its_segments():
    codes = np.array([[0, 1, 2, 3], [0, 1, 2, 3]])
    ids = reference.make_ids(
        {"main": codes}, segments={"main": (("text", 2), ("image", 2))}, suffix={"main": np.array([0, 1], np.int32)}
    )
    vocabulary, families, every = setting(ids, ("next", "align"), separators=True, tokens="mgr")
    found, _ = epoch_of(vocabulary, families, every, Sequences.from_lists([[0, 1]], 2), 20)
    text, image, mark = "<txt-1-0><txt-2-1>", "<img-1-2><img-2-3>", vocabulary.name(vocabulary.separators[0])
    expected = [("next", f"{text}{mark}{image}<dup:main.0>", f"{text}{mark}{image}<dup:main.1>")]
    expected += [("align/main:text/main:image", text, image)] * 2
    expected += [("align/main:image/main:text", image, text)] * 2
    assert Counter(found) == Counter(expected)


def test_shuffled_pairs_align_every_item_with_a_fixed_other():
    ids = reference.make_ids({"text": np.arange(4)[:, None], "image": np.arange(4)[:, None] + 0})
    vocabulary, families, every = setting(ids, ("align",))
    partner = shuffled_partners(4, seed=3)
    assert sorted(partner) == [0, 1, 2, 3] and (partner != np.arange(4)).all()
    store = TokenStore(vocabulary, Sequences.from_lists([[0, 1, 2, 3]], 4), every, partner=partner)
    flat = [family for word in families.values() for family in word]
    found = []
    for epoch in range(2):
        spans = tasks.draw_epoch(store, flat, train_prefixes(Sequences.from_lists([[0]], 4), 20), 0, epoch)
        made = tasks.batches(store, spans, 8, 0, epoch)
        found += [read(vocabulary, every, s, t) for source, target in made for s, t in zip(source, target, strict=True)]
    expected = [
        (f"align/{a}/{b}", item, other)
        for a, b in (("text", "image"), ("image", "text"))
        for item, other in [
            (vocabulary.text(vocabulary.tokens_of(a)[0][i]), vocabulary.text(vocabulary.tokens_of(b)[0][partner[i]]))
            for i in range(4)
        ]
    ]
    assert Counter(found) == Counter(expected * 2)


def test_every_direction_has_its_own_prompt_and_next_has_none():
    ids = reference.random_ids(5, ("text", "image", "audio"))
    _, families, every = setting(ids)
    prompts = [task.prompt for task in every if task.prompt >= 0]
    assert sorted(prompts) == list(range(1 + 6 + 6))
    assert all(task.prompt == -1 for family in families["next"] for task in family)
    assert len(families["next"]) == 3 and len(families["cross"]) == 1 and len(families["cross"][0]) == 6


def test_words_that_need_two_views_give_nothing_with_one():
    ids = reference.random_ids(5, ("text",))
    families = tasks.expand(WORDS, ids.segments)
    assert families["next"] == ((tasks.Task("next/text", "next", ("text",), ("text",)),),)
    assert families["joint"] == families["align"] == families["cross"] == ()
    with pytest.raises(Refused, match="add next"):
        tasks.expand(("joint",), ids.segments)


def test_batches_are_full_of_tokens_and_mixed():
    ids = reference.random_ids(60, levels=3)
    sequences = reference.random_sequences(400, 60, most=25)
    vocabulary, families, every = setting(ids, ("next", "joint"))
    _, made = epoch_of(vocabulary, families, every, sequences, 20, batch=32)
    kept = sum(int((source != 0).sum()) for source, _ in made)
    held = sum(source.numel() for source, _ in made)
    assert kept / held > 0.93
    widths = [source.shape[1] for source, _ in made]
    assert np.corrcoef(widths, np.arange(len(widths)))[0, 1] < 0.2  # long and short batches in random order
    both = [(source[:, 0] == vocabulary.prompts(0)[0]).float().mean() for source, _ in made]
    assert np.mean([0 < share < 1 for share in both]) > 0.5  # most batches hold more than one task


def test_an_epoch_is_a_function_of_seed_and_epoch():
    ids = reference.random_ids(20)
    sequences = reference.random_sequences(30, 20)
    vocabulary, families, every = setting(ids)
    rows = [epoch_of(vocabulary, families, every, sequences, 20, *key)[0] for key in ((0, 0), (0, 0), (0, 1), (1, 0))]
    assert rows[0] == rows[1]
    assert rows[0] != rows[2] and rows[0] != rows[3]
