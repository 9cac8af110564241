"""Each training-free baseline against its definition in double precision, one token at a time."""

import json
import math
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from pacl.clip import load_clip
from pacl.clip.baselines import LAST_BLOCKS, gaussians, neighbourhood, whole_block
from pacl.sources.miniworld import scenes as miniworld

ROOT = Path(__file__).parents[2]
METHODS = sorted(LAST_BLOCKS)


class Largest(TorchDispatchMode):
    """How many numbers the largest of all tensors that operations return holds in memory."""

    numbers = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        found = function(*arguments, **options or {})
        for one in found if isinstance(found, tuple | list) else [found]:
            if isinstance(one, torch.Tensor):
                self.numbers = max(self.numbers, one.untyped_storage().nbytes() // one.element_size())
        return found


def load_random(folder, **vision):
    """The folder's model with all parameters of its image half random, also biases and norms: none can be forgotten."""
    config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    config["vision_cfg"] |= vision
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", config)
        clip = load_clip("tiny", "random", device="cpu")
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in clip.model.visual.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=rng)
    return clip


@pytest.fixture(scope="module")
def random(tiny_folder):
    return load_random(tiny_folder, ls_init_value=0.7)


@pytest.fixture(scope="module")
def mini():
    return load_clip("miniclip", ROOT / "data/miniclip", device="cpu")


@pytest.fixture(params=["random", "mini world's scene", "photo"])
def case(request):
    """(A CLIP, normalised images)."""
    if request.param == "random":
        x = torch.randn(2, 3, 40, 24, generator=torch.Generator().manual_seed(0))
        return request.getfixturevalue("random"), x
    clip = request.getfixturevalue("mini")
    if request.param == "photo":
        path = min((request.getfixturevalue("real_data") / "VOCdevkit/VOC2012/JPEGImages").iterdir())
        pixels = np.array(Image.open(path).convert("RGB").resize((88, 64)))
    else:
        pixels, _ = miniworld.labelled_scene(0, seed=7, split="test")
    return clip, clip.normalize(torch.tensor(pixels).permute(2, 0, 1)[None] / 255)


def layer_norm(x, weights, name):
    centred = x - x.mean(axis=-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
    return centred / deviation * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(x, weights, name):
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def softmax(scores):
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def squared_distance(s, t, grid):
    (y, x), (v, u) = divmod(s - 1, grid[1]), divmod(t - 1, grid[1])
    return (y - v) ** 2 + (x - u) ** 2


def attention_weights(method, q, k, t, grid):
    """The weight of each token for token t, 0 for the class token, from one head's q and k [1 + N, d]."""
    scale = 1 / math.sqrt(q.shape[1])
    if method == "maskclip":
        return np.eye(len(q))[t]
    if method == "sclip":
        return softmax(q @ q[t] * scale) + softmax(k @ k[t] * scale)
    if method == "clearclip":
        return softmax(q @ q[t] * scale)
    if method == "naclip":
        bias = [math.exp(-squared_distance(s, t, grid) / 50) if s and t else 0.0 for s in range(len(q))]
        return softmax(k @ k[t] * scale + bias)
    return softmax(k @ q[t] * scale)


def last_block_by_hand(method, x, weights, heads, grid):
    """One image's tokens [1 + N, D_v] in float64."""
    D = x.shape[1]
    qkv = layer_norm(x, weights, "ln_1") @ weights["attn.in_proj_weight"].T + weights["attn.in_proj_bias"]
    attended = np.zeros_like(x)
    for head in range(heads):
        part = slice(head * D // heads, (head + 1) * D // heads)
        q, k, v = (qkv[:, i * D : (i + 1) * D][:, part] for i in range(3))
        for t in range(len(x)):
            attended[t, part] = attention_weights(method, q, k, t, grid) @ v
    y = linear(attended, weights, "attn.out_proj") * weights.get("ls_1.gamma", 1)
    if method not in ("clip", "sclip"):
        return y
    y = x + y
    hidden = linear(layer_norm(y, weights, "ln_2"), weights, "mlp.c_fc")
    hidden = hidden * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2))) / 2  # GELU
    return y + linear(hidden, weights, "mlp.c_proj") * weights.get("ls_2.gamma", 1)


def doubles(module):
    return {name: value.double().numpy() for name, value in module.state_dict().items()}


def input_of_last_block(clip, x):
    found = []
    first_layer = clip.model.visual.transformer.resblocks[-1].ln_1
    handle = first_layer.register_forward_pre_hook(lambda _, given: found.append(given))
    clip.patch_features(x, last_block="clip")
    handle.remove()
    return found[0][0].double().numpy()


