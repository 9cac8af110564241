"""Reads params.yaml, the one place where a run is configured."""

import difflib
import json
import re
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import yaml
from pydantic import ValidationError

from pacl.runtime.params import SECTIONS, Section


class ConfigError(ValueError):
    """A mistake in params.yaml or in the request for it; the message has one sentence per mistake."""


class Loader(yaml.SafeLoader):
    """YAML's safe loader, but a repeated key is an error (by default the last one would win), and 5e-05 is a number, as
    for DVC, which writes it so.
    """

    def compose_mapping_node(self, anchor):
        node, first = super().compose_mapping_node(anchor), {}
        for key, _ in node.value:
            if (name := (key.tag, str(key.value))) in first:
                problem = f"{key.value} is already in line {first[name]}: remove one of the two"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            first[name] = key.start_mark.line + 1
        return node


NUMBER = r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?"  # as Python writes it
Loader.add_implicit_resolver(  # YAML 1.2's; 1.1 wants a point and a sign
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+\.?[0-9]*[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_params(profile: str, *sections: str, path: str | Path = "params.yaml") -> SimpleNamespace:
    """The named sections of a profile: load_params("mini", "train").train.learning_rate.

    path: searched for in the working directory, then in its parents. Validates only these sections and what they share
    with others, so a mistake elsewhere doesn't stop a stage. Raises ConfigError, a ValueError.
    """
    table = read_yaml(find_file(path))
    profiles = [name for name, value in table.items() if isinstance(value, dict)]
    if profile not in profiles:
        raise ConfigError(f"{profile!r} is not a profile of {Path(path).name}; it has {', '.join(map(str, profiles))}.")
    values = table[profile] if isinstance(table[profile], dict) else {}
    found = {name: read_section(profile, name, values) for name in sections}
    check_together(profile, found, values, find_file(path).parent)
    return SimpleNamespace(**found)


def project_root(path: str | Path = "params.yaml") -> Path:
    """The folder that holds params.yaml: the working directory or its nearest parent. Raises ConfigError."""
    return find_file(path).parent


def find_file(path: str | Path) -> Path:
    """`path` in the working directory or its nearest parent that has it. Raises ConfigError."""
    here = Path.cwd()
    found = next((folder / path for folder in (here, *here.parents) if (folder / path).is_file()), None)
    if found is None:
        raise ConfigError(f"{path} is neither in {here} nor above it: run this inside the project's folder.")
    return found


def read_yaml(path: Path) -> dict:
    """The mapping in a YAML file. Raises ConfigError."""
    try:
        table = yaml.load(path.read_text(encoding="utf-8"), Loader=Loader)
    except Exception as error:  # YAMLError, or anything that a value's constructor raises
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path.name}{where} is not YAML: {getattr(error, 'problem', error)}.") from None
    if not isinstance(table, dict):
        raise ConfigError(f"{path.name} must hold one section per profile.")
    return table


def read_section(profile: str, name: str, values: dict) -> Section:
    """One section, validated. Raises ConfigError."""
    if name not in SECTIONS:
        raise ConfigError(f"{name!r} is not a section of a profile; the sections are {', '.join(SECTIONS)}.")
    if name not in values:
        raise ConfigError(f"{profile}.{name} is missing.")
    kind = SECTIONS[name]
    try:
        return kind.model_validate(values[name])
    except ValidationError as error:
        raise ConfigError("\n".join(sentence(f"{profile}.{name}", kind, e) for e in error.errors())) from None


def check_together(profile: str, found: dict[str, Section], values: dict, root: Path) -> None:
    """Raises ConfigError where a section that was read contradicts another section of its profile."""
    others = dict(found)
    shared = {"prepare", "model", "train", "protocols", "patch_alignment", "segmentation", "classification"}
    for name in shared & values.keys() - found.keys():
        with suppress(ConfigError):  # a mistake in a section that nobody asked for
            others[name] = read_section(profile, name, values)
    errors = [error for name in found for error in CHECKS.get(name, lambda *_: [])(profile, others, root)]
    if errors:
        raise ConfigError("\n".join(dict.fromkeys(errors)))


def check_prepare(profile: str, sections: dict, root: Path) -> list[str]:
    """Enough pairs are prepared for training, unless it reads them from shards; and all that is measured, in protocols
    that exist, which later stages would notice too late.
    """
    prepare = sections["prepare"]
    trained = sections["train"].pairs if "train" in sections and prepare.source not in ("webdataset", "none") else 0
    path, errors = f"{profile}.prepare.train_pairs", check_measured(profile, sections, root)
    for name, check in (("protocols", check_protocols), ("segmentation", check_segmentation)):
        errors += check(profile, sections, root) if name in sections else []
    if prepare.train_pairs >= trained:
        return errors
    return [f"{path} is {prepare.train_pairs}, but must be at least {trained}, {profile}.train.pairs.", *errors]


def check_measured(profile: str, sections: dict, root: Path) -> list[str]:
    """What later stages measure is prepared; otherwise they would notice after hours of training."""
    lists = {
        ("patch_alignment", "benchmark"): "benchmarks",
        ("segmentation", "benchmarks"): "benchmarks",
        ("classification", "sets"): "classification_sets",
    }
    errors = []
    for (section, key), prepared in lists.items() if "prepare" in sections else ():
        named = getattr(sections[section], key) if section in sections else []
        known = getattr(sections["prepare"], prepared)
        errors += [
            f"{profile}.{section}.{key} names {name!r}, but {profile}.prepare.{prepared} doesn't: add it there, or "
            f"name one of {', '.join(known) or 'none'}."
            for name in ([named] if isinstance(named, str) else named)
            if name not in known
        ]
    return errors


def check_protocols(profile: str, sections: dict, root: Path) -> list[str]:
    """Token strides divide the patch; templates, phrases and benchmarks exist."""
    protocols = dict(sections["protocols"])
    strides = {f"protocols.{name}.token_stride": one.token_stride for name, one in protocols.items()}
    errors = check_strides(profile, {path: stride for path, stride in strides.items() if stride}, sections, root)
    known = known_names(sections, root)
    return errors + [
        f"{profile}.protocols.{name}.{key} names {value!r}, but must name one of {', '.join(known[key])}."
        for name, one in protocols.items()
        for key, values in (
            ("templates", [one.templates]),
            ("phrases", [one.phrases]),
            ("per_benchmark", one.per_benchmark),
        )
        for value in values
        if known[key] and value is not None and value not in known[key]
    ]


def known_names(sections: dict, root: Path) -> dict[str, list[str]]:
    """What a protocol's keys may name; an empty list where that is unknown."""
    lists, classes = root / "data/templates.yaml", root / "data/classes"
    files = sorted(classes.iterdir()) if classes.is_dir() else []
    benchmarks = [path.stem for path in files if path.suffix == ".txt"] if "prepare" in sections else []
    return {
        "templates": list(read_yaml(lists)) if lists.is_file() else [],
        "phrases": [path.name for path in files if path.is_dir()],
        "per_benchmark": list(dict.fromkeys(benchmarks + sections["prepare"].benchmarks)) if benchmarks else [],
    }


def check_segmentation(profile: str, sections: dict, root: Path) -> list[str]:
    """Its protocols exist, and its benchmarks are prepared."""
    known = dict(sections["protocols"]) if "protocols" in sections else sections["segmentation"].protocols
    return [
        f"{profile}.segmentation.protocols.{i} is {name!r}, but must be one of {', '.join(known)}."
        for i, name in enumerate(sections["segmentation"].protocols)
        if name not in known
    ] + check_measured(profile, sections, root)


def check_ablations(profile: str, sections: dict, root: Path) -> list[str]:
    """Every point changes existing parameters, other than the seed, to allowed values; strides divide the patch."""
    ablations = sections["ablations"]
    errors = [
        f"{profile}.ablations.points.{name}.seed can't be a point's own: write it into {profile}.ablations.seeds."
        for name, point in ablations.points.items()
        if "seed" in point
    ]
    for name, point in ablations.points.items() if "train" in sections else ():
        for section, changed in changed_sections(ablations.base | point, sections).items():
            try:
                SECTIONS[section].model_validate(changed)
            except ValidationError as error:
                place = f"{profile}.ablations.points.{name}"
                errors += [sentence(place, SECTIONS[section], e) for e in error.errors()]
    strides = {f"ablations.strides.{i}": stride for i, stride in enumerate(ablations.strides)}
    return errors + check_strides(profile, strides, sections, root)


def changed_sections(changes: dict, sections: dict) -> dict[str, dict]:
    """The sections that an ablation point changes, with its changes; all keys are train's but `tokens`, model's, and
    `templates`, which names a list and is checked when it is read.
    """
    train = {key: value for key, value in changes.items() if key not in ("tokens", "templates")}
    found = {"train": sections["train"].model_dump() | train}
    if "tokens" in changes and "model" in sections:
        found["model"] = sections["model"].model_dump() | {"tokens": changes["tokens"]}
    return found


def check_strides(profile: str, strides: dict[str, int], sections: dict, root: Path) -> list[str]:
    patch = patch_size(sections["model"], root) if "model" in sections else None
    allowed = [stride for stride in range(1, (patch or 0) + 1) if patch % stride == 0]
    return [
        f"{profile}.{path} is {stride}, but must be one of {', '.join(map(str, allowed))}, which divide the patches of "
        f"{patch} pixels."
        for path, stride in strides.items()
        if patch and stride not in allowed
    ]


def patch_size(model: Section, root: Path) -> int | None:
    """A patch's side in pixels, from the weights' folder or the model's name (ViT-B-16, ViT-L-14-336), else None."""
    config = root / model.pretrained / "open_clip_config.json"
    if config.is_file():
        with suppress(ValueError, KeyError, TypeError):
            return int(json.loads(config.read_text(encoding="utf-8"))["model_cfg"]["vision_cfg"]["patch_size"])
    named = re.match(r"ViT-[A-Za-z]+-(\d+)", model.backbone)
    return int(named[1]) if named else None


def sentence(section: str, kind: type[Section], error: dict) -> str:
    """One of pydantic's errors as a sentence: the value's full path and what is allowed there."""
    path, value, context = ".".join([section, *map(str, error["loc"])]), error["input"], error.get("ctx", {})
    match error["type"]:
        case "missing":
            return f"{path} is missing."
        case "value_error":
            return f"{path}: {context['error']}."
        case "extra_forbidden":
            return f"{path} is not a parameter: {known_keys(kind, error['loc'])}."
        case "model_type" | "model_attributes_type":
            return f"{path} is {value!r}, but must be a section: {known_keys(kind, (*error['loc'], ''))}."
    if isinstance(value, str) and re.fullmatch(NUMBER, value):
        return f"{path} is the text {value!r}: write {value}, without quotes."
    return f"{path} is {value!r}, but must be {allowed(error)}."


def allowed(error: dict) -> str:
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
        "invalid_key": "text",
        "dict_type": "a section",
        "tuple_type": "a list",
        "too_short": f"a list of at least {context.get('min_length')}",
    }
    return words.get(error["type"], error["msg"].removeprefix("Input should be "))


def known_keys(kind: type[Section], loc: tuple) -> str:
    """The likeliest correction of loc's last key, or else all keys of the (nested) section that it was found in."""
    for key in loc[:-1]:
        kind = kind_below(kind, key)
    near = difflib.get_close_matches(str(loc[-1]), kind.model_fields, n=1)
    return f"did you mean {near[0]}" if near else f"there are {', '.join(kind.model_fields)}"


def kind_below(kind, key: str) -> type:
    """The type of the value under a key of a section, or of a table whose keys are free."""
    if key in getattr(kind, "model_fields", {}):
        return kind.model_fields[key].annotation
    return get_args(kind.__annotations__["__pydantic_extra__"] if hasattr(kind, "model_fields") else kind)[1]


CHECKS = {
    "prepare": check_prepare,
    "protocols": check_protocols,
    "patch_alignment": check_measured,
    "segmentation": check_segmentation,
    "classification": check_measured,
    "ablations": check_ablations,
}
