"""The parts that sequential models are combined from, against formulas written out and brute force."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from musicrec_kit import seeds
from musicrec_kit.features import Features
from musicrec_kit.params import Refused, SequentialParams
from musicrec_kit.sequential import objectives
from musicrec_kit.sequential.encoder import GRU, GatedBlock, Transformer
from musicrec_kit.sequential.interests import Interests, alignment
from musicrec_kit.sequential.items import Adapted, Attended, ItemTable
from musicrec_kit.sequential.model import Model
from musicrec_kit.sequential.product_codes import product_codes
from musicrec_kit.sequential.recommender import Batch, loss_of
from musicrec_kit.sequential.similarity import Similarity
from musicrec_kit.sequential.sources import Attributes, Sources, attributes_of, scaled
from musicrec_kit.sequential.windows import NO_TARGET, Windows, masked_rows, prefixes, training_rows

DIM = 4


def drawn(module: torch.nn.Module, std: float = 0.7, seed: int = 0) -> torch.nn.Module:
    """Return the module in evaluation with weights large enough that no mistake hides behind zeros."""
    with seeds.torch_seed(seed, "drawn"):
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=std)
    return module.eval()


def features(n_items: int, dim: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    present = np.ones(n_items, bool)
    present[1 + seed] = False
    return rng.normal(size=(n_items, dim)).astype(np.float32) * present[:, None], present


# how a history is read


def test_looking_both_ways_reads_what_comes_later_and_no_padding() -> None:
    encoder = drawn(Transformer(SequentialParams(dim=DIM, encoder="bidirectional", rows="cloze"), 6, causal=False))
    vectors = torch.randn(1, 5, DIM, generator=torch.Generator().manual_seed(0))
    kept = torch.tensor([[True, True, True, False, False]])
    other_end, other_padding = vectors.clone(), vectors.clone()
    other_end[0, 2, 0] += 1  # not all: the norm takes a shift away
    other_padding[0, 3:, 0] += 1
    with torch.no_grad():
        states, changed, same = (encoder(each, kept) for each in (vectors, other_end, other_padding))
    assert not torch.allclose(states[0, 0], changed[0, 0])
    assert torch.allclose(states[0, :3], same[0, :3], atol=1e-6)
    with torch.no_grad():
        assert encoder(vectors, torch.zeros(1, 5, dtype=torch.bool)).isfinite().all(), "a history without items"


def test_a_gated_block_is_the_formula() -> None:
    block: GatedBlock = drawn(GatedBlock(DIM, 6, 1, 0.0))  # type: ignore[assignment]
    x = torch.randn(1, 3, DIM, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        normed = block.attention_norm(x)
        q, k, v = block.attention.query_key_value(normed).chunk(3, dim=-1)
        weights = q @ k.transpose(1, 2) / math.sqrt(DIM)
        weights = weights.masked_fill(torch.ones(3, 3).triu(1).bool(), -math.inf).softmax(-1)
        y = x + torch.sigmoid(block.attention_gate(x)) * block.attention.output(weights @ v)
        gate, value = block.widen(block.feed_forward_norm(y)).split(6, dim=-1)
        z = y + torch.sigmoid(block.feed_forward_gate(y)) * block.narrow(gate * torch.sigmoid(gate) * value)
        assert torch.allclose(block(x, None), z, atol=1e-5)


def test_a_gru_is_its_three_gates() -> None:
    encoder: GRU = drawn(GRU(SequentialParams(dim=DIM, inner=3, layers=1)))  # type: ignore[assignment]
    x = torch.randn(1, 4, DIM, generator=torch.Generator().manual_seed(2))
    w, u = encoder.gru.weight_ih_l0, encoder.gru.weight_hh_l0
    state, states = torch.zeros(3), []
    with torch.no_grad():
        for step in x[0]:
            from_input, from_state = (w @ step).chunk(3), (u @ state).chunk(3)
            reset, update = (torch.sigmoid(a + b) for a, b in zip(from_input[:2], from_state[:2], strict=True))
            fresh = torch.tanh(from_input[2] + reset * from_state[2])
            state = (1 - update) * fresh + update * state
            states.append(encoder.output(state))
        assert torch.allclose(encoder(x, torch.ones(1, 4, dtype=torch.bool))[0], torch.stack(states), atol=1e-5)


@pytest.mark.parametrize(("start", "rows", "layer"), [("normal", 0.02, 0.02), ("xavier", 0.0434, 0.0510)])
def test_a_gru_starts_from_the_weights_of_its_settings(start: str, rows: float, layer: float) -> None:
    """Xavier's rule for 1,000 rows of 62: sqrt(2 / 1,062); torch's own for a layer that reads 128: sqrt(1 / 384)."""
    with seeds.torch_seed(0):
        model = Model(SequentialParams(encoder="gru", dim=62, inner=128, layers=1, start=start), 5, Sources(999))
    table, output = model.items.own.weight.detach(), model.encoder.output.weight.detach()
    assert float(table[:-1].std()) == pytest.approx(rows, rel=0.02) and not table[-1].any()
    assert float(output.std()) == pytest.approx(layer, rel=0.03)


# how items become vectors


def test_codes_are_the_mean_of_their_rows_and_features_go_through_adaptors() -> None:
    codes = np.array([[0, 2], [-1, -1], [1, 0]])
    table: ItemTable = drawn(
        ItemTable(SequentialParams(dim=DIM, vectors=("codes",)), Sources(3, codes=codes, values=4))
    )  # type: ignore[assignment]
    made = table()
    assert table.digits is not None
    rows = table.digits.weight
    assert torch.allclose(made.parts["codes"][0], (rows[0] + rows[4 + 2]) / 2)
    assert torch.allclose(made.parts["codes"][2], (rows[1] + rows[4 + 0]) / 2)
    assert not made.read[1].any() and not made.read[3].any() and made.present["codes"].tolist() == [True, False, True]
    text, image = features(3, 5), features(3, 2, seed=1)
    both = ItemTable(
        SequentialParams(dim=DIM, vectors=("features", "ids")), Sources(3, features={"text": text, "image": image})
    )
    drawn(both)
    made = both()
    assert both.own is not None
    for item in range(3):
        total = both.own.weight[item].clone()
        for name, (matrix, present) in (("text", text), ("image", image)):
            part = both.adaptors[name].adaptor(torch.from_numpy(matrix[item])) if present[item] else torch.zeros(DIM)
            assert torch.allclose(made.parts[name][item], part, atol=1e-6)
            total += part
        assert torch.allclose(made.read[item], total, atol=1e-6)


def test_attributes_are_means_of_fields_weighed_by_a_softmax_over_those_that_are_there() -> None:
    items = pd.DataFrame({"categories": [["x", "y"], ["y"], []], "brand": ["b", "", ""]})
    found = attributes_of(items)
    assert found["categories"].multi_hot().tolist() == [[True, True], [False, True], [False, False]]
    rows: Attended = drawn(Attended(found, DIM))  # type: ignore[assignment]
    x, y = rows.values["categories"].weight  # type: ignore[union-attr]
    (b,) = rows.values["brand"].weight  # type: ignore[union-attr]
    made = rows()
    fields = torch.stack([(x + y) / 2, b])
    weights = rows.score(fields)[:, 0].softmax(0)
    assert torch.allclose(made[0], weights @ fields, atol=1e-6) and torch.allclose(made[1], y, atol=1e-6)
    assert made.shape == (3, DIM) and not made[2].any()
    assert attributes_of(pd.DataFrame({"categories": [[]], "brand": [""]})) == {}


def test_a_second_stream_of_a_modality_leaves_out_items_without_it() -> None:
    matrix, present = features(3, 5)
    rows: Adapted = drawn(Adapted(matrix, present, DIM))  # type: ignore[assignment]
    made = rows()
    assert torch.allclose(made[0], rows.adaptor(torch.from_numpy(matrix[0]))) and not made[1].any()
    assert made.shape == (3, DIM)


def test_sources_come_back_from_their_arrays() -> None:
    attributes = {"brand": Attributes.of(pd.Series([["b"], ["a"], []]))}
    sources = Sources(3, attributes, {"text": features(3, 5)}, np.array([[1], [0], [-1]]), 2)
    again = Sources.from_arrays(3, sources.arrays())
    assert again.values == 2 and np.array_equal(again.codes, sources.codes)
    assert np.array_equal(again.attributes["brand"].multi_hot(), attributes["brand"].multi_hot())
    assert all(np.array_equal(a, b) for a, b in zip(again.features["text"], sources.features["text"], strict=True))


# how states are compared with items


@pytest.mark.parametrize("items", [("ids",), ("codes",), ("features",), ("features", "ids")])
@pytest.mark.parametrize("kind", ["dot", "cosine"])
@torch.no_grad()
def test_scores_of_all_of_each_and_of_a_row_agree_with_the_formula(items: tuple, kind: str) -> None:
    shown = {"text": features(6, 5), "image": features(6, 3, seed=1)} if "features" in items else {}
    codes = np.random.default_rng(0).integers(4, size=(6, 2)) if "codes" in items else None
    params = SequentialParams(dim=DIM, vectors=items, similarity=kind, head=True)
    catalogue = drawn(ItemTable(params, Sources(6, {}, shown, codes, 4)))()
    similarity: Similarity = drawn(Similarity(params, 6), seed=1)  # type: ignore[assignment]
    states = torch.randn(2, 3, DIM, generator=torch.Generator().manual_seed(3))
    every = similarity.all(states, catalogue)
    which = torch.tensor([[5, 0], [1, 1]])
    assert torch.allclose(similarity.of_row(states, catalogue, which)[1, 2], every[1, 2, [1, 1]], atol=1e-5)
    assert torch.allclose(similarity.of_row(states, catalogue, which)[0, 1], every[0, 1, [5, 0]], atol=1e-5)
    each = torch.tensor([[0, 1, 2], [3, 4, 5]])
    assert torch.allclose(
        similarity.of_each(states, catalogue, each), every.gather(-1, each[..., None])[..., 0], atol=1e-5
    )
    state, bias = states[1, 0], similarity.bias
    assert bias is not None

    def alike(part: Tensor, item: int) -> float:
        value = float(state @ part[item])
        return value / max(float(state.norm() * part[item].norm()), 1e-12) if kind == "cosine" else value

    for item in range(6):
        values = {name: alike(part, item) for name, part in catalogue.parts.items()}
        if "features" in items:
            there = [n for n in values if n != "ids" and (n not in catalogue.present or catalogue.present[n][item])]
            weight = np.exp([float(similarity.sharpness) * values[n] for n in there])  # type: ignore[arg-type]
            fused = float(weight @ [values[n] for n in there] / weight.sum())
            score = (values["ids"] + 2 * fused) / 3 if "ids" in values else fused
        else:
            (score,) = values.values()
        score = score / params.temperature if kind == "cosine" else score
        assert math.isclose(float(every[1, 0, item]), score + float(bias[item]), rel_tol=1e-4, abs_tol=1e-4)


# what is asked


def test_objectives_by_hand() -> None:
    positive, negative = torch.tensor([0.3, -1.0]), torch.tensor([[1.0, -2.0], [0.5, -math.inf]])
    softmax = [math.exp(0.3) / (math.exp(0.3) + math.e + math.exp(-2)), math.exp(-1) / (math.exp(-1) + math.exp(0.5))]
    expected = -(math.log(softmax[0]) + math.log(softmax[1])) / 2
    assert math.isclose(float(objectives.sampled_softmax(positive, negative)), expected, rel_tol=1e-5)
    sigma = lambda x: 1 / (1 + math.exp(-x))
    rows = [
        -(2 * math.log(sigma(0.3)) + math.log(1 - sigma(1)) + math.log(1 - sigma(-2))) / 3,
        -(2 * math.log(sigma(-1)) + math.log(1 - sigma(0.5))) / 3,
    ]
    assert math.isclose(float(objectives.binary(positive, negative, power=2)), sum(rows) / 2, rel_tol=1e-5)


def test_gbce_is_plain_bce_of_the_transformed_positive() -> None:
    """Petrov & Macdonald's code moves the positive logit to log(1 / (sigma^-beta - 1)) and takes BCE; float64 here."""
    beta = objectives.gbce_power(5001, 256, 0.75)
    positive = torch.linspace(-6, 6, 7, dtype=torch.float64)
    negative = torch.randn(7, 256, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    moved = torch.log(1 / (torch.sigmoid(positive) ** (-beta) - 1))
    logits, wanted = torch.cat([moved[:, None], negative], 1), torch.zeros(7, 257, dtype=torch.float64)
    wanted[:, 0] = 1
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted)
    assert torch.allclose(objectives.binary(positive, negative, beta), expected)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-1, 8), min_size=1, max_size=9), st.integers(0, 5))
