"""Correspondence: against slow obvious references, on untrained models, on hand-made writings, and on a trained one."""

import numpy as np
import pandas as pd
import pytest
import reference_generation as reference
import torch
from torch.nn import functional

from musicrec_kit.analysis import correspondence
from musicrec_kit.analysis.written_ids import read_written, whole_task
from musicrec_kit.data.splits import held_out
from musicrec_kit.generation import tasks
from musicrec_kit.generation.fit import Generator, fit_generator
from musicrec_kit.generation.tasks import TokenStore
from musicrec_kit.ids.vocabulary import EOS, PAD, Vocabulary
from musicrec_kit.params import GeneratorParams, IdsParams

SEGMENTS = {"item": (("text", 2), ("image", 2))}
IDS = IdsParams(tokens="mgr", separators=True)


def late_fusion(n_items=40, seed=0):
    codes = np.random.default_rng(seed).integers(0, 4, (n_items, 4))
    codes = np.unique(codes, axis=0)
    return reference.make_ids({"item": codes}, 4, segments=SEGMENTS)


def generator_of(ids, ids_params=IDS, **changes):
    params = GeneratorParams(backbone="tiny", tasks=("next",), prompt_tokens=2).model_copy(update=changes)
    made = Generator.untrained(ids, params, ids_params, history=5, seed=0)
    made.model.eval()
    return made


def slow_by_place(generator, sequences, examples):
    """Return place -> (cross-entropy, accuracy, catalogue's, catalogue's), one user and one token at a time."""
    vocabulary, task = generator.vocabulary, whole_task(generator)
    tokens, lengths = vocabulary.joined(task.target)
    every = [[*row[:n].tolist(), EOS] for row, n in zip(tokens, lengths, strict=True) if n]
    legal = generator.params.softmax == "legal"
    found = {}
    for start, end, target in zip(examples.start, examples.end, examples.target, strict=True):
        source = [t for item in sequences.items[start:end] for t in tokens[item, : lengths[item]].tolist()] + [EOS]
        goal = [*tokens[target, : lengths[target]].tolist(), EOS]
        with torch.inference_mode():
            logits = generator.model(torch.tensor([source]), torch.tensor([goal]))[0]
        for at, token in enumerate(goal):
            alike = [row for row in every if row[:at] == goal[:at]]
            rivals = sorted({row[at] for row in alike}) if legal else list(range(vocabulary.size))
            scores = logits[at][rivals]
            entropy = float(functional.cross_entropy(scores, torch.tensor(rivals.index(token))))
            right = float(rivals[int(scores.argmax())] == token)
            share = np.mean([row[at] == token for row in alike])
            name = "end" if token == EOS else vocabulary.name(token)
            name = name if token != vocabulary.separators[0] else "separator"
            if name.startswith(("<txt", "<img")):
                stream, level, _ = name.strip("<>").split("-")
                name = f"{'text' if stream == 'txt' else 'image'} {level}"
            found.setdefault(name, []).append((entropy, right, -np.log(share), share))
    return {name: np.mean(values, axis=0) for name, values in found.items()}


@pytest.mark.parametrize("softmax", ["vocabulary", "legal"])
def test_by_place_is_what_one_token_at_a_time_gives(softmax):
    ids = late_fusion()
    generator = generator_of(ids, softmax=softmax)
    sequences = reference.random_sequences(25, ids.n_items)
    examples = held_out(sequences, "test", 5)
    table = correspondence.by_place(generator, sequences, examples, batch=7).set_index("place")
    expected = slow_by_place(generator, sequences, examples)
    assert list(table.index) == ["text 1", "text 2", "separator", "image 1", "image 2", "end"]
    assert table.index[table["switch"]].tolist() == ["image 1"]
    columns = ["cross_entropy", "accuracy", "catalogue_entropy", "catalogue_accuracy"]
    for place, values in expected.items():
        np.testing.assert_allclose(table.loc[place, columns].astype(float), values, atol=1e-5, err_msg=place)
    assert table.loc["separator", "catalogue_entropy"] == table.loc["end", "catalogue_entropy"] == 0


def test_by_place_is_the_loss():
    ids = late_fusion()
    generator = generator_of(ids)
    sequences = reference.random_sequences(25, ids.n_items)
    examples = held_out(sequences, "test", 5)
    table = correspondence.by_place(generator, sequences, examples)
    store = TokenStore(generator.vocabulary, sequences, [whole_task(generator)])
    spans = store.spans(whole_task(generator), examples)
    ((source, target),) = tasks.batches(store, spans, 100)
    with torch.inference_mode():
        loss = float(generator.model.loss(source, target))
    assert np.average(table["cross_entropy"], weights=table["targets"]) == pytest.approx(loss, abs=1e-5)


# items 0, 1, 2 share text A (0 and 1 also picture X); item 3 has text B and picture Y
CODES = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 2, 2], [1, 1, 2, 2], [2, 2, 3, 3]])
WRITTEN = {"AX": (0, 0, 1, 1), "AY": (0, 0, 2, 2), "AZ": (0, 0, 3, 3), "BX": (1, 1, 1, 1), "BY": (1, 1, 2, 2)}


