"""A trained embedder's two files: they come back as they were, and are refused when corrupt or for another CLIP."""

import json
import re

import numpy as np
import pytest
import torch
from helpers.small_training import D, D_v, N, params
from safetensors.torch import load, save

from pacl.checkpoints import load_embedder, save_embedder
from pacl.clip import load_clip
from pacl.clip.features import Texts, text_features, text_table
from pacl.model import VisionEmbedder
from pacl.runtime.files import checksum
from pacl.training.cached import CachedPairs
from pacl.training.train import train


@pytest.mark.parametrize("kind", ["residual", "mlp", "linear"])
def test_an_embedder_comes_back_as_it_was(tmp_path, kind):
    embedder = VisionEmbedder(D_v, D, kind)
    save_embedder(tmp_path / "new/one", embedder, {"train": {"scale": 10.0}})
    loaded, about = load_embedder(tmp_path / "new/one")
    tokens = torch.randn(2, N, D_v)
    assert torch.equal(loaded(tokens), embedder(tokens)) and not loaded.training
    shape = {"in_dim": D_v, "out_dim": D, "kind": kind, "text_embedder": "frozen"}
    assert about.pop("sha256") == checksum((tmp_path / "new/one.safetensors").read_bytes())
    assert about == {"embedder": shape, "train": {"scale": 10.0}}


def test_a_checkpoint_is_named_with_or_without_its_ending_or_as_a_shared_folder(tmp_path):
    embedder, tokens = VisionEmbedder(D_v, D, "linear", text_embedder="linear").eval(), torch.randn(2, N, D_v)
    save_embedder(tmp_path / "best", embedder, {})
    embedder.save_pretrained(tmp_path / "shared")
    for name in ("best", "best.safetensors", "best.json", "shared", "shared/model.safetensors"):
        loaded, about = load_embedder(tmp_path / name)
        assert torch.equal(loaded(tokens), embedder(tokens)) and about["embedder"]["kind"] == "linear"
        assert torch.equal(loaded.text_embedder.weight, embedder.text_embedder.weight)
    (tmp_path / "shared/model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="shared/model.safetensors is missing: train first"):
        load_embedder(tmp_path / "shared")


def test_given_weights_are_written_in_place_of_the_embedders_own(tmp_path):
    embedder, other = VisionEmbedder(D_v, D), VisionEmbedder(D_v, D)
    strided = {name: tensor.T.contiguous().T for name, tensor in other.state_dict().items() if tensor.ndim == 2}
    save_embedder(tmp_path / "best", embedder, {}, other.state_dict() | strided)
    assert torch.equal(load_embedder(tmp_path / "best")[0].skip.weight, other.skip.weight)


def test_an_embedder_is_refused_by_another_clip_than_the_one_it_was_trained_on(tiny_clip, tiny_folder, tmp_path):
    """CLIPs of equal widths, which nothing else would tell apart."""
    features, best = tmp_path / "features", tmp_path / "mini/best"
    features.mkdir()
    text_features(tiny_clip, text_table({"train": [["a cat"], ["a dog"]]}), features, "one")
    tokens = np.random.default_rng(0).normal(size=(2, N, tiny_clip.width)).astype(np.float16)
    settings = params(pairs=2, batch_size=2, epochs=1)
    train(CachedPairs(tokens, Texts(features, "train"), settings), settings, folder=tmp_path / "mini")
    _, about = load_embedder(best, load_clip("by another name", tiny_folder))
    assert about["clip"] == tiny_clip.identity and about["clip"]["tokens"] == "after_norm"
    other = load_clip("tiny", tiny_folder)
    other.model.visual.proj.data[0, 0] += 1e-3
    for clip in (other, load_clip("tiny", tiny_folder, tokens="value")):
        expected = f"{best} was trained on tokens after_norm of tiny {tiny_folder} (weights {about['clip']['weights']})"
        with pytest.raises(ValueError, match=re.escape(expected)) as refused:
            load_embedder(best, clip)
        assert f"but this is tokens {clip.tokens} of tiny" in str(refused.value)


def test_an_embedder_that_names_no_clip_is_refused_by_one_of_other_widths(tiny_clip, tmp_path):
    """Checkpoints of older versions name none."""
    save_embedder(tmp_path / "fits", VisionEmbedder(tiny_clip.width, tiny_clip.dim), {})
    load_embedder(tmp_path / "fits", tiny_clip)
    for widths in ((tiny_clip.width + 1, tiny_clip.dim), (tiny_clip.width, tiny_clip.dim + 1)):
        save_embedder(tmp_path / "other", VisionEmbedder(*widths), {})
        said = f"tokens {widths[0]} and texts {widths[1]} wide, but those of {tiny_clip.name} are 32 and 16 wide"
        with pytest.raises(ValueError, match=re.escape(said)):
            load_embedder(tmp_path / "other", tiny_clip)


def test_weights_that_are_not_numbers_are_refused(tmp_path):
    embedder = VisionEmbedder(D_v, D)
    embedder.skip.bias.data[1] = float("inf")
    save_embedder(tmp_path / "best", embedder, {})
    with pytest.raises(ValueError, match="best.safetensors holds a weight that is not a finite number, in skip.bias"):
        load_embedder(tmp_path / "best")


def test_missing_and_corrupt_checkpoints_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="best.json is missing: train first"):
        load_embedder(tmp_path / "best")
    save_embedder(tmp_path / "best", VisionEmbedder(D_v, D), {})
    weights, described = tmp_path / "best.safetensors", tmp_path / "best.json"
    intact, about = weights.read_bytes(), described.read_text()
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="best.safetensors is missing: train first"):
        load_embedder(tmp_path / "best")
    shape = json.dumps({"embedder": json.loads(about)["embedder"]})  # of an older version, without a checksum
    lacking = save({name: tensor for name, tensor in load(intact).items() if name != "skip.bias"})
    flipped = intact[:-3] + bytes([intact[-3] ^ 1]) + intact[-2:]
    other = json.dumps({"embedder": {"in_dim": D_v + 1, "out_dim": D, "kind": "residual"}})
    cases = [(intact[:-50], about), (b"", about), (flipped, about), (lacking, shape), (intact, other)]
    cases += [(intact, text) for text in (about[:20], "{}", "[]", "[" * 100_000)]
    for content, description in cases:
        weights.write_bytes(content)
        described.write_text(description)
        with pytest.raises(ValueError, match="best.safetensors or its json is corrupt .*: train again"):
            load_embedder(tmp_path / "best")
    weights.write_bytes(intact)
    for description in (about, shape):
        described.write_text(description)
        load_embedder(tmp_path / "best")