@pytest.mark.parametrize("method", METHODS)
def test_each_baseline_is_its_definition(case, method):
    clip, x = case
    block = clip.model.visual.transformer.resblocks[-1]
    grid = clip.grid(*x.shape[2:])
    final = {f"ln_post.{name}": value for name, value in doubles(clip.model.visual.ln_post).items()}
    expected = [
        layer_norm(last_block_by_hand(method, tokens, doubles(block), block.attn.num_heads, grid), final, "ln_post")
        for tokens in input_of_last_block(clip, x)
    ]
    found = clip.patch_features(x, last_block=method).double()
    torch.testing.assert_close(found, torch.from_numpy(np.stack(expected))[:, 1:], atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("images", [1, 3])
def test_a_whole_block_is_open_clips(case, images):
    block = case[0].model.visual.transformer.resblocks[0]
    x = torch.randn(images, 7, case[0].width, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(whole_block(block, x), block(x).detach(), atol=1e-5, rtol=1e-5)
    assert whole_block(torch.nn.Linear(3, 2), torch.zeros(1, 4, 3)).shape == (1, 4, 2)  # a block of another kind


@pytest.mark.parametrize("grid", [(1, 1), (3, 5), (4, 2)])
def test_neighbourhood_is_a_gaussian_of_the_distance_in_patches(grid):
    for tokens in torch.arange(1 + grid[0] * grid[1]).split(3):
        for s, row in zip(tokens.tolist(), neighbourhood(tokens, *gaussians(grid)), strict=True):
            by_hand = [math.exp(-squared_distance(s, t, grid) / 50) if s and t else 0.0 for t in range(len(row))]
            assert row.tolist() == pytest.approx(by_hand, abs=1e-6)


def last_block_of(clip, method, images, grid):
    x = torch.randn(images, 1 + grid[0] * grid[1], clip.width, generator=torch.Generator().manual_seed(0))
    return LAST_BLOCKS[method](clip.model.visual.transformer.resblocks[-1], x, grid)


@torch.no_grad()
@pytest.mark.parametrize("images, grid", [(1, (1, 1)), (3, (3, 11)), (2, (12, 2))])
def test_blocks_of_queries_give_the_same(random, monkeypatch, images, grid):
    whole = last_block_of(random, "naclip", images, grid)
    for queries in (0, 1, 5, 16):  # the model has two heads
        monkeypatch.setattr("pacl.clip.baselines.PAIRS_AT_ONCE", queries * images * 2 * (1 + grid[0] * grid[1]) + 1)
        torch.testing.assert_close(last_block_of(random, "naclip", images, grid), whole, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("grid", [(32, 32), (64, 24)])
@pytest.mark.parametrize("method", METHODS)
def test_no_last_block_holds_all_pairs_of_many_tokens(random, monkeypatch, method, grid):
    limit = 4 * random.width * (1 + grid[0] * grid[1])  # what the feed-forward network's hidden layer takes
    monkeypatch.setattr("pacl.clip.baselines.PAIRS_AT_ONCE", limit)
    with Largest() as largest:
        last_block_of(random, method, 1, grid)
    assert largest.numbers <= limit < (grid[0] * grid[1]) ** 2


@pytest.mark.parametrize("passes", ["joint", "shifted"])
def test_several_last_blocks_share_one_run_of_the_others(random, passes):
    x = torch.randn(2, 3, 33, 26, generator=torch.Generator().manual_seed(0))
    first, runs = random.model.visual.transformer.resblocks[0], []
    handle = first.mlp.register_forward_hook(lambda *_: runs.append(1))
    together = random.patch_features_by(x, METHODS, 4, passes=passes)
    handle.remove()
    assert len(runs) == (1 if passes == "joint" else 4)
    assert list(together) == METHODS
    for name, tokens in together.items():
        torch.testing.assert_close(tokens, random.patch_features(x, 4, last_block=name, passes=passes))


def test_value_tokens_are_maskclips_and_before_norm_leaves_the_final_norm_to_project(tiny_folder):
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plain, value, before = (
        load_clip("tiny", tiny_folder, device="cpu", tokens=tokens) for tokens in ("after_norm", "value", "before_norm")
    )
    tokens = plain.patch_features(x, last_block="maskclip")
    assert torch.equal(value.patch_features(x), tokens)
    assert torch.equal(value.project(tokens), plain.project(tokens))
    assert torch.equal(value.patch_features(x, last_block="clip"), plain.patch_features(x))
    one, other = (clip.project(clip.patch_features(x, last_block="clearclip")) for clip in (plain, before))
    torch.testing.assert_close(one, other)


def test_unknown_names_are_named(random):
    x = torch.zeros(1, 3, 32, 32)
    with pytest.raises(ValueError, match="no last block 'gem': use one of clip, maskclip, sclip, naclip, clearclip"):
        random.patch_features(x, last_block="gem")
    with pytest.raises(ValueError, match="passes must be joint or shifted and positions .*, not 'both' and 'exact'"):
        random.patch_features(x, passes="both")


def test_blocks_of_another_make_give_their_own_output_only(tiny_folder):
    """One whose attention normalises queries and keys, which a baseline would silently leave out."""
    clip = load_random(tiny_folder, qk_norm=True)
    x = torch.zeros(1, 3, 32, 32)
    assert clip.patch_features(x).shape == (1, 16, 32)
    with pytest.raises(ValueError, match="sclip can't replace this CLIP's last block: use clip"):
        clip.patch_features_by(x, ["clip", "sclip"])
