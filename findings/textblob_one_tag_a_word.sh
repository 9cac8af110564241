#!/usr/bin/env bash
# TextBlob's default tagger looks words up in a lexicon with one tag each and never at their neighbours: "key" is an adjective, "bear"
# and "sink" are verbs, "orange" is an adjective wherever they stand, and "copper key" leaves the noun "copper".
# Seen with textblob 0.19.0: the lines at the end.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check textblob==0.19.0 nltk==3.9.2 regex==2025.11.3 tqdm==4.67.1 click==8.3.0 joblib==1.5.2
cd "$folder"
venv/bin/python - >seen <<'END'
from textblob.en.taggers import PatternTagger

for caption in ("a copper key on a table", "a bear next to a sink", "an orange in a bowl", "a remote on a couch"):
    print(caption, "->", [word for word, tag in PatternTagger().tag(caption) if tag.startswith("NN")])
END
cat seen
diff - seen <<'END' || { echo "textblob_one_tag_a_word: the output has changed." >&2; exit 1; }
a copper key on a table -> ['copper', 'table']
a bear next to a sink -> []
an orange in a bowl -> ['bowl']
a remote on a couch -> ['couch']
END
