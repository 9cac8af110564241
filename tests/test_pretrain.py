"""Pre-training the mini CLIP: the pieces of CLIP's own tokenizer, a falling loss, a folder that open_clip reads."""

import json
from types import SimpleNamespace
from unittest import mock

import numpy as np
import open_clip
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from torch.nn import functional as F

from pacl import pretrain as pretrain_module
from pacl import textures
from pacl.captions import caption
from pacl.clip import load_clip
from pacl.miniworld import pair, rng_of, scene
from pacl.pretrain import (
    merges_of,
    mirrored,
    model_config,
    parameter_groups,
    plain_attention,
    pretrain,
    save_clip,
    save_tokenizer,
    to_tensor,
    used_merges,
)
from pacl.prompts import all_templates
from pacl.things import things

SIZES = dict(
    image_size=64, patch_size=16, width=32, layers=1, head_width=16, embed_dim=16, context_length=32, text_width=32
)
PARAMS = SimpleNamespace(**SIZES, text_layers=1, batch_size=16, epochs=25, learning_rate=3e-3, weight_decay=0.1, seed=0)


@pytest.fixture(scope="module")
def world():
    """64 pairs of the mini world."""
    images, captions = zip(*[pair(index, seed=3, split="pretrain") for index in range(64)], strict=True)
    return np.stack(images), list(captions)


@pytest.fixture(scope="module")
def tokenizer(world, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "bpe.txt.gz"
    save_tokenizer(world[1], path)
    return SimpleTokenizer(bpe_path=str(path), context_length=PARAMS.context_length)


@pytest.fixture(scope="module")
def trained(world, tokenizer, tmp_path_factory):
    checkpoint = tmp_path_factory.mktemp("trained") / "progress.pt"
    return pretrain(*world, model_config(PARAMS, tokenizer.vocab_size), tokenizer, PARAMS, checkpoint=checkpoint)


# --- tokenizer ---


def pieces(tokenizer, text):
    return [tokenizer.decoder[token] for token in tokenizer.encode(text)]


def test_the_cut_tokenizer_gives_the_pieces_of_clips_own(tmp_path):
    names = [*things(), *textures.NAMES, *(kind for drawing in things().values() for kind in drawing["kinds"])]
    prompts = [form.format(name) for forms in all_templates().values() for form in forms for name in names[::7]]
    rng = rng_of(5, "train", 0)
    shown = [scene(rng) for _ in range(12)]
    texts = [caption(rng, s["things"], s["stuff"]) for s in shown for _ in range(25)] + names + prompts
    save_tokenizer(texts, tmp_path / "bpe.txt.gz")
    full, cut = SimpleTokenizer(), SimpleTokenizer(bpe_path=str(tmp_path / "bpe.txt.gz"))
    for text in texts:
        assert pieces(cut, text) == pieces(full, text), text
    assert cut.vocab_size == 2 * 256 + len(used_merges(texts)) + 2 < full.vocab_size / 20
    assert max(max(cut.encode(text)) for text in texts) < cut.vocab_size


def test_words_that_it_never_saw_are_cut_into_smaller_pieces(tokenizer):
    assert len(pieces(tokenizer, "xylophone")) > len(pieces(SimpleTokenizer(), "xylophone"))
    assert tokenizer.decode(tokenizer.encode("xylophone")).strip() == "xylophone"


def test_merges_by_hand():
    ranks = {("a", "b"): 1, ("ab", "c</w>"): 2, ("b", "c</w>"): 0, ("x", "x"): 3}
    assert merges_of("abc", ranks) == [("b", "c</w>")]  # the first merge takes the b from the second
    assert merges_of("ab", ranks) == []  # at a word's end it is another piece: b</w>
    assert merges_of("abab", {("a", "b"): 0, ("a", "b</w>"): 1}) == [("a", "b"), ("a", "b</w>")]
    assert merges_of("xxxxa", ranks) == [("x", "x")]  # both pairs at once
    assert merges_of("a", ranks) == []


def test_equal_texts_give_equal_tokenizer_files(tmp_path):
    for name in ("one", "two"):
        save_tokenizer(["a red apple", "two ducks"], tmp_path / name / "bpe.txt.gz")
    assert (tmp_path / "one/bpe.txt.gz").read_bytes() == (tmp_path / "two/bpe.txt.gz").read_bytes()
    assert used_merges(["a red apple", "two ducks"]) == used_merges(["two ducks", "apple", "A RED apple"])


# --- training ---


def test_a_tiny_model_learns(trained):
    model, history = trained
    assert [row["step"] for row in history] == [50, 100]  # 64 / 16 * 25 epochs
    assert history[0]["loss"] > history[1]["loss"] + 0.3 and history[1]["loss"] < np.log(16) - 0.5
    assert history[0]["learning_rate"] < PARAMS.learning_rate and history[1]["learning_rate"] < 1e-4
    assert history[1]["logit_scale"] == pytest.approx(model.logit_scale.exp().item())
    assert not model.training


def test_equal_seeds_give_equal_weights(world, tokenizer, tmp_path):
    images, captions = world[0][:32], world[1][:32]
    config = model_config(PARAMS, tokenizer.vocab_size)
    weights = []
    for run, seed in enumerate((0, 0, 1)):
        torch.rand(1)  # whatever was drawn before
        params = SimpleNamespace(**{**vars(PARAMS), "epochs": 2, "seed": seed})
        model, _ = pretrain(images, captions, config, tokenizer, params, checkpoint=tmp_path / f"{run}.pt")
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["visual.proj"], weights[2]["visual.proj"])


