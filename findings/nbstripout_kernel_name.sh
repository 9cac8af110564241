#!/usr/bin/env bash
# nbstripout leaves the kernel's display name in a notebook, which an editor changes to the name of one's own environment: a notebook
# that nobody edited differs in git, and a pipeline that watches it runs its stage again. It takes a key of its own to strip it.
# Seen with nbstripout 0.8.2 and nbformat 5.10.4: the lines at the end.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check nbstripout==0.8.2 nbformat==5.10.4 attrs==25.4.0 fastjsonschema==2.21.2 jsonschema==4.25.1 jsonschema-specifications==2025.9.1 \
    jupyter_core==5.9.1 platformdirs==4.5.0 referencing==0.37.0 rpds-py==0.28.0 traitlets==5.14.3 typing_extensions==4.15.0
cd "$folder"
venv/bin/python - <<'END'
import nbformat

kernel = {"name": "python3", "display_name": "my-env (Python 3.11.7)", "language": "python"}
notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernel, "language_info": {"name": "python", "version": "3.11.7"}})
nbformat.write(notebook, "notebook.ipynb")
END
for keys in "metadata.language_info" "metadata.language_info metadata.kernelspec.display_name"; do
    venv/bin/nbstripout --extra-keys "$keys" notebook.ipynb
    echo "$keys: display name \"$(sed -n 's/.*"display_name": "\(.*\)".*/\1/p' notebook.ipynb)\""
done >seen
cat seen
diff - seen <<'END' || { echo "nbstripout_kernel_name: the output has changed." >&2; exit 1; }
metadata.language_info: display name "my-env (Python 3.11.7)"
metadata.language_info metadata.kernelspec.display_name: display name ""
END
