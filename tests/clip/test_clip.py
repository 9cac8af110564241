"""Patch tokens against open_clip's own, the stride trick, and where weights come from; tiny models, random weights."""

import gzip
import json
import logging
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import huggingface_hub
import open_clip
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

from pacl.clip import load_clip, weights
from pacl.clip.frozen import resize_position_embedding
from pacl.clip.texts import class_texts

pytestmark = pytest.mark.usefixtures("one_tokenizer")
TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def save_folder(folder, config=TINY, seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model = open_clip.CLIP(**config)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return model.eval()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    reference = save_folder(folder)
    return load_clip("tiny", str(folder), device="cpu"), reference, folder


@pytest.fixture
def built_in(tmp_path, monkeypatch):
    """A built-in model "tiny" with a tag "openai", no network and empty caches."""
    (tmp_path / "tiny.json").write_text(json.dumps(TINY))
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", TINY)
    tag = {"hf_hub": "nobody/tiny/", "quick_gelu": True, "mean": (0.1, 0.2, 0.3)}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", {"openai": tag})
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def images(B=2, H=32, W=32):
    return torch.randn(B, 3, H, W, generator=torch.Generator().manual_seed(0))


def test_plain_tokens_are_open_clips_own(tiny):
    clip, reference, folder = tiny
    reference.visual.output_tokens = True
    pooled, tokens = reference.visual(images())
    torch.testing.assert_close(clip.patch_features(images()), tokens, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(clip.image_features(images()), F.normalize(pooled, dim=-1), atol=1e-5, rtol=1e-5)
    before = load_clip("tiny", folder, tokens="before_norm", device="cpu")
    last = reference.visual.forward_intermediates(images(), indices=1, output_fmt="NLC")["image_intermediates"][0]
    torch.testing.assert_close(before.patch_features(images()), last, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(before.project(last), clip.project(tokens), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(clip.project(tokens), tokens @ reference.visual.proj)


def test_tokens_of_a_real_architecture_are_open_clips_own():
    clip = load_clip("ViT-B/32", "random", device="cpu")
    assert (clip.random_weights, clip.width, clip.dim, clip.patch_size, clip.image_size) == (True, 768, 512, 32, 224)
    assert clip.logit_scale == pytest.approx(1 / 0.07)
    x = images(1, 224, 224)
    clip.model.visual.output_tokens = True
    tokens = clip.model.visual(x)[1]
    torch.testing.assert_close(clip.patch_features(x), tokens, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("H, W, stride, grid", [(32, 32, None, (4, 4)), (32, 32, 4, (7, 7)), (32, 32, 2, (13, 13))])
def test_stride_gives_a_denser_grid(tiny, H, W, stride, grid):
    clip = tiny[0]
    assert clip.grid(H, W, stride) == grid
    assert clip.patch_features(images(1, H, W), stride).shape == (1, grid[0] * grid[1], 32)


@pytest.mark.parametrize("H, W, stride, grid", [(8, 8, None, (1, 1)), (64, 24, 8, (8, 3)), (37, 50, 4, (8, 11))])
def test_any_image_size(tiny, H, W, stride, grid):
    assert tiny[0].grid(H, W, stride) == grid
    assert tiny[0].patch_features(images(1, H, W), stride).shape == (1, grid[0] * grid[1], 32)


def test_a_stride_token_sees_the_patch_at_its_place(tiny):
    """Without position embeddings and attention between patches nothing else could matter: compare the convolution."""
    visual = tiny[1].visual
    x = images(1)
    dense = F.conv2d(x, visual.conv1.weight, stride=4)
    for row, column in ((0, 0), (3, 5), (6, 6)):
        crop = x[..., row * 4 : row * 4 + 8, column * 4 : column * 4 + 8]
        torch.testing.assert_close(dense[..., row, column], visual.conv1(crop)[..., 0, 0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("H, W, stride", [(32, 32, 4), (37, 50, 2), (37, 25, 4), (11, 8, 1)])
def test_a_shifted_token_is_the_plain_one_of_the_crop_that_starts_a_patch_there(tiny, H, W, stride):
    clip, x = tiny[0], images(2, H, W)
    h, w = clip.grid(H, W, stride)
    tokens = clip.patch_features(x, stride, passes="shifted").unflatten(1, (h, w))
    plain = {}
    for i in range(h):
        for j in range(w):
            (row, y), (column, z) = divmod(i * stride, 8), divmod(j * stride, 8)  # patch row, first pixel of its grid
            if (y, z) not in plain:
                crop = x[:, :, y:, z:]
                plain[y, z] = clip.patch_features(crop).unflatten(1, clip.grid(*crop.shape[2:]))
            torch.testing.assert_close(tokens[:, i, j], plain[y, z][:, row, column])


@pytest.mark.parametrize("stride", [None, 8])
def test_shifted_passes_at_the_patch_size_are_the_joint_one(tiny, stride):
    x = images(2, 37, 50)
    assert torch.equal(tiny[0].patch_features(x, stride, passes="shifted"), tiny[0].patch_features(x, stride))


def test_position_embeddings_keep_the_class_token_and_a_constant():
    embedding = torch.cat([torch.tensor([[9.0, 9.0]]), torch.tensor([[1.0, 2.0]]).expand(16, 2)])
    resized = resize_position_embedding(embedding, (4, 4), (7, 5))
    torch.testing.assert_close(resized, torch.cat([embedding[:1], embedding[1:2].expand(35, 2)]))
    assert resize_position_embedding(embedding, (4, 4), (4, 4)) is embedding


def test_position_embeddings_of_another_shape_are_resized_though_it_has_as_many_patches():
    columns = torch.arange(4.0).repeat(4)[:, None]
    resized = resize_position_embedding(torch.cat([torch.zeros(1, 1), columns]), (4, 4), (2, 8))[1:].reshape(2, 8)
    assert torch.equal(resized[0], resized[1]) and (resized[0, 1:] > resized[0, :-1]).all()


def test_position_embeddings_are_resized_bicubically_row_by_row():
    rows = torch.arange(4.0)[:, None].expand(4, 4).reshape(16, 1)
    resized = resize_position_embedding(torch.cat([torch.zeros(1, 1), rows]), (4, 4), (8, 4))[1:].reshape(8, 4)
    assert torch.equal(resized, resized[:, :1].expand(8, 4)) and (resized[1:, 0] > resized[:-1, 0]).all()
    expected = F.interpolate(rows.reshape(1, 1, 4, 4), size=(8, 4), mode="bicubic")[0, 0]
    torch.testing.assert_close(resized, expected)


@pytest.mark.parametrize(
    "x, stride, message",
    [
        (images(1), 3, "use 1, 2, 4 or 8"),
        (images(1), 16, "use 1, 2, 4 or 8"),
        (images(1), 0, "use 1, 2, 4 or 8"),
        (images(1, 7, 32), None, "smaller than a patch of 8"),
        (images(1, 32, 7), 4, "an image of 32 x 7 pixels is smaller than a patch of 8"),
        (images(1)[0], None, "normalised floats"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), None, "normalised floats"),
        (torch.zeros(1, 4, 32, 32), None, r"normalised floats .*, not torch.float32 \[1, 4, 32, 32\]"),
    ],
)
def test_images_and_strides_that_do_not_fit_are_named(tiny, x, stride, message):
    with pytest.raises(ValueError, match=message):
        tiny[0].patch_features(x, stride)


def test_fourteen_pixel_patches_allow_seven_not_four():
    config = {**TINY, "vision_cfg": {**TINY["vision_cfg"], "image_size": 28, "patch_size": 14}}
    clip = load_clip_of(config)
    assert clip.grid(28, 28, 7) == (3, 3)
    with pytest.raises(ValueError, match="stride 4 does not suit .* 14 pixels: use 1, 2, 7 or 14"):
        clip.grid(28, 28, 4)


def load_clip_of(config, pretrained="random", **options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", config)
        return load_clip("tiny", pretrained, device="cpu", **options)


def test_nothing_is_learned_or_drawn(tiny):
    clip = tiny[0]
    assert not clip.model.training and not any(p.requires_grad for p in clip.model.parameters())
    assert not clip.patch_features(images().requires_grad_()).requires_grad
    state = torch.random.get_rng_state()
    one, two = load_clip_of(TINY), load_clip_of(TINY)
    assert torch.equal(state, torch.random.get_rng_state()) and one.random_weights and not clip.random_weights
    assert torch.equal(one.patch_features(images()), two.patch_features(images()))


def test_bfloat16_gives_float32_close_to_float32(tiny, bfloat16_everywhere):
    clip = load_clip("tiny", tiny[2], device="cpu", dtype="bfloat16")
    for half, full in (
        (clip.patch_features(images()), tiny[0].patch_features(images())),
        (clip.image_features(images()), tiny[0].image_features(images())),
        (clip.text_features(["a cat"]), tiny[0].text_features(["a cat"])),
    ):
        assert half.dtype == torch.float32
        assert F.cosine_similarity(half, full, dim=-1).min() > 0.99 and not torch.equal(half, full)


@pytest.mark.parametrize("tokens", ["after_norm", "before_norm", "value"])
def test_image_and_patch_features_from_one_run_are_those_of_two(tiny, tokens):
    clip = load_clip("tiny", str(tiny[2]), tokens=tokens, device="cpu")
    features, patches = clip.image_and_patch_features(images())
    torch.testing.assert_close(features, clip.image_features(images()), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(patches, clip.patch_features(images()), atol=1e-5, rtol=1e-5)


def test_text_features_are_open_clips_in_any_batching(tiny, monkeypatch):
    clip, reference, _ = tiny
    prompts = [f"a photo of {i} dogs" for i in range(5)]
    expected = reference.encode_text(open_clip.tokenize(prompts, context_length=12), normalize=True)
    torch.testing.assert_close(clip.text_features(prompts), expected, atol=1e-5, rtol=1e-5)
    monkeypatch.setattr("pacl.clip.frozen.PROMPTS_AT_ONCE", 2)
    torch.testing.assert_close(clip.text_features(prompts), expected, atol=1e-5, rtol=1e-5)
    assert clip.text_features([]).shape == (0, 16)
    assert clip.text_features("a cat").shape == (1, 16)


def test_short_and_long_prompts_get_open_clips_features_in_their_order(tiny, monkeypatch):
    """Padding is left out, prompts of like length are batched: neither must show."""
    clip, reference, _ = tiny
    prompts = ["a cat", "an " * 20, "", "a photo of a dog on grass", "cat", "a photo of two dogs by the sea at night"]
    monkeypatch.setattr("pacl.clip.frozen.PROMPTS_AT_ONCE", 4)
    lengths, encode = [], clip.model.transformer.forward
    monkeypatch.setattr(
        clip.model.transformer, "forward", lambda x, **rest: lengths.append(x.shape[1]) or encode(x, **rest)
    )
    found = clip.text_features(prompts)
    expected = reference.encode_text(open_clip.tokenize(prompts, context_length=12), normalize=True)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert lengths == [9, 12]  # seven words with the two marks, the longest of the four shortest; the whole context


def test_preprocess_and_normalize_agree(tiny):
    picture = Image.new("RGB", (32, 32), (10, 200, 30))
    pixels = torch.tensor([10, 200, 30.0])[:, None, None].expand(3, 32, 32) / 255
    torch.testing.assert_close(tiny[0].preprocess(picture), tiny[0].normalize(pixels))
    with pytest.raises(ValueError, match=r"32 x 32 pixels, not \[32, 40\]"):
        tiny[0].image_features(images(1, 32, 40))


@pytest.mark.parametrize(
    "text", [{"pool_type": "last"}, {"no_causal_mask": True}, {"proj_type": "none"}, {"proj_bias": True}]
)
def test_texts_of_other_pooling_masking_or_projection_get_open_clips_features(text):
    """There padding may count, or there is no projection to multiply with."""
    clip = load_clip_of({**TINY, "text_cfg": {**TINY["text_cfg"], **text}})
    prompts = ["a cat", "a dog on the grass"]
    expected = clip.model.encode_text(clip.tokenizer(prompts), normalize=True)
    torch.testing.assert_close(clip.text_features(prompts), expected, atol=1e-5, rtol=1e-5)


def test_class_texts_average_normalised_prompts(tiny):
    clip = tiny[0]
    texts = class_texts(clip, ["cat, kitten", "dog"], ["a {}.", "the {} here"])
    assert texts.phrase_index.tolist() == [0, 0, 1]
    by_hand = clip.text_features(["a kitten.", "the kitten here"]).mean(0)
    torch.testing.assert_close(texts.features[1], by_hand / by_hand.norm())
    with pytest.raises(ValueError, match="class 1 of 2 has no name"):
        class_texts(clip, ["cat", " ,"], ["a {}"])
    with pytest.raises(ValueError, match="class 0 of 2 has no name"):
        class_texts(clip, ["", "dog"], ["a {}"])
    for wrong in (["a photo"], ["a {}", "a {name}"], []):
        with pytest.raises(ValueError, match="needs a {}"):
            class_texts(clip, ["cat"], wrong)


def test_a_folder_may_bring_its_own_vocabulary(tmp_path):
    save_folder(tmp_path, {**TINY, "text_cfg": {**TINY["text_cfg"], "vocab_size": 600}})
    with gzip.open(tmp_path / "bpe.txt.gz", "wt") as file:
        file.write('"bpe_simple_vocab"\na t</w>\nc at</w>\n')
    clip = load_clip("tiny", tmp_path, device="cpu")
    tokens = clip.tokenizer(["cat"])
    assert tokens.shape == (1, 12) and tokens[0, 1] == 513  # 256 bytes, 256 bytes ending a word, the second merge
    assert clip.text_features(["cat"]).shape == (1, 16)


def test_folders_name_what_they_lack(tmp_path):
    with pytest.raises(FileNotFoundError, match="needs open_clip_config.json"):
        load_clip("tiny", tmp_path)
    (tmp_path / "open_clip_config.json").write_text("{")
    with pytest.raises(ValueError, match="no JSON"):
        load_clip("tiny", tmp_path)
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {**TINY, "text_cfg": []}}))
    with pytest.raises(ValueError, match='no JSON with a "model_cfg" of a CLIP'):
        load_clip("tiny", tmp_path)
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY}))
    with pytest.raises(FileNotFoundError, match="no weights"):
        load_clip("tiny", tmp_path)
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"not weights at all" * 200_000)
    with pytest.raises(ValueError, match="does not hold weights of the model in .*open_clip_config.json"):
        load_clip("tiny", tmp_path)


def test_missing_weights_are_one_sentence_within_seconds(built_in):
    start = time.monotonic()
    with pytest.raises(FileNotFoundError) as error:
        load_clip("tiny", "openai")
    message = str(error.value)
    assert time.monotonic() - start < 3
    assert "\n" not in message and "tiny" in message and str(built_in / "hub") in message
    assert "load_clip('tiny', 'openai')" in message and "local weights file" in message


def test_unknown_names_are_named(built_in, monkeypatch):
    with pytest.raises(ValueError, match="no model 'ViT-B-17': did you mean ViT-B-16"):
        load_clip("ViT-B-17", "openai")
    with pytest.raises(FileNotFoundError, match="no open_clip tag of tiny \\(its tags: openai\\)"):
        load_clip("tiny", "opnai")
    with pytest.raises(ValueError, match="tokens must be"):
        load_clip("tiny", "random", tokens="after")
    with pytest.raises(ValueError, match="dtype float32 or bfloat16, not 'after_norm' and 'float16'"):
        load_clip("tiny", "random", dtype="float16")
    with pytest.raises(ValueError, match="no model '水': did you mean ViT-B-16"):
        load_clip("水", "openai")
    monkeypatch.delitem(open_clip.pretrained._PRETRAINED, "tiny")
    with pytest.raises(FileNotFoundError, match="its tags: none"):
        load_clip("tiny", "openai")


def test_a_cached_tag_needs_no_network_and_gets_its_activation_and_mean(built_in):
    """open_clip only warns where OpenAI's weights would run with the wrong activation."""
    snapshot = built_in / "hub" / "models--nobody--tiny" / "snapshots" / "0"
    reference = save_folder(snapshot, {**TINY, "quick_gelu": True})
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("0")
    clip = load_clip("tiny", "openai", device="cpu")
    reference.visual.output_tokens = True
    torch.testing.assert_close(clip.patch_features(images()), reference.visual(images())[1], atol=1e-5, rtol=1e-5)
    assert isinstance(clip.model.visual.transformer.resblocks[0].mlp.gelu, open_clip.transformer.QuickGELU)
    torch.testing.assert_close(clip.normalize(torch.zeros(3, 1, 1)).flatten()[0], torch.tensor(-0.1 / 0.26862954))


def activation(clip):
    return type(clip.model.visual.transformer.resblocks[0].mlp.gelu).__name__


def test_files_of_weights_and_the_activation_they_were_trained_with(built_in):
    state = save_folder(built_in / "folder").state_dict()
    for name, expected in (("plain.bin", "GELU"), ("my_OpenAI.bin", "QuickGELU")):
        torch.save(state, built_in / name)
        clip = load_clip("tiny", built_in / name, device="cpu")
        assert activation(clip) == expected
        assert torch.equal(clip.model.visual.proj, state["visual.proj"])
    assert activation(load_clip("tiny", built_in / "folder" / "open_clip_model.safetensors", device="cpu")) == "GELU"


def test_a_model_of_another_activation_than_the_tags_is_refused(built_in, monkeypatch):
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", {**TINY, "quick_gelu": True})
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED["tiny"], "laion", {"hf_hub": "nobody/tiny/"})
    with pytest.raises(ValueError, match="computes QuickGELU, but 'laion' was trained without"):
        load_clip("tiny", "laion")


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_openais_archive_is_read_with_its_activation(built_in):
    """OpenAI's .pt files: TorchScript in half precision with three sizes beside the weights."""

    class Archive(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.visual, self.transformer = model.visual, model.transformer
            self.token_embedding, self.ln_final = model.token_embedding, model.ln_final
            for name in ("positional_embedding", "text_projection", "logit_scale"):
                setattr(self, name, getattr(model, name))
            for name in ("input_resolution", "context_length", "vocab_size"):
                self.register_buffer(name, torch.tensor(1))

        def forward(self, x):
            return self.visual.conv1(x)

    reference = save_folder(built_in / "folder").half()
    torch.jit.save(torch.jit.trace(Archive(reference), images().half()), built_in / "ViT.pt")
    clip = load_clip("tiny", built_in / "ViT.pt", device="cpu")
    assert activation(clip) == "QuickGELU" and clip.model.visual.proj.dtype == torch.float32
    torch.testing.assert_close(clip.model.visual.proj, reference.visual.proj.float())


def test_a_pickle_that_would_run_code_is_refused(built_in):
    class Runs:
        def __reduce__(self):
            return (print, ("ran",))

    torch.save({"state_dict": Runs()}, built_in / "evil.pt")
    with pytest.raises(ValueError, match="does not hold weights"):
        load_clip("tiny", built_in / "evil.pt")


def test_a_timm_vit_gives_plain_tokens_only():
    config = {**TINY, "custom_text": True}
    config["vision_cfg"] = {
        "image_size": 224,
        "timm_model_name": "vit_tiny_patch16_224",
        "timm_pool": "token",
        "timm_proj": None,
    }
    clip = load_clip_of(config)
    x = images(1, 224, 224)
    tokens = clip.patch_features(x)
    assert tokens.shape == (1, 196, clip.width) and clip.project(tokens).shape == (1, 196, 16)
    class_token = clip.model.visual.trunk.forward_features(x)[:, :1]
    torch.testing.assert_close(clip.project(class_token)[:, 0], clip.model.visual(x), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="stride 8 .* use 16"):
        clip.patch_features(x, 8)
    for H, W in ((240, 240), (224, 240)):
        with pytest.raises(ValueError, match=f"224 x 224 pixels only, not {H} x {W}"):
            clip.patch_features(images(1, H, W))
    assert torch.equal(clip.patch_features(x, passes="shifted"), tokens)
    with pytest.raises(ValueError, match="maskclip can't replace this CLIP's last block: use clip"):
        clip.patch_features(x, last_block="maskclip")
    with pytest.raises(ValueError, match="tokens other than after_norm of a timm network"):
        load_clip_of(config, tokens="value")


@pytest.fixture
def timms(monkeypatch):
    """A function that gives the configuration of a tiny ViT of timm's: a class token, two registers, 16 patches."""

    def nano(pretrained=False, pretrained_cfg=None, pretrained_cfg_overlay=None, cache_dir=None, **options):
        sizes = dict(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, reg_tokens=2)
        return timm.models.VisionTransformer(**sizes, embed_layer=timm.layers.PatchEmbed, **options)

    monkeypatch.setitem(timm.models._registry._model_entrypoints, "nano", nano)

    def config(pool):
        vision = {"image_size": 32, "timm_model_name": "nano", "timm_pool": pool, "timm_proj": None}
        return {**TINY, "custom_text": True, "vision_cfg": vision}

    return config


def test_timms_registers_are_no_patches(timms):
    clip = load_clip_of(timms("token"))
    everything = clip.model.visual.trunk.forward_features(images())
    assert everything.shape == (2, 1 + 2 + 16, 32)
    torch.testing.assert_close(clip.patch_features(images()), everything[:, 3:])


def test_timms_image_and_patch_features_are_those_of_two_calls(timms):
    clip = load_clip_of(timms("token"))
    features, patches = clip.image_and_patch_features(images())
    torch.testing.assert_close(features, F.normalize(clip.model.visual(images()), dim=-1))
    assert torch.equal(patches, clip.patch_features(images()))


def test_where_timm_means_over_patches_their_mean_projected_is_the_images_embedding(timms):
    """timm's final norm comes after that mean."""
    clip = load_clip_of(timms("avg"))
    with torch.no_grad():
        for parameter in clip.model.visual.trunk.fc_norm.parameters():
            parameter += torch.linspace(-1, 1, 32)
    mean = clip.model.visual.trunk.forward_features(images())[:, 3:].mean(dim=1, keepdim=True)
    torch.testing.assert_close(clip.project(mean)[:, 0], clip.model.visual(images()), atol=1e-5, rtol=1e-5)


def test_a_timm_network_that_pools_by_attention_or_starts_with_another_network_is_refused(timms, monkeypatch):
    with pytest.raises(ValueError, match="use a ViT whose class token is projected"):
        load_clip_of(timms("map"))

    monkeypatch.setattr(timm.layers, "PatchEmbed", type("HybridEmbed", (timm.layers.PatchEmbed,), {}))
    with pytest.raises(ValueError, match="use a ViT whose class token is projected"):
        load_clip_of(timms("token"))


def test_a_small_network_of_timms_is_read_from_a_folder(timms, tmp_path):
    """Its configuration has no sizes of the image half; open_clip's defaults would need a larger file."""
    clip = load_clip_of(timms("token"))
    about = {"model_cfg": timms("token"), "preprocess_cfg": {}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(about))
    save_file(clip.model.state_dict(), tmp_path / "open_clip_model.safetensors")
    found = load_clip("nano", tmp_path, device="cpu")
    assert torch.equal(found.patch_features(images()), clip.patch_features(images()))


def test_value_tokens_of_a_block_of_another_make_are_refused_at_once():
    with pytest.raises(ValueError, match="maskclip can't replace this CLIP's last block"):
        load_clip_of({**TINY, "vision_cfg": {**TINY["vision_cfg"], "qk_norm": True}}, tokens="value")


@pytest.mark.parametrize(
    "vision",
    [
        {"attentional_pool": True, "attn_pooler_heads": 2},
        {"layers": [1, 1, 1, 1], "width": 16, "image_size": 32},
        {"pool_type": "avg"},
        {"patch_size": [8, 4]},
        {"image_size": [32, 16]},
    ],
    ids=["attention pooling", "ResNet", "the mean of the patches", "patches no squares", "images no squares"],
)
def test_other_architectures_are_refused_in_one_sentence(vision):
    with pytest.raises(ValueError, match="use a ViT whose class token is projected"):
        load_clip_of({**TINY, "vision_cfg": {**TINY["vision_cfg"], **vision}})


def test_loading_leaves_logging_as_it_was_and_warns_of_nothing(tiny, caplog):
    load_clip("tiny", tiny[2], device="cpu")
    assert logging.root.manager.disable == logging.NOTSET and not caplog.records
    logging.disable(logging.INFO)
    try:
        load_clip("tiny", tiny[2], device="cpu")
        assert logging.root.manager.disable == logging.INFO
    finally:
        logging.disable(logging.NOTSET)


def test_a_clip_is_known_by_its_name_its_tokens_and_every_weight(tiny):
    clip = load_clip("tiny", tiny[2], tokens="value", device="cpu")
    assert clip.identity == {"name": f"tiny {tiny[2]}", "tokens": "value", "weights": tiny[0].identity["weights"]}
    found = {weights.checksum(clip.model)}
    names = ("visual.conv1.weight", "visual.proj", "ln_final.bias", "logit_scale")
    for name in names:
        with torch.no_grad():
            clip.model.get_parameter(name).view(-1)[-1] += 0.5
        found.add(weights.checksum(clip.model))
    assert len(found) == 1 + len(names) and all(len(one) == 16 for one in found)


def test_an_untrained_clip_has_the_folders_architecture_and_weights_of_seed_0(tmp_path):
    trained = save_folder(tmp_path, seed=1).state_dict()
    clip = load_clip("tiny", tmp_path, device="cpu", untrained=True)
    torch.manual_seed(0)
    expected = open_clip.CLIP(**TINY).state_dict()
    found = clip.model.state_dict()
    assert clip.random_weights and all(torch.equal(found[name], expected[name]) for name in expected)
    assert not torch.equal(found["visual.proj"], trained["visual.proj"])


def test_random_weights_are_meant_though_a_folder_is_called_random(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "random").mkdir()
    assert load_clip_of(TINY).random_weights and load_clip_of(TINY, pretrained=Path("random")).random_weights


def test_texts_read_by_hugging_faces_models_are_refused():
    config = {**TINY, "text_cfg": {"hf_model_name": "roberta-base", "hf_tokenizer_name": "roberta-base"}}
    with pytest.raises(ValueError, match="tiny reads text with a Hugging Face model or tokenizer"):
        load_clip_of(config)


def test_safetensors_come_before_what_must_be_unpickled(tmp_path):
    expected = save_folder(tmp_path, seed=0).visual.proj
    torch.save(open_clip.CLIP(**TINY).state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    assert torch.equal(load_clip("tiny", tmp_path, device="cpu").model.visual.proj, expected)
    (tmp_path / "open_clip_model.safetensors").rename(tmp_path / "open_clip_pytorch_model.safetensors")
    assert torch.equal(load_clip("tiny", tmp_path, device="cpu").model.visual.proj, expected)


def test_a_folder_of_a_resnet_is_refused_for_what_it_is(tmp_path):
    vision = {"layers": [1, 1, 1, 1], "width": 16, "image_size": 32}
    save_folder(tmp_path, {**TINY, "vision_cfg": vision})
    with pytest.raises(ValueError, match="use a ViT whose class token is projected"):
        load_clip("tiny", tmp_path, device="cpu")


@pytest.mark.parametrize("size", [[8, 4000], [], ["a", 1], [8, 0], "8"])
def test_an_image_size_larger_than_the_weights_or_none_is_named_with_its_file(tmp_path, size):
    """The longer side says how many places a model has."""
    save_folder(tmp_path)
    vision = {**TINY["vision_cfg"], "image_size": size}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {**TINY, "vision_cfg": vision}}))
    wrong = "is of a model with more than" if size == [8, 4000] else "has a size that is no positive whole number"
    with pytest.raises(ValueError, match=f"open_clip_config.json {wrong}"):
        load_clip("tiny", tmp_path, device="cpu")