def by_hand(rows, targets):
    """Return what is read from lists of written IDs, best first, named as in WRITTEN."""
    ids = reference.make_ids({"item": CODES}, 4, suffix={"item": np.array([0, 1, 0, 0, 0])}, segments=SEGMENTS)
    vocabulary = Vocabulary.from_ids(ids, IdsParams(tokens="mgr"))
    width = max(len(row) for row in rows)
    tokens = np.full((len(rows), width, 6), PAD)
    for at, row in enumerate(rows):
        for place, name in enumerate(row):
            codes, _ = vocabulary.write("item", np.array([WRITTEN[name]]), np.zeros(1, np.int32))
            tokens[at, place] = [*codes[0], EOS]
    return read_written(vocabulary, ("item",), tokens, np.array(targets))


def test_hits_and_kinds_by_hand():
    found = by_hand([["AX", "BY"], ["BX", "AY"], ["BY", "AZ"], ["BX", "BY"]], [0, 2, 0, 1])
    # users 1 to 3 have target text A; user 3 never writes picture X of item 0; user 4's target is 1, whose suffix is 1
    assert correspondence.hits_by_part(found, 1) == {"text": 0.25, "image": 0.5, "whole": 0.25}
    assert correspondence.hits_by_part(found, 2) == {"text": 0.75, "image": 0.75, "whole": 0.5}
    assert correspondence.kinds_of(found, 1) == {"item": 0.5, "mismatch": 0.5, "invalid": 0.0}
    assert correspondence.kinds_of(found, 2) == {"item": 5 / 8, "mismatch": 3 / 8, "invalid": 0.0}


def test_correspondence_and_its_chance_by_hand():
    found = by_hand([["AX"], ["AZ"], ["AY"], ["BY"], ["BX"]], [0, 0, 2, 3, 4])
    made = correspondence.correspondence(found)
    assert made["examples"] == 5 and made["given_right"] == 4  # the last writes B for an item with another text
    assert made["together"] == 0.75  # AZ is no item's
    assert made["right"] == 0.75  # AX, AY, BY
    # of three items with text A two have X and one has Y; with text B the one has Y
    assert made["right_chance"] == pytest.approx((2 / 3 + 2 / 3 + 1 / 3 + 1) / 4)
    assert made["chance_sd"] == pytest.approx(np.sqrt(3 * 2 / 9) / 4)
    # pictures that go with A: X (2 items) and Y (2 items) of five; with B: Y (2 items)
    assert made["together_chance"] == pytest.approx((4 / 5 * 3 + 2 / 5) / 4)
    other_way = correspondence.correspondence(found, given=1, asked=0)
    assert other_way["given_right"] == 3 and other_way["right"] == 1.0  # AX, AY, BY
    assert other_way["right_chance"] == pytest.approx((1 + 1 / 2 + 1 / 2) / 3)


def test_chance_is_what_drawing_gives():
    rng = np.random.default_rng(0)
    ids = late_fusion(200)
    vocabulary = Vocabulary.from_ids(ids, IdsParams(tokens="mgr"))
    tokens = np.pad(vocabulary.tokens_of("item")[0].astype(np.int64), ((0, 0), (0, 1)), constant_values=EOS)
    target = rng.integers(0, ids.n_items, 4000)
    codes = ids.views["item"]
    drawn = np.array([rng.choice(np.flatnonzero((codes[:, :2] == codes[t, :2]).all(axis=1))) for t in target])
    found = correspondence.correspondence(read_written(vocabulary, ("item",), tokens[drawn][:, None], target))
    assert found["given_right"] == 4000 and found["together"] == 1
    assert abs(found["right"] - found["right_chance"]) < 4 * found["chance_sd"]


def test_decoded_places_by_hand():
    found = by_hand([["AX"], ["BX"], ["AZ"]], [0, 0, 0])
    table = correspondence.by_place_decoded(found).set_index("place")
    assert table.loc["text 1", "decoded"] == table.loc["text 1", "decoded_given_right"] == pytest.approx(2 / 3)
    assert table.loc["text 2", "decoded_given_right"] == 1  # both that began right
    assert table.loc["image 1", ["decoded", "decoded_given_right"]].tolist() == [pytest.approx(2 / 3), 0.5]
    assert table.loc["end", "decoded"] == 1 and table["targets"].tolist() == [3] * 6


def test_places_to_draw_are_in_the_order_of_the_longest_id_beside_the_catalogue():
    columns = ["place", "switch", "targets", "cross_entropy", "accuracy", "catalogue_entropy", "catalogue_accuracy"]
    short = pd.DataFrame([("text 1", False, 9, 3, 0.1, 2, 0.2), ("image 1", True, 9, 2, 0.3, 1, 0.5)], columns=columns)
    long = pd.concat([short[:1], short[:1].assign(place="separator"), short[1:]], ignore_index=True)
    decoded = pd.DataFrame({"place": ["text 1", "image 1"], "decoded_given_right": [0.1, np.nan]})
    table = correspondence.over_places({"plain": short, "token": long}, {"plain": decoded, "token": decoded})
    assert list(table["place"].cat.categories) == ["text 1", "separator", "image 1"]
    assert list(table["row"].unique()) == ["plain", "token", "(catalogue)"]
    entropy = table[table["measure"] == "cross-entropy (nats)"].set_index(["row", "place"])["value"]
    assert entropy["plain", "image 1"] == 2 and entropy["(catalogue)", "image 1"] == 1
    decoded_rows = table[table["measure"] == "first written ID, if right so far"]
    assert decoded_rows[["row", "place"]].values.tolist() == [["plain", "text 1"], ["token", "text 1"]]


