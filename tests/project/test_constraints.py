"""constraints.txt pins what is installed: every package that the project needs, directly or through others."""

import tomllib
from importlib import metadata

from helpers.imports import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WANTED = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]


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


def test_what_is_installed_is_what_is_pinned():
    installed = needed(WANTED)
    assert {"torch", "open-clip-torch", "timm", "numpy", "pytest"} <= installed.keys()  # timm: open_clip's own
    pinned = pins((ROOT / "constraints.txt").read_text())
    wrong = {name: version for name, version in installed.items() if pinned.get(name) != version}
    assert not wrong, f"installed, but not pinned so in constraints.txt: {wrong}"


def test_every_requirement_is_met_by_its_pin():
    pinned = pins((ROOT / "constraints.txt").read_text())
    for requirement in map(Requirement, WANTED):
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement
