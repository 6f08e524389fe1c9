"""How a state is compared with items: a product, a cosine over a temperature, or cosines of several parts fused."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from musicrec_kit.params import SequentialParams
from musicrec_kit.sequential.items import OWN, Catalogue

ABSENT = -1e9  # finite: an item without any part has a score of 0, not none


class Similarity(nn.Module):
    """Scores of states against the parts of a catalogue.

    With one part (`ids` or `codes`), the product or the cosine / temperature. With several (MISSRec, section 4.3), the
    parts other than the items' own rows are fused, sum_m c_m softmax_m(a c_m) with a learned a, and with own rows the
    score is (own + 2 * fused) / 3.

    Args:
        params: similarity, temperature, and whether items have a bias of their own (BERT4Rec).
        n_items: items of the catalogue.
    """

    def __init__(self, params: SequentialParams, n_items: int) -> None:
        super().__init__()
        self.cosine, self.temperature = params.similarity == "cosine", params.temperature
        self.sharpness = nn.Parameter(torch.zeros(())) if "features" in params.vectors else None
        self.bias = nn.Parameter(torch.zeros(n_items)) if params.head else None

    def all(self, states: Float[Tensor, "*axes dim"], catalogue: Catalogue) -> Float[Tensor, "*axes items"]:
        """Return the scores of all items."""
        states, parts = self._ready(states, catalogue)
        score = self._fused({name: states @ part.T for name, part in parts.items()}, catalogue, None)
        return score if self.bias is None else score + self.bias

    def of_each(
        self, states: Float[Tensor, "*axes dim"], catalogue: Catalogue, items: Int[Tensor, "*axes"]
    ) -> Float[Tensor, "*axes"]:
        """Return the score of one item per state."""
        states, parts = self._ready(states, catalogue)
        score = self._fused({n: (states * part[items]).sum(-1) for n, part in parts.items()}, catalogue, items)
        return score if self.bias is None else score + self.bias[items]

    def of_row(
        self, states: Float[Tensor, "batch history dim"], catalogue: Catalogue, items: Int[Tensor, "batch few"]
    ) -> Float[Tensor, "batch history few"]:
        """Return the scores of a row's items after each position of the row."""
        states, parts = self._ready(states, catalogue)
        products = {name: states @ part[items].transpose(1, 2) for name, part in parts.items()}
        score = self._fused(products, catalogue, items[:, None, :])
        return score if self.bias is None else score + self.bias[items][:, None, :]

    def _ready(self, states: Tensor, catalogue: Catalogue) -> tuple[Tensor, dict[str, Tensor]]:
        if not self.cosine:
            return states, catalogue.parts
        parts = {name: functional.normalize(part, dim=-1) for name, part in catalogue.parts.items()}
        return functional.normalize(states, dim=-1) / self.temperature, parts

    def _fused(self, products: dict[str, Tensor], catalogue: Catalogue, items: Tensor | None) -> Tensor:
        if self.sharpness is None:
            return sum(products.values())  # type: ignore[return-value]
        shown = {name: product for name, product in products.items() if name != OWN}
        weights = []
        for name, product in shown.items():
            weight = self.sharpness * product * (self.temperature if self.cosine else 1.0)  # of the cosine itself
            if name in catalogue.present:
                there = catalogue.present[name]
                weight = weight.masked_fill(~(there if items is None else there[items]), ABSENT)
            weights.append(weight)
        fused = (torch.stack(weights).softmax(dim=0) * torch.stack(list(shown.values()))).sum(dim=0)
        return fused if OWN not in products else (products[OWN] + 2 * fused) / 3
