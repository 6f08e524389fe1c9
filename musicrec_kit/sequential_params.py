"""Settings of the models that score items after a history, beside the other stages' in `stage_params.py`."""

from typing import Literal

from pydantic import Field, model_validator

from musicrec_kit.stage_params import Frozen


class PretrainingParams(Frozen):
    """S3-Rec's first stage (Zhou et al. 2020, section 4.2): four losses between items, attributes and segments."""

    epochs: int = Field(100, ge=1)
    batch: int = Field(256, ge=1, description="histories at once")
    lr: float = Field(1e-3, gt=0)
    mask: float = Field(0.2, gt=0, lt=1, description="share of a history's items that are hidden")
    item_attribute: float = Field(0.2, ge=0, description="weight of: an item's attributes from its state (AAP)")
    masked_item: float = Field(1.0, ge=0, description="weight of: the hidden item before another (MIP)")
    masked_attribute: float = Field(1.0, ge=0, description="weight of: a hidden item's attributes (MAP)")
    segment: float = Field(0.5, ge=0, description="weight of: a hidden segment before another history's (SP)")


class SequentialParams(Frozen):
    """A model that scores items after a history: how items become vectors x how a history is read x what is asked."""

    vectors: tuple[Literal["ids", "codes", "features"], ...] = Field(
        ("ids",),
        min_length=1,
        description="what an item's vector is the sum of: its own row, its codes' rows, features",
    )
    scaling: Literal["none", "modality"] = Field(
        "modality", description="features centred and divided by one number per modality, or as they are; not for codes"
    )
    digits: int = Field(32, ge=1, description="codes of an item (product quantization of the text features)")
    code_values: int = Field(256, ge=2, description="values of a code, a power of two")
    encoder: Literal["causal", "bidirectional", "gated", "gru", "interests"] = Field(
        "causal", description="modules of musicrec_kit/sequential; gated: LiGR; interests: MISSRec"
    )
    beside: str | None = Field(
        None, description="second stream: `attributes` (categories and brand) or a modality; null: none"
    )
    similarity: Literal["dot", "cosine"] = "dot"
    temperature: float = Field(0.07, gt=0, description="of the cosine")
    head: bool = Field(False, description="a layer between encoder and items, and a bias per item (BERT4Rec)")
    dim: int = Field(64, ge=1, description="width of items and states")
    inner: int | None = Field(None, ge=1, description="width inside a block, of a GRU's state; null: 4 * dim")
    layers: int = Field(2, ge=1)
    heads: int = Field(2, ge=1)
    dropout: float = Field(0.5, ge=0, lt=1)
    start: Literal["normal", "xavier"] = Field(
        "normal", description="first weights: N(0, .02); or items by Xavier's rule and layers as torch draws them"
    )
    interests: float = Field(0.5, gt=0, le=1, description="clusters, as a share of the items' parts")
    interest_rounds: int = Field(5, ge=1, description="k-means iterations before every epoch")
    orthogonality: float = Field(1e-4, ge=0, description="weight of: interests of a history cancel (MISSRec)")
    rows: Literal["positions", "prefixes", "cloze"] = Field(
        "positions", description="targets: every position of a history; the last of every prefix; hidden items"
    )
    mask: float = Field(0.2, gt=0, lt=1, description="cloze: share of hidden items")
    mask_last: float = Field(0.5, ge=0, le=1, description="cloze: share of rows in which only the last item is hidden")
    last_of: Literal["history", "prefix"] = Field(
        "history", description="cloze: whose last item is hidden in such a row; a prefix is drawn each time"
    )
    objective: Literal["ce", "bce", "sampled_softmax", "gbce"] = Field(
        "ce", description="ce: softmax over all items; the others: over drawn negatives"
    )
    negatives: int = Field(256, ge=1, description="drawn per history; bce draws one per target instead")
    calibration: float = Field(0.75, ge=0, le=1, description="t of gbce")
    pretrained: bool = Field(False, description="whether `pretraining` comes first (S3-Rec)")
    pretraining: PretrainingParams = Field(default_factory=PretrainingParams)
    epochs: int = Field(200, ge=0)
    most_steps: int | None = Field(None, ge=1, description="no epoch is begun after as many; null: no limit")
    batch: int = Field(256, ge=1, description="histories at once")
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    patience: int = Field(10, ge=1, description="evaluations on validation without gain before stopping")
    longer: int = Field(1, ge=1, description="factor on epochs, most_steps and patience, for rows that need more")

    @model_validator(mode="after")
    def _fits_together(self) -> "SequentialParams":
        def refuse(condition: bool, message: str) -> None:
            if condition:
                raise ValueError(f"sequential: {message}")

        refuse(self.dim % self.heads > 0, f"dim ({self.dim}) must be divisible by heads ({self.heads})")
        refuse(self.code_values & (self.code_values - 1) > 0, f"code_values ({self.code_values}) is no power of two")
        refuse(
            (self.encoder == "bidirectional") != (self.rows == "cloze"),
            "encoder=bidirectional sees a position's target, which rows=cloze hides: they go together",
        )
        refuse(
            self.encoder == "interests" and (self.rows != "prefixes" or "features" not in self.vectors),
            "encoder=interests sees the whole history and clusters features: set rows=prefixes and vectors=[features]",
        )
        refuse(
            self.beside is not None and self.encoder not in ("causal", "gated"),
            f"beside={self.beside} is read by a transformer that looks back: set encoder=causal",
        )
        refuse(
            len({"codes", "features"} & set(self.vectors)) + (self.beside not in (None, "attributes")) > 1,
            f"vectors={list(self.vectors)}, beside={self.beside}: features are read one way: as codes, as vectors, "
            "or beside the items",
        )
        refuse(
            self.pretrained and self.beside is not None,
            f"pretrained is for one stream, and beside={self.beside} is a second",
        )
        refuse(
            self.pretrained and self.encoder != "causal",
            "pretrained is for encoder=causal, which is pretrained both ways",
        )
        return self

    @property
    def width(self) -> int:
        """Return the width inside a block, or of a GRU's state."""
        return self.inner or 4 * self.dim

    @property
    def reads_attributes(self) -> bool:
        """Return whether the model reads categories and brands."""
        return self.beside == "attributes" or self.pretrained

    def epochs_of(self, rows: int) -> int:
        """Return the epochs that are made of as many rows at most."""
        epochs, in_epoch = self.longer * self.epochs, max(1, -(-rows // self.batch))
        return epochs if self.most_steps is None else min(epochs, -(-self.longer * self.most_steps // in_epoch))

    def places(self, history: int) -> int:
        """Return the places of a model that ranks after `history` items: one more where a mask stands for the next."""
        return history + (self.rows == "cloze")

    def reads_features(self, modalities: tuple[str, ...]) -> tuple[str, ...]:
        """Return the modalities that the model reads, of those of its method."""
        wanted = modalities if {"codes", "features"} & set(self.vectors) else ()
        beside = (self.beside,) if self.beside not in (None, "attributes") else ()
        return tuple(dict.fromkeys([*wanted, *beside]))  # type: ignore[list-item]
