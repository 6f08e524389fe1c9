"""Stage 02: frozen encoders turn the items of a data set into one matrix per modality."""

from musicrec_kit.features.encoders import extract
from musicrec_kit.features.fusion import early_fusion
from musicrec_kit.features.store import Features, read_matrix

__all__ = ["Features", "early_fusion", "extract", "read_matrix"]
