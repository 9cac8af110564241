"""Downloads from a web server on this machine, of small archives in the real layouts."""

import copy
import errno
import hashlib
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
from helpers.small_shards import tar_of
from helpers.web import served

from pacl.data.images import open_image
from pacl.runtime.config import load_params, project_root
from pacl.runtime.params import Prepare
from pacl.sources import addresses, classification_sets, download, segmentation_sets, shown_photos, tiny_imagenet
from pacl.sources.download import main
from pacl.sources.prepare import datasets_of, wanted
from pacl.sources.shards import SHARDS

ROOT = Path(__file__).parents[2]
TEXT = "github.com/jbrownlee/Datasets/releases/download/Flickr8k/Flickr8k_text.zip"
PHOTOS = "github.com/jbrownlee/Datasets/releases/download/Flickr8k/Flickr8k_Dataset.zip"
VOC = "thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar"


def pack(archive: Path, members: dict[str, Path | bytes]):
    """Writes a zip or tar file: names, and what they hold, bytes or a folder."""
    files = {name: held for name, held in members.items() if isinstance(held, bytes)}
    for name, held in ((name, held) for name, held in members.items() if name not in files):
        paths = [path for path in held.rglob("*") if path.is_file()]
        files |= {f"{name}/{path.relative_to(held).as_posix()}": path.read_bytes() for path in paths}
    archive.parent.mkdir(parents=True, exist_ok=True)
    if archive.suffix == ".tar":
        return tar_of(archive, *files.items())
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in files.items():
            opened.writestr(name, content)


@pytest.fixture
def web(tmp_path, monkeypatch):
    """A mirror of Flickr8k's and VOC's archives, small, and data/data_sets.toml with their sizes and checksums."""
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


@pytest.fixture
def raw(tmp_path):
    return tmp_path / "raw"


@pytest.fixture
def get(raw, capsys):
    """Downloads what flickr8k needs, of its sets only those that are named: (exit code, output, errors)."""

    def run(*only, profile="flickr8k", options=()):
        code = main([profile, "--data", str(raw), *(["--only", *only] if only else []), *options])
        return code, *capsys.readouterr()

    return run


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


def test_a_profile_s_sets_arrive_whole_and_are_read(web, raw, get):
    code, out, err = get()
    assert code == 0 and "Flickr8k" in out and "Terms: non-commercial research; the photos' Flickr terms" in out
    assert "Disk needed" in out and "B/s" in err  # a bar with size and rate
    held = hold(raw) - {".download.lock"}
    assert held >= WHOLE and {name.split("/")[0] for name in held} == {"flickr8k", "VOCdevkit"}
    assert "flickr8k/readme.txt" not in held and len(held) == len(WHOLE) + 2 + 8
    images, captions, _ = tiny_imagenet.read_captions(raw, ["flickr8k"])
    assert len(images) == 12 and captions[1] == [f"caption {i} of 0001 ." for i in range(5)]
    assert len(segmentation_sets.scenes(raw / "VOCdevkit/VOC2012", segmentation_sets.VOC, "val")[0]) == 3
    assert len(web.log) == 3 and get()[0] == 0 and len(web.log) == 3  # all is there


def test_what_was_cut_goes_on_where_it_was_cut(web, raw, get):
    web.cuts = [100, 5_000, 7_000]  # the connection breaks: it goes on within the run
    assert get()[0] == 0
    first, again = [entry for entry in web.log if entry[0].endswith("Flickr8k_text.zip")]
    assert first[1:] == (None, 200, 100) and again[1:3] == ("bytes=100-", 206)
    assert hold(raw) >= WHOLE


def test_an_interrupted_run_goes_on(web, raw, get, monkeypatch):
    """Ctrl-C in the middle of the second file: the next run asks for its rest only, and not for the first again."""
    whole = download.http_get

    def interrupted(url, target, **options):
        if url.endswith("Flickr8k_Dataset.zip"):
            target.write((web.folder / PHOTOS).read_bytes()[:3_000])
            raise KeyboardInterrupt
        whole(url, target, **options)

    monkeypatch.setattr(download, "http_get", interrupted)
    code, _, err = get()
    assert code == 130 and "go on" in err
    assert (raw / "archives/Flickr8k_Dataset.zip.part").stat().st_size == 3_000
    monkeypatch.setattr(download, "http_get", whole)
    web.log.clear()
    assert get()[0] == 0 and hold(raw) >= WHOLE
    assert web.log[0][1] == "bytes=3000-" and not any("text.zip" in path for path, *_ in web.log)


