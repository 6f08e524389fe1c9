"""What each stage can be told: one frozen settings class per stage, closed to unknown keys.

A new field has a default that leaves everything as it was: stage keys leave defaults out (`plan.py`), so that what was
built before stays usable. A changed default needs a raised stage version. Where a paper is silent, `params/` says where
a value comes from.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Frozen(BaseModel):
    """A settings class: frozen, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class DemoParams(Frozen):
    """The generated data set ("shoppers"); see `data/demo.py` for the process."""

    items: int = Field(1500, ge=8, le=100_000, description="products to draw")
    users: int = Field(3000, ge=8, description="shoppers")
    purposes: int = Field(5, ge=2, le=10, description="purposes in use; only the text tells them")
    colours: int = Field(4, ge=2, le=8, description="colours in use; only the picture shows them")
    kinds: int = Field(12, ge=2, le=15, description="kinds in use; both modalities show them")
    mean_length: float = Field(9.0, ge=5, description="mean number of interactions of a shopper (at least 5 each)")
    randomness: float = Field(
        0.1, ge=0, le=1, description="share of next items drawn uniformly: the one dial of difficulty"
    )
    copurchase: float = Field(
        0.1, ge=0, le=1, description="share of the other next items that follow the co-purchase table"
    )
    text_weight: float = Field(
        3.0, ge=0, description="log-odds that the next item keeps the property told only by text"
    )
    image_weight: float = Field(
        3.0, ge=0, description="log-odds that the next item keeps the property shown only by image"
    )
    shared_weight: float = Field(
        4.0, ge=0, description="log-odds that the next item keeps the kind, which both modalities show"
    )
    all_shared: bool = Field(False, description="null world: text and picture each show every property")
    shuffled_pictures: bool = Field(False, description="null world: every item shows the picture of a random one")
    image_side: int = Field(128, ge=32, le=1024, description="pixels of a picture's side")
    seed: int = Field(0, ge=0, description="seed of the world; the seed of training is another")


class DataParams(Frozen):
    """Where interactions and items come from, and which are kept."""

    source: Literal["demo", "lcrec", "movielens", "table"] = Field("demo", description="the reader in data/sources.py")
    interactions: str | None = Field(None, description="file of interactions, relative to the data root")
    items: str | None = Field(None, description="file of item metadata")
    images: str | None = Field(None, description="folder or tar of pictures")
    tags: str | None = Field(None, description="movielens: tags.csv")
    descriptions: str | None = Field(None, description="movielens: item file whose descriptions and brands are added")
    item2id: str | None = Field(None, description="lcrec: file of raw id TAB item number")
    columns: dict[str, str] = Field(default_factory=dict, description="table: our column -> the file's column")
    demo: DemoParams = Field(default_factory=DemoParams, description="source demo: the generator's settings")
    bad_lines: int = Field(0, ge=0, description="lines of a JSON lines file that may be no objects and are left out")
    min_rating: float | None = Field(None, description="keep interactions rated at least this; null keeps all")
    has_text: bool = Field(False, description="keep items with a title or a description")
    has_image: bool = Field(False, description="keep items with a picture")
    first_occurrence: bool = Field(True, description="keep a user's first interaction with an item")
    k_core: int = Field(5, ge=0, description="iterate to users and items with at least k interactions; 0 leaves all")
    tie_order: Literal["file", "shuffle"] = Field("file", description="order of a user's interactions with equal time")
    tie_seed: int = Field(0, ge=0, description="seed of tie_order=shuffle")
    history: int = Field(20, ge=1, description="most recent items of a history that a model sees")
    protocol: Literal["leave_one_out", "temporal"] = Field(
        "leave_one_out", description="targets: each user's last two items, or the first after two cuts in time"
    )
    cuts: tuple[float, float] = Field(
        (0.8, 0.9), description="temporal: shares of the interactions that are older than the cuts"
    )
    renumber: Literal["keep", "shuffle"] = Field(
        "keep", description="item numbers: as the source has them, or at random"
    )
    expected: dict[str, int] = Field(default_factory=dict, description="published users / items / interactions")

    @model_validator(mode="after")
    def _cuts_ascend(self) -> "DataParams":
        if not 0 < self.cuts[0] < self.cuts[1] < 1:
            raise ValueError(f"data.cuts={list(self.cuts)}: two ascending shares between 0 and 1 are needed")
        return self


