"""A dry run of a profile: every stage on a few real items, twice, and what the whole run would need.

python -m pacl.tools.rehearse PROFILE [--data FOLDER]    (FOLDER in place of the profile's prepare.raw)

It works in temporary projects of links, so the project's own results stay as they are.
"""

import argparse
import math
import os
import re
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from itertools import starmap
from pathlib import Path
from types import SimpleNamespace

import torch
import yaml

from pacl.clip import load_clip_of
from pacl.data.prompts import templates
from pacl.runtime.config import load_params, project_root, read_section, read_yaml
from pacl.runtime.params import Profile
from pacl.runtime.processes import processes
from pacl.sources import classification_sets, layouts, segmentation_sets, shards
from pacl.sources.prepare import datasets_of
from pacl.sources.shown_photos import check_shown
from pacl.tools import estimate

SIZES = (1, 4)  # of the two rehearsals; their difference tells a stage's start-up from its work
QUICK = 25  # times as many images of the mini world, each of which takes so much less time than a photo
POINTS = ("default", "matched_only", "value", "templates_80")  # of the ablations, two with own tokens or own texts
SIDES = {"native": 64}  # pixels to which each protocol resizes; 224 if not named, with windows no larger


def rehearse(profile: str, data: str | None = None) -> str:
    """Runs every stage in temporary folders and returns what to print: times, what is missing, what a whole run needs.

    Raises RuntimeError naming the stage that failed, and FileNotFoundError if there is nothing to train on or to
    measure with.
    """
    root, params = project_root(), load_params(profile, *Profile.model_fields)
    table, raw = read_yaml(root / "params.yaml"), Path(data or params.prepare.raw or ".").absolute()
    section, notes = what_is_there(table[profile], params, raw)
    items = processes() * (QUICK if params.prepare.source == "miniworld" else 1)
    profiles = [*(reduced(section, size * items) for size in SIZES), section]
    with tempfile.TemporaryDirectory() as folder:
        times = []
        for size, values in zip(SIZES, profiles, strict=False):
            place = Path(folder, str(size))
            lay_out(root, place, table | {"profiles": [profile], profile: values})
            commands = stages(root, profile, table)
            times.append({name: run_stage(name, command, place, root) for name, (command, _) in commands.items()})
        found = [read_sections(profile, values) for values in profiles]
        rehearsed = estimate.Rehearsed.read(place, profile, load_clip_of(found[-1].model))
    works = [estimate.work(one, rehearsed, whole=one is found[-1]) for one in found]
    lines = time_table(times, works, {name: runs for name, (_, runs) in commands.items()})
    left_out = [name for name in params.prepare.benchmarks if name not in found[-1].prepare.benchmarks]
    lines[-1] += f" (without {', '.join(left_out)})" if left_out else ""
    device = rehearsed.clip.device.type + ("" if torch.cuda.is_available() else f", {torch.get_num_threads()} threads")
    title = f"Every stage of {profile} ran on a few items, then on {SIZES[1]} times as many, on this device ({device})."
    return "\n".join([title, "", *lines, *needs(found[-1], rehearsed, raw), *notes])


def read_sections(profile: str, values: dict) -> SimpleNamespace:
    return SimpleNamespace(**{name: read_section(profile, name, values) for name in Profile.model_fields})


