"""What a run would cost: stages, parameters, time, memory and disk, from settings and counts alone.

Parameters are exact: models are built on torch's `meta` device, which holds no weights. Only the depth of a tree of
clusters, and so its tokens, is a guess: that of a tree whose clusters are of one size. Times are operations divided by
this machine's own measured matrix rate and a share of it that such stages reach; believe them within a factor of two.
"""

import math
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd

from musicrec_kit import runs
from musicrec_kit.params import VISUAL, Settings
from musicrec_kit.pipeline import Job

# width of an encoder's output and its operations per item (multiply-adds x 2): from the models' own cards
ENCODERS = {
    "minilm": (384, 1.4e9, 90),  # 22.7 M weights, a text of some 60 tokens
    "sentence": (768, 1.3e10, 440),
    "llama": (4096, 3.4e12, 13_500),  # 6.7 B weights, a text of some 250 tokens, bf16
    "efficientnet_lite0": (1280, 8.0e8, 20),  # at 224 x 224
    "open_clip": (768, 1.6e11, 1_700),  # ViT-L/14
    "hf_clip": (768, 1.6e11, 1_700),
    "properties": (64, 1e3, 1),
    "noise": (64, 1e3, 1),
    "file": (768, 0.0, 0),
}
# share of the measured matrix rate that a stage reaches, ours: measured on size small, demo
SHARE = {"features": 0.5, "cf": 0.15, "tokenizer": 0.4, "generator": 0.25, "rank": 0.1}
FP32, MB = 4, 2**20


@dataclass(frozen=True)
class Counts:
    """What a data set holds."""

    users: int
    items: int
    interactions: int

    @property
    def prefixes(self) -> int:
        """Return the number of training prefixes: two interactions are held out, and the first has no history."""
        return max(0, self.interactions - 3 * self.users)

    @property
    def history(self) -> float:
        """Return the mean length of a history, at most 20."""
        return min(20.0, self.interactions / max(1, self.users) - 2)


def counts_of(job: Job) -> Counts:
    """Return counts: of the data stage if it is done, else those that the data set's file expects."""
    from musicrec_kit.params import Refused

    data = job.settings.data
    if data.expected:
        return Counts(data.expected["users"], data.expected["items"], data.expected["interactions"])
    if data.source == "demo":
        return Counts(data.demo.users, data.demo.items, round(data.demo.users * data.demo.mean_length))
    manifest = runs.stage_folder(job.runs_dir, job.dataset_name, "data", job.keys["data"]) / "manifest.json"
    if not manifest.is_file():
        raise Refused(
            f"{job.dataset_name}: counts are unknown yet; run `musicrec run {job.dataset_ref} --until data` first, or "
            "write `expected: {users: N, items: N, interactions: N}` into the data set's YAML"
        )
    found = runs.read_json(manifest)
    return Counts(found["users"], found["items"], found["interactions"])


def matrix_rate(device: str, size: int = 1024, seconds: float = 0.3) -> float:
    """Return operations per second of fp32 matrix products of this size on this device."""
    import torch

    left = torch.ones(size, size, device=device)
    start, products = time.perf_counter(), 0
    while time.perf_counter() - start < seconds or not products:
        left = (left @ left).clamp_(0, 1)
        products += 1
        if device != "cpu":
            float(left[0, 0])
    return 2 * size**3 * products / (time.perf_counter() - start)


def forecast(job: Job) -> pd.DataFrame:
    """Return one row per stage: state, parameters, TFLOP, minutes, memory and disk, and a row with their totals.

    Columns: stage, state, parameters (trained), tflop, time, memory_mb (beside some 500 MB of Python), disk_mb.
    """
    counts, rate = counts_of(job), matrix_rate(job.torch_device)
    rows = []
    for stage in job.keyed_stages():
        parameters, operations, memory, disk = _cost(job, stage, counts)
        kind = stage.split(".")[0]
        minutes = operations / (rate * SHARE.get(kind, 1.0)) / 60
        rows.append([stage, _state(job, stage), parameters, operations / 1e12, minutes, memory / MB, disk / MB])
    columns = ["stage", "state", "parameters", "tflop", "minutes", "memory_mb", "disk_mb"]
    frame = pd.DataFrame(rows, columns=columns)
    total = [
        "total",
        "",
        frame.parameters.sum(),
        frame.tflop.sum(),
        frame.minutes.sum(),
        frame.memory_mb.max(),
        frame.disk_mb.sum(),
    ]
    frame.loc[len(frame)] = total
    frame.insert(5, "time", [duration(60 * minutes) for minutes in frame.pop("minutes")])
    return frame.round({"tflop": 2, "memory_mb": 0, "disk_mb": 1})


