"""WebDataset shards of plain pictures, as img2dataset writes them."""

import io
import json
import tarfile

from PIL import Image


def jpeg(value=0, mode="RGB", **options):
    file = io.BytesIO()
    Image.new("RGB", (40, 32), (value, value, value)).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def write_shard(path, first, count, **changes):
    """A shard as img2dataset writes it; changes: file name -> other bytes, None for no file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files = {}
    for number in range(first, first + count):
        key = f"{number:09d}"
        about = json.dumps({"caption": f"caption {number}", "key": key, "status": "success"}).encode()
        files |= {f"{key}.jpg": jpeg(number), f"{key}.txt": f"caption {number}\n".encode(), f"{key}.json": about}
    return tar_of(path, *((name, data) for name, data in (files | changes).items() if data is not None))


def tar_of(path, *members):
    """A tar of (name, bytes)."""
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path
