#!/usr/bin/env bash
# WebDataset's key ends at the first dot of a file's name, not at the last: photo.v1.jpg and photo.v2.jpg are one sample "photo" with
# the fields v1.jpg and v2.jpg. Code that reads sample["jpg"] finds nothing, and a filter for images drops them in silence.
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

with tarfile.open("shard.tar", "w") as shard:
    for name in ("photo.v1.jpg", "photo.v1.txt", "photo.v2.jpg", "photo.v2.txt"):
        member = tarfile.TarInfo(name)
        member.size = 1
        shard.addfile(member, io.BytesIO(b"x"))
for sample in webdataset.WebDataset("shard.tar", shardshuffle=False):
    print(sample["__key__"], [field for field in sample if not field.startswith("__")])
END
cat seen
diff - seen <<'END' || { echo "webdataset_first_dot: the output has changed." >&2; exit 1; }
photo ['v1.jpg', 'v1.txt', 'v2.jpg', 'v2.txt']
END
