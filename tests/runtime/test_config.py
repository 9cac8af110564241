"""params.yaml is read strictly: every mistake is named with its path and its remedy."""

import json
from pathlib import Path

import pytest
import yaml
from ruamel.yaml import YAML  # DVC's

from pacl.runtime.config import ConfigError, load_params, project_root, read_yaml
from pacl.runtime.params import OnBenchmark, Profile, Protocol

PARAMS = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())
# Values that the tests below rely on, whatever params.yaml says.
TRAIN = {"pairs": 20000, "batch_size": 256, "epochs": 8, "warmup_steps": 50}
TRAIN |= {"learning_rate": 5e-4, "betas": [0.9, 0.98]}
WINDOWS = {"window": 128, "window_stride": 64, "background_rule": "probability"}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes mini into params.yaml, with changes to its keys, as {"train.scale": 2.0}; into the working directory."""
    monkeypatch.chdir(tmp_path)

    def write_changed(**changes):
        params = json.loads(json.dumps({name: PARAMS[name] for name in ("profiles", "mini", "miniclip")}))
        params["mini"]["train"] |= TRAIN
        params["mini"]["protocols"]["tcl"] |= WINDOWS
        for path, value in changes.pop("changes", {}).items():
            *parents, key = path.split(".")
            section = params["mini"]
            for parent in parents:
                section = section[parent]
            section[key] = value
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(params | changes))

    (tmp_path / "data/miniclip").mkdir(parents=True)
    weights = {"model_cfg": {"vision_cfg": {"patch_size": 8}}}
    (tmp_path / "data/miniclip/open_clip_config.json").write_text(json.dumps(weights))
    return write_changed


CLIPS = [name for name, value in PARAMS.items() if isinstance(value, dict) and "pretrain" in value]
PROFILES = [name for name, value in PARAMS.items() if isinstance(value, dict) and name not in CLIPS]


@pytest.mark.parametrize("profile", CLIPS)
def test_the_pretraining_of_every_clip_is_valid(profile):
    assert load_params(profile, "pretrain").pretrain.model_dump() == PARAMS[profile]["pretrain"]


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_is_valid_and_has_every_section(profile):
    params = load_params(profile, *Profile.model_fields)
    assert vars(params).keys() == PARAMS[profile].keys()


def test_what_runs_is_a_list_of_profiles():
    assert set(PARAMS["profiles"]) <= PARAMS.keys() - {"profiles"}


def test_values_arrive_as_numbers_and_cannot_be_changed(write):
    write()
    train = load_params("mini", "train").train
    assert train.learning_rate == pytest.approx(5e-4)
    assert train.betas == (0.9, 0.98)
    with pytest.raises(ValueError, match="frozen"):
        train.scale = 1.0


def test_found_from_a_folder_below(tmp_path, write, monkeypatch):
    write()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert load_params("mini", "features").features.batch_size == PARAMS["mini"]["features"]["batch_size"]
    assert project_root() == tmp_path


def test_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="run this inside the project's folder"):
        load_params("mini", "train")


MUST_BE = [  # one for each kind of limit
    ("train.pooling", "mean", "one of 'all_pairs' or 'matched_only'."),
    ("train.scale", 0.0, "above 0."),
    ("train.scale", None, "a number."),
    ("train.noun_share", 1.5, "at most 1."),
    ("train.weight_decay", -0.5, "at least 0."),
    ("train.epochs", 2.5, "a whole number."),
    ("train.mask_same_text", 1, "true or false."),
    ("train.betas", 0.9, "a list."),
    ("train.batch_size", 1, "at least 2."),
    ("train.max_logit_scale", 10.0, "at least 15."),
    ("features", 3, "a section: there are batch_size, "),
    ("ablations.strides", [], "a list of at least 1."),
    ("prepare.train_pairs", 19999, "at least 20000, mini.train.pairs."),
    ("protocols.native.token_stride", 3, "one of 1, 2, 4, 8, which divide the patches of 8 pixels."),
    ("protocols.mine", 3, "a section: there are short_side, long_side, resize,"),
]
MUST_BE = [(path, value, f"mini.{path} is {value!r}, but must be {words}") for path, value, words in MUST_BE]
WRONG = [
    ("train.betas", [0.9, 1.0], "train.betas.1 is 1.0, but must be below 1."),
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
    ("protocols.mine", {"per_benchmark": 3}, "protocols.mine.per_benchmark is 3, but must be a section."),
    ("ablations.strides", [8, 5], "ablations.strides.1 is 5, but must be one of 1, 2, 4, 8"),
    ("ablations.base", {"scal": 1.0}, "ablations.points.default.scal is not a parameter: did you mean scale."),
    ("segmentation.protocols", ["native", "nativ"], "segmentation.protocols.1 is 'nativ', but must be one of"),
    ("segmentation.methods", ["clip"], "segmentation: methods must name pacl because clip and pacl are compared."),
    ("segmentation.methods", [], "segmentation: methods must name clip and pacl because clip and pacl are compared."),
]
PER_BENCHMARK = [
    ({"background_threshold": 5.0}, ": per_benchmark.voc21.background_threshold (5.0) must be at most 1 with rule"),
    ({"logit_scales": 65.0}, ".per_benchmark.voc21.logit_scales is not a parameter: did you mean logit_scale."),
    (65.0, ".per_benchmark.voc21 is 65.0, but must be a section: there are short_side, logit_scale,"),
]
WRONG += [("protocols.tcl.per_benchmark", {"voc21": value}, f"protocols.tcl{words}") for value, words in PER_BENCHMARK]
WRONG = MUST_BE + [(path, value, f"mini.{words}") for path, value, words in WRONG]


@pytest.mark.parametrize(("path", "value", "expected"), WRONG)
def test_a_wrong_value_is_named(write, path, value, expected):
    write(changes={path: value})
    with pytest.raises(ConfigError) as error:
        load_params("mini", *Profile.model_fields)
    assert expected in str(error.value)


def test_values_may_lie_on_their_limits(write):
    """A step an epoch, all but one of them to warm up; parts of one pair; windows that only touch; a threshold of 1."""
    limits = {
        "pairs": 256,
        "warmup_steps": 7,
        "accumulate": 256,
        "noun_share": 1.0,
        "weight_decay": 0.0,
        "betas": [0.0, 0.9],
    }
    own = {f"protocols.tcl.{key}": value for key, value in (("window_stride", 128), ("background_threshold", 1.0))}
    write(changes={f"train.{key}": value for key, value in limits.items()} | own)
    params = load_params("mini", "train", "protocols")
    assert (params.train.accumulate, params.protocols.tcl.window_stride) == (256, 128)


def test_a_protocol_that_says_nothing_is_the_papers():
    """One pass of the whole image at CLIP's own logit scale, seven templates, no background."""
    assert Protocol().model_dump(exclude_none=True) == {
        "resize": "antialiased",
        "passes": "joint",
        "positions": "exact",
        "templates": "seven",
        "logit_scale": 100.0,
        "background_rule": "none",
        "background_threshold": 0.0,
        "per_benchmark": {},
    }
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
    write(changes={f"protocols.sclip.{key}": value})
    with pytest.raises(ConfigError) as error:
        load_params("mini", "protocols")
    assert expected in str(error.value) and len(str(error.value).splitlines()) == 1


