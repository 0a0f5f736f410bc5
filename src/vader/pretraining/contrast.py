"""The contrast of VADeR (section 3.1): InfoNCE over matched pixels, the queue of negatives, the momentum teacher.

The losses are pure functions. The queue and the teacher are objects: the loop updates them, the checkpoint saves them.

Axes: B images, P points an image, N = B P queries, Q keys in the queue, D embedding.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

# Logits are computed in blocks, never as a whole matrix. On the CPU a block should fit into the cores' caches; on a
# GPU it should be so large that the cost of a kernel launch does not matter (128 MiB of float32).
BLOCK_LOGITS = {"cpu": 1 << 20, "cuda": 1 << 25}


class _QueueLogSumExp(torch.autograd.Function):
    """log sum_j exp(q . n_j / T) for every query, with its gradient accumulated in the same pass.

    d lse / d q = sum_j softmax_j n_j / T: the softmax-weighted mean of the keys. It is summed block by block together
    with the sum of exponentials, and rescaled when the running maximum grows (the online softmax). So each block of
    logits is used twice while it is in the cache, and the backward pass is one multiplication.
    """

    @staticmethod
    def forward(ctx, queries, keys, temperature, query_image, key_image):  # type: ignore[no-untyped-def]
        N, Q = len(queries), len(keys)
        needs_grad = ctx.needs_input_grad[0]
        highest = queries.new_full((N,), -math.inf)
        total = queries.new_zeros(N)
        mean_key = torch.zeros_like(queries) if needs_grad else None
        budget = BLOCK_LOGITS.get(queries.device.type, BLOCK_LOGITS["cuda"])
        block_q = max(16, min(Q, 2048 if queries.device.type == "cpu" else Q))
        block_n = max(1, budget // block_q)
        scaled = queries / temperature
        own = None if key_image is None else _OwnKeys(query_image, key_image)

        for n0 in range(0, N, block_n):
            rows = slice(n0, n0 + block_n)
            for q0 in range(0, Q, block_q):
                part = keys[q0 : q0 + block_q]
                logits = scaled[rows] @ part.T  # (n, q)
                if own is not None:
                    own.mask_(logits, rows, q0)
                new_highest = torch.maximum(highest[rows], logits.amax(1))
                # A row without negatives so far has -inf here; 0 keeps exp(-inf - x) = 0 and avoids inf - inf.
                shift = new_highest.masked_fill(new_highest == -math.inf, 0.0)
                rescale = (highest[rows] - shift).exp_()
                logits.sub_(shift.unsqueeze(1)).exp_()
                total[rows] = total[rows] * rescale + logits.sum(1)
                if mean_key is not None:
                    mean_key[rows] = torch.addmm(mean_key[rows] * rescale.unsqueeze(1), logits, part)
                highest[rows] = new_highest

        if mean_key is not None:
            # Rows without negatives divide 0 by the floor: their gradient is 0.
            mean_key /= (total * temperature).clamp_min(torch.finfo(total.dtype).tiny).unsqueeze(1)
            ctx.save_for_backward(mean_key)
        ctx.mark_non_differentiable(highest)
        return torch.where(total > 0, highest + total.log(), -math.inf), highest

    @staticmethod
    def backward(ctx, grad_lse, _grad_highest):  # type: ignore[no-untyped-def]
        (mean_key,) = ctx.saved_tensors
        return grad_lse.unsqueeze(1) * mean_key, None, None, None, None


class _OwnKeys:
    """Find the few keys in the queue that come from the batch's images, so that only their columns are masked."""

    def __init__(self, query_image: Tensor, key_image: Tensor) -> None:
        self.query_image, self.key_image = query_image, key_image
        self.columns = torch.isin(key_image, query_image).nonzero().squeeze(1)

    def mask_(self, logits: Tensor, rows: slice, q0: int) -> None:
        inside = (self.columns >= q0) & (self.columns < q0 + logits.shape[1])
        columns = self.columns[inside]
        if len(columns):
            same = self.query_image[rows].unsqueeze(1) == self.key_image[columns].unsqueeze(0)
            logits[:, columns - q0] = logits[:, columns - q0].masked_fill(same, -math.inf)


def queue_logsumexp(
    queries: Float[Tensor, "N D"],
    keys: Float[Tensor, "Q D"],
    temperature: float,
    query_image: Int[Tensor, "N"] | None = None,
    key_image: Int[Tensor, "Q"] | None = None,
) -> tuple[Float[Tensor, "N"], Float[Tensor, "N"]]:
    """Return the log-sum-exp of each query's logits against the queue, and each query's highest logit.

    `keys` get no gradient, because they come from the queue. If image numbers are given, keys of a query's own image
    are left out. Peak memory is one block of logits and one (N, D) tensor for any Q. Without negatives: -inf.
    """
    assert (query_image is None) == (key_image is None), "image numbers are needed for both or for neither"
    return _QueueLogSumExp.apply(queries, keys, temperature, query_image, key_image)


@dataclass(frozen=True)
class Contrast:
    """The loss and the numbers that are logged with it. All but `loss` are detached."""

    loss: Float[Tensor, ""]
    chance: Float[Tensor, ""]  # the loss if all keys are equally similar: factor * log(1 + negatives)
    accuracy: Float[Tensor, ""]  # share of queries whose positive has the highest logit
    alignment: Float[Tensor, ""]  # mean squared distance of a query to its positive, 0..4


