"""The profiles of params.yaml, which is read once."""

import functools
from types import SimpleNamespace

from helpers.imports import ROOT
from pacl.runtime.config import load_params
from pacl.runtime.params import Profile


@functools.cache
def sections(profile: str) -> dict:
    return vars(load_params(profile, *Profile.model_fields, path=ROOT / "params.yaml"))


def params_of(profile: str, **changes: dict) -> SimpleNamespace:
    """All sections of a profile, with some values of some changed."""
    changed = {name: sections(profile)[name].model_copy(update=values) for name, values in changes.items()}
    return SimpleNamespace(**sections(profile) | changed)
