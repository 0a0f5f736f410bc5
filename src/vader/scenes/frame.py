"""What is known of one rendered picture.

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
    """One object of a scene as a picture shows it.

    `number` is its value in the picture's map of instances, the same in all frames of a clip. `keypoints` are pixels
    (x, y) and may lie outside the picture; `visible` says which are in it and not occluded, `in_front` which lie
    before the camera at all (the pixels of others mean nothing). A keypoint may lie inside of its object, as a paw's
    middle or a lamp pole's does: it counts as visible unless what the camera meets, its own object too, is nearer by
    more than 8 % of the object's (half length, half width, height) vector or, if that is less, 20 cm.
    """

    number: int
    kind: str
    keypoints: Float[np.ndarray, "K 2"]
    visible: Bool[np.ndarray, "K"]
    in_front: Bool[np.ndarray, "K"]


@dataclass(frozen=True)
class Frame:
    """A picture and its truth. Depth is along the camera's z axis, in metres, inf in the sky; normals are unit vectors
    in camera coordinates that face the camera (0 in the sky). `parts` numbers the surface hit, -1 for the sky; it
    lets `truth.flow` follow each point. `time` is in seconds of the clip.
    """

    image: UInt8[np.ndarray, "H W 3"]
    classes: UInt8[np.ndarray, "H W"]
    instances: Integer[np.ndarray, "H W"]  # uint16; 0 is stuff
    depth: Float32[np.ndarray, "H W"]
    normals: Float32[np.ndarray, "H W 3"]
    parts: Integer[np.ndarray, "H W"]
    camera: Camera
    time: float
    objects: tuple[Instance, ...]  # all of the scene's, in the picture or not
