"""Semantic IDs: item codes per view with collisions resolved, their tokens, and the tree of legal IDs."""

from musicrec_kit.ids.index_files import export_index, import_index
from musicrec_kit.ids.prefix_tree import PrefixTree
from musicrec_kit.ids.semantic_ids import SemanticIds, make_ids, number_items
from musicrec_kit.ids.vocabulary import Vocabulary

__all__ = ["PrefixTree", "SemanticIds", "Vocabulary", "export_index", "import_index", "make_ids", "number_items"]
