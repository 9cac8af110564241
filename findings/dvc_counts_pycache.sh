#!/usr/bin/env bash
# A folder that is a stage's dependency counts with all that lies in it, Python's __pycache__ too, even if git ignores that: DVC reads
# .dvcignore alone. Running the code writes __pycache__, with each source's time in it, so a fresh copy or a saved, unchanged file
# makes the stage run again. With __pycache__ in .dvcignore it doesn't.
# Seen with DVC 3.67.1: the lines at the end.
set -euo pipefail
unset PYTHONDONTWRITEBYTECODE PYTHONPYCACHEPREFIX
export DVC_NO_ANALYTICS=1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check dvc==3.67.1 dvc-data==3.18.3 dvc-http==2.32.0 dvc-objects==5.2.0 dvc-render==1.0.2 dvc-studio-client==0.23.0 dvc-task==0.40.2 pathspec==1.1.1 scmrepo==3.6.2
export PATH="$folder/venv/bin:$PATH"
status() { echo "$1, $2: $(dvc status | grep -oE 'modified: +src|up to date' | tr -s ' ')"; }
for ignored in .gitignore .dvcignore; do
    mkdir -p "$folder/$ignored/project/src" && cd "$folder/$ignored/project"
    git init -q && dvc init -q
    echo "number = 1" >src/code.py
    echo __pycache__ >>$ignored
    printf 'stages: {run: {cmd: python -c "import src.code", deps: [src]}}\n' >dvc.yaml
    dvc repro -q
    status "$ignored" "after the run"
    (cd .. && cp -r project copy && rm -r copy/src/__pycache__ && cd copy && status "$ignored" "a copy as git would make it")
    touch -d "+1 hour" src/code.py && python -c "import src.code"
    status "$ignored" "the unchanged file saved, the code run"
done >"$folder/seen"
cat "$folder/seen"
diff - "$folder/seen" <<'END' || { echo "dvc_counts_pycache: the output has changed." >&2; exit 1; }
.gitignore, after the run: up to date
.gitignore, a copy as git would make it: modified: src
.gitignore, the unchanged file saved, the code run: modified: src
.dvcignore, after the run: up to date
.dvcignore, a copy as git would make it: up to date
.dvcignore, the unchanged file saved, the code run: up to date
END
