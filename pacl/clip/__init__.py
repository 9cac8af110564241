"""The frozen CLIP: patch tokens at any stride, text embeddings, and both cached on the disk.

`load_clip` is imported on first use: open_clip takes seconds, and what reads cached features does without.
"""

from importlib import import_module

WHERE = {"load_clip": "pacl.clip.frozen", "FrozenCLIP": "pacl.clip.frozen"}


def __getattr__(name: str):
    if name not in WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(WHERE)
