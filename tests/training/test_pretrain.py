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

from pacl.clip import load_clip
from pacl.data.prompts import all_templates
from pacl.sources.miniworld import textures
from pacl.sources.miniworld.captions import caption
from pacl.sources.miniworld.scenes import pair, rng_of, scene
from pacl.sources.miniworld.things import things
from pacl.training import pretrain as pretrain_module
from pacl.training.pretrain import (
    merges_of,
    mirrored,
    model_config,
    parameter_groups,
    plain_attention,
    pretrain,
    save_clip,
    save_tokenizer,
    to_tensor,
    train_step,
    used_merges,
)

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
    resume = tmp_path_factory.mktemp("trained") / "resume"
    return pretrain(*world, model_config(PARAMS, tokenizer.vocab_size), tokenizer, PARAMS, resume=resume)


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


def pretrained(world, tokenizer, path, **changes):
    params = SimpleNamespace(**{**vars(PARAMS), "epochs": 4, **changes})
    torch.rand(1)  # whatever was drawn before
    config = model_config(params, tokenizer.vocab_size)
    model, history = pretrain(world[0], world[1], config, tokenizer, params, resume=path)
    return model.state_dict(), history


def equal(weights, others):
    return all(torch.equal(weights[name], others[name]) for name in weights)


def test_equal_seeds_give_equal_weights(world, tokenizer, tmp_path):
    runs = [pretrained(world, tokenizer, tmp_path / str(i), seed=seed)[0] for i, seed in enumerate((0, 0, 1))]
    assert equal(runs[0], runs[1])
    assert not torch.equal(runs[0]["visual.proj"], runs[2]["visual.proj"])


def test_a_run_that_was_cut_goes_on_to_the_same_weights(world, tokenizer, tmp_path, monkeypatch):
    """15 epochs of 4 steps, cut in the 12th: the 50 losses of the one row of history lie on both sides of the cut."""
    unbroken = pretrained(world, tokenizer, tmp_path / "unbroken", epochs=15)
    step, calls = pretrain_module.train_step, []

    def cut_at_46(*arguments):
        calls.append(1)
        if len(calls) == 46:
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(pretrain_module, "train_step", cut_at_46)
    with pytest.raises(KeyboardInterrupt):
        pretrained(world, tokenizer, tmp_path / "cut", epochs=15)
    weights, history = pretrained(world, tokenizer, tmp_path / "cut", epochs=15)
    assert len(calls) == 46 + 16  # the 12th epoch anew and three more
    assert equal(weights, unbroken[0]) and history == unbroken[1] and not (tmp_path / "cut").exists()
    assert [row["step"] for row in history] == [50]


def test_a_run_warms_up_decays_matrices_alone_and_notes_the_mean_of_fifty_losses(
    world, tokenizer, tmp_path, monkeypatch
):
    rates, decays = [], set()

    def step(model, optimizer, images, tokens):
        rates.append(optimizer.param_groups[0]["lr"])
        decays.add(tuple(group["weight_decay"] for group in optimizer.param_groups))
        optimizer.step()  # without gradients it changes nothing
        return float(len(rates))

    monkeypatch.setattr(pretrain_module, "train_step", step)
    _, history = pretrained(world, tokenizer, tmp_path / "resume", epochs=15)
    assert decays == {(0.1, 0.0)} and len(rates) == 60
    assert rates.index(max(rates)) == 5 and max(rates) == pytest.approx(PARAMS.learning_rate), "a tenth of the steps"
    assert [(row["step"], row["loss"]) for row in history] == [(50, np.mean(range(1, 51)))]


def test_every_epoch_sees_every_image_once(world, tokenizer, tmp_path, monkeypatch):
    seen = []

    def step(model, optimizer, images, tokens):
        seen.append(tokens)
        optimizer.step()  # without gradients it changes nothing
        return 0.0

    monkeypatch.setattr(pretrain_module, "train_step", step)
    pretrained(world, tokenizer, tmp_path / "resume", epochs=2)
    epochs = [[tuple(row) for row in torch.cat(seen[start : start + 4]).tolist()] for start in (0, 4)]
    everything = sorted(tuple(row) for row in tokenizer(world[1]).tolist())
    assert sorted(epochs[0]) == sorted(epochs[1]) == everything and epochs[0] != epochs[1]


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


def test_a_step_is_one_of_a_gradient_that_is_no_longer_than_1(world, tokenizer):
    """Plain descent at a rate of 0.01 moves all weights together by 0.01, if the gradient was longer."""
    torch.manual_seed(0)
    model = open_clip.CLIP(**model_config(PARAMS, tokenizer.vocab_size))
    with torch.no_grad():
        model.logit_scale.fill_(np.log(90))  # a large scale makes gradients long
    before = [parameter.detach().clone() for parameter in model.parameters()]
    train_step(model, torch.optim.SGD(model.parameters(), lr=0.01), world[0][:16], tokenizer(world[1][:16]))
    moved = [(new.detach() - old).norm() for new, old in zip(model.parameters(), before, strict=True)]
    assert torch.stack(moved).norm().item() == pytest.approx(0.01, rel=0.01)


def test_the_logit_scale_stays_below_a_hundred(world, tokenizer):
    torch.manual_seed(0)
    model = open_clip.CLIP(**model_config(PARAMS, tokenizer.vocab_size))
    for before, after in ((5.0, np.log(100)), (-1.0, 0.0)):
        with torch.no_grad():
            model.logit_scale.fill_(before)
        train_step(model, torch.optim.SGD(model.parameters(), lr=0.0), world[0][:4], tokenizer(world[1][:4]))
        assert model.logit_scale.item() == pytest.approx(after)


def test_a_step_forgets_the_gradient_of_the_one_before(world, tokenizer):
    def gradient(*batches):
        torch.manual_seed(0)
        model = open_clip.CLIP(**model_config(PARAMS, tokenizer.vocab_size))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        for batch in batches:
            train_step(model, optimizer, world[0][batch], tokenizer(world[1][batch]))
        return model.visual.proj.grad

    first, second = slice(0, 8), slice(8, 16)
    torch.testing.assert_close(gradient(first, second), gradient(second))
    assert not torch.allclose(gradient(first), gradient(second))


def test_a_run_goes_on_with_equal_settings_and_data_only(world):
    images, captions = world
    same = pretrain_module.identify(images, captions, {"embed_dim": 16}, PARAMS)
    assert same == pretrain_module.identify(images.copy(), list(captions), {"embed_dim": 16}, PARAMS)
    changes = {"batch_size": 8, "epochs": 3, "learning_rate": 1e-3, "weight_decay": 0.2, "seed": 1}
    others = [
        (images, captions, {"embed_dim": 16}, SimpleNamespace(**(vars(PARAMS) | {k: v}))) for k, v in changes.items()
    ]
    others += [(255 - images, captions, {"embed_dim": 16}, PARAMS), (images, captions[::-1], {"embed_dim": 16}, PARAMS)]
    others += [(images, captions, {"embed_dim": 8}, PARAMS)]
    assert all(pretrain_module.identify(*other) != same for other in others)


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
    wide = SimpleNamespace(**(vars(PARAMS) | {"text_width": 64, "width": 128}))
    assert model_config(wide, 600)["text_cfg"]["heads"] == 64 // 16
    preprocess = json.loads((folder / "open_clip_config.json").read_text())["preprocess_cfg"]
    assert (preprocess["interpolation"], preprocess["resize_mode"]) == ("bicubic", "shortest")
    assert config["text_cfg"]["heads"] == 32 // 16 and config["text_cfg"]["vocab_size"] == tokenizer.vocab_size