def test_items_outside_a_history_are_drawn_evenly(known: list[int], seed: int) -> None:
    table = np.tile(np.array(known), (1, 1))
    drawn_items = objectives.uniform_outside(np.random.default_rng(seed), np.zeros((1, 4000)), table, 7)
    left = sorted(set(range(7)) - set(known))
    if left:
        counts = np.bincount(drawn_items[0], minlength=7)
        assert sorted(np.flatnonzero(counts)) == left
        assert counts.max() < 4000 / len(left) + 6 * math.sqrt(4000 / len(left))
    else:
        assert set(drawn_items[0]) == {6}


@pytest.mark.parametrize("objective", ["bce", "sampled_softmax", "gbce"])
@torch.no_grad()
def test_a_negative_that_is_the_target_does_not_count(objective: str) -> None:
    params = SequentialParams(dim=DIM, objective=objective, negatives=3)
    model: Model = drawn(Model(params, 4, Sources(5)))  # type: ignore[assignment]
    inputs, targets = torch.tensor([[0, 1]]), torch.tensor([[1, 2]])
    if objective == "bce":
        two = Batch(inputs, targets, torch.tensor([[3, 4]])), Batch(inputs, targets, torch.tensor([[3, 4]]))
        asked = [(0, 1, [3]), (1, 2, [4])]
    else:  # item 1 is the first target: there it is left out, after the second place it is a negative as any other
        two = Batch(inputs, targets, torch.tensor([[1, 3, 4]])), Batch(inputs, targets, torch.tensor([[3, 1, 4]]))
        asked = [(0, 1, [3, 4]), (1, 2, [1, 3, 4])]
    found = [float(loss_of(model, batch, params)) for batch in two]
    with torch.no_grad():
        catalogue = model.catalogue()
        states = model(inputs, catalogue)[0][0]
        scores = states @ catalogue.parts["ids"].T
    total = 0.0
    for place, target, others in asked:
        score, rest = scores[place, target], scores[place, others]
        if objective == "sampled_softmax":
            total += float(torch.cat([score[None], rest]).logsumexp(0) - score)
        else:
            power = objectives.gbce_power(5, 3, params.calibration) if objective == "gbce" else 1.0
            count = 3 if objective == "gbce" else 1
            total -= float(power * torch.sigmoid(score).log() + (1 - torch.sigmoid(rest)).log().sum()) / (count + 1)
    assert found == pytest.approx([total / 2] * 2, rel=1e-5)


# windows


def test_every_target_of_the_windows_ends_one_prefix() -> None:
    windows = Windows(np.arange(20), np.array([0, 7]), np.array([4, 12]))
    made = prefixes(windows, history=3)
    assert [(s, e) for s, e in zip(made.start, made.end, strict=True)] == [
        (0, 2), (0, 3), (0, 4), (7, 9), (7, 10), (7, 11), (8, 12)
    ]  # fmt: skip
    inputs, targets = training_rows(made, np.array([1, 6]), padding=99)
    assert inputs.tolist() == [[0, 1, 99], [8, 9, 10]] and targets.tolist() == [[-1, 2, -1], [-1, -1, 11]]


def test_cloze_hides_a_share_of_the_items_and_at_least_one() -> None:
    windows = Windows(np.arange(400), np.arange(0, 400, 4), np.arange(0, 400, 4) + np.tile([2, 4], 50))
    rng = np.random.default_rng(0)
    inputs, targets = masked_rows(windows, np.arange(100), 400, 401, 0.4, 0.0, rng)
    hidden = targets != NO_TARGET
    assert hidden.any(axis=1).all() and (inputs[hidden] == 401).all()
    whole = np.where(hidden, targets, inputs)
    assert all(whole[i, : 2 + 2 * (i % 2)].tolist() == list(range(4 * i, 4 * i + 2 + 2 * (i % 2))) for i in range(100))
    assert (whole[::2, 2:] == 400).all() and not hidden[::2, 2:].any()
    assert 0.35 < hidden[1::2].mean() < 0.55
    inputs, targets = masked_rows(windows, np.arange(100), 400, 401, 0.4, 1.0, rng)
    assert ((targets != NO_TARGET).sum(axis=1) == 1).all() and (targets[1::2, 3] == np.arange(7, 400, 8)).all()
    inputs, targets = masked_rows(windows, np.arange(100), 400, 401, 0.4, 1.0, rng, True)
    row, last = np.nonzero(targets != NO_TARGET)
    assert (row == np.arange(100)).all() and set(last[::2]) == {1} and set(last[1::2]) == {1, 2, 3}
    behind = np.arange(4) > last[:, None]
    assert (targets[row, last] == 4 * row + last).all() and ((inputs == 400) == behind).all()


