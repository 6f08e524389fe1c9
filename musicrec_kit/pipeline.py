"""The stages in order: the only module that knows all of them.

A `Job` is a `Plan` that is carried out: what is done is found again by its key, and what is missing is built, upstream
first, when somebody asks for a result. Notebooks and the command line use the same `Job`.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from musicrec_kit import distributed, runs
from musicrec_kit.params import VISUAL, Refused
from musicrec_kit.plan import VERSIONS, Plan

if TYPE_CHECKING:
    import numpy as np

    from musicrec_kit.data import Dataset, Examples, Sequences
    from musicrec_kit.evaluation import RankedList, Rankings
    from musicrec_kit.features import Features
    from musicrec_kit.generation import Generator
    from musicrec_kit.ids import SemanticIds
    from musicrec_kit.sequential import ItemVectors, Recommender
    from musicrec_kit.tokenizers import ItemCodes

log = logging.getLogger(__name__)

MAIN = ("main", "main/no_history")  # lists of a method that has one
LEARN = ("cf", "tokenizer", "generator", "recommender")  # the stages that learn from interactions
TOGETHER = ("features", "generator", "rank")  # the stages in which all processes of torchrun work


class LeakError(RuntimeError):
    """Something that learns asked for the items that it is tested on."""


class StageFailed(RuntimeError):
    """A stage died of something that is not the user's settings or data; the command line exits with 3."""

    def __init__(self, stage: str, cause: BaseException) -> None:
        super().__init__(f"stage {stage} failed: {type(cause).__name__}: {cause}")
        self.stage = stage


def pick_device(device: str = "auto") -> str:
    """Return cuda, mps or cpu: the one asked for, or for `auto` the best that this machine has."""
    import torch

    found = (
        ["cpu"]
        + (["cuda"] if torch.cuda.is_available() else [])
        + (["mps"] if torch.backends.mps.is_available() else [])
    )
    if device == "auto":
        return "cuda" if "cuda" in found else found[-1]
    if device in ("auto", "cuda") and "cuda" in found and distributed.size() > 1:
        device = f"cuda:{distributed.on_this_machine()}"
        if distributed.on_this_machine() >= torch.cuda.device_count():
            raise Refused(
                f"more processes than the {torch.cuda.device_count()} GPUs of this machine; start one for each"
            )
        torch.cuda.set_device(device)
    if device.split(":")[0] not in found:
        raise Refused(f"--device {device}: this machine has {', '.join(found)}; use one of them or auto")
    return device


