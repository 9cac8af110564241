"""Two builds of this project side by side: the processor time of every stage of a profile.

python -m speed.builds OLD NEW [--profile mini] [--data FOLDER]

OLD and NEW are checkouts. Each works in a temporary project of links to its own code, and they take turns, stage after
stage. With FOLDER (VOC and Flickr8k in their official layouts), the profile is measured on 12 test and 6 validation
scenes of VOC, with random weights, which cost the same, and with `native`'s short side reduced to 128 pixels. Processor
time is user and system time of all processes.
"""

import argparse
import itertools
import os
import re
import resource
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

SCENES = {"val": 12, "train": 6}
POINTS = ("default", "value")
FEW = {
    "prepare": {"train_pairs": 64, "validation_scenes": SCENES["train"], "test_scenes": SCENES["val"]},
    "model": {"pretrained": "random", "dtype": "float32"},
    "features": {"batch_size": 8},
    "train": {"pairs": 64, "batch_size": 16, "epochs": 2, "warmup_steps": 1},
    "patch_alignment": {"pairs": 1000, "batch_size": 8},
    "ablations": {
        "base": {"pairs": 64, "epochs": 1, "batch_size": 16, "warmup_steps": 0},
        "inference_scenes": SCENES["val"],
    },
}
LINKED = ("dvc.yaml", "notebooks", "pacl", "reports/miniclip", "reports/*.*", "data/*")
OWN = ("prepared", "features", "dense", "texts", "raw")  # of data/: what a build makes itself


def commands(build: Path, profile: str) -> list[tuple[str, str]]:
    """The stages of a build's dvc.yaml in their order, as (name, command)."""
    params, found = yaml.safe_load((build / "params.yaml").read_text()) | {"profiles": [profile]}, []
    for name, stage in yaml.safe_load((build / "dvc.yaml").read_text())["stages"].items():
        lists = [params[v.strip("${}")] if isinstance(v, str) else v for v in stage["matrix"].values()]
        for values in itertools.product(*lists) if not stage.get("frozen") else ():
            item = dict(zip(stage["matrix"], values, strict=True))
            command = re.sub(r"\$\{item\.(\w+)\}", lambda match, item=item: str(item[match[1]]), stage["cmd"])
            found.append(("-".join([name, *map(str, values[1:])]), command))
    return found


def photographs(section: dict, raw: Path) -> dict:
    """The profile on a few photographs in `raw`, with random weights."""
    section = {name: values | FEW.get(name, {}) for name, values in section.items()}
    section["prepare"]["raw"] = str(raw)
    section["ablations"]["points"] = {name: section["ablations"]["points"][name] for name in POINTS}
    section["protocols"]["native"] = section["protocols"]["native"] | {"short_side": 128}
    return section


def lay_out_photographs(data: Path, raw: Path) -> None:
    """Flickr8k, and VOC with splits of a few scenes."""
    voc, whole = raw / "VOCdevkit/VOC2012", data / "VOCdevkit/VOC2012"
    (voc / "ImageSets/Segmentation").mkdir(parents=True)
    (raw / "flickr8k").symlink_to(data / "flickr8k")
    for part in ("JPEGImages", "SegmentationClass"):
        (voc / part).symlink_to(whole / part)
    names = sorted(path.stem for path in (whole / "SegmentationClass").iterdir())
    for split, count in SCENES.items():
        (voc / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(names[:count]) + "\n")
        names = names[count:]


def lay_out(build: Path, place: Path, profile: str, raw: Path | None) -> None:
    """A project of links to a build's code and data files, with its own results."""
    place.mkdir()
    table = yaml.safe_load((build / "params.yaml").read_text())
    section = photographs(table[profile], raw) if raw else table[profile]
    table |= {"profiles": [profile], profile: section}
    (place / "params.yaml").write_text(yaml.safe_dump(table, sort_keys=False))
    for path in itertools.chain.from_iterable(build.glob(pattern) for pattern in LINKED):
        if path.name not in OWN:
            target = place / path.relative_to(build)
            target.parent.mkdir(exist_ok=True)
            target.symlink_to(path)


def seconds(build: Path, place: Path, command: str) -> float:
    """Processor time of a stage. Raises RuntimeError with what it printed if it fails."""
    before, environment = resource.getrusage(resource.RUSAGE_CHILDREN), os.environ | {"PYTHONPATH": str(build)}
    call = [sys.executable, *shlex.split(command)[1:]]
    done = subprocess.run(call, cwd=place, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{build}, {command}:\n{(done.stdout + done.stderr)[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m speed.builds", description=__doc__.splitlines()[0])
    parser.add_argument("builds", type=Path, nargs=2, metavar="BUILD")
    parser.add_argument("--profile", default="mini")
    parser.add_argument("--data", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder, "raw") if given.data else None
        if raw:
            lay_out_photographs(given.data.absolute(), raw)
        queues, taken = [], [{}, {}]
        for number, build in enumerate(path.absolute() for path in given.builds):
            place = Path(folder, str(number))
            lay_out(build, place, given.profile, raw)
            queues.append([(number, build, place, *stage) for stage in commands(build, given.profile)])
        for turn in filter(None, itertools.chain.from_iterable(itertools.zip_longest(*queues))):
            number, build, place, name, command = turn
            taken[number][name] = seconds(build, place, command)
            print(number, name, f"{taken[number][name]:.1f} s", flush=True)
    print(summary(taken))


def summary(taken: list[dict[str, float]]) -> str:
    """Both builds' totals, of all stages and of those after training, and their ratio."""
    lines = []
    for words, left_out in (("all stages", ()), ("after training", ("prepare", "features", "train"))):
        old, new = (sum(one for name, one in stages.items() if name not in left_out) for stages in taken)
        lines.append(f"{words}: {old:.0f} -> {new:.0f} s of processors, {new / old:.3f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