def what_is_there(section: dict, params: SimpleNamespace, raw: Path) -> tuple[dict, list[str]]:
    """The profile on the data and weights that are there, and sentences on what is missing.

    Raises FileNotFoundError without training pairs or without any benchmark.
    """
    section, notes = {name: dict(values) for name, values in section.items()}, []
    prepare, source = section["prepare"], params.prepare.source
    if source == "none":
        raise ValueError("A profile of source none doesn't train: run the notebooks that measure it (docs/data.md).")
    if source != "miniworld":
        prepare["raw"] = str(raw)
        layouts.check_present([(raw / pairs["folder"], pairs, "") for pairs in datasets_of(source)])
        wanted = []
        for key, check, stage, own in (
            ("benchmarks", segmentation_sets.check_benchmarks, "segmentation", "benchmarks"),
            ("classification_sets", classification_sets.check_sets, "classification", "sets"),
        ):
            wanted += check(raw, prepare[key])
            prepare[key] = [one for one in prepare[key] if not any(starmap(layouts.missing, check(raw, [one])))]
            section[stage][own] = [one for one in section[stage][own] if one in prepare[key]]
        if any(starmap(layouts.missing, check_shown(raw, prepare.get("shown")))):
            wanted, prepare["shown"] = wanted + check_shown(raw, prepare["shown"]), None
        try:
            layouts.check_present(wanted)
        except FileNotFoundError as error:
            if not prepare["benchmarks"]:
                raise
            notes.append(f"Left out of the rehearsal; the whole run would stop here. {error}")
    try:
        load_clip_of(params.model)
    except FileNotFoundError as error:
        section["model"]["pretrained"] = "random"
        notes.append(f"Rehearsed with random weights: {error}")
    return section, notes


