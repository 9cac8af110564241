"""The curves of a running training, in files that `dvc plots show` and DVC's view in VS Code read (dvclive).

They hold no times, so equal trainings give equal files, and a resumed training the same files as an unbroken one. The
stage `train` keeps them (`persist`) when it starts, because it may resume.
"""

import warnings
from pathlib import Path

EVERY = 50  # steps between two points of the training loss


class Curves:
    """Appends to FOLDER/plots/metrics/NAME.tsv, one file per curve, with the columns step and NAME.

    step: the steps already trained. A resumed training keeps the points up to there and writes the later ones again; at
    step 0 all curves start again.
    """

    def __init__(self, folder: Path, step: int = 0):
        from dvclive import Live  # takes half a second, which only trainings need to spend
        from scmrepo.exceptions import SCMError

        (folder / "metrics.json").unlink(missing_ok=True)  # a kill may have corrupted it, and dvclive would fail
        for path in (folder / "plots/metrics").glob("*.tsv"):
            keep_up_to(step, path)
        (folder / "plots/metrics").mkdir(parents=True, exist_ok=True)
        try:
            self.live = Live(str(folder), resume=step > 0, save_dvc_exp=False, dvcyaml=None)
        except SCMError:  # dvclive asks Git for a commit, which a new repository lacks
            warnings.warn("no live curves: commit once, and the next training writes them.", stacklevel=2)
            self.live = None

    def loss(self, step: int, losses: list[float]) -> None:
        """At every fiftieth step, the mean of the current epoch's last fifty losses."""
        if step % EVERY == 0:
            latest = losses[-EVERY:]
            self.add(step, {"loss": sum(latest) / len(latest)})

    def epoch(self, row: dict) -> None:
        """At the end of an epoch, the rest of its row in the history: the logit scale, and validation's measures."""
        self.add(row["step"], {name: row[name] for name in row if name not in ("epoch", "step", "loss")})

    def add(self, step: int, values: dict[str, float]) -> None:
        """One point for each named curve."""
        if self.live is None:
            return
        self.live.step = step
        for name, value in values.items():
            self.live.log_metric(name, round(value, 6))
        self.live.next_step()


def keep_up_to(step: int, path: Path) -> None:
    """Drops a curve's rows after a step, and a last row that a kill left incomplete."""
    rows = path.read_text(encoding="utf-8").splitlines(keepends=True)[1:]
    kept = [row for row in rows if row.endswith("\n") and int(row.split("\t")[0]) <= step]
    path.write_text("".join([f"step\t{path.stem}\n", *kept]), encoding="utf-8")
