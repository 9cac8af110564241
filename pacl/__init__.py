"""A replication of PACL (CVPR 2023): open-vocabulary segmentation by patch aligned contrastive learning.

The names below are imported on first use (PEP 562), so `import pacl` costs nothing.
"""

from importlib import import_module

WHERE = {
    "load_clip": "pacl.clip.frozen",
    "VisionEmbedder": "pacl.model",
    "compatibility": "pacl.model",
    "attention": "pacl.model",
    "similarity_map": "pacl.model",
    "contrastive_loss": "pacl.loss",
    "segment": "pacl.segment",
    "Method": "pacl.segment",
    "confusion_matrix": "pacl.metrics",
    "mean_iou": "pacl.metrics",
    "load_embedder": "pacl.checkpoints",
}


def __getattr__(name: str):
    if name not in WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(WHERE)