def test_a_server_without_ranges_starts_over_and_redirects_are_followed(web, raw, get):
    (raw / "archives").mkdir(parents=True)
    (raw / "archives/Flickr8k_Dataset.zip.part").write_bytes(b"x" * 1_000)
    web.ranges = False
    (web.folder / "elsewhere").mkdir()
    (web.folder / PHOTOS).rename(web.folder / "elsewhere/x")
    web.moved = {f"/{PHOTOS}": f"{web.address}/elsewhere/x"}
    assert get("flickr8k")[0] == 0 and hold(raw) >= WHOLE
    assert [status for path, _, status, _ in web.log if path == "/elsewhere/x"] == [200]


def test_a_wrong_checksum_is_named_and_the_file_is_removed(web, raw, get, monkeypatch):
    publish(monkeypatch, web.folder, {"Flickr8k_Dataset.zip": {"checksum": "md5:" + 32 * "0"}})
    code, _, err = get()
    told = err.splitlines()[-1]
    assert code == 1 and told.startswith("Flickr8k: Flickr8k_Dataset.zip has the md5 ")
    assert "By hand: put Flickr8k_Dataset.zip" in told
    assert not list(raw.rglob("Flickr8k_Dataset*")) and not (raw / "flickr8k/Flicker8k_Dataset").exists()
    assert (raw / "VOCdevkit/VOC2012/JPEGImages").is_dir()  # the other sets are still fetched


