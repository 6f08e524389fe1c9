"""MusicRec's shared-specific tokenizer at size paper's widths: four epochs, and collisions counted every other one.

The usual way is the loop of the LC-Rec family: a `Dataset` of single items behind a `DataLoader`, whose batches move to
the device; residual quantisation with expanded distances, argmin and gather; AdamW; a loop over all items that writes
every code as a string and counts distinct ones. It does MusicRec's losses here, from the same weights and codebooks
(its own k-means start is left out, ours is timed) and over the same batches, so that the losses of its epochs are ours.
`workers=0`: a batch is made in a tenth of a second and used for seconds, and on two cores workers take time from the
products.
"""

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from musicrec_kit import seeds, tokenizers
from musicrec_kit.features.store import Features
from musicrec_kit.params import TokenizerParams
from musicrec_kit.sequential.vectors import ItemVectors
from musicrec_kit.tokenizers.fitting import PROBE
from musicrec_kit.tokenizers.items import Items
from musicrec_kit.tokenizers.shared_specific import SharedSpecific
from musicrec_kit.tokenizers.tokenizer import Tokenizer, latents
from tests.benchmarks.harness import Row, Side, device

ITEMS, DIMS, CF = 6250, {"text": 4096, "image": 768}, 32
SIZE_PAPER = TokenizerParams(alpha=0.01, beta=0.0001, epochs=4, check_every=2, allow_collapse=True)
# of an epoch's loss: roundings, and the few codes that they decide between two near ones. Another order of batches,
# another weight of any term or one codebook left out is further away. bf16 has three digits
SAME_LOSS = {"fp32": 2e-4, "bf16": 2e-2}
NAME = "text+image"


class Made(NamedTuple):
    """Features by modality and collaborative vectors of made items, all with the same few causes."""

    features: dict[str, np.ndarray]
    cf: np.ndarray


class Trained(NamedTuple):
    """The mean loss of each epoch, the share of items that collide, averaged over views, and how it was computed."""

    losses: list[float]
    collisions: float
    precision: str = "fp32"


def made_items(items: int, dims: dict[str, int]) -> Made:
    """Return items that differ in 48 causes, of which every column shows a mixture and noise."""
    draw = np.random.default_rng(0)
    causes = draw.standard_normal((items, 48), dtype=np.float32)

    def shown(dim: int) -> np.ndarray:
        mixture = draw.standard_normal((48, dim), dtype=np.float32) / math.sqrt(48)
        return causes @ mixture + 0.3 * draw.standard_normal((items, dim), dtype=np.float32)

    return Made({name: shown(dim) for name, dim in dims.items()}, shown(CF))


def ours(made: Made, params: TokenizerParams) -> Trained:
    """Fit the kit's tokenizer."""
    everywhere = np.ones(len(made.cf), bool)
    given = {name: Features(name, matrix, everywhere, "made") for name, matrix in made.features.items()}
    with TemporaryDirectory() as folder:
        tokenizers.fit(given, ItemVectors(made.cf, everywhere), params, Path(folder), device=device())
        log = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return Trained([record["loss"] for record in log], log[-1]["collision_rate"], params.precision)


class _OneByOne(Dataset):
    def __init__(self, made: Made):
        self.parts = [*made.features.values(), made.cf]

    def __getitem__(self, item: int) -> list[Tensor]:
        return [torch.from_numpy(part[item]) for part in self.parts]

    def __len__(self) -> int:
        return len(self.parts[0])


