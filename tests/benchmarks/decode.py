"""Row `decode`: the 20 best items of users by constrained beam search, from the tokens of their histories."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import T5ForConditionalGeneration

from musicrec_kit.data.splits import held_out
from musicrec_kit.generation.beam_search import search
from musicrec_kit.generation.exact import leaf_paths
from musicrec_kit.generation.frozen import Frozen, Precision
from musicrec_kit.generation.legal import Legal, make_legal
from musicrec_kit.generation.seq2seq import T5
from musicrec_kit.ids.vocabulary import EOS, PAD
from musicrec_kit.params import GeneratorParams
from tests.benchmarks.harness import Row, Side, device
from tests.benchmarks.worlds import HISTORY, hugging_face, world

BEAM = 20  # both papers
USERS = 1024  # of the test split, drawn
THEIR_BATCH = {"cpu": 8, "cuda": 256}  # the best of 2, 4, 8, 16, 32, 64 on two CPU cores
OUR_BATCH = {"cpu": 64, "cuda": 4096}
LEAST_IN_BF16 = 0.99  # overlap of the lists
# the weights are trained: with random ones nearly all scores are equal, and half of any list is chance
TRAINED = {"backbone": "lineage", "tasks": ("next",), "dropout": 0.0, "position_lr": 30, "warmup": 0.1}
STEPS, BATCH = 200, 256


class Lists(NamedTuple):
    """The best IDs of every user as numbers of leaves, and their scores, best first."""

    leaf: Tensor
    score: Tensor
    overlap: float = 1.0  # with the usual way's, at least


def rows(data_root: Path | None, scale: float) -> Iterator[Row]:
    """Yield the row."""
    made = world(data_root, scale)
    steps, batch = (STEPS, BATCH) if data_root is not None or scale == 1.0 else (20, 64)
    generator = made.trained(GeneratorParams(**TRAINED, steps=steps, batch=batch))
    generator.model.to(device())
    (task,) = [task for task in generator.tasks("next") if task.name == "next/text"]
    examples = held_out(made.sequences, "test", HISTORY)
    n_users = min(len(examples), max(16, round(USERS * scale)))
    store = generator.store(made.sequences, [task])
    spans = store.spans(task, examples.take(np.random.default_rng(0).permutation(len(examples))[:n_users]))
    plan = store.on_device(spans)
    sources = [store.sources(plan[i : i + 1], width)[0] for i, width in enumerate(store.source_widths(spans).tolist())]
    legal = make_legal(generator.vocabulary, ("text",), "joint", device())
    theirs, batch = hugging_face(generator.model).to(device()), THEIR_BATCH[device()]
    yield Row(
        name="decode",
        unit="users",
        units=n_users,
        data=f"{made.name}; {n_users} users, {np.mean([len(source) for source in sources]):.0f} tokens, beam {BEAM}",
        usual=Side(f"HF generate, dict trie, batch {batch}", lambda: by_generate(theirs, legal, sources, batch)),
        ours=[
            Side("beam_search", lambda: by_search(generator.model, "fp32", legal, sources)),
            Side("beam_search, bf16", lambda: by_search(generator.model, "bf16", legal, sources), precision="bf16"),
        ],
        agree=agree,
        targets={"beam_search": 8.0, "beam_search, bf16": 15.0},
    )


class Trie:
    """Dicts in dicts: after a prefix, the tokens that go on to an item."""

    def __init__(self, rows: list[list[int]]) -> None:
        self.root: dict = {}
        for row in rows:
            node = self.root
            for token in row:
                node = node.setdefault(token, {})

    def allowed(self, prefix: list[int]) -> list[int]:
        """Return what may follow; behind an ID's eos only padding, which generate adds itself."""
        node = self.root
        for token in prefix:
            node = node.get(token, {})
        return list(node) or [EOS]


@torch.inference_mode()
def by_generate(theirs: T5ForConditionalGeneration, legal: Legal, sources: list[Tensor], batch: int) -> Lists:
    """Return the lists as the lineage makes them: batches of users as they come, padded to the longest."""
    paths = leaf_paths(legal)
    written = {tuple(row): leaf for row, leaf in zip(paths.tokens.tolist(), paths.leaf.tolist(), strict=True)}
    trie = Trie([list(row) for row in written])
    leaves, scores = [], []
    for first in range(0, len(sources), batch):
        source = pad_sequence(sources[first : first + batch], batch_first=True, padding_value=PAD)
        made = theirs.generate(
            input_ids=source,
            attention_mask=(source != PAD).long(),
            num_beams=BEAM,
            num_return_sequences=BEAM,
            max_new_tokens=legal.tree.depth,
            early_stopping=True,
            do_sample=False,
            prefix_allowed_tokens_fn=lambda _user, prefix: trie.allowed(prefix.tolist()[1:]),
            output_scores=True,
            return_dict_in_generate=True,
        )
        leaves += [written[tuple(row[1:])] for row in made.sequences.tolist()]
        scores.append(made.sequences_scores)
    return Lists(torch.tensor(leaves).view(-1, BEAM), torch.cat(scores).view(-1, BEAM).cpu())


@torch.inference_mode()
def by_search(model: T5, precision: Precision, legal: Legal, sources: list[Tensor]) -> Lists:
    """Return the lists as `Ranker` makes them: users with histories of like length together."""
    frozen, batch = Frozen.of(model, precision), OUR_BATCH[device()]
    order, leaves, scores = torch.tensor([len(source) for source in sources]).argsort(), [], []
    for some in order.split(batch):
        source = pad_sequence([sources[user] for user in some.tolist()], batch_first=True, padding_value=PAD)
        found = search(frozen, legal, frozen.encode(source), BEAM)
        leaves.append(found.leaf)
        scores.append(found.lineage)
    back, least = order.argsort(), 1.0 if precision == "fp32" else LEAST_IN_BF16
    return Lists(torch.cat(leaves).cpu()[back], torch.cat(scores).cpu()[back], least)


def agree(usual: Lists, ours: Lists) -> str:
    """Say how many of the 20 are the same; scores that differ by rounding alone are ties.

    In fp32 each list is the same set but where the last place, or a beam's on the way, was a tie: in one of a thousand
    lists at most. A wrong mask, bias, or order of beams changes nearly all of them.
    """
    same = (usual.leaf[:, :, None] == ours.leaf[:, None, :]).any(dim=2).float().mean(dim=1)
    overlap, apart = float(same.mean()), float((usual.score - ours.score).abs().max())
    if ours.overlap == 1.0:
        whole = float((same == 1.0).float().mean())
        assert whole >= 0.999 and float((usual.score - ours.score).abs().median()) < 1e-5, (whole, apart)
        return f"{whole:.1%} of lists equal, scores within {apart:.0e}"
    assert overlap >= ours.overlap, overlap
    return f"{overlap:.2%} of the 20"
