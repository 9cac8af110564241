"""params.yaml is read strictly: every mistake is named with its path and its remedy."""

import copy
import json

import pytest
from helpers.imports import ROOT

from pacl.runtime.config import ConfigError, load_params, project_root, read_yaml
from pacl.runtime.params import OnBenchmark, Profile, Protocol

PARAMS = read_yaml(ROOT / "params.yaml")
# Values that the tests below rely on, whatever params.yaml says.
TRAIN = {"pairs": 20000, "batch_size": 256, "epochs": 8, "warmup_steps": 50}
TRAIN |= {"learning_rate": 5e-4, "betas": [0.9, 0.98]}
WINDOWS = {"window": 128, "window_stride": 64, "background_rule": "probability"}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes mini into params.yaml, with changes to its keys, as {"train.scale": 2.0}; into the working directory."""
    monkeypatch.chdir(tmp_path)

    def write_changed(changes=None, **profiles):
        params = copy.deepcopy({name: PARAMS[name] for name in ("profiles", "mini", "miniclip")})
        params["mini"]["train"] |= TRAIN
        params["mini"]["protocols"]["tcl"] |= WINDOWS
        for path, value in (changes or {}).items():
            *parents, key = path.split(".")
            section = params["mini"]
            for parent in parents:
                section = section[parent]
            section[key] = value
        (tmp_path / "params.yaml").write_text(json.dumps(params | profiles))  # which is YAML, too

    (tmp_path / "data/miniclip").mkdir(parents=True)
    weights = {"model_cfg": {"vision_cfg": {"patch_size": 8}}}
    (tmp_path / "data/miniclip/open_clip_config.json").write_text(json.dumps(weights))
    return write_changed


def refused(*sections, profile="mini") -> str:
    """What load_params says of a mistake."""
    with pytest.raises(ConfigError) as error:
        load_params(profile, *sections)
    return str(error.value)


CLIPS = [name for name, value in PARAMS.items() if isinstance(value, dict) and "pretrain" in value]
PROFILES = [name for name, value in PARAMS.items() if isinstance(value, dict) and name not in CLIPS]


@pytest.mark.parametrize("profile", CLIPS)
def test_the_pretraining_of_every_clip_is_valid(profile):
    assert load_params(profile, "pretrain").pretrain.model_dump() == PARAMS[profile]["pretrain"]


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_is_valid_and_has_every_section(profile):
    params = load_params(profile, *Profile.model_fields)
    assert vars(params).keys() == PARAMS[profile].keys() and set(PARAMS["profiles"]) <= PARAMS.keys() - {"profiles"}


def test_values_arrive_as_numbers_and_cannot_be_changed(write):
    write()
    train = load_params("mini", "train").train
    assert train.learning_rate == pytest.approx(5e-4)
    assert train.betas == (0.9, 0.98)
    with pytest.raises(ValueError, match="frozen"):
        train.scale = 1.0


def test_found_from_a_folder_below(tmp_path, write, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert "run this inside the project's folder" in refused("train")
    write()
    assert load_params("mini", "features").features.batch_size == PARAMS["mini"]["features"]["batch_size"]
    assert project_root() == tmp_path


MUST = [  # one for each kind of limit
    ("train.pooling", "mean", "be 'all_pairs' or 'matched_only'."),
    ("train.scale", 0.0, "be greater than 0."),
    ("train.scale", None, "be a valid number."),
    ("train.noun_share", 1.5, "be less than or equal to 1."),
    ("train.epochs", 2.5, "be a valid integer."),
    ("train.mask_same_text", 1, "be a valid boolean."),
    ("train.betas", 0.9, "be a valid tuple."),
    ("train.betas.1", 1.0, "be less than 1."),
    ("train.batch_size", 1, "be greater than or equal to 2."),
    ("train.max_logit_scale", 10.0, "be greater than or equal to 15."),
    ("features", 3, "be a section: there are batch_size, "),
    ("ablations.strides", [], "have at least 1 item"),
    ("prepare.train_pairs", 19999, "be at least 20000, mini.train.pairs."),
    ("protocols.native.token_stride", 3, "be one of 1, 2, 4, 8, which divide the patches of 8 pixels."),
    ("protocols.mine", 3, "be a section: there are short_side, long_side, resize,"),
]
MUST = [(path, value, f"mini.{path} is {value!r}, but must {words}") for path, value, words in MUST]
WRONG = [
    ("train.pairs", 10, "train: pairs (10) must be at least batch_size (256)."),
    ("train.warmup_steps", 624, "train: warmup_steps (624) must be below all of its 624 steps."),
    ("train.eps", "1.5", "train.eps is the text '1.5': write 1.5, without quotes."),
    ("train.accumulate", 300, "train: accumulate (300) must be at most batch_size (256)."),
    ("train.scal", 1.0, "train.scal is not a parameter: did you mean scale."),
    ("prepare.source", "flickr8k", "prepare: raw must name the folder that holds flickr8k."),
    ("protocols.tcl.window", None, "protocols.tcl: window and window_stride must both be numbers or both null."),
    ("protocols.tcl.window_stride", 200, "protocols.tcl: window_stride (200) must be at most window (128)."),
    ("protocols.tcl.background_threshold", 2.0, "protocols.tcl: background_threshold (2.0) must be at most 1"),
    ("protocols.tcl.stride", 4, "protocols.tcl.stride is not a parameter: did you mean"),
    ("protocols.mine", {"short_sides": 3}, "protocols.mine.short_sides is not a parameter: did you mean short_side."),
    ("protocols.mine", {"per_benchmark": 3}, "protocols.mine.per_benchmark is 3, but must be a valid dictionary."),
    ("ablations.strides", [8, 5], "ablations.strides.1 is 5, but must be one of 1, 2, 4, 8"),
    ("ablations.base", {"scal": 1.0}, "ablations.points.default.scal is not a parameter: did you mean scale."),
    ("segmentation.protocols", ["native", "nativ"], "segmentation.protocols names 'nativ', but mini.protocols doesn't"),
    ("segmentation.methods", ["clip"], "segmentation: methods must name pacl because clip and pacl are compared."),
    ("segmentation.methods", [], "segmentation: methods must name clip and pacl because clip and pacl are compared."),
]
PER_BENCHMARK = [
    ({"background_threshold": 5.0}, ": per_benchmark.voc21.background_threshold (5.0) must be at most 1 with rule"),
    ({"logit_scales": 65.0}, ".per_benchmark.voc21.logit_scales is not a parameter: did you mean logit_scale."),
    (65.0, ".per_benchmark.voc21 is 65.0, but must be a section: there are short_side, logit_scale,"),
]
WRONG += [("protocols.tcl.per_benchmark", {"voc21": value}, f"protocols.tcl{words}") for value, words in PER_BENCHMARK]
POINTS = [
    ({"scal": 3.0}, ".scal is not a parameter: did you mean scale."),
    ({"scale": -3.0}, ".scale is -3.0, but must be greater than 0."),
    ({"pairs": 10}, ": pairs (10) must be at least batch_size ("),
    ({"seed": 3}, ".seed can't be a point's own: write it into mini.ablations.seeds."),
    ({"tokens": "last"}, ".tokens is 'last', but must be 'after_norm'"),
]
WRONG += [("ablations.points", {"mine": point}, f"ablations.points.mine{words}") for point, words in POINTS]
WRONG = MUST + [(path, value, f"mini.{words}") for path, value, words in WRONG]


@pytest.mark.parametrize(("path", "value", "expected"), WRONG)
def test_a_wrong_value_is_named(write, path, value, expected):
    base = {"train.betas": [0.9, value]} if path == "train.betas.1" else {path: value}
    write(base)
    assert expected in refused(*Profile.model_fields)


def test_values_may_lie_on_their_limits(write):
    """A step an epoch, all but one of them to warm up; parts of one pair; windows that only touch; a threshold of 1."""
    limits = {"pairs": 256, "warmup_steps": 7, "accumulate": 256, "noun_share": 1.0, "weight_decay": 0.0}
    limits["betas"] = [0.0, 0.9]
    own = {f"protocols.tcl.{key}": value for key, value in (("window_stride", 128), ("background_threshold", 1.0))}
    write({f"train.{key}": value for key, value in limits.items()} | own)
    params = load_params("mini", "train", "protocols")
    assert (params.train.accumulate, params.protocols.tcl.window_stride) == (256, 128)


def test_a_protocol_that_says_nothing_is_the_papers():
    """One pass of the whole image at CLIP's own logit scale, seven templates, no background."""
    said = {"resize": "antialiased", "passes": "joint", "positions": "exact", "templates": "seven"}
    said |= {"logit_scale": 100.0, "background_rule": "none", "background_threshold": 0.0, "per_benchmark": {}}
    assert Protocol().model_dump(exclude_none=True) == said
    one = Protocol(short_side=448, per_benchmark={"city": OnBenchmark(short_side=560)})
    assert (one.on("city").short_side, one.on("city").logit_scale, one.on("voc21").short_side) == (560, 100.0, 448)


