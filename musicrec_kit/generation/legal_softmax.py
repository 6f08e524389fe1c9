"""Cross-entropy over the tokens that may follow (ours), so that nothing is spent on learning which IDs exist.

The lineage's loss is a softmax over the whole vocabulary. With few users most of it is spent on the memory of a list:
which of the N^L codes of length L stand for an item. Decoding along the prefix tree knows that list anyway. Here every
target token competes with its siblings alone: the children of its prefix in the tree of the items as the target's task
writes them. Decoding renormalises in the same way (`Legal.softmax`), whatever other tasks the row is trained on.
"""

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from musicrec_kit.generation import tasks
from musicrec_kit.generation.marks import Source
from musicrec_kit.generation.seq2seq import PAD, T5
from musicrec_kit.generation.tasks import Task
from musicrec_kit.ids.prefix_tree import PrefixTree, closed
from musicrec_kit.ids.vocabulary import EOS, Vocabulary

CHUNK = 4096  # items whose ways are looked up at once


class LegalSoftmax:
    """The loss of a model whose targets are items as the tasks write them."""

    def __init__(self, vocabulary: Vocabulary, every_task: Iterable[Task], device: str | torch.device = "cpu") -> None:
        written = [tasks.write(vocabulary, target) for target in sorted({task.target for task in every_task})]
        width = max(tokens.shape[1] for tokens, _ in written)
        every = np.concatenate([np.pad(tokens, ((0, 0), (0, width - tokens.shape[1]))) for tokens, _ in written])
        self.tree = PrefixTree.from_tokens(every, np.concatenate([lengths for _, lengths in written]), EOS).to(device)
        self._offset = torch.arange(max(self.tree.max_branch), device=device)
        # edge -> the writings that pass it, a bit each
        self._writings = torch.zeros(len(self.tree.child_token), dtype=torch.int64, device=device)
        for number, (tokens, lengths) in enumerate(written):
            has_id = lengths > 0
            target = torch.from_numpy(closed(tokens[has_id], lengths[has_id], EOS)).to(device)
            for rows in target.split(CHUNK):
                passed, _, _ = self._walk(rows)
                self._writings[passed[rows != PAD].unique()] |= 1 << number

    def _walk(self, target: Int[Tensor, "batch length"]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the edge of every token [batch length], those it could take [batch length branch], and which are."""
        tree, node = self.tree, torch.zeros_like(target[:, 0])
        taken, edges, there = [], [], []
        for wanted in target.unbind(1):
            first, legal = tree.child_first[node][:, None], self._offset < tree.child_count[node][:, None]
            edge = (first + self._offset).clamp(max=len(tree.child_token) - 1)
            place = ((tree.child_token[edge] == wanted[:, None]) & legal).byte().argmax(dim=1)
            taken.append(edge.gather(1, place[:, None])[:, 0])
            node = tree.child_node[taken[-1]]
            edges.append(edge)
            there.append(legal & (wanted != PAD)[:, None])
        return torch.stack(taken, dim=1), torch.stack(edges, dim=1), torch.stack(there, dim=1)

    def siblings(self, target: Int[Tensor, "batch length"]) -> tuple[Tensor, Tensor]:
        """Return what may stand at every position, [batch length branch], and where it is more than filling.

        Targets are whole IDs with eos, padded; a padded position has no siblings. The last edge of a whole ID says in
        which writing it is, and what other writings begin with is no sibling.
        """
        taken, edges, there = self._walk(target)
        last = taken.gather(1, (target != PAD).sum(dim=1, keepdim=True).sub(1).clamp_min(0))
        there &= (self._writings[edges] & self._writings[last][..., None]) != 0
        return self.tree.child_token[edges], there

    def loss(
        self,
        model: T5,
        source: Int[Tensor, "batch source"] | Source,
        target: Int[Tensor, "batch target"],
        reduction: str = "mean",
    ) -> Float[Tensor, ""]:
        """Return the cross-entropy of every target token among its siblings: the mean over tokens, or the sum."""
        token, there = self.siblings(target)
        logits = model(source, target).float()
        live = target != PAD
        # a floor instead of -inf: a row of -inf alone has no gradient but nan
        rivals = logits.gather(-1, token).masked_fill(~there, torch.finfo(logits.dtype).min)
        errors = rivals.logsumexp(-1) - logits.gather(-1, target[..., None])[..., 0]
        total = torch.where(live, errors, 0.0).sum()
        return total if reduction == "sum" else total / live.sum().clamp_min(1)
