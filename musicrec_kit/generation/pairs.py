"""Which nodes are closed to which users of a batch, or which items they have seen: few of very many.

A table of users by nodes would be written anew for every batch and grow with the catalogue. Here are the pairs alone,
as sorted keys, and one row of marks that all users share: what nobody's mark is on, nearly everything, needs no search.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

NOTHING = -1  # in place of a node or an item


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of a user of the batch and a number.

    Attributes:
        keys: int64, ascending; user * numbers + number, each once.
        marked: bool [numbers]; whether any user may have it.
        n_users: users of the batch.
    """

    keys: Int[Tensor, " pairs"]
    marked: Bool[Tensor, " numbers"]
    n_users: int

    @classmethod
    def of(cls, keys: Int[Tensor, " pairs"], n_numbers: int, n_users: int) -> "Pairs":
        """Return the pairs of ascending keys user * n_numbers + number."""
        marked = torch.zeros(n_numbers, dtype=torch.bool, device=keys.device)
        marked[keys % n_numbers] = True
        return cls(keys, marked, n_users)

    @property
    def most(self) -> int:
        """Return how many pairs the user has that has most."""
        return int(torch.bincount(self.keys // len(self.marked), minlength=1).max())

    def take(self, users: Int[Tensor, " some"]) -> "Pairs":
        """Return the pairs of some users, given in ascending order, who are numbered anew."""
        number = torch.full((self.n_users,), NOTHING, device=self.keys.device)
        number[users] = torch.arange(len(users), device=users.device)
        user = number[self.keys // len(self.marked)]
        kept = user != NOTHING
        # what is marked for the others costs a search and is not found
        keys = user[kept] * len(self.marked) + self.keys[kept] % len(self.marked)
        return Pairs(keys, self.marked, len(users))

    def hold(self, numbers: Int[Tensor, "users *places"]) -> Bool[Tensor, "users *places"]:
        """Return whether each is paired with the user in whose row it stands; NOTHING never is."""
        user = torch.arange(len(numbers), device=numbers.device).view(-1, *[1] * (numbers.ndim - 1))
        return self.holds(user.expand_as(numbers).flatten(), numbers.flatten()).view_as(numbers)

    def holds(self, users: Int[Tensor, " places"], numbers: Int[Tensor, " places"]) -> Bool[Tensor, " places"]:
        """Return whether each number is paired with the user beside it; NOTHING never is."""
        found = self.marked[numbers.clamp(min=0)] & (numbers != NOTHING)
        if not len(self.keys):
            return torch.zeros_like(found)
        if numbers.is_cuda:  # counting the marked ones would wait for the device
            return found & self._has(users * len(self.marked) + numbers)
        places = found.nonzero()[:, 0]
        found[places] = self._has(users[places] * len(self.marked) + numbers[places])
        return found

    def _has(self, keys: Tensor) -> Tensor:
        return self.keys[torch.searchsorted(self.keys, keys).clamp(max=len(self.keys) - 1)] == keys