def test_a_protocol_may_name_a_benchmark_of_ones_own(write, tmp_path):
    link_data(tmp_path)
    own = {"beach": {"logit_scale": 50.0}, "cityscapes": {"short_side": 560}}
    write(changes={"prepare.benchmarks": ["beach", "voc20"], "protocols.sclip.per_benchmark": own})
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
    write(changes={f"{section}.{key}": value})
    with pytest.raises(ConfigError) as error:
        load_params("mini", "prepare" if loaded == "prepare" else section)
    expected = f"mini.{section}.{key} names 'beach', but mini.prepare.{prepared} doesn't: add it there, or name one of "
    assert str(error.value).startswith(expected) and len(str(error.value).splitlines()) == 1
    load_params("mini", "train")  # it isn't concerned


def link_data(folder):
    """The project's templates and class lists, in the folder of a test."""
    for name in ("templates.yaml", "classes"):
        (folder / "data" / name).symlink_to(Path(__file__).parents[2] / "data" / name)


def test_the_first_stage_tells_of_unknown_protocols_and_of_benchmarks_in_protocols(write, tmp_path):
    link_data(tmp_path)
    write(changes={"segmentation.protocols": ["maskrcnn"], "protocols.native.per_benchmark": {"voc22": {}}})
    with pytest.raises(ConfigError) as error:
        load_params("mini", "prepare")
    assert [line.split(" ")[0] for line in str(error.value).splitlines()] == [
        "mini.protocols.native.per_benchmark",
        "mini.segmentation.protocols.0",
    ]


def test_every_mistake_has_its_own_line_and_one_elsewhere_does_not_matter(write):
    write(changes={"train.scale": -1.0, "train.seed": -1})
    with pytest.raises(ConfigError) as error:
        load_params("mini", "train")
    assert len(str(error.value).splitlines()) == 2
    assert load_params("mini", "features").features.templates


def test_missing_and_unknown_names(write):
    write(mini={"features": {"batch_size": 4}})
    with pytest.raises(ConfigError, match=r"mini\.features\.templates is missing\."):
        load_params("mini", "features")
    with pytest.raises(ConfigError, match=r"mini\.train is missing\."):
        load_params("mini", "train")
    with pytest.raises(ConfigError, match=r"'maxi' is not a profile of params.yaml; it has .*mini"):
        load_params("maxi", "train")
    with pytest.raises(ConfigError, match=r"'training' is not a section of a profile; .*features, train"):
        load_params("mini", "training")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mini:\n  train:\n    scale: 1.0\n    scale: 2.0\n", "line 4 is not YAML: scale is already in line 3: remove"),
        ("mini: {train: {scale: 1.0, scale: 2.0}}\n", "line 1 is not YAML: scale is already in line 1: remove"),
        ("mini:\n  train: [1\n", "params.yaml, line 3 is not YAML"),
        ("mini: {seed: 2024-13-45}\n", "params.yaml is not YAML: month must be in 1..12."),
        ("- mini\n", "params.yaml must hold one section per profile."),
        ("mini: {}\nprofiles: []\nmini: {}\n", "params.yaml, line 3 is not YAML: mini is already in line 1: remove"),
    ],
)
def test_a_repeated_key_and_other_yaml_are_refused(tmp_path, monkeypatch, text, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ConfigError) as error:
        load_params("mini", "train")
    assert expected in str(error.value) and len(str(error.value).splitlines()) == 1


