"""A finished run as a recommender: histories in, titles with scores and IDs out; new items without retraining.

Data in: a run's folder, raw item ids. Data out: a frame of recommendations.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from musicrec_kit import runs
from musicrec_kit.params import VISUAL, Refused, Settings, build
from musicrec_kit.pipeline import pick_device
from musicrec_kit.settings_help import nearest

if TYPE_CHECKING:
    from musicrec_kit.data import Dataset, Examples
    from musicrec_kit.data import Sequences as Histories
    from musicrec_kit.evaluation import RankedList
    from musicrec_kit.generation import Generator
    from musicrec_kit.sequential import Recommender as Scorer

log = logging.getLogger(__name__)


@dataclass
class Recommender:
    """A run that was trained, loaded.

    Attributes:
        items: the catalogue: the data set's items, then those that were added; one row per item number.
        model: a generative run's T5 with its vocabulary, which holds the semantic IDs; or a sequential run's model.
    """

    run: runs.Run
    settings: Settings
    dataset: "Dataset"
    items: pd.DataFrame
    model: "Generator | Scorer"
    main_list: str
    device: str

    @classmethod
    def load(cls, folder: str | Path, device: str = "auto") -> "Recommender":
        """Load a finished run from its folder.

        Raises:
            Refused: the folder is no run, or the run's method only counts.
        """
        import yaml

        from musicrec_kit.data import Dataset
        from musicrec_kit.generation import Generator
        from musicrec_kit.sequential import Recommender as Scorer

        run = runs.load_run(folder)
        kinds: dict[str, type[Generator] | type[Scorer]] = {"generator": Generator, "recommender": Scorer}
        stage = next((stage for stage in kinds if stage in run.stages), None)
        if stage is None:
            raise Refused(
                f"run {run.name} counts and has no model; recommend needs a method that is trained, such as musicrec"
            )
        values = yaml.safe_load((run.folder / "settings.yaml").read_text(encoding="utf-8"))
        values.pop("request", None)
        dataset, chosen = Dataset.load(run.stage("data")), pick_device(device)
        model = kinds[stage].load(run.stage(stage), chosen)
        return cls(run, build(values), dataset, dataset.items, model, run.metrics["main_list"], chosen)

    @property
    def generator(self) -> "Generator":
        """Return the T5 with its vocabulary.

        Raises:
            Refused: the run's method is not generative.
        """
        from musicrec_kit.generation import Generator

        if not isinstance(self.model, Generator):
            raise Refused(f"run {self.run.name} scores items and has no semantic IDs; take a generative run")
        return self.model

    def recommend(self, histories: Sequence[Sequence[str]], k: int = 10, list_name: str | None = None) -> pd.DataFrame:
        """Return the k best items after each history, none of which is in it.

        Args:
            histories: raw item ids, oldest first.
            k: at most 20, the places that a list keeps.
            list_name: text, image, joint, merged ...; left out: the run's list of record.

        Returns:
            history (number), rank, raw_id, title, score, and one column per view with the item's tokens.
        """
        from musicrec_kit.data import Examples, Sequences

        if not 1 <= k <= 20:
            raise Refused(f"k={k}: a list keeps 1 to 20 items; ask for one of these")
        numbers = [self.numbers_of(history) for history in histories]
        # a history is a user with nothing held out; the target that the protocol asks for plays no part in the lists
        made = Sequences.from_lists(numbers, len(self.items))
        ends, zeros = made.offsets[1:], np.zeros(len(numbers), np.int32)
        starts = np.maximum(made.offsets[:-1], ends - self.settings.data.history)
        nobody = np.full(len(numbers), -1, np.int64)  # no user that the model may have a token for
        examples, whole = (Examples(nobody, first, ends, zeros) for first in (starts, made.offsets[:-1]))
        lists = self._lists(made, examples, whole)
        name = list_name or self.main_list
        if f"{name}/no_history" not in lists:
            known = [n for n in lists if not n.endswith("/no_history")]
            raise Refused(f"run {self.run.name} has no list {name!r}; it has {', '.join(known)}")
        ranked = lists[f"{name}/no_history"]
        rows = [row for i in range(len(numbers)) for row in self._rows(i, ranked.items[i], ranked.scores[i], k)]
        return pd.DataFrame(rows)

    def _lists(self, made: "Histories", examples: "Examples", whole: "Examples") -> "Mapping[str, RankedList]":
        from musicrec_kit import evaluation, generation

        if isinstance(self.model, generation.Generator):
            return generation.rank(self.model, made, examples, whole, self.settings.rank, self.run.seed)
        plain, without = evaluation.rank_by_scores(self.model.scorer(made), examples, whole, made)
        return {"main": plain, "main/no_history": without}

    def _rows(self, user: int, items: np.ndarray, scores: np.ndarray, k: int) -> list[dict[str, Any]]:
        rows = []
        for rank, (item, score) in enumerate(zip(items[:k], scores[:k], strict=True), 1):
            if item >= 0:
                about = {
                    "raw_id": self.items["raw_id"][item],
                    "title": self.items["title"][item],
                    "score": float(score),
                }
                rows.append({"history": user, "rank": rank, **about, **self.ids_of(int(item))})
        return rows

    def numbers_of(self, raw_ids: Sequence[str]) -> list[int]:
        """Return item numbers of raw ids; an unknown one is refused, naming the nearest."""
        if not len(raw_ids):
            raise Refused("an empty history: give at least one item id")
        number = {str(raw): i for i, raw in enumerate(self.items["raw_id"])}
        for raw in raw_ids:
            if str(raw) not in number:
                hint = nearest(str(raw), list(number))
                raise Refused(
                    f"no item {raw!r} among the {len(number)} of {self.run.dataset}; "
                    + (f"did you mean {hint!r}?" if hint else f"ids look like {next(iter(number))!r}")
                )
        return [number[str(raw)] for raw in raw_ids]

    def ids_of(self, item: int) -> dict[str, str]:
        """Return view -> the item's semantic ID as tokens; nothing where the run has none."""
        if "generator" not in self.run.stages:
            return {}
        vocabulary = self.generator.vocabulary
        found = {}
        for view in vocabulary.ids.views:
            tokens, lengths = vocabulary.write(
                view, vocabulary.ids.views[view][[item]], vocabulary.ids.suffix[view][[item]]
            )
            found[view] = vocabulary.text(tokens[0, : lengths[0]].tolist())
        return found

    def add_items(self, items: pd.DataFrame, features: Mapping[str, np.ndarray]) -> pd.DataFrame:
        """Give new items semantic IDs with the run's own tokenizer, so that they can be read and recommended.

        Nothing is retrained: an item is reached through the codes that it shares with known ones. Where its ID is
        taken, it gets the next index among the items of these codes (views that were resolved by a suffix, while there
        are tokens for it), or the nearest free code at the last level.

        Args:
            items: raw_id, title, and more of the data set's columns.
            features: modality -> float [new items, dim], from the encoders that the run used (`features.extract`); a
                row of NaN means that the item lacks the modality.

        Returns:
            raw_id, title and the tokens of every view.

        Raises:
            Refused: a raw id is known, rows do not match, the run has no tokenizer, or no free code is left.
        """
        from musicrec_kit import tokenizers

        _ = self.generator  # refused where the run is not generative
        if "tokenizer" not in self.run.stages:
            raise Refused(
                f"run {self.run.name} has IDs from elsewhere ({self.settings.ids.source}): there is no tokenizer to "
                "give new items IDs"
            )
        known = set(self.items["raw_id"].astype(str)) & set(items["raw_id"].astype(str))
        if known:
            raise Refused(f"item {sorted(known)[0]!r} is in the catalogue already")
        if any(len(matrix) != len(items) for matrix in features.values()):
            raise Refused(f"{len(items)} new items, but features have {[len(m) for m in features.values()]} rows")
        present = {name: ~np.isnan(matrix).any(axis=1) for name, matrix in features.items()}
        filled = {name: np.nan_to_num(np.asarray(matrix, np.float32)) for name, matrix in features.items()}
        tokenizer = tokenizers.load(self.run.stage("tokenizer"))
        only_shown = set(self.settings.encoded) - set(self.settings.tokenized)
        # every item twice: distances to all codes are given for items that collide, and are wanted for each
        codes = tokenizer.encode(
            {name: np.tile(matrix, (2, 1)) for name, matrix in filled.items() if name not in only_shown},
            {name: np.tile(mask, 2) for name, mask in present.items() if name not in only_shown},
        )
        ids = self.generator.vocabulary.ids
        made = {view: self._extended(view, codes, len(items)) for view in ids.views}
        views, suffix = ({view: parts[i] for view, parts in made.items()} for i in (0, 1))
        vocabulary = replace(self.generator.vocabulary, ids=replace(ids, views=views, suffix=suffix))
        self.model = replace(self.generator, vocabulary=vocabulary)
        if self.generator.model.marks is not None:
            self.generator.model.marks.show(filled.get(VISUAL), present.get(VISUAL), len(items))
        first = len(self.items)
        added = items.assign(item=np.arange(first, first + len(items)))
        self.items = pd.concat([self.items, added], ignore_index=True)
        return pd.DataFrame(
            [
                {"raw_id": self.items["raw_id"][i], "title": self.items["title"][i], **self.ids_of(i)}
                for i in added["item"]
            ]
        )

    def _extended(self, view: str, codes: Any, n_new: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the view's codes [items + new, levels] and suffixes [items + new]."""
        ids = self.generator.vocabulary.ids
        streams = [stream for stream, _ in ids.segments[view]]
        new = np.concatenate([codes.codes[stream][:n_new] for stream in streams], axis=1)
        rows, distances = codes.distances.get(streams[-1], ((), ()))
        preferred = {int(row): np.argsort(table[-1], kind="stable") for row, table in zip(rows, distances, strict=True)}
        taken = Counter(map(tuple, ids.views[view].tolist()))
        # a suffix without a token cannot be written
        room = int(ids.suffix[view].max()) + 1 if ids.collisions[view]["method"] == "suffix" else 1
        suffix = np.zeros(n_new, np.int32)
        for row, code in enumerate(new):
            if (code < 0).all():
                continue
            choices = [int(code[-1]), *map(int, preferred.get(row, []))]
            free = next((last for last in choices if taken[*code[:-1].tolist(), last] < room), None)
            if free is None:
                raise Refused(f"{view}: every ID that begins with {code[:-1].tolist()} is taken: none is left")
            code[-1] = free
            suffix[row] = taken[tuple(code.tolist())]
            taken[tuple(code.tolist())] += 1
        return np.concatenate([ids.views[view], new.astype(np.int32)]), np.concatenate([ids.suffix[view], suffix])
