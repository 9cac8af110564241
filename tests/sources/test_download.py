"""Downloads from a web server on this machine, of small archives in the real layouts."""

import copy
import errno
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from filelock import FileLock
from helpers.folders import box, thing, write_coco, write_flickr8k, write_instances, write_tiny_imagenet, write_voc
from helpers.web import served

from pacl.data.images import open_image
from pacl.runtime.config import load_params, project_root
from pacl.runtime.params import Prepare
from pacl.sources import addresses, classification_sets, download, segmentation_sets, shown_photos, tiny_imagenet
from pacl.sources.caption_sets import CAPTIONED
from pacl.sources.download import main
from pacl.sources.prepare import datasets_of, wanted
from pacl.sources.shards import SHARDS

ROOT = Path(__file__).parents[2]
TEXT = "github.com/jbrownlee/Datasets/releases/download/Flickr8k/Flickr8k_text.zip"
PHOTOS = "github.com/jbrownlee/Datasets/releases/download/Flickr8k/Flickr8k_Dataset.zip"
VOC = "thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar"


def pack(archive: Path, members: dict[str, Path | bytes]):
    """Writes a zip or tar file: names, and what they hold: a folder, a file, or bytes."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, held in members.items():
        if isinstance(held, bytes):
            files[name] = held
        else:
            of_folder = {f"{name}/{path.relative_to(held).as_posix()}": path for path in held.rglob("*")}
            found = of_folder if held.is_dir() else {name: held}
            files |= {key: path.read_bytes() for key, path in found.items() if path.is_file()}
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
            for name, content in files.items():
                opened.writestr(name, content)
    else:
        with tarfile.open(archive, "w:gz" if archive.name.endswith("gz") else "w") as opened:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                opened.addfile(member, io.BytesIO(content))


@pytest.fixture
def web(tmp_path, monkeypatch):
    """A mirror of Flickr8k's and VOC's archives, small, and data/downloads.toml with their sizes and checksums."""
    made, mirror = tmp_path / "made", tmp_path / "mirror"
    names = [f"{i:04d}" for i in range(12)]
    write_flickr8k(made, names)
    tokens = "".join(f"{name}.jpg#{i}\tcaption {i} of {name} .\n" for name in names for i in range(5))
    noise = {"__MACOSX/._Flickr8k": os.urandom(20_000)}
    pack(mirror / TEXT, {"Flickr8k.token.txt": tokens.encode(), "readme.txt": b"read me"})
    pack(mirror / PHOTOS, {"Flicker8k_Dataset": made / "Images"} | noise)
    write_voc(tmp_path / "VOC2012", train=("e",), val=("f", "g", "h"))
    pack(mirror / VOC, {"VOCdevkit/VOC2012": tmp_path / "VOC2012", "other": os.urandom(50_000)})
    publish(monkeypatch, mirror)
    monkeypatch.setattr(download, "get_weights", lambda model, dry: None)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 50)  # 10 MB are written at a time
    with served(mirror) as server:
        monkeypatch.setenv("PACL_MIRROR", server.address)
        yield server


def publish(monkeypatch, mirror: Path, changes=None):
    """Gives the known sets the sizes and checksums of the archives in a mirror."""
    sets = copy.deepcopy(addresses.known_sets())
    for file in (file for one in sets.values() for file in one.get("files", ())):
        parts = urlsplit(file["urls"][0])
        path = mirror / f"{parts.netloc}{parts.path}"
        if path.is_file():
            content = path.read_bytes()
            file.update(size=len(content), checksum=f"sha256:{hashlib.sha256(content).hexdigest()}", disk=0)
            file.update((changes or {}).get(path.name, {}))
    monkeypatch.setattr(download, "known_sets", lambda: sets)


def hold(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


WHOLE = {f"flickr8k/Flicker8k_Dataset/{i:04d}.jpg" for i in range(12)} | {"flickr8k/Flickr8k.token.txt"}


def test_a_profile_s_sets_arrive_whole_and_are_read(web, tmp_path, capsys):
    raw = tmp_path / "raw"
    assert main(["flickr8k", "--data", str(raw)]) == 0
    told = capsys.readouterr()
    assert "Flickr8k" in told.out and "Terms: non-commercial research; the photos' Flickr terms" in told.out
    assert "Disk needed" in told.out and "B/s" in told.err  # a bar with size and rate
    held = hold(raw) - {".download.lock"}
    assert held >= WHOLE and {name.split("/")[0] for name in held} == {"flickr8k", "VOCdevkit"}
    assert "flickr8k/readme.txt" not in held and len(held) == len(WHOLE) + 2 + 8
    images, captions, _ = tiny_imagenet.read_captions(raw, ["flickr8k"])
    assert len(images) == 12 and captions[1] == [f"caption {i} of 0001 ." for i in range(5)]
    assert [len(part) for part in segmentation_sets.scenes(raw / "VOCdevkit/VOC2012", segmentation_sets.VOC, "val")[:2]]
    requests = len(web.log)
    assert requests == 3 and main(["flickr8k", "--data", str(raw)]) == 0 and len(web.log) == requests  # all is there


def test_what_was_cut_goes_on_where_it_was_cut(web, tmp_path):
    raw = tmp_path / "raw"
    web.cuts = [100, 5_000, 7_000]  # the connection breaks: it goes on within the run
    assert main(["flickr8k", "--data", str(raw)]) == 0
    first, again = [entry for entry in web.log if entry[0].endswith("Flickr8k_text.zip")]
    assert first[1:] == (None, 200, 100) and again[1:3] == ("bytes=100-", 206)
    assert hold(raw) >= WHOLE


def test_an_interrupted_run_goes_on(web, tmp_path, capsys, monkeypatch):
    """Ctrl-C in the middle of the second file: the next run asks for its rest only, and not for the first again."""
    raw, whole = tmp_path / "raw", download.http_get

    def interrupted(url, target, **options):
        if url.endswith("Flickr8k_Dataset.zip"):
            target.write((web.folder / PHOTOS).read_bytes()[:3_000])
            raise KeyboardInterrupt
        whole(url, target, **options)

    monkeypatch.setattr(download, "http_get", interrupted)
    assert main(["flickr8k", "--data", str(raw)]) == 130 and "go on" in capsys.readouterr().err
    assert (raw / "archives/Flickr8k_Dataset.zip.part").stat().st_size == 3_000
    monkeypatch.setattr(download, "http_get", whole)
    web.log.clear()
    assert main(["flickr8k", "--data", str(raw)]) == 0 and hold(raw) >= WHOLE
    assert web.log[0][1] == "bytes=3000-" and not any("text.zip" in path for path, *_ in web.log)


def test_a_server_without_ranges_starts_over(web, tmp_path):
    raw = tmp_path / "raw"
    (raw / "archives").mkdir(parents=True)
    (raw / "archives/Flickr8k_Dataset.zip.part").write_bytes(b"x" * 1_000)
    web.ranges = False
    assert main(["flickr8k", "--data", str(raw)]) == 0 and hold(raw) >= WHOLE


def test_a_wrong_checksum_is_named_and_the_file_is_removed(web, tmp_path, capsys, monkeypatch):
    raw = tmp_path / "raw"
    publish(monkeypatch, web.folder, {"Flickr8k_Dataset.zip": {"checksum": "md5:" + 32 * "0"}})
    assert main(["flickr8k", "--data", str(raw)]) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert (
        told.startswith("Flickr8k: Flickr8k_Dataset.zip has the md5 ") and "By hand: put Flickr8k_Dataset.zip" in told
    )
    assert not list(raw.rglob("Flickr8k_Dataset*")) and not (raw / "flickr8k/Flicker8k_Dataset").exists()
    assert (raw / "VOCdevkit/VOC2012/JPEGImages").is_dir()  # the other sets are still fetched


def test_what_has_no_published_checksum_must_unpack_and_hold_what_is_expected(web, tmp_path, capsys, monkeypatch):
    raw, path = tmp_path / "raw", web.folder / PHOTOS
    content = path.read_bytes()
    unknown = {"Flickr8k_Dataset.zip": {"checksum": "", "size": None, "about": 1_000}}
    for damaged, told in ((content[:-40], "was damaged"), (content[: len(content) // 2], "was damaged")):
        path.write_bytes(damaged)
        publish(monkeypatch, web.folder, unknown)
        assert main(["flickr8k", "--data", str(raw), "--only", "flickr8k"]) == 1
        assert told in capsys.readouterr().err and not (raw / "flickr8k/Flicker8k_Dataset").exists()
        assert not list((raw / "archives").glob("Flickr8k_Dataset*"))
    pack(path, {"photos/a.jpg": b"a"})
    publish(monkeypatch, web.folder, unknown)
    assert main(["flickr8k", "--data", str(raw), "--only", "flickr8k"]) == 1
    assert "has no Flicker8k_Dataset: its layout has changed" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../evil.txt", "/tmp/evil.txt", "Flicker8k_Dataset/../../evil.txt", "..\\evil.txt"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_member_that_would_leave_the_folder_is_refused(web, tmp_path, capsys, monkeypatch, name, kind):
    raw, place, key = tmp_path / "raw", *((PHOTOS, "flickr8k") if kind == "zip" else (VOC, "voc"))
    pack(web.folder / place, {"Flicker8k_Dataset/a.jpg": b"a", "VOCdevkit/VOC2012/a.jpg": b"a", name: b"evil"})
    if kind == "zip" and "\\" in name:
        return  # zipfile itself writes and reads it with a slash, as ../evil.txt
    publish(monkeypatch, web.folder)
    assert main(["flickr8k", "--data", str(raw), "--only", key]) == 1
    assert "which would leave its folder: don't use it" in capsys.readouterr().err
    assert not list(tmp_path.rglob("evil.txt")) and not Path("/tmp/evil.txt").exists()
    assert not list(raw.rglob("a.jpg")) and not list(raw.rglob("*.unfinished"))


def test_a_link_to_elsewhere_is_refused(web, tmp_path, capsys, monkeypatch):
    raw = tmp_path / "raw"
    with tarfile.open(web.folder / VOC, "w") as opened:
        link = tarfile.TarInfo("VOCdevkit/VOC2012/JPEGImages")
        link.type, link.linkname = tarfile.SYMTYPE, "../../../../etc"
        opened.addfile(link)
    publish(monkeypatch, web.folder)
    assert main(["flickr8k", "--data", str(raw), "--only", "voc"]) == 1
    assert "PASCAL VOC 2012" in capsys.readouterr().err and not (raw / "VOCdevkit").exists()


def test_what_would_not_fit_is_refused_before_anything_is_asked(web, tmp_path, capsys, monkeypatch):
    raw = tmp_path / "raw"
    monkeypatch.setattr(download, "free", lambda folder: 1_000)
    assert main(["flickr8k", "--data", str(raw)]) == 1
    assert "only 1.00kB are free: make room" in capsys.readouterr().err
    assert web.log == [] and not raw.exists()


def test_a_disk_that_fills_up_keeps_what_has_arrived(web, tmp_path, capsys, monkeypatch):
    raw, whole = tmp_path / "raw", download.http_get

    def full(url, target, **options):
        target.write((web.folder / PHOTOS).read_bytes()[:2_000])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download, "http_get", full)
    assert main(["flickr8k", "--data", str(raw), "--only", "flickr8k"]) == 1
    assert f"no space is left on the disk of {raw}: free some and run the command again" in capsys.readouterr().err
    monkeypatch.setattr(download, "http_get", whole)
    extract = zipfile.ZipFile.extract

    def full_later(self, member, folder):
        if member.filename.endswith("0003.jpg"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return extract(self, member, folder)

    (raw / "archives/Flickr8k_text.zip.part").unlink()  # it holds the photos' bytes
    monkeypatch.setattr(zipfile.ZipFile, "extract", full_later)
    assert main(["flickr8k", "--data", str(raw), "--only", "flickr8k"]) == 1
    assert "no space is left" in capsys.readouterr().err and not list(raw.rglob("*.jpg"))  # all photos or none
    monkeypatch.setattr(zipfile.ZipFile, "extract", extract)
    web.log.clear()
    assert main(["flickr8k", "--data", str(raw), "--only", "flickr8k"]) == 0
    assert hold(raw) >= WHOLE and web.log == []  # the archive was there


def test_redirects_are_followed(web, tmp_path):
    (web.folder / "elsewhere").mkdir()
    (web.folder / PHOTOS).rename(web.folder / "elsewhere/x")
    web.moved = {f"/{PHOTOS}": f"{web.address}/elsewhere/x"}
    assert main(["flickr8k", "--data", str(tmp_path / "raw")]) == 0
    assert hold(tmp_path / "raw") >= WHOLE and [entry[2] for entry in web.log if entry[0][-1] == "x"] == [200]


def test_a_missing_file_names_the_set_the_address_and_the_manual_way(web, tmp_path, capsys):
    (web.folder / VOC).unlink()
    raw = tmp_path / "raw"
    assert main(["flickr8k", "--data", str(raw)]) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith(
        f"PASCAL VOC 2012: {web.address}/{VOC} (404 Not Found). By hand: put VOCtrainval_11-May-2012"
    )
    assert f"{raw / 'archives'} and run again, or unpack VOCtrainval_11-May-2012.tar of host.robots.ox.ac.uk" in told
    (raw / "archives").mkdir(exist_ok=True)
    pack(raw / "archives/VOCtrainval_11-May-2012.tar", {"VOCdevkit/VOC2012": tmp_path / "VOC2012"})
    assert main(["flickr8k", "--data", str(raw)]) == 1  # another file of that name: its checksum says so
    assert "instead of" in capsys.readouterr().err


def test_an_archive_that_was_got_by_hand_is_used(web, tmp_path):
    raw = tmp_path / "raw"
    (raw / "archives").mkdir(parents=True)
    (web.folder / VOC).rename(raw / "archives/VOCtrainval_11-May-2012.tar")
    assert main(["flickr8k", "--data", str(raw)]) == 0
    assert (raw / "VOCdevkit/VOC2012/JPEGImages/f.jpg").is_file() and not (raw / "archives").exists()


def test_the_next_address_is_tried(tmp_path, monkeypatch):
    pack(tmp_path / "b.zip", {"made/x": b"x"})
    with served(tmp_path) as server:
        file = {"urls": [f"{server.address}/gone/b.zip", f"{server.address}/b.zip"], "about": 1, "makes": ["made"]}
        assert download.fetch(file, tmp_path, None).read_bytes() == (tmp_path / "b.zip").read_bytes()
        (tmp_path / "b.zip").rename(tmp_path / "c.zip")
        download.download(file, tmp_path / "b.zip.part", [f"{server.address}/b.zip", f"{server.address}/c.zip"])
        assert (tmp_path / "b.zip.part").read_bytes() == (tmp_path / "c.zip").read_bytes()
        assert [entry[2] for entry in server.log] == [404, 200]


def test_a_dry_run_lists_and_writes_nothing(web, tmp_path, capsys):
    raw = tmp_path / "raw"
    assert main(["flickr8k", "--data", str(raw), "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "https://github.com/jbrownlee" in told and "VOCtrainval_11-May-2012.tar -> " in told
    assert web.log == [] and not raw.exists()


def test_only_some_sets(web, tmp_path, capsys):
    assert main(["flickr8k", "--data", str(tmp_path / "raw"), "--only", "voc"]) == 0
    assert {name.split("/")[0] for name in hold(tmp_path / "raw")} == {"VOCdevkit", ".download.lock"}
    assert main(["flickr8k", "--data", str(tmp_path / "raw"), "--only", "vox"]) == 1
    assert "'vox' is not a data set that can be named; there are flickr8k, " in capsys.readouterr().err


def test_a_set_in_another_layout_is_left_alone(web, tmp_path, capsys):
    write_flickr8k(tmp_path / "raw/flickr8k")  # Kaggle's
    assert main(["flickr8k", "--data", str(tmp_path / "raw")]) == 0
    assert not any("jbrownlee" in path for path, *_ in web.log)
    (tmp_path / "raw/VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt").unlink()
    assert main(["flickr8k", "--data", str(tmp_path / "raw")]) == 1
    assert "VOC2012 is incomplete; remove it and run again, or unpack" in capsys.readouterr().out


def test_two_downloads_don_t_write_at_once(web, tmp_path, capsys):
    raw = tmp_path / "raw"
    raw.mkdir()
    with FileLock(raw / ".download.lock"):
        assert main(["flickr8k", "--data", str(raw)]) == 1
    assert "Another download" in capsys.readouterr().err and web.log == []


def test_what_needs_an_account_is_said_and_never_asked_for(web, tmp_path, capsys):
    assert main(["paper", "--data", str(tmp_path / "raw"), "--only", "cityscapes", "imagenet", "webdataset"]) == 1
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 3 and web.log == []
    assert any(line.startswith("Cityscapes: not downloaded, because it is given to registered users") for line in told)
    assert any("register at image-net.org" in line for line in told)


def test_weights_with_a_tag_are_fetched_and_files_are_not(monkeypatch, capsys):
    asked, model = [], load_params("flickr8k", "model").model
    monkeypatch.setattr("pacl.clip.weights.fetch_weights", lambda *names: asked.append(names))
    download.get_weights(model, dry=True)
    assert asked == [] and "weights: ViT-B-16 openai" in capsys.readouterr().out
    download.get_weights(model, dry=False)
    for other in ("random", "data/photoclip", str(ROOT / "data/miniclip")):
        download.get_weights(model.model_copy(update={"pretrained": other}), dry=False)
    assert asked == [("ViT-B-16", "openai")]


def test_the_mini_world_needs_nothing(capsys):
    assert main(["mini"]) == 0 and capsys.readouterr().out == ""


def test_tiny_imagenet_and_coco_in_their_layouts(web, tmp_path, monkeypatch):
    write_tiny_imagenet(tmp_path / "tiny")
    write_coco(tmp_path / "coco", {"1.jpg": [f"caption {i}" for i in range(5)]})
    write_instances(tmp_path, [thing(1, 18, [box(0, 0, 9, 9)], 100)], {1: 4})
    pack(web.folder / "cs231n.stanford.edu/tiny-imagenet-200.zip", {"tiny-imagenet-200": tmp_path / "tiny"})
    pack(web.folder / "images.cocodataset.org/zips/train2017.zip", {"train2017": tmp_path / "coco/train2017"})
    pack(web.folder / "images.cocodataset.org/zips/val2017.zip", {"val2017": tmp_path / "coco/val2017"})
    annotations = {"annotations": tmp_path / "coco/annotations", "annotations/instances_train2017.json": b"{}"}
    pack(web.folder / "images.cocodataset.org/annotations/annotations_trainval2017.zip", annotations)
    publish(monkeypatch, web.folder)
    raw = tmp_path / "raw"
    assert main(["photos", "--data", str(raw)]) == 0
    assert not (raw / "coco/annotations/instances_train2017.json").exists()
    photos, captions, _ = tiny_imagenet.captioned_photos(raw)
    assert len(photos) == 6 + 12 + 1 and captions[-1] == [f"caption {i}" for i in range(5)]
    assert not [path for path in photos if "val2017" in str(path)], "what is shown is not trained on"
    assert open_image(raw / "coco/val2017/000000000001.jpg").size == (20, 10)
    assert [path for path, *_ in web.log].count("/images.cocodataset.org/annotations/annotations_trainval2017.zip") == 1


def test_downloads_name_every_set_and_agree_with_the_layouts():
    """A file name is unique, because all lie in one folder; sizes, checksums and terms are there."""
    sets, urls_of = addresses.known_sets(), {}
    known = [*CAPTIONED.values(), SHARDS, tiny_imagenet.TINY_IMAGENET, *segmentation_sets.IMAGE_SETS]
    known += shown_photos.SHOWN.values()
    own = {"your own captions"}
    assert {one["name"] for one in known} - own <= {one["name"] for one in sets.values()}
    of_layout = {one["name"]: one for one in known}
    of_layout |= {entry["name"]: entry for entry in classification_sets.all_sets().values() if "torchvision" in entry}
    for one in sets.values():
        assert ("account" in one) != ("files" in one) and one["terms"], one["name"]
        if one["name"] in of_layout:
            assert one["terms"].startswith(of_layout[one["name"]]["terms"].split(":")[0]), one["name"]
        for file in one.get("files", ()):
            assert urls_of.setdefault(download.name_of(file), file["urls"]) == file["urls"]
            assert file["source"] and ("size" in file) != ("about" in file) and file["makes"]
            kind, _, digits = file.get("checksum", "sha256:" + 64 * "0").partition(":")
            assert len(digits) == 2 * hashlib.new(kind).digest_size and int(digits, 16) >= 0


def test_torchvision_s_addresses_and_checksums_are_the_same():
    from torchvision import datasets

    files = {download.name_of(file): file for one in addresses.known_sets().values() for file in one.get("files", ())}
    pairs = [(datasets.CIFAR10.url, datasets.CIFAR10.tgz_md5), (datasets.CIFAR100.url, datasets.CIFAR100.tgz_md5)]
    pairs += [(datasets.Food101._URL, datasets.Food101._MD5), (datasets.DTD._URL, datasets.DTD._MD5)]
    pairs += datasets.OxfordIIITPet._RESOURCES
    prefix = datasets.Flowers102._download_url_prefix
    pairs += [(prefix + name, md5) for name, md5 in datasets.Flowers102._file_dict.values()]
    years = datasets.voc.DATASET_YEAR_DICT
    pairs.append((years["2010"]["url"], years["2010"]["md5"]))
    for url, md5 in pairs:
        file = files[url.rpartition("/")[2]]
        assert url in file["urls"] and file["checksum"] == f"md5:{md5}"
    assert years["2012"]["url"] in files["VOCtrainval_11-May-2012.tar"]["urls"]


@pytest.mark.parametrize("profile", ["flickr8k", "paper", "paper_l14", "photos"])
def test_what_a_profile_needs_is_the_same_without_a_yaml_reader(profile, tmp_path):
    """addresses.py reads params.yaml by itself; the sets it finds are those that the stage prepare looks for."""
    settings = load_params(profile, "prepare").prepare
    read = addresses.read_prepare((ROOT / "params.yaml").read_text(), profile)
    assert read["raw"] == settings.raw and read["source"] == settings.source
    assert read["benchmarks"] == settings.benchmarks
    assert read["classification_sets"] == settings.classification_sets
    assert read["shown"] == (settings.shown or "null")
    names = {dataset["name"] for _, dataset, _ in wanted(tmp_path, settings)}
    assert {one["name"] for one in addresses.needed(read).values()} == names


def test_every_source_and_benchmark_is_known_to_the_addresses():
    for source in set(Prepare.model_fields["source"].annotation.__args__) - {"miniworld", "own", "none"}:
        names = {one["name"] for one in addresses.needed({"source": source}).values()}
        assert names == {one["name"] for one in datasets_of(source)}
    for one in segmentation_sets.IMAGE_SETS:
        for name in one["benchmarks"]:
            assert [found["name"] for found in addresses.needed({"benchmarks": [name]}).values()] == [one["name"]]


ASK = """
import runpy, sys
sys.path.insert(0, sys.argv.pop())
runpy.run_module("pacl.sources.addresses", run_name="__main__")
"""


def ask(profile: str, **environment) -> subprocess.CompletedProcess:
    """Asks with a Python that has only the standard library."""
    command = [sys.executable, "-I", "-S", "-c", ASK, profile, str(ROOT)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ | environment)


def test_before_anything_is_installed_it_says_what_can_t_be_had(tmp_path):
    with served(tmp_path) as server:
        found = ask("flickr8k", PACL_MIRROR=server.address)
        assert (found.returncode, found.stderr) == (0, "") or (ROOT / "data/raw").exists()
        paper = ask("paper", PACL_MIRROR=server.address)
        assert paper.returncode == 1 and "Cityscapes must be got by hand: " in paper.stderr
    silent = ask("flickr8k", PACL_MIRROR=server.address)
    if not (project_root() / "data/raw/flickr8k").exists():
        assert silent.returncode == 1 and "must be downloaded, and none of 127.0.0.1" in silent.stderr
    assert ask("mini").returncode == 0
    unknown = ask("nope")
    assert unknown.returncode == 1 and unknown.stderr.startswith("'nope' is not a profile of params.yaml; it has mini,")
