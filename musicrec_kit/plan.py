"""What a run consists of: its settings, its stages in order, and the key of each, all known before anything is built.

Data in: a request (data set, method, size, seed, overrides). Data out: stage -> key; equal keys mean equal results.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from musicrec_kit import methods, runs
from musicrec_kit.params import VISUAL, Frozen, Refused, SequentialParams, Settings, Size

STAGES = ("data", "features", "cf", "tokenizer", "ids", "generator", "recommender", "rank", "evaluate")

# raised by hand when a stage's results change for equal settings: what was built before is then built again
VERSIONS = {"data": 1, "features": 1, "cf": 1, "tokenizer": 1, "ids": 1, "generator": 2, "recommender": 2}
VERSIONS |= {"rank": 1, "evaluate": 1}

# of ids, read by stage generator
TOKEN_FIELDS = ("tie_levels", "tie_shared_tokens", "separators", "separator_token", "tokens")
PATH_FIELDS = ("interactions", "items", "images", "tags", "descriptions", "item2id")


def fingerprint_path(path: Path) -> str:
    """Return the sha256 of a file, or for a folder that of its files' names and sizes."""
    if path.is_file():
        return runs.sha256_file(path)
    listing = [(str(f.relative_to(path)), f.stat().st_size) for f in sorted(path.rglob("*")) if f.is_file()]
    return runs.key_of(listing)


def _told(settings: Frozen, **which: Any) -> dict[str, Any]:
    """Return what differs from the defaults, so that a new switch leaves what was built before it usable."""
    return settings.model_dump(mode="json", exclude_defaults=True, **which)


def _unread(params: SequentialParams) -> set[str]:
    """Return the fields that sizes hold values for and these settings do not read."""
    unread = {"code_values"} if "codes" not in params.vectors else set()
    return unread if params.pretrained else unread | {"pretraining"}


