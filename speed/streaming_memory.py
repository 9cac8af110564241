"""Does memory grow while training streams pairs from shards? 10,000 steps on `pacl.training.streamed.StreamedPairs`:
reports/streaming_memory.json and reports/streaming_memory.png.

python -m speed.streaming_memory
"""

import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import open_clip
import pandas as pd
import psutil
import seaborn as sns
import torch
import webdataset

from pacl.clip import load_clip
from pacl.figures import charts
from pacl.runtime.config import load_params, project_root
from pacl.runtime.files import write_json
from pacl.training.pretrain import save_clip
from pacl.training.streamed import StreamedPairs
from pacl.training.train import train

SHARDS, PAIRS, BATCH, EPOCHS, EVERY = 8, 500, 2, 5, 100  # pairs a shard, pairs a batch, steps between looks
WARM = 0.2  # of the steps; after them memory must stay constant
CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}
COLOURS = {"training process": "#d1495b", "reading process": "#14404f"}


class Watched(StreamedPairs):
    """Shards, and the memory of this process and of its readers at every 100th step."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.seen, self.rows = 0, []

    def batches(self, *which):
        for batch in super().batches(*which):
            self.seen += 1
            if self.seen % EVERY == 0:
                process = psutil.Process()
                own, readers = process.memory_info().rss, (c.memory_info().rss for c in process.children())
                self.rows.append((self.seen, round(own / 2**20, 1), round(sum(readers) / 2**20, 1)))
            yield batch


def write_shard(path: Path, first: int) -> str:
    """Pairs as img2dataset writes them, each with its own noise and words."""
    with webdataset.TarWriter(str(path)) as tar:
        for number in range(first, first + PAIRS):
            noise = np.random.default_rng(number).integers(0, 256, (20, 24, 3), np.uint8)
            tar.write({"__key__": f"{number:09d}", "jpg": noise, "txt": f"dog number {number} on a beach"})
    return str(path)


def watch(folder: Path) -> list[tuple[int, float, float]]:
    """Trains for 10,000 steps; (step, MB of the training process, MB of the reading process) at every look."""
    torch.manual_seed(0)
    (folder / "clip").mkdir()
    save_clip(folder / "clip", open_clip.CLIP(**CLIP), CLIP)
    shards = {write_shard(folder / f"{number}.tar", number * PAIRS): PAIRS for number in range(SHARDS)}
    params = load_params("mini", "prepare", "features", "train")
    changes = {"pairs": SHARDS * PAIRS, "batch_size": BATCH, "epochs": EPOCHS, "warmup_steps": 10}
    settings, clip = params.train.model_copy(update=changes), load_clip("tiny", folder / "clip")
    source = Watched(clip, shards, settings, params.features, params.prepare.max_bad_share, workers=1)
    train(source, settings, folder=folder / "checkpoints/streamed")
    return source.rows


def summary(rows: list[tuple[int, float, float]]) -> dict:
    """First and last look after the warm-up, and by how many MB each process grows in 1,000 steps."""
    table = pd.DataFrame(rows, columns=["step", *COLOURS])
    late = table[table["step"] > WARM * table["step"].iloc[-1]]
    slope = {name: round(1000 * np.polyfit(late["step"], late[name], 1)[0], 3) for name in COLOURS}
    ends = {name: late[[*COLOURS]].iloc[i].to_dict() for name, i in (("first", 0), ("last", -1))}
    return {"steps": rows[-1][0], "from_step": int(late["step"].iloc[0]), **ends, "growth_per_1000_steps": slope}


def figure(rows: list[tuple[int, float, float]]):
    table = pd.DataFrame(rows, columns=["step", *COLOURS]).melt("step", var_name="", value_name="MB")
    drawn, axis = plt.subplots(figsize=(7, 3))
    sns.lineplot(table, x="step", y="MB", hue="", palette=COLOURS, style="", ax=axis)
    axis.set(title="Memory while training streams its pairs", ylabel="resident memory, MB", ylim=(0, None))
    axis.legend(loc="lower left")
    return drawn


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = watch(Path(folder))
    reports, found = project_root() / "reports", summary(rows)
    write_json(reports / "streaming_memory.json", {"unit": "MB", **found, "rows": rows})
    charts.use_style()
    charts.save(figure(rows), reports / "streaming_memory.png", dpi=150)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
