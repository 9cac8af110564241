"""A photo, prompts, and what a model finds, to play with in JupyterLab: a mask, and a heat map for each prompt."""

import os
import tempfile
from html import escape
from io import BytesIO
from pathlib import Path

import ipywidgets
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from ipywidgets import HTML, Box, Dropdown, FileUpload, FloatSlider, HBox, Layout, Text, VBox
from PIL import Image

from pacl.clip.frozen import FrozenCLIP
from pacl.clip.texts import class_texts
from pacl.clip.weights import has_weights
from pacl.data.images import open_image
from pacl.figures import scenes
from pacl.runtime.config import project_root
from pacl.segment import Method
from pacl.sources.miniworld.scenes import rng_of, scene
from pacl.tools.overlay import blend, colours_of
from pacl.tools.photos import check_prompts, labels_of, photo_protocol, similarity_maps, split_prompts, token_cosines

SIDE = 960  # pixels of a photo's longer side, at most: sliders must answer at once
SHOWN_SIDE = 420  # of each picture, at most
EXAMPLE = 10  # a scene of the mini world with an apple, a tree and a boat


def is_live() -> bool:
    """Whether this runs in JupyterLab or Notebook, which show widgets; a batch can't."""
    return "JPY_SESSION_NAME" in os.environ


def example(backbone: str, pretrained: str, *settings) -> tuple:
    """For somebody without photos: a scene of the mini world, as a file, the names of what is in it, and the model and
    settings as given or, if its weights aren't there, the mini CLIP, with PACL's embedder if mini was run:
    (backbone, pretrained, checkpoint, short_side, token_stride).
    """
    made = scene(rng_of(0, "test", EXAMPLE))
    path = Path(tempfile.mkdtemp(), "a scene of the mini world.png")
    Image.fromarray(made["image"]).save(path)
    prompts = "; ".join(dict.fromkeys([*(thing[0] for thing in made["things"]), *made["stuff"]]))
    if has_weights(backbone, pretrained):
        return path, prompts, backbone, pretrained, *settings
    trained = "checkpoints/mini/best"
    checkpoint = trained if (project_root() / f"{trained}.safetensors").is_file() else None
    return path, prompts, "miniclip", "data/miniclip", checkpoint, 64, 4


class Player:
    """What is found in a photo. A new photo or prompt asks CLIP; a slider uses the cosines that are there.

    prompts: as `split_prompts` returns them; templates, short_side, token_stride: as in `segment_photos`.
    """

    def __init__(self, clip: FrozenCLIP, method: Method, *, templates: list[str], short_side: int, token_stride=None):
        self.clip, self.method, self.templates = clip, method, templates
        self.short_side, self.token_stride = short_side, token_stride
        self.image, self.prompts, self.texts, self.tokens = None, [], None, None

    def look(self, image: Image.Image, prompts: list[str]) -> str:
        """Asks CLIP about a photo; returns what `check_prompts` does. Raises ValueError for unsuitable prompts."""
        said = check_prompts(self.clip, prompts, self.templates)
        image = reduced(image, SIDE)
        texts = class_texts(self.clip, prompts, self.templates)
        protocol = photo_protocol(self.clip, self.token_stride, None)
        self.tokens = token_cosines(self.clip, self.method, image, texts, protocol, self.short_side)
        self.image, self.prompts, self.texts = image, prompts, texts
        return said

    def mask(self, background: float) -> np.ndarray:
        """uint8 [H, W]: k for the k-th prompt, 0 where the best is less probable than `background`."""
        return labels_of(self.tokens, self.texts, photo_protocol(self.clip, self.token_stride, background or None))

    def maps(self) -> list[np.ndarray]:
        """The cosine of each pixel with each prompt, [H, W]."""
        return list(similarity_maps(self.tokens, self.texts))

    def pictures(self, background: float, share: float) -> list[tuple[str, Image.Image]]:
        """The photo, its mask, and each prompt's heat map, with titles in HTML; share: of the colours over it."""
        mask, maps = self.mask(background), self.maps()
        low, high = min(one.min() for one in maps), max(one.max() for one in maps)  # one scale for all
        shares = np.bincount(mask.ravel(), minlength=len(maps) + 1)[1:] / mask.size
        colours = [f"rgb{tuple(colour.tolist())}" for colour in colours_of(len(maps))[1:]]
        titles = [
            f'<b style="color:{colour}">■</b> {escape(prompt)}: {part:.0%}, cosine up to {one.max():.2f}'
            for prompt, one, part, colour in zip(self.prompts, maps, shares, colours, strict=True)
        ]
        heats = [warmed(self.image, (one - low) / max(high - low, 1e-6), share) for one in maps]
        masked = blend(self.image, mask, len(maps), SHOWN_SIDE, share)
        return [("photo", reduced(self.image)), ("best prompt of each pixel", masked), *zip(titles, heats, strict=True)]

    def picture(self):
        """A figure of the photo and each prompt's heat map, where widgets aren't live."""
        figure = scenes.overlays(np.asarray(reduced(self.image)), self.maps(), self.prompts, label="cosine")
        plt.close(figure)  # a cell shows what it returns, and would show an open figure once more
        return figure


