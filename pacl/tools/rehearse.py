"""A dry run of a profile: every stage on a few real items, and what the whole run would need.

python -m pacl.tools.rehearse PROFILE [--data FOLDER]    (FOLDER instead of the profile's prepare.raw)

It works in a temporary copy of the project, so nothing of the project's own results is touched.
"""

import argparse
import os
import re
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import yaml

from pacl.clip import load_clip
from pacl.runtime.config import load_params, project_root, read_yaml
from pacl.sources import caption_sets, classification_sets, layouts, segmentation_sets, shards
from pacl.tools import estimate

POINTS = ("default", "matched_only")  # of the ablations: one that changes nothing, one that does
# What a few items need in place of the profile's own numbers; the rest of the profile stays as it is.
FEW = {
    "prepare": {"train_pairs": 12, "validation_scenes": 4, "test_scenes": 6, "classification_images": 4},
    "features": {"batch_size": 8},
    "train": {"pairs": 12, "batch_size": 4, "epochs": 2, "warmup_steps": 1, "accumulate": 1},
    "patch_alignment": {"batch_size": 4, "pairs": 1000},
    "segmentation": {"batch_size": 2, "shown": 1},
    "classification": {"batch_size": 4},
    "ablations": {"seeds": [0], "inference_scenes": 1},
}
SHORT_SIDES = {"native": 64}  # pixels; of the other protocols 224, with windows no larger


def rehearse(profile: str, data: str | None = None) -> str:
    """Runs every stage in a temporary folder and returns what to print: times, what is missing, what a run would need.

    Raises RuntimeError naming the stage that failed, and FileNotFoundError where there is nothing to train on or to
    measure with.
    """
    root = project_root()
    table = read_yaml(root / "params.yaml")
    params = load_params(profile, "prepare", "model", "protocols")
    few, notes = reduced(table[profile], params, Path(data or params.prepare.raw or ".").absolute())
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        lay_out(root, place, table | {"profiles": [profile], profile: few})
        times = [run_stage(name, command, place, root) for name, command in stages(root, profile, few)]
        needs = estimate.whole_run(profile, place, few["model"]["pretrained"], Path(few["prepare"]["raw"] or "."))
    lines = [
        f"Every stage of {profile} ran on a few items, in {sum(took for _, took, _ in times):.0f} s:",
        *(f"  {name:<16} {took:6.1f} s, {busy:6.1f} s of processors" for name, took, busy in times),
    ]
    return "\n".join([*lines, "", *notes, *([""] if notes else []), *needs])


def reduced(section: dict, params, raw: Path) -> tuple[dict, list[str]]:
    """The profile with few items, of the data that are there, and sentences on what isn't."""
    few = {name: {**values, **FEW.get(name, {})} for name, values in section.items()}
    notes = use_what_is_there(few, raw) if params.prepare.source != "miniworld" else []
    few["protocols"] = {name: small(name, protocol) for name, protocol in section["protocols"].items()}
    few["train"]["compile"] = section["train"]["compile"] and torch.cuda.is_available()
    ablations = few["ablations"]
    ablations["base"] = {**ablations["base"], "pairs": 8, "epochs": 1, "batch_size": 4, "warmup_steps": 0}
    ablations["points"] = {name: section["ablations"]["points"][name] for name in POINTS}
    try:
        load_clip(params.model.backbone, params.model.pretrained)
    except FileNotFoundError as error:
        few["model"]["pretrained"] = "random"
        notes.append(f"Rehearsed with random weights: {error}")
    return few, notes


