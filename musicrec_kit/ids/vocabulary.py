"""Vocabulary: codes <-> tokens. The only place that knows how a token is numbered and written.

Order of tokens: pad, eos, prompts of the tasks, separators, codes (stream by stream, level by level, every code whether
used or not), suffixes. Behind all that is ever written stand tokens that are only read: the users' and one in
whose place a picture is shown.

Names (`contract.md`): MusicRec `<s1.7>` shared and `<a.3>` specific levels in text, `<S1.7>` and `<A.3>` in image,
`<name:s1.7>` and `<name:a.3>` in any other stream; MGR `<txt-1-214>`, `<img-1-40>`, `<name-1-7>`.
"""

import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from musicrec_kit import seeds
from musicrec_kit.ids.semantic_ids import NULL, SemanticIds
from musicrec_kit.params import IdsParams, Refused

PAD, EOS = 0, 1
Key = tuple[str | int, ...]
MGR_NAMES = {"text": "txt", "image": "img"}


@dataclass(frozen=True)
class Block:
    """A run of consecutive tokens that mean the same kind of thing: token = first + value."""

    kind: str  # "prompt", "separator", "code" or "suffix"
    key: Key  # prompt: task; code: stream ("" where tied), level; suffix: view
    first: int
    size: int


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Tokens of a set of semantic IDs.

    Attributes:
        ids: the semantic IDs that it writes.
        params: how they are written.
        blocks: all tokens behind pad and eos, in order.
        size: number of tokens that can be written.
        users: number of users with a token of their own.
        pictures: whether sources show pictures.
    """

    ids: SemanticIds
    params: IdsParams
    blocks: tuple[Block, ...]
    size: int
    users: int = 0
    pictures: bool = False
    pad: int = PAD  # also what the decoder starts from, as in T5
    eos: int = EOS

    @classmethod
    def from_ids(
        cls,
        ids: SemanticIds,
        params: IdsParams,
        tasks: int = 0,
        prompt_tokens: int = 4,
        users: int = 0,
        pictures: bool = False,
    ) -> "Vocabulary":
        """Return the vocabulary of `ids` with `prompt_tokens` learned prompt tokens for each of `tasks` tasks.

        `params.tie_levels`: one set of tokens for all levels of a stream, as digits have.
        `params.tie_shared_tokens`: one token per shared code instead of one per stream (lineage row 24).
        `params.separators`: k - 1 different tokens for k segments of a view (MGR section 3.2, lineage row 49).
        """
        sizes: list[tuple[str, Key, int]] = [("prompt", (task,), prompt_tokens) for task in range(tasks)]
        if params.separators and params.separator_token == "special":
            sizes += [("separator", (), max(len(segments) for segments in ids.segments.values()) - 1)]
        sizes += [
            ("code", key, size) for key, size in _code_sizes(ids, params.tie_shared_tokens, params.tie_levels).items()
        ]
        sizes += [("suffix", (v,), int(ids.suffix[v].max()) + 1) for v in ids.views if ids.has_suffix(v)]
        blocks, first = [], EOS + 1
        for kind, key, size in sizes:
            blocks.append(Block(kind, key, first, size))
            first += size
        return cls(ids, params, tuple(blocks), first, users, pictures)

    @property
    def n_read_only(self) -> int:
        """Return the number of tokens that are never written: the users', an unknown user's, and a picture's."""
        return (self.users + 1 if self.users else 0) + self.pictures

    @property
    def picture(self) -> int:
        """Return the token that holds the place of a picture."""
        return self.size + self.n_read_only - 1

    def user_tokens(self, users: np.ndarray) -> np.ndarray:
        """Return the token of each user number; all that are unknown, such as -1, share one."""
        known = (users >= 0) & (users < self.users)
        return self.size + np.where(known, users + 1, 0)

    def prompts(self, task: int) -> np.ndarray:
        """Return the prompt tokens int32 [prompt_tokens] of a task number."""
        block = self._block("prompt", task)
        return np.arange(block.first, block.first + block.size, dtype=np.int32)

    @cached_property
    def separators(self) -> tuple[int, ...]:
        """Return the separator tokens: number j stands before segment j + 1 of a view.

        Borrowed ones are tokens of codes, drawn once: as constant as a separator, without a meaning of their own.
        """
        if self.params.separators and self.params.separator_token == "borrowed":
            codes = [token for block in self.blocks if block.kind == "code" for token in _range(block)]
            wanted = max(len(segments) for segments in self.ids.segments.values()) - 1
            drawn = seeds.generator(0, "separators").choice(codes, wanted, replace=False)
            return tuple(int(token) for token in drawn)
        found = [block for block in self.blocks if block.kind == "separator"]
        return tuple(range(found[0].first, found[0].first + found[0].size)) if found else ()

    def tokens_of(self, view: str) -> tuple[np.ndarray, np.ndarray]:
        """Return (tokens int32 [items, width] padded on the right, lengths int32 [items]) of a view's IDs, without eos.

        Separators and suffix tokens are part of the ID. An item without an ID has length 0.
        """
        return self.write(view, self.ids.views[view], self.ids.suffix[view])

    def write(self, view: str, codes: np.ndarray, suffix: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return tokens and lengths as `tokens_of` does, for codes [rows, levels] of items that may be new."""
        by_level = np.ascontiguousarray(np.asarray(codes, np.int32).T)
        columns, started, at = [], np.zeros(len(codes), bool), 0
        for number, (stream, levels) in enumerate(self.ids.segments[view]):
            segment = by_level[at : at + levels]
            present = (segment != NULL).any(axis=0)
            if number and self.params.separators:
                columns.append(np.where(started & present, self.separators[number - 1], PAD))
            for level in range(levels):
                block = self._block("code", *self._key(stream, level))
                assert segment[level].max(initial=NULL) < block.size, "a code beyond its level's size"
                columns.append(np.where(segment[level] == NULL, PAD, segment[level] + block.first))
            started |= present
            at += levels
        if self.ids.has_suffix(view):
            block = self._block("suffix", view)
            values = np.zeros(len(codes), np.int32) if suffix is None else np.minimum(suffix, block.size - 1)
            columns.append(np.where(started, values + block.first, PAD))
        return _left_aligned(np.stack(columns, dtype=np.int32))

    def joined(self, views: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return tokens and lengths of several views' IDs written one after the other (MusicRec's joint target).

        An item that lacks one of the views is written by the others alone.
        """
        if len(views) == 1:
            return self.tokens_of(views[0])
        return _left_aligned(np.concatenate([self.tokens_of(view)[0].T for view in views]))

    def level_slices(self, views: Sequence[str]) -> list[tuple[int, int]]:
        """Return, per position of the joined IDs, the range (first, stop) of tokens that can stand there, eos left out.

        Where IDs vary in length or lack a segment, a position's range spans every block that occurs at it.
        """
        tokens, _ = self.joined(views)
        first = np.array([block.first for block in self.blocks])
        spans = []
        for column in tokens.T:
            used = np.unique(np.searchsorted(first, column[column != PAD], side="right") - 1)
            spans.append((self.blocks[used[0]].first, self.blocks[used[-1]].first + self.blocks[used[-1]].size))
        return spans

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Return the written form of every token, in order."""
        names = ["<pad>", "<eos>"]
        for block in self.blocks:
            names += [self._name(block, value) for value in range(block.size)]
        names += ["<user.unknown>", *(f"<user.{number}>" for number in range(self.users))] if self.users else []
        names += ["<picture>"] if self.pictures else []
        twice = len(names) - len(set(names))
        if twice:
            raise Refused(
                f"{twice} tokens of the streams {', '.join(self._streams)} would be written alike; rename a modality"
            )
        return tuple(names)

    @cached_property
    def _token_of(self) -> dict[str, int]:
        return {name: token for token, name in enumerate(self.names)}

    def name(self, token: int) -> str:
        """Return how a token is written, such as `<s1.7>`."""
        return self.names[token]

    def token(self, name: str) -> int:
        """Return the token that is written so; a name that no token has is refused."""
        if name not in self._token_of:
            raise Refused(f"no token is written {name!r}; code tokens here look like {self.names[-1]!r}")
        return self._token_of[name]

    def text(self, tokens: Sequence[int]) -> str:
        """Return a sequence of tokens as it is written, padding left out."""
        return "".join(self.names[int(token)] for token in tokens if int(token) != PAD)

    @cached_property
    def _streams(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(stream for segments in self.ids.segments.values() for stream, _ in segments))

    @cached_property
    def _blocks_by_key(self) -> dict[Key, Block]:
        return {(block.kind, *block.key): block for block in self.blocks}

    def _block(self, kind: str, *key: str | int) -> Block:
        return self._blocks_by_key[(kind, *key)]

    def _key(self, stream: str, level: int) -> tuple[str, int]:
        tied = self.params.tie_shared_tokens and level < self.ids.shared_levels
        return ("" if tied else stream, 0 if self.params.tie_levels else level)

    def _name(self, block: Block, value: int) -> str:
        if block.kind == "code":
            return code_name(str(block.key[0]), int(block.key[1]), value, self.ids.shared_levels, self.params.tokens)
        label = {"prompt": "task", "separator": "sep", "suffix": "dup"}[block.kind]
        number = value + 1 if block.kind == "separator" else value  # MGR counts them s_1 ... s_{k-1}
        return f"<{':'.join([label, *map(str, block.key)])}.{number}>"


def _range(block: Block) -> range:
    return range(block.first, block.first + block.size)


def code_name(stream: str, level: int, code: int, shared_levels: int, tokens: str) -> str:
    """Return the written form of one code; `stream` is empty for a token that all streams share.

    >>> code_name("text", 0, 7, 2, "musicrec"), code_name("image", 2, 3, 2, "musicrec")
    ('<s1.7>', '<A.3>')
    >>> code_name("text", 0, 214, 0, "mgr")
    '<txt-1-214>'
    """
    if tokens == "mgr":
        return f"<{MGR_NAMES.get(stream, stream or 'shared')}-{level + 1}-{code}>"
    if level - shared_levels >= len(string.ascii_lowercase):
        raise Refused(f"an ID of {level + 1} levels has no letter for its last level; use ids.tokens=mgr")
    label = f"s{level + 1}" if level < shared_levels else string.ascii_lowercase[level - shared_levels]
    label = label.upper() if stream == "image" else label
    return f"<{label}.{code}>" if stream in ("", "text", "image") else f"<{stream}:{label}.{code}>"


def _code_sizes(ids: SemanticIds, tied: bool, one_set: bool) -> dict[Key, int]:
    """Return (stream, level) -> codes, in the order of views; a stream of two views has one set of tokens."""
    sizes: dict[Key, int] = {}
    for view, segments in ids.segments.items():
        of_level = iter(ids.sizes[view])
        for stream, levels in segments:
            for level in range(levels):
                key = ("" if tied and level < ids.shared_levels else stream, 0 if one_set else level)
                sizes[key] = max(sizes.get(key, 0), next(of_level))
    return sizes


def _left_aligned(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens [width, items] as [items, longest] with the padding of each item at its end, and the lengths."""
    written = columns != PAD
    lengths = written.sum(axis=0, dtype=np.int32)
    longest = int(lengths.max(initial=0))
    if not written[:longest].all():
        columns = np.take_along_axis(columns, np.argsort(~written, axis=0, kind="stable"), axis=0)
    return np.ascontiguousarray(columns[:longest].T), lengths
