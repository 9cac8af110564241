"""Reads params.yaml, the one place where a run is configured (paper, section 4 and appendix: its hyper-parameters).

A profile (`mini:`) has one section per model class below. To add a section: write its class, name it in `Profile`.
"""

import difflib
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=0)]
BatchSize = Annotated[int, Field(ge=2)]  # a contrastive batch of one pair has no negatives
Betas = Annotated[tuple[Momentum, Momentum], Field(strict=False)]  # YAML has lists only


class ConfigError(ValueError):
    """params.yaml, or what was asked of it, is wrong; the message has one sentence per error."""


class Section(BaseModel):
    """Unknown keys, texts for numbers and later assignments are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Prepare(Section):
    source: Literal["miniworld", "flickr8k", "webdataset"]
    raw: str | None
    seed: Count
    train_pairs: PositiveInt
    validation_scenes: PositiveInt
    test_scenes: PositiveInt
    classification_images: PositiveInt

    @model_validator(mode="after")
    def downloaded_sources_have_a_folder(self):
        if self.source != "miniworld" and self.raw is None:
            raise ValueError(f"raw must name the folder that holds {self.source}")
        return self


class Model(Section):
    backbone: str
    pretrained: str
    tokens: Literal["after_norm", "before_norm"]
    dtype: Literal["float32", "bfloat16"]


class Features(Section):
    batch_size: PositiveInt
    templates: str


class Train(Section):
    embedder: Literal["residual", "mlp", "linear"]
    scoring: Literal["cosine", "dot"]
    scale: Positive
    pooling: Literal["all_pairs", "matched_only"]
    pairs: PositiveInt
    noun_share: Fraction
    mask_same_text: bool
    batch_size: BatchSize
    epochs: PositiveInt
    learning_rate: Positive
    betas: Betas
    eps: Positive
    weight_decay: NonNegative
    warmup_steps: Count
    max_logit_scale: Annotated[float, Field(ge=1, allow_inf_nan=False)]
    seed: Count

    @model_validator(mode="after")
    def steps_add_up(self):
        if self.pairs < self.batch_size:
            raise ValueError(f"pairs ({self.pairs}) must be at least batch_size ({self.batch_size})")
        steps = self.epochs * (self.pairs // self.batch_size)
        if self.warmup_steps >= steps:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) must be below all of its {steps} steps")
        return self


class Protocol(Section):
    """How an image is segmented; the defaults are the paper's, but for token_stride.

    short_side: pixels the image's short side is resized to, None for as it is. window, window_stride: pixels of the
    sliding window and from one to the next, None for the whole image at once. token_stride: pixels between patch
    tokens, None for CLIP's patch size. templates: a list of data/templates.yaml. logit_scale, background_rule and
    background_threshold: see pacl.segment.predict; the rule applies where a benchmark has a background class.
    """

    short_side: PositiveInt | None = None
    window: PositiveInt | None = None
    window_stride: PositiveInt | None = None
    token_stride: PositiveInt | None = None
    templates: str = "seven"
    logit_scale: Positive = 100.0
    background_rule: Literal["none", "entropy", "probability"] = "none"
    background_threshold: NonNegative = 0.0

    @model_validator(mode="after")
    def windows_cover_the_image(self):
        if (self.window is None) != (self.window_stride is None):
            raise ValueError("window and window_stride must both be numbers or both null")
        if self.window is not None and self.window_stride > self.window:
            raise ValueError(f"window_stride ({self.window_stride}) must be at most window ({self.window})")
        if self.background_rule == "probability" and self.background_threshold > 1:
            raise ValueError(f"background_threshold ({self.background_threshold}) must be at most 1 with background_rule: probability")
        return self


class Protocols(Section):
    native: Protocol
    sclip: Protocol
    tcl: Protocol


class PatchAlignment(Section):
    benchmark: str
    batch_size: PositiveInt
    templates: str
    pairs: PositiveInt
    seed: Count


class Segmentation(Section):
    benchmarks: list[str]
    protocols: list[Literal["native", "sclip", "tcl"]]
    batch_size: PositiveInt
    shown: PositiveInt


class Classification(Section):
    sets: list[str]
    templates: str
    batch_size: PositiveInt
    weights: list[Fraction]


class Ablations(Section):
    """base: the train parameters that all points change, to be quick; points: name -> those it changes beside."""

    base: dict
    seeds: list[Count]
    strides: list[PositiveInt]
    stride_scenes: PositiveInt
    points: dict[str, dict]


class Pretrain(Section):
    """The mini world's CLIP; sizes as open_clip names them."""

    world_seed: Count
    scenes: PositiveInt
    image_size: PositiveInt
    patch_size: PositiveInt
    width: PositiveInt
    layers: PositiveInt
    head_width: PositiveInt
    embed_dim: PositiveInt
    context_length: PositiveInt
    text_width: PositiveInt
    text_layers: PositiveInt
    batch_size: BatchSize
    epochs: PositiveInt
    learning_rate: Positive
    weight_decay: NonNegative
    seed: Count

    @model_validator(mode="after")
    def sizes_divide(self):
        if self.image_size % self.patch_size or self.width % self.head_width or self.text_width % self.head_width:
            raise ValueError("patch_size must divide image_size, and head_width must divide width and text_width")
        return self