def test_a_run_that_was_cut_goes_on_to_the_same_weights(world, tokenizer, tmp_path, monkeypatch):
    config = model_config(PARAMS, tokenizer.vocab_size)
    params = SimpleNamespace(**{**vars(PARAMS), "epochs": 3})
    whole, history = pretrain(*world, config, tokenizer, params, checkpoint=tmp_path / "whole.pt")
    steps, one_step = [], pretrain_module.train_step

    def cut_in_the_second_epoch(*args):
        steps.append(one_step(*args))
        if len(steps) == 6:  # 4 steps an epoch
            raise KeyboardInterrupt
        return steps[-1]

    monkeypatch.setattr(pretrain_module, "train_step", cut_in_the_second_epoch)
    with pytest.raises(KeyboardInterrupt):
        pretrain(*world, config, tokenizer, params, checkpoint=tmp_path / "cut.pt")
    monkeypatch.setattr(pretrain_module, "train_step", one_step)
    resumed, resumed_history = pretrain(*world, config, tokenizer, params, checkpoint=tmp_path / "cut.pt")
    assert resumed_history == history
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


def test_plain_attention_is_torchs():
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, 7, 16, generator=generator) for _ in range(3))
    expected = F.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(plain_attention(query, key, value), expected)
    causal = torch.full((7, 7), -torch.inf).triu(1)
    masked = F.scaled_dot_product_attention(query, key, value, attn_mask=causal)
    torch.testing.assert_close(plain_attention(query, key, value, attn_mask=causal), masked)
    assert not torch.allclose(masked, expected, atol=0.01)


def test_a_model_computes_the_same_with_plain_attention(world, tokenizer):
    """The text encoder's causal mask comes through, too."""
    torch.manual_seed(0)
    model = open_clip.CLIP(**model_config(PARAMS, tokenizer.vocab_size))
    images, tokens = to_tensor(world[0][:4]), tokenizer(world[1][:4])
    expected = model(images, tokens)
    attend = mock.Mock(side_effect=plain_attention)
    with mock.patch("torch.nn.functional.scaled_dot_product_attention", attend):
        torch.testing.assert_close(model(images, tokens), expected, rtol=1e-4, atol=1e-5)
    assert attend.call_count == 2  # one layer of vision, one of text


def test_mirrored_images_are_mirrored_left_to_right():
    images = np.random.default_rng(0).integers(0, 256, (200, 4, 6, 3), dtype=np.uint8)
    after = mirrored(np.random.default_rng(1), images)
    flipped = np.array([np.array_equal(a, np.fliplr(b)) for a, b in zip(after, images, strict=True)])
    assert 70 < flipped.sum() < 130
    assert np.array_equal(after[~flipped], images[~flipped])


def test_only_matrices_decay(trained):
    decayed, others = parameter_groups(trained[0], 0.1)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    names = {id(parameter): name for name, parameter in trained[0].named_parameters()}
    apart = {names[id(parameter)] for parameter in others["params"]}
    assert {"logit_scale", "visual.class_embedding", "visual.ln_post.weight", "ln_final.bias"} <= apart
    assert not any(name.endswith("proj.weight") or name == "text_projection" for name in apart)
    assert len(decayed["params"]) + len(apart) == len(names)


# --- the saved folder ---


@pytest.fixture(scope="module")
def folder(trained, world, tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("miniclip")
    save_tokenizer(world[1], path / "bpe.txt.gz")
    save_clip(path, trained[0], model_config(PARAMS, tokenizer.vocab_size))
    return path


def test_the_folder_is_read_by_load_clip(folder, trained, world, tokenizer):
    clip, model = load_clip("miniclip", folder, device="cpu"), trained[0]
    assert (clip.patch_size, clip.image_size, clip.width, clip.dim) == (16, 64, 32, 16)
    assert clip.logit_scale == pytest.approx(model.logit_scale.exp().item())
    with torch.no_grad():
        images = model.encode_image(to_tensor(world[0][:4]), normalize=True)
        texts = model.encode_text(tokenizer(world[1][:4]), normalize=True)
    torch.testing.assert_close(clip.image_features(to_tensor(world[0][:4])), images, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(clip.text_features(world[1][:4]), texts, atol=1e-5, rtol=1e-5)


def test_the_folder_is_read_by_open_clip(folder, trained, world, tokenizer):
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    model.eval()
    with torch.no_grad():
        for kind, inputs in (("image", to_tensor(world[0][:4])), ("text", tokenizer(world[1][:4]))):
            expected = getattr(trained[0], f"encode_{kind}")(inputs)
            torch.testing.assert_close(getattr(model, f"encode_{kind}")(inputs), expected, atol=1e-5, rtol=1e-5)


def test_training_sees_images_as_evaluation_does(folder, world):
    clip = load_clip("miniclip", folder, device="cpu")
    seen = torch.stack([clip.preprocess(Image.fromarray(image)) for image in world[0][:3]])
    torch.testing.assert_close(to_tensor(world[0][:3]), seen)


def test_the_configuration_is_the_one_asked_for(folder, tokenizer):
    config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    assert config["vision_cfg"] == {"image_size": 64, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16}
    assert config["text_cfg"]["heads"] == 32 // 16 and config["text_cfg"]["vocab_size"] == tokenizer.vocab_size
