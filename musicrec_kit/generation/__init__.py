"""Stages 05 and 06: a T5 over semantic IDs, its tasks, constrained beam search, and the lists."""

from musicrec_kit.generation.fit import Generator, fit_generator
from musicrec_kit.generation.ranking import rank

__all__ = ["Generator", "fit_generator", "rank"]
