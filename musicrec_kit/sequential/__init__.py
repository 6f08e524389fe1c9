"""Sequential models that are not generative: SASRec, the source of z_cf and a method of its own."""

from musicrec_kit.sequential.recommender import Recommender, fit_item_vectors, fit_recommender
from musicrec_kit.sequential.vectors import ItemVectors

__all__ = ["ItemVectors", "Recommender", "fit_item_vectors", "fit_recommender"]
