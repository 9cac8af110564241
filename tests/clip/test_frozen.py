"""The frozen CLIP against open_clip's own outputs: patch tokens, strides, texts; tiny models, random weights."""

from types import SimpleNamespace

import open_clip
import pytest
import timm
import torch
from helpers.tiny_clip import TINY, images, load_config, save_folder
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

from pacl.clip import load_clip, load_clip_of, weights
from pacl.clip.baselines import LAST_BLOCKS
from pacl.clip.frozen import resize_position_embedding
from pacl.clip.texts import class_texts
from pacl.runtime.params import Model

pytestmark = pytest.mark.usefixtures("one_tokenizer")
CLOSE = dict(atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """(The CLIP, open_clip's own model, their folder)."""
    folder = tmp_path_factory.mktemp("tiny")
    reference = save_folder(folder)
    return load_clip("tiny", str(folder), device="cpu"), reference, folder


# --- patch tokens ---


def test_plain_tokens_are_open_clips_own(tiny):
    clip, reference, folder = tiny
    reference.visual.output_tokens = True
    pooled, tokens = reference.visual(images())
    torch.testing.assert_close(clip.patch_features(images()), tokens, **CLOSE)
    torch.testing.assert_close(clip.image_features(images()), F.normalize(pooled, dim=-1), **CLOSE)
    before = load_clip("tiny", folder, tokens="before_norm", device="cpu")
    last = reference.visual.forward_intermediates(images(), indices=1, output_fmt="NLC")["image_intermediates"][0]
    torch.testing.assert_close(before.patch_features(images()), last, **CLOSE)
    torch.testing.assert_close(before.project(last), clip.project(tokens), **CLOSE)
    torch.testing.assert_close(clip.project(tokens), tokens @ reference.visual.proj)


def test_tokens_of_every_block_are_open_clips_own(tiny):
    clip, reference, _ = tiny
    expected = reference.visual.forward_intermediates(images(), output_fmt="NLC")["image_intermediates"]
    found = list(clip.block_features(images()))
    assert len(found) == len(expected) == 2
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


def test_tokens_of_a_real_architecture_are_open_clips_own():
    clip = load_clip("ViT-B/32", "random", device="cpu")
    assert (clip.random_weights, clip.width, clip.dim, clip.patch_size, clip.image_size) == (True, 768, 512, 32, 224)
    assert clip.logit_scale == pytest.approx(1 / 0.07)
    x = images(1, 224, 224)
    clip.model.visual.output_tokens = True
    torch.testing.assert_close(clip.patch_features(x), clip.model.visual(x)[1], **CLOSE)


@pytest.mark.parametrize(
    "H, W, stride, grid",
    [
        (32, 32, None, (4, 4)),
        (32, 32, 4, (7, 7)),
        (32, 32, 2, (13, 13)),
        (8, 8, None, (1, 1)),
        (64, 24, 8, (8, 3)),
        (37, 50, 4, (8, 11)),
    ],
)
def test_any_image_size_and_stride_gives_a_grid(tiny, H, W, stride, grid):
    assert tiny[0].grid(H, W, stride) == grid
    assert tiny[0].patch_features(images(1, H, W), stride).shape == (1, grid[0] * grid[1], 32)


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


@pytest.mark.parametrize("grid", [(6, 5), (4, 4), (2, 10)])
def test_resized_position_embeddings_are_open_clips(grid):
    embedding = torch.randn(17, 2)
    resized = {"visual.positional_embedding": embedding}
    visual = SimpleNamespace(visual=SimpleNamespace(grid_size=grid))
    open_clip.model.resize_pos_embed(resized, visual, antialias=False)
    expected = resized["visual.positional_embedding"]
    torch.testing.assert_close(resize_position_embedding(embedding, (4, 4), grid), expected)
    square = embedding[1:].reshape(1, 4, 4, 2).permute(0, 3, 1, 2)
    as_many = F.interpolate(square, size=(2, 8), mode="bicubic")[0].permute(1, 2, 0).reshape(-1, 2)
    torch.testing.assert_close(resize_position_embedding(embedding, (4, 4), (2, 8))[1:], as_many)


def test_scaled_position_embeddings_lie_where_sclips_formula_puts_them():
    """Pixel i of n lies at (i + 1/2) * old / (n + 0.1) - 1/2, between four others, with the cubic weights of a = -3/4;
    pixels beyond the edge are those at the edge.
    """

    def cubic(x):
        x = abs(x)
        return 1.25 * x**3 - 2.25 * x**2 + 1 if x <= 1 else -0.75 * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0

    def matrix(old, new):
        found = torch.zeros(new, old)
        for i in range(new):
            at = (i + 0.5) * old / (new + 0.1) - 0.5
            for j in range(-3, old + 3):
                found[i, min(max(j, 0), old - 1)] += cubic(at - j)
        return found

    embedding = torch.randn(17, 2, generator=torch.Generator().manual_seed(0))
    for grid in ((6, 5), (7, 12), (3, 3)):
        square = embedding[1:].reshape(4, 4, 2)
        expected = torch.einsum("yi,xj,ijd->yxd", matrix(4, grid[0]), matrix(4, grid[1]), square).reshape(-1, 2)
        scaled = resize_position_embedding(embedding, (4, 4), grid, "scaled")
        torch.testing.assert_close(scaled, torch.cat([embedding[:1], expected]), **CLOSE)


@pytest.mark.parametrize(
    "x, stride, message",
    [
        *((images(1), stride, "use 1, 2, 4 or 8") for stride in (3, 16, 0)),
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


def test_nothing_is_learned_or_drawn(tiny):
    clip = tiny[0]
    assert not clip.model.training and not any(p.requires_grad for p in clip.model.parameters())
    assert not clip.patch_features(images().requires_grad_()).requires_grad
    state = torch.random.get_rng_state()
    one, two = load_config(TINY), load_config(TINY)
    assert torch.equal(state, torch.random.get_rng_state()) and one.random_weights and not clip.random_weights
    assert torch.equal(one.patch_features(images()), two.patch_features(images()))


def test_bfloat16_gives_float32_close_to_float32(tiny, bfloat16_everywhere):
    def features(clip):
        of_blocks = clip.patch_features_by(images(), list(LAST_BLOCKS)).values()
        return *of_blocks, clip.image_features(images()), clip.text_features(["a cat"])

    rounded = features(load_clip("tiny", tiny[2], device="cpu", dtype="bfloat16"))
    for half, full in zip(rounded, features(tiny[0]), strict=True):
        assert half.dtype == torch.float32
        assert F.cosine_similarity(half, full, dim=-1).min() > 0.99 and not torch.equal(half, full)


@pytest.mark.parametrize("tokens", ["after_norm", "before_norm", "value"])
def test_image_and_patch_features_from_one_run_are_those_of_two(tiny, tokens):
    clip = load_clip("tiny", str(tiny[2]), tokens=tokens, device="cpu")
    features, patches = clip.image_and_patch_features(images())
    torch.testing.assert_close(features, clip.image_features(images()), **CLOSE)
    torch.testing.assert_close(patches, clip.patch_features(images()), **CLOSE)


def test_preprocess_and_normalize_agree(tiny):
    picture = Image.new("RGB", (32, 32), (10, 200, 30))
    pixels = torch.tensor([10, 200, 30.0])[:, None, None].expand(3, 32, 32) / 255
    torch.testing.assert_close(tiny[0].preprocess(picture), tiny[0].normalize(pixels))
    with pytest.raises(ValueError, match=r"32 x 32 pixels, not \[32, 40\]"):
        tiny[0].image_features(images(1, 32, 40))


def test_a_clip_is_identified_by_its_name_its_tokens_and_every_weight(tiny):
    model = Model(backbone="tiny", pretrained=str(tiny[2]), tokens="after_norm", dtype="float32")
    assert load_clip_of(model, device="cpu").identity == tiny[0].identity
    clip = load_clip_of(model, tokens="value", device="cpu")
    assert clip.identity == {"name": f"tiny {tiny[2]}", "tokens": "value", "weights": tiny[0].identity["weights"]}
    found = {weights.checksum(clip.model)}
    names = ("visual.conv1.weight", "visual.proj", "ln_final.bias", "logit_scale")
    for name in names:
        with torch.no_grad():
            clip.model.get_parameter(name).view(-1)[-1] += 0.5
        found.add(weights.checksum(clip.model))
    assert len(found) == 1 + len(names) and all(len(one) == 16 for one in found)


# --- texts ---


def test_text_features_are_open_clips_in_any_batching_and_of_any_length(tiny, monkeypatch):
    """Padding is left out, and prompts of similar length are batched: neither must show."""
    clip, reference, _ = tiny
    prompts = ["a cat", "an " * 20, "", "a photo of a dog on grass", "cat", "a photo of two dogs by the sea at night"]
    expected = F.normalize(reference.encode_text(clip.tokenizer(prompts)), dim=-1)
    torch.testing.assert_close(clip.text_features(prompts), expected, **CLOSE)
    monkeypatch.setattr("pacl.clip.frozen.PROMPTS_AT_ONCE", 4)
    lengths, encode = [], clip.model.transformer.forward
    monkeypatch.setattr(
        clip.model.transformer, "forward", lambda x, **rest: lengths.append(x.shape[1]) or encode(x, **rest)
    )
    torch.testing.assert_close(clip.text_features(prompts), expected, **CLOSE)
    assert lengths == [9, 12]  # seven words with the two marks, the longest of the four shortest; the whole context
    assert clip.text_features([]).shape == (0, 16) and clip.text_features("a cat").shape == (1, 16)


@pytest.mark.parametrize(
    "text", [{"pool_type": "last"}, {"no_causal_mask": True}, {"proj_type": "none"}, {"proj_bias": True}]
)
def test_texts_of_other_pooling_masking_or_projection_get_open_clips_features(text):
    """With these, padding may count, or there is no projection to multiply with."""
    clip = load_config({**TINY, "text_cfg": {**TINY["text_cfg"], **text}})
    prompts = ["a cat", "a dog on the grass"]
    expected = clip.model.encode_text(clip.tokenizer(prompts), normalize=True)
    torch.testing.assert_close(clip.text_features(prompts), expected, **CLOSE)


def test_class_texts_average_normalised_prompts(tiny):
    clip = tiny[0]
    texts = class_texts(clip, ("cat, kitten", "dog"), ["a {}.", "the {} here"])
    assert texts.phrase_index.tolist() == [0, 0, 1] and not texts.background_listed
    by_hand = clip.text_features(["a kitten.", "the kitten here"]).mean(0)
    torch.testing.assert_close(texts.features[1], by_hand / by_hand.norm())
    for names, number in ((["cat", " ,"], 1), (["", "dog"], 0)):
        with pytest.raises(ValueError, match=f"class {number} of 2 has no name"):
            class_texts(clip, names, ["a {}"])
    for wrong in (["a photo"], ["a {}", "a {name}"], []):
        with pytest.raises(ValueError, match="needs a {}"):
            class_texts(clip, ["cat"], wrong)


# --- other architectures ---


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


def test_a_timm_vit_gives_plain_tokens_only_and_none_for_its_registers(timms):
    clip, x = load_config(timms("token")), images()
    everything = clip.model.visual.trunk.forward_features(x)
    assert everything.shape == (2, 1 + 2 + 16, 32)
    tokens = clip.patch_features(x)
    torch.testing.assert_close(tokens, everything[:, 3:])
    torch.testing.assert_close(clip.project(everything[:, :1])[:, 0], clip.model.visual(x), **CLOSE)
    assert torch.equal(clip.patch_features(x, passes="shifted"), tokens)
    features, patches = clip.image_and_patch_features(x)
    torch.testing.assert_close(features, F.normalize(clip.model.visual(x), dim=-1))
    assert torch.equal(patches, tokens)
    with pytest.raises(ValueError, match="timm's, which takes a stride of 4 by shifted passes only"):
        clip.patch_features(x, 4)
    with pytest.raises(ValueError, match="maskclip can't replace this CLIP's last block: use clip"):
        clip.patch_features(x, last_block="maskclip")
    with pytest.raises(ValueError, match="network of timm's, which gives after_norm, but not value"):
        load_config(timms("token"), tokens="value")
    assert list(clip.block_features(x)) == []  # which are not looked into


@pytest.mark.parametrize(
    "name, image, patch, prefix",
    [
        ("eva02_tiny_patch14_224", 224, 14, 1),  # rotary positions and learned ones, as in open_clip's EVA02
        ("vit_small_patch16_dinov3", 256, 16, 5),  # rotary ones alone, a class token, four registers
        ("deit3_small_patch16_224", 224, 16, 1),  # positions without the class token's
    ],
)
def test_timms_networks_take_any_size_as_timms_own_do(name, image, patch, prefix):
    """The reference is timm's network made with dynamic_img_size=True, with the same weights."""
    vision = {"image_size": image, "timm_model_name": name, "timm_pool": "token", "timm_proj": None}
    clip = load_config({**TINY, "custom_text": True, "vision_cfg": vision})
    own = timm.create_model(name, num_classes=16, global_pool="token", dynamic_img_size=True).eval()
    own.load_state_dict(clip.model.visual.trunk.state_dict())
    rows, columns = 3, 5
    x = images(1, rows * patch + patch // 2, columns * patch + 1)  # what is left over is cut off, as everywhere
    tokens = clip.patch_features(x)
    assert clip.grid(*x.shape[2:]) == (rows, columns) and tokens.shape == (1, rows * columns, clip.width)
    with torch.no_grad():
        expected = own.forward_features(x[..., : rows * patch, : columns * patch])
    assert own.num_prefix_tokens == prefix and expected.shape[1] == prefix + rows * columns
    torch.testing.assert_close(tokens, expected[:, prefix:], **CLOSE)
    half = clip.patch_features(x, patch // 2, passes="shifted").unflatten(1, clip.grid(*x.shape[2:], patch // 2))
    torch.testing.assert_close(half[:, ::2, ::2].flatten(1, 2), tokens, **CLOSE)
    lower = clip.patch_features(x[..., patch // 2 :, :])  # the pass that begins half a patch below
    torch.testing.assert_close(half[:, 1::2, ::2].flatten(1, 2), lower, **CLOSE)


def test_where_timm_averages_patches_their_mean_projected_is_the_images_embedding(timms):
    """timm's final norm comes after that mean."""
    clip = load_config(timms("avg"))
    with torch.no_grad():
        for parameter in clip.model.visual.trunk.fc_norm.parameters():
            parameter += torch.linspace(-1, 1, 32)
    mean = clip.model.visual.trunk.forward_features(images())[:, 3:].mean(dim=1, keepdim=True)
    torch.testing.assert_close(clip.project(mean)[:, 0], clip.model.visual(images()), **CLOSE)


def test_a_small_network_of_timms_is_read_from_a_folder(timms, tmp_path):
    """Its configuration has no sizes of the image half; open_clip's defaults would need a larger file."""
    clip = load_config(timms("token"))
    save_folder(tmp_path, timms("token"))
    save_file(clip.model.state_dict(), tmp_path / "open_clip_model.safetensors")
    assert torch.equal(
        load_clip("nano", tmp_path, device="cpu").patch_features(images()), clip.patch_features(images())
    )


def test_a_timm_network_that_starts_with_another_network_is_refused(timms, monkeypatch):
    monkeypatch.setattr(timm.layers, "PatchEmbed", type("HybridEmbed", (timm.layers.PatchEmbed,), {}))
    with pytest.raises(ValueError, match="use a ViT that projects its class token"):
        load_config(timms("token"))


SIGLIP = {"image_size": 224, "timm_model_name": "vit_tiny_patch16_224", "timm_pool": "map", "timm_proj": "none"}
OTHERS = {  # vision_cfg -> the reason
    "attention pooling": ({"attentional_pool": True, "attn_pooler_heads": 2}, "pools its patches into the image's"),
    "ResNet": ({"layers": [1, 1, 1, 1], "width": 16}, "doesn't see its images as a grid of patches"),
    "the mean of the patches": ({"pool_type": "avg"}, "pools its patches into the image's"),
    "patches not square": ({"patch_size": [8, 4]}, "that aren't square"),
    "images not square": ({"image_size": [32, 16]}, "that aren't square"),
    "SigLIP": (SIGLIP, "has no class token of its own .*SigLIP.*nothing projects a single patch into the text space"),
}


@pytest.mark.parametrize("vision, reason", OTHERS.values(), ids=OTHERS)
def test_other_architectures_are_refused_in_one_sentence(vision, reason):
    config = {**TINY, "custom_text": vision is SIGLIP, "vision_cfg": {**TINY["vision_cfg"], **vision}}
    with pytest.raises(ValueError, match=f"this CLIP .*{reason}.*: use a ViT that projects its class token"):
        load_config(config)


def test_value_tokens_of_a_block_of_another_make_are_refused_at_once():
    config = {**TINY, "vision_cfg": {**TINY["vision_cfg"], "qk_norm": True}}
    with pytest.raises(ValueError, match="maskclip can't replace this CLIP's last block"):
        load_config(config, tokens="value")