def test_weights_are_found_where_hugging_face_and_open_clip_keep_them(built_in):
    hub = built_in / "hub/models--nobody--tiny"
    for name in ("refs/main", ".no_exist/0/own.safetensors", "snapshots/0/own.bin"):
        (hub / name).parent.mkdir(parents=True, exist_ok=True)
        (hub / name).write_text("0")
    assert weights.find_cached({"hf_hub": "nobody/tiny/own.bin"}) == hub / "snapshots/0/own.bin"
    assert weights.find_cached({"hf_hub": "nobody/tiny/"}) is None
    (hub / "snapshots/0/open_clip_pytorch_model.bin").touch()
    assert weights.find_cached({"hf_hub": "nobody/tiny/"}) == hub / "snapshots/0/open_clip_pytorch_model.bin"
    (hub / "snapshots/0/open_clip_model.safetensors").touch()
    assert weights.find_cached({"hf_hub": "nobody/tiny/"}) == hub / "snapshots/0/open_clip_model.safetensors"
    (hub / ".no_exist/0/own.safetensors").rename(hub / "snapshots/0/own.safetensors")
    assert weights.find_cached({"hf_hub": "nobody/tiny/own.bin"}) == hub / "snapshots/0/own.safetensors"
    cache = built_in / ".cache/clip"
    cache.mkdir(parents=True)
    assert weights.find_cached({}) is None and weights.find_cached({"url": "https://elsewhere/ViT.pt"}) is None
    (cache / "ViT.pt").touch()
    assert weights.find_cached({"url": "https://elsewhere/ViT.pt"}) == cache / "ViT.pt"


