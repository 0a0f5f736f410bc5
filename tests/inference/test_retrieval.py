"""An index against loops over the definition: builds that were killed, queries, and what is refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from vader.encoders import open_encoder
from vader.errors import BadInput
from vader.images.decode import decode
from vader.images.pictures import Picture
from vader.images.sources import list_images
from vader.inference.retrieval import building
from vader.inference.retrieval import faiss_index as search
from vader.inference.retrieval import index as opening
from vader.inference.retrieval.building import IndexConfig, at_stride, build_index
from vader.inference.retrieval.index import Index, open_index
from vader.inference.retrieval.measuring import between_cells, measure
from vader.inference.retrieval.query import find as retrieve
from vader.inference.retrieval.query import query_vector
from vader.inference.retrieval.table import BEGUN, CELLS, INDEX, MANIFEST, ROWS, VECTORS


def clustered(n: int, dim: int, clusters: int = 40, seed: int = 0) -> np.ndarray:
    """(n, dim) float16 unit vectors around some centres."""
    random = np.random.default_rng(seed)
    found = random.normal(size=(clusters, dim))[random.integers(clusters, size=n)] + 0.6 * random.normal(size=(n, dim))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float16)


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


# --- Vectors --------------------------------------------------------------------------------------------------------


def test_looking_at_all_finds_what_a_loop_finds() -> None:
    vectors, query = clustered(500, 12), clustered(1, 12, seed=1)[0].astype(np.float32)
    index = search.train(vectors, "flat", 0)
    search.add(index, vectors)
    scores, found = search.nearest(index, None, query, 7, 1)
    exact = [float(sum(float(a) * float(b) for a, b in zip(vector, query, strict=True))) for vector in vectors]
    order = sorted(range(500), key=lambda i: -exact[i])[:7]
    assert found.tolist() == order
    np.testing.assert_allclose(scores, [exact[i] for i in order], atol=1e-4)
    np.testing.assert_allclose(search.exact_scores(vectors, query[None], 7)[0], scores, atol=1e-4)


def test_codes_find_nine_of_ten_and_cost_what_is_said(tmp_path: Path) -> None:
    vectors = clustered(6000, 24)
    index = search.train(vectors, "pq", 0)
    search.add(index, vectors)
    queries = between_cells(vectors, 40, 1)
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1, atol=1e-5)
    again, alone = (measure(index, vectors, exact, queries) for exact in (True, False))
    assert again.recall >= 0.9 > alone.recall, "ranking again by the vectors is what makes it so"
    # The recall that is stated is that of the definition.
    hits = 0
    for query in queries:
        exact = np.argsort(-(vectors.astype(np.float64) @ query))[:10]
        hits += len(set(exact) & set(search.nearest(index, vectors, query, 10, again.probes)[1].tolist()))
    assert hits / 400 == pytest.approx(again.recall, abs=0.01)
    search.save(index, tmp_path / "whole")
    search.save(search.train(vectors, "pq", 0), tmp_path / "empty")
    sizes = [(tmp_path / name).stat().st_size for name in ("whole", "empty")]
    assert (sizes[0] - sizes[1]) / 6000 == pytest.approx(search.megabytes_per_million(index), abs=0.1)


def test_bytes_and_lists_follow_dimensions_and_number() -> None:
    assert search.bytes_for(128) == (32, 4)
    for dim in (1, 3, 4, 31, 130, 496, 1024):
        subs, each = search.bytes_for(dim)
        assert subs <= search.MOST_SUBS
        assert 0 <= subs * each - dim < each, "padding fills less than one part"
    assert search.lists_for(1_000_000) == 1024
    assert search.choose_kind(200_000) == "flat"
    assert search.choose_kind(200_001) == "pq"


def test_vectors_are_spread_over_all(photo: np.ndarray) -> None:
    chosen = search.spread(1000, 100, 0)
    assert (np.diff(chosen) > 0).all()
    assert (chosen // 10 == np.arange(100)).all()
    assert not np.array_equal(chosen, search.spread(1000, 100, 1))


def test_each_cluster_sends_the_vector_nearest_to_its_middle() -> None:
    random = np.random.default_rng(0)
    centres = np.eye(6, 16)
    vectors = centres.repeat(30, 0) + 0.05 * random.normal(size=(180, 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    chosen = search.representatives(vectors, 6, 0)
    assert (chosen // 30).tolist() == list(range(6))
    for cluster, one in enumerate(chosen):
        mean = vectors[30 * cluster : 30 * cluster + 30].mean(0)
        assert one == 30 * cluster + int((vectors[30 * cluster : 30 * cluster + 30] @ mean).argmax())
    assert search.representatives(vectors, 500, 0).tolist() == list(range(180))


# --- Building -------------------------------------------------------------------------------------------------------


def slow_map(path: Path, stride: int) -> np.ndarray:
    """Dense SIFT read at the centres of cells of `stride` px, cell by cell."""
    pixels = torch.from_numpy(decode(path)).permute(2, 0, 1)[None].float() / 255
    fine = open_encoder("sift").embed(pixels)[0].numpy().astype(np.float64)  # (D, h, w), at stride 4
    rows, columns = (-(-side // stride) for side in pixels.shape[2:])
    found = np.zeros((rows, columns, len(fine)))
    for i in range(rows):
        for j in range(columns):
            v, u = (
                min(max((k + 0.5) * stride / 4 - 0.5, 0), n - 1) for k, n in zip((i, j), fine.shape[1:], strict=True)
            )
            top, left = int(v), int(u)
            below, right = min(top + 1, fine.shape[1] - 1), min(left + 1, fine.shape[2] - 1)
            upper = fine[:, top, left] * (1 - u + left) + fine[:, top, right] * (u - left)
            lower = fine[:, below, left] * (1 - u + left) + fine[:, below, right] * (u - left)
            value = upper * (1 - v + top) + lower * (v - top)
            found[i, j] = value / np.linalg.norm(value)
    return found


def test_an_index_holds_every_images_map(flat: Index, photos: Path) -> None:
    images = list_images(photos)
    assert [row.name for row in flat.rows] == list(images.names)
    for i in (0, 3, 4):
        found, stride = flat.map_of(i)
        assert stride == 8
        np.testing.assert_allclose(found, slow_map(images.path(i), 8), atol=1e-3)
    assert flat.manifest["cells"] == flat.starts[-1] == sum(row.map[0] * row.map[1] for row in flat.rows)
    assert not (flat.folder / VECTORS).exists(), "the flat index has them"
    assert not (flat.folder / BEGUN).exists()


def test_a_map_at_its_own_stride_is_left_alone() -> None:
    cells = np.ones((2, 3, 4), np.float32)
    assert at_stride(cells, 4, 4, (8, 12)) is cells


KILLED = """
import sys, torch
from pathlib import Path
torch.set_num_threads(1)
from vader.images.sources import list_images
from vader.inference.retrieval import building
building.SYNCED = 0
building.build_index("sift", list_images(Path(sys.argv[1])), Path(sys.argv[2]), building.IndexConfig(size=160))
"""


def kill_a_build(photos: Path, out: Path) -> int:
    """Start one, kill -9 it after its second image; how many rows it left."""
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(photos), str(out)])
    rows = out / ROWS
    deadline = time.monotonic() + 600
    while not (rows.exists() and rows.read_text().count("\n") >= 2):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    return rows.read_text().count("\n")


@pytest.mark.whole
def test_a_killed_build_goes_on_and_ends_the_same(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "SYNCED", 0)
    left = kill_a_build(photos, tmp_path / "killed")
    assert 2 <= left < 12
    with pytest.raises(BadInput, match="stopped; repeat"):
        open_index(tmp_path / "killed")
    # As if the machine had crashed, too: a torn last row, and vectors cut short within the image before.
    rows = (tmp_path / "killed" / ROWS).read_text()
    (tmp_path / "killed" / ROWS).write_text(rows[:-5])
    shutil.copytree(tmp_path / "killed", tmp_path / "crashed")
    whole = sum(json.loads(line)["cells"] for line in rows.splitlines()[:-1])
    os.truncate(tmp_path / "crashed" / VECTORS, whole * 128 * 2 - 7)
    told: dict[str, list[str]] = {"killed": [], "crashed": [], "fresh": []}
    for name, lines in told.items():
        build_index("sift", list_images(photos), tmp_path / name, IndexConfig(size=160), say=lines.append)
    assert [lines[0].split()[0] for lines in told.values()] == [f"{left}/12", f"{left - 1}/12", "1/12"]
    for name in (ROWS, CELLS, INDEX):
        for stopped in ("killed", "crashed"):
            assert (tmp_path / stopped / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes(), name


class Stopped(Exception):
    """Stands for whatever stops a build."""


def test_a_build_stopped_while_it_adds_goes_on_and_ends_the_same(
    photos: Path, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "BLOCK", 500)
    monkeypatch.setattr(building, "KEPT_EVERY", 1500)
    config = IndexConfig(stride=4, kind="pq")

    def stop(line: str) -> None:
        if line.endswith("added"):
            raise Stopped(line)

    for had in ("1500", "3000"):
        with pytest.raises(Stopped, match=rf"^{had}/"):
            build_index("rgb", list_images(photos), tmp_path / "index", config, say=stop)
    told: list[str] = []
    build_index("rgb", list_images(photos), tmp_path / "index", config, say=told.append)
    assert not any(line.startswith("training") for line in told)
    assert (tmp_path / "index" / INDEX).read_bytes() == (colours / INDEX).read_bytes()
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == sorted(
        [ROWS, CELLS, INDEX, VECTORS, MANIFEST]
    )
    before = (colours / MANIFEST).stat().st_mtime_ns
    build_index("rgb", list_images(photos), colours, config)
    assert (colours / MANIFEST).stat().st_mtime_ns == before, "a whole index is left as it is"


def test_unreadable_images_are_left_out_and_counted(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    shutil.copytree(photos, folder)
    (folder / "03.jpg").write_bytes(b"no image")
    told: list[str] = []
    made = build_index("rgb", list_images(folder), tmp_path / "index", IndexConfig(), say=told.append)
    assert (made["pictures"], made["skipped"]) == (12, 1)
    assert any("03.jpg" in line and "warning" in line for line in told)
    index = open_index(tmp_path / "index")
    assert index.rows[3].cells == 0
    assert len(index.nearest_images(index.map_of(0)[0][0, 0], 12)) == 11
    fitted = build_index("rgb@centred", list_images(folder), tmp_path / "fitted", IndexConfig(stride=16))
    assert (fitted["pictures"], fitted["skipped"]) == (12, 1), "nor is it there to fit a model on"
    opened = open_index(tmp_path / "fitted")
    assert len(retrieve(opened, opened.open_model(None, "cpu"), folder / "01.jpg", [(40, 60)], top=2).hits) == 2
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.jpg").write_bytes(b"")
    with pytest.raises(BadInput, match="none of the"):
        build_index("rgb@centred", list_images(tmp_path / "bad"), tmp_path / "none", IndexConfig())
    with pytest.raises(BadInput, match="expected readable images, found none among 1"):
        build_index("rgb", list_images(tmp_path / "bad"), tmp_path / "none", IndexConfig())
    assert not (tmp_path / "none").exists(), "nothing to go on with is left"
    with pytest.raises(BadInput, match=r"found none among 1; a.jpg"):
        build_index("rgb", list_images(tmp_path / "bad"), tmp_path / "none", IndexConfig())


# --- Queries --------------------------------------------------------------------------------------------------------


def test_retrieval_is_what_a_loop_over_all_images_finds(flat: Index, photos: Path) -> None:
    model = flat.open_model(None, "cpu")
    images = list_images(photos)
    answer = retrieve(flat, model, images.path(2), [(81.0, 33.0)], top=5)
    pixels = torch.from_numpy(decode(images.path(2))).permute(2, 0, 1)[None].float() / 255
    fine = open_encoder("sift").embed(pixels)[0].numpy()
    # (81, 33) lies at column 19.75, row 7.75 of cells' centres at stride 4.
    query = sum(
        fine[:, i, j] * a * b for i, a in ((7, 0.25), (8, 0.75)) for j, b in ((19, 0.25), (20, 0.75))
    )  # fmt: skip
    query = query / np.linalg.norm(query)
    found = []
    for i, name in enumerate(images.names):
        if i != 2:
            heat = slow_map(images.path(i), 8) @ query
            row, column = np.unravel_index(int(heat.argmax()), heat.shape)
            found.append((float(heat.max()), name, (8 * column + 4, 8 * row + 4)))
    found.sort(reverse=True)
    assert [hit.name for hit in answer.hits] == [name for _, name, _ in found[:5]]
    np.testing.assert_allclose([hit.score for hit in answer.hits], [score for score, _, _ in found[:5]], atol=2e-3)
    assert np.abs(np.subtract(answer.hits[0].at, found[0][2])).max() <= 4, "of a cell that the image's edge cuts, half"
    assert answer.own.name == "02.jpg"


def test_a_picture_from_elsewhere_finds_its_copy(flat: Index, photos: Path, tmp_path: Path) -> None:
    shutil.copy(photos / "05.jpg", tmp_path / "else.jpg")
    answer = retrieve(flat, flat.open_model(None, "cpu"), tmp_path / "else.jpg", [(36.0, 44.0)], top=3)
    assert answer.hits[0].name == "05.jpg"
    assert answer.hits[0].score > 0.99
    assert answer.hits[0].at == (36, 44)


def test_few_neighbours_are_widened_until_enough_images_are_found(flat: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "FIRST", 2)
    query = flat.map_of(4)[0][5, 4]
    best = sorted(((float((flat.map_of(i)[0] @ query).max()), i) for i in range(12) if i != 4), reverse=True)
    found = flat.nearest_images(query, 11, without=4)
    assert [i for i, _ in found] == [i for _, i in best]
    np.testing.assert_allclose([score for _, score in found], [score for score, _ in best], atol=1e-3)
    for i in (0, 7, 11):
        for cell in (0, -1):  # where one image's vectors end and the next one's begin
            query = flat.map_of(i)[0].reshape(-1, 128)[cell]
            (nearest, score), *_ = flat.nearest_images(query, 1)
            assert (nearest, score) == (i, pytest.approx(1, abs=1e-3))


def test_lists_of_codes_are_opened_until_enough_images_are_found(tmp_path: Path) -> None:
    """Pictures of one hue each fill lists of their own, of which a query opens but a few at first."""
    random = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for i in range(40):
        hue = cv2.cvtColor(np.uint8([[[4 * i, 220, 200]]]), cv2.COLOR_HSV2BGR)[0, 0].astype(int)
        picture = np.clip(hue + random.integers(-12, 12, (64, 64, 3)), 0, 255).astype(np.uint8)
        assert cv2.imwrite(str(tmp_path / "images" / f"{i:02d}.png"), picture)
    build_index("rgb", list_images(tmp_path / "images"), tmp_path / "index", IndexConfig(kind="pq"))
    index = open_index(tmp_path / "index")
    assert index.manifest["quality"]["probes"] < index.searched.nlist
    query = index.map_of(20)[0][3, 3]
    for count in (5, 20, 40):
        found = index.nearest_images(query, count)
        assert len(found) == count
        assert len({i for i, _ in found}) == count
    exact = [float((index.map_of(i)[0] @ query).max()) for i in range(40)]
    assert [score for _, score in found] == pytest.approx(sorted(exact, reverse=True), abs=1e-3)


def test_points_and_boxes_ask_for_their_mean() -> None:
    random = np.random.default_rng(0)
    cells = random.normal(size=(4, 5, 3)).astype(np.float32)
    cells /= np.linalg.norm(cells, axis=2, keepdims=True)
    picture = Picture(np.zeros((16, 20, 3), np.uint8), (40, 32))  # the file is twice as large
    inner = np.mean([cells[i, j] for i in (1, 2) for j in (1, 2, 3)], axis=0)  # centres at 6, 10, 14 px of 20
    found = query_vector(cells, 4, picture, [], [(10, 10, 30, 22)])
    np.testing.assert_allclose(found, inner / np.linalg.norm(inner), atol=1e-6)
    at_centre = cells[2, 1]  # (6, 10) px as seen
    mean = (at_centre + inner) / 2
    found = query_vector(cells, 4, picture, [(12, 20)], [(10, 10, 30, 22)])
    np.testing.assert_allclose(found, mean / np.linalg.norm(mean), atol=1e-6)
    np.testing.assert_allclose(query_vector(cells, 4, picture, [], [(11, 19, 13, 21)]), at_centre, atol=1e-6)


def test_clusters_find_images_and_their_model_the_maps(photos: Path, tmp_path: Path) -> None:
    build_index("sift", list_images(photos), tmp_path / "index", IndexConfig(sample=20))
    index = open_index(tmp_path / "index")
    assert all(row.cells <= 20 for row in index.rows)
    assert index.manifest["stride"] == 4
    answer = retrieve(index, index.open_model(None, "cpu"), photos / "01.jpg", [(40, 60)], top=2)
    assert answer.hits[0].heat.shape == index.rows[[row.name for row in index.rows].index(answer.hits[0].name)].map
    number = int(index.cells[index.starts[1]])
    h, w = index.rows[1].map
    full = index.open_model(None, "cpu").map_of(index.picture(1).pixels).reshape(h * w, -1)
    kept = search.vectors_of(index.searched, int(index.starts[1]), 1, 128)[0]
    np.testing.assert_allclose(kept, full[number], atol=1e-3)


def test_an_encoder_that_had_to_see_pictures_is_opened_again(photos: Path, tmp_path: Path) -> None:
    build_index("sift@plain:16", list_images(photos), tmp_path / "index", IndexConfig())
    index = open_index(tmp_path / "index")
    answer = retrieve(index, index.open_model(None, "cpu"), photos / "01.jpg", [(40, 60)], top=2)
    assert index.manifest["dim"] == 16
    assert len(answer.hits) == 2