class FeatureParams(Frozen):
    """The frozen encoder of one modality, or the file that holds its matrix."""

    encoder: Literal[
        "file",
        "minilm",
        "sentence",
        "llama",
        "efficientnet_lite0",
        "open_clip",
        "hf_clip",
        "properties",
        "noise",
        "fusion",
    ] = Field("file", description="name in features/encoders.py; fusion: made of other modalities' matrices")
    kind: Literal["text", "image", "auto"] = Field(
        "auto", description="what the encoder reads; auto: by the modality's name"
    )
    same_as: str | None = Field(
        None, description="another modality whose settings these are: a control with a second tokenizer"
    )
    file: str | None = Field(None, description="matrix: .npy, .safetensors, .parquet or .csv; rows = items, or by ids")
    ids: str | None = Field(
        None, description="text file of raw ids, one per row of `file`; null: rows are in item order"
    )
    model: str | None = Field(None, description="open_clip model name, or a folder of transformers weights")
    pretrained: str | None = Field(None, description="open_clip pretrained tag or a local checkpoint file")
    fields: tuple[str, ...] = Field(
        ("title", "description"),
        description="item columns that make the text; properties: names of properties, null: the demo's own",
    )
    pool: Literal["joined", "averaged"] = Field(
        "joined", description="fields as one text, or encoded apart and averaged"
    )
    max_tokens: int = Field(256, ge=1, description="tokens of a text that are read")
    image_side: int = Field(224, ge=16, description="pixels of the side that the image encoder reads")
    batch: int = Field(64, ge=1, description="items encoded at once")
    of: tuple[str, ...] = Field((), description="fusion: the modalities that become one")
    weights: tuple[float, ...] = Field((), description="fusion: their weights, in order; empty: equal")
    dim: int = Field(64, ge=1, description="noise: width of the matrix")
    seed: int = Field(0, ge=0, description="noise: its seed")

    @model_validator(mode="after")
    def _fusible(self) -> "FeatureParams":
        if self.encoder != "fusion":
            return self
        if len(set(self.of)) < 2 or len(set(self.of)) < len(self.of):
            raise ValueError(f"encoder fusion needs two or more different modalities in `of`, found {list(self.of)}")
        if self.weights and (len(self.weights) != len(self.of) or min(self.weights) < 0 or max(self.weights) == 0):
            raise ValueError(f"fusion of {list(self.of)} needs one weight of 0 or more each, not {list(self.weights)}")
        return self


class CFParams(Frozen):
    """The sequential model that gives z_cf (MusicRec: "pre-trained SASRec", 32-d)."""

    dim: int = Field(32, ge=1, description="width of an item vector")
    layers: int = Field(2, ge=1)
    heads: int = Field(2, ge=1)
    dropout: float = Field(0.5, ge=0, lt=1)
    loss: Literal["ce"] = Field("ce", description="softmax cross-entropy over all items")
    epochs: int = Field(30, ge=0)
    batch: int = Field(256, ge=1, description="users at once")
    lr: float = Field(1e-3, gt=0)
    patience: int = Field(5, ge=1, description="evaluations on validation without gain before stopping")

    @model_validator(mode="after")
    def _heads_divide(self) -> "CFParams":
        if self.dim % self.heads:
            raise ValueError(f"cf.dim ({self.dim}) must be divisible by cf.heads ({self.heads})")
        return self