# interests


def test_a_history_touches_each_of_its_clusters_once() -> None:
    found = Interests(4, 2, DIM, share=0.5)
    assert len(found.centres) == 4
    found.centres[:] = torch.arange(4.0)[:, None]
    found.cluster_of[:] = torch.tensor([[0, 3], [3, -1], [2, 2], [1, 0]])
    memory, used = found.of(
        torch.tensor([[0, 1, 2], [3, 4, 4]]), torch.tensor([[True, True, True], [True, False, False]])
    )
    touched = [sorted(row[mask][:, 0].tolist()) for row, mask in zip(memory, used, strict=True)]
    assert touched == [[0, 2, 3], [0, 1]]


def test_interests_are_the_clusters_of_what_is_there() -> None:
    rng = np.random.default_rng(0)
    centres = np.array([[0, 0, 0, 9], [9, 0, 0, 0]], np.float32)
    matrix = centres[np.arange(8) % 2] + rng.normal(0, 0.1, (8, DIM)).astype(np.float32)
    table = ItemTable(
        SequentialParams(dim=DIM, vectors=("features",)), Sources(8, features={"text": (matrix, np.arange(8) != 5)})
    )
    with torch.no_grad():
        table.adaptors["text"].adaptor.weight.copy_(torch.eye(DIM))  # type: ignore[operator]
        table.adaptors["text"].adaptor.bias.zero_()  # type: ignore[operator]
    found = Interests(8, 1, DIM, share=0.25)
    found.find(table(), 10, torch.Generator().manual_seed(0))
    cluster = found.cluster_of[:, 0].tolist()
    assert cluster[5] == -1 and len(set(cluster[::2])) == 1 and len({cluster[i] for i in (1, 3, 7)}) == 1
    assert cluster[0] != cluster[1]
    assert torch.allclose(found.centres[cluster[0]], torch.from_numpy(matrix[::2].mean(0)), atol=1e-4)


