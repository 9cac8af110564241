"""Joins what the stages wrote into metrics.json, report.md and report.html, and compares two runs (paper, section 4).

python -m pacl.report [PROFILE]                                    where the report is, and the claims table
python -m pacl.report readme                                       brings the claims table in README.md up to date
python -m pacl.report compare OLD.json NEW.json [--tolerance 0.02]  exit status 1 where two metrics.json differ by more
"""

import os
import re
import sys
from pathlib import Path

from pacl.report.claims import TERMS, as_text
from pacl.report.metrics import compare_files
from pacl.runtime.config import ConfigError, find_file, project_root, read_yaml
from pacl.runtime.files import read_json

MARKERS = ("<!-- claims: python -m pacl.report readme -->", "<!-- end of claims -->")  # of the table in README.md


def report_folder(profile: str) -> Path:
    return project_root() / "reports" / profile


def write_report(profile: str, params, folder: Path | None = None) -> Path:
    """Writes report.md and report.html from the files in `folder` (reports/<profile>), and returns the latter's path.

    params: all sections of the profile, as load_params gives them. A stage that hasn't run is named in its place.
    Raises FileNotFoundError without claims.json.
    """
    from pacl.report.chapters import chapters  # the command line needs neither templates nor Markdown
    from pacl.report.page import write_html, write_markdown

    folder = folder or report_folder(profile)
    content = chapters(profile, params, folder)
    write_markdown(content, folder / "report.md")
    write_html(content, folder / "report.html")
    return folder / "report.html"


def claims_table(claims: list[dict]) -> str:
    """The claims as a Markdown table; what all of them say of the data stands in the column's name only."""
    (label, *others) = {match[1] for claim in claims if (match := re.search(r" \(([^()]*)\)$", claim["measured"]))} or {
        ""
    }
    ends = "" if others or not label else f" ({label})"
    rows = [("Claim", "Paper", f"Ours{ends}", "Verdict"), ("---",) * 4]
    rows += [(c["claim"], c["paper"], c["measured"].removesuffix(ends), c["verdict"]) for c in claims]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def with_claims(readme: str, claims: list[dict]) -> str:
    """README.md's text with the table and its terms between the markers made anew. Raises ValueError without them."""
    before, begin, rest = readme.partition(MARKERS[0])
    _, end, after = rest.partition(MARKERS[1])
    if not begin or not end:
        raise ValueError(f"README.md lacks the lines {MARKERS[0]} and {MARKERS[1]}: put them around the claims table.")
    return f"{before}{begin}\n\n{claims_table(claims)}\n\n{TERMS}\n\n{end}{after}"


def write_readme() -> int:
    """Brings README.md's claims table up to date with reports/mini."""
    path = project_root() / "README.md"
    text = with_claims(path.read_text(encoding="utf-8"), read_json(report_folder("mini") / "claims.json"))
    partial = path.with_name(f".README.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
    return 0


def show(profiles: list[str]) -> int:
    """Prints for each profile where its report is and what became of the claims."""
    for profile in profiles:
        page, claims = report_folder(profile) / "report.html", report_folder(profile) / "claims.json"
        if not page.is_file() or not claims.is_file():
            how = "make reproduce" if profile == "mini" else f"dvc exp run -S 'profiles=[{profile}]'"
            print(f"There is no report of {profile} yet ({page}): run `{how}`.", file=sys.stderr)
            return 1
        print(f"{as_text(read_json(claims))}\n\nReport of {profile}: {page}")
    return 0


def main(arguments: list[str]) -> int:
    try:
        if arguments[:1] == ["compare"]:
            return compare_files(arguments[1:])
        if arguments == ["readme"]:
            return write_readme()
        return show(arguments or read_yaml(find_file("params.yaml")).get("profiles", []))
    except (ConfigError, FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