def reduced(section: dict, items: int) -> dict:
    """The profile with `items` of everything, 4 times as many training pairs, and small images."""
    prepare, streamed = section["prepare"], section["prepare"]["source"] == "webdataset"
    pairs = min(4 * items, prepare["train_pairs"])
    few = {
        "prepare": {
            "train_pairs": pairs,
            "validation_scenes": min(2 * items, prepare["validation_scenes"]),
            "test_scenes": min(items, prepare["test_scenes"] or items),
            "classification_images": min(items, prepare["classification_images"] or items),
        },
        "train": {"pairs": pairs, "warmup_steps": 1, "accumulate": 1} | ({"epochs": 2} if streamed else {}),
        "patch_alignment": {"pairs": 1000},
        "segmentation": {"shown": 1},
        "ablations": {"inference_scenes": min(items, section["ablations"]["inference_scenes"])},
    }
    few = {name: values | few.get(name, {}) for name, values in section.items()}
    for name in ("features", "train", "patch_alignment", "segmentation", "classification"):
        least, count = (2, pairs) if name == "train" else (1, items)
        few[name]["batch_size"] = max(least, min(few[name]["batch_size"], count // 4))
    few["protocols"] = {name: small(name, protocol) for name, protocol in section["protocols"].items()}
    few["train"]["compile"] = section["train"]["compile"] and torch.cuda.is_available()
    base, points = few["ablations"]["base"], few["ablations"]["points"]
    few["ablations"]["base"] = base | {"pairs": pairs, "batch_size": max(2, min(64, pairs // 4)), "warmup_steps": 0}
    few["ablations"]["points"] = {name: points[name] for name in POINTS if name in points}
    return few


def small(name: str, protocol: dict) -> dict:
    """A protocol on small images, with the same token stride."""
    side = SIDES.get(name, 224)
    sizes = {"short_side": min(protocol.get("short_side") or side, side)}
    if own := protocol.get("per_benchmark"):
        sizes["per_benchmark"] = {name: {k: own[name][k] for k in own[name] if k != "short_side"} for name in own}
    if (protocol.get("window") or 0) > side:
        sizes |= {"window": side, "window_stride": side // 2}
    return protocol | sizes


def lay_out(root: Path, place: Path, table: dict) -> None:
    """A project of links to the real one's code and data files, with its own params.yaml and no results.

    Each of its lists of templates is cut to the first, since texts would take most of the time.
    """
    (place / "data").mkdir(parents=True)
    (place / "params.yaml").write_text(yaml.safe_dump(table, sort_keys=False), encoding="utf-8")
    for path in (root / "dvc.yaml", root / "notebooks", root / "pacl", *(root / "data").iterdir()):
        if path.name not in ("prepared", "features", "dense", "texts", "raw", "templates.yaml"):
            (place / path.relative_to(root)).symlink_to(path.absolute())
    first = {name: forms[:1] for name, forms in read_yaml(root / "data/templates.yaml").items()}
    (place / "data/templates.yaml").write_text(yaml.safe_dump(first), encoding="utf-8")


def stages(root: Path, profile: str, table: dict) -> dict[str, tuple[list[str], int]]:
    """Stage -> its command and how often a whole run runs it, in dvc.yaml's order, which can run. A stage with a matrix
    of seeds is rehearsed with seed 0.
    """
    found = {}
    for name, stage in read_yaml(root / "dvc.yaml")["stages"].items():
        if not stage.get("frozen"):
            command = re.sub(r"\$\{item\.\w+\}", "0", stage["cmd"].replace("${item.profile}", profile))
            lists = [table[values.strip("${}")] for key, values in stage["matrix"].items() if key != "profile"]
            found[name] = [sys.executable, *shlex.split(command)[1:]], math.prod(map(len, lists))
    return found


def run_stage(name: str, command: list[str], place: Path, root: Path) -> float:
    """Seconds of a stage in the temporary project. Raises RuntimeError with what it printed if it fails."""
    paths = os.pathsep.join(filter(None, (str(root.absolute()), os.environ.get("PYTHONPATH"))))
    print(f"{name} ...", file=sys.stderr, flush=True)
    start, environment = time.perf_counter(), os.environ | {"PYTHONPATH": paths}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise RuntimeError(f"The rehearsal's stage {name} failed:\n{last}")
    return time.perf_counter() - start


def time_table(times: list[dict], works: list[dict], runs: dict[str, int]) -> list[str]:
    """One line per stage: its seconds in both rehearsals, and an estimate for the whole run; then their sum."""
    whole = {}
    for name, count in runs.items():
        measured, work = [one[name] for one in times], [one.get(name, 0.0) for one in works]
        whole[name] = count * estimate.seconds(measured, work[:2], work[2])
    lines, total = [f"{'stage':<20} {'few':>8} {'more':>8}   whole run"], 0.0
    for name, seconds in whole.items():
        total += seconds
        lines.append(f"{name:<20} {times[0][name]:6.1f} s {times[1][name]:6.1f} s   {in_words(seconds)}")
        lines += [f"{'a trained embedder':<38}   {in_words(total)}"] * (name == "train")
    few = [f"{sum(one.values()):6.1f} s" for one in times]
    return [*lines, f"{'all together':<20} {few[0]} {few[1]}   {in_words(total)}"]


def needs(params: SimpleNamespace, rehearsed: estimate.Rehearsed, raw: Path) -> list[str]:
    """Lines on the disk and memory of a whole run."""
    clip, train, found = rehearsed.clip, params.train, estimate.counts(params, rehearsed)
    tokens = clip.grid(clip.image_size, clip.image_size)[0] ** 2
    texts = found.captions + rehearsed.nouns(found.encoded) * len(templates(params.features.templates))
    disk = f"Disk: {in_bytes(2 * (found.encoded * tokens * clip.width + texts * clip.dim))} of features"
    if params.prepare.source == "webdataset":
        tars = shards.find_shards(raw / shards.SHARDS["folder"])
        a_pair = sum(path.stat().st_size for path in tars) / sum(shards.survey(tars, 1.0)[0])
        disk += f", {in_bytes(train.pairs * a_pair)} of shards by the size of those that are there"
    first = params.protocols.named(params.segmentation.protocols)[params.segmentation.protocols[0]]
    disk += f", {in_bytes(rehearsed.kept_bytes(first, found.scenes))} of coarse logits"
    peak = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    batch = 4 * train.batch_size * tokens * (clip.width + 3 * clip.dim) / train.accumulate
    aligned = found.scenes.get(params.patch_alignment.benchmark, 0) * (1 + len(params.patch_alignment.methods))
    return [
        f"{disk}.",
        f"Memory: {in_bytes(peak)} at most in the rehearsal; beyond it about {in_bytes(batch)} for a training batch "
        f"over all processes, {in_bytes(4 * aligned * tokens * clip.width)} for the tokens of patch_alignment.",
    ]


def in_words(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} seconds"


def in_bytes(count: float) -> str:
    return f"{count / 2**30:,.1f} GiB" if count >= 2**29 else f"{count / 2**20:,.0f} MiB"


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