def duration(seconds: float) -> str:
    """Return seconds as a person says them.

    >>> duration(4), duration(200), duration(9000), duration(1e6)
    ('4 s', '3 min', '2.5 h', '11.6 d')
    """
    for unit, size, digits in (("d", 86_400, 1), ("h", 3_600, 1), ("min", 60, 0)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds:.0f} s"


def _state(job: Job, stage: str) -> str:
    if any(not (job.root / str(f)).exists() for f in job.named_files().values()):
        return "to do"
    folder: Path = runs.stage_folder(job.runs_dir, job.dataset_name, stage.split(".")[0], job.keys[stage])
    return "done" if (folder / "stage.json").is_file() else "to do"


def _cost(job: Job, stage: str, counts: Counts) -> tuple[int, float, float, float]:
    """Return (trained parameters, operations, bytes of memory, bytes of disk) of a stage."""
    kind, _, modality = stage.partition(".")
    if kind == "features":
        width, operations, weights = _encoder(job, modality)
        return 0, operations * counts.items, weights * MB, counts.items * width * FP32
    costs = {"cf": _cf, "tokenizer": _tokenizer, "generator": _generator, "rank": _rank}
    if kind in costs:
        return costs[kind](job, counts)
    sizes = {"data": counts.interactions * 40 + counts.items * 500, "ids": counts.items * 40}
    rows = sizes.get(kind, counts.users * 800)
    return 0, 0.0, rows * 4, rows


def _encoder(job: Job, modality: str) -> tuple[int, float, float]:
    params = job.settings.features[modality]
    width, operations, weights = ENCODERS[params.encoder]
    if params.encoder == "efficientnet_lite0":
        operations *= (params.image_side / 224) ** 2
    return width, operations, weights


def _cf(job: Job, counts: Counts) -> tuple[int, float, float, float]:
    cf = job.settings.cf
    block = cf.layers * 12 * cf.dim**2
    parameters = block + (counts.items + job.settings.data.history) * cf.dim
    positions = counts.interactions - 2 * counts.users
    operations = 6.0 * cf.epochs * positions * (block + counts.items * cf.dim)
    return parameters, operations, 16.0 * parameters + cf.batch * 8 * counts.items * FP32, counts.items * cf.dim * FP32


def _tokenizer(job: Job, counts: Counts) -> tuple[int, float, float, float]:
    s, t = job.settings, job.settings.tokenizer
    widths = [_encoder(job, m)[0] for m in s.modalities]
    if not t.reads_features:  # sklearn's spectral clustering: 14 s of a core for 6,250 items and 20 clusters
        return 0, 7e3 * counts.items**2, 60.0 * counts.interactions, 8.0 * counts.items
    if t.grows_a_tree:
        levels, _ = _ids(s, counts.items)
        operations = 2.0 * (levels - 1) * t.branching * sum(widths) * counts.items * t.kmeans_iterations
        return 0, operations, counts.items * sum(widths) * FP32 * 3, counts.items / t.leaf * sum(widths) * FP32
    if t.kind.endswith("rkmeans"):
        operations = 2.0 * t.levels * t.codes * sum(widths) * counts.items * t.kmeans_iterations
        return 0, operations, counts.items * sum(widths) * FP32 * 3, t.levels * t.codes * sum(widths) * FP32
    sides = [[width, *t.hidden, t.dim] for width in widths]
    mlp = sum(2 * a * b for side in sides for a, b in pairwise(side))
    books = t.codes * t.dim * len(widths) * t.levels
    joint = (len(widths) * t.dim) ** 2 if t.kind == "shared_specific" else 0
    operations = 6.0 * t.epochs * counts.items * (mlp + joint + books)
    return mlp + joint + books, operations, 16.0 * mlp + counts.items * sum(widths) * FP32 * 2, FP32 * (mlp + books)


