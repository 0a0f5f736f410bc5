"""Fit an encoder on unlabelled images before an exam: subtract the mean, or reduce by PCA.

Axes: B images, C channels, D embedding, h w cells, n sampled cells of one image.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor

from vader.encoders.dense import DenseEncoder
from vader.errors import BadInput

CELLS = 1024  # of each image, on a regular grid: neighbouring cells are similar

Pictures = Sequence[UInt8[np.ndarray, "_ _ 3"]]


def fit(encoder: DenseEncoder, images: Pictures) -> DenseEncoder:
    """Fit a pending encoder on these images of the train split; return an encoder that is not pending unchanged.

    Raises BadInput for an empty list of images.
    """
    if encoder.pending is None:
        return encoder
    assert encoder.unfitted is not None
    base = fit(encoder.unfitted, images)
    fitted = centre(base, images) if encoder.pending == "centred" else reduce_by_pca(base, images, encoder.pending)
    return replace(fitted, name=encoder.name)


def reduce_by_pca(encoder: DenseEncoder, images: Pictures, dim: int) -> DenseEncoder:
    """Centre the encoder's normalised features and project them to their `dim` main directions over `images`.

    This allows comparing encoders of many channels with ours at equal dimension. Of larger images only every second,
    third ... row and column of cells counts, so that at most 1024 cells do. Fitting holds the cells of one image at a
    time and a few matrices of channels x channels; `facts` contain their size. Raises BadInput for more directions than
    channels, or no images.
    """
    if not 1 <= dim <= encoder.channels:
        raise BadInput(f"{encoder.name}: expected 1 to {encoder.channels} dimensions to reduce to, found {dim}")
    count, mean, second = _moments(encoder, images)
    _, directions = torch.linalg.eigh(second.addr_(mean, mean, alpha=-1))  # ascending
    turn = directions[:, -dim:].flip(1).T.float()  # (D, C)
    offset = turn @ mean.float()

    @torch.no_grad()
    def features(pixels: Tensor) -> Tensor:
        maps = encoder.embed(pixels)
        turned = torch.einsum("dc,bchw->bdhw", turn.to(maps.device), maps)
        return turned - offset[:, None, None].to(maps.device)

    told = {"kind": "pca", "dim": dim, "pictures": len(images), "cells": count, "MB": fitting_bytes(encoder) // 10**6}
    return DenseEncoder(
        f"{encoder.name}:{dim}", encoder.stride, dim, features, facts=_tell(encoder, told), norms=encoder.norms
    )


def fitting_bytes(encoder: DenseEncoder) -> int:
    """Return the peak memory of `reduce_by_pca` in bytes: an image's cells twice, or an eigensolver's matrices."""
    C = encoder.channels
    return 8 * max(C * C + 2 * CELLS * C, 5 * C * C)


def centre(encoder: DenseEncoder, images: Pictures) -> DenseEncoder:
    """Subtract the mean over `images` from the encoder's normalised features; `embed` normalises again.

    The similarities are those of `reduce_by_pca` to all channels. Raises BadInput for an empty list of images.
    """
    count, total = 0, torch.zeros((), dtype=torch.float64)
    for image in _some(encoder, images):
        cells = _cells(encoder, image)
        count, total = count + len(cells), total + cells.sum(0)
    mean = (total / count).float()

    @torch.no_grad()
    def features(pixels: Tensor) -> Tensor:
        maps = encoder.embed(pixels)
        return maps - mean[:, None, None].to(maps.device)

    told = {"kind": "centred", "pictures": len(images), "cells": count}
    # Raw colour's embedding has one channel more than its features.
    return DenseEncoder(
        f"{encoder.name}@centred", encoder.stride, len(mean), features, facts=_tell(encoder, told), norms=encoder.norms
    )


def _moments(encoder: DenseEncoder, images: Pictures) -> tuple[int, Float64[Tensor, "C"], Float64[Tensor, "C C"]]:
    """Return the number of cells, their mean and their mean outer product, in float64."""
    count, total, products = 0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for image in _some(encoder, images):
        cells = _cells(encoder, image)
        if not count:  # an embedding may have one channel more than the features
            products = cells.new_zeros(cells.shape[1], cells.shape[1])
        count, total = count + len(cells), total + cells.sum(0)
        products.addmm_(cells.T, cells)  # in place: another matrix may need hundreds of megabytes
    return count, total / count, products.div_(count)


@torch.no_grad()
def _cells(encoder: DenseEncoder, image: UInt8[np.ndarray, "H W 3"]) -> Float[Tensor, "n C"]:
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    found = encoder.embed(pixels)[0]  # (C, h, w)
    step = 1
    while -(-found.shape[1] // step) * -(-found.shape[2] // step) > CELLS:
        step += 1
    cells = found[:, ::step, ::step].flatten(1).T.double().cpu()
    if not cells.isfinite().all():
        raise BadInput(f"encoder {encoder.name}: expected finite features, found NaN or infinite ones; is it trained?")
    return cells


def _some(encoder: DenseEncoder, images: Pictures) -> Pictures:
    if not len(images):
        raise BadInput(f"{encoder.name}: expected images of the train split to fit it on, found none")
    return images


def _tell(encoder: DenseEncoder, step: dict) -> dict:
    return {**encoder.facts, "fitted": [*encoder.facts.get("fitted", []), step]}