def info_nce(
    queries: Float[Tensor, "N D"],
    positives: Float[Tensor, "N D"],
    negatives: Float[Tensor, "Q D"],
    *,
    temperature: float = 0.07,
    factor: float = 10.0,
    query_image: Int[Tensor, "N"] | None = None,
    negative_image: Int[Tensor, "Q"] | None = None,
    within: Bool[Tensor, "B P P"] | None = None,
) -> Contrast:
    """Compute equation 2, averaged over queries and multiplied by `factor` (the paper's 10).

    loss = -log( e^(q.k/T) / ( e^(q.k/T) + sum over negatives of e^(q.n/T) ) ). All rows must be L2-normalised.

    `within[b, i, j]` adds the positive of query j of image b to the negatives of query i (N = B P, image by image).
    These are other keys of the same image, which the paper tried and left out ("fail to make it work").
    """
    positive = (queries * positives).sum(1) / temperature  # (N,)
    parts = [positive]
    highest = torch.full_like(positive, -math.inf)
    count = torch.zeros_like(positive)
    if len(negatives):
        lse, highest = queue_logsumexp(queries, negatives, temperature, query_image, negative_image)
        parts.append(lse)
        count += len(negatives)
        if query_image is not None and negative_image is not None:
            count -= _count_own(query_image, negative_image)
    if within is not None:
        B, P, _ = within.shape
        local = queries.view(B, P, -1) @ positives.view(B, P, -1).transpose(1, 2) / temperature  # (B, P, P)
        local = local.masked_fill(~within, -math.inf).flatten(0, 1)  # (N, P)
        parts.append(_finite_logsumexp(local))
        highest = torch.maximum(highest, local.detach().amax(1))
        count += within.sum(2).flatten()
    denominator = torch.stack(parts).logsumexp(0) if len(parts) > 1 else positive
    return Contrast(
        loss=factor * (denominator - positive).mean(),
        chance=factor * count.log1p().mean(),
        accuracy=(positive.detach() > highest).float().mean(),
        alignment=(queries - positives).detach().square().sum(1).mean(),
    )


def _count_own(query_image: Tensor, key_image: Tensor) -> Tensor:
    images, which = query_image.unique(return_inverse=True)
    order = torch.searchsorted(images, key_image).clamp_max(len(images) - 1)
    own = torch.bincount(order[images[order] == key_image], minlength=len(images))
    return own[which]


def _finite_logsumexp(logits: Tensor) -> Tensor:
    """Compute the log-sum-exp of each row; where a whole row is -inf the gradient is 0, not NaN."""
    empty = (logits == -math.inf).all(1, keepdim=True)
    return logits.masked_fill(empty, 0.0).logsumexp(1).masked_fill(empty.squeeze(1), -math.inf)


def farther_than(points: Float[Tensor, "B P 2"], radius: float) -> Bool[Tensor, "B P P"]:
    """Tell which pairs of an image's points are more than `radius` pixels apart."""
    return torch.cdist(points.float(), points.float(), compute_mode="donot_use_mm_for_euclid_dist") > radius


class Queue(nn.Module):
    """The last `length` keys of the teacher and the image number of each key: a ring buffer with one pointer.

    It starts empty, so the number of negatives grows while it fills. (MoCo's queue starts with random vectors: easy
    negatives without meaning.) Any number of keys can be added at a time.
    """

    keys: Tensor
    images: Tensor

    def __init__(self, length: int, dim: int) -> None:
        super().__init__()
        assert length > 0
        self.register_buffer("keys", torch.zeros(length, dim))
        self.register_buffer("images", torch.full((length,), -1, dtype=torch.int64))
        self.pointer = 0
        self.filled = 0

    def __len__(self) -> int:
        return self.filled

    @property
    def length(self) -> int:
        """The capacity, in keys."""
        return len(self.keys)

    def content(self) -> tuple[Float[Tensor, "Q D"], Int[Tensor, "Q"]]:
        """Return the stored keys and their image numbers, in no particular order."""
        return self.keys[: self.filled], self.images[: self.filled]

    @torch.no_grad()
    def enqueue(self, keys: Float[Tensor, "N D"], images: Int[Tensor, "N"]) -> None:
        """Add keys in place of the oldest ones. If there are more keys than places, the last keys are stored."""
        keys, images = keys[-self.length :], images[-self.length :]
        n = len(keys)
        places = (torch.arange(n, device=self.keys.device) + self.pointer) % self.length
        self.keys[places] = keys.to(self.keys.dtype)
        self.images[places] = images
        self.pointer = (self.pointer + n) % self.length
        self.filled = min(self.filled + n, self.length)


def choose_enqueued(keys: Float[Tensor, "B P D"], enqueue: int | str) -> tuple[Float[Tensor, "M D"], Int[Tensor, "M"]]:
    """Choose the keys of a batch that enter the queue; return them and the row of the batch that each comes from.

    'all': every key (MoCo's rule, literally; our reading of the paper). A number k: the first k keys of each image
    (their order is already random). 'pooled': the normalised mean key of each image (DenseCL's dense queue).
    """
    if enqueue == "pooled":
        chosen = nn.functional.normalize(keys.mean(1, keepdim=True), dim=2)
    else:
        chosen = keys if enqueue == "all" else keys[:, : int(enqueue)]
    rows = torch.arange(len(keys), device=keys.device).repeat_interleave(chosen.shape[1])
    return chosen.reshape(-1, keys.shape[2]), rows


@torch.no_grad()
def update_teacher(student: nn.Module, teacher: nn.Module, momentum: float) -> None:
    """Move the teacher: teacher <- momentum * teacher + (1 - momentum) * student, over parameters only.

    Batch-norm statistics are not averaged: the teacher has its own, computed from the keys' views (MoCo's rule).
    """
    ours: list[Tensor] = list(teacher.parameters())
    theirs: list[Tensor] = list(student.parameters())
    assert len(ours) == len(theirs), "student and teacher must have the same parameters"
    torch._foreach_lerp_(ours, [p.to(o.dtype) for p, o in zip(theirs, ours, strict=True)], 1.0 - momentum)
