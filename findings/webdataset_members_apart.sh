#!/usr/bin/env bash
# WebDataset joins the files of a sample only where they follow each other in the tar file, and packing a folder doesn't sort
# it by name. Members in another order become twice as many samples, each with half its fields, without a word.
# Seen with webdataset 1.0.2: the lines at the end.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check webdataset==1.0.2 braceexpand==0.1.7 numpy==2.2.6 PyYAML==6.0.3
cd "$folder"
venv/bin/python - >seen <<'END'
import io
import tarfile

import webdataset

for order in (("1.jpg", "1.txt", "2.jpg", "2.txt"), ("1.jpg", "2.jpg", "1.txt", "2.txt")):
    with tarfile.open("shard.tar", "w") as shard:
        for name in order:
            member = tarfile.TarInfo(name)
            member.size = 1
            shard.addfile(member, io.BytesIO(b"x"))
    samples = webdataset.WebDataset("shard.tar", shardshuffle=False)
    print([[sample["__key__"], *(field for field in sample if not field.startswith("__"))] for sample in samples])
END
cat seen
diff - seen <<'END' || { echo "webdataset_members_apart: the output has changed." >&2; exit 1; }
[['1', 'jpg', 'txt'], ['2', 'jpg', 'txt']]
[['1', 'jpg'], ['2', 'jpg'], ['1', 'txt'], ['2', 'txt']]
END
