"""A fitted item tokenizer: features -> codes -> quantised vectors, for items seen in training and new ones."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from musicrec_kit import runs, seeds, training
from musicrec_kit.params import Refused, TokenizerParams
from musicrec_kit.sorted_rows import sort_rows
from musicrec_kit.tokenizers.codes import ItemCodes
from musicrec_kit.tokenizers.items import Items, as_fitted
from musicrec_kit.tokenizers.residual import Rule
from musicrec_kit.tokenizers.rkmeans import RKMeans
from musicrec_kit.tokenizers.rqvae import RQVAE
from musicrec_kit.tokenizers.shared_specific import SharedSpecific

WEIGHTS, SETTINGS = "tokenizer.safetensors", "tokenizer.json"
SCHEMA = 1
CHUNK = 4096  # items encoded at once

Part = SharedSpecific | RQVAE | RKMeans


class Tokenizer:
    """One part that reads all modalities, or one part per modality.

    Attributes:
        params: the settings.
        dims: modality -> width of its features.
        cf_dim: width of z_cf in training, or None.
        parts: the modules; each has `latents`, and a `quantizer` that names its streams.
    """

    def __init__(self, params: TokenizerParams, dims: Mapping[str, int], cf_dim: int | None, seed: int = 0):
        self.params, self.dims, self.cf_dim = params, dict(dims), cf_dim
        self.parts: list[Part] = []
        for name, width in self.dims.items():
            with seeds.torch_seed(seed, "weights", name):
                if params.kind == "rqvae":
                    self.parts.append(RQVAE({name: width}, params, cf_dim))
                elif params.kind == "rkmeans":
                    self.parts.append(RKMeans({name: width}, params))
        with seeds.torch_seed(seed, "weights"):
            if params.kind == "shared_specific":
                self.parts.append(SharedSpecific(self.dims, params, cf_dim))
            elif params.kind == "shared_specific_rkmeans":
                self.parts.append(RKMeans(self.dims, params))

    @property
    def device(self) -> torch.device:
        """Return where the weights are."""
        return next(iter(self.modules.state_dict().values())).device

    @property
    def modules(self) -> nn.ModuleList:
        """Return the parts as one module."""
        return nn.ModuleList(self.parts)

    def to(self, device: str) -> "Tokenizer":
        """Move the weights to a device."""
        self.modules.to(device)
        return self

    def encode(self, features: Mapping[str, np.ndarray], present: Mapping[str, np.ndarray] | None = None) -> ItemCodes:
        """Return the codes of items from their features, by argmin at every level.

        Args:
            features: modality -> [items, dim]; a modality left out is missing for all items.
            present: modality -> bool [items]; left out: every item of a given matrix has the modality.

        Raises:
            Refused: a matrix has another width than in training, or a modality is unknown.
        """
        items = self._items(features, present or {})
        codes: dict[str, np.ndarray] = {}
        distances: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for part in self.parts:
            z = latents(part, items)
            split = encode_latents(part, z)
            for name, found in split.items():
                table = found.cpu().numpy().astype(np.int32)
                if not part.gives_missing_codes:
                    table[~items.present[name].cpu().numpy()] = -1
                codes[name] = table
                distances[name] = self._distances(part, z, name, colliding(table))
        sizes = {name: (self.params.codes,) * table.shape[1] for name, table in codes.items()}
        return ItemCodes(codes, sizes, self.shared_levels, distances)

    @property
    def shared_levels(self) -> int:
        """Return the number of first levels that all streams share."""
        return self.params.shared_levels if self.params.kind.startswith("shared_specific") else 0

    def vectors_of(self, codes: ItemCodes | Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return z-hat of each stream (eq. 6): float32 [items, width]; NaN rows where an item has no codes."""
        streams = codes.codes if isinstance(codes, ItemCodes) else codes
        found = {}
        for part in self.parts:
            for name in set(part.quantizer.names) & set(streams):
                table = torch.as_tensor(np.asarray(streams[name], np.int64), device=self.device)
                with torch.no_grad():
                    vectors = part.quantizer.lookup(name, table.clamp_min(0))
                vectors[(table < 0).any(1)] = float("nan")
                found[name] = vectors.cpu().numpy()
        return {name: found[name] for name in streams}

    def quantized(
        self, features: Mapping[str, np.ndarray], present: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        """Return z-hat of items from their features."""
        return self.vectors_of(self.encode(features, present))

    def latents_of(
        self, features: Mapping[str, np.ndarray], present: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        """Return each stream's part of z, before it is quantised: float32 [items, width]."""
        items = self._items(features, present or {})
        found: dict[str, np.ndarray] = {}
        for part in self.parts:
            parts = latents(part, items).split(part.quantizer.widths, dim=1)
            found |= {name: z.cpu().numpy() for name, z in zip(part.quantizer.names, parts, strict=True)}
        return found

    @torch.no_grad()
    def decode(self, vectors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return x-hat (eq. 7) of each stream's z-hat, or of anything in its place: float32 [items, dim]."""
        given = {name: torch.as_tensor(z, device=self.device) for name, z in vectors.items()}
        found = {n: part.decode(n, given[n]) for part in self.parts for n in part.quantizer.names if n in given}
        return {name: found[name].cpu().numpy() for name in vectors}

    def save(self, folder: Path) -> None:
        """Write `tokenizer.safetensors` and `tokenizer.json`; the input statistics are among the weights."""
        runs.write_tensors(folder / WEIGHTS, self.modules.state_dict())
        about = {
            "schema": SCHEMA,
            "params": self.params.model_dump(mode="json"),
            "dims": self.dims,
            "cf_dim": self.cf_dim,
        }
        runs.write_json(folder / SETTINGS, about)

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> "Tokenizer":
        """Read what `save` wrote.

        Raises:
            Refused: the folder holds no tokenizer, or one of another schema.
        """
        if not (folder / SETTINGS).is_file():
            raise Refused(f"{folder} holds no tokenizer ({SETTINGS} is missing); fit one, or name another folder")
        about = runs.read_json(folder / SETTINGS)
        if about["schema"] != SCHEMA:
            raise Refused(
                f"{folder / SETTINGS} has schema {about['schema']}, this kit reads {SCHEMA}; fit the tokenizer again"
            )
        tokenizer = cls(TokenizerParams(**about["params"]), about["dims"], about["cf_dim"])
        training.load_weights(tokenizer.modules, folder / WEIGHTS)
        return tokenizer.to(device)

    def _items(self, features: Mapping[str, np.ndarray], present: Mapping[str, np.ndarray]) -> Items:
        given = {name: as_fitted(name, matrix, self.dims) for name, matrix in features.items()}
        n = len(next(iter(given.values())))
        masks = {name: np.full(n, name in given) for name in self.dims}
        masks |= {name: np.asarray(mask, bool) for name, mask in present.items() if name in given}
        rows = {name: given.get(name, np.zeros((n, width), np.float32)) for name, width in self.dims.items()}
        return Items.of(rows, masks, device=str(self.device))

    def _distances(self, part: Part, z: Tensor, name: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.no_grad():
            found = part.quantizer.distances(z[torch.as_tensor(rows, device=z.device)], name)
        return rows, found.cpu().numpy()


@torch.no_grad()
def latents(part: Part, items: Items) -> Tensor:
    """Return the (joint) latent of all items, in chunks."""
    index = torch.arange(len(items), device=next(iter(items.features.values())).device)
    return torch.cat([part.latents(items.take(rows)) for rows in index.split(CHUNK)])


@torch.no_grad()
def encode_latents(part: Part, z: Tensor) -> dict[str, Tensor]:
    """Return each stream's codes of latents, by argmin."""
    chunks = [part.quantizer(rows, Rule()).codes for rows in z.split(CHUNK)]
    return {name: torch.cat([chunk[name] for chunk in chunks]) for name in part.quantizer.names}


def colliding(codes: np.ndarray) -> np.ndarray:
    """Return the items (int64, ascending) whose code row another item has too; items without codes never collide.

    >>> colliding(np.array([[1, 2], [0, 0], [1, 2], [-1, -1], [-1, -1]])).tolist()
    [0, 2]
    """
    coded = np.flatnonzero((codes >= 0).all(1))
    if not len(coded):
        return coded
    found = sort_rows(codes[coded])
    sizes = found.sizes()
    return coded[np.sort(found.order[np.repeat(sizes > 1, sizes)])]
