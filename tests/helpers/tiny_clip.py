"""Tiny CLIPs of any configuration, with random weights."""

import json

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from pacl.clip import load_clip

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def images(B=2, H=32, W=32):
    return torch.randn(B, 3, H, W, generator=torch.Generator().manual_seed(0))


def save_folder(folder, config=TINY, seed=0):
    """Writes a folder that load_clip reads; returns its model."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    if "timm_model_name" in config["vision_cfg"]:
        return None
    torch.manual_seed(seed)
    model = open_clip.CLIP(**config)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return model.eval()


def load_config(config, pretrained="random", **options):
    """The CLIP of a configuration, as a built-in model of open_clip's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", config)
        return load_clip("tiny", pretrained, device="cpu", **options)