def test_numbers_are_those_that_dvc_reads_and_writes(tmp_path):
    """Its YAML is 1.2's; what is quoted, or is no number there either, stays text."""
    numbers = "5e-05, 1e-06, 5e-4, 1e3, 1.5E+6, -2e-1, 5.e2, 1.0e-6, 3, 0.1"
    (tmp_path / "numbers.yaml").write_text(f"all: [{numbers}, '5e-05', \"1e3\", e5, 5e, 1e-, x1e3, 1e3x, .5e1]")
    ours = read_yaml(tmp_path / "numbers.yaml")["all"]
    assert ours[:10] == [5e-05, 1e-06, 5e-4, 1e3, 1.5e6, -0.2, 500.0, 1e-6, 3, 0.1] and type(ours[3]) is float
    assert ours[10:] == ["5e-05", "1e3", "e5", "5e", "1e-", "x1e3", "1e3x", ".5e1"]
    dvcs = YAML(typ="safe").load(tmp_path / "numbers.yaml")["all"]
    assert ours == dvcs


def test_a_merged_key_may_be_changed(tmp_path):
    text = "a: &a {x: 1, y: 2}\nb: &b\n  <<: *a\n  x: 3\nc:\n  d: {<<: *b, y: 4}\n"
    (tmp_path / "merged.yaml").write_text(text)
    assert read_yaml(tmp_path / "merged.yaml") == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 3, "y": 2},
        "c": {"d": {"x": 3, "y": 4}},
    }


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"scal": 3.0}, "mini.ablations.points.default.scal is not a parameter: did you mean scale."),
        ({"scale": -3.0}, "mini.ablations.points.default.scale is -3.0, but must be above 0."),
        ({"pairs": 10}, "mini.ablations.points.default: pairs (10) must be at least batch_size ("),
        ({"seed": 3}, "points.default.seed can't be a point's own: write it into mini.ablations.seeds."),
        ({"tokens": "last"}, "mini.ablations.points.default.tokens is 'last', but must be one of 'after_norm'"),
    ],
)
def test_an_ablation_point_that_cannot_be_trained_is_named(write, changes, expected):
    write(changes={"ablations.points": {"default": changes}})
    with pytest.raises(ConfigError) as error:
        load_params("mini", "ablations")
    assert expected in str(error.value)


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
    native = {name: {} for name in ("sclip", "tcl")}
    write(
        changes=model | {"ablations.strides": allowed, "protocols": native | {"native": {"token_stride": allowed[1]}}}
    )
    load_params("mini", "ablations", "protocols")
    for stride in (5, 2 * allowed[-1]):
        wrong = {name: {"token_stride": stride} for name in ("native", "sclip", "tcl")}
        write(changes=model | {"ablations.strides": [stride], "protocols": wrong})
        with pytest.raises(ConfigError) as error:
            load_params("mini", "ablations", "protocols")
        assert str(error.value).count("token_stride is") == 3 and str(error.value).count("strides.0 is") == 1
        assert str(error.value).count(f"must be one of {', '.join(map(str, allowed))}, which divide") == 4


def test_a_pretraining_has_what_its_source_needs(write):
    for changed, expected in (
        ({"scenes": None}, "scenes must be given because the source is miniworld"),
        ({"source": "tiny_imagenet"}, "raw must be given because the source is tiny_imagenet"),
        ({"source": "tiny_imagenet", "raw": "x"}, "templates must name at least one list"),
    ):
        write(miniclip={"pretrain": PARAMS["miniclip"]["pretrain"] | changed})
        with pytest.raises(ConfigError, match=expected):
            load_params("miniclip", "pretrain")


def test_sizes_of_the_mini_clip_divide(write):
    for name, value, expected in (
        ("patch_size", 7, "patch_size (7) must divide image_size (64): one of 1, 2, 4, 8, 16, 32, 64."),
        ("head_width", 33, "head_width (33) must divide width (128): one of 1, 2, 4,"),
        ("text_width", 100, "head_width (32) must divide text_width (100): one of 1, 2, 4, 5, 10, 20, 25, 50, 100."),
    ):
        write(miniclip={"pretrain": PARAMS["miniclip"]["pretrain"] | {name: value}})
        with pytest.raises(ConfigError) as error:
            load_params("miniclip", "pretrain")
        assert expected in str(error.value)
