"""The objectives: VADeR contrasts matched pixels of two views; MoCo v2, the baseline, contrasts whole images.

An objective is one class. `parts(config)` builds the network to train, `memory(config)` the queue, and
`loss(learner, config, batch, step)` computes the loss of one step and the keys that enter the queue. `recipe` and
`wanted_keys` serve the recipes. A new objective is a new class and a line in `OBJECTIVES`.

Axes: B images of this process, P matched points an image, D embedding, h w cells.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vader.images.geometry import read_at, read_cells
from vader.models.backbones import STRIDE
from vader.models.network import Network, build
from vader.pretraining.config import PretrainConfig
from vader.pretraining.contrast import Contrast, Queue, farther_than, info_nce, update_teacher
from vader.pretraining.feed import Batch
from vader.pretraining.learner import Learner
from vader.runtime.processes import gather


class VADeR:
    """Contrast matched pixels of two views with pixels of other images (section 3.1, equation 2)."""

    paper_start: str | None = "official MoCo v2 weights"  # the starting weights of the paper's recipe

    def parts(self, config: PretrainConfig) -> Network:
        """Build the student network; the teacher is a copy of it."""
        return build(config.network)

    def memory(self, config: PretrainConfig) -> Queue:
        """Make the queue of negatives."""
        return Queue(config.queue, config.network.dim)

    def loss(
        self, learner: Learner, config: PretrainConfig, batch: Batch, step: int
    ) -> tuple[Contrast, Float[Tensor, "B P D"]]:
        """Compute the contrast of this process's queries, and the keys of all processes (B, P, D) that enter the queue.

        The order is MoCo's: compute queries, update the teacher, compute keys.
        """
        queries = self.queries(learner, batch)
        update_teacher(learner.network, learner.teacher, config.momentum)
        keys = self.keys(learner, config, batch, step)
        first = learner.fabric.global_rank * len(batch.images)
        return self.contrast(learner, config, batch, queries, keys[first : first + len(batch.images)]), keys

    def queries(self, learner: Learner, batch: Batch) -> Float[Tensor, "B P D"]:
        """Compute normalised queries: the student's output for view 1, read at the chosen cells."""
        return F.normalize(self.read_queries(learner.student(batch.first), batch), dim=2)

    @torch.no_grad()
    def keys(self, learner: Learner, config: PretrainConfig, batch: Batch, step: int) -> Float[Tensor, "_ P D"]:
        """Compute normalised keys of all processes: the teacher's output for view 2, read at the matched points.

        Images are first shuffled over processes and virtual groups, so a key shares batch statistics with other images
        than its query (MoCo, section 3.3). Keys are normalised after reading.
        """
        fabric = learner.fabric
        images, points = gather(fabric, batch.second), gather(fabric, batch.points)
        shuffle = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        order = torch.randperm(len(images), generator=shuffle).to(images.device)
        share = order.chunk(fabric.world_size)[fabric.global_rank]
        with fabric.autocast():
            output = learner.teacher(images[share].contiguous(memory_format=torch.channels_last))
        keys = gather(fabric, F.normalize(self.read_keys(output, points[share], config), dim=2))
        return keys[order.argsort()]

    def contrast(
        self,
        learner: Learner,
        config: PretrainConfig,
        batch: Batch,
        queries: Float[Tensor, "B P D"],
        keys: Float[Tensor, "B P D"],
    ) -> Contrast:
        """Compute equation 2 for this process's queries with their own keys and the queue."""
        negatives, sources = learner.queue.content()
        within = farther_than(batch.points, config.within_image) if config.within_image else None
        return info_nce(
            queries.flatten(0, 1),
            keys.flatten(0, 1),
            negatives,
            temperature=config.temperature,
            factor=config.factor,
            query_image=batch.images.repeat_interleave(queries.shape[1]) if config.skip_own else None,
            negative_image=sources if config.skip_own else None,
            within=within,
        )

    def read_queries(self, output: Float[Tensor, "B D h w"], batch: Batch) -> Float[Tensor, "B P D"]:
        """Read the student's output at the chosen cells of view 1."""
        return read_cells(output, batch.cells)

    def read_keys(
        self, output: Float[Tensor, "b D h w"], points: Float[Tensor, "b P 2"], config: PretrainConfig
    ) -> Float[Tensor, "b P D"]:
        """Read the teacher's output at the matched points of view 2, between cell centres."""
        return read_at(output, points, STRIDE, nearest=config.read == "nearest")

    # --- For the recipes -------------------------------------------------------------------------------------------

    def keys_per_image(self, enqueue: str | int, points: int) -> int:
        """Return how many keys of an image enter the queue; 1 for an invalid value, which the config refuses."""
        return {"all": points}.get(enqueue, 1) if isinstance(enqueue, str) else max(1, enqueue)

    def wanted_keys(self, images: int) -> int:
        """Return the queue length for a number of images: about as many pixels as there are images."""
        return images

    def recipe(self, name: str, images: int, batch: int) -> dict[str, Any]:
        """Return a recipe's settings for this objective."""
        if name != "quick":
            return {}
        return {"points": 128, "enqueue": 4, "within_image": float(STRIDE)}


class MoCo(VADeR):
    """Contrast whole images (He et al. 2020; MoCo v2): one query and one key per image, without points."""

    paper_start = None

    def read_queries(self, output: Float[Tensor, "B D"], batch: Batch) -> Float[Tensor, "B 1 D"]:
        """Return the embedding of each image as one point."""
        return output.unsqueeze(1)

    def read_keys(
        self, output: Float[Tensor, "b D"], points: Float[Tensor, "b P 2"], config: PretrainConfig
    ) -> Float[Tensor, "b 1 D"]:
        """Return the embedding of each image as one point."""
        return output.unsqueeze(1)

    def keys_per_image(self, enqueue: str | int, points: int) -> int:
        """Return 1: one key per image."""
        return 1

    def wanted_keys(self, images: int) -> int:
        """Return the queue length: one key for every 32 images."""
        return images // 32

    def recipe(self, name: str, images: int, batch: int) -> dict[str, Any]:
        """Return MoCo v2's temperature, no factor; for the paper's recipe every constant of `main_moco.py`."""
        settings: dict[str, Any] = {"temperature": 0.2, "factor": 1.0}
        if name == "paper":
            lr = 0.015 * batch / 128
            settings |= {"steps": max(1, 200 * images // batch), "lr_encoder": lr, "lr_decoder": lr}
            settings |= {"schedule": "cosine"}
        return settings


OBJECTIVES: dict[str, VADeR] = {"vader": VADeR(), "moco": MoCo()}
