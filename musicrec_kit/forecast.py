"""What a run would cost: stages, parameters, time, memory and disk, from settings and counts alone.

Parameters are exact: models are built on torch's `meta` device, which holds no weights. Some things are not known
before the data and the IDs are: the tokens that tell colliding items apart and the number of categories and brands,
which are left out, and the depth of a tree of clusters, which is taken to be that of a tree whose clusters are of one
size. Times are operations divided by this machine's own measured matrix rate and a share of it that such stages reach;
believe them within a factor of two.
"""

import math
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from musicrec_kit import runs
from musicrec_kit.params import VISUAL, Settings
from musicrec_kit.pipeline import Job

if TYPE_CHECKING:
    from musicrec_kit.ids import SemanticIds

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
SHARE = {"features": 0.5, "cf": 0.15, "tokenizer": 0.4, "generator": 0.25, "recommender": 0.15, "rank": 0.1}
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

    def history(self, most: int) -> float:
        """Return the mean length of a test history, at most `most`."""
        return max(0.0, min(float(most), self.interactions / max(1, self.users) - 2))


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
    costs = {"cf": _cf, "tokenizer": _tokenizer, "generator": _generator}
    costs |= {"recommender": _recommender, "rank": _rank}
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
        levels = len(_sizes(s, counts.items))
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


def _sizes(settings: Settings, items: int) -> list[int]:
    """Return the codes of every level of a stream."""
    t = settings.tokenizer
    if settings.ids.source == "numbers":
        return [10] * len(str(items))
    if t.grows_a_tree:
        levels = max(1, math.ceil(math.log(max(2.0, items / t.leaf), t.branching)))
        # children's numbers, or numbers of all clusters of a level
        of_level = [t.branching if t.reads_features else t.branching**level for level in range(1, levels + 1)]
        return [*(min(size, items) for size in of_level), t.leaf]
    return [t.codes] * t.levels


def _blank_ids(settings: Settings, items: int) -> "SemanticIds":
    """Return IDs of one item, with the segments and sizes that the settings give."""
    from musicrec_kit.ids import SemanticIds

    sizes, views = _sizes(settings, items), settings.views
    return SemanticIds(
        views={view: np.zeros((1, len(sizes) * len(streams)), np.int32) for view, streams in views.items()},
        suffix={view: np.zeros(1, np.int32) for view in views},
        segments={view: tuple((stream, len(sizes)) for stream in streams) for view, streams in views.items()},
        sizes={view: tuple(sizes) * len(streams) for view, streams in views.items()},
        shared_levels=settings.tokenizer.shared_levels,
    )


@dataclass(frozen=True)
class _Blank:
    """A generator without weights.

    Attributes:
        trained, encoder, decoder, table: parameters trained, and those of the encoder, the decoder and the tokens.
    """

    vocabulary: Any
    stages: list[list[Any]]  # families of tasks
    trained: int
    encoder: int
    decoder: int
    table: int

    def tokens(self, task: Any, history: float, visual: int = 0) -> tuple[float, float]:
        """Return (source, target) tokens of an example, eos and all."""
        read, wanted = (float(self._written(writing)) for writing in (task.source, task.target))
        times = {"next": history, "item": 1.0, "direct": 0.0}[task.kind]
        prompt = len(self.vocabulary.prompts(task.prompt)) if task.prompt >= 0 else 0
        return times * (read + visual * (task.kind == "next")) + prompt + 1, wanted + 1

    def _written(self, writing: tuple[str, ...]) -> int:
        from musicrec_kit.generation.tasks import write

        return int(write(self.vocabulary, writing)[1][0]) if writing else 0


