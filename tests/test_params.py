"""Settings refuse nonsense, name the nearest real key, and merge in the stated order."""

import json
from pathlib import Path

import pytest
import yaml

from musicrec_kit import methods, params
from musicrec_kit.params import Refused
from musicrec_kit.plan import VERSIONS


@pytest.mark.parametrize(
    ("assignment", "hint"),
    [
        ("tokenizer.codebok_size=9", "tokenizer.codes"),
        ("tokenizer.shard_levels=1", "tokenizer.shared_levels"),
        ("generater=1", "generator"),
        ("rank.num_beams=5", "rank.beam"),
        ("features.text.encodr=minilm", "features.text.encoder"),
        ("data.demo.user=10", "data.demo.users"),
    ],
)
def test_an_unknown_key_names_itself_and_the_nearest_real_one(assignment: str, hint: str) -> None:
    with pytest.raises(Refused, match="unknown setting") as caught:
        methods.resolve("demo_tiny", "musicrec", "smoke", methods.parse_set([assignment]))
    assert assignment.split("=", maxsplit=1)[0] in str(caught.value)
    assert f"did you mean {hint}?" in str(caught.value)


def test_every_fault_is_told_in_one_message() -> None:
    with pytest.raises(Refused) as caught:
        methods.resolve("demo_tiny", "musicrec", "smoke", {"tokenizer": {"codes": 1, "tau": 0}, "rank": {"beam": 0}})
    for name in ("tokenizer.codes", "tokenizer.tau", "rank.beam"):
        assert name in str(caught.value)


def test_a_view_may_not_have_the_name_of_another_list() -> None:
    made = {"modalities": ["text", "joint"], "features": {"joint": {"file": "x.npy"}}}
    with pytest.raises(Refused, match=r"the view 'joint' .* such as \{fused: \[joint\]\}"):
        params.build(made)
    assert params.build({**made, "ids": {"views": {"text": ["text"], "fused": ["joint"]}}}).views
    assert params.build({**made, "modalities": ["joint"]}).views == {"joint": ("joint",)}


def test_levels_must_add_up() -> None:
    with pytest.raises(Refused, match=r"must equal tokenizer\.levels"):
        methods.resolve("demo_tiny", "musicrec", "smoke", {"tokenizer": {"shared_levels": 3}})


def test_numbers_that_yaml_reads_as_text_are_numbers() -> None:
    assert (
        methods.resolve("demo_tiny", "musicrec", "smoke", methods.parse_set(["tokenizer.lr=1e-3"])).tokenizer.lr == 1e-3
    )


def test_precedence_is_size_dataset_method_run(tmp_path: Path) -> None:
    dataset = tmp_path / "mine.yaml"
    dataset.write_text(
        "source: lcrec\ninteractions: a.json\nfeatures: {text: t.npy, image: i.npy}\ncf: {dim: 8, epochs: 7}\n"
    )
    method = tmp_path / "row.yaml"
    method.write_text("base: musicrec\ncf: {epochs: 9, lr: 0.5}\npaper: {cf: {epochs: 11}}\n")
    small = methods.resolve(str(dataset), str(method), "small", {"cf": {"lr": 0.25}})
    assert (small.cf.dim, small.cf.epochs, small.cf.lr) == (8, 9, 0.25)
    assert small.cf.batch == yaml.safe_load(methods.find("sizes", "small").read_text())["cf"]["batch"]
    assert methods.resolve(str(dataset), str(method), "paper").cf.epochs == 11
    assert small.features["text"].file == "t.npy"


def test_a_list_replaces_and_a_mapping_merges() -> None:
    assert params.merge({"a": [1, 2], "b": {"c": 1}}, {"a": [3], "b": {"d": 2}}) == {"a": [3], "b": {"c": 1, "d": 2}}


def test_same_as_copies_the_features_of_another_modality() -> None:
    settings = methods.resolve("demo_tiny", "text_text", "smoke")
    assert settings.features["text_b"].encoder == settings.features["text"].encoder
    assert settings.features["text_b"].kind == "text"


def test_a_data_set_names_the_encoder_of_a_method_s_own_modality(tmp_path: Path) -> None:
    dataset = tmp_path / "mine.yaml"
    dataset.write_text("source: lcrec\ninteractions: a.json\nfeatures: {text: t.npy, image: i.npy}\n")
    fused = methods.resolve(str(dataset), "mgr_ef", "smoke").features["joint"]
    assert (fused.encoder, fused.of) == ("fusion", ("text", "image"))
    dataset.write_text(dataset.read_text().replace("}", ", joint: j.npy}"))
    given = methods.resolve(str(dataset), "mgr_ef", "smoke").features["joint"]
    assert (given.encoder, given.file) == ("file", "j.npy")