def small(name: str, protocol: dict) -> dict:
    """A protocol on small images, with the same strides of tokens."""
    side = SHORT_SIDES.get(name, 224)
    sizes = {"short_side": min(protocol.get("short_side") or side, side)}
    if own := protocol.get("per_benchmark"):
        kept = {name: {k: v for k, v in changes.items() if k != "short_side"} for name, changes in own.items()}
        sizes["per_benchmark"] = kept
    if (protocol.get("window") or 0) > side:
        sizes |= {"window": side, "window_stride": side // 2}
    return protocol | sizes


def use_what_is_there(few: dict, raw: Path) -> list[str]:
    """Leaves out benchmarks and classification sets whose data are missing. Raises FileNotFoundError without pairs or
    any benchmark.
    """
    prepare = few["prepare"]
    prepare["raw"] = str(raw)
    pairs = shards.SHARDS if prepare["source"] == "webdataset" else caption_sets.CAPTIONED[prepare["source"]]
    layouts.check_present([(raw / pairs["folder"], pairs, "")])
    wanted = segmentation_sets.check_benchmarks(raw, prepare["benchmarks"]) + classification_sets.check_sets(
        raw, prepare["classification_sets"]
    )
    there = [name for name in prepare["benchmarks"] if is_there(segmentation_sets.check_benchmarks(raw, [name]))]
    sets = [name for name in prepare["classification_sets"] if is_there(classification_sets.check_sets(raw, [name]))]
    try:
        layouts.check_present(wanted)
        return []
    except FileNotFoundError as error:
        if not there:
            raise
        prepare["benchmarks"], prepare["classification_sets"] = there, sets
        few["segmentation"]["benchmarks"] = [name for name in few["segmentation"]["benchmarks"] if name in there]
        few["classification"]["sets"] = [name for name in few["classification"]["sets"] if name in sets]
        return [f"Left out of the rehearsal; the whole run would stop here. {error}"]


def is_there(wanted: list[tuple]) -> bool:
    return not any(layouts.missing(Path(folder), dataset, split) for folder, dataset, split in wanted)


def lay_out(root: Path, place: Path, table: dict) -> None:
    """A project of links to the real one's code and data files, with params.yaml of its own and no results.

    Of each list of templates it has the first only, since texts take most of the time.
    """
    (place / "params.yaml").write_text(yaml.safe_dump(table, sort_keys=False), encoding="utf-8")
    for name in ("data", "ablations"):
        (place / name).mkdir()
    code = [root / name for name in ("notebooks", "pacl", "ablations/dvc.yaml")]
    for path in (*code, *(root / "data").iterdir()):
        if path.name not in ("prepared", "features", "raw", "templates.yaml"):
            (place / path.relative_to(root)).symlink_to(path.absolute())
    first = {name: forms[:1] for name, forms in read_yaml(root / "data/templates.yaml").items()}
    (place / "data/templates.yaml").write_text(yaml.safe_dump(first), encoding="utf-8")


def stages(root: Path, profile: str, few: dict) -> list[tuple[str, list[str]]]:
    """(name, command) of each stage of the pipeline, the ablation points of the rehearsal one by one."""
    found = []
    for name, stage in pipeline(root).items():
        if stage.get("frozen"):
            continue
        for item in few["ablations"]["points"] if "${item.point}" in stage["cmd"] else ["0"]:
            command = stage["cmd"].replace("${item.profile}", profile)
            command = re.sub(r"\$\{item\.\w+\}", item, command)
            found.append((name, [sys.executable, *shlex.split(command)[1:]]))
    return found


def pipeline(root: Path) -> dict[str, dict]:
    """The stages of both dvc.yaml, in an order in which they can run: ablation points before what reads them."""
    found, points = {}, read_yaml(root / "ablations/dvc.yaml")["stages"]
    for name, stage in read_yaml(root / "dvc.yaml")["stages"].items():
        found |= (points if name == "ablations" else {}) | {name: stage}
    return found


def run_stage(name: str, command: list[str], place: Path, root: Path) -> tuple[str, float, float]:
    """(name, seconds, seconds of processors) of a stage run in the temporary project. Raises RuntimeError with what it
    printed.
    """
    paths = os.pathsep.join(filter(None, (str(root.absolute()), os.environ.get("PYTHONPATH"))))
    print(f"{name} ...", file=sys.stderr, flush=True)
    start, before = time.perf_counter(), processor_seconds()
    done = subprocess.run(
        command, cwd=place, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise RuntimeError(f"The rehearsal's stage {name} failed:\n{last}")
    return name, time.perf_counter() - start, processor_seconds() - before


def processor_seconds() -> float:
    """Of all finished child processes together: on a machine that others use, too, it says more than the clock."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m pacl.tools.rehearse",
        description="Runs every stage of a profile on a few items, and says what the whole run would need.",
    )
    parser.add_argument("profile", help="a section of params.yaml")
    parser.add_argument("--data", help="the folder of downloaded data, in place of the profile's prepare.raw")
    arguments = parser.parse_args()
    try:
        print(rehearse(arguments.profile, arguments.data))
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        sys.exit(str(error))