class TokenizerParams(Frozen):
    """The item tokenizer. `profile` sets what the papers leave open; a key given by hand wins over its profile."""

    kind: Literal["shared_specific", "rqvae", "rkmeans", "shared_specific_rkmeans", "hierarchical", "cooccurrence"] = (
        Field("shared_specific", description="how codes are made: modules of musicrec_kit/tokenizers")
    )
    profile: Literal["as_printed", "lineage", "ours"] = Field("as_printed", description="lineage.md section 5")
    codes: int = Field(256, ge=2, le=32767, description="codes per level (N)")
    levels: int = Field(4, ge=1, description="length of one view's ID")
    shared_levels: int = Field(2, ge=0, description="L_e, MusicRec eq. 3")
    specific_levels: int = Field(2, ge=0, description="L_c, MusicRec eq. 4-5")
    dim: int = Field(32, ge=1, description="d, latent width of one modality")
    hidden: tuple[int, ...] = Field(
        (2048, 1024, 512, 256, 128, 64), description="widths of the encoder MLP; decoder mirrors"
    )
    alpha: float = Field(0.0, ge=0, description="weight of the alignment loss, eq. 10 (LETTER: its CF loss)")
    beta: float = Field(0.0, ge=0, description="weight of the relation loss, eq. 11")
    diversity: float = Field(0.0, ge=0, description="weight of LETTER's diversity loss")
    diversity_groups: int = Field(10, ge=1, description="clusters of a codebook in the diversity loss")
    mu: float = Field(0.25, ge=0, description="weight of the commitment term, eq. 8")
    tau: float = Field(0.07, gt=0, description="temperature of eq. 10")
    align_on: Literal["joint", "mean", "per_view", "shared"] = Field("mean", description="which z-hat eq. 10 sees")
    relation_on: Literal["joint", "mean", "per_view", "shared"] = Field("joint", description="which z-hat eq. 11 sees")
    reduction: Literal["mean", "sum"] = Field("mean", description="mean or sum over dimensions of squared errors")
    level_reduction: Literal["sum", "mean"] | None = Field(
        None, description="levels of eq. 8: summed as printed, or averaged as in LC-Rec's code; null: by profile"
    )
    residual_gradients: bool | None = Field(
        None, description="commitment of every level reaches the encoder; null: by profile"
    )
    sinkhorn: float | None = Field(
        None, ge=0, description="epsilon at the last level, training only; 0: off; null: by profile"
    )
    sinkhorn_iterations: int = Field(50, ge=1)
    init: Literal["kmeans", "kmeans_batch", "uniform"] = Field("kmeans", description="start of the codebooks")
    projection: Literal["full", "none"] = Field("full", description="the linear layer before the joint latent")
    scaling: Literal["none", "modality", "columns"] | None = Field(
        None, description="inputs centred, and divided by one number per modality or per column; null: by profile"
    )
    dead_codes: Literal["keep", "revive"] = Field("keep", description="what happens to unused codes during training")
    epochs: int = Field(500, ge=0)
    batch: int = Field(2048, ge=1)
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    check_every: int = Field(2, ge=1, description="epochs between collision counts that choose the checkpoint")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="of the networks' products in training; codes are given in fp32 either way"
    )
    kmeans_iterations: int = Field(50, ge=1, description="Lloyd iterations of rkmeans and of the k-means start")
    kmeans_restarts: int = Field(1, ge=1)
    branching: int = Field(50, ge=2, le=32767, description="trees of clusters: children of a cluster")
    leaf: int = Field(512, ge=1, le=32767, description="trees of clusters: a cluster of more items is split again")
    seed_offset: int = Field(0, ge=0, description="added to the training seed: another tokenizer of the same data")
    allow_collapse: bool = Field(False, description="go on when fewer than a tenth of a level's codes are used")

    @model_validator(mode="after")
    def _levels_add_up(self) -> "TokenizerParams":
        if self.kind.startswith("shared_specific") and self.shared_levels + self.specific_levels != self.levels:
            raise ValueError(
                f"tokenizer.shared_levels ({self.shared_levels}) + tokenizer.specific_levels ({self.specific_levels}) "
                f"must equal tokenizer.levels ({self.levels})"
            )
        return self

    @property
    def grows_a_tree(self) -> bool:
        """Return whether codes are ways down a tree of clusters, and the items of a leaf share theirs."""
        return self.kind in ("hierarchical", "cooccurrence")

    @property
    def reads_features(self) -> bool:
        """Return whether codes come from features, or from interactions alone."""
        return self.kind != "cooccurrence"

    def chosen(self, name: Literal["level_reduction", "residual_gradients", "sinkhorn", "scaling"]) -> Any:
        """Return a switch's value: as given, else what the profile says (lineage.md 5.1, rows 6, 8, 10, 20)."""
        given = getattr(self, name)
        return PROFILES[self.profile][name] if given is None else given


PROFILES: dict[str, dict[str, Any]] = {
    "as_printed": {"level_reduction": "sum", "residual_gradients": True, "sinkhorn": 0.0, "scaling": "none"},
    "lineage": {"level_reduction": "mean", "residual_gradients": False, "sinkhorn": 0.003, "scaling": "none"},
    "ours": {"level_reduction": "sum", "residual_gradients": True, "sinkhorn": 0.0, "scaling": "columns"},
}


class IdsParams(Frozen):
    """How codes become semantic IDs and tokens."""

    source: Literal["tokenizer", "published", "numbers"] = Field(
        "tokenizer", description="codes of our tokenizer, the data set's own files, or item numbers as digits"
    )
    numbering: Literal["random", "order"] = Field(
        "random", description="numbers: drawn; order: the data's, whose neighbours tell who first took what (a leak)"
    )
    files: dict[str, str] = Field(default_factory=dict, description="published: view -> *.index.json")
    views: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="view -> streams of codes joined in it; empty: one view per modality"
    )
    collisions: Literal["distance", "suffix", "sinkhorn", "keep"] = Field("distance")
    tie_levels: bool = Field(False, description="all levels of a stream use the same tokens, as digits do")
    tie_shared_tokens: bool = Field(False, description="shared levels of all views use the same tokens")
    separators: bool = Field(False, description="a token of its own at each change of modality inside a view")
    separator_token: Literal["special", "borrowed"] = Field(
        "special", description="borrowed: a control, a random code's token in the place of a token of its own"
    )
    tokens: Literal["musicrec", "mgr"] = Field("musicrec", description="how tokens are written")


