"""What params.yaml may hold: one pydantic model for each section of a profile (paper, section 4 and appendix).

To add a section, write its class and name it in `Profile`.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

KEPT_SCENES = 300  # test scenes of each image set whose coarse logits are kept for later stages (pacl.evaluation.dense)

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=0)]
BatchSize = Annotated[int, Field(ge=2)]  # a contrastive batch of one pair has no negatives
Betas = Annotated[tuple[Momentum, Momentum], Field(strict=False)]  # YAML has lists, not tuples


class Section(BaseModel):
    """Unknown keys, text in place of numbers, and later assignments are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Prepare(Section):
    """source: the training data; "own" is a table of captions, "none" a profile that only measures. raw: the folder
    of downloaded data. train_pairs: with shards, how many pairs are unpacked for the ablations. validation_scenes: how
    many pairs, and how many scenes of each image set, are held out. benchmarks: from pacl.sources.segmentation_sets,
    or folders in raw. classification_sets: from data/classification/sets.yaml, torchvision, or folders in raw.
    test_scenes, classification_images: the most to take of a split, None for all. max_bad_share: tolerated fraction of
    bad samples in shards. shown: the only photos that the report shows (pacl.sources.shown_photos), where licences
    forbid to show the others; None to show any.
    """

    source: Literal["miniworld", "flickr8k", "flickr30k", "coco", "webdataset", "tiny_imagenet", "own", "none"]
    raw: str | None
    seed: Count
    train_pairs: PositiveInt
    validation_scenes: PositiveInt
    test_scenes: PositiveInt | None
    benchmarks: Annotated[list[str], Field(min_length=1)]
    classification_sets: list[str]
    classification_images: PositiveInt | None
    max_bad_share: Fraction
    shown: Literal["coco_seen"] | None = None

    @model_validator(mode="after")
    def sources_have_what_they_need(self):
        if self.source != "miniworld" and self.raw is None:
            held = {"none": "the benchmarks", "own": "your captions"}.get(self.source, self.source)
            raise ValueError(f"raw must name the folder that holds {held}")
        if self.source == "miniworld" and None in (self.test_scenes, self.classification_images):
            raise ValueError("test_scenes and classification_images must be numbers because the mini world is endless")
        if self.source == "miniworld" and self.shown:
            raise ValueError("shown must be null because anybody may show the mini world")
        return self


class Model(Section):
    backbone: str
    pretrained: str
    tokens: Literal["after_norm", "before_norm", "value"]
    dtype: Literal["float32", "bfloat16"]


class Features(Section):
    """batch_size: images at a time. templates: the list of data/templates.yaml for noun prompts. nouns: the model of
    spaCy that finds a caption's nouns.
    """

    batch_size: PositiveInt
    templates: str
    nouns: str


class Train(Section):
    """pooled: whether phi averages the tokens as they are or at length 1. products: the type of all_pairs' matrix
    products. logit_scale: of the loss, "learned" or a number that stays. accumulate: number of parts of a batch, whose
    activations are held one part at a time; each part is computed twice.
    """

    embedder: Literal["residual", "mlp", "linear"]
    text_embedder: Literal["frozen", "linear"]
    scoring: Literal["cosine", "dot"]
    scale: Positive
    activation: Literal["softmax", "sigmoid"]
    pooling: Literal["all_pairs", "matched_only"]
    pooled: Literal["raw", "unit"]
    products: Literal["float32", "bfloat16"] = "float32"
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
    logit_scale: Literal["learned"] | Annotated[float, Field(ge=1, allow_inf_nan=False)]
    max_logit_scale: Annotated[float, Field(ge=15, allow_inf_nan=False)]  # CLIP's starts at 1 / 0.07
    precision: Literal["float32", "bfloat16"]
    compile: bool
    accumulate: PositiveInt
    seed: Count

    @model_validator(mode="after")
    def steps_add_up(self):
        if self.pairs < self.batch_size:
            raise ValueError(f"pairs ({self.pairs}) must be at least batch_size ({self.batch_size})")
        steps = self.epochs * (self.pairs // self.batch_size)
        if self.warmup_steps >= steps:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) must be below all of its {steps} steps")
        if self.logit_scale != "learned" and self.logit_scale > self.max_logit_scale:
            most = f"max_logit_scale ({self.max_logit_scale})"
            raise ValueError(f"logit_scale ({self.logit_scale}) must be at most {most}")
        if self.accumulate > self.batch_size:
            raise ValueError(f"accumulate ({self.accumulate}) must be at most batch_size ({self.batch_size})")
        return self


