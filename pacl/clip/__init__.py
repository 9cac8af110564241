"""The frozen CLIP: patch tokens at any stride, text embeddings, and both cached on the disk.

The names below are imported on first use: open_clip takes seconds to import, and cached features don't need it.
"""

NAMES = ("FrozenCLIP", "load_clip", "load_clip_of")


def __getattr__(name: str):
    if name not in NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pacl.clip import frozen

    return getattr(frozen, name)


def __dir__() -> list[str]:
    return list(NAMES)
