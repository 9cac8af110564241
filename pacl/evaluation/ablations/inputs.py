"""What each ablation point is computed from, in one file that its stage names in place of dozens of files and sections
of params.yaml, which DVC reads anew for each stage: python -m pacl.evaluation.ablations.inputs PROFILE.
"""

import json
import sys
from hashlib import sha256
from pathlib import Path

from pacl.runtime.config import load_params, project_root, read_yaml
from pacl.runtime.files import write_json


def write_inputs(profile: str) -> Path:
    """Writes reports/PROFILE/ablation_inputs: in shared.json checksums of the code and of the other files that the
    stage ablation_inputs depends on, and of the settings that all points start from (whose numbers JSON here would
    round); in POINT.json that of shared.json and that of the point's own changes.

    Raises FileNotFoundError for a file that isn't there, and ConfigError as `load_params` does.
    """
    params = load_params(profile, "model", "features", "train", "protocols", "ablations")
    settings = {name: getattr(params, name).model_dump(mode="json") for name in ("model", "features", "train")}
    settings["native"] = params.protocols.native.model_dump(mode="json")
    settings["base"], settings["seeds"] = params.ablations.base, params.ablations.seeds
    files = read_yaml(project_root() / "ablations/dvc.yaml")["stages"]["ablation_inputs"]["deps"]
    of_files = {name: checksum(Path(name).read_bytes()) for name in files}
    of_settings = {name: checksum(as_bytes(value)) for name, value in settings.items()}
    folder = Path("reports", profile, "ablation_inputs")
    write_json(folder / "shared.json", {"files": of_files, "settings": of_settings})
    shared = checksum((folder / "shared.json").read_bytes())
    for point, changes in params.ablations.points.items():
        write_json(folder / f"{point}.json", {"shared": shared, "changes": checksum(as_bytes(changes))})
    return folder


def as_bytes(settings) -> bytes:
    return json.dumps(settings).encode()


def checksum(content: bytes) -> str:
    return sha256(content).hexdigest()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Usage: python -m pacl.evaluation.ablations.inputs PROFILE")
    try:
        print(write_inputs(sys.argv[1]))
    except (ValueError, FileNotFoundError) as error:
        sys.exit(str(error))
