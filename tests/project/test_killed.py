"""The pipeline killed in every stage, and started again each time, ends in the bytes of an uninterrupted run.

PACL_KILLS: how many times it is killed in each stage (default 1).
"""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from helpers.imports import ROOT

from pacl.tools.rehearse import lay_out, reduced

KILLS = int(os.environ.get("PACL_KILLS", "1"))
MADE = ("reports/mini", "checkpoints", "data/prepared", "data/features")


def small_project(folder: Path) -> Path:
    """A repository of the project's code with a mini world of a few scenes, a few ablation points and another world."""
    table = yaml.safe_load((ROOT / "params.yaml").read_text())
    linked = folder.with_name("linked")
    lay_out(ROOT, linked, table | {"mini": reduced(table["mini"], 4), "world_seeds": [11]})
    shutil.copytree(linked, folder, ignore=shutil.ignore_patterns("__pycache__"))  # DVC takes no links to what it reads
    shutil.rmtree(linked)
    for path in (*map(ROOT.joinpath, ("dvc.yaml", ".dvcignore", ".gitignore")), *(ROOT / "reports").glob("*.*")):
        (folder / path.relative_to(ROOT)).parent.mkdir(exist_ok=True)
        shutil.copy(path, folder / path.relative_to(ROOT))
    shutil.copytree(ROOT / "reports/miniclip", folder / "reports/miniclip")
    lock = yaml.safe_load((ROOT / "dvc.lock").read_text())
    frozen = {name: stage for name, stage in lock["stages"].items() if name.startswith("pretrain")}
    (folder / "dvc.lock").write_text(yaml.safe_dump(lock | {"stages": frozen}, sort_keys=False))
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=folder, check=True)
    return folder


def repro(folder: Path, until: Callable[[str], bool]) -> bool:
    """`dvc repro` in a process group of its own, killed as soon as `until` says so of its output; whether it was."""
    log = folder.with_name(f"{folder.name}.log")
    paths = {"PYTHONPATH": str(folder), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    env = os.environ | paths | {"OMP_NUM_THREADS": "1", "DVC_NO_ANALYTICS": "1"}
    options = {"cwd": folder, "env": env, "stderr": subprocess.STDOUT, "start_new_session": True}
    with log.open("w") as output:
        process = subprocess.Popen([sys.executable, "-m", "dvc", "repro"], stdout=output, **options)
    try:
        while process.poll() is None:
            if until(log.read_text()):
                return True
            time.sleep(0.005)
        assert process.returncode == 0, log.read_text()[-3000:]
        return False
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def stages_in(output: str) -> list[str]:
    return re.findall(r"^Running stage '(.+)':", output, re.MULTILINE)


def time_stages(folder: Path) -> dict[str, float]:
    """The seconds of each stage of a whole run."""
    started = {}

    def watch(output: str) -> bool:
        for stage in stages_in(output):
            started.setdefault(stage, time.monotonic())
        return False

    repro(folder, watch)
    ends = [*started.values(), time.monotonic()][1:]
    return {stage: end - start for (stage, start), end in zip(started.items(), ends, strict=True)}


def so_long_after(stage: str, seconds: float) -> Callable[[str], bool]:
    """So long after the stage's start, or when its outputs are there and DVC writes dvc.lock."""
    started = []

    def reached(output: str) -> bool:
        if stage in stages_in(output):
            started.append(time.monotonic())
            ended = "Updating lock file" in output.split(f"Running stage '{stage}'")[-1]
            return ended or started[-1] - started[0] >= seconds
        return False

    return reached


def mend(lock: Path, good: bytes) -> None:
    """Puts back a dvc.lock that a kill hit while DVC wrote it, as docs/sharing.md says."""
    try:
        whole = "stages" in (yaml.safe_load(lock.read_bytes()) or {})
    except yaml.YAMLError:
        whole = False
    if not whole:
        lock.write_bytes(good)


def results(folder: Path) -> dict[str, bytes]:
    made = [path for top in MADE for path in (folder / top).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in [*made, folder / "dvc.lock"]}


@pytest.mark.slow
def test_the_pipeline_killed_in_every_stage_ends_in_the_same_bytes(tmp_path):
    unbroken, killed = (small_project(tmp_path / name) for name in ("unbroken", "killed"))
    seconds, expected = time_stages(unbroken), results(unbroken)
    chance, hit = random.Random(0), set()
    for stage in [stage for stage in seconds for _ in range(KILLS)]:
        good, moment = (killed / "dvc.lock").read_bytes(), chance.uniform(0, seconds[stage])
        if repro(killed, so_long_after(stage, moment)):
            hit.add(stage)
            mend(killed / "dvc.lock", good)
            print(f"killed {moment:.1f} s into {stage}, which takes {seconds[stage]:.1f} s")
    time_stages(killed)
    found = results(killed)
    assert hit == set(seconds) and "reports/mini/metrics.json" in found
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
