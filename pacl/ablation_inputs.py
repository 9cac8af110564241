"""What all ablation points compute with, in one file that each point's stage names in place of forty: python -m
pacl.ablation_inputs PROFILE.
"""

import json
import sys
from hashlib import sha256
from pathlib import Path

from pacl.config import load_params, project_root, read_yaml
from pacl.data import write_json


def write_inputs(profile: str) -> Path:
    """Writes reports/PROFILE/ablation_inputs.json: checksums of the code and of the other files that the stage
    ablation_inputs depends on, and of the settings that the points start from (whose numbers JSON here would round).

    Raises FileNotFoundError for a file that isn't there, and ConfigError as `load_params` does.
    """
    params = load_params(profile, "model", "features", "train", "protocols", "ablations")
    settings = {name: getattr(params, name).model_dump(mode="json") for name in ("model", "features", "train")}
    settings["native"] = params.protocols.native.model_dump(mode="json")
    settings["base"], settings["seeds"] = params.ablations.base, params.ablations.seeds
    files = read_yaml(project_root() / "ablations/dvc.yaml")["stages"]["ablation_inputs"]["deps"]
    content = {name: Path(name).read_bytes() for name in files}
    values = {name: json.dumps(value).encode() for name, value in settings.items()}
    target = Path("reports", profile, "ablation_inputs.json")
    write_json(target, {"files": checksums(content), "settings": checksums(values)})
    return target


def checksums(content: dict[str, bytes]) -> dict[str, str]:
    return {name: sha256(value).hexdigest() for name, value in content.items()}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Usage: python -m pacl.ablation_inputs PROFILE")
    try:
        print(write_inputs(sys.argv[1]))
    except (ValueError, FileNotFoundError) as error:
        sys.exit(str(error))
