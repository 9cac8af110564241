"""How long one waits before anything happens, in the clock's seconds."""

import subprocess
import sys
from functools import partial

from pacl.runtime.config import project_root
from speed.measuring import row, waited

IMPORT_LIMIT, NOTHING_LIMIT = 0.3, 3.0  # seconds, of import pacl and of a dvc repro with nothing to do
COMMANDS = {
    "Python alone, for comparison": ["-c", "pass"],
    "import pacl": ["-c", "import pacl"],
    "import pacl.label_maps, and torch with it": ["-c", "import pacl.label_maps"],
    "import pacl.segment, and open_clip with it": ["-c", "import pacl.segment"],
    "python -m pacl.notebook, which prints its usage": ["-m", "pacl.notebook"],
    "dvc repro with nothing to do": ["-m", "dvc", "repro", "--dry"],  # --dry detects changes, but never runs a stage
}
LIMITS = {"import pacl": IMPORT_LIMIT, "dvc repro with nothing to do": NOTHING_LIMIT}


def run(arguments: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], cwd=project_root(), capture_output=True, text=True)


def measure() -> dict:
    *_, repro = COMMANDS
    answer, commands, notes = run(COMMANDS[repro]), dict(COMMANDS), []
    if "up to date" not in answer.stdout + answer.stderr:
        del commands[repro]
        notes = ["`dvc repro` with nothing to do was not measured: the pipeline's results were not all there."]
    limits = {name: {"seconds_limit": limit} for name, limit in LIMITS.items()}
    rows = [
        row(name, {"ours": waited(partial(run, command), 3)}, targets=limits.get(name))
        for name, command in commands.items()
    ]
    return {"threads": 1, "rows": rows, "notes": notes}