@dataclass
class Job(Plan):
    """A plan that is carried out: results are made on first use, upstream first, and kept.

    `job.dataset`, `job.features`, `job.item_vectors`, `job.tokenizer`, `job.ids`, `job.generator`,
    `job.recommender`, `job.rankings`, `job.metrics`.
    """

    results: dict[str, runs.StageResult] = field(default_factory=dict)
    learning: list[str] = field(default_factory=list)  # the stages being built that must not see a target

    def _build(self, stage: str, build: Callable[[Path], None]) -> Path:
        if stage not in self.results:
            own, inputs = self._own(stage)
            kind = stage.split(".")[0]
            make = partial(runs.run_stage, self.runs_dir, self.dataset_name, stage, own, inputs, VERSIONS[kind])
            if distributed.size() > 1:
                for other in self.reads(stage):  # now: what one process makes alone must not ask the others for more
                    self.make(other)
            before = list(self.learning)
            self.learning = [*before, stage] if stage in LEARN else []
            try:
                if distributed.wanted() > 1 and kind in TOGETHER and not self.is_built(stage):
                    self._launch(stage)
                if kind in TOGETHER:
                    self.results[stage] = distributed.by_all(make, build)
                else:
                    self.results[stage] = distributed.by_the_first(partial(make, build))
            except (Refused, KeyboardInterrupt, SystemExit, StageFailed):
                raise
            except Exception as error:
                raise StageFailed(stage, error) from error
            finally:
                self.learning = before
        return self.results[stage].folder

    def _launch(self, stage: str) -> None:
        """Build a stage in several processes; this one then finds it done."""
        count = distributed.wanted()
        code = distributed.launch([*self.arguments(stage), "--device", self.device], count)
        if code:
            raise RuntimeError(f"{count} processes ended with exit code {code}; what they said stands above")

    @cached_property
    def torch_device(self) -> str:
        """Return the device that models run on."""
        return pick_device(self.device)

    @cached_property
    def dataset(self) -> "Dataset":
        """Return stage 01's result: interactions, items, split, manifest."""
        from musicrec_kit import data

        def build(folder: Path) -> None:
            data.load_dataset(self.settings.data, self.dataset_name, self.root, folder).save(folder)

        return data.Dataset.load(self._build("data", build))

    @property
    def sequences(self) -> "Sequences":
        """Return every user's items in order of time.

        Raises:
            LeakError: a stage that learns asks for them: targets are among them.
        """
        if self.learning:
            raise LeakError(
                f"stage {self.learning[-1]} learns, and asked for whole sequences, validation and test targets and "
                "all; give it job.known_before('valid') or job.known_before('test')"
            )
        return self.dataset.sequences()

    def known_before(self, split: str) -> "Sequences":
        """Return what may be learnt from: the training part, and before `test` the validation targets, too."""
        return self.dataset.sequences().before(split)

    @cached_property
    def known_items(self) -> "np.ndarray | None":
        """Return bool [items], the items that may be learnt from; None for all, as the papers have it.

        Before a cut in time nobody knows the items that come after it; leave-one-out asks for items of all times.
        """
        return self.known_before("valid").seen if self.settings.data.protocol == "temporal" else None

    @cached_property
    def features(self) -> "dict[str, Features]":
        """Return stage 02's result: modality -> matrix [items, dim] with a mask of the items that have it.

        Where a modality is a fusion, those that it is made of are there, too.
        """
        return {modality: self._features_of(modality) for modality in self._used_features()}

    def _features_of(self, modality: str) -> "Features":
        from musicrec_kit import features

        params = self._used_features()[modality]

        def build(folder: Path) -> None:
            if params.encoder == "fusion":
                parts = {part: self._features_of(part) for part in params.of}
                made = features.early_fusion(parts, modality, params.weights, self.known_items)
            else:
                made = features.extract(self.dataset, modality, params, folder, self.torch_device, self.root)
            made.save(folder)

        return features.Features.load(self._build(f"features.{modality}", build), modality)

    @cached_property
    def item_vectors(self) -> "ItemVectors | None":
        """Return z_cf [items, dim] of a SASRec trained on the training part, or None where no loss asks for it."""
        if "cf" not in self.stages:
            return None
        from musicrec_kit import sequential

        def build(folder: Path) -> None:
            settings = self.settings
            sequential.fit_item_vectors(
                self.known_before("valid"), settings.cf, settings.data.history, folder, self.seed, self.torch_device
            ).save(folder)

        return sequential.ItemVectors.load(self._build("cf", build))

    @cached_property
    def _tokenizer(self) -> "tuple[Any, ItemCodes]":
        from musicrec_kit import tokenizers

        def build(folder: Path) -> None:
            self.refuse_more_codes_than_items()
            read = {m: self.features[m] for m in self.settings.tokenized}
            tokenizer, codes = tokenizers.fit(
                read,
                self.item_vectors,
                self.settings.tokenizer,
                folder,
                self.seed,
                self.torch_device,
                self.known_before("valid"),
                self.known_items,
            )
            tokenizer.save(folder)
            codes.save(folder)

        folder = self._build("tokenizer", build)
        return tokenizers.load(folder), tokenizers.ItemCodes.load(folder)

    def refuse_more_codes_than_items(self) -> None:
        """Refuse a tokenizer with more codes than the data set has items."""
        codes, items = self.settings.tokenizer.codes, self.dataset.n_items
        if codes > items and not self.settings.tokenizer.grows_a_tree:
            raise Refused(
                f"tokenizer.codes={codes} is more than the {items} items of {self.dataset_name}: "
                f"k-means cannot start {codes} codes from {items} items; set tokenizer.codes to {items} or fewer"
            )

    @property
    def tokenizer(self) -> Any:
        """Return the fitted item tokenizer."""
        return self._tokenizer[0]

    @property
    def codes(self) -> "ItemCodes":
        """Return stage 03's result: the codes of every item, collisions and all."""
        return self._tokenizer[1]

    @cached_property
    def ids(self) -> "SemanticIds":
        """Return stage 04's result: item -> codes per view, collisions resolved."""
        from musicrec_kit import ids

        def build(folder: Path) -> None:
            if self.settings.ids.source == "published":
                paths = {view: self.files[f"ids.{view}"] for view in self.settings.ids.files}
                kept = self.dataset.manifest["numbers_kept"]
                keys = (
                    [str(item) for item in range(self.dataset.n_items)] if kept else list(self.dataset.items["raw_id"])
                )
                ids.import_index(paths, keys).save(folder)
            elif self.settings.ids.source == "numbers":
                ids.number_items(self.dataset.n_items, self.settings.ids, self.seed).save(folder)
            else:
                ids.make_ids(self.codes, self.settings.views, self.settings.ids, self.seed).save(folder)

        return ids.SemanticIds.load(self._build("ids", build))

    @cached_property
    def generator(self) -> "Generator":
        """Return stage 05's result: the trained T5 with its vocabulary."""
        from musicrec_kit import generation

        def build(folder: Path) -> None:
            self.fit_generator(folder).save(folder)

        folder = self._build("generator", build)
        return generation.Generator.load(folder, self.torch_device)

    def fit_generator(self, folder: Path | None = None) -> "Generator":
        """Train the generator of this job anew; with a folder, continue what was begun there."""
        from musicrec_kit import generation

        s = self.settings
        return generation.fit_generator(
            self.known_before("test"),
            self.ids,
            s.generator,
            s.ids,
            s.data.history,
            folder,
            self.seed,
            self.torch_device,
            self.features[VISUAL] if s.generator.visual_tokens else None,
            self.known_items,
        )

    @cached_property
    def recommender(self) -> "Recommender":
        """Return the trained sequential model."""
        from musicrec_kit import sequential

        def build(folder: Path) -> None:
            self.fit_recommender(folder).save(folder)

        return sequential.Recommender.load(self._build("recommender", build), self.torch_device)

    def fit_recommender(self, folder: Path | None = None) -> "Recommender":
        """Train the sequential model of this job anew; with a folder, continue what was begun there."""
        from musicrec_kit import sequential

        s, sequences = self.settings, self.known_before("test")
        read = {modality: self.features[modality] for modality in s.encoded}
        made = None if folder is None else folder / sequential.SOURCES
        if made is not None and made.is_file():  # a training that is continued reads the codes that it began with
            sources = sequential.Sources.load(made, sequences.n_items)
        else:
            sources = sequential.sources_of(
                s.sequential, self.dataset.items, s.modalities, read, sequences.seen, self.seed, self.known_items
            )
            if made is not None:
                sources.save(made)
        return sequential.fit_recommender(
            sequences, s.sequential, s.data.history, folder, self.seed, self.torch_device, sources
        )

    @cached_property
    def rankings(self) -> "Rankings":
        """Return stage 06's result: every list of both held-out splits, plain and without the history."""
        from musicrec_kit import evaluation

        def build(folder: Path) -> None:
            self._rank().save(folder)

        return evaluation.Rankings.load(self._build("rank", build))

    def _rank(self) -> "Rankings":
        from musicrec_kit import data, evaluation

        sequences, history = self.sequences, self.settings.data.history
        counters: dict[str, evaluation.Score] = {
            "popularity": evaluation.popularity_scores(sequences),
            "markov": evaluation.Markov(sequences),
        }
        users, targets = {}, {}
        lists: dict[tuple[str, str], evaluation.RankedList] = {}
        for split in ("valid", "test"):
            examples = data.held_out(sequences, split, history)
            whole = data.held_out(sequences, split, 10**9)
            users[split], targets[split] = examples.users, examples.target
            found: dict[str, evaluation.RankedList] = {}
            for name, score in counters.items():
                plain, without = evaluation.rank_by_scores(score, examples, whole, sequences)
                found |= {name: plain, f"{name}/no_history": without}
            if self.settings.family != "generative":
                found |= dict(zip(MAIN, self._main(found, examples, whole), strict=True))
            else:
                from musicrec_kit import generation

                found |= generation.rank(self.generator, sequences, examples, whole, self.settings.rank, self.seed)
            lists |= {(split, name): ranked for name, ranked in found.items()}
        return evaluation.Rankings(users, targets, lists)

    def _main(
        self, found: "dict[str, RankedList]", examples: "Examples", whole: "Examples"
    ) -> "tuple[RankedList, RankedList]":
        """Return the (plain, no_history) lists of a method that scores every item."""
        from musicrec_kit import evaluation

        counter = self.settings.counter
        if self.settings.family == "sequential":
            score = self.recommender.scorer(self.sequences)
        elif counter.kind in found:
            return found[counter.kind], found[f"{counter.kind}/no_history"]
        else:
            score = evaluation.ItemKNN(self.sequences, counter.neighbours, counter.shrink)
        return evaluation.rank_by_scores(score, examples, whole, self.sequences)

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """Return the run's metrics.json; writes the run folder, metrics last."""
        from musicrec_kit import evaluation

        def build(folder: Path) -> None:
            about = {
                "dataset": self.dataset_name,
                "fingerprint": self.dataset.manifest["fingerprint"],
                "users": self.dataset.n_users,
                "items": self.dataset.n_items,
                "main_list": self.main_list,
            }
            runs.write_json(folder / "metrics.json", {**about, **evaluation.summarize(self.rankings)})
            runs.write_table(folder / "per_user.parquet", evaluation.per_user_table(self.rankings, self.sequences))

        folder = self._build("evaluate", build)
        return distributed.by_the_first(lambda: self._write_run(folder))

    def _write_run(self, evaluated: Path) -> dict[str, Any]:
        folder = self.run_folder
        _ = self.rankings
        stages = {stage: self.keys[stage] for stage in self.keyed_stages()}
        if (folder / "stages.json").is_file() and runs.read_json(folder / "stages.json") != stages:
            (folder / "metrics.json").unlink(missing_ok=True)  # of other stages: never beside the keys of these
        runs.write_text(folder / "settings.yaml", self.settings_yaml())
        runs.write_json(folder / "versions.json", runs.versions())
        runs.write_json(folder / "stages.json", stages)
        seconds = {stage: runs.read_json(self.stage_folder(stage) / "stage.json")["seconds"] for stage in stages}
        runs.write_json(folder / "timings.json", {**seconds, "total": round(sum(seconds.values()), 3)})
        for name, source in (("rankings.parquet", self.results["rank"].folder), ("per_user.parquet", evaluated)):
            with runs.atomic(folder / name) as part:
                part.write_bytes((source / name).read_bytes())
        metrics: dict[str, Any] = runs.read_json(evaluated / "metrics.json")
        runs.write_json(folder / "metrics.json", metrics)
        return metrics

    def make(self, stage: str) -> None:
        """Build one stage (`features.text`: of one modality) and what it reads, and nothing else."""
        kind, _, modality = stage.partition(".")
        makers: dict[str, Callable[[], Any]] = {
            "data": lambda: self.dataset,
            "features": lambda: self._features_of(modality) if modality else self.features,
            "cf": lambda: self.item_vectors,
            "tokenizer": lambda: self.codes,
            "ids": lambda: self.ids,
            "generator": lambda: self.generator,
            "recommender": lambda: self.recommender,
            "rank": lambda: self.rankings,
            "evaluate": lambda: self.metrics,
        }
        makers[kind]()

    def build(self, until: str | None = None) -> dict[str, Any] | None:
        """Build every stage up to and including `until` (None: all), and return the metrics when they are there."""
        if until is not None and until not in self.stages:
            raise Refused(f"--until {until}: method {self.method} has the stages {', '.join(self.stages)}")
        for stage in self.stages:
            start = time.perf_counter()
            self.make(stage)
            if stage in self.results and not self.results[stage].reused:
                log.info("%s: %.1f s", stage, time.perf_counter() - start)
            if stage == until:
                return self.metrics if stage == "evaluate" else None
        return self.metrics