@pytest.mark.parametrize(
    ("features", "why"),
    [
        ({"encoder": "fusion"}, "two or more different modalities"),
        ({"encoder": "fusion", "of": ["text", "text"]}, "two or more different modalities"),
        ({"encoder": "fusion", "of": ["text", "image"], "weights": [1]}, "one weight of 0 or more each"),
        ({"encoder": "fusion", "of": ["text", "image"], "weights": [0, 0]}, "one weight of 0 or more each"),
    ],
)
def test_a_fusion_that_cannot_be_made_is_refused(features: dict, why: str) -> None:
    with pytest.raises(Refused, match=why):
        methods.resolve("demo_tiny", "mgr_ef", "smoke", {"features": {"joint": {"of": [], **features}}})


@pytest.mark.parametrize("kind", ["datasets", "methods", "sizes"])
def test_every_shipped_file_resolves_and_says_where_values_come_from(kind: str) -> None:
    for name in methods.names(kind):
        text = methods.find(kind, name).read_text()
        assert "#" in text, f"{kind}/{name}.yaml has no comment on where its values come from"
        chosen = {"datasets": ("demo_tiny", "musicrec", "smoke")}.get(kind, ("demo_tiny", "musicrec", "smoke"))
        dataset, method, size = chosen
        if kind == "datasets":
            dataset = name
        elif kind == "methods":
            method = name
        else:
            size = name
        methods.resolve(dataset, method, size)  # type: ignore[arg-type]


def test_size_files_never_change_data_or_protocol() -> None:
    for name in methods.names("sizes"):
        assert not {"data", "ids", "family", "modalities", "counter"} & set(
            methods.read_yaml(methods.find("sizes", name))
        )


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(Refused, match="did you mean 'musicrec'"):
        methods.resolve("demo_tiny", "musicrecc", "smoke")


@pytest.mark.parametrize(("text", "why"), [("a: [", "not valid YAML"), ("- 1", "must hold a mapping")])
def test_a_bad_yaml_file_is_refused_by_name(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(Refused, match=why) as caught:
        methods.resolve(str(path), "musicrec", "smoke")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["tokenizer.codes", "=4"])
def test_set_wants_key_and_value(text: str) -> None:
    with pytest.raises(Refused, match="KEY=VALUE"):
        methods.parse_set([text])


def test_keys_page_is_what_the_settings_classes_say() -> None:
    page = Path(__file__).parents[1] / "params" / "KEYS.md"
    assert page.read_text() == params.keys_page(), "params/KEYS.md is stale: make keys"


def test_long_variants_become_a_hash_and_equal_overrides_one_name() -> None:
    overrides = {"generator": {"tasks": ["next", "align"]}, "tokenizer": {"alpha": 0}}
    name = methods.variant_name(overrides)
    assert name == methods.variant_name(dict(reversed(overrides.items())))
    assert len(name) == 11


def test_a_variant_says_whose_setting_it_is_where_several_rooms_have_one() -> None:
    changed = [{"tokenizer": {"epochs": 5}}, {"generator": {"epochs": 5}}, {"cf": {"epochs": 5}}]
    changed += [{"features": {name: {"encoder": "minilm"}}} for name in ("text", "image")]
    changed += [{"main_list": "text"}, {"tokenizer": {"alpha": 0}, "generator": {"lr": 0.1}}]
    assert [methods.variant_name(overrides) for overrides in changed] == [
        "+tokenizer.epochs=5",
        "+generator.epochs=5",
        "+cf.epochs=5",
        "+text.encoder=minilm",
        "+image.encoder=minilm",
        "+main_list=text",
        "+generator.lr=0.1,alpha=0",
    ]


STAGE_OF = {
    "data": params.DataParams,
    "data.demo": params.DemoParams,
    "features": params.FeatureParams,
    "cf": params.CFParams,
    "tokenizer": params.TokenizerParams,
    "ids": params.IdsParams,
    "generator": params.GeneratorParams,
    "recommender": params.SequentialParams,
    "recommender.pretraining": params.PretrainingParams,
    "rank": params.RankParams,
    "rank.counter": params.CounterParams,
}


def test_a_default_changes_only_with_the_version_of_its_stage() -> None:
    """Stage keys leave defaults out, so that a changed default needs a raised version; new fields need nothing."""
    recorded = json.loads((Path(__file__).parent / "recorded_defaults.json").read_text())
    for stage, settings in STAGE_OF.items():
        version, defaults = VERSIONS[stage.split(".")[0]], settings().model_dump(mode="json")
        old = recorded[stage]
        changed = {name for name, value in old["defaults"].items() if defaults.get(name, "gone") != value}
        assert not changed or version > old["version"], (
            f"defaults of {stage} changed: {sorted(changed)}; raise VERSIONS[{stage!r}] in plan.py, "
            "then write the new defaults and version into recorded_defaults.json"
        )
