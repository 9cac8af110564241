"""Writes a trained embedder as a folder that huggingface_hub reads and uploads: weights, configuration, model card.

python -m pacl.tools.share PROFILE FOLDER    (writes model.safetensors, config.json, README.md)
"""

import sys
from pathlib import Path

import pandas as pd
from huggingface_hub import ModelCard, ModelCardData

from pacl.checkpoints import load_embedder
from pacl.report.page import markdown_table
from pacl.runtime.config import load_params, project_root
from pacl.runtime.files import new_folder, read_json
from pacl.runtime.params import Model

LIMITS = """Only the vision embedder was trained; it works only with the CLIP and the patch tokens named above. It
learned from captions of whole images: it knows what captions name, labels whole patches, and shares the biases of the
captions and of that CLIP. The metrics hold only for the data named above."""
USE = """```python
from pacl.clip import load_clip
from pacl.model import VisionEmbedder, similarity_map

clip = load_clip({backbone!r}, {pretrained!r}, tokens={tokens!r})
embedder = VisionEmbedder.from_pretrained("this folder, or its name on the Hub").eval()
text_features = embedder.text_embedder(clip.text_features(["a photo of a dog"]))  # [K, D]
cosines = similarity_map(embedder(clip.patch_features(images)), text_features)  # [B, N, K]
```"""


def share(profile: str, folder: Path) -> None:
    """Writes checkpoints/PROFILE/best as a portable folder, atomically; the folder must be new or empty.

    Raises FileNotFoundError naming the stage to run if the checkpoint or a metric is missing, and FileExistsError.
    """
    root, model = project_root(), load_params(profile, "model").model
    embedder, about = load_embedder(root / "checkpoints" / profile / "best")
    report = root / "reports" / profile
    prepared, metrics = read_json(report / "prepare/prepare.json", "label"), read_json(report / "metrics.json")
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: name a new folder.")
    with new_folder(folder) as shared:
        embedder.save_pretrained(shared)
        card(model, about, prepared, metrics).save(shared / "README.md")


def card(model: Model, about: dict, prepared: dict, metrics: dict) -> ModelCard:
    """The model card of a run. model: its CLIP; about: the checkpoint's JSON; prepared, metrics: the run's prepare.json
    and metrics.json.
    """
    data = ModelCardData(license="mit", library_name="pacl", tags=["image-segmentation", "clip", "pacl"])
    trained = about["train"] | {"embedder": about["embedder"]["kind"]}
    settings = [[name, str(value)] for name, value in trained.items()]
    counts = [f"{name}: {value:,}" for name, value in prepared.items() if isinstance(value, int)]
    parts = {
        "": "The vision embedder of a replication of PACL (Mukhoti et al., CVPR 2023). It maps the patch tokens of a "
        "frozen CLIP to the space of its text embeddings.",
        "Use": USE.format(**model.model_dump()),
        "Training": f"CLIP {model.backbone}, weights {model.pretrained}, patch tokens {model.tokens}{checked(about)}. "
        f"These are the weights after epoch {len(about['history'])}, which has the lowest loss on held-out pairs.\n\n"
        + markdown_table(settings, ["setting", "value"]),
        "Data": "\n".join(f"- {line}" for line in [f"all measured on: {prepared['label']}", *counts]),
        "Metrics": "Fractions in [0, 1].\n\n" + markdown_table(rows_of(metrics), ["measured", "method", "value"]),
        "Limits": LIMITS,
    }
    text = "\n\n".join(f"## {title}\n\n{part}" if title else part for title, part in parts.items())
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n# PACL vision embedder: {prepared['label']}\n\n{text}\n")


def checked(about: dict) -> str:
    """The checksum of CLIP's weights, which `load_embedder` checks; empty for checkpoints that have none."""
    return f" (checksum of the weights {about['clip']['weights']})" if about.get("clip") else ""


def rows_of(metrics: dict) -> list[list[str]]:
    """Every number of a metrics.json: its path, the method (in the path the last key but one; of classification the
    last), the value.
    """
    rows = []
    for key, value in pd.json_normalize(metrics, sep="\n").iloc[0].items():
        if isinstance(value, float):
            path = key.split("\n")
            method = path.pop(-1 if path[0] == "classification" else -2)
            rows.append([" / ".join(path), method, f"{value:.3f}"])
    return rows


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("Usage: python -m pacl.tools.share PROFILE FOLDER")
    try:
        share(sys.argv[1], Path(sys.argv[2]))
        print(f"{sys.argv[2]} holds {sys.argv[1]}'s embedder and its model card.")
    except (ValueError, OSError) as error:
        sys.exit(str(error))