def test_interests_that_cancel_are_orthogonal_enough() -> None:
    memory = torch.tensor([[[2.0, 0.0], [-2.0, 0.0], [5.0, 5.0]]])
    assert float(alignment(memory, torch.tensor([[True, True, False]]))) == 0
    assert float(alignment(memory, torch.tensor([[True, False, False]]))) == pytest.approx((2 / 3) ** 2 / 2)


# product codes


def test_product_codes_tell_planted_groups_apart_in_every_digit() -> None:
    rng = np.random.default_rng(0)
    groups = rng.integers(2, size=(60, 3))
    parts = rng.normal(size=(3, 2, 4)) * 8
    matrix = np.concatenate([parts[i][groups[:, i]] for i in range(3)], axis=1).astype(np.float32)
    matrix += rng.normal(0, 0.01, matrix.shape).astype(np.float32)
    fitted = np.arange(60) < 50
    codes = product_codes(matrix, fitted, digits=3, values=2)
    assert codes.shape == (60, 3) and set(np.unique(codes)) <= {0, 1}
    # a rotation may mix the parts; what is told apart by the groups is told apart by the codes, and nothing else is
    assert len({tuple(row) for row in np.c_[groups, codes]}) == len({tuple(row) for row in groups})
    assert np.array_equal(codes, product_codes(matrix, fitted, digits=3, values=2))
    other = matrix.copy()
    other[50:] += 100
    assert np.array_equal(codes[:50], product_codes(other, fitted, digits=3, values=2)[:50]), (
        "fitted on what it must not see"
    )