NAMES = [
    ("templates", "sevn", "mini.protocols.sclip.templates names 'sevn', but must name one of plain, one, seven, tcl, "),
    ("phrases", "sclp", "mini.protocols.sclip.phrases names 'sclp', but must name one of sclip."),
    ("per_benchmark", {"vco21": {}}, "mini.protocols.sclip.per_benchmark names 'vco21', but must name one of ade20k, "),
]


@pytest.mark.parametrize(("key", "value", "expected"), NAMES)
def test_what_a_protocol_names_must_be_there(write, tmp_path, key, value, expected):
    link_data(tmp_path)
    write({f"protocols.sclip.{key}": value})
    assert expected in refused("protocols") and "\n" not in refused("protocols")


def test_a_protocol_may_name_a_benchmark_of_ones_own(write, tmp_path):
    link_data(tmp_path)
    own = {"beach": {"logit_scale": 50.0}, "cityscapes": {"short_side": 560}}
    write({"prepare.benchmarks": ["beach", "voc20"], "protocols.sclip.per_benchmark": own})
    assert load_params("mini", "protocols").protocols.sclip.on("beach").logit_scale == 50


@pytest.mark.parametrize("loaded", ["prepare", "the section"])
@pytest.mark.parametrize(
    ("section", "key", "value", "prepared"),
    [
        ("segmentation", "benchmarks", ["voc20", "beach"], "benchmarks"),
        ("patch_alignment", "benchmark", "beach", "benchmarks"),
        ("classification", "sets", ["clean", "beach"], "classification_sets"),
    ],
)
def test_what_is_measured_must_be_prepared(write, loaded, section, key, value, prepared):
    """Said by the first stage and not by the one that would need it after the training."""
    write({f"{section}.{key}": value})
    expected = f"mini.{section}.{key} names 'beach', but mini.prepare.{prepared} doesn't: add it there, or name one of "
    assert refused("prepare" if loaded == "prepare" else section).startswith(expected)
    load_params("mini", "train")  # it isn't concerned