def test_the_table_has_a_row_per_writing():
    found = by_hand([["AX"], ["AZ"]], [0, 0])
    table = correspondence.table({("late fusion", "free"): found})
    assert table[["row", "tree", "item", "mismatch", "right"]].values.tolist() == [
        ["late fusion", "free", 0.5, 0.5, 0.5]
    ]


# --- the alignment task ----------------------------------------------------------------------------------------------


def slow_alignment(generator, source, target):
    """Return the share of items whose best-scoring target ID, over all that items have, is their own."""
    vocabulary = generator.vocabulary
    (task,) = [t for t in generator.tasks("align") if t.source == source and t.target == target]
    from_, to = (tasks.write(vocabulary, writing) for writing in (source, target))
    wanted = [tuple(row[:n]) for row, n in zip(to[0].tolist(), to[1], strict=True)]
    options, right = sorted(set(wanted)), []
    for item, row in enumerate(from_[0].tolist()):
        asked = [*vocabulary.prompts(task.prompt).tolist(), *row[: from_[1][item]], EOS]
        scores = []
        for option in options:
            goal = torch.tensor([[*option, EOS]])
            with torch.inference_mode():
                log = generator.model(torch.tensor([asked]), goal)[0].log_softmax(-1)
            scores.append(float(log.gather(1, goal[0][:, None]).mean()))
        right.append(options[int(np.argmax(scores))] == wanted[item])
    return np.mean(right)


@pytest.mark.parametrize("views", ["one", "two"])
def test_alignment_accuracy_is_what_scoring_every_answer_gives(views):
    ids = late_fusion(20) if views == "one" else reference.random_ids(20, levels=3)
    generator = generator_of(ids, IdsParams(tokens="mgr"), tasks=("next", "align"))
    sequences = reference.random_sequences(5, ids.n_items)
    table = correspondence.alignment_accuracy(generator, sequences, batch=6, beam=20)
    names = [("item:text",), ("item:image",)] if views == "one" else [("text",), ("image",)]
    assert table[["source", "target"]].values.tolist() == [["text", "image"], ["image", "text"]]
    assert table["trained"].all() and (table["items"] == ids.n_items).all()
    for accuracy, way in zip(table["accuracy"], (names, names[::-1]), strict=True):
        assert accuracy == pytest.approx(slow_alignment(generator, *way))


def test_guesses_by_hand():
    ids = reference.make_ids({"item": CODES}, 4, suffix={"item": np.array([0, 1, 0, 0, 0])}, segments=SEGMENTS)
    generator = generator_of(ids, IdsParams(tokens="mgr"))
    first = correspondence.alignment_accuracy(generator, reference.random_sequences(5, 5)).iloc[0]
    assert not first["trained"]
    assert first["blind"] == 2 / 5  # X, or Y
    assert first["catalogue"] == pytest.approx((2 / 3 + 2 / 3 + 1 / 3 + 1 + 1) / 5)
    assert first["best"] == pytest.approx(4 / 5)  # text A is best answered by X


def test_training_to_align_raises_it_and_its_stage_is_found_again(tmp_path):
    ids = late_fusion(24, seed=1)
    sequences = reference.random_sequences(30, ids.n_items)
    params = GeneratorParams(
        backbone="tiny", stages=(("align",), ("next",)), prompt_tokens=2, steps=150, batch=48, lr=1e-2, dropout=0.0
    )
    made = fit_generator(sequences, ids, params, IDS, 5, tmp_path)
    stages = correspondence.after_stages(made, tmp_path)
    assert list(stages) == ["align", "next"] and stages["next"].model is made.model
    accuracy = {name: correspondence.alignment_accuracy(g, sequences).iloc[0] for name, g in stages.items()}
    assert accuracy["align"]["accuracy"] > 0.6 > accuracy["align"]["blind"]
    plain = correspondence.alignment_accuracy(generator_of(ids), sequences).iloc[0]
    assert accuracy["align"]["accuracy"] > plain["accuracy"] + 0.2
    examples = held_out(sequences, "valid", 5)
    after = [correspondence.by_place(g, sequences, examples).set_index("place") for g in stages.values()]
    assert after[1].loc["separator", "cross_entropy"] < after[0].loc["separator", "cross_entropy"]
    joined = correspondence.by_place_after_stages({"row": stages}, sequences, examples).set_index("place")
    assert (joined["row"] == "row").all() and len(joined) == len(after[0]) + len(after[1])
    for name, table in zip(stages, after, strict=True):
        assert joined[joined["after"] == name][list(table)].equals(table)
