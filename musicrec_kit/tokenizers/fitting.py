"""Fit an item tokenizer: checks, the start of the codebooks, training, and the codes of all items."""

import logging
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from musicrec_kit import runs, seeds, training
from musicrec_kit.data.splits import Sequences
from musicrec_kit.params import Refused, TokenizerParams
from musicrec_kit.tokenizers.clusters import Hierarchical
from musicrec_kit.tokenizers.codes import ItemCodes
from musicrec_kit.tokenizers.cooccurrence import CoOccurrence
from musicrec_kit.tokenizers.health import check_collapse, collision_rate, usage
from musicrec_kit.tokenizers.items import Items
from musicrec_kit.tokenizers.residual import Rule
from musicrec_kit.tokenizers.rkmeans import RKMeans
from musicrec_kit.tokenizers.rqvae import RQVAE
from musicrec_kit.tokenizers.shared_specific import SharedSpecific
from musicrec_kit.tokenizers.tokenizer import SETTINGS, Tokenizer, latents

log = logging.getLogger(__name__)

AnyTokenizer = Tokenizer | Hierarchical | CoOccurrence
PROBE = 256  # items on which gradient norms are measured


def fit(
    features: Mapping[str, Any],
    vectors: Any | None,
    params: TokenizerParams,
    folder: Path | None = None,
    seed: int = 0,
    device: str = "cpu",
    sequences: Sequences | None = None,
    among: np.ndarray | None = None,
) -> tuple[AnyTokenizer, ItemCodes]:
    """Fit a tokenizer and return it with the codes of all items.

    Args:
        features: modality -> `Features` (`.matrix` [items, dim], `.present` [items]).
        vectors: the CF stage's `ItemVectors` (`.vectors`, `.present`), or None where alpha and beta are 0.
        folder: for `health.json`, and `metrics.jsonl` and checkpoints of the training (one folder per modality when
            they are trained apart). The caller saves what is returned.
        sequences: the interactions, for a tokenizer that reads them instead of features.
        among: bool [items], the items to fit on; None: all.

    Raises:
        Refused: the settings do not fit the data.
        CollapsedError: a level uses too few codes, and `params.allow_collapse` is not set.
    """
    matrices = {name: found.matrix for name, found in features.items()}
    masks = {name: found.present for name, found in features.items()}
    shown = masks if among is None else {name: mask & among for name, mask in masks.items()}
    seed = seeds.child(seed + params.seed_offset, "tokenizer")
    if not params.reads_features:
        assert sequences is not None, "clusters of co-occurrence without interactions"
        clusters = CoOccurrence(params)
        return clusters, _healthy(clusters.fit(sequences, seed), params, folder)
    if params.grows_a_tree:
        tree = Hierarchical.fit(matrices, shown, params, seed)
        return tree, _healthy(tree.encode(matrices, masks), params, folder)
    _check(shown, vectors, params)
    items = Items.of(matrices, shown, vectors if params.alpha or params.beta else None, device)
    if among is not None:
        items = items.take(torch.from_numpy(among).to(device))
    dims = {name: matrix.shape[1] for name, matrix in matrices.items()}
    tokenizer = Tokenizer(params, dims, None if items.cf is None else items.cf.shape[1], seed).to(device)
    for part in tokenizer.parts:
        if isinstance(part, RKMeans):
            part.fit_codebooks(items, seed)
        elif isinstance(part, RQVAE):
            train(part, items.with_modality(part.name), folder / part.name if folder else None, seed)
        else:
            train(part, items, folder, seed)
    return tokenizer, _healthy(tokenizer.encode(matrices, masks), params, folder)


def load(folder: Path) -> AnyTokenizer:
    """Read the tokenizer that was saved in a folder, of whatever kind."""
    path = folder / SETTINGS
    about = TokenizerParams(**runs.read_json(path)["params"]) if path.is_file() else TokenizerParams()
    if not about.reads_features:
        return CoOccurrence.load(folder)
    return Hierarchical.load(folder) if about.grows_a_tree else Tokenizer.load(folder)


def _healthy(codes: ItemCodes, params: TokenizerParams, folder: Path | None) -> ItemCodes:
    """Return the codes, with their health written and checked; the clusters of a tree use all codes that they can."""
    health = usage(codes)
    if folder:
        runs.write_json(folder / "health.json", health.to_dict("records"))
    log.info("item tokenizer %s:\n%s", params.kind, health.to_string(index=False))
    if not params.allow_collapse and not params.grows_a_tree:
        check_collapse(health)
    return codes


def _check(masks: Mapping[str, Any], vectors: Any | None, params: TokenizerParams) -> None:
    """Refuse settings that cannot work on these items."""
    for name, present in masks.items():
        if (found := int(present.sum())) < params.codes:
            raise Refused(
                f"tokenizer.codes={params.codes} is more than the {found} items that have {name}; "
                f"set tokenizer.codes to {found} or fewer, or filter less"
            )
    if params.kind.endswith("rkmeans"):
        if params.alpha or params.beta or params.diversity:
            log.warning("tokenizer.kind=%s has no losses: alpha, beta and diversity are not read", params.kind)
        return
    if (params.alpha or params.beta) and vectors is None:
        raise Refused(
            f"tokenizer.alpha={params.alpha} and tokenizer.beta={params.beta} need collaborative vectors, and there "
            f"are none; run the cf stage first, or set both to 0"
        )
    for weight, which in (("alpha", "align_on"), ("beta", "relation_on")):
        if params.kind == "shared_specific" and getattr(params, weight) and getattr(params, which) == "shared":
            if not params.shared_levels:
                raise Refused(f"tokenizer.{which}=shared needs shared levels, tokenizer.shared_levels is 0; use mean")


