"""What the verbs of an index print, and what they refuse: other models, damaged folders, points outside."""

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from samples import here

import vader
from vader.cli.settings import parse_points
from vader.errors import BadInput
from vader.images.decode import decode
from vader.images.sources import list_images
from vader.inference.retrieval.building import IndexConfig, build_index
from vader.inference.retrieval.index import Index, open_index
from vader.inference.retrieval.models import find_spec
from vader.inference.retrieval.query import find as retrieve
from vader.inference.retrieval.table import INDEX, MANIFEST, ROWS, VECTORS


@pytest.fixture(scope="module")
def flat(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Of the twelve photographs, with dense SIFT every 8 px."""
    out = tmp_path_factory.mktemp("flat") / "index"
    build_index("sift", list_images(photos), out, IndexConfig())
    return open_index(out)


@pytest.fixture(scope="module")
def colours(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small pq index of raw colours."""
    out = tmp_path_factory.mktemp("pq") / "index"
    build_index("rgb", list_images(photos), out, IndexConfig(stride=4, kind="pq"))
    return out


def test_the_commands_say_what_they_did(colours: Path, photos: Path, tmp_path: Path) -> None:
    text = str(vader.index("rgb", photos, out=colours, stride=4, kind="pq", device="cpu", quiet=True))
    assert "12 MB per million cells" in text
    assert "8 MB of exact vectors" in text
    assert "recall@10 " in text
    picture = tmp_path / "hits.png"
    points = [(10, 12), (30, 40)]
    shown = vader.retrieve(
        colours, photos / "00.jpg", at=points, box=[(5, 5, 20, 20)], top=3, out=picture, device="cpu"
    )
    assert len(str(shown).splitlines()) == 6
    assert decode(picture).shape[1] > 500
    told = vader.retrieve(colours, photos / "00.jpg", at=[(10, 12)], top=3, device="cpu").as_json()
    assert [set(hit) for hit in told["hits"]] == [{"image", "similarity", "x", "y"}] * 3
    assert told["index"]["recall"] >= 0.9


def test_names_that_are_no_text_are_said_and_drawn(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for i, name in enumerate((b"a.jpg", b"\xff1.jpg", "\N{SNOWMAN}.jpg".encode())):
        shutil.copy(photos / f"{i:02d}.jpg", folder / os.fsdecode(name))
    assert here("index", "rgb", folder, "--out", tmp_path / "index", "--quiet").returncode == 0
    words = ("--at", "20,20", "--out", tmp_path / "hits.png", "--device", "cpu")
    done = here("retrieve", tmp_path / "index", folder / "a.jpg", *words)
    assert done.returncode == 0, done.stderr
    assert "\\udcff1.jpg" in done.stdout
    assert "\N{SNOWMAN}.jpg" in done.stdout
    assert decode(tmp_path / "hits.png").shape[1] > 500


def test_another_model_is_refused(flat: Index, colours: Path, photos: Path) -> None:
    with pytest.raises(BadInput, match=r"expected the model of the index, sift .*found rgb"):
        flat.open_model("rgb", "cpu")
    with pytest.raises(BadInput, match="expected the model of the index"):  # of the same shape
        open_index(colours).open_model("sift@plain:4", "cpu")
    with pytest.raises(BadInput, match=r"--out: .* of another"):
        build_index("rgb", list_images(photos), flat.folder, IndexConfig())
    with pytest.raises(BadInput, match=r"--out: .* of another"):
        build_index("sift", list_images(photos), flat.folder, IndexConfig(size=64))


def test_a_model_is_found_where_it_lay_or_as_far_from_the_index(tmp_path: Path) -> None:
    file = tmp_path / "old" / "runs" / "model.safetensors"
    identity = {"spec": "runs/model.safetensors@last", "written": "runs/model.safetensors", "file": str(file)}
    with pytest.raises(BadInput, match="found no file; give its place by --model"):
        find_spec(identity, "../runs/model.safetensors", tmp_path / "old" / "index")
    moved = tmp_path / "new" / "runs" / "model.safetensors"
    for place in (moved, file):
        place.parent.mkdir(parents=True)
        place.touch()
        (tmp_path / "new" / "index").mkdir(exist_ok=True)
        found = find_spec(identity, "../runs/model.safetensors", tmp_path / "new" / "index")
        source, _, variant = found.rpartition("@")
        assert (Path(source).resolve(), variant) == (place, "last"), "the old place first"
    assert find_spec({"spec": "rgb", "file": None}, None, tmp_path) == "rgb"


@pytest.mark.parametrize(
    ("points", "boxes", "said"),
    [
        ([], [], "expected a point or a box"),
        ([(96.5, 3)], [], "expected a point in 96x96 px, found 96.5,3"),
        ([(3, -1)], [], "expected a point in 96x96 px"),
        ([], [(5, 5, 5, 9)], "expected left,top,right,bottom within 96x96 px, found 5,5,5,9"),
        ([], [(5, 5, 50, 97)], "within 96x96 px"),
    ],
)
def test_points_outside_are_refused(flat: Index, photos: Path, points: list, boxes: list, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        retrieve(flat, flat.open_model(None, "cpu"), photos / "00.jpg", points, boxes)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (31, 200), (200, 31)])
@pytest.mark.parametrize("size", [None, 64])
def test_a_picture_too_small_to_ask_about_is_refused(
    photos: Path, tmp_path: Path, width: int, height: int, size: int | None
) -> None:
    """Also where the index enlarges pictures: what is not there cannot be looked for."""
    images = tmp_path / "list.txt"
    images.write_text(f"{photos / '00.jpg'}\n{photos / '01.jpg'}\n")
    build_index("rgb", list_images(images), tmp_path / "index", IndexConfig(size=size))
    index = open_index(tmp_path / "index")
    model = index.open_model(None, "cpu")
    cv2.imwrite(str(tmp_path / "small.png"), np.zeros((height, width, 3), np.uint8))
    with pytest.raises(BadInput, match=f"small.png: .* at least 32 px a side, found {width}x{height}"):
        retrieve(index, model, tmp_path / "small.png", [(0.5, 0.5)])
    cv2.imwrite(str(tmp_path / "small.png"), np.zeros((32, 32, 3), np.uint8))
    assert len(retrieve(index, model, tmp_path / "small.png", [(0.5, 0.5)]).hits) == 2


def test_missing_and_changed_images_are_refused(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "images")
    build_index("rgb", list_images(tmp_path / "images"), tmp_path / "index", IndexConfig())
    index = open_index(tmp_path / "index")
    model = index.open_model(None, "cpu")
    with pytest.raises(BadInput, match="expected a query picture"):
        retrieve(index, model, tmp_path / "no.jpg", [(1, 1)])
    cv2.imwrite(str(tmp_path / "images" / "00.jpg"), np.zeros((50, 60, 3), np.uint8))
    with pytest.raises(BadInput, match=r"00.jpg: expected the indexed size \(96, 96\) px, found \(60, 50\)"):
        retrieve(index, model, photos / "01.jpg", [(1, 1)], top=12)
    (tmp_path / "images" / "00.jpg").unlink()
    with pytest.raises(BadInput, match=r"00.jpg.*index again"):
        retrieve(index, model, photos / "01.jpg", [(1, 1)], top=12)
    # An index and its images may move together; the images alone may not.
    (tmp_path / "there").mkdir()
    (tmp_path / "index").rename(tmp_path / "there" / "index")
    (tmp_path / "images").rename(tmp_path / "there" / "images")
    assert open_index(tmp_path / "there" / "index").picture(1).original == (97, 131)
    (tmp_path / "there" / "images").rename(tmp_path / "gone")
    with pytest.raises(BadInput, match=r"expected its images in .*, found no folder"):
        open_index(tmp_path / "there" / "index").picture(1)


def test_damaged_indexes_are_refused(colours: Path, tmp_path: Path) -> None:
    def damaged(name: str, change: bytes | int | None) -> Path:
        folder = tmp_path / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(colours, folder)
        if isinstance(change, bytes):
            (folder / name).write_bytes(change)
        elif change is None:
            (folder / name).unlink()
        else:
            data = bytearray((folder / name).read_bytes())
            data[change] ^= 0xFF
            (folder / name).write_bytes(data)
        return folder

    with pytest.raises(BadInput, match=r"expected \d+ bytes, found 3; build the index again"):
        open_index(damaged(VECTORS, b"abc"))
    with pytest.raises(BadInput, match="bytes, found nothing"):
        open_index(damaged(INDEX, None))
    with pytest.raises(BadInput, match="expected a FAISS index"):
        open_index(damaged(INDEX, 0))
    with pytest.raises(BadInput, match="expected an index's manifest"):
        open_index(damaged(MANIFEST, b'{"format": 1'))
    with pytest.raises(BadInput, match="expected format 1, found 7"):
        open_index(damaged(MANIFEST, b'{"format": 7}'))
    with pytest.raises(BadInput, match=r"expected an index with a manifest.json, found none; vader index MODEL"):
        open_index(damaged(MANIFEST, None))
    with pytest.raises(BadInput, match="expected a row for each image"):
        open_index(damaged(ROWS, 0))


def test_settings_that_cannot_be_are_refused(photos: Path, tmp_path: Path) -> None:
    images = list_images(photos)
    for config, said in (
        (IndexConfig(stride=8, sample=4), "expected --stride or --sample, found both"),
        (IndexConfig(stride=2), "--stride: expected at least 4 px"),
        (IndexConfig(kind="pq", stride=32), "--kind pq: expected at least 1024 cells to train on, found"),
    ):
        with pytest.raises(BadInput, match=said):
            build_index("rgb", images, tmp_path / f"index{config.stride}", config)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    with pytest.raises(BadInput, match="expected a new or empty folder"):
        build_index("rgb", images, tmp_path / "full", IndexConfig())
    with pytest.raises(BadInput, match=r"--size: .*32, found 8"):
        vader.index("rgb", photos, out=tmp_path / "i", size=8, device="cpu", quiet=True)
    with pytest.raises(BadInput, match="--at: expected X,Y in pixels, found '3'"):
        parse_points(["3"])
    with pytest.raises(BadInput, match="--top: expected at least 1"):
        vader.retrieve(tmp_path, photos, at=[(3, 3)], top=0, device="cpu")