def _ids(settings: Settings, items: int) -> tuple[int, int]:
    """Return (tokens of an ID, tokens of the vocabulary) of a view."""
    t = settings.tokenizer
    if settings.ids.source == "numbers":
        digits = len(str(items))
        return digits, 10 if settings.ids.tie_levels else 10 * digits
    if t.grows_a_tree:
        levels = max(1, math.ceil(math.log(max(2.0, items / t.leaf), t.branching)))
        # children's numbers, or numbers of all clusters of a level
        of_level = [t.branching if t.reads_features else t.branching**level for level in range(1, levels + 1)]
        return levels + 1, sum(min(n, items) for n in of_level) + t.leaf
    return t.levels, t.levels * t.codes


def _model(job: Job, counts: Counts) -> tuple[int, int, int, int]:
    """Return parameters: those trained, the encoder's, the decoder's, the written tokens', on the meta device."""
    import torch

    from musicrec_kit.generation import fit, marks, seq2seq

    s = job.settings
    vocabulary = 2 + s.generator.prompt_tokens * 4 + len(s.views) * _ids(s, counts.items)[1]
    g, shape = s.generator, replace(seq2seq.SHAPES[s.generator.backbone], adapters=s.generator.adapters)
    pictures = fit.blank(1, _encoder(job, VISUAL)[0]) if g.visual_tokens else None
    read_only = (counts.users + 1 if g.user_tokens else 0) + bool(g.visual_tokens)
    with torch.device("meta"):
        marked = marks.Marks.of(shape.dim, s.data.history if g.whole_word else 0, g.visual_tokens, pictures)
        model = seq2seq.T5(vocabulary, shape, n_read_only=read_only, marks=marked)
    if g.frozen and g.pretrained:
        fit.freeze(model)
    count: Any = lambda part: sum(p.numel() for p in part.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return trained, count(model.encoder), count(model.decoder), vocabulary * shape.dim


def _generator(job: Job, counts: Counts) -> tuple[int, float, float, float]:
    s, g = job.settings, job.settings.generator
    parameters, encoder, decoder, table = _model(job, counts)
    levels, views = _ids(s, counts.items)[0], len(s.views)
    tokens = {"direct": (views, 1.0, levels)}
    tokens |= {"next": (views, counts.history * (levels + g.visual_tokens), levels)}
    tokens |= {"cross": (1, counts.history * levels, levels)}
    tokens |= {"joint": (1, counts.history * levels * views, levels * views)} if views > 1 else {}
    operations = 0.0
    for task in g.tasks:
        if task in tokens:
            copies, source, target = tokens[task]
            operations += 6.0 * counts.prefixes * copies * (source * encoder + (target + 1) * (decoder + table))
        elif task == "align" and views > 1:
            operations += 6.0 * counts.items * views * (views - 1) * (levels + 1) * (encoder + decoder + table)
    operations *= g.epochs
    activations = g.batch * counts.history * levels * views * 60 * 128 * FP32
    return parameters, operations, 16.0 * parameters + activations, 2 * FP32 * parameters


def _rank(job: Job, counts: Counts) -> tuple[int, float, float, float]:
    s = job.settings
    disk = counts.users * 2 * 2 * 20 * 12.0 * (len(s.views) + 4)
    if s.family == "heuristic":
        return 0, 0.0, 1024 * counts.items * FP32 * 3.0, disk
    _, encoder, decoder, table = _model(job, counts)
    levels, views, beams = _ids(s, counts.items)[0], len(s.views), s.rank.beam
    lengths = [levels] * views + ([levels * views] if views > 1 and "joint" in s.generator.tasks else [])
    once = sum(2.0 * (n * counts.history * encoder + (n + 1) * beams * (decoder + table)) for n in lengths)
    # two splits, each with and without the history
    return 0, 4 * counts.users * once, s.rank.batch * beams * 300 * 128 * FP32 * 4.0, disk
