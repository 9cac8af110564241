"""The README's picture: images, prompts, where CLIP and PACL see them, and PACL's masks (paper, section 4: qualitative
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


def write_teaser(folder: Path) -> Path:
    """Draws folder/teaser.png from folder/scenes/viewer.json: the first two scenes with their first prompts.

    Raises FileNotFoundError without viewer.json.
    """
    shown = read_json(folder / "scenes/viewer.json", "scenes")["scenes"][:2]
    save(teaser(shown), folder / "teaser.png", dpi=110)
    return folder / "teaser.png"


def teaser(scenes: list[dict]):
    """One row for each scene of viewer.json: the image, CLIP's and PACL's heat map of its first prompt, PACL's mask."""
    titles = ["image and prompt", *(f"{NAMES[method]}: heat map" for method in SHOWN), f"{NAMES[SHOWN[-1]]}: mask"]
    size = (2.1 * len(titles), 2.25 * len(scenes))
    figure, axes = plt.subplots(len(scenes), len(titles), figsize=size, squeeze=False, layout="constrained")
    for row, scene in zip(axes, scenes, strict=True):
        image, prompt = decoded(scene["image"]).convert("RGB"), scene["prompts"][0]
        heats = [warmed(image, decoded(prompt["methods"][method]["heat"])) for method in SHOWN]
        pictures = [image, *heats, masked(image, prompt["methods"][SHOWN[-1]]["mask"])]
        for axis, picture in zip(row, pictures, strict=True):
            axis.imshow(picture, interpolation="lanczos")
            axis.set(xticks=[], yticks=[])
            axis.grid(False)
            axis.spines[:].set_visible(False)
        row[0].set_xlabel(f"“{prompt['name']}”", fontsize=11)
        if "credit" in scene:
            row[1].set_xlabel(scene["credit"], fontsize=5, loc="left")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=10, fontweight="normal")
    return figure


def warmed(image: Image.Image, heat: Image.Image) -> Image.Image:
    """The image in grey under its heat map."""
    grey = image.convert("L").convert("RGB")
    return Image.blend(grey, heat.convert("RGB").resize(image.size, Image.Resampling.BICUBIC), 0.75)


def masked(image: Image.Image, mask: str) -> Image.Image:
    """The image where the mask is true, nearly black elsewhere."""
    inside = np.asarray(decoded(mask).resize(image.size, Image.Resampling.NEAREST)) > 0
    pixels = np.asarray(image).astype(float)
    return Image.fromarray(np.where(inside[..., None], pixels, 0.15 * pixels).round().astype(np.uint8))


def decoded(content: str) -> Image.Image:
    """A picture of viewer.json; of a mask, its values."""
    return Image.open(io.BytesIO(base64.b64decode(content)))
