"""One training in one, two and three processes on a CPU, step by step: reports/ranks.json and reports/ranks.png.

python -m speed.ranks
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch

from pacl.figures import charts
from pacl.runtime.config import load_params, project_root
from pacl.runtime.files import write_json
from pacl.training import distributed
from pacl.training.cached import CachedPairs
from pacl.training.train import Run, train_step
from speed.epoch import read_stand_in, write_stand_in

WORLDS = (1, 2, 3)
PAIRS, PATCHES, WIDTH, TEXT_WIDTH = 1024, 16, 48, 32
CHANGES = {"pairs": PAIRS, "batch_size": 128, "epochs": 25, "warmup_steps": 10, "noun_share": 0.0}
COLOURS = {1: "#c4c4c4", 2: "#d1495b", 3: "#14404f"}  # they differ in lightness, too


def write_pairs(folder: Path) -> None:
    """Pairs in which one of an image's tokens is its caption's embedding times a matrix, and the rest is noise."""
    rng = np.random.default_rng(0)
    text = rng.normal(size=(PAIRS, TEXT_WIDTH))
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    patches = 0.5 * rng.normal(size=(PAIRS, PATCHES, WIDTH))
    patches[np.arange(PAIRS), rng.integers(PATCHES, size=PAIRS)] = 3 * text @ rng.normal(size=(TEXT_WIDTH, WIDTH))
    write_stand_in(folder, patches, text, np.zeros((0, 1, TEXT_WIDTH)), [[]] * PAIRS)


def losses(folder: Path) -> list[float]:
    """The loss of every step with mini's settings, in this process or its process group."""
    settings = load_params("mini", "train").train.model_copy(update=CHANGES)
    source = CachedPairs(*read_stand_in(folder), settings)
    run, found = Run(source, settings), []
    for epoch in range(settings.epochs):
        for batch in source.batches(epoch, distributed.rank(), distributed.world_size()):
            found.append(train_step(run, run.embedder, batch, settings, f"epoch {epoch + 1}"))
            run.step += 1
    return found


def in_processes(world: int, folder: Path) -> list[float]:
    command = ["torch.distributed.run", "--standalone", f"--nproc_per_node={world}", "-m", "speed.ranks", folder]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", *map(str, command)], check=True, cwd=project_root(), env=environment)
    return json.loads((folder / "losses.json").read_text())


def figure(found: dict[int, list[float]]):
    """The losses in one plot, and below it their distances from one process's."""
    drawn, (above, below) = plt.subplots(2, 1, figsize=(7, 5), sharex=True, height_ratios=(2, 1))
    losses = pd.DataFrame(found).rename_axis("step")
    look = {"hue": "processes", "palette": COLOURS, "style": "processes", "dashes": {1: "", 2: (4, 2), 3: (1, 2)}}
    for axis, table in ((above, losses), (below, losses[[2, 3]].sub(losses[1], axis=0).abs())):
        rows = table.reset_index().melt("step", var_name="processes", value_name="value")
        sizes = {"size": "processes", "sizes": {1: 4, 2: 2, 3: 1.6}} if axis is above else {"legend": False}
        sns.lineplot(rows, x="step", y="value", ax=axis, **look, **sizes)
    above.set(title="One batch of 128 pairs, shared by so many processes", ylabel="InfoNCE, nats")
    below.set(ylabel="distance from one", ylim=(0, None))
    below.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    drawn.tight_layout()
    return drawn


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        write_pairs(Path(name))
        found = {world: in_processes(world, Path(name)) for world in WORLDS}
    apart = {world: np.abs(np.subtract(found[world], found[1])).max() for world in WORLDS[1:]}
    largest = {str(world): f"{value:.1e}" for world, value in apart.items()}
    about = {"batch_size": CHANGES["batch_size"], "steps": len(found[1])}
    reports = project_root() / "reports"
    write_json(reports / "ranks.json", about | {"losses": found, "largest_difference": largest})
    charts.use_style()
    charts.save(figure(found), reports / "ranks.png", dpi=150)
    print(f"{len(found[1])} steps, the loss falls from {found[1][0]:.3f} to {found[1][-1]:.3f}")
    for world, value in largest.items():
        print(f"{world} processes: at most {value} from one process's loss")


def one_rank(folder: Path) -> None:
    torch.set_num_threads(1)
    with distributed.process_group():
        found = losses(folder)
        if distributed.rank() == 0:
            (folder / "losses.json").write_text(json.dumps(found))


if __name__ == "__main__":
    one_rank(Path(sys.argv[1])) if len(sys.argv) > 1 else main()
