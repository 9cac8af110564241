#!/usr/bin/env bash
# img2dataset with --image_size alone pads every photo that isn't square with white (--resize_mode border is the default): of a photo of
# 3 to 2, a third of the pixels are white bars, which no later step can tell from the photo. With --resize_mode keep_ratio there are none.
# Seen with img2dataset 1.47.0: the lines at the end.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check \
    albucore==0.0.23 albumentations==1.4.24 annotated-types==0.8.0 anyio==4.16.0 braceexpand==0.1.7 \
    certifi==2026.10.19.post1 charset-normalizer==3.5.3 click==8.5.1 cwevals==0.0.1b1 dataclasses==0.6 distro==1.9.0 \
    ExifRead-nocycle==3.0.1 fire==0.7.1 fsspec==2026.9.0 googleapis-common-protos==1.76.0 h11==0.16.0 httpcore==1.0.9 \
    httpx==0.28.1 idna==3.20 img2dataset==1.47.0 numpy==2.4.6 opencv-python-headless==4.14.0.94 opentelemetry-api==1.45.2 \
    opentelemetry-exporter-http-transport==0.66b2 opentelemetry-exporter-otlp-common==0.66b2 \
    opentelemetry-exporter-otlp-proto-common==1.45.2 opentelemetry-exporter-otlp-proto-http==1.45.2 \
    opentelemetry-proto==1.45.2 opentelemetry-sdk==1.45.2 opentelemetry-semantic-conventions==0.66b2 packaging==26.4 \
    pandas==2.3.3 platformdirs==4.14.8 protobuf==7.36.2 pyarrow==26.0.1 pydantic==2.14.4 pydantic_core==2.50.5 \
    python-dateutil==4.0.0 pytz==2026.6 PyYAML==6.0.4 requests==2.34.2 scipy==1.17.1 simsimd==6.5.16 sniffio==1.3.1 \
    stringzilla==5.3.2 termcolor==3.3.0 tqdm==4.70.1 typing-inspection==0.4.5 typing_extensions==4.16.0 tzdata==2026.6 \
    urllib3==2.8.0 wandb==0.31.0 webdataset==0.2.111 xxhash==4.1.0
cd "$folder"
venv/bin/python - >seen <<'END'
import io
import subprocess
import tarfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Quiet)  # serves this folder
threading.Thread(target=server.serve_forever, daemon=True).start()

cv2.imwrite("photo.jpg", np.full((400, 600, 3), 90, np.uint8))
with open("list.csv", "w") as file:
    file.write(f"url,caption\nhttp://127.0.0.1:{server.server_port}/photo.jpg,grey\n")
for more in ([], ["--resize_mode", "keep_ratio"]):
    folder = "_".join(["out", *more])
    command = ["venv/bin/img2dataset", "--url_list", "list.csv", "--input_format", "csv"]
    command += ["--url_col", "url", "--caption_col", "caption"]
    command += ["--output_format", "webdataset", "--output_folder", folder, "--processes_count", "1", "--image_size", "256", *more]
    subprocess.run(command, check=True, capture_output=True)
    with tarfile.open(f"{folder}/00000.tar") as shard:
        stored = np.frombuffer(shard.extractfile("000000000.jpg").read(), np.uint8)
    picture = cv2.imdecode(stored, cv2.IMREAD_COLOR)
    print(" ".join(more) or "default", picture.shape[:2], f"white: {(picture > 250).all(axis=2).mean():.0%}")
END
cat seen
diff - seen <<'END' || { echo "img2dataset_white_bars: the output has changed." >&2; exit 1; }
default (256, 256) white: 33%
--resize_mode keep_ratio (256, 384) white: 0%
END
