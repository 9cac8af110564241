"""What the stages of a run wrote, each file read once: the one source of the claims and the report."""

from pathlib import Path
from types import SimpleNamespace

import pandas as pd

from pacl.runtime.config import project_root
from pacl.runtime.files import read_json

MEASURED = ("patch_alignment", "segmentation", "classification")  # the stages that measure, and metrics.json's keys


def report_folder(profile: str) -> Path:
    return project_root() / "reports" / profile


class Results:
    """A run's parameters and the contents of its files in reports/PROFILE: tables of JSON files, data frames of CSV
    files, None for a file that isn't there.

    params: all sections of the profile, as load_params returns them. folder: in place of reports/PROFILE.
    Raises ValueError for a corrupt JSON file, naming it and the remedy.
    """

    def __init__(self, profile: str, params: SimpleNamespace, folder: Path | None = None):
        self.profile, self.params, self.folder = profile, params, folder or report_folder(profile)
        self.prepared = self.read("prepare/prepare.json") or {}
        self.features = self.read("features/features.json")
        self.training = self.read("train/training.csv")
        self.metrics = {stage: self.read(f"{stage}/{stage}.json") for stage in MEASURED}
        self.patch_accuracy = self.read("patch_alignment/patch_accuracy.csv")
        self.iou_by_class = self.read("segmentation/iou_by_class.csv")
        self.mistakes = self.read("scenes/mistakes.json")
        self.viewer = self.read("scenes/viewer.json")
        self.gains = self.read("classification/classification.csv")
        self.ablations = self.read("ablations/ablations.csv")
        self.findings = self.read("ablations/findings.json") or {}
        self.logit_scales = self.read("ablations/logit_scales.csv")
        self.worlds = self.read("ablations/worlds.csv")
        self.blocks = self.read("patch_alignment/blocks.json")
        self.consistency = self.read("consistency.json")
        self.speed = self.read("../speed.json")  # measured once for all profiles, as the next three
        self.ranks = self.read("../ranks.json")
        self.memory = self.read("../streaming_memory.json")
        self.damaged = self.read("../damaged_files.json")
        self.pictures = {f"figures/{path.name}" for path in self.folder.glob("figures/*.png")}
        self.pictures |= {f"../{path.name}" for path in self.folder.parent.glob("*.png")}

    def read(self, name: str):
        path = self.folder / name
        if not path.is_file():
            return None
        return read_json(path) if path.suffix == ".json" else pd.read_csv(path)

    @property
    def label(self) -> str:
        """What the run's data are called."""
        return self.prepared.get("label", self.params.prepare.source)

    @property
    def random_weights(self) -> bool:
        return self.params.model.pretrained == "random"
