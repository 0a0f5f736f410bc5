"""Pascal VOC 2012, segmentation: JPEGImages, SegmentationClass, ImageSets/Segmentation; 21 classes, 255 is void.

The training split is train_aug, the 10,582 pictures with masks of SBD, if its list and SegmentationClassAug exist;
otherwise VOC's own train.txt (1,464) with SegmentationClass. Validation always uses VOC's own masks. `note` records the
choice.
"""

from dataclasses import replace
from pathlib import Path

from vader.datasets.example import LabelledSet
from vader.datasets.files import Pairs, find_root, labelled, read_classes, read_lines
from vader.errors import BadInput

HOW = (
    "download http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar, unpack it and give its "
    "VOCdevkit/VOC2012"
)
CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
# Classes with at least 15 validation pictures in a subset that shows only animals; all 21 remain ids of its labels.
ANIMALS = ("background", "cat", "chair", "cow", "dog", "horse", "person", "sheep", "sofa")
AUGMENTED = ("trainaug.txt", "train_aug.txt")


def open_voc(root: Path, split: str) -> LabelledSet:
    """Open VOC2012, VOCdevkit or its parent folder. A classes.txt there replaces VOC's names."""
    place = find_root(root, "JPEGImages", ("VOC2012", "VOCdevkit/VOC2012"), HOW)
    chosen, masks, note = _choose(place, split)
    lines = read_lines(chosen, HOW)
    # Lists of train_aug have ids, or "/JPEGImages/ID.jpg /SegmentationClassAug/ID.png".
    names = tuple(Path(line.split()[0]).name.removesuffix(".jpg") for line in lines)
    pairs = Pairs(
        names,
        tuple(place / "JPEGImages" / f"{name}.jpg" for name in names),
        tuple(place / masks / f"{name}.png" for name in names),
    )
    pairs.sound(chosen).exist(HOW)
    # Rendered scenes have theirs beside VOCdevkit.
    candidates = [folder / "classes.txt" for folder in (place, root, place.parent, place.parent.parent)]
    if place.parent.name != "VOCdevkit":
        candidates = candidates[:2]
    own = [path for path in candidates if path.is_file()][:1]
    classes = read_classes(own[0]) if own else CLASSES
    return labelled("voc", place, split, classes, pairs, lists=(chosen, *own), note=note)


def open_animals(root: Path, split: str) -> LabelledSet:
    """Open VOC with the headline mean over `ANIMALS`, for subsets in which the other classes hardly occur."""
    whole = open_voc(root, split)
    if absent := [name for name in ANIMALS if name not in whole.classes]:
        raise BadInput(f"expected VOC's animals among the classes of {whole.root}, found no {absent[0]}; use voc")
    scored = tuple(whole.classes.index(name) for name in ANIMALS)
    return replace(whole, name="voc-animals", scored=scored)


def _choose(place: Path, split: str) -> tuple[Path, str, str]:
    """Return (list, folder of masks, note) of a split."""
    lists, plain = place / "ImageSets" / "Segmentation", "SegmentationClass"
    if split == "val":
        return lists / "val.txt", plain, "val.txt with SegmentationClass"
    augmented = next((lists / name for name in AUGMENTED if (lists / name).is_file()), None)
    if augmented and (place / f"{plain}Aug").is_dir():
        return augmented, f"{plain}Aug", f"train_aug: {augmented.name} with SegmentationClassAug"
    lacking = "SegmentationClassAug" if augmented else " or ".join(AUGMENTED)
    return lists / "train.txt", plain, f"train.txt with SegmentationClass, not train_aug: there is no {lacking}"
