"""Propagate given masks through a clip, frame by frame.

Axes: T frames, D embedding, H W pixels, h w cells, O objects (0, the background, is one).
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
from jaxtyping import Float, Integer, Shaped, UInt8
from torch import Tensor

from vader.encoders import DenseEncoder
from vader.encoders.features import maps_of, to_tensor
from vader.errors import BadInput
from vader.inference.propagation.context import Context, Held, with_objects
from vader.inference.propagation.labels import cell_labels, pixel_labels, resized_mask
from vader.inference.propagation.protocols import PropagationProtocol
from vader.reports.metrics import VOID

MOST = 255  # objects including the background: an indexed PNG has 256 values, and 255 is void


class Propagator:
    """Takes the maps of a clip one at a time and returns a mask for each; memory holds only the protocol's context.

    `size` is the height and width of the frames that the encoder sees, `out` that of the masks, given and found. `void`
    in a given mask becomes background. A mask of a later frame only adds its new objects; it does not change known
    objects or earlier results. Frames before the first mask are all background.
    """

    def __init__(
        self,
        protocol: PropagationProtocol,
        *,
        stride: int,
        size: tuple[int, int],
        out: tuple[int, int] | None = None,
        void: int | None = VOID,
        chunk: int | None = None,
    ) -> None:
        self.protocol, self.stride, self.size, self.void, self.chunk = protocol, stride, size, void, chunk
        self.cells = tuple(-(-side // stride) for side in size)
        self.context = Context(protocol)
        self.ids: np.ndarray | None = None  # the objects' labels, in the masks' dtype; None before the first mask
        self.out = out or size
        self.count = 0

    def step(
        self, one: Float[Tensor, "D h w"], mask: Integer[np.ndarray, "H W"] | None = None
    ) -> Shaped[np.ndarray, "_ _"]:
        """Return the next frame's mask from its map and, if there is one, its given mask.

        Raises BadInput for a map that is not finite or does not fit the frame's cells, for a mask whose size is not
        `out`, and for more than 254 objects.
        """
        if tuple(one.shape[1:]) != self.cells:
            raise BadInput(
                f"frame {self.count}: expected {self.cells[0]}x{self.cells[1]} cells at stride {self.stride} for "
                f"{self.size[0]}x{self.size[1]} px, found {one.shape[1]}x{one.shape[2]}; give frames of one size"
            )
        if not one.isfinite().all():
            raise BadInput(
                f"frame {self.count}: expected finite features, found NaN or infinite ones; is the model trained?"
            )
        keys = one.float().permute(1, 2, 0).contiguous()
        clean = None if mask is None else self._clean(mask)
        fresh = self._meet(clean)
        found = self._carried(keys, clean, fresh)
        self.count += 1
        return found

    def _clean(self, mask: np.ndarray) -> np.ndarray:
        _same_size(f"mask of frame {self.count}", mask.shape, self.out)
        return mask if self.void is None else np.where(mask == self.void, mask.dtype.type(0), mask)

    def _meet(self, mask: np.ndarray | None) -> list[int]:
        """Add the mask's new objects to `ids` and return their indices."""
        if mask is None:
            return []
        if self.ids is None:
            self.ids = np.zeros(1, dtype=mask.dtype)
        known = len(self.ids)
        sized = resized_mask(mask, self.size) if self.protocol.fewest > 1 else mask
        values, pixels = np.unique(sized, return_counts=True)
        values = values[pixels >= self.protocol.fewest]
        added = values[~np.isin(values, self.ids)].astype(self.ids.dtype)
        if self.void is not None and known + len(added) > MOST:
            raise BadInput(
                f"mask of frame {self.count}: expected at most {MOST - 1} objects, found {known + len(added) - 1}; "
                "an indexed PNG holds no more"
            )
        self.ids = np.concatenate([self.ids, added])
        return list(range(known, len(self.ids)))

    def _carried(self, keys: Tensor, mask: np.ndarray | None, fresh: list[int]) -> np.ndarray:
        if self.ids is None:
            return np.zeros(self.out, dtype=np.uint8)
        first = not self.context.given
        if first:
            assert mask is not None
            shares = self._shares(mask, self.ids.tolist()).to(keys.device)
            found = mask
        else:
            shares = self.context.carry_to(keys, self.stride, self.chunk)
            found = self.ids[pixel_labels(shares, self.size, self.out, self.stride, self.protocol)]
            if fresh:
                assert mask is not None
                added = self.ids[fresh]
                shares = with_objects(shares, self._shares(mask, added.tolist()).to(keys.device))
                found = np.where(np.isin(mask, added), mask, found)
                self.context.learn(keys, shares, fresh, self.stride)
        self.context.add(Held(keys, shares, self.count), given=first or bool(fresh))
        return found

    def _shares(self, mask: np.ndarray, ids: list[int]) -> Tensor:
        return cell_labels(mask, ids, self.protocol.label_in, self.size, self.stride)

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that the next step depends on, without the constructor's arguments, to save them."""
        held = {one.number: one for one in [*self.context.given, *self.context.recent]}
        state = {f"keys.{number}": one.keys for number, one in held.items()}
        state |= {f"labels.{number}": one.labels for number, one in held.items()}
        state["given"] = torch.tensor([one.number for one in self.context.given], dtype=torch.int64)
        state["recent"] = torch.tensor([one.number for one in self.context.recent], dtype=torch.int64)
        state["count"] = torch.tensor(self.count)
        if self.ids is not None:
            state["ids"] = torch.from_numpy(self.ids)
        return state

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Resume from the `state` of a propagator with the same arguments."""
        self.count = int(state["count"])
        self.ids = state["ids"].cpu().numpy() if "ids" in state else None

        def held(number: int) -> Held:
            return Held(state[f"keys.{number}"], state[f"labels.{number}"], number)

        self.context = Context(
            self.protocol,
            [held(number) for number in state["given"].tolist()],
            deque(held(number) for number in state["recent"].tolist()),
        )


# --- Whole clips --------------------------------------------------------------------------------------------------


def propagate_maps(
    maps: Iterable[Float[Tensor, "_ _ _"]],
    masks: Mapping[int, Integer[np.ndarray, "_ _"]],
    propagator: Propagator,
) -> Iterator[Shaped[np.ndarray, "_ _"]]:
    """Yield a mask for each map; `masks` holds the given masks by frame number."""
    for one in maps:
        yield propagator.step(one, masks.get(propagator.count))


def propagate_frames(
    encoder: DenseEncoder,
    frames: Iterable[UInt8[np.ndarray, "_ _ 3"]],
    masks: Mapping[int, Integer[np.ndarray, "_ _"]],
    protocol: PropagationProtocol,
    device: str | torch.device = "cpu",
    chunk: int | None = None,
) -> Iterator[Shaped[np.ndarray, "_ _"]]:
    """Yield a mask of the frame's size for each frame, in memory that does not depend on the clip's length.

    `masks` holds the given masks by frame number. Raises BadInput for frames of different sizes, for masks whose size
    differs from the frames', for no mask and for more than 254 objects.
    """
    if not masks:
        raise BadInput("masks: expected at least one for the first frame, found none; give a mask to propagate")
    propagator, shape = None, (0, 0)
    for number, picture in enumerate(frames):
        if propagator is None:
            shape = (int(picture.shape[0]), int(picture.shape[1]))
            size = protocol.size(*shape, encoder.stride)
            propagator = Propagator(protocol, stride=encoder.stride, size=size, out=shape, chunk=chunk)
        _same_size(f"frame {number}", picture.shape[:2], shape)
        yield propagator.step(see(encoder, picture, protocol, device), masks.get(number))


def see(
    encoder: DenseEncoder, picture: UInt8[np.ndarray, "H W 3"], protocol: PropagationProtocol,
    device: str | torch.device = "cpu",
) -> Float[Tensor, "D h w"]:  # fmt: skip
    """The map of a picture that the protocol compares: L2-normalised for the cosine, else the features."""
    images = to_tensor([protocol.resized(picture, encoder.stride)]).to(device)
    return maps_of(encoder, images, embed=protocol.similarity == "cosine")[0]


def _same_size(what: str, got: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if tuple(got) != tuple(expected):
        raise BadInput(
            f"{what}: expected {expected[0]}x{expected[1]} px as the first frame, found {got[0]}x{got[1]}; "
            "give frames and masks of one size"
        )


def propagate(
    maps: Float[Tensor, "T D h w"],
    first_labels: Integer[np.ndarray, "H W"],
    protocol: PropagationProtocol | None = None,
    *,
    stride: int = 4,
    chunk: int | None = None,
) -> Shaped[np.ndarray, "T H W"]:
    """Return the object of every pixel of every frame of a short clip. The first frame's labels are not changed.

    `maps` belong to frames of the labels' size; for the cosine they are L2-normalised. Every value of `first_labels`
    is an object, so replace void by background first. Raises BadInput for labels whose size does not fit the maps.
    """
    size = (int(first_labels.shape[0]), int(first_labels.shape[1]))
    cells = tuple(maps.shape[2:])
    if tuple(-(-side // stride) for side in size) != cells:
        raise BadInput(
            f"first labels: expected a picture of {cells[0]}x{cells[1]} cells at stride {stride}, found "
            f"{size[0]}x{size[1]} px; give labels of the frames' size"
        )
    propagator = Propagator(protocol or PropagationProtocol(), stride=stride, size=size, void=None, chunk=chunk)
    return np.stack(list(propagate_maps(maps, {0: first_labels}, propagator)))


def carry_through(
    maps: Float[Tensor, "T D h w"],
    first: Float[Tensor, "hw O"],
    protocol: PropagationProtocol,
    stride: int,
    chunk: int | None = None,
) -> Float[Tensor, "T hw O"]:
    """Propagate the objects' shares of the first frame's cells to every frame, each from the frames before it."""
    context, found = Context(protocol), [first]
    for number, one in enumerate(maps):
        keys = one.float().permute(1, 2, 0).contiguous()
        if number:
            found.append(context.carry_to(keys, stride, chunk))
        context.add(Held(keys, found[-1], number), given=number == 0)
    return torch.stack(found)


def copy_first(first_labels: Integer[np.ndarray, "H W"], frames: int) -> Shaped[np.ndarray, "T H W"]:
    """Return the trivial baseline: the first frame's labels in every frame."""
    return np.repeat(first_labels[None], frames, 0)
