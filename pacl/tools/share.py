"""A trained embedder as a folder for others, which huggingface_hub reads and uploads: weights, configuration and a
model card with the run's data, metrics and limits.

python -m pacl.tools.share PROFILE FOLDER    (writes model.safetensors, config.json, README.md)
"""

import os
import sys
import tempfile
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from pacl.checkpoints import load_embedder
from pacl.runtime.config import load_params, project_root
from pacl.runtime.files import read_json

LIMITS = """Only the vision embedder was trained. It is of use behind the CLIP and with the patch tokens named above. It
was taught by captions of whole images: it knows what they name, labels at the size of patches, and has whatever biases
the captions and that CLIP have. The figures hold for the data named above and for no other."""
USE = """```python
from pacl.clip import load_clip
from pacl.model import VisionEmbedder, similarity_map

clip = load_clip({backbone!r}, {pretrained!r}, tokens={tokens!r})
embedder = VisionEmbedder.from_pretrained("this folder, or its name on the Hub").eval()
text_features = embedder.text_embedder(clip.text_features(["a photo of a dog"]))  # [K, D]
cosines = similarity_map(embedder(clip.patch_features(images)), text_features)  # [B, N, K]
```"""


def share(profile: str, folder: Path) -> None:
    """Writes checkpoints/PROFILE/best as a portable folder, which must not exist or be empty, whole or not at all.

    Raises FileNotFoundError naming the stage to run where checkpoint or metrics are missing, and FileExistsError.
    """
    root, params = project_root(), load_params(profile, "model", "train")
    embedder, about = load_embedder(root / "checkpoints" / profile / "best")
    results = {name: read_result(root / "reports" / profile / f"{name}.json") for name in ("prepare", "metrics")}
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: name a new folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        embedder.save_pretrained(Path(temporary, "shared"))
        card(params, about, results["prepare"], results["metrics"]).save(Path(temporary, "shared", "README.md"))
        os.replace(Path(temporary, "shared"), folder)


def read_result(path: Path) -> dict:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: run the pipeline first (`dvc repro`).")
    return read_json(path)


def card(params, about: dict, prepared: dict, metrics: dict) -> ModelCard:
    """The model card of a run. params: with the sections model and train; about: what the checkpoint's json says;
    prepared, metrics: the run's prepare.json and metrics.json.
    """
    data = ModelCardData(license="mit", library_name="pacl", tags=["image-segmentation", "clip", "pacl"])
    model = params.model
    settings = about["train"] | {"embedder": about["embedder"]["kind"]}
    measured = [f"all measured on: {prepared['label']}"] + [
        f"{name}: {value:,}" for name, value in prepared.items() if isinstance(value, int)
    ]
    parts = {
        "": "The vision embedder of a replication of PACL (Mukhoti et al., CVPR 2023): it brings the patch tokens of a "
        "frozen CLIP into the space of its text embeddings.",
        "Use": USE.format(**model.model_dump()),
        "Training": f"CLIP {model.backbone}, weights {model.pretrained}, patch tokens {model.tokens}{checked(about)}. "
        "These are the "
        f"weights after epoch {len(about['history'])}, when the loss of held-out pairs was lowest.\n\n"
        + table(("setting", "value"), settings.items()),
        "Data": "\n".join(f"- {line}" for line in measured),
        "Metrics": "Fractions in [0, 1].\n\n" + table(("measured", "method", "value"), rows_of(metrics)),
        "Limits": LIMITS,
    }
    text = "\n\n".join(f"## {title}\n\n{part}" if title else part for title, part in parts.items())
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n# PACL vision embedder: {prepared['label']}\n\n{text}\n")


def checked(about: dict) -> str:
    """The checksum of CLIP's weights, by which `load_embedder` tells it from others; of older checkpoints nothing."""
    return f" (checksum of the weights {about['clip']['weights']})" if about.get("clip") else ""


def rows_of(metrics: dict) -> list[tuple[str, str, str]]:
    """Every number of a metrics.json with its path; of a path whose last two parts are a method's and a metric's name,
    the method stands in the second column.
    """
    rows = []
    for path, value in leaves(metrics):
        method = path.pop(-1 if path[0] == "classification" else -2)
        rows.append((" / ".join(path), method, f"{value:.3f}"))
    return rows


def leaves(tree: dict, path: tuple = ()) -> list[tuple[list[str], float]]:
    """The numbers of nested sections and the keys that lead to each."""
    found = []
    for key, value in tree.items():
        if isinstance(value, dict):
            found += leaves(value, (*path, key))
        elif isinstance(value, (int, float)):
            found.append(([*path, key], value))
    return found


def table(columns: tuple, rows) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("Usage: python -m pacl.tools.share PROFILE FOLDER")
    try:
        share(sys.argv[1], Path(sys.argv[2]))
        print(f"{sys.argv[2]} holds {sys.argv[1]}'s embedder and its model card.")
    except (ValueError, OSError) as error:
        sys.exit(str(error))
