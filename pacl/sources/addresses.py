"""Where data sets can be downloaded (data/data_sets.toml), and whether those that a profile needs can be had from here.

python -m pacl.sources.addresses PROFILE    exits with 1 and says why, if they can't

Uses the standard library alone, because `make` asks before it installs anything.
"""

import os
import re
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from pacl.runtime.network import answers

ROOT = Path(__file__).parents[2]
KEYS = ("sources", "benchmarks", "classification_sets")  # of a set: the names in `prepare` that need it
MIRROR = "PACL_MIRROR"  # names the address of a mirror, as `wget -x` makes one: MIRROR/HOST/PATH


@cache
def known_sets() -> dict[str, dict]:
    """The data sets of data/data_sets.toml by their keys."""
    return tomllib.loads((ROOT / "data/data_sets.toml").read_text(encoding="utf-8"))


def addresses(file: dict, mirror: str | None) -> list[str]:
    """Where to get a file: from the mirror alone, if there is one."""
    if not mirror:
        return file["urls"]
    return [f"{mirror.rstrip('/')}/{parts.netloc}{parts.path}" for parts in map(urlsplit, file["urls"])][:1]


def needed(prepare: dict) -> dict[str, dict]:
    """The sets that a profile's section `prepare` needs: its `source` (or `sources`), benchmarks, classification
    sets, and photos to show.
    """
    asked = {key: set(prepare.get(key, ())) for key in KEYS}
    asked["sources"] |= {prepare.get("source")}
    asked["benchmarks"] |= {prepare.get("shown")}
    return {name: one for name, one in known_sets().items() if any(asked[key] & set(one.get(key, ())) for key in KEYS)}


def read_prepare(text: str, profile: str) -> dict:
    """source, raw, shown, benchmarks and classification_sets of a profile in params.yaml's text, as far as they are on
    lines of this file's own style. Raises ValueError if there is no such profile.
    """
    blocks = dict(re.findall(r"^(\w+):[^\n]*\n((?:[ #][^\n]*\n|\n)+)", text, re.MULTILINE))
    profiles = [name for name, block in blocks.items() if re.search(r"^  prepare:", block, re.MULTILINE)]
    if profile not in profiles:
        raise ValueError(f"{profile!r} is not a profile of params.yaml; it has {', '.join(profiles)}.")
    alias = re.search(r"^  prepare: \*(\w+)", blocks[profile], re.MULTILINE)
    where, name = (text, f"prepare: &{alias[1]}") if alias else (blocks[profile], "prepare:")
    block = re.search(rf"^  {re.escape(name)}[^\n]*\n((?:    [^\n]*\n)+)", where, re.MULTILINE)[1]
    words = dict(re.findall(r"^    (source|raw|shown): (\S+)", block, re.MULTILINE))
    lists = re.findall(r"^    (benchmarks|classification_sets):[^\[]*\[([^\]]*)\]", block, re.MULTILINE)
    return words | {key: re.findall(r"[\w-]+", names) for key, names in lists}


def out_of_reach(prepare: dict, mirror: str | None) -> list[str]:
    """Sentences on the sets that a profile needs, that aren't below its raw folder, and that can't be had."""
    raw = ROOT / prepare["raw"]
    absent = [one for one in needed(prepare).values() if not (raw / one["folder"]).exists()]
    sentences = [f"{one['name']} must be got by hand: {one['account']}." for one in absent if "account" in one]
    hosts_of = {
        one["name"]: {urlsplit(url).netloc: url for url in addresses(one["files"][0], mirror)}
        for one in absent
        if "files" in one
    }
    hosts = {host: url for of_set in hosts_of.values() for host, url in of_set.items()}
    with ThreadPoolExecutor(16) as pool:
        silent = {host for host, there in zip(hosts, pool.map(answers, hosts.values()), strict=True) if not there}
    if lost := [name for name, of_set in hosts_of.items() if silent.issuperset(of_set)]:
        named = ", ".join(dict.fromkeys(host for name in lost for host in hosts_of[name]))
        sentences.append(f"{', '.join(lost)} must be downloaded, and none of {named} answers: connect to a network.")
    return sentences


def main(arguments: list[str]) -> int:
    (profile,) = arguments
    try:
        prepare = read_prepare((ROOT / "params.yaml").read_text(encoding="utf-8"), profile)
        sentences = out_of_reach(prepare, os.environ.get(MIRROR)) if prepare["source"] != "miniworld" else []
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    if sentences:
        put = f"Or put what is missing into {ROOT / prepare['raw']} yourself (docs/data.md)."
        print(f"The data of {profile} can't be had from here.", *sentences, put, sep="\n", file=sys.stderr)
    return int(bool(sentences))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