def test_what_has_no_published_checksum_must_unpack_and_hold_what_is_expected(web, raw, get, monkeypatch):
    path = web.folder / PHOTOS
    content = path.read_bytes()
    unknown = {"Flickr8k_Dataset.zip": {"checksum": "", "size": None, "about": 1_000}}
    for damaged in (content[:-40], content[: len(content) // 2]):
        path.write_bytes(damaged)
        publish(monkeypatch, web.folder, unknown)
        code, _, err = get("flickr8k")
        assert code == 1 and "was damaged" in err and not (raw / "flickr8k/Flicker8k_Dataset").exists()
        assert not list((raw / "archives").glob("Flickr8k_Dataset*"))
    pack(path, {"photos/a.jpg": b"a"})
    publish(monkeypatch, web.folder, unknown)
    code, _, err = get("flickr8k")
    assert code == 1 and "has no Flicker8k_Dataset: its layout has changed" in err


@pytest.mark.parametrize("name", ["../evil.txt", "/tmp/evil.txt", "{}/../../../../evil.txt"])
@pytest.mark.parametrize("place", [PHOTOS, VOC], ids=["zip", "tar"])
def test_a_member_that_would_leave_the_folder_is_refused(web, tmp_path, raw, get, monkeypatch, name, place):
    wanted = {PHOTOS: "Flicker8k_Dataset", VOC: "VOCdevkit/VOC2012"}[place]
    pack(web.folder / place, {f"{wanted}/a.jpg": b"a", name.format(wanted): b"evil"})
    publish(monkeypatch, web.folder)
    code, _, err = get({PHOTOS: "flickr8k", VOC: "voc"}[place])
    assert code == 1 and "which would leave its folder: don't use it" in err
    assert not list(tmp_path.rglob("evil.txt")) and not Path("/tmp/evil.txt").exists()
    assert not list(raw.rglob("a.jpg")) and not list(raw.rglob("*.unfinished"))


def test_a_link_to_elsewhere_is_refused(web, raw, get, monkeypatch):
    with tarfile.open(web.folder / VOC, "w") as opened:
        link = tarfile.TarInfo("VOCdevkit/VOC2012/JPEGImages")
        link.type, link.linkname = tarfile.SYMTYPE, "../../../../etc"
        opened.addfile(link)
    publish(monkeypatch, web.folder)
    code, _, err = get("voc")
    assert code == 1 and "PASCAL VOC 2012" in err and not (raw / "VOCdevkit").exists()


def test_what_would_not_fit_is_refused_before_anything_is_asked(web, raw, get, monkeypatch):
    monkeypatch.setattr(download, "free", lambda folder: 1_000)
    code, _, err = get()
    assert code == 1 and "only 1.00kB are free: make room" in err
    assert web.log == [] and not raw.exists()


def test_a_disk_that_fills_up_keeps_what_has_arrived(web, raw, get, monkeypatch):
    whole, extract = download.http_get, zipfile.ZipFile._extract_member

    def full(url, target, **options):
        target.write((web.folder / PHOTOS).read_bytes()[:2_000])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download, "http_get", full)
    code, _, err = get("flickr8k")
    assert code == 1 and f"no space is left on the disk of {raw}: free some and run the command again" in err
    monkeypatch.setattr(download, "http_get", whole)

    def full_later(self, member, *arguments):
        if "0003.jpg" in str(member):
            raise OSError(errno.ENOSPC, "No space left on device")
        return extract(self, member, *arguments)

    (raw / "archives/Flickr8k_text.zip.part").unlink()  # it holds the photos' bytes
    monkeypatch.setattr(zipfile.ZipFile, "_extract_member", full_later)
    code, _, err = get("flickr8k")
    assert code == 1 and "no space is left" in err and not list(raw.rglob("*.jpg"))  # all photos or none
    monkeypatch.setattr(zipfile.ZipFile, "_extract_member", extract)
    web.log.clear()
    assert get("flickr8k")[0] == 0
    assert hold(raw) >= WHOLE and web.log == []  # the archive was there


def test_a_missing_file_names_the_set_the_address_and_the_manual_way(web, raw, get, tmp_path):
    (web.folder / VOC).rename(tmp_path / "VOC.tar")
    code, _, err = get()
    told, name = err.splitlines()[-1], "VOCtrainval_11-May-2012.tar"
    assert code == 1 and told.startswith(f"PASCAL VOC 2012: {web.address}/{VOC} (404 Not Found). By hand: put {name}")
    assert f"{raw / 'archives'} and run again, or unpack {name} of host.robots.ox.ac.uk" in told
    (raw / "archives").mkdir(exist_ok=True)
    pack(raw / "archives" / name, {"VOCdevkit/VOC2012": tmp_path / "VOC2012"})
    code, _, err = get()
    assert code == 1 and "instead of" in err  # another file of that name: its checksum says so
    (raw / "archives").mkdir(exist_ok=True)
    (tmp_path / "VOC.tar").rename(raw / "archives" / name)
    assert get()[0] == 0 and (raw / "VOCdevkit/VOC2012/JPEGImages/f.jpg").is_file() and not (raw / "archives").exists()


def test_the_next_address_is_tried(tmp_path, monkeypatch):
    pack(tmp_path / "b.zip", {"made/x": b"x"})
    with served(tmp_path) as server:
        urls = [f"{server.address}/gone/b.zip", f"{server.address}/b.zip"]
        download.download({"urls": urls}, tmp_path / "c.zip.part", urls)
        assert (tmp_path / "c.zip.part").read_bytes() == (tmp_path / "b.zip").read_bytes()
        assert [entry[2] for entry in server.log] == [404, 200]


def test_a_dry_run_lists_and_writes_nothing(web, raw, get):
    code, out, _ = get(options=["--dry-run"])
    assert code == 0 and "https://github.com/jbrownlee" in out and "VOCtrainval_11-May-2012.tar -> " in out
    assert web.log == [] and not raw.exists()
    code, _, err = get("vox")
    assert code == 1 and "'vox' is not a data set that can be named; there are flickr8k, " in err


def test_a_set_in_another_layout_is_left_alone(web, raw, get):
    write_flickr8k(raw / "flickr8k")  # Kaggle's
    assert get()[0] == 0 and not any("jbrownlee" in path for path, *_ in web.log)
    (raw / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt").unlink()
    code, out, _ = get()
    assert code == 1 and "VOC2012 is incomplete; remove it and run again, or unpack" in out


def test_two_downloads_don_t_write_at_once(web, raw, get):
    raw.mkdir()
    with FileLock(raw / ".download.lock"):
        code, _, err = get()
    assert code == 1 and "Another download" in err and web.log == []


def test_what_needs_an_account_is_said_and_never_asked_for(web, get):
    code, out, _ = get("cityscapes", "imagenet", "webdataset", profile="paper")
    assert code == 1 and len(out.splitlines()) == 3 and web.log == []
    assert "Cityscapes: not downloaded, because it is given to registered users" in out
    assert "register at image-net.org" in out


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


def test_every_set_is_known_and_has_what_a_download_needs():
    """A file name is unique, because all lie in one folder; sizes, checksums and terms are there."""
    sets, urls_of = addresses.known_sets(), {}
    entries = [SHARDS, *(entry for entry in classification_sets.all_sets().values() if "torchvision" in entry)]
    entries += shown_photos.SHOWN.values()
    assert {one["name"] for one in entries} <= {one["name"] for one in sets.values()}
    for one in sets.values():
        assert ("account" in one) != ("files" in one) and one["terms"], one["name"]
        for file in one.get("files", ()):
            assert urls_of.setdefault(download.name_of(file), file["urls"]) == file["urls"]
            assert file["source"] and ("size" in file) != ("about" in file) and file["makes"]
            kind, _, digits = file.get("checksum", "sha256:" + 64 * "0").partition(":")
            assert len(digits) == 2 * hashlib.new(kind).digest_size and int(digits, 16) >= 0
    for source in set(Prepare.model_fields["source"].annotation.__args__) - {"miniworld", "own", "none"}:
        names = {one["name"] for one in addresses.needed({"source": source}).values()}
        assert names == {one["name"] for one in datasets_of(source)}


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
