"""The pipeline killed in every stage, and started again each time, ends in the bytes of an unbroken run.

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
from pathlib import Path

import pytest
import yaml

from pacl.runtime.config import load_params
from pacl.tools.rehearse import lay_out, pipeline, reduced

ROOT = Path(__file__).parents[2]
LOCKS = ("dvc.lock", "ablations/dvc.lock")
KILLS = int(os.environ.get("PACL_KILLS", "1"))


def small_project(folder: Path) -> Path:
    """A repository of the project's code with a mini world of a few scenes, two ablation points and one more world."""
    table = yaml.safe_load((ROOT / "params.yaml").read_text())
    few, _ = reduced(table["mini"], load_params("mini", "prepare", "model", path=ROOT / "params.yaml"), ROOT)
    table |= {"mini": few, "ablation_points": list(few["ablations"]["points"]), "world_seeds": [11]}
    linked = folder.with_name("linked")
    linked.mkdir()
    lay_out(ROOT, linked, table)
    shutil.copytree(linked, folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.rmtree(linked)
    for name in ("dvc.yaml", ".dvcignore", ".gitignore", ".dvc/config", ".dvc/.gitignore"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "reports/miniclip", folder / "reports/miniclip")
    for path in (ROOT / "reports").glob("*.*"):  # what is measured once for all profiles
        shutil.copy(path, folder / "reports")
    stages = yaml.safe_load((ROOT / "dvc.lock").read_text())
    stages["stages"] = {"pretrain_miniclip": stages["stages"]["pretrain_miniclip"]}
    (folder / "dvc.lock").write_text(yaml.safe_dump(stages, sort_keys=False))
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    return folder


class Repro:
    """`dvc repro` in a process group of its own, and what it has said."""

    def __init__(self, folder: Path):
        self.log = folder.with_name(f"{folder.name}.log")
        paths = {"PYTHONPATH": str(folder), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        limits = {"OMP_NUM_THREADS": "1", "DVC_NO_ANALYTICS": "1"}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dvc", "repro"],
                cwd=folder,
                env=os.environ | paths | limits,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> "Repro":
        return self

    def __exit__(self, *_) -> None:
        if not self.ended():
            self.kill()

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stages(self) -> list[str]:
        return re.findall(r"^Running stage '(.+)':", self.log.read_text(), re.MULTILINE)

    def has_run(self, stage: str) -> bool:
        return "Updating lock file" in self.log.read_text().split(f"Running stage '{stage}'")[-1]

    def ended(self) -> bool:
        return self.process.poll() is not None

    def times(self) -> dict[str, float]:
        """Waits for its end; the seconds of each stage."""
        started = {}
        while not self.ended():
            for stage in self.stages():
                started.setdefault(stage, time.monotonic())
            time.sleep(0.02)
        assert self.process.returncode == 0, self.log.read_text()[-3000:]
        ends = [*started.values(), time.monotonic()][1:]
        return {stage: end - start for (stage, start), end in zip(started.items(), ends, strict=True)}

    def kill_in(self, stage: str, seconds: float) -> bool:
        """Kills all its processes so long after the stage's start, or when its outputs are there and DVC writes its
        lock file; False if it all ended before.
        """
        while stage not in self.stages() and not self.ended():
            time.sleep(0.01)
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.ended() and not self.has_run(stage):
            time.sleep(0.005)
        if self.ended():
            assert self.process.returncode == 0, self.log.read_text()[-3000:]
            return False
        self.kill()
        return True


def mend(lock: Path, good: bytes | None) -> bool:
    """Puts back a dvc.lock that a kill hit while DVC wrote it, as docs/sharing.md says; whether it had to. Without a
    good one it is removed.
    """
    if not lock.exists():
        return False
    try:
        torn = "stages" not in (yaml.safe_load(lock.read_bytes()) or {})
    except yaml.YAMLError:
        torn = True
    if torn and good is None:
        lock.unlink()
    elif torn:
        lock.write_bytes(good)
    return torn


def results(folder: Path) -> dict[str, bytes]:
    """Every file that the pipeline made."""
    made = [
        path
        for top in ("reports/mini", "checkpoints", "data/prepared", "data/features")
        for path in (folder / top).rglob("*")
    ]
    return {str(path.relative_to(folder)): path.read_bytes() for path in made if path.is_file()}


@pytest.mark.slow
def test_the_pipeline_killed_in_every_stage_ends_in_the_same_bytes(tmp_path):
    unbroken, cut = (small_project(tmp_path / name) for name in ("unbroken", "cut"))
    with Repro(unbroken) as run:
        seconds = run.times()
    expected = results(unbroken)
    stages = {name.split(":")[-1].split("@")[0] for name in seconds}
    assert stages == {name for name, stage in pipeline(ROOT).items() if not stage.get("frozen")}
    chance, killed, mended = random.Random(0), [], 0
    for stage in seconds:
        for _ in range(KILLS):
            moment = chance.uniform(0, seconds[stage])
            locks = {cut / name: (cut / name).read_bytes() if (cut / name).exists() else None for name in LOCKS}
            with Repro(cut) as run:
                if run.kill_in(stage, moment):
                    killed.append(stage)
                    mended += sum(mend(lock, good) for lock, good in locks.items())
                    print(f"killed {moment:.1f} s into {stage}, which takes {seconds[stage]:.1f} s")
    with Repro(cut) as run:
        run.times()
    print(f"{len(killed)} kills in {len(set(killed))} of {len(seconds)} stages; {len(expected)} files compared")
    print(f"{mended} of the kills hit dvc.lock while it was written")
    found = results(cut)
    assert found.keys() == expected.keys() and "reports/mini/metrics.json" in found
    assert [name for name in expected if found[name] != expected[name]] == []
    assert set(killed) == set(seconds)
    for lock in LOCKS:
        assert (cut / lock).read_bytes() == (unbroken / lock).read_bytes()
