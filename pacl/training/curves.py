"""A training's curves while it trains, in files that `dvc plots show` and DVC's view in VS Code read (dvclive).

They hold no times, so equal trainings give equal files; a training that was cut and went on leaves those of one that
was not. The stage `train` keeps them (`persist`) when it starts, for it may go on.
"""

import warnings
from pathlib import Path

EVERY = 50  # steps between two points of the training loss


class Curves:
    """Appends to FOLDER/plots/metrics/NAME.tsv, one file a curve, with the columns step and NAME.

    step: the steps already trained. A training that goes on after a cut keeps the points up to there and writes those
    after it anew; at step 0 all curves start anew.
    """

    def __init__(self, folder: Path, step: int = 0):
        from dvclive import Live  # half a second, which only a training has to spend
        from scmrepo.exceptions import SCMError

        (folder / "metrics.json").unlink(missing_ok=True)  # after a kill perhaps torn, which dvclive wouldn't forgive
        for path in (folder / "plots/metrics").glob("*.tsv"):
            keep_up_to(step, path)
        (folder / "plots/metrics").mkdir(parents=True, exist_ok=True)
        try:
            self.live = Live(str(folder), resume=step > 0, save_dvc_exp=False, dvcyaml=None)
        except SCMError:  # dvclive asks Git for a commit, and a new repository has none
            warnings.warn("no live curves: commit once, and the next training has them.", stacklevel=2)
            self.live = None

    def loss(self, step: int, losses: list[float]) -> None:
        """At every fiftieth step, the mean of the last fifty losses of the epoch under way."""
        if step % EVERY == 0:
            latest = losses[-EVERY:]
            self.add(step, {"loss": sum(latest) / len(latest)})

    def epoch(self, row: dict) -> None:
        """At the end of an epoch, what its row of the history adds: the logit scale, and validation's measures."""
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
    """Cuts a curve's rows after a step, and a last one that a kill tore."""
    rows = path.read_text(encoding="utf-8").splitlines(keepends=True)[1:]
    kept = [row for row in rows if row.endswith("\n") and int(row.split("\t")[0]) <= step]
    path.write_text("".join([f"step\t{path.stem}\n", *kept]), encoding="utf-8")