def link_data(folder):
    """The project's templates and class lists, in the folder of a test."""
    for name in ("templates.yaml", "classes"):
        (folder / "data" / name).symlink_to(ROOT / "data" / name)


def test_the_first_stage_tells_of_unknown_protocols_and_of_benchmarks_in_protocols(write, tmp_path):
    link_data(tmp_path)
    write(changes={"segmentation.protocols": ["maskrcnn"], "protocols.native.per_benchmark": {"voc22": {}}})
    with pytest.raises(ConfigError) as error:
        load_params("mini", "prepare")
    named = {line.split(" ")[0] for line in str(error.value).splitlines()}
    assert named == {"mini.segmentation.protocols", "mini.protocols.native.per_benchmark"}


def test_every_mistake_has_its_own_line_and_one_elsewhere_does_not_matter(write):
    write({"train.scale": -1.0, "train.seed": -1})
    with pytest.raises(ConfigError, match=r"^mini.train.scale .*\nmini.train.seed .*$"):
        load_params("mini", "train")
    assert load_params("mini", "features").features.templates


def test_missing_and_unknown_names(write):
    write(mini={"features": {"batch_size": 4}})
    assert refused("train") == "mini.train is missing."
    assert refused("features").splitlines()[0] == "mini.features.templates is missing."
    assert refused("train", profile="maxi").startswith("'maxi' is not a profile of params.yaml; it has mini, ")
    assert refused("training").startswith("'training' is not a section of a profile; the sections are prepare, ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mini:\n  train:\n    scale: 1.0\n    scale: 2.0\n", ', line 4 is not YAML: found duplicate key "scale"; cor'),
        ("mini: {}\nprofiles: []\nmini: {}\n", ', line 3 is not YAML: found duplicate key "mini"; correct it.'),
        ("mini:\n  train: [1\n", "params.yaml, line 3 is not YAML"),
        ("mini: {seed: 2024-13-45}\n", "params.yaml is not YAML: month must be in 1..12; correct it."),
        ("- mini\n", "params.yaml must hold one section per profile."),
    ],
)
def test_a_repeated_key_and_other_yaml_are_refused(tmp_path, monkeypatch, text, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(text)
    assert expected in refused("train") and "\n" not in refused("train")


def test_numbers_are_those_that_dvc_writes_and_a_merged_key_may_be_changed(tmp_path):
    """YAML 1.2's; what is quoted, or is no number there either, stays text."""
    (tmp_path / "a.yaml").write_text("all: [5e-05, 1e3, 3, '5e-05', e5, yes]\nb: &b {x: 1}\nc: {<<: *b, x: 3}\n")
    assert repr(read_yaml(tmp_path / "a.yaml")) == (
        "{'all': [5e-05, 1000.0, 3, '5e-05', 'e5', 'yes'], 'b': {'x': 1}, 'c': {'x': 3}}"
    )


CORRUPT = ("{", "{}", "[]")


@pytest.mark.parametrize(
    ("backbone", "weights", "allowed"),
    [
        ("ViT-L-14-336", None, [1, 2, 7, 14]),
        ("ViT-B-32", '{"model_cfg": {"vision_cfg": {"patch_size": 6}}}', [1, 2, 3, 6]),
        *(("ViT-B-32-quickgelu", corrupt, [1, 2, 4, 8, 16, 32]) for corrupt in (None, *CORRUPT)),
    ],
)
def test_strides_divide_the_patch_of_the_weights_or_of_the_models_name(write, tmp_path, backbone, weights, allowed):
    (tmp_path / "weights").mkdir()
    if weights:
        (tmp_path / "weights/open_clip_config.json").write_text(weights)
    model = {"model.backbone": backbone, "model.pretrained": "weights"}
    right = {"native": {"token_stride": allowed[1]}, "sclip": {}, "tcl": {}}
    write(model | {"ablations.strides": allowed, "protocols": right})
    load_params("mini", "ablations", "protocols")
    for stride in (5, 2 * allowed[-1]):
        wrong = {name: {"token_stride": stride} for name in ("native", "sclip", "tcl")}
        write(model | {"ablations.strides": [stride], "protocols": wrong})
        said = refused("ablations", "protocols")
        assert said.count("token_stride is") == 3 and said.count("strides.0 is") == 1
        assert said.count(f"must be one of {', '.join(map(str, allowed))}, which divide") == 4


LARGER = {"image_size": 84, "epochs": 2, "whole_epochs": 1, "learning_rate": 0.001}
PRETRAIN = [
    ({"scenes": None}, "scenes must be given because the source is miniworld"),
    ({"source": "tiny_imagenet"}, "raw must be given because the source is tiny_imagenet"),
    ({"source": "tiny_imagenet", "raw": "x"}, "templates must name at least one list"),
    ({"patch_size": 7}, "patch_size (7) must divide image_size (64): one of 1, 2, 4, 8, 16, 32, 64."),
    ({"head_width": 33}, "head_width (33) must divide width (128): one of 1, 2, 4,"),
    ({"larger": LARGER}, "patch_size (8) must divide larger.image_size (84): one of 1, 2, 3, 4, 6, 7, 12,"),
    ({"larger": LARGER | {"epoch": 2}}, "larger.epoch is not a parameter: did you mean epochs"),
    ({"text_width": 100}, "head_width (32) must divide text_width (100): one of 1, 2, 4, 5, 10, 20, 25, 50, 100."),
]


@pytest.mark.parametrize(("changes", "expected"), PRETRAIN)
def test_a_pretraining_has_what_its_source_needs_and_sizes_that_divide(write, changes, expected):
    write(miniclip={"pretrain": PARAMS["miniclip"]["pretrain"] | changes})
    assert expected in refused("pretrain", profile="miniclip")