TaskWord = Literal["next", "joint", "align", "cross", "direct"]


class GeneratorParams(Frozen):
    """T5 and its training."""

    backbone: Literal["lineage", "t5_small", "narrow", "tiny"] = Field(
        "lineage", description="shapes in generation/seq2seq.py"
    )
    pretrained: str | None = Field(None, description="folder of a Hugging Face T5 whose blocks are the start")
    tasks: tuple[TaskWord, ...] = Field(
        ("next", "joint", "align"),
        description="next item per view, joint, item alignment, next item across views; direct: next item of a user "
        "without the history",
    )
    stages: tuple[tuple[TaskWord, ...], ...] = Field(
        (), description="several training stages in order; empty: one stage with `tasks`"
    )
    align_pairs: Literal["own", "shuffled"] = Field(
        "own", description="shuffled: a control, every item is aligned with the ID of a random other"
    )
    user_tokens: bool = Field(False, description="a token of the user's own before every history")
    whole_word: bool = Field(False, description="tokens of the j-th item of a source share an embedding of j (P5)")
    visual_tokens: int = Field(0, ge=0, description="tokens made of an item's picture behind its own in a history")
    adapters: int = Field(0, ge=0, description="T5's width over that of the adapters behind its sublayers; 0: none")
    frozen: bool = Field(
        False, description="with `pretrained`, train only adapters, norms, tokens and marks; without it, all weights"
    )
    prompt_tokens: int = Field(
        4, ge=0, description="learned tokens before the tasks joint, align and cross (lineage.md row 31)"
    )
    epochs: int = Field(200, ge=0)
    steps: int | None = Field(None, ge=1, description="steps instead of epochs, of each stage; all are made")
    keep: Literal["best", "last"] = Field(
        "best", description="weights that a stage ends with: of its lowest validation loss, or of its last step"
    )
    batch: int = Field(256, ge=1)
    micro_batch: int | None = Field(
        None, ge=1, description="examples that are on the device at once; a batch is made of several; null: all"
    )
    lr: float = Field(1e-3, gt=0)
    position_lr: float = Field(
        1.0, gt=0, description="learning rate of the relative position biases, as a multiple of lr"
    )
    weight_decay: float = Field(0.01, ge=0)
    warmup: float = Field(0.01, ge=0, le=1, description="share of steps")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="learning rate after the warm-up; MGR: linear"
    )
    clip: float = Field(1.0, gt=0, description="gradient norm")
    dropout: float = Field(0.1, ge=0, lt=1)
    softmax: Literal["vocabulary", "legal"] = Field(
        "vocabulary", description="what a target token competes with: every token, or those that may follow its prefix"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 on a GPU, fp32 elsewhere")
    patience: int = Field(
        10, ge=1, description="epochs without gain on validation loss before stopping; not with steps"
    )

    @model_validator(mode="after")
    def _direct_knows_the_user(self) -> "GeneratorParams":
        if "direct" in self.words and not self.user_tokens:
            raise ValueError("generator.tasks: direct is asked with the user alone; set generator.user_tokens=true")
        return self

    @property
    def words(self) -> frozenset[str]:
        """Return the task words of all stages."""
        return frozenset(word for stage in self.stages or (self.tasks,) for word in stage)


class RankParams(Frozen):
    """Decoding and the lists."""

    beam: int = Field(20, ge=1)
    tree: Literal["joint", "per_modality", "free"] = Field("joint")
    score: Literal["lineage", "ours"] = Field("lineage", description="lineage.md row 40")
    merge: Literal["merged", "merged_lse"] = Field(
        "merged", description="the list of record of methods with several views"
    )
    exact: bool = Field(False, description="score every item instead of beam search")
    batch: int = Field(128, ge=1, description="users decoded at once")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="of the matrices that beam search multiplies; bf16 gives nearly the same lists"
    )


class CounterParams(Frozen):
    """Methods that count and need no training (baselines.md section 6)."""

    kind: Literal["popularity", "markov", "item_knn"] = "markov"
    neighbours: int = Field(100, ge=1, description="item_knn: items that an item of the history speaks for")
    shrink: float = Field(0.0, ge=0, description="item_knn: added to the denominator of the cosine")
