"""The report's command line.

python -m pacl.report [PROFILE]                                    prints the claims and where the report is
python -m pacl.report expect PROFILE [CHAPTER ...]                 compares its untrained baselines with the literature
python -m pacl.report readme                                       updates the claims table in README.md
python -m pacl.report compare OLD.json NEW.json [--tolerance 0.02]  exits with 1 if two metrics.json differ by more
"""

import argparse
import math
import sys
from contextlib import suppress
from pathlib import Path

from pacl.report.claims import as_text, readmes_claims, with_claims
from pacl.report.expect import LOOK, expectations
from pacl.report.expect import as_text as as_table
from pacl.report.metrics import compare
from pacl.report.results import MEASURED, Results, report_folder
from pacl.runtime.config import find_file, load_params, project_root, read_yaml
from pacl.runtime.files import read_json, write_atomically
from pacl.runtime.params import Profile


def show(profiles: list[str]) -> int:
    """Prints the claims of each profile and where its report is. Raises FileNotFoundError without one."""
    for profile in profiles:
        page, claims = report_folder(profile) / "report.html", report_folder(profile) / "claims.json"
        if not page.is_file() or not claims.is_file():
            raise FileNotFoundError(
                f"There is no report of {profile} yet ({page}): run `make reproduce PROFILE={profile}`."
            )
        print(f"{as_text(read_json(claims))}\n\nReport of {profile}: {page}")
    return 0


def write_readme() -> int:
    path = project_root() / "README.md"
    write_atomically(path, with_claims(path.read_text(encoding="utf-8"), readmes_claims(project_root() / "reports")))
    return 0


def show_expectations(profile: str, *chapters: str) -> int:
    """Prints what others measured beside a run's numbers; the status is 1 if one of them is not met."""
    if odd := [name for name in chapters if name not in MEASURED]:
        raise ValueError(f"{odd[0]!r} is not a chapter with numbers; these are {', '.join(MEASURED)}.")
    results = Results(profile, load_params(profile, *Profile.model_fields))
    rows = expectations(results, list(chapters or MEASURED))
    print(as_table(rows))
    return int(any(row["verdict"] == LOOK for row in rows))


def compare_files(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m pacl.report compare", description="Compares two metrics.json.")
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    help = "largest difference that passes (default: %(default)s)"
    parser.add_argument("--tolerance", type=as_tolerance, default=0.02, help=help)
    options = parser.parse_args(arguments)
    lines, within = compare(read_metrics(options.old), read_metrics(options.new), options.tolerance)
    print("\n".join(lines) or f"Neither {options.old} nor {options.new} holds a value: name two metrics.json.")
    return int(not within)


def as_tolerance(text: str) -> float:
    """The tolerance as a number; argparse shows the error."""
    with suppress(ValueError):
        if 0 <= (value := float(text)) < math.inf:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a tolerance: give a finite number of at least 0.")


def read_metrics(path: Path):
    """A metrics.json. Raises FileNotFoundError, or ValueError if it can't be read."""
    try:
        return read_json(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{path} can't be read ({error.strerror}): name a metrics.json.") from None


def main(arguments: list[str]) -> int:
    try:
        if arguments[:1] == ["compare"]:
            return compare_files(arguments[1:])
        if arguments[:1] == ["expect"] and arguments[1:]:
            return show_expectations(*arguments[1:])
        if arguments == ["readme"]:
            return write_readme()
        return show(arguments or read_yaml(find_file("params.yaml")).get("profiles", []))
    except (FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
