"""What never changes while the embedder trains, computed once: patch tokens of the images, embeddings of the texts
(paper, section 3: both encoders are frozen).
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from pacl.clip import FrozenCLIP
from pacl.data import Images, read_json, write_json
from pacl.prompts import nouns, templates


class Preprocessed(torch.utils.data.Dataset):
    """Images as tensors [3, H, W], the way this CLIP takes them."""

    def __init__(self, images: Images, preprocess):
        self.images, self.preprocess = images, preprocess

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.preprocess(self.images[index])


def batches(clip: FrozenCLIP, images: Images, batch_size: int, title: str):
    """Preprocessed images in order, [B, 3, H, W] at a time, with a progress bar."""
    return tqdm(DataLoader(Preprocessed(images, clip.preprocess), batch_size), desc=title, mininterval=5)


def patch_tokens(clip: FrozenCLIP, images: Images, path: Path, *, batch_size: int) -> None:
    """Writes the patch tokens of all images as float16 [M, N, D_v] in NumPy's format, to be memory-mapped."""
    h, w = clip.grid(clip.image_size, clip.image_size)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = np.lib.format.open_memmap(path, "w+", np.float16, (len(images), h * w, clip.width))
    start = 0
    for batch in batches(clip, images, batch_size, path.stem):
        rows[start : start + len(batch)] = clip.patch_features(batch).half().cpu()
        start += len(batch)
    rows.flush()


def scene_patches_file(folder: Path, split: str, image_set: str) -> Path:
    """Where the patch tokens of an image set of `pacl.data.all_scenes` lie."""
    return folder / f"{'_'.join(filter(None, (split, image_set)))}_scene_patches.npy"


def text_table(captions: dict[str, list[list[str]]], tagger: str = "textblob") -> dict:
    """Every distinct caption and noun once, and for each split the numbers of each image's captions and nouns.

    captions: split -> for each image its captions. Returns {"captions": [...], "nouns": [...], split: {"captions":
    [[...]], "nouns": [[...]]}}.
    """
    of_image = {
        split: [{n: None for text in texts for n in nouns(text, tagger)} for texts in rows]
        for split, rows in captions.items()
    }
    distinct_captions = dict.fromkeys(text for rows in captions.values() for texts in rows for text in texts)
    distinct_nouns = dict.fromkeys(noun for rows in of_image.values() for found in rows for noun in found)
    caption_number, noun_number = (
        {text: i for i, text in enumerate(distinct)} for distinct in (distinct_captions, distinct_nouns)
    )
    table = {"captions": list(distinct_captions), "nouns": list(distinct_nouns)}
    for split, rows in captions.items():
        numbers = [[caption_number[text] for text in texts] for texts in rows]
        table[split] = {
            "captions": numbers,
            "nouns": [[noun_number[noun] for noun in found] for found in of_image[split]],
        }
    return table


def text_features(clip: FrozenCLIP, table: dict, folder: Path, template_list: str) -> None:
    """Writes texts.json, caption_features.npy [captions, D] and noun_features.npy [nouns, templates, D], float16."""
    np.save(folder / "caption_features.npy", clip.text_features(table["captions"]).half().cpu().numpy())
    np.save(folder / "noun_features.npy", noun_features(clip, table["nouns"], template_list))
    write_json(folder / "texts.json", table)


def noun_features(clip: FrozenCLIP, nouns: list[str], template_list: str) -> np.ndarray:
    """Embeddings of every noun in every template, float16 [nouns, templates, D]."""
    forms = templates(template_list)
    prompts = [form.format(noun) for noun in nouns for form in forms]
    return clip.text_features(prompts).half().cpu().numpy().reshape(len(nouns), len(forms), clip.dim)


class Texts:
    """The texts of one split's images, and what is drawn from them at each step: a caption, or one of its nouns in
    one of the templates.
    """

    def __init__(self, folder: Path, split: str):
        table = read_json(folder / "texts.json")
        self.captions, self.nouns = table[split]["captions"], table[split]["nouns"]
        self.caption_features, self.noun_features = (
            np.load(folder / f"{kind}_features.npy") for kind in ("caption", "noun")
        )

    def __len__(self) -> int:
        return len(self.captions)

    def draw(self, rng: np.random.Generator, images: np.ndarray, noun_share: float) -> tuple[Tensor, Tensor]:
        """One text for each image: embeddings [B, D] and keys [B], equal where two texts name the same caption or the
        same noun.

        noun_share: the probability of a noun prompt where the image's captions have a noun.
        """
        chosen = [self.draw_one(rng, image, noun_share) for image in images]
        features = np.stack([feature for feature, _ in chosen]).astype(np.float32)
        return torch.from_numpy(features), torch.tensor([key for _, key in chosen])

    def draw_one(self, rng, image: int, noun_share: float) -> tuple[np.ndarray, int]:
        as_noun, pick, template = rng.random(3)
        if as_noun < noun_share and self.nouns[image]:
            noun = self.nouns[image][int(pick * len(self.nouns[image]))]
            return self.noun_features[noun, int(template * self.noun_features.shape[1])], -1 - noun
        caption = self.captions[image][int(pick * len(self.captions[image]))]
        return self.caption_features[caption], caption