class OnBenchmark(Section):
    """What a protocol changes on one benchmark; None leaves a setting as it is."""

    short_side: PositiveInt | None = None
    logit_scale: Positive | None = None
    background_threshold: NonNegative | None = None


class Protocol(Section):
    """How an image is segmented; by default the whole image at its own size, with CLIP's patches and logit scale and
    without a background rule.

    short_side: length in pixels to which the image's short side is resized, None to keep it. long_side: the most pixels
    of the other side, None for any. resize: how: "antialiased", or as "opencv" does (pacl.segment.opencv_bilinear).
    window, window_stride: side of the sliding window and its step, in pixels, None for the whole image at once.
    token_stride: pixels between patch tokens, None for CLIP's patch size. passes: whether tokens closer than a patch
    come from one "joint" pass or from "shifted" passes of the plain patch grid (pacl.clip). positions: how position
    embeddings are resized to other grids than CLIP's, see pacl.clip.frozen.resize_position_embedding. templates: a
    list of data/templates.yaml. phrases: which words for the classes to use where a benchmark has such a list ("sclip":
    data/classes/sclip, which also has words for the background), None for the class names. logit_scale,
    background_rule, background_threshold: see pacl.label_maps.predict; the rule applies where a benchmark has a
    background class. per_benchmark: benchmark -> what differs there.
    """

    short_side: PositiveInt | None = None
    long_side: PositiveInt | None = None
    resize: Literal["antialiased", "opencv"] = "antialiased"
    window: PositiveInt | None = None
    window_stride: PositiveInt | None = None
    token_stride: PositiveInt | None = None
    passes: Literal["joint", "shifted"] = "joint"
    positions: Literal["exact", "scaled"] = "exact"
    templates: str = "seven"
    phrases: str | None = None
    logit_scale: Positive = 100.0
    background_rule: Literal["none", "entropy", "probability"] = "none"
    background_threshold: NonNegative = 0.0
    per_benchmark: dict[str, OnBenchmark] = {}

    def on(self, benchmark: str) -> "Protocol":
        """The protocol with its changes for one benchmark."""
        changes = self.per_benchmark.get(benchmark, OnBenchmark()).model_dump(exclude_none=True)
        return self.model_copy(update=changes)

    @model_validator(mode="after")
    def windows_cover_the_image(self):
        if (self.window is None) != (self.window_stride is None):
            raise ValueError("window and window_stride must both be numbers or both null")
        if self.window is not None and self.window_stride > self.window:
            raise ValueError(f"window_stride ({self.window_stride}) must be at most window ({self.window})")
        return self

    @model_validator(mode="after")
    def probabilities_are_at_most_1(self):
        places = {"": self, **{f"per_benchmark.{name}.": self.on(name) for name in self.per_benchmark}}
        for place, one in places.items():
            if one.background_rule == "probability" and one.background_threshold > 1:
                raise ValueError(
                    f"{place}background_threshold ({one.background_threshold}) must be at most 1 with rule probability"
                )
        return self