class Profile(Section):
    """The sections of a profile, in params.yaml's order."""

    prepare: Prepare
    model: Model
    features: Features
    train: Train
    protocols: Protocols
    patch_alignment: PatchAlignment
    segmentation: Segmentation
    classification: Classification
    ablations: Ablations


SECTIONS = {name: field.annotation for name, field in Profile.model_fields.items()} | {"pretrain": Pretrain}  # the last is `miniclip:`'s


def load_params(profile: str, *sections: str, path: str | Path = "params.yaml") -> SimpleNamespace:
    """The asked-for sections of a profile: load_params("mini", "train").train.learning_rate.

    path: looked for in the working directory, then in its parents. Only these sections are validated, so a mistake
    elsewhere doesn't stop this stage. Raises ConfigError (a ValueError), one sentence per error.
    """
    table = read_yaml(find_file(path))
    profiles = [name for name, value in table.items() if isinstance(value, dict)]
    if profile not in profiles:
        raise ConfigError(f"{profile!r} is no profile of {Path(path).name}; it has {', '.join(map(str, profiles))}.")
    values = table[profile] if isinstance(table[profile], dict) else {}
    return SimpleNamespace(**{name: read_section(profile, name, values) for name in sections})


def project_root(path: str | Path = "params.yaml") -> Path:
    """The folder that holds params.yaml: the working directory or the nearest parent. Raises ConfigError."""
    return find_file(path).parent


def find_file(path: str | Path) -> Path:
    """`path` in the working directory or its nearest parent that has it. Raises ConfigError."""
    here = Path.cwd()
    found = next((folder / path for folder in (here, *here.parents) if (folder / path).is_file()), None)
    if found is None:
        raise ConfigError(f"{path} is neither in {here} nor above it: run this inside the project's folder.")
    return found


def read_yaml(path: Path) -> dict:
    """The mapping a YAML file holds. Raises ConfigError."""
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path.name}{where} is not YAML: {getattr(error, 'problem', error)}.") from None
    if not isinstance(table, dict):
        raise ConfigError(f"{path.name} must hold one section per profile.")
    return table


def read_section(profile: str, name: str, values: dict) -> Section:
    """One validated section. Raises ConfigError."""
    if name not in SECTIONS:
        raise ConfigError(f"{name!r} is no section of a profile; the sections are {', '.join(SECTIONS)}.")
    if name not in values:
        raise ConfigError(f"{profile}.{name} is missing.")
    kind = SECTIONS[name]
    try:
        return kind.model_validate(values[name])
    except ValidationError as error:
        raise ConfigError("\n".join(sentence(f"{profile}.{name}", kind, e) for e in error.errors())) from None


def sentence(section: str, kind: type[Section], error: dict) -> str:
    """One of pydantic's errors as a sentence with the value's full path and what is allowed there."""
    path, value, context = ".".join([section, *map(str, error["loc"])]), error["input"], error.get("ctx", {})
    match error["type"]:
        case "missing":
            return f"{path} is missing."
        case "value_error":
            return f"{path}: {context['error']}."
        case "extra_forbidden":
            return f"{path} is no parameter: {known_keys(kind, error['loc'])}."
        case "model_type" | "model_attributes_type":
            return f"{path} is {value!r}, but must be a section: {known_keys(kind, (*error['loc'], ''))}."
    if isinstance(value, str) and (number := as_yaml_number(value)):
        return f"{path} is the text {value!r}: write {number}, without quotes."
    return f"{path} is {value!r}, but must be {allowed(error)}."


def allowed(error: dict) -> str:
    """What a value must be, in words."""
    context = error.get("ctx", {})
    words = {
        "literal_error": f"one of {context.get('expected')}",
        "greater_than": f"above {context.get('gt')}",
        "greater_than_equal": f"at least {context.get('ge')}",
        "less_than": f"below {context.get('lt')}",
        "less_than_equal": f"at most {context.get('le')}",
        "bool_type": "true or false",
        "int_type": "a whole number",
        "float_type": "a number",
        "finite_number": "a finite number",
        "string_type": "text",
        "tuple_type": "a list",
    }
    return words.get(error["type"], error["msg"].removeprefix("Input should be "))


def known_keys(kind: type[Section], loc: tuple) -> str:
    """The keys of the (nested) section in which loc's last key was found, the likeliest first named."""
    for key in loc[:-1]:
        kind = kind.model_fields[key].annotation
    near = difflib.get_close_matches(str(loc[-1]), kind.model_fields, n=1)
    return f"did you mean {near[0]}" if near else f"there are {', '.join(kind.model_fields)}"


def as_yaml_number(text: str) -> str | None:
    """The spelling YAML 1.1 reads as a number (5e-4 -> 5.0e-4), None for a text that is none."""
    try:
        float(text)
    except ValueError:
        return None
    mantissa, _, exponent = text.strip().lower().partition("e")
    if not exponent:
        return mantissa
    point = mantissa if "." in mantissa else f"{mantissa}.0"
    return f"{point}e{exponent if exponent[0] in '+-' else '+' + exponent}"
