"""Features, training and evaluation one after the other, as the notebooks call them: on real photos with a ViT-B-16 of
random weights, and on a mini world of a few scenes; only the mechanics can be judged here."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from pacl.checkpoints import load_embedder
from pacl.clip.features import Texts, patch_tokens, text_features, text_table
from pacl.clip.frozen import class_text_features
from pacl.data.benchmark import target_of
from pacl.data.images import Images, Masks
from pacl.data.prepared import read_labelled, read_pairs, read_scenes
from pacl.data.prompts import templates
from pacl.evaluation.classification import class_scores, score_accuracies
from pacl.evaluation.patches import patch_predictions, scene_patches
from pacl.evaluation.segmentation import segmentation
from pacl.metrics import mean_iou
from pacl.model import VisionEmbedder
from pacl.runtime.files import write_json
from pacl.runtime.params import Prepare, Protocol, Train
from pacl.segment import Method, methods_of
from pacl.sources.miniworld import scenes as miniworld
from pacl.sources.prepare import prepare
from pacl.sources.segmentation_sets import VOC, benchmark, scenes
from pacl.training.cached import CachedPairs
from pacl.training.train import train

PARAMS = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())
MINI, FLICKR8K = PARAMS["mini"], PARAMS["flickr8k"]


def train_settings(**changes):
    few = {"noun_share": 0.0, "warmup_steps": 1, "learning_rate": 1e-3, "weight_decay": 0.0}
    return Train.model_validate(MINI["train"] | few | changes)


def write_features(clip, folder, images, captions, template_list):
    patch_tokens(clip, images, folder / "train_patches.npy", batch_size=16)
    text_features(clip, text_table({"train": captions}), folder, template_list)
    return np.load(folder / "train_patches.npy", mmap_mode="r"), Texts(folder, "train")


def labelled_pixels(masks, benchmark):
    targets = (target_of(masks[i], benchmark["table"]) for i in range(len(masks)))
    return sum(int((target != 255).sum()) for target in targets)


def check_segmentation(clip, methods, images, masks, benchmarks, protocol):
    confmats = segmentation(clip, methods, images, masks, benchmarks, protocol, batch_size=4)
    for name, one in benchmarks.items():
        for confmat in confmats[name].values():
            assert confmat.shape == (len(one["classes"]),) * 2
            assert confmat.sum().item() == labelled_pixels(masks, one) > 0
            assert 0 <= mean_iou(confmat) <= 1
    return confmats


def test_real_photos_from_pairs_to_confusion_matrices(real_data, random_vit, tmp_path):
    few = {"raw": str(real_data), "train_pairs": 64, "validation_scenes": 20, "test_scenes": 20}
    prepare(
        tmp_path / "prepared", Prepare.model_validate(FLICKR8K["prepare"] | few | {"benchmarks": ["voc20", "voc21"]})
    )
    images, captions = read_pairs(tmp_path / "prepared", "train")
    captions = [[min(texts, key=len)] for texts in captions]  # five each would take minutes
    patches, texts = write_features(random_vit, tmp_path / "features", images, captions, "plain")
    assert patches.shape == (64, 196, 768) and patches.dtype == np.float16 and np.isfinite(patches).all()
    assert texts.caption_features.shape == (64, 512) and texts.noun_features.shape[1:] == (1, 512)
    np.testing.assert_allclose(np.linalg.norm(texts.caption_features.astype(float), axis=-1), 1, atol=2e-3)
    params = train_settings(pairs=16, batch_size=16, epochs=8)  # one batch, overfitted
    embedder, history = train(CachedPairs(patches, texts, params), params)
    losses = [row["loss"] for row in history]
    assert np.isfinite(losses).all() and losses[-1] < 0.75 * losses[0]
    images, masks, benchmarks = read_scenes(tmp_path / "prepared", "test")
    assert len(images) == 20 and set(benchmarks) == {"voc20", "voc21"}
    protocol = Protocol(short_side=112, templates="plain", background_rule="probability", background_threshold=0.1)
    check_segmentation(
        random_vit, methods_of(random_vit, embedder, ["clip", "pacl"]), images, masks, benchmarks, protocol
    )


def test_three_protocols_on_real_photos_with_random_weights(real_data, random_vit):
    """Mechanics only: every setting of the protocols is used, on one photo; native, which is dense, on a small copy."""
    voc = real_data / "VOCdevkit/VOC2012"
    images, masks, _ = scenes(voc, VOC, "val")
    images, masks = [Image.open(images[0]).convert("RGB")], [np.asarray(Image.open(masks[0]))]
    found = {}
    for name, settings in FLICKR8K["protocols"].items():
        smaller = {"templates": "one"} | ({"short_side": 64} if name == "native" else {})
        protocol = Protocol.model_validate(settings | smaller)
        methods = methods_of(random_vit, VisionEmbedder(768, 512), ["clip", "pacl"])
        described = {"voc21": benchmark("voc21", voc, [])}
        found[name] = check_segmentation(random_vit, methods, Images(images), Masks(masks), described, protocol)
    voc21 = {name: of_protocol["voc21"]["clip"] for name, of_protocol in found.items()}
    assert not torch.equal(voc21["sclip"], voc21["tcl"]) and not torch.equal(voc21["native"], voc21["tcl"])


@pytest.fixture(scope="module")
def mini_world(tmp_path_factory, before_forks):
    """A prepared mini world of 32 pairs, 6 scenes a split and 4 images a classification set."""
    folder = tmp_path_factory.mktemp("mini")
    few = {"train_pairs": 32, "validation_scenes": 6, "test_scenes": 6, "classification_images": 4}
    prepare(folder / "prepared", Prepare.model_validate(MINI["prepare"] | few))
    return folder


def test_a_mini_world_from_pairs_to_scores(mini_world, tiny_clip, tmp_path):
    pairs = read_pairs(mini_world / "prepared", "train")
    patches, texts = write_features(tiny_clip, tmp_path, *pairs, "seven")
    assert patches.shape == (32, 16, 32) and texts.noun_features.shape[1:] == (7, 16)
    params = train_settings(pairs=32, batch_size=16, epochs=20, noun_share=0.5, learning_rate=1e-2)
    embedder, history = train(
        CachedPairs(patches, texts, params), params, validation=(patches, texts), folder=tmp_path / "checkpoints"
    )
    assert history[-1]["validation_loss"] < history[0]["validation_loss"] - 0.1
    embedder = load_embedder(tmp_path / "checkpoints/best")[0]
    methods = methods_of(tiny_clip, embedder, ["clip", "pacl"])
    images, masks, benchmarks = read_scenes(mini_world / "prepared", "test")
    windows = {"short_side": 48, "window": 32, "window_stride": 16, "background_rule": "entropy", "templates": "one"}
    two = {name: benchmarks[name] for name in ("voc21", "context59")}
    for protocol in (Protocol(token_stride=4, templates="plain"), Protocol(**windows, background_threshold=1.5)):
        check_segmentation(tiny_clip, methods, images, masks, two, protocol)
    tokens, labels = scene_patches(
        tiny_clip, images, masks, benchmarks["voc20"]["table"], batch_size=4, last_blocks=["clip"]
    )
    text = class_text_features(tiny_clip, benchmarks["voc20"]["classes"], templates("seven"))
    assert patch_predictions(embedder, tokens["clip"], *text).shape == labels.shape == (6, 16)
    pictures, answers, classes = read_labelled(mini_world / "prepared", "test", miniworld.SETS[0])
    attention = {"scoring": params.scoring, "scale": params.scale}
    scores = class_scores(tiny_clip, methods["pacl"], pictures, classes, templates("plain"), attention)
    assert [part.shape for part in scores] == [(4, len(classes))] * 2 and all(
        map(torch.all, map(torch.isfinite, scores))
    )
    assert all(0 <= share <= 1 for share in score_accuracies(*scores, answers, 0.5, (100.0, 100.0)).values())


def test_the_same_run_twice_gives_the_same_bytes(tiny_clip, before_forks, tmp_path):
    """Preparation, features, training and evaluation in new folders: every file, the metrics among them."""

    def run(folder):
        few = {"train_pairs": 16, "validation_scenes": 2, "test_scenes": 4, "classification_images": 1}
        prepare(folder / "prepared", Prepare.model_validate(MINI["prepare"] | few))
        patches, texts = write_features(tiny_clip, folder, *read_pairs(folder / "prepared", "train"), "seven")
        params = train_settings(pairs=16, batch_size=8, epochs=3, noun_share=0.5)
        source = CachedPairs(patches, texts, params)
        embedder, _ = train(source, params, validation=(patches, texts), folder=folder / "checkpoints")
        images, masks, benchmarks = read_scenes(folder / "prepared", "test")
        methods, one = methods_of(tiny_clip, embedder, ["clip", "pacl"]), {"voc21": benchmarks["voc21"]}
        confmats = segmentation(tiny_clip, methods, images, masks, one, Protocol(token_stride=4), batch_size=4)
        write_json(folder / "metrics.json", {name: mean_iou(found) for name, found in confmats["voc21"].items()})
        return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    first, second = run(tmp_path / "first"), run(tmp_path / "second")
    assert first.keys() == second.keys() and {"metrics.json", "train_patches.npy"} <= {path.name for path in first}
    assert [path for path in first if first[path] != second[path]] == []


def test_photos_of_several_sizes_one_after_the_other(tiny_clip):
    rng = np.random.default_rng(0)
    sizes = [(40, 60), (40, 60), (50, 33), (40, 60)]
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    masks = [rng.choice(np.array([0, 1, 2, 255], np.uint8), size) for size in sizes]
    benchmarks = {"both": {"classes": ["background", "cat", "dog, puppy"], "table": [0, 1, 2, *[-1] * 252, 255]}}
    protocol = Protocol(short_side=32, background_rule="probability", background_threshold=0.5)
    methods = {"clip": Method(tiny_clip.project, "clip")}
    whole = check_segmentation(tiny_clip, methods, Images(images), Masks(masks), benchmarks, protocol)
    alone = [
        segmentation(tiny_clip, methods, Images([image]), Masks([mask]), benchmarks, protocol)
        for image, mask in zip(images, masks, strict=True)
    ]
    assert torch.equal(whole["both"]["clip"], sum(confmats["both"]["clip"] for confmats in alone))


def test_a_mask_with_a_foreign_value_stops_the_evaluation(tiny_clip):
    image, mask = np.zeros((32, 32, 3), np.uint8), np.full((32, 32), 7, np.uint8)
    benchmarks = {"one": {"classes": ["cat"], "table": [0, *[-1] * 255]}}
    methods = {"clip": Method(tiny_clip.project, "clip")}
    with pytest.raises(ValueError, match="holds the value 7"):
        segmentation(tiny_clip, methods, Images([image]), Masks([mask]), benchmarks, Protocol())
