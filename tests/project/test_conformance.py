"""Against real outputs of OpenAI's CLIP; what needs its weights is skipped, with the reason, if no cache holds them."""

import json

import numpy as np
import open_clip
import pytest
import torch

from pacl.clip import load_clip
from pacl.clip.weights import find_cached
from pacl.data.images import Images
from pacl.sources.layouts import class_list

SPELLINGS = {"aeroplane": "airplane", "diningtable": "dining table", "motorbike": "motorcycle", "sofa": "couch"}
SPELLINGS |= {"pottedplant": "potted plant", "tvmonitor": "tv"}


@pytest.fixture(scope="module")
def reference(real_data):
    if not (real_data / "clip_reference").is_dir():
        pytest.skip(f"{real_data / 'clip_reference'} is not there")
    return real_data / "clip_reference"


def of_length_1(path):
    embeddings = np.load(path).astype(np.float64)
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def openai(name):
    if find_cached(open_clip.get_pretrained_cfg(name, "openai")) is None:
        pytest.skip(f"no cache holds OpenAI's weights of {name}, so its text and image features can't be compared")
    return load_clip(name, "openai", device="cpu")


def test_the_order_of_the_class_files_is_that_of_real_text_embeddings(reference):
    """CLIP's embeddings of VOC's and of COCO-Stuff's classes: equal names must meet at cosine 1, others nearest."""
    voc, coco = (of_length_1(reference / f"zegclip_text_vitb16/{name}_single.npy") for name in ("voc12", "coco"))
    names = {"voc": class_list("voc20"), "coco": class_list("coco_stuff")}
    assert (len(voc), len(coco)) == (len(names["voc"]), len(names["coco"]))
    cosines = voc @ coco.T
    for name, row in zip(names["voc"], cosines, strict=True):
        assert names["coco"][row.argmax()] == SPELLINGS.get(name, name)
        assert name in SPELLINGS or row.max() > 0.999


def test_the_order_of_coco_object_is_that_of_real_text_embeddings(reference):
    """ViT-B/32's embeddings of COCO's 80 names and of LVIS's: those that are spelt alike must meet."""
    coco, lvis = (of_length_1(reference / f"detic_text_vitb32/{name}_clip_a+cname.npy") for name in ("coco", "lvis_v1"))
    about = json.loads((reference / "detic_text_vitb32/lvis_v1_train_cat_info.json").read_text())
    lvis_names = [category["name"] for category in sorted(about, key=lambda category: category["id"])]
    alike = [(k, name) for k, name in enumerate(class_list("coco_object")[1:]) if name in lvis_names]
    assert len(alike) > 40
    for k, name in alike:
        cosines = lvis @ coco[k]
        assert lvis_names[cosines.argmax()] == name and cosines.max() > 0.999


@pytest.mark.parametrize(
    ("name", "stored", "form", "classes"),
    [
        ("ViT-B-16", "zegclip_text_vitb16/voc12_single", "a photo of a {}", class_list("voc20")),
        ("ViT-B-32", "detic_text_vitb32/coco_clip_a+cname", "a {}", class_list("coco_object")[1:]),
    ],
)
def test_text_features_are_openais(name, stored, form, classes, reference):
    found = openai(name).text_features([form.format(one) for one in classes]).double().numpy()
    assert ((found * of_length_1(reference / f"{stored}.npy")).sum(1) > 0.999).all()


def test_image_features_are_openais_vit_b_32(reference):
    clip = openai("ViT-B-32")
    stored = np.load(reference / "clip_retrieval_vitb32/image_embs_vitb32.npz")
    paths = [reference / f"clip_retrieval_vitb32/test_images/{name}.jpg" for name in stored["names"]]
    found = clip.image_features(torch.stack([clip.preprocess(image) for image in Images(paths)])).double().numpy()
    assert ((found * stored["embs"].astype(np.float64)).sum(1) > 0.999).all()
