#!/usr/bin/env bash
# A label map of 16 bits (ADE20K-Full has thousands of classes) read as 8 bits: Pillow's convert("L") makes 255 of every label
# above it, which most evaluators take for "ignore"; OpenCV's IMREAD_GRAYSCALE divides by 256, which makes 0 or 1 of most. Neither warns.
# Seen with Pillow 12.0.0 and opencv-python-headless 4.12.0.88: the lines at the end.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check opencv-python-headless==4.12.0.88 numpy==2.2.6 Pillow==12.0.0
cd "$folder"
venv/bin/python - >seen <<'END'
import cv2
import numpy as np
from PIL import Image

Image.fromarray(np.array([[0, 7, 255, 256, 300, 2978]], np.uint16)).save("mask.png")
mask = Image.open("mask.png")
print("stored", np.array(mask).tolist())
print('Pillow, convert("L")', np.array(mask.convert("L")).tolist())
print("OpenCV, greyscale", cv2.imread("mask.png", cv2.IMREAD_GRAYSCALE).tolist())
END
cat seen
diff - seen <<'END' || { echo "sixteen_bit_labels: the output has changed." >&2; exit 1; }
stored [[0, 7, 255, 256, 300, 2978]]
Pillow, convert("L") [[0, 7, 255, 255, 255, 255]]
OpenCV, greyscale [[0, 0, 0, 1, 1, 11]]
END
