"""Reads params.yaml, the one place where a run is configured."""

import difflib
import json
import os
import re
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import SimpleNamespace, UnionType
from typing import get_args

from pydantic import ValidationError
from ruamel.yaml import YAML

from pacl.runtime.params import SECTIONS, Section


class ConfigError(ValueError):
    """A mistake in params.yaml or in the request for it; the message has one sentence per mistake."""


NUMBER = r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?"  # as Python writes it


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
    """The mapping in a YAML file, by DVC's reader: 5e-05 is a number, a repeated key an error. Raises ConfigError."""
    try:
        table = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except Exception as error:  # YAMLError, or anything that a value's constructor raises
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem, *_ = str(getattr(error, "problem", error)).split(" with value ")  # of a repeated key, maybe a section
        raise ConfigError(f"{path.name}{where} is not YAML: {problem}; correct it.") from None
    if not isinstance(table, dict):
        raise ConfigError(f"{path.name} must hold one section per profile.")
    return table


def project_yaml(path: str) -> dict:
    """The mapping in one of the project's YAML files, which is read once and not to be changed. Raises ConfigError."""
    return read_below(os.getcwd(), path)  # a process may go from one project to another


@cache
def read_below(folder: str, path: str) -> dict:
    """`project_yaml` in the working directory `folder`."""
    return read_yaml(project_root() / path)


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
    prepare, errors = sections["prepare"], check_names(profile, sections, root)
    errors += check_protocols(profile, sections, root) if "protocols" in sections else []
    trained = sections["train"].pairs if "train" in sections and prepare.source not in ("webdataset", "none") else 0
    if prepare.train_pairs >= trained:
        return errors
    few = f"{profile}.prepare.train_pairs is {prepare.train_pairs}, but must be at least {trained}"
    return [f"{few}, {profile}.train.pairs.", *errors]


NAMES = {  # what names something -> where that must be
    "patch_alignment.benchmark": "prepare.benchmarks",
    "segmentation.benchmarks": "prepare.benchmarks",
    "segmentation.protocols": "protocols",
    "classification.sets": "prepare.classification_sets",
}


def check_names(profile: str, sections: dict, root: Path) -> list[str]:
    """What later stages measure is prepared; otherwise they would notice after hours of training."""
    errors = []
    for path, place in NAMES.items():
        (section, key), (owner, *prepared) = path.split("."), place.split(".")
        if section in sections and owner in sections:
            named = getattr(sections[section], key)
            known = getattr(sections[owner], prepared[0]) if prepared else dict(sections[owner])
            errors += [
                f"{profile}.{path} names {name!r}, but {profile}.{place} doesn't: add it there, or name one of "
                f"{', '.join(known) or 'none'}."
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
    return f"{path} is {value!r}, but {re.sub('^[A-Z][a-z]+ should', 'must', error['msg'])}."


def known_keys(kind: type[Section], loc: tuple) -> str:
    """The likeliest correction of loc's last key, or else all keys of the (nested) section that it was found in."""
    for key in loc[:-1]:
        kind = kind_below(kind, key)
    near = difflib.get_close_matches(str(loc[-1]), kind.model_fields, n=1)
    return f"did you mean {near[0]}" if near else f"there are {', '.join(kind.model_fields)}"


def kind_below(kind, key: str) -> type:
    """The type of the value under a key of a section, or of a table whose keys are free."""
    if key in getattr(kind, "model_fields", {}):
        known = kind.model_fields[key].annotation
        return get_args(known)[0] if isinstance(known, UnionType) else known  # what it is where it isn't null
    return get_args(kind.__annotations__["__pydantic_extra__"] if hasattr(kind, "model_fields") else kind)[1]


CHECKS = {"prepare": check_prepare, "protocols": check_protocols, "ablations": check_ablations}
CHECKS |= {path.partition(".")[0]: check_names for path in NAMES}