def _blank(job: Job, counts: Counts) -> _Blank:
    """Build the generator on the meta device; the tokens that tell colliding items apart are not known yet."""
    import torch

    from musicrec_kit.generation import fit, marks, seq2seq, tasks
    from musicrec_kit.ids.vocabulary import Vocabulary

    s, g = job.settings, job.settings.generator
    ids = _blank_ids(s, counts.items)
    families = tasks.expand(g.words, ids.segments)
    prompts = sum(task.prompt >= 0 for found in families.values() for family in found for task in family)
    users = counts.users if g.user_tokens else 0
    vocabulary = Vocabulary.from_ids(ids, s.ids, prompts, g.prompt_tokens, users, bool(g.visual_tokens))
    shape = replace(seq2seq.SHAPES[g.backbone], adapters=g.adapters)
    pictures = fit.blank(1, _encoder(job, VISUAL)[0]) if g.visual_tokens else None
    with torch.device("meta"):
        marked = marks.Marks.of(shape.dim, s.data.history if g.whole_word else 0, g.visual_tokens, pictures)
        model = seq2seq.T5(vocabulary.size, shape, n_read_only=vocabulary.n_read_only, marks=marked)
    if g.frozen and g.pretrained:
        fit.freeze(model)
    count: Any = lambda part: sum(p.numel() for p in part.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    stages = [[family for word in words for family in families.get(word, ())] for words in g.stages or (g.tasks,)]
    return _Blank(vocabulary, stages, trained, count(model.encoder), count(model.decoder), vocabulary.size * shape.dim)


def _generator(job: Job, counts: Counts) -> tuple[int, float, float, float]:
    import torch

    from musicrec_kit.generation import fit
    from musicrec_kit.generation.seq2seq import SHAPES

    g, made = job.settings.generator, _blank(job, counts)
    history = counts.history(job.settings.data.history)
    shape, operations, memory, examples = SHAPES[g.backbone], 0.0, 0.0, []
    for families in made.stages:
        total = weight = 0.0
        for family in families:  # of which an example draws one task
            lengths = [made.tokens(task, history, g.visual_tokens) for task in family]
            source, target = (sum(column) / len(family) for column in zip(*lengths, strict=True))
            of_family = counts.items if family[0].kind == "item" else counts.prefixes
            total += 6.0 * of_family * (source * made.encoder + target * (made.decoder + made.table))
            weight += of_family
            widest = source / max(history, 1.0) * job.settings.data.history, target
            memory = max(memory, min(g.batch, g.micro_batch or g.batch) * _activations(shape, *widest))
        examples.append((total / max(weight, 1.0), weight))
    memory *= 1 if fit.precision_of(g.precision, torch.device(job.torch_device)) == "bf16" else 2
    steps = g.steps or g.epochs * math.ceil(examples[-1][1] / g.batch)
    operations = sum(each for each, _ in examples) * steps * g.batch
    return made.trained, operations, 16.0 * made.trained + memory, 2 * FP32 * made.trained


def _activations(shape: Any, source: float, target: float) -> float:
    """Return the bytes that an example leaves for the way back, in two-byte numbers: Korthikanti et al. 2022."""
    layer: Any = lambda length, keys: length * (34 * shape.dim + 5 * shape.heads * keys)
    return float(shape.layers * (layer(source, source) + layer(target, target) + layer(target, source)))


def _scorer(job: Job, counts: Counts) -> Any:
    """Build the sequential model on the meta device."""
    import torch

    from musicrec_kit.sequential.model import Model
    from musicrec_kit.sequential.sources import Attributes, Sources

    params = job.settings.sequential
    nothing = Attributes(np.zeros(counts.items + 1, np.int64), np.zeros(0, np.int64), 1)
    features = {
        name: (np.zeros((counts.items, _encoder(job, name)[0]), np.float32), np.ones(counts.items, bool))
        for name in job.settings.encoded
    }
    codes = np.zeros((counts.items, params.digits), np.int64) if "codes" in params.vectors else None
    attributes = {"attributes": nothing} if params.reads_attributes else {}
    with torch.device("meta"):
        sources = Sources(counts.items, attributes, {} if codes is not None else features, codes, params.code_values)
        return Model(params, params.places(job.settings.data.history), sources)


def _recommender(job: Job, counts: Counts) -> tuple[int, float, float, float]:
    s, made = job.settings.sequential, _scorer(job, counts)
    history = counts.history(job.settings.data.history)
    count: Any = lambda part: sum(p.numel() for p in part.parameters()) if part is not None else 0
    parameters, once = count(made), count(made.encoder) + count(made.beside) + count(made.head)
    asked = counts.items if s.objective == "ce" else 1 if s.objective == "bce" else s.negatives
    read = counts.prefixes * (history if s.rows == "prefixes" else 1.0)
    rows = counts.prefixes if s.rows == "prefixes" else max(counts.users, round(counts.prefixes / max(1, history)))
    epochs = s.epochs_of(rows)
    steps = epochs * math.ceil(rows / s.batch)
    adaptors = 6.0 * steps * count(made.items.adaptors) * counts.items
    operations = 6.0 * epochs * (read * once + counts.prefixes * asked * s.dim) + adaptors
    if s.pretrained:
        operations += 24.0 * s.pretraining.epochs * counts.prefixes * once  # four histories a row
    logits = s.batch * (1.0 if s.rows == "prefixes" else history) * asked * FP32 * 3
    widths = sum(_encoder(job, modality)[0] for modality in job.settings.encoded)
    features = counts.items * widths * FP32
    return parameters, operations, 16.0 * parameters + logits + 3.0 * features, FP32 * parameters + features


def _rank(job: Job, counts: Counts) -> tuple[int, float, float, float]:
    s = job.settings
    disk = counts.users * 2 * 2 * 20 * 12.0 * (len(s.views) + 4)
    if s.family == "heuristic":
        return 0, 0.0, 1024 * counts.items * FP32 * 3.0, disk
    if s.family == "sequential":
        made = _scorer(job, counts)
        each = 2.0 * (counts.history(s.data.history) * sum(p.numel() for p in made.encoder.parameters()))
        operations = 2 * counts.users * (each + 2.0 * counts.items * s.sequential.dim)
        return 0, operations, 1024 * counts.items * FP32 * 3.0, disk
    made, history = _blank(job, counts), counts.history(s.data.history)
    tasks = [task for families in made.stages for family in families for task in family]
    lists = dict.fromkeys(task for task in tasks if task.name == "joint" or task.name.startswith(("next/", "direct/")))
    lengths = [made.tokens(task, history) for task in lists]
    once = sum(2.0 * (n * made.encoder + m * s.rank.beam * (made.decoder + made.table)) for n, m in lengths)
    # two splits, each with and without the history
    return 0, 4 * counts.users * once, s.rank.batch * s.rank.beam * 300 * 128 * FP32 * 4.0, disk