def test_a_file_has_the_activation_of_its_folder_its_model_or_its_path(built_in, monkeypatch):
    state = save_folder(built_in / "folder", {**TINY, "quick_gelu": True}).state_dict()
    assert activation(load_clip("tiny", built_in / "folder/open_clip_model.safetensors", device="cpu")) == "QuickGELU"
    (built_in / "OpenAI").mkdir()
    torch.save(state, built_in / "OpenAI/plain.bin")
    monkeypatch.chdir(built_in / "OpenAI")
    assert activation(load_clip("tiny", "plain.bin", device="cpu")) == "QuickGELU"
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", {**TINY, "quick_gelu": True})
    torch.save(state, built_in / "plain.bin")
    assert activation(load_clip("tiny", built_in / "plain.bin", device="cpu")) == "QuickGELU"


@pytest.fixture
def server():
    """The address of a server that has nothing, and what was asked of it."""
    asked = []

    class Nothing(BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Nothing) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()
        thread.join()


def test_weights_that_are_not_at_hugging_face_are_asked_for_at_their_own_address(built_in, server, monkeypatch):
    """An answer that this page isn't there is an answer: the network is."""
    state = save_folder(built_in / "folder").state_dict()
    torch.save(state, built_in / "downloaded.bin")
    tag = {"url": f"{server[0]}/ViT.pt"}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED["tiny"], "own", tag)
    monkeypatch.setattr(weights, "download_pretrained", lambda tag: str(built_in / "downloaded.bin"))
    clip = load_clip("tiny", "own", device="cpu")
    assert torch.equal(clip.model.visual.proj, state["visual.proj"]) and server[1] == ["/ViT.pt"]


@pytest.mark.parametrize("error", [RuntimeError("the checksum is another"), ConnectionError("cut")])
def test_a_download_that_fails_says_where_the_weights_may_lie(built_in, server, monkeypatch, error):
    def fail(tag):
        raise error

    monkeypatch.setitem(open_clip.pretrained._PRETRAINED["tiny"], "own", {"url": f"{server[0]}/ViT.pt"})
    monkeypatch.setattr(weights, "download_pretrained", fail)
    with pytest.raises(FileNotFoundError, match="'own' of tiny are not in .*/.cache/clip and cannot be downloaded"):
        load_clip("tiny", "own", device="cpu")


def test_offline_no_server_is_asked(built_in, server, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server[0])
    monkeypatch.setattr(weights, "download_pretrained", lambda tag: pytest.fail("it tried"))
    with pytest.raises(FileNotFoundError, match="cannot be downloaded from here"):
        load_clip("tiny", "openai", device="cpu")
    assert server[1] == []
