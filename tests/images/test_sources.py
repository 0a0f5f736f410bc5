"""What `vader.images.folder` promises: one order everywhere, clear refusals, each bad file counted once."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vader.errors import BadInput
from vader.images.sources import SUFFIXES, Faults, ImageList, list_images


def put(path: Path, side: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((side, side, 3), 90, np.uint8)).save(path, "PNG")
    return path


def put_all(root: Path, *names: str) -> None:
    for name in names:
        put(root / name)


# --- Folders ------------------------------------------------------------------------------------------------------


def test_nested_folders_in_the_order_of_bytes(tmp_path: Path) -> None:
    names = ["b.png", "a/z.jpg", "a/b/c.PNG", "a.jpg", "Z.tif", "é.webp", "a-b/x.bmp", "10.jpeg", "9.TIFF"]
    put_all(tmp_path, *names)
    listed = list_images(tmp_path)
    assert listed.root == tmp_path
    assert list(listed.names) == sorted(names, key=lambda name: name.encode())
    assert listed.names.index("a-b/x.bmp") < listed.names.index("a.jpg") < listed.names.index("a/b/c.PNG")
    assert len(listed) == len(names)
    assert [listed.path(i) for i in range(len(listed))] == [tmp_path / name for name in listed.names]


def test_all_suffixes_in_any_case_and_nothing_else(tmp_path: Path) -> None:
    wanted = [f"{i}{case(suffix)}" for i, suffix in enumerate(SUFFIXES) for case in (str, str.upper, str.title)]
    put_all(tmp_path, *wanted, "notes.txt", "a.gif", "png", ".png")
    assert set(list_images(tmp_path).names) == set(wanted)


def test_hidden_files_and_folders_are_left_out_but_not_a_hidden_root(tmp_path: Path) -> None:
    root = tmp_path / ".cache"
    put_all(root, "a.png", ".b.png", ".thumbnails/c.png", "d/.e/f.png")
    assert list_images(root).names == ("a.png",)


def test_linked_folders_are_followed_once_and_loops_end(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    put_all(root, "a.png", "deep/b.png")
    put_all(elsewhere, "c.png")
    (root / "linked").symlink_to(elsewhere)
    (root / "other-way").symlink_to(elsewhere)
    (root / "deep" / "loop").symlink_to(root)
    (elsewhere / "self").symlink_to(elsewhere)
    assert list_images(root).names == ("a.png", "deep/b.png", "linked/c.png")


def test_a_broken_link_is_listed_and_a_pipe_is_not(tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "pipe.png")
    listed = list_images(tmp_path)
    assert listed.names == ("a.png", "gone.png")
    assert listed.fingerprint()  # and a missing file does not stop it


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    try:
        put(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    put(tmp_path / "a.png")
    listed = list_images(tmp_path)
    assert [os.fsencode(name) for name in listed.names] == [b"a.png", b"\xff.png"]
    assert listed.path(1).is_file()
    assert listed.fingerprint()


def test_no_images_says_what_was_looked_for_and_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"\.jpg .*\.tiff.* found no files at all"):
        list_images(tmp_path)
    put_all(tmp_path, "a.gif", "b/c.GIF", "d.csv", "README")
    with pytest.raises(BadInput, match=r"found 2 x \.gif, .*1 x no suffix"):
        list_images(tmp_path)


def test_missing_and_unsupported_sources(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nowhere does not exist"):
        list_images(tmp_path / "nowhere")
    (tmp_path / "list.csv").write_text("a.png\n")
    with pytest.raises(BadInput, match=r"\.txt list .* came .*list\.csv"):
        list_images(tmp_path / "list.csv")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    put(tmp_path / "closed" / "a.png")
    (tmp_path / "closed").chmod(0)
    try:
        with pytest.raises(BadInput, match=r"cannot read .*closed"):
            list_images(tmp_path)
    finally:
        (tmp_path / "closed").chmod(0o700)


def test_one_image(tmp_path: Path) -> None:
    listed = list_images(put(tmp_path / "one.JPG"))
    assert listed == ImageList(tmp_path, ("one.JPG",))
    assert listed.path(0) == tmp_path / "one.JPG"


# --- List files ---------------------------------------------------------------------------------------------------


def test_a_list_keeps_its_order_and_may_leave_its_folder(tmp_path: Path) -> None:
    put_all(tmp_path, "lists/b.png", "lists/a b.png", "other/c.png", "other/d.png")
    absolute = tmp_path / "other" / "d.png"
    text = f"\ufeff# chosen by hand\r\nb.png\r\n\r\n  a b.png  \n../other/c.png\n{absolute}"
    (tmp_path / "lists" / "train.txt").write_text(text, encoding="utf-8", newline="")
    listed = list_images(tmp_path / "lists" / "train.txt")
    assert listed.names == ("b.png", "a b.png", "../other/c.png", absolute.as_posix())
    assert all(listed.path(i).is_file() for i in range(4))
    assert listed.path(3) == absolute


@pytest.mark.parametrize("again", ["a.png", "./a.png", "b/../a.png"])
def test_a_list_that_repeats_a_file_is_refused(again: str, tmp_path: Path) -> None:
    put_all(tmp_path, "a.png", "b/c.png")
    (tmp_path / "list.txt").write_text(f"a.png\nb/c.png\n{again}\n")
    with pytest.raises(BadInput, match=r"names 1 files more than once: .*a\.png"):
        list_images(tmp_path / "list.txt")


def test_a_list_of_missing_files_names_the_first_and_the_count(tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    (tmp_path / "list.txt").write_text("\n".join(["a.png", *(f"m{i}.png" for i in range(7))]))
    with pytest.raises(BadInput, match=r"names 7 files that do not exist: m0\.png, m1\.png, m2\.png, \.\.\.; "):
        list_images(tmp_path / "list.txt")


def test_an_empty_list_and_one_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("# nothing\n\n")
    with pytest.raises(BadInput, match="names none"):
        list_images(tmp_path / "list.txt")
    (tmp_path / "list.txt").write_bytes(b"\xff\xd8\xff\xe0 a picture")
    with pytest.raises(BadInput, match="UTF-8"):
        list_images(tmp_path / "list.txt")


# --- Fingerprint --------------------------------------------------------------------------------------------------


def test_the_fingerprint_sees_names_sizes_and_order_and_not_the_place(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for root in (here, there):
        put_all(root, "a.png", "b/c.png")
    first = list_images(here).fingerprint()
    assert len(first) == 64
    assert first == list_images(here).fingerprint() == list_images(there).fingerprint()
    assert ImageList(here, ("b/c.png", "a.png")).fingerprint() != first
    seen = {first}
    (there / "a.png").write_bytes((there / "a.png").read_bytes() + b"\0")
    seen.add(list_images(there).fingerprint())
    put(there / "d.png")
    seen.add(list_images(there).fingerprint())
    (there / "d.png").rename(there / "e.png")
    seen.add(list_images(there).fingerprint())
    (there / "a.png").unlink()
    seen.add(list_images(there).fingerprint())
    assert len(seen) == 5


# --- Faults -------------------------------------------------------------------------------------------------------


def test_each_file_is_counted_once_with_its_first_reason() -> None:
    faults = Faults(total=100)
    for name, reason in [("b", "cut short"), ("a", "empty"), ("b", "again")]:
        faults.add(name, reason)
    assert len(faults) == 2
    assert faults.as_json() == [{"name": "a", "reason": "empty"}, {"name": "b", "reason": "cut short"}]


@pytest.mark.parametrize(
    ("bad", "seen", "stops"),
    [(1, 19, False), (1, 20, False), (2, 20, True), (5, 100, False), (6, 100, True), (19, 19, False)],
)
def test_the_run_stops_above_the_share_once_enough_were_seen(bad: int, seen: int, stops: bool) -> None:
    faults = Faults(total=1000, max_share=0.05, min_seen=20)
    for i in range(bad):
        faults.add(f"{i:02}.png", f"reason {i}")
    if not stops:
        faults.check(seen)
        return
    with pytest.raises(BadInput, match=rf"{bad} of {seen} images .* 0\.05: 00\.png \(reason 0\); 01\.png") as caught:
        faults.check(seen)
    assert ("02.png" in str(caught.value)) == (bad > 2)
    assert "03.png" not in str(caught.value)


def test_small_sets_are_judged_after_their_half() -> None:
    faults = Faults(total=6, max_share=0.1)
    faults.add("a.png", "empty")
    faults.check(3)
    with pytest.raises(BadInput, match=r"1 of"):
        faults.check(4)


def test_the_allowed_share_reaches_from_none_to_all() -> None:
    none, everything = Faults(total=40, max_share=0), Faults(total=40, max_share=1)
    none.check(40)
    for i in range(40):
        none.add(str(i), "empty")
        everything.add(str(i), "empty")
    everything.check(40)
    with pytest.raises(BadInput):
        none.check(40)
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(BadInput, match="from 0 to 1"):
            Faults(total=40, max_share=share)
