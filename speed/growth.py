"""Memory as the work grows: cached tokens of 118,000 pairs, and streamed steps of the paper's batch.

Both have ViT-B/16's sizes. The cached tokens lie in a sparse file, which takes no room on the disk. The streamed pairs
are seen by a ViT-B/16 of one layer, whose tokens and activations are as large as those of all twelve; memory is counted
beyond that of the process with the loaded encoder.
"""

import tempfile
from collections import deque
from itertools import islice
from pathlib import Path

import numpy as np
import psutil
import torch

from pacl.clip.features import Texts, read_features
from pacl.runtime.config import load_params
from pacl.runtime.files import write_json
from pacl.training.cached import CachedPairs
from speed.measuring import held, in_own_process, row

N, WIDTH, DIM = 196, 768, 512  # ViT-B/16's
CACHED, CAPTIONS, NOUNS, TEMPLATES = 118_000, 5, 20_000, 7  # as many as COCO's
BATCH, CACHED_STEPS, CACHED_LIMIT = 256, 40, 1.5  # GB
STREAMED_STEPS, ACCUMULATE, STREAMED_LIMIT = 3, 64, 6.0


def write_cached(folder: Path, pairs: int) -> None:
    """The files of the stage features, with zeros in place of numbers."""
    sizes = {
        "train_patches": (pairs, N, WIDTH),
        "caption_features": (CAPTIONS * pairs, DIM),
        "noun_features": (NOUNS, TEMPLATES, DIM),
    }
    for name, size in sizes.items():
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float16, size)
    captions = np.arange(CAPTIONS * pairs).reshape(pairs, CAPTIONS).tolist()
    nouns = (np.arange(8 * pairs) % NOUNS).reshape(pairs, 8).tolist()
    write_json(folder / "texts.json", {"train": {"captions": captions, "nouns": nouns}})


def cached(folder: Path, pairs: int, batch_size: int) -> float:
    """The most GB resident while batches are read; call it in a process of its own."""
    settings = load_params("paper", "train").train.model_copy(update={"pairs": pairs, "batch_size": batch_size})
    source = CachedPairs(read_features(folder / "train_patches.npy", 3), Texts(folder, "train"), settings)
    before = psutil.Process().memory_info().rss / 1e9
    return before + held(lambda: deque(islice(source.batches(0), CACHED_STEPS), maxlen=0))


def streamed(folder: Path, batch_size: int, accumulate: int) -> float:
    """GB that steps on streamed pairs take beyond the loaded encoder; call it in a process of its own."""
    import open_clip  # what follows would count as resident in `cached`

    from pacl.clip import load_clip
    from pacl.training.pretrain import save_clip
    from pacl.training.streamed import StreamedPairs
    from pacl.training.train import train
    from speed.streaming_memory import PAIRS, write_shard

    config = open_clip.get_model_config("ViT-B-16")
    config["vision_cfg"]["layers"] = config["text_cfg"]["layers"] = 1
    save_clip(folder / "clip", open_clip.CLIP(**config), config)
    clip, count = load_clip("ViT-B-16", folder / "clip", dtype="bfloat16"), STREAMED_STEPS * batch_size
    shards = {write_shard(folder / f"{i}.tar", i * PAIRS): PAIRS for i in range(-(-count // PAIRS))}
    params = load_params("paper", "train", "features")
    changes = {"pairs": count, "batch_size": batch_size, "accumulate": accumulate, "epochs": 1, "warmup_steps": 0}
    settings = params.train.model_copy(update=changes | {"compile": False})
    source = StreamedPairs(clip, shards, settings, params.features, 0.1, workers=1)
    return held(lambda: train(source, settings))


def measure() -> dict:
    batch_size = load_params("paper", "train").train.batch_size
    with tempfile.TemporaryDirectory() as folder:
        write_cached(Path(folder), CACHED)
        read = in_own_process(cached, Path(folder), CACHED, BATCH)
    with tempfile.TemporaryDirectory() as folder:
        stepped = in_own_process(streamed, Path(folder), batch_size, ACCUMULATE)
    rows = [
        row(name, {}, gigabytes={"ours": taken}, targets={"gigabytes_limit": limit})
        for name, taken, limit in (
            (f"batches of {CACHED:,} cached pairs, everything resident", read, CACHED_LIMIT),
            (f"{STREAMED_STEPS} steps on {batch_size:,} streamed pairs in {ACCUMULATE} parts", stepped, STREAMED_LIMIT),
        )
    ]
    return {"threads": torch.get_num_threads(), "rows": rows, "notes": []}
