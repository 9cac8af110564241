"""Fixtures that several test modules share: real photos, and models that are slow to build.

Torch is imported only where it is used, because pytest-xdist's main process reads this file too.
"""

import functools
import os
from pathlib import Path

import pytest

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a test's numbers are a CPU's, and forks can't use a GPU


@pytest.fixture(scope="session")
def one_tokenizer():
    """Has open_clip make its tokenizer only once for each context length: that takes longer than most tests."""
    import open_clip

    open_clip.factory.SimpleTokenizer = functools.cache(open_clip.factory.SimpleTokenizer)


@pytest.fixture(scope="session")
def before_forks():
    """Makes the scenes' paintings, which would take seconds in every fork."""
    from pacl.sources.miniworld.scenes import labelled_scene

    for index in range(40):
        labelled_scene(index, seed=0, split="test")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real subsets in official layouts: flickr8k/, VOCdevkit/ and others (CONTRIBUTING.md)."""
    if not os.environ.get("PACL_REAL_DATA"):
        pytest.skip("PACL_REAL_DATA doesn't name a folder of real data (CONTRIBUTING.md)")
    return Path(os.environ["PACL_REAL_DATA"]).absolute()


@pytest.fixture
def bfloat16_everywhere(monkeypatch):
    """Uses bfloat16 where it is asked for, even on processors that only emulate it."""
    monkeypatch.setattr("pacl.runtime.precision.has_bfloat16", lambda device_type: True)


@pytest.fixture
def float32_everywhere(monkeypatch):
    """Computes in float32 where bfloat16 is asked for, as processors without its instructions do."""
    monkeypatch.setattr("pacl.runtime.precision.has_bfloat16", lambda device_type: False)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory, one_tokenizer) -> Path:
    """A folder that load_clip reads: a CLIP of 32 pixels, patches of 8, with random weights."""
    import torch
    from helpers.tiny_clip import TINY, save_folder

    folder, longer = tmp_path_factory.mktemp("tiny_clip"), TINY["text_cfg"] | {"context_length": 16}
    with torch.random.fork_rng():
        save_folder(folder, TINY | {"text_cfg": longer})
    return folder


@pytest.fixture
def tiny_clip(tiny_folder):
    from pacl.clip import load_clip

    return load_clip("tiny", tiny_folder)