def weights(params: TokenizerParams) -> dict[str, float]:
    """Return the weight of each term in the total loss (eq. 12)."""
    return {
        "reconstruction": 1.0,
        "quantization": 1.0,
        "alignment": params.alpha,
        "relation": params.beta,
        "diversity": params.diversity,
    }


def total_loss(terms: Mapping[str, Tensor], params: TokenizerParams) -> Tensor:
    """Return eq. 12: L_Sem + alpha L_align + beta L_relation (+ LETTER's diversity)."""
    weight = weights(params)
    return torch.stack([weight[name] * term for name, term in terms.items()]).sum()


def train(model: SharedSpecific | RQVAE, items: Items, folder: Path | None, seed: int) -> training.TrainResult:
    """Start the codebooks, train with AdamW at a constant rate, and leave the weights with the fewest collisions."""
    params, name = model.params, "+".join(model.quantizer.names)
    device = next(model.parameters()).device
    seed = seeds.child(seed, name)
    model.measure(items)
    model.quantizer.start(latents(model, items), items.present, params, seed)
    rule, groups = Rule.of(params, training=True), None

    def batches(epoch: int) -> Iterable[tuple[Tensor, int]]:
        # both are functions of the weights at the epoch's start, so a resumed training repeats them
        nonlocal groups
        if params.dead_codes == "revive" and epoch:
            model.quantizer.revive(latents(model, items), items.present, seeds.child(seed, "revive", epoch))
        if params.diversity:
            groups = model.quantizer.group(params.diversity_groups, seeds.child(seed, "groups", epoch))
        order = torch.randperm(len(items), generator=seeds.torch_generator(seed, "batches", epoch)).to(device)
        for step, index in enumerate(order.split(params.batch)):
            yield index, seeds.child(seed, "positives", epoch, step)

    def loss(batch: tuple[Tensor, int]) -> tuple[Tensor, dict[str, float]]:
        index, draw = batch
        step = model(items.take(index), rule, groups, torch.Generator().manual_seed(draw))
        # the terms are logged at the checks: reading them at each step would make a GPU wait
        return total_loss(step.terms, params), {}

    return training.fit(
        model,
        batches,
        loss,
        lr=params.lr,
        weight_decay=params.weight_decay,
        epochs=params.epochs,
        steps=params.epochs * math.ceil(len(items) / params.batch),
        schedule="constant",
        validate=lambda: check(model, items, groups, seed),
        check_every=params.check_every,
        folder=folder,
        seed=seed,
        name=f"tokenizer {name}",
    )


def check(
    model: SharedSpecific | RQVAE, items: Items, groups: list[list[Tensor]] | None, seed: int
) -> tuple[float, dict[str, float]]:
    """Return what chooses the checkpoint, and the log: terms, collisions, used codes, gradient norms.

    The value is the collision rate with argmin codes of all items, averaged over streams; the total loss decides
    between equal rates.
    """
    params, rule = model.params, Rule.of(model.params, training=False)
    draw = torch.Generator().manual_seed(seeds.child(seed, "check"))
    sums: dict[str, float] = {}
    chunks = []
    for index in torch.arange(len(items), device=next(model.parameters()).device).split(params.batch):
        step = model(items.take(index), rule, groups, draw)
        chunks.append(step.codes)
        for name, term in step.terms.items():
            sums[name] = sums.get(name, 0.0) + float(term) * len(index) / len(items)
    codes = {name: torch.cat([chunk[name] for chunk in chunks]).cpu().numpy() for name in model.quantizer.names}
    rate, total = collision_rate(codes), sum(weights(params)[name] * value for name, value in sums.items())
    record = {"collision_rate": rate, **sums, **gradient_norms(model, items, groups, seed)}
    for name, table in codes.items():
        record |= {f"used/{name}/{level}": len(np.unique(column)) for level, column in enumerate(table.T)}
    return selection_value(rate, total, len(items) * len(codes)), record


def selection_value(rate: float, loss: float, cells: int) -> float:
    """Return a number that orders checkpoints by collision rate, then by loss; rates differ by 1 / cells at least.

    >>> selection_value(0.2, 99.0, 10) < selection_value(0.3, 0.0, 10)
    True
    >>> selection_value(0.2, 1.0, 10) < selection_value(0.2, 2.0, 10)
    True
    """
    return rate + 0.5 * loss / (1 + loss) / cells


def gradient_norms(
    model: SharedSpecific | RQVAE, items: Items, groups: list[list[Tensor]] | None, seed: int
) -> dict[str, float]:
    """Return the norm of each weighted term's gradient on the encoders and on the codebooks, for the same few items."""
    order = torch.randperm(len(items), generator=seeds.torch_generator(seed, "probe"))[:PROBE]
    probe = items.take(order.to(next(model.parameters()).device))
    sides = {"encoder": model.encoding_parameters(), "codebooks": list(model.quantizer.parameters())}
    found: dict[str, float] = {}
    with torch.enable_grad():
        draw = torch.Generator().manual_seed(seeds.child(seed, "probe"))
        terms = model(probe, Rule.of(model.params, training=True), groups, draw).terms
        for name, term in terms.items():
            wanted = [p for side in sides.values() for p in side]
            scaled = term * weights(model.params)[name]
            gradients = iter(torch.autograd.grad(scaled, wanted, retain_graph=True, allow_unused=True))
            for side, parameters in sides.items():
                squares = [g.square().sum() for _, g in zip(parameters, gradients, strict=False) if g is not None]
                found[f"gradient/{name}/{side}"] = float(torch.stack(squares).sum().sqrt()) if squares else 0.0
    return found