class _Level(nn.Module):
    def __init__(self, codes: int, dim: int, mu: float):
        super().__init__()
        self.embedding, self.mu = nn.Embedding(codes, dim), mu

    def forward(self, residual: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weight = self.embedding.weight
        squares = residual.square().sum(1, keepdim=True) + weight.square().sum(1)
        index = torch.argmin(squares - 2 * residual @ weight.t(), dim=-1)
        code = self.embedding(index)
        codebook, commitment = (
            functional.mse_loss(code, residual.detach()),
            functional.mse_loss(residual, code.detach()),
        )
        return code, codebook + self.mu * commitment, index


class _Chain(nn.Module):
    def __init__(self, levels: int, codes: int, dim: int, mu: float):
        super().__init__()
        self.levels = nn.ModuleList(_Level(codes, dim, mu) for _ in range(levels))

    def forward(self, residual: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        total, loss, indices = torch.zeros_like(residual), residual.new_zeros(()), []
        for level in self.levels:
            code, cost, index = level(residual)
            residual, total, loss = residual - code, total + code, loss + cost
            indices.append(index)
        return total, residual, loss, torch.stack(indices, dim=-1)


def _mlp(widths: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Dropout(0.0), nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class _Usual(nn.Module):
    """MusicRec's tokenizer as the family writes its RQ-VAE; every item has both modalities."""

    def __init__(self, dims: dict[str, int], params: TokenizerParams):
        super().__init__()
        self.params, joint = params, params.dim * len(dims)
        self.encoders = nn.ModuleList(_mlp([dim, *params.hidden, params.dim]) for dim in dims.values())
        self.decoders = nn.ModuleList(_mlp([params.dim, *params.hidden[::-1], dim]) for dim in dims.values())
        self.projection = nn.Linear(joint, joint)
        self.shared = _Chain(params.shared_levels, params.codes, joint, params.mu)
        self.specific = nn.ModuleList(_Chain(params.specific_levels, params.codes, params.dim, params.mu) for _ in dims)

    def begin(self, model: SharedSpecific) -> "_Usual":
        """Take the kit's weights."""
        for mine, theirs in ((self.encoders, model.encoders), (self.decoders, model.decoders)):
            for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
                a.data.copy_(b)
        self.projection.load_state_dict(model.projection.state_dict())
        for chain, books in zip([self.shared, *self.specific], model.quantizer.chains, strict=True):
            for level, book in zip(chain.levels, books, strict=True):
                level.embedding.weight.data.copy_(book)
        return self

    def quantized(self, features: list[Tensor]) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        z = self.projection(torch.cat([encoder(x) for encoder, x in zip(self.encoders, features, strict=True)], dim=1))
        shared, residual, loss, first = self.shared(z)
        parts = [chain(part) for chain, part in zip(self.specific, residual.split(self.params.dim, 1), strict=True)]
        z_hat = shared + torch.cat([part[0] for part in parts], dim=1)
        loss = loss + torch.stack([part[2] for part in parts]).sum()
        return z, z_hat, loss, [torch.cat([first, part[3]], dim=-1) for part in parts]

    def forward(self, features: list[Tensor], cf: Tensor) -> Tensor:
        z, z_hat, loss, _ = self.quantized(features)
        z_hat = z + (z_hat - z).detach()
        views = z_hat.split(self.params.dim, 1)
        for decoder, view, x in zip(self.decoders, views, features, strict=True):
            loss = loss + functional.mse_loss(decoder(view), x)
        mean, known = functional.normalize(torch.stack(views).mean(0)), functional.normalize(cf)
        contrast = functional.cross_entropy(mean @ known.t() / self.params.tau, torch.arange(len(cf), device=cf.device))
        joint = functional.normalize(z_hat)
        relation = functional.mse_loss(joint @ joint.t(), known @ known.t())
        return loss + self.params.alpha * contrast + self.params.beta * relation


def usual(made: Made, params: TokenizerParams, start: SharedSpecific, batches: list[list[list[int]]]) -> Trained:
    """Train with a DataLoader over the given batches of each epoch, and count collisions of strings."""
    dims = {name: matrix.shape[1] for name, matrix in made.features.items()}
    model = _Usual(dims, params).begin(start).to(device())
    decays = [p for p in model.parameters() if p.ndim > 1]
    groups = [{"params": decays}, {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=params.lr, weight_decay=params.weight_decay)
    dataset, losses, rate = _OneByOne(made), [], math.nan
    for number, epoch in enumerate(batches, start=1):
        total = 0.0
        for *features, cf in DataLoader(dataset, batch_sampler=epoch, num_workers=0):
            optimiser.zero_grad()
            loss = model([x.to(device()) for x in features], cf.to(device()))
            assert not torch.isnan(loss)
            loss.backward()
            optimiser.step()
            total += loss.item()
        losses.append(total / len(epoch))
        if number % params.check_every == 0:
            rate = _collisions(model, dataset, params)
    return Trained(losses, rate)


@torch.no_grad()
def _collisions(model: _Usual, dataset: _OneByOne, params: TokenizerParams) -> float:
    strings: list[set[str]] = [set() for _ in model.specific]
    for *features, _ in DataLoader(dataset, batch_size=params.batch, num_workers=0):
        for seen, codes in zip(strings, model.quantized([x.to(device()) for x in features])[3], strict=True):
            seen.update("-".join(str(int(code)) for code in row) for row in codes.cpu().numpy())
    return float(np.mean([1 - len(seen) / len(dataset) for seen in strings]))


def start_of(made: Made, params: TokenizerParams) -> tuple[SharedSpecific, list[list[list[int]]]]:
    """Return the kit's model before its first step, and the batches of its epochs, by the seeds that `fit` derives."""
    seed = seeds.child(params.seed_offset, "tokenizer")
    dims = {name: matrix.shape[1] for name, matrix in made.features.items()}
    model = Tokenizer(params, dims, CF, seed).parts[0]
    assert isinstance(model, SharedSpecific)
    items = Items.of(made.features, {name: np.ones(len(made.cf), bool) for name in dims})
    seed = seeds.child(seed, NAME)
    model.quantizer.start(latents(model, items), items.present, params, seed)
    draws = [seeds.torch_generator(seed, "batches", epoch) for epoch in range(params.epochs)]
    orders = [torch.randperm(len(items), generator=draw) for draw in draws]
    return model, [[part.tolist() for part in order.split(params.batch)] for order in orders]


def flops_of(model: SharedSpecific, items: int) -> float:
    """Return the FLOPs of `ours`, counted from shapes, with F of all layers' forward pass and E of the encoders'.

        epochs * items * (3 F - first layers + distances) + checks * (items * (F + distances) + probe)
        + 2 * items * (E + distances)

    A layer is 2 * in * out per item, and its way back twice that, but for the first layers, which need no gradient of
    their inputs. Distances are 2 * codes * dim per level. A check is a forward pass, and the gradient norms of four
    terms from PROBE items; the codebooks' start and the codes at the end are a pass through the encoders each. The
    k-means start, the losses' batch * batch * dim and everything elementwise count as nothing.
    """
    params = model.params

    def forward(modules: list[nn.Module]) -> float:
        layers = [layer for module in modules for layer in module.modules() if isinstance(layer, nn.Linear)]
        return sum(2.0 * layer.in_features * layer.out_features for layer in layers)

    encode = forward([model.encoders, model.projection])
    both = encode + forward([model.decoders])
    first = forward([encoder[0] for encoder in model.encoders])  # type: ignore[index]
    distances = sum(2.0 * book.numel() for chain in model.quantizer.chains for book in chain)
    probed = min(items, PROBE) * (both + 4 * (2 * encode - first) + forward([model.decoders]))
    trained = params.epochs * items * (3 * both - first + distances)
    checked = params.epochs // params.check_every * (items * (both + distances) + probed)
    return trained + checked + 2 * items * (encode + distances)


def rows(data_root: Path | None, scale: float) -> Iterator[Row]:
    """Yield the row; a scale under 0.02 takes narrow layers, too."""
    items, dims, params = max(200, round(ITEMS * scale)), DIMS, SIZE_PAPER
    if scale < 0.02:
        dims = {name: dim // 32 for name, dim in DIMS.items()}
        params = params.model_copy(update={"hidden": (64, 32), "codes": 16, "batch": 64})
    params = params.model_copy(update={"codes": min(params.codes, items // 4)})
    made = made_items(items, dims)
    start, batches = start_of(made, params)
    halves = params.model_copy(update={"precision": "bf16"})

    def agree(theirs: Trained, mine: Trained) -> str:
        off = max(abs(a / b - 1) for a, b in zip(mine.losses, theirs.losses, strict=True))
        assert off <= SAME_LOSS[mine.precision], (mine, theirs)
        return f"losses of epochs within {off:.0e}, collisions {mine.collisions:.3%} for {theirs.collisions:.3%}"

    flops = flops_of(start, items)
    yield Row(
        "tokenizer",
        "items",
        params.epochs * items,
        f"made, {items:,} x ({' + '.join(map(str, dims.values()))}), {params.epochs} epochs",
        Side("DataLoader loop", lambda: usual(made, params, copy.deepcopy(start), batches)),
        [
            Side("kit, fp32", lambda: ours(made, params), flops=flops),
            Side("kit, bf16", lambda: ours(made, halves), flops=flops, precision="bf16"),
        ],
        agree,
    )