class Protocols(Section):
    """Protocols by name: these three, and any other section under `protocols`."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Protocol]
    native: Protocol
    sclip: Protocol
    tcl: Protocol

    def named(self, names: list[str]) -> dict[str, Protocol]:
        return {name: dict(self)[name] for name in names}


MethodName = Literal["clip", "maskclip", "sclip", "naclip", "clearclip", "pacl"]


class PatchAlignment(Section):
    benchmark: str
    batch_size: PositiveInt
    templates: str
    pairs: PositiveInt
    methods: list[MethodName]
    seed: Count


class Segmentation(Section):
    benchmarks: Annotated[list[str], Field(min_length=1)]
    protocols: Annotated[list[str], Field(min_length=1)]
    methods: list[MethodName]
    batch_size: PositiveInt
    shown: PositiveInt

    @property
    def shown_benchmarks(self) -> tuple[str, str]:
        """Those whose scenes are shown: for heat maps the first, for label maps and mistakes one with things and stuff,
        or else the last.
        """
        return self.benchmarks[0], "coco_stuff" if "coco_stuff" in self.benchmarks else self.benchmarks[-1]

    @model_validator(mode="after")
    def clip_and_pacl_are_compared(self):
        if missing := [name for name in ("clip", "pacl") if name not in self.methods]:
            raise ValueError(f"methods must name {' and '.join(missing)} because clip and pacl are compared")
        return self


class Classification(Section):
    sets: list[str]
    templates: str
    batch_size: PositiveInt
    weights: Annotated[list[Fraction], Field(min_length=1)]


class Ablations(Section):
    """base: train parameters that all points change, for speed. points: name -> its further changes, of train, of
    model's `tokens` or of features' `templates`. inference_scenes: how many test scenes are segmented in several ways;
    strides: the token strides among those ways.
    """

    base: dict
    seeds: Annotated[list[Count], Field(min_length=1)]
    strides: Annotated[list[PositiveInt], Field(min_length=1)]
    inference_scenes: Annotated[int, Field(ge=1, le=KEPT_SCENES)]
    points: dict[str, dict]


class Larger(Section):
    """A second cycle of the learning rate, on larger images; the names mean what they mean in Pretrain."""

    image_size: PositiveInt
    epochs: PositiveInt
    whole_epochs: Count
    learning_rate: Positive


class Pretrain(Section):
    """A small CLIP; sizes have open_clip's names.

    source: the mini world, with its seed and number of scenes, or Tiny-ImageNet and caption sets in the folder `raw`.
    templates: lists of data/templates.yaml for class names. broader_weight: of the loss of broader words, next to that
    of names. mask_true_texts: a text that is true of an image is not its negative. crop: the least share of an image to
    keep. colour: the most by which colours change. patch_dropout: the share of patches left out, but for the last
    `whole_epochs`. warmup: the share of the steps in which the learning rate grows. larger: see there, or null.
    """

    source: Literal["miniworld", "tiny_imagenet"]
    raw: str | None
    caption_sets: list[Literal["flickr8k", "flickr30k", "coco"]]
    world_seed: Count | None
    scenes: PositiveInt | None
    templates: list[str]
    broader_weight: NonNegative
    mask_true_texts: bool
    crop: Annotated[float, Field(gt=0, le=1)]
    colour: Fraction
    patch_dropout: Annotated[float, Field(ge=0, lt=1)]
    whole_epochs: Count
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
    warmup: Annotated[float, Field(gt=0, lt=1)]
    weight_decay: NonNegative
    larger: Larger | None
    seed: Count

    @model_validator(mode="after")
    def source_has_what_it_needs(self):
        needed = ("world_seed", "scenes") if self.source == "miniworld" else ("raw",)
        for name in needed:
            if getattr(self, name) is None:
                raise ValueError(f"{name} must be given because the source is {self.source}")
        if self.source != "miniworld" and not self.templates:
            raise ValueError("templates must name at least one list because the source has names of classes")
        return self

    @model_validator(mode="after")
    def sizes_divide(self):
        self.check_divides("patch_size", "image_size", self.image_size)
        self.check_divides("head_width", "width", self.width)
        self.check_divides("head_width", "text_width", self.text_width)
        if self.larger:
            self.check_divides("patch_size", "larger.image_size", self.larger.image_size)
        return self

    def check_divides(self, part: str, whole: str, size: int) -> None:
        if size % getattr(self, part):
            divisors = [n for n in range(1, size + 1) if size % n == 0]
            raise ValueError(
                f"{part} ({getattr(self, part)}) must divide {whole} ({size}): one of {', '.join(map(str, divisors))}"
            )


class Profile(Section):
    """The sections of a profile, in the order of params.yaml."""

    prepare: Prepare
    model: Model
    features: Features
    train: Train
    protocols: Protocols
    patch_alignment: PatchAlignment
    segmentation: Segmentation
    classification: Classification
    ablations: Ablations


SECTIONS = {name: field.annotation for name, field in Profile.model_fields.items()}
SECTIONS["pretrain"] = Pretrain  # of the profiles `miniclip` and `photoclip`
