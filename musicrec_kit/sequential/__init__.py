"""Methods that are not generative and learn: items as vectors x a reader of histories x an objective, and z_cf."""

from musicrec_kit.sequential.recommender import Recommender, fit_item_vectors, fit_recommender
from musicrec_kit.sequential.sources import SOURCES, Sources, sources_of
from musicrec_kit.sequential.vectors import ItemVectors

__all__ = ["SOURCES", "ItemVectors", "Recommender", "Sources", "fit_item_vectors", "fit_recommender", "sources_of"]
