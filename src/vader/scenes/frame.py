"""The ground truth of one rendered picture.

Axes: H W pixels, K keypoints. World and camera coordinates in metres (`camera.py`).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Integer, UInt8

from vader.scenes.camera import Camera

STUFF = ("clutter", "ground", "wall", "sky")  # classes without instances
KINDS = ("mug", "table", "chair", "lamp", "tree", "house", "car", "animal")  # classes with instances
CLASSES = STUFF + KINDS  # a pixel's class is an index into these


@dataclass(frozen=True)
class Instance:
    """One object of a scene in a picture.

    `number` is its value in the picture's map of instances, the same in all frames of a clip. `keypoints` are pixels
    (x, y) and may be outside the picture; `visible` marks those inside it and not occluded, `in_front` those in front
    of the camera (the pixels of others are meaningless). A keypoint may be inside its object, such as the centre of a
    paw or of a lamp pole: it is visible unless the surface that the camera sees, even of its own object, is closer by
    more than 8 % of the length of the object's (half length, half width, height) vector, or 20 cm if that is less.
    """

    number: int
    kind: str
    keypoints: Float[np.ndarray, "K 2"]
    visible: Bool[np.ndarray, "K"]
    in_front: Bool[np.ndarray, "K"]


@dataclass(frozen=True)
class Frame:
    """A picture and its ground truth. Depth is along the camera's z axis, in metres, inf in the sky; normals are unit
    vectors in camera coordinates that face the camera (0 in the sky). `parts` has the index of the visible part, -1 for
    the sky; `truth.flow` uses it to follow each point. `time` is in seconds of the clip.
    """

    image: UInt8[np.ndarray, "H W 3"]
    classes: UInt8[np.ndarray, "H W"]
    instances: Integer[np.ndarray, "H W"]  # uint16; 0 is stuff
    depth: Float32[np.ndarray, "H W"]
    normals: Float32[np.ndarray, "H W 3"]
    parts: Integer[np.ndarray, "H W"]
    camera: Camera
    time: float
    objects: tuple[Instance, ...]  # all objects of the scene, in the picture or not
