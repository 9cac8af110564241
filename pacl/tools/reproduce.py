"""From nothing to the report of one profile: its data, the pipeline, the claims; and which stages ran.

python -m pacl.tools.reproduce [PROFILE] [--force]

A profile that params.yaml doesn't list under `profiles` gets a pipeline of its own, reports/PROFILE/dvc.yaml with a
dvc.lock next to it, so that no tracked file changes and plain `dvc repro` still means the listed ones.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import yaml

from pacl.report.__main__ import main as show_report
from pacl.runtime.config import ConfigError, find_file, load_params, project_root, read_yaml
from pacl.runtime.files import write_atomically
from pacl.sources.download import main as get_data

STAGE = re.compile(r"(Running stage|Stage) '(?:[^':]*:)?([^'@]+)(@[^']*)?'(?: (?:didn't change|is cached))?")
MINI_CLIP = "data/miniclip"
HEADER = "# Written from dvc.yaml by `make reproduce PROFILE={0}`; `dvc repro reports/{0}/dvc.yaml` runs it, too.\n"


def pipeline(profile: str) -> str:
    """The target of `dvc repro` that makes a profile's report. Raises ConfigError for an unknown profile."""
    params = read_yaml(find_file("params.yaml"))
    profiles = [name for name, value in params.items() if isinstance(value, dict) and "prepare" in value]
    if profile not in profiles:
        raise ConfigError(f"{profile!r} is not a profile of params.yaml; it has {', '.join(profiles)}.")
    if profile in params["profiles"]:
        return f"report@{profile}"
    path = Path("reports", profile, "dvc.yaml")
    stages = own_stages(profile, params["world_seeds"], load_params(profile, "model").model.pretrained)
    content = yaml.safe_dump(stages, sort_keys=False, width=120)
    write_atomically(project_root() / path, HEADER.format(profile) + content)
    return str(path)


def own_stages(profile: str, seeds: list[int], pretrained: str) -> dict:
    """dvc.yaml's stages over all profiles, for one profile, as a file in reports/PROFILE says them. pretrained: its
    CLIP, which they depend on in place of the mini CLIP if it is a folder of the project.
    """
    stages, weights = {}, [pretrained] if (project_root() / pretrained).is_dir() else []
    for name, stage in read_yaml(project_root() / "dvc.yaml")["stages"].items():
        matrix = stage.pop("matrix")
        if matrix["profile"] == "${profiles}":
            stage = json.loads(json.dumps(stage).replace("${item.profile}", profile))
            if MINI_CLIP in stage["deps"]:
                stage["deps"] = [*(dep for dep in stage["deps"] if dep != MINI_CLIP), *weights]
            stages[name] = stage | {"wdir": "../.."} | ({"matrix": {"seed": seeds}} if "seed" in matrix else {})
    return {"stages": stages}


def repro(target: str, *, force: bool) -> tuple[int, dict[str, bool]]:
    """Runs `dvc repro`; returns its exit status and, of each stage, whether it ran."""
    command = [sys.executable, "-u", "-m", "dvc", "repro", *["--force"] * force, target]
    ran = {}
    with subprocess.Popen(command, cwd=project_root(), stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            if found := STAGE.match(line):
                ran[found[2]] = ran.get(found[2], False) or found[1] == "Running stage"
    return process.returncode, ran


def told(ran: dict[str, bool], profile: str) -> str:
    """Which stages ran, which didn't and why, and how to run them all."""
    new, kept = ([name for name, one in ran.items() if one is wanted] for wanted in (True, False))
    now = f"Ran now: {', '.join(new) or 'no stage'}."
    if not kept:
        return now
    listed = profile in read_yaml(find_file("params.yaml"))["profiles"]
    lock = "dvc.lock" if listed else f"reports/{profile}/dvc.lock"
    return f"""{now}
Not run: {", ".join(kept)}.
Their code, parameters and inputs are byte-equal to those that {lock} records, even where a stage before
them ran (equal features and weights), so their results are those in reports/ already.
To run all but the frozen pre-training: make reproduce PROFILE={profile} FORCE=1"""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m pacl.tools.reproduce", description=__doc__.splitlines()[0])
    parser.add_argument("profile", nargs="?", default="mini")
    parser.add_argument("--force", action="store_true", help="run stages whose inputs are those of dvc.lock, too")
    options = parser.parse_args(arguments)
    try:
        target = pipeline(options.profile)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    if status := get_data([options.profile]):
        return status
    status, ran = repro(target, force=options.force)
    if not status:
        status = show_report([options.profile])
        print(f"\n{told(ran, options.profile)}")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
