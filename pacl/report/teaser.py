"""The README's picture: an image, a prompt, where CLIP and PACL see it, and PACL's mask (paper, section 4: qualitative
results).
"""

import base64
import io
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from pacl.figures.charts import NAMES, save
from pacl.runtime.files import read_json

SHOWN = ("clip", "pacl")


def write_teaser(folder: Path, *, scenes: int = 2) -> Path:
    """Draws folder/teaser.png from folder/viewer.json: its first scenes, each with its first prompt, not picked.

    Raises FileNotFoundError where there is no viewer.json.
    """
    shown = read_json(folder / "viewer.json")["scenes"][:scenes]
    save(teaser(shown), folder / "teaser.png", dpi=110)
    return folder / "teaser.png"


def teaser(scenes: list[dict]):
    """One row a scene of viewer.json: the image, CLIP's and PACL's heat map of its first prompt, PACL's mask."""
    titles = ["image and prompt", *(f"{NAMES[method]}: heat map" for method in SHOWN), f"{NAMES[SHOWN[-1]]}: mask"]
    figure, axes = plt.subplots(
        len(scenes), len(titles), figsize=(2.1 * len(titles), 2.25 * len(scenes)), squeeze=False, layout="constrained"
    )
    for row, scene in zip(axes, scenes, strict=True):
        image, prompt = decoded(scene["image"]).convert("RGB"), scene["prompts"][0]
        grey = image.convert("L")
        row[0].imshow(image, interpolation="lanczos")
        row[0].set_xlabel(f"“{prompt['name']}”", fontsize=11)
        for axis, method in zip(row[1:], SHOWN, strict=False):
            heat = (
                decoded(prompt["methods"][method]["heat"]).convert("RGB").resize(image.size, Image.Resampling.BICUBIC)
            )
            axis.imshow(Image.blend(grey.convert("RGB"), heat, 0.75), interpolation="lanczos")
        row[-1].imshow(masked(image, prompt["methods"][SHOWN[-1]]["mask"]), interpolation="lanczos")
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
        axis.spines[:].set_visible(False)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=10, fontweight="normal")
    return figure


def masked(image: Image.Image, mask: str) -> Image.Image:
    """The image where the mask is true, nearly black elsewhere."""
    inside = np.asarray(decoded(mask).resize(image.size, Image.Resampling.NEAREST)) > 0
    pixels = np.asarray(image).astype(float)
    return Image.fromarray(np.where(inside[..., None], pixels, 0.15 * pixels).round().astype(np.uint8))


def decoded(text: str) -> Image.Image:
    """A picture of viewer.json; of a mask, its values."""
    return Image.open(io.BytesIO(base64.b64decode(text)))
