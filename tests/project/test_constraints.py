"""constraints.txt pins what is installed: every package that the project needs, directly or through others."""

import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins(text: str) -> dict[str, str]:
    """name -> version of a constraints file; a line of another form is an error."""
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    pairs = [line.split("==") for line in lines if line]
    return {canonicalize_name(name): version for name, version in pairs}


def needed(wanted: list[str]) -> dict[str, str]:
    """name -> installed version of these requirements and of all that they require on this platform."""
    found, todo = {}, [(Requirement(text), "") for text in wanted]
    seen = set()
    while todo:
        requirement, extra = todo.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras}:
            if (name, extra) not in seen:
                seen.add((name, extra))
                distribution = metadata.distribution(name)
                found[name] = distribution.version
                todo += [(Requirement(text), extra) for text in distribution.requires or []]
    return found


def differences(pinned: dict[str, str], installed: dict[str, str]) -> list[str]:
    return [
        f"{name}=={version}, but constraints.txt has {pinned.get(name, 'nothing')}"
        for name, version in sorted(installed.items())
        if pinned.get(name) != version
    ]


def test_what_is_installed_is_what_is_pinned():
    wanted = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]
    installed = needed(wanted)
    assert {"torch", "open-clip-torch", "timm", "numpy", "pytest"} <= installed.keys()  # timm: open_clip's own
    assert differences(pins((ROOT / "constraints.txt").read_text()), installed) == []


def test_another_version_and_a_missing_pin_are_seen():
    pinned = pins("a==1.0\nB_c==2.0  # why\n")
    assert differences(pinned, {"a": "1.0", "b-c": "2.0"}) == []
    assert differences(pinned, {"a": "1.1", "d": "3"}) == [
        "a==1.1, but constraints.txt has 1.0",
        "d==3, but constraints.txt has nothing",
    ]
    with pytest.raises(ValueError):
        pins("a>=1.0")


def test_every_requirement_is_met_by_its_pin():
    pinned = pins((ROOT / "constraints.txt").read_text())
    for requirement in map(Requirement, PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]):
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement
