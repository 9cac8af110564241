"""Two builds of this project side by side: the processor time of every stage of a profile, and the encoder's passes.

python -m speed.builds OLD NEW [--profile mini] [--data FOLDER] [--side 128] [--keep FOLDER]

OLD and NEW are checkouts. Each works in a temporary project of links to its own code, and they take turns, stage after
stage. A profile of photographs is measured on 12 test and 6 validation scenes of VOC in FOLDER (a checkout of it in the
official layout, with Flickr8k for training), with random weights, which cost the same, and with `native`'s short side
reduced to --side pixels. Processor time is user and system time of all processes.
"""

import argparse
import itertools
import json
import os
import re
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

SCENES = {"val": 12, "train": 6}
POINTS = ("default", "value")
COUNTER = '''"""Logs every image that the encoder sees: its checksum, and the rows and columns of its tokens."""
import hashlib, importlib.abc, importlib.machinery, os, sys

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name not in ("pacl.clip", "pacl.clip.frozen"):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        run = spec.loader.exec_module
        def exec_module(module):
            run(module)
            if "FrozenCLIP" in vars(module):
                wrap(module.FrozenCLIP)
        spec.loader.exec_module = exec_module
        return spec

def wrap(kind):
    inner = kind._with_class_token
    def logged(self, images, stride, grid, *rest):
        with open(os.environ["PASSES"], "a") as file:
            for image in images:
                seen = hashlib.sha256(image.cpu().contiguous().numpy().tobytes()).hexdigest()
                file.write(f"{seen[:16]} {'x'.join(map(str, grid))} {stride} {os.environ['STAGE']}\\n")
        return inner(self, images, stride, grid, *rest)
    kind._with_class_token = logged

sys.meta_path.insert(0, Finder())
'''


def commands(build: Path, profile: str, points: tuple[str, ...] | None) -> list[tuple[str, str]]:
    """The stages of a build's dvc.yaml in their order, as (name, command); ablation points before the ablations."""
    params = yaml.safe_load((build / "params.yaml").read_text())
    params |= {"profiles": [profile], "ablation_points": points or params.get("ablation_points", [])}
    found = {}
    for path in (build / "dvc.yaml", build / "ablations/dvc.yaml"):
        for name, stage in yaml.safe_load(path.read_text())["stages"].items() if path.exists() else ():
            lists = [params[v.strip("${}")] if isinstance(v, str) else v for v in stage.get("matrix", {}).values()]
            for values in itertools.product(*lists) if not stage.get("frozen") else ():
                item = dict(zip(stage.get("matrix", {}), values, strict=True))
                command = re.sub(r"\$\{item\.(\w+)\}", lambda match, item=item: str(item[match[1]]), stage["cmd"])
                found["-".join([name, *map(str, values[1:])])] = command
    last = [name for name in found if name.startswith(("ablations", "figures", "report"))]
    return [(name, found[name]) for name in [*(name for name in found if name not in last), *last]]


def photographs(section: dict, raw: Path, side: int) -> dict:
    """The profile on a few photographs in `raw`, with random weights."""
    few = {
        "prepare": {
            "raw": str(raw),
            "train_pairs": 64,
            "validation_scenes": SCENES["train"],
            "test_scenes": SCENES["val"],
        },
        "model": {"pretrained": "random", "dtype": "float32"},
        "features": {"batch_size": 8},
        "train": {"pairs": 64, "batch_size": 16, "epochs": 2, "warmup_steps": 1},
        "patch_alignment": {"pairs": 1000, "batch_size": 8},
        "ablations": {
            "base": {"pairs": 64, "epochs": 1, "batch_size": 16, "warmup_steps": 0},
            "inference_scenes": SCENES["val"],
        },
    }
    section = {name: values | few.get(name, {}) for name, values in section.items()}
    section["ablations"]["points"] = {name: section["ablations"]["points"][name] for name in POINTS}
    section["protocols"] = section["protocols"] | {"native": section["protocols"]["native"] | {"short_side": side}}
    return section


def lay_out_photographs(data: Path, raw: Path) -> None:
    """Flickr8k, and VOC with splits of a few scenes."""
    raw.mkdir()
    (raw / "flickr8k").symlink_to(data / "flickr8k")
    voc, whole = raw / "VOCdevkit/VOC2012", data / "VOCdevkit/VOC2012"
    (voc / "ImageSets/Segmentation").mkdir(parents=True)
    for part in ("JPEGImages", "SegmentationClass"):
        (voc / part).symlink_to(whole / part)
    names = sorted(path.stem for path in (whole / "SegmentationClass").iterdir())
    for split, count in SCENES.items():
        (voc / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(names[:count]) + "\n")
        names = names[count:]


def lay_out(build: Path, place: Path, profile: str, changed: dict) -> None:
    """A project of links to a build's code and data files, with its own results."""
    (place / "data").mkdir(parents=True)
    table = yaml.safe_load((build / "params.yaml").read_text())
    table |= {"profiles": [profile], profile: changed or table[profile]}
    (place / "params.yaml").write_text(yaml.safe_dump(table, sort_keys=False))
    for path in (
        *(build / name for name in ("dvc.yaml", "ablations", "notebooks", "pacl", "reports/miniclip")),
        *(build / "data").iterdir(),
    ):
        if path.exists() and path.name not in ("prepared", "features", "dense", "texts", "raw"):
            target = place / path.relative_to(build)
            target.parent.mkdir(exist_ok=True, parents=True)
            target.symlink_to(path)
    for path in (build / "reports").glob("*.*"):
        (place / "reports" / path.name).symlink_to(path)


def run(build: Path, place: Path, name: str, command: str, counter: Path) -> dict[str, float]:
    """Seconds of processor and clock that a stage takes. Raises RuntimeError with what it printed if it fails."""
    own = {"PYTHONPATH": f"{counter}{os.pathsep}{build}", "PASSES": str(place / "passes"), "STAGE": name}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, *shlex.split(command)[1:]], cwd=place, env=os.environ | own, capture_output=True, text=True
    )
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{build}, {name}:\n{(done.stdout + done.stderr)[-2000:]}")
    return {"cpu": after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, "wall": wall}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m speed.builds", description=__doc__.splitlines()[0])
    parser.add_argument("builds", type=Path, nargs=2, metavar="BUILD")
    parser.add_argument("--profile", default="mini")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--keep", type=Path, help="a folder to work in, which stays")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        folder.mkdir(exist_ok=True)
        (folder / "counter").mkdir()
        (folder / "counter/sitecustomize.py").write_text(COUNTER)
        if given.data:
            lay_out_photographs(given.data.absolute(), folder / "raw")
        queues, places = [], []
        for number, build in enumerate(path.absolute() for path in given.builds):
            section = yaml.safe_load((build / "params.yaml").read_text())[given.profile]
            changed = photographs(section, folder / "raw", given.side) if given.data else {}
            places.append(place := (folder / str(number)).absolute())
            lay_out(build, place, given.profile, changed)
            queues.append(
                [(number, build, place, *one) for one in commands(build, given.profile, POINTS if given.data else None)]
            )
        taken = [{}, {}]
        for turn in itertools.chain.from_iterable(itertools.zip_longest(*queues)):
            if turn:
                number, build, place, name, command = turn
                taken[number][name] = run(build, place, name, command, folder / "counter")
                print(number, name, {key: round(value, 1) for key, value in taken[number][name].items()}, flush=True)
                (folder / "taken.json").write_text(json.dumps(taken, indent=1))
        print(summary(taken, places))


def summary(taken: list[dict], places: list[Path]) -> str:
    """Both builds' totals, all stages and those after training, their ratio, and the images that they passed."""
    lines = []
    for words, left_out in (("all stages", ()), ("after training", ("prepare", "features", "train"))):
        sums = [sum(one["cpu"] for name, one in stages.items() if name not in left_out) for stages in taken]
        lines.append(f"{words}: {sums[0]:.0f} -> {sums[1]:.0f} s of processors, {sums[1] / sums[0]:.3f}")
    for place in places:
        rows = (place / "passes").read_text().split("\n")[:-1]
        lines.append(f"{len(rows)} passes, {len({tuple(row.split()[:3]) for row in rows})} different")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