def reduced(image: Image.Image, side: int = SHOWN_SIDE) -> Image.Image:
    image = image.copy()
    image.thumbnail((side, side))
    return image


def warmed(image: Image.Image, values: np.ndarray, share: float) -> Image.Image:
    """The photo in grey under a map [H, W] from 0 to 1 in inferno's colours, which take a share."""
    grey = reduced(image).convert("L").convert("RGB")
    heat = Image.fromarray(matplotlib.colormaps["inferno"](values, bytes=True)[..., :3])
    return Image.blend(grey, heat.resize(grey.size, Image.Resampling.BILINEAR), share)


class Panel(VBox):
    """The controls, and the pictures below them."""

    def __init__(self, player: Player, photos: list[Path], prompts: list[str], background: float | None):
        self.player = player
        wide, slider = {"layout": Layout(width="640px")}, {"min": 0.0, "max": 1.0, "step": 0.02}
        self.photo = Dropdown(options={path.name: path for path in photos}, description="photo", **wide)
        self.upload = FileUpload(accept="image/*", description="upload photo")
        words = {"description": "prompts", "placeholder": "cat; sofa; wall", "continuous_update": False}
        self.prompts = Text("; ".join(prompts), **words, **wide)
        self.background = FloatSlider(background or 0.0, description="background", **slider)
        self.blend = FloatSlider(0.6, description="blend", **slider)
        self.said, self.shown = HTML(), Box(layout=Layout(flex_flow="row wrap"))
        sliders = HBox([self.background, self.blend])
        super().__init__([self.upload, self.photo, self.prompts, sliders, self.said, self.shown])
        for control, follow in (
            (self.upload, self.take),
            (self.photo, self.look),
            (self.prompts, self.look),
            (self.background, self.draw),
            (self.blend, self.draw),
        ):
            control.observe(follow, "value")
        self.look()

    def take(self, _) -> None:
        """Adds the uploaded photos to those to choose from, and shows the last."""
        for file in self.upload.value:
            path = Path(tempfile.mkdtemp(), Path(file["name"]).name)
            path.write_bytes(file["content"])
            self.photo.options = dict(self.photo.options) | {path.name: path}
            self.photo.value = path

    def look(self, _=None) -> None:
        """Asks CLIP about the chosen photo and the prompts; a mistake is said in a sentence."""
        try:
            said = self.player.look(open_image(self.photo.value), split_prompts(self.prompts.value))
            self.said.value = escape(said)
        except (ValueError, FileNotFoundError) as error:
            self.said.value = f"<b>{escape(str(error))}</b>"
            return
        self.draw()

    def draw(self, _=None) -> None:
        """Shows the photo, the mask and the heat maps as the sliders are."""
        if self.player.tokens is None:
            return
        pictures = self.player.pictures(self.background.value, self.blend.value)
        children = self.shown.children
        if len(children) != len(pictures):
            wide = {"layout": Layout(width="260px")}
            children = [VBox((HTML(), ipywidgets.Image(format="png", **wide)), **wide) for _ in pictures]
            self.shown.children = children
        for box, (title, picture) in zip(children, pictures, strict=True):
            box.children[0].value, content = title, BytesIO()
            picture.save(content, "PNG")
            box.children[1].value = content.getvalue()


def play(clip: FrozenCLIP, method: Method, photos: list[Path], prompts: list[str], *, background=None, **settings):
    """A panel to play with or, where widgets aren't live, a figure of the first photo that can be read. settings:
    Player's.
    """
    player = Player(clip, method, **settings)
    if is_live():
        return Panel(player, photos, prompts, background)
    for photo in photos:
        try:
            player.look(open_image(photo), prompts)
        except (ValueError, FileNotFoundError):
            continue
        return player.picture()
