"""What a report was made with: package versions and the last commit; no times and places, so equal runs are equal."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version

from pacl.runtime.config import project_root

PACKAGES = (
    "torch",
    "torchvision",
    "open_clip_torch",
    "numpy",
    "pandas",
    "scikit-learn",
    "pillow",
    "textblob",
    "matplotlib",
    "seaborn",
)
DECIDING = ("pacl", "notebooks", "params.yaml", "data")  # what the numbers follow from


def versions() -> dict[str, str]:
    """Python's and the packages' versions, "not installed" where one lacks."""
    found = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def last_commit() -> str:
    """The last commit that changed what the numbers follow from, and whether that differs; "unknown" outside git."""
    try:
        commit = git("log", "-1", "--abbrev=10", "--format=%h", "--", *DECIDING)
        changed = git("status", "--porcelain", "--", *DECIDING)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    if not commit:
        return "unknown"
    return f"{commit}, with changes that aren't committed" if changed else commit


def git(*arguments: str) -> str:
    run = subprocess.run(
        ["git", "--no-optional-locks", *arguments], cwd=project_root(), capture_output=True, text=True, check=True
    )
    return run.stdout.strip()