def test_few_items_for_codes_are_refused_with_the_next_step() -> None:
    with pytest.raises(Refused, match=r"set sequential\.code_values to a smaller power of two"):
        product_codes(np.ones((5, 8), np.float32), np.ones(5, bool), digits=2, values=8)
    wide = np.random.default_rng(0).normal(size=(20, 64)).astype(np.float32)  # fewer items than columns
    assert product_codes(wide, np.ones(20, bool), digits=8, values=4).max() == 3


def test_product_codes_do_not_depend_on_the_number_of_threads() -> None:
    from threadpoolctl import threadpool_limits

    matrix = np.random.default_rng(0).normal(size=(300, 64)).astype(np.float32)
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            found.append(product_codes(matrix, np.ones(300, bool), digits=8, values=16))
    assert np.array_equal(*found)


def test_scaled_features_are_of_one_size_and_absent_rows_stay_zero() -> None:
    matrix, present = features(6, 5)
    made = scaled(Features("text", (30 * matrix + 7) * present[:, None], present, ""), "modality")
    assert np.allclose(made[present].mean(0), 0, atol=1e-5) and not made[~present].any()
    assert np.isclose(np.square(made[present]).mean(), 1, atol=1e-4)
    again = scaled(Features("text", matrix, present, ""), "modality")
    assert np.allclose(made, again, atol=1e-4), "whatever the scale was"
    assert np.array_equal(scaled(Features("text", matrix, present, ""), "none"), matrix)


@torch.no_grad()
def test_a_target_weighs_the_same_in_a_batch_of_short_and_of_long_histories() -> None:
    params = SequentialParams(dim=DIM)
    model: Model = drawn(Model(params, 4, Sources(5)))  # type: ignore[assignment]
    short = Batch(torch.tensor([[0], [1]]), torch.tensor([[1], [2]]), None)
    long = Batch(torch.tensor([[0, 1, 2], [2, 3, 4]]), torch.tensor([[1, 2, 3], [3, 4, 0]]), None)
    per_row = 2.0  # eight targets in four rows
    total = sum(2 * per_row * float(loss_of(model, batch, params, per_row)) for batch in (short, long))
    plain = 2 * float(loss_of(model, short, params)) + 6 * float(loss_of(model, long, params))
    assert total == pytest.approx(plain, rel=1e-5)


# combinations that cannot be


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"dim": 10, "heads": 4}, "must be divisible by heads"),
        ({"code_values": 100}, "no power of two"),
        ({"encoder": "bidirectional"}, "go together"),
        ({"encoder": "interests"}, "rows=prefixes"),
        ({"encoder": "gru", "beside": "text"}, "set encoder=causal"),
        ({"encoder": "gru", "pretrained": True}, "pretrained is for encoder=causal"),
        ({"vectors": ("codes", "features")}, "features are read one way"),
        ({"vectors": ("codes",), "beside": "text"}, "features are read one way"),
        ({"vectors": ("features",), "beside": "image"}, "features are read one way"),
        ({"pretrained": True, "beside": "attributes"}, "is a second"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(given_: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SequentialParams(**given_)
