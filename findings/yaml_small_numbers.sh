#!/usr/bin/env bash
# Two YAML readers disagree on 5e-05: ruamel.yaml (YAML 1.2; DVC's) reads a number and writes 0.00005 that way; PyYAML (YAML 1.1)
# reads a text, because 1.1 wants a point and a sign. A learning rate that one tool wrote, another compares with a text.
# Seen with PyYAML 6.0.3 and ruamel.yaml 0.18.16: the lines at the end.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check PyYAML==6.0.3 ruamel.yaml==0.18.16
cd "$folder"
venv/bin/python - >seen <<'END'
import io

import ruamel.yaml
import yaml

written = io.StringIO()
ruamel.yaml.YAML().dump({"learning_rate": 0.00005}, written)
print("ruamel.yaml writes", written.getvalue().strip())
print("ruamel.yaml reads", repr(float(ruamel.yaml.YAML(typ="safe").load(written.getvalue())["learning_rate"])))
print("PyYAML reads", repr(yaml.safe_load(written.getvalue())["learning_rate"]))
print("PyYAML reads", repr(yaml.safe_load("learning_rate: 5.0e-05")["learning_rate"]), "of 5.0e-05")
END
cat seen
diff - seen <<'END' || { echo "yaml_small_numbers: the output has changed." >&2; exit 1; }
ruamel.yaml writes learning_rate: 5e-05
ruamel.yaml reads 5e-05
PyYAML reads '5e-05'
PyYAML reads 5e-05 of 5.0e-05
END
