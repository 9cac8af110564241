"""Reads params.yaml, the one place where a run is configured."""

import difflib
from pathlib import Path
from types import SimpleNamespace

import yaml
from pydantic import ValidationError

from pacl.params import SECTIONS, Section


class ConfigError(ValueError):
    """params.yaml, or what was asked of it, is wrong; the message has one sentence per error."""


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