@dataclass
class Plan:
    """One run's request: dataset x method x size x seed, with what differs from the files."""

    dataset_ref: str
    method: str = "musicrec"
    size: Size = "small"
    seed: int = 0
    runs_dir: Path = Path("runs")
    data_root: str | Path | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    device: str = "auto"
    # path of an input file -> its fingerprint; plans of the same files may share one, so that each is read once
    fingerprints: dict[Path, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.runs_dir = methods.home() / self.runs_dir
        self.settings: Settings = methods.resolve(self.dataset_ref, self.method, self.size, self.overrides)
        self.dataset_name = methods.dataset_name(self.dataset_ref)
        self.method_name = methods.method_name(self.method)
        self.root = methods.data_root(self.dataset_ref, self.data_root)
        self._check_modalities()

    def _check_modalities(self) -> None:
        if "features" not in self.stages:
            return
        known = self.settings.features
        parts = [part for m in self.settings.encoded if m in known for part in known[m].of]
        for modality in [*self.settings.encoded, *parts]:
            if modality in parts and modality in known and known[modality].encoder == "fusion":
                raise Refused(f"features.{modality} is a fusion itself; fuse the modalities that it is made of")
            if modality not in known:
                raise Refused(
                    f"method {self.method} needs features of {modality!r}; data set {self.dataset_name} names "
                    f"{', '.join(known) or 'none'}; "
                    f"give --set features.{modality}.file=FILE, or choose another method"
                    + (", or --set ids.source=published" if self.settings.ids.files else "")
                )

    @cached_property
    def stages(self) -> tuple[str, ...]:
        """Return the names of the stages that this method has, in order."""
        settings = self.settings
        if settings.family == "heuristic":
            return ("data", "rank", "evaluate")
        features = ("features",) if settings.encoded else ()
        if settings.family == "sequential":
            return ("data", *features, "recommender", "rank", "evaluate")
        tokenizer: tuple[str, ...] = ()
        if settings.ids.source == "tokenizer":
            cf = settings.tokenizer.alpha > 0 or settings.tokenizer.beta > 0
            tokenizer = ("cf", "tokenizer") if cf else ("tokenizer",)
        return ("data", *features, *tokenizer, "ids", "generator", "rank", "evaluate")

    @cached_property
    def files(self) -> dict[str, Path]:
        """Return name -> path of every input file; a missing one is refused, saying where it was looked for."""
        paths = {name: self.root / file for name, file in self.named_files().items()}
        for name, path in paths.items():
            if not path.exists():
                raise Refused(
                    f"{self.dataset_name}: {name} is not at {path}; give the folder that holds it with --data-root"
                )
        return paths

    def named_files(self) -> dict[str, str]:
        """Return name -> file as the settings give it, of everything that this run reads."""
        data = self.settings.data
        named = {name: str(getattr(data, name)) for name in PATH_FIELDS if getattr(data, name, None)}
        named |= {f"features.{m}": f.file for m, f in self._used_features().items() if f.file}
        if self.settings.ids.source == "published":
            if not self.settings.ids.files:
                raise Refused(
                    f"ids.source=published: data set {self.dataset_name} names no ID files (`ids:` in its YAML)"
                )
            named |= {f"ids.{view}": file for view, file in self.settings.ids.files.items()}
        return named

    def _used_features(self) -> dict[str, Any]:
        if "features" not in self.stages:
            return {}
        known = self.settings.features
        asked = [m for m in self.settings.encoded if m in known]
        parts = [part for m in asked if known[m].encoder == "fusion" for part in known[m].of]
        return {m: known[m] for m in dict.fromkeys([*parts, *asked])}

    @cached_property
    def keys(self) -> dict[str, str]:
        """Return stage -> key of every stage of this method, computed without building anything."""
        return {stage: runs.key_of(self._identity(stage)) for stage in self.keyed_stages()}

    def keyed_stages(self) -> list[str]:
        """Return the stages as they are keyed: features once per modality, a fusion behind what it is made of."""
        expanded: list[str] = []
        for stage in self.stages:
            expanded += [f"features.{m}" for m in self._used_features()] if stage == "features" else [stage]
        return expanded

    @cached_property
    def _hashes(self) -> dict[str, str]:
        hashes = {}
        for name, file in self.named_files().items():
            if (path := self.root / file) not in self.fingerprints:
                self.fingerprints[path] = fingerprint_path(self.files[name])
            hashes[name] = self.fingerprints[path]
        return hashes

    def _identity(self, stage: str) -> dict[str, Any]:
        settings, inputs = self._own(stage)
        return {"stage": stage, "settings": settings, "inputs": inputs, "version": VERSIONS[stage.split(".")[0]]}

    def _own(self, stage: str) -> tuple[dict[str, Any], dict[str, str]]:
        """Return a stage's own settings, those at their class's default left out, and the keys that it reads.

        A default is thus a part of a stage's code: whoever changes one raises the version of the stages that read it,
        and a test that holds the defaults of old reminds them.
        """
        s, seed = self.settings, {"seed": self.seed}
        kind, _, modality = stage.partition(".")
        inputs = {name: self._key(name) for name in self.reads(stage)}
        if kind == "data":
            drop = {*PATH_FIELDS, "history", "expected"} | ({"demo"} if s.data.source != "demo" else set())
            drop |= {"cuts"} if s.data.protocol != "temporal" else set()
            own = {"name": self.dataset_name, **_told(s.data, exclude=drop)}
            inputs = {f: h for f, h in self._hashes.items() if f in PATH_FIELDS}
        elif kind == "features":
            own = {
                "modality": modality,
                **_told(s.features[modality], exclude={"file", "batch", "same_as"}),
            }
            inputs |= {f: h for f, h in self._hashes.items() if f == stage}
        elif kind == "cf":
            own = {**_told(s.cf), "history": s.data.history, **seed}
        elif kind == "tokenizer":
            # sizes hold values for trees, which no other tokenizer reads
            unread = set() if s.tokenizer.grows_a_tree else {"branching", "leaf"}
            own = {**_told(s.tokenizer, exclude=unread), "modalities": list(s.modalities), **seed}
        elif kind == "ids":
            own = {
                **_told(s.ids, exclude={"files", *TOKEN_FIELDS}),
                **seed,
            }
            own["views"] = {view: list(streams) for view, streams in s.views.items()}
            inputs |= {f: h for f, h in self._hashes.items() if f.startswith("ids.")}
        elif kind == "generator":
            own = {**_told(s.generator), "history": s.data.history, **seed}
            own |= _told(s.ids, include=set(TOKEN_FIELDS))
        elif kind == "recommender":
            own = {
                **_told(s.sequential, exclude=_unread(s.sequential)),
                "modalities": list(s.encoded),
                "history": s.data.history,
                **seed,
            }
        elif kind == "rank":
            own = {"family": s.family, "history": s.data.history, **seed}
            own |= _told(s.rank, exclude={"batch", "merge"}) if s.family == "generative" else {}
            own |= _told(s.counter) if s.family == "heuristic" else {}
        else:
            own = {"main_list": self.main_list}
        return own, inputs

    def reads(self, stage: str) -> list[str]:
        """Return the stages that a stage reads itself, as they are keyed."""
        kind, _, modality = stage.partition(".")
        used = self._used_features()
        features = [f"features.{m}" for m in self.settings.tokenized if m in used]
        fused = used[modality].of if modality and used[modality].encoder == "fusion" else ()
        reads = {
            "data": [],
            "features": ["data", *(f"features.{m}" for m in fused)],
            "cf": ["data"],
            "tokenizer": [*(features or ["data"]), *(["cf"] if "cf" in self.stages else [])],
            "ids": ["tokenizer"] if "tokenizer" in self.stages else ["data"],
            "generator": ["data", "ids", *([f"features.{VISUAL}"] if self.settings.generator.visual_tokens else [])],
            "recommender": ["data", *(f"features.{m}" for m in used)],
            "rank": ["data", *(stage for stage in ("generator", "recommender") if stage in self.stages)],
            "evaluate": ["data", "rank"],
        }
        return reads[kind]

    def upstream(self, stage: str) -> list[str]:
        """Return a stage and all that it reads, directly or not, as they are keyed and in order."""
        wanted, found = [stage], {stage}
        while wanted:
            reads = set(self.reads(wanted.pop())) - found
            found |= reads
            wanted += reads
        return [each for each in self.keyed_stages() if each in found]

    def is_built(self, stage: str) -> bool:
        """Say whether a stage's result is there, complete."""
        return (self.stage_folder(stage) / "stage.json").is_file()

    def stage_folder(self, stage: str) -> Path:
        """Return the folder of a stage's result, `stage` as it is keyed."""
        return runs.stage_folder(self.runs_dir, self.dataset_name, stage.split(".")[0], self.keys[stage])

    def _key(self, stage: str) -> str:
        return runs.key_of(self._identity(stage))

    @property
    def main_list(self) -> str:
        """Return the name of the list of record."""
        s = self.settings
        if s.main_list:
            return s.main_list
        if s.family != "generative":
            return "main"
        return s.rank.merge if len(s.views) > 1 else "main"

    @property
    def variant(self) -> str:
        """Return "" or "+...": what differs from the method's file."""
        return methods.variant_name(self.overrides)

    @property
    def run_folder(self) -> Path:
        """Return the folder of this run."""
        return runs.run_folder(self.runs_dir, self.dataset_name, self.method_name, self.variant, self.size, self.seed)

    def settings_yaml(self) -> str:
        """Return the resolved settings with what was asked, as YAML."""
        asked = {"dataset": str(self.dataset_ref), "method": self.method, "size": self.size, "seed": self.seed}
        request = {"request": {**asked, "overrides": dict(self.overrides)}}
        return yaml.safe_dump({**request, **self.settings.model_dump(mode="json")}, sort_keys=False, allow_unicode=True)

    def arguments(self, until: str | None = None, with_notebooks: bool = False) -> list[str]:
        """Return the arguments of `musicrec` that ask for this run, whole or until a stage, as it is keyed."""
        words = ["run", str(self.dataset_ref), "--method", self.method, "--size", self.size]
        words += ["--seed", str(self.seed), "--runs", str(self.runs_dir)]
        words += ["--data-root", str(self.data_root)] if self.data_root else []
        for key, value in methods.leaves(self.overrides):
            written = yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("...\n").strip()
            words += ["--set", f"{key}={written}"]
        words += ["--until", until.split(".")[0]] if until else []
        return words + ([] if with_notebooks and not until else ["--no-notebooks"])

    def table(self) -> pd.DataFrame:
        """Return one row per stage: its key, its folder, and whether it is complete."""
        rows = []
        for stage, key in self.keys.items():
            state = "done" if self.is_built(stage) else "to do"
            folder = os.path.relpath(self.stage_folder(stage), self.runs_dir)
            rows.append({"stage": stage, "key": key, "state": state, "folder": folder})
        return pd.DataFrame(rows)
