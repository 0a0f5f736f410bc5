"""Label-free statistics of a run: rank, spread, alignment, uniformity, warnings, and the verdict.

Axes: B images, M held-out images, N points, D embedding, h w cells, S a view's side.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vader.images.geometry import read_cells
from vader.pretraining.match_exam import MatchExam


def statistics(first: Tensor, second: Tensor, exam: MatchExam, sample: int = 4096) -> dict[str, float]:
    """Compute effective rank, deviation, alignment and uniformity of embeddings of held-out images.

    * rank: exp of the entropy of the normalised singular values (Roy & Vetterli), 1..D;
    * deviation: mean standard deviation of a dimension times sqrt(D): 1 for an even spread, 0 for a collapse;
    * alignment: mean squared distance of matched points (Wang & Isola 2020), 0..4, smaller is better;
    * uniformity: log mean e^(-2 d^2) over pairs of points of different images, -4..0, smaller is better.
    """
    queries = read_cells(first, exam.cells)  # (M, N, D)
    size = exam.views.shape[-1]
    nearest = (exam.points / exam.stride).long().clamp(0, size // exam.stride - 1)
    keys = read_cells(second, nearest[..., 1] * (size // exam.stride) + nearest[..., 0])
    flat = queries.flatten(0, 1)
    if len(flat) > sample:
        flat = flat[torch.linspace(0, len(flat) - 1, sample).long()]
    singular = torch.linalg.svdvals(flat)
    share = singular / singular.sum().clamp_min(1e-12)
    one_each = queries[:, 0]  # (M, D), different images
    distances = torch.pdist(one_each) if len(one_each) > 1 else torch.zeros(1)
    return {
        "rank": float(torch.exp(-(share * share.clamp_min(1e-12).log()).sum())),
        "deviation": float(flat.std(0).mean() * flat.shape[1] ** 0.5),
        "alignment": float((queries - keys).square().sum(2).mean()),
        "uniformity": float(distances.square().mul(-2).exp().mean().log()),
    }


# --- Judgement -----------------------------------------------------------------------------------------------------


MIN_IMAGES = 8  # for a verdict
UNDECIDED = "undecided"


def paired_interval(differences: np.ndarray, resamples: int = 10_000) -> tuple[float, float]:
    """Compute the 95 % bootstrap interval of the mean of paired differences (over images)."""
    rng = np.random.default_rng(0)
    picks = rng.integers(len(differences), size=(resamples, len(differences)))
    low, high = np.quantile(differences[picks].mean(1), [0.025, 0.975])
    return float(low), float(high)


@dataclass(frozen=True)
class Verdict:
    """The result of a comparison with a baseline and its interval; undecided with fewer than MIN_IMAGES images."""

    word: str
    score: float
    before: float
    low: float
    high: float
    images: int

    @property
    def interval(self) -> str:
        """The interval of the difference, as text."""
        return f"{self.low:+.3f} to {self.high:+.3f}"

    def __str__(self) -> str:
        if self.word == UNDECIDED:
            return (
                f"{self.word}: an exam on {self.images} images is not enough, {MIN_IMAGES} held-out images are "
                f"needed (at most a fifth is held out: {5 * MIN_IMAGES} images in all); matches within one cell "
                f"{self.before:.3f} -> {self.score:.3f}"
            )
        return (
            f"{self.word} {'as' if self.word == 'the same' else 'than'} at the start: matches within one cell "
            f"{self.before:.3f} -> {self.score:.3f}, "
            f"difference {self.score - self.before:+.3f} (95 % over images: {self.interval})"
        )


def judge(scores: np.ndarray, before: np.ndarray) -> Verdict:
    """Compare two encoders' per-image scores on the same exam.

    With fewer than MIN_IMAGES images a bootstrap interval is far too narrow (with one image its width is 0): the word
    is then "undecided".
    """
    low, high = paired_interval(scores - before)
    word = "better" if low > 0 else "worse" if high < 0 else "the same"
    word = word if len(scores) >= MIN_IMAGES else UNDECIDED
    return Verdict(word, float(scores.mean()), float(before.mean()), low, high, len(scores))


COLLAPSED_DEVIATION = 0.1
COLLAPSED_RANK = 2.0


def diagnose(metrics: dict[str, float], dim: int) -> str | None:
    """Describe what is wrong with a run in plain words, or return None.

    `metrics` contains any of: deviation, rank (of held-out embeddings), loss, chance_loss, accuracy, match,
    chance_match, step. The messages are written for readers who do not know what a collapse is.
    """
    deviation, rank = metrics.get("deviation", 1.0), metrics.get("rank", float(dim))
    if not np.isfinite(deviation) or deviation < COLLAPSED_DEVIATION:
        return (
            f"collapse: all pixels have nearly the same embedding (spread {deviation:.3f}; 1 is even, below "
            f"{COLLAPSED_DEVIATION} is collapsed). Lower lr_decoder and lr_encoder by 10, add warmup_steps, and "
            "check that the queue is longer than one batch of keys"
        )
    if rank < COLLAPSED_RANK:
        return (
            f"collapse of dimensions: the embeddings use {rank:.1f} of {dim} dimensions. Lower the learning rates by "
            "3 to 10, or increase the queue; more varied images also help"
        )
    loss, chance = metrics.get("loss", 0.0), metrics.get("chance_loss", 0.0)
    if metrics.get("step", 0) >= 100 and chance > 0 and loss > 0.98 * chance:
        return (
            f"nothing is learned yet: the loss {loss:.2f} is still at its chance value {chance:.2f}. Raise lr_decoder "
            "(and lr_encoder when the encoder starts from random weights) by 3 to 10"
        )
    if metrics.get("step", 0) >= 100 and metrics.get("match", 1.0) < 1.5 * metrics.get("chance_match", 0.0):
        return (
            f"matches of held-out images are at chance ({metrics['match']:.3f}, chance {metrics['chance_match']:.3f}) "
            "although the loss moves: it may use a shortcut. Use pairing 'different' and bn_groups of at least 4"
        )
    return None
