"""How long one waits before anything happens: python -m speed.startup. The clock's time."""

import subprocess
import sys
import time
from statistics import median

from pacl.runtime.config import project_root
from speed import tables
from speed.measuring import row

IMPORT_LIMIT, NOTHING_LIMIT = 0.3, 3.0  # seconds, of import pacl and of a dvc repro with nothing to do
COMMANDS = {
    "Python alone, for comparison": ["-c", "pass"],
    "import pacl": ["-c", "import pacl"],
    "import pacl.label_maps, and torch with it": ["-c", "import pacl.label_maps"],
    "import pacl.segment, and open_clip with it": ["-c", "import pacl.segment"],
    "python -m pacl.notebook, which prints its usage": ["-m", "pacl.notebook"],
}


def waited(arguments: list[str], repeats: int = 3) -> float:
    """Median seconds of a command after a first one, which fills the page cache."""
    taken = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], cwd=project_root(), capture_output=True)
        taken.append(time.perf_counter() - start)
    return median(taken[1:])


def nothing_to_do() -> dict | None:
    """`dvc repro` where nothing is to be done; None where something is, or where the pipeline has never run."""
    command = ["-m", "dvc", "repro", "--dry"]  # --dry looks for changes as without it, but never runs a stage
    run = subprocess.run([sys.executable, *command], cwd=project_root(), capture_output=True, text=True)
    if "up to date" not in run.stdout + run.stderr:
        return None
    return row("dvc repro with nothing to do", {"ours": waited(command)}, targets={"seconds_limit": NOTHING_LIMIT})


def measure() -> dict:
    rows = [
        row(
            name,
            {"ours": waited(arguments)},
            targets={"seconds_limit": IMPORT_LIMIT} if name == "import pacl" else {},
        )
        for name, arguments in COMMANDS.items()
    ]
    repro = nothing_to_do()
    notes = (
        [] if repro else ["`dvc repro` with nothing to do was not measured: the pipeline's results were not all there."]
    )
    return {"threads": 1, "rows": rows + ([repro] if repro else []), "notes": notes}


def main() -> None:
    print(tables.text(measure()["rows"]))


if __name__ == "__main__":
    main()
