"""The page to click through: its 8-bit maps against the exact ones, and a real browser's clicks against numpy."""

import base64
import json
import re
import shutil
import subprocess
import urllib.parse
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import vader
from vader.errors import BadInput
from vader.images.decode import decode
from vader.images.sources import list_images
from vader.inference.retrieval import browse
from vader.inference.retrieval.browse import fit_maps, pack, write_page
from vader.inference.retrieval.building import IndexConfig, build_index
from vader.inference.retrieval.index import Index, open_index

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@pytest.fixture(scope="module")
def index(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Of the twelve photographs under an awkward name each, with dense SIFT every 8 px."""
    folder = tmp_path_factory.mktemp("browse")
    (folder / "images").mkdir()
    for path in photos.iterdir():
        shutil.copy(path, folder / "images" / f"<b>'{path.stem}'&{path.suffix}")
    build_index("sift", list_images(folder / "images"), folder / "index", IndexConfig())
    return open_index(folder / "index")


@pytest.fixture(scope="module")
def page(index: Index) -> Path:
    out = index.folder.parent / "pages" / "page.html"
    write_page(index, out)
    return out


def data_of(page: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.S)
    assert found
    return json.loads(found[1])


def maps_of(data: dict[str, Any]) -> list[np.ndarray]:
    """(h, w, d) normalised vectors of every image, as a reader of the page decodes them."""
    maps = []
    for image in data["images"]:
        codes = np.frombuffer(base64.b64decode(image["codes"]), np.int8).reshape(image["h"], image["w"], -1)
        vectors = codes * np.array(data["scale"])
        maps.append(vectors / np.linalg.norm(vectors, axis=2, keepdims=True))
    return maps


def test_eight_bits_keep_similarities() -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(300, 8)) @ random.normal(size=(8, 20))  # of eight directions
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    packed = pack(vectors, 8)
    assert packed.energy == pytest.approx(1, abs=1e-6)
    assert np.abs(packed.codes).max() == 127
    np.testing.assert_allclose(packed.vectors() @ packed.vectors().T, vectors @ vectors.T, atol=0.02)
    second = vectors.astype(np.float64).T @ vectors
    assert pack(vectors, 3).energy == pytest.approx(np.sort(np.linalg.eigvalsh(second))[-3:].sum() / 300, abs=1e-5)


def test_maps_are_made_as_small_as_the_page_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    maps = [random.normal(size=(9, 12, 80)).astype(np.float32) for _ in range(2)]
    assert fit_maps(maps, [8, 8], 0)[2].codes.shape == (216, 64)
    monkeypatch.setattr(browse, "BYTES_AN_IMAGE", 108 * 50 * 4 // 3)
    assert fit_maps(maps, [8, 8], 0)[2].codes.shape == (216, 48)
    halved, strides, packed = fit_maps(maps, [8, 8], 108 * 50)  # of two images' room half is taken
    assert strides == [16, 16]
    assert packed.codes.shape == (2 * 5 * 6, 64)
    mean = maps[0][2:4, 4:6].mean((0, 1))
    np.testing.assert_allclose(halved[0][1, 2], mean / np.linalg.norm(mean), atol=1e-6)
    mean = maps[0][8, 4:6].mean(0)  # the last row counts twice
    np.testing.assert_allclose(halved[0][4, 2], mean / np.linalg.norm(mean), atol=1e-6)


def test_a_page_holds_every_image_and_its_map(index: Index, page: Path) -> None:
    text, data = page.read_text(), data_of(page)
    assert "http://" not in text
    assert "https://" not in text
    assert [image["name"] for image in data["images"]] == [row.name for row in index.rows]
    assert "<b>'00'" not in text, "names are no markup"
    differences = []
    for i, (image, found) in enumerate(zip(data["images"], maps_of(data), strict=True)):
        exact, stride = index.map_of(i)
        assert found.shape[:2] == exact.shape[:2]
        assert (image["stepX"], image["stepY"]) == (stride, stride)
        differences.append(np.abs(found.reshape(-1, 64) @ found[2, 2] - exact.reshape(-1, 128) @ exact[2, 2]))
        assert decode(base64.b64decode(image["jpeg"])).shape[:2] == (image["height"], image["width"])
    assert np.concatenate(differences).mean() < 2 * data["error"] < 0.02
    assert data["energy"] > 0.98


# --- In a browser ---------------------------------------------------------------------------------------------------


def clicked(page: Path, asked: dict[str, Any], profile: Path) -> dict[str, Any]:
    """What the page says after clicks, in a headless browser that opens it from the disk."""
    if CHROMIUM is None:
        pytest.skip("no chromium on the PATH")
    address = page.as_uri() + "#selftest=" + urllib.parse.quote(json.dumps(asked))
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "--dump-dom"]
    done = subprocess.run([CHROMIUM, *options, address], capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="selftest">(.*?)</pre>', done.stdout, re.S)
    assert found, done.stdout[-500:] + done.stderr[-500:]
    return json.loads(found[1])


def read(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), np.float32)


def within(image: dict[str, Any], row: int, column: int) -> dict[str, float]:
    """A point right of and below a cell's centre, in shares of the image."""
    return {
        "x": (column + 0.7) * image["stepX"] / image["width"],
        "y": (row + 0.7) * image["stepY"] / image["height"],
    }


def test_a_click_gives_the_map_that_numpy_gives(index: Index, page: Path, tmp_path: Path) -> None:
    data = data_of(page)
    maps = maps_of(data)
    told = clicked(page, {"clicks": [{"image": 3, **within(data["images"][3], 6, 5)}], "maps": True}, tmp_path)
    assert told["points"][0]["cell"] == 6 * data["images"][3]["w"] + 5
    exact = index.map_of(3)[0][6, 5]
    for i, found in enumerate(maps):
        clicked_map = read(told["maps"][i])
        np.testing.assert_allclose(clicked_map, (found @ maps[3][6, 5]).ravel(), atol=1e-4)
        assert told["best"][i] == int(clicked_map.argmax())
        assert np.abs(clicked_map - (index.map_of(i)[0] @ exact).ravel()).mean() < 0.02, "and nearly that of the index"
    assert told["best"][3] == told["points"][0]["cell"]
    assert len(told["stats"]["clicks"]) == 1
    assert told["stats"]["cells"] == index.manifest["cells"]


def test_points_are_added_and_subtracted_and_masks_saved(page: Path, tmp_path: Path) -> None:
    data = data_of(page)
    maps, images = maps_of(data), data["images"]
    asked = {
        "clicks": [
            {"image": 5, **within(images[5], 1, 1)},  # forgotten with the next
            {"image": 0, **within(images[0], 3, 4)},
            {"image": 1, **within(images[1], 5, 6), "shift": True},
            {"image": 2, **within(images[2], 2, 7), "alt": True},
            {"image": 3, **within(images[3], 4, 4), "shift": True, "ctrl": True},
        ],
        "maps": True, "mask": 1, "threshold": 0.3,
    }  # fmt: skip
    told = clicked(page, asked, tmp_path)
    assert [point["sign"] for point in told["points"]] == [1, 1, -1, -1]
    query = (maps[0][3, 4] + maps[1][5, 6]) / 2 - (maps[2][2, 7] + maps[3][4, 4]) / 2
    query /= np.linalg.norm(query)
    heat = maps[1] @ query
    np.testing.assert_allclose(read(told["maps"][1]), heat.ravel(), atol=1e-4)
    mask = decode(base64.b64decode(told["mask"].partition(",")[2]))[..., 0]
    height, width = mask.shape
    assert (width, height) == (images[1]["width"], images[1]["height"])
    # OpenCV resizes by the same convention of centres; the cells reach beyond the picture, which is cut off.
    whole = cv2.resize(heat.astype(np.float32), (8 * heat.shape[1], 8 * heat.shape[0]), interpolation=cv2.INTER_LINEAR)
    expected = whole[:height, :width]
    clear = np.abs(expected - 0.3) > 1e-3
    assert set(np.unique(mask)) == {0, 255}
    np.testing.assert_array_equal(mask[clear] > 0, expected[clear] >= 0.3)


def test_the_same_point_added_and_subtracted_leaves_nothing(page: Path, tmp_path: Path) -> None:
    one = {"image": 0, **within(data_of(page)["images"][0], 3, 4)}
    told = clicked(page, {"clicks": [one, one | {"alt": True}], "maps": True}, tmp_path)
    assert not any(read(text).any() for text in told["maps"])


# --- What is refused ------------------------------------------------------------------------------------------------


def test_too_many_images_are_refused_with_what_to_do(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browse, "MOST_IMAGES", 5)
    with pytest.raises(BadInput, match="expected at most 5 images for a page, found 12; --count 5"):
        write_page(index, tmp_path / "page.html")
    assert write_page(index, tmp_path / "page.html", count=5).images == 5
    names = [image["name"] for image in data_of(tmp_path / "page.html")["images"]]
    assert names == [index.rows[i].name for i in (0, 3, 6, 8, 11)]
    with pytest.raises(BadInput, match="--count: expected at least 1, found 0"):
        write_page(index, tmp_path / "page.html", count=0)
    with pytest.raises(BadInput, match=r"--out: expected .* page\.html, found page\.png"):
        vader.browse(index.folder, out="page.png", device="cpu")


def test_an_index_of_clusters_asks_its_model_for_maps(photos: Path, tmp_path: Path) -> None:
    build_index("rgb", list_images(photos), tmp_path / "index", IndexConfig(sample=10))
    made = vader.browse(tmp_path / "index", out=tmp_path / "page.html", count=3, device="cpu")
    assert "3 images" in str(made)
    first = data_of(tmp_path / "page.html")["images"][0]
    assert (first["h"], first["w"]) == (24, 24), "at the encoder's own stride"
    told = vader.browse(tmp_path / "index", out=tmp_path / "p.html", count=3, device="cpu").as_json()
    assert told["bytes"] == (tmp_path / "p.html").stat().st_size
