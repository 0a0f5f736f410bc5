"""What a run learns by: VADeR contrasts matched pixels of two views; MoCo v2, the baseline, whole images.

An objective is one class: `parts(config)` builds the network that learns, `memory(config)` what is remembered between
steps, `loss(learner, config, batch, step)` the loss of one step and the keys that enter the memory. `recipe` and
`wanted_keys` say what the recipes need to know. A further objective is a further class, and a line in `OBJECTIVES`.

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
    """Matched pixels of two views against pixels of other images (section 3.1, equation 2)."""

    paper_start: str | None = "official MoCo v2 weights"  # what the paper's recipe starts from

    def parts(self, config: PretrainConfig) -> Network:
        """The network that learns; the teacher is a copy of it."""
        return build(config.network)

    def memory(self, config: PretrainConfig) -> Queue:
        """The queue of negatives."""
        return Queue(config.queue, config.network.dim)

    def loss(
        self, learner: Learner, config: PretrainConfig, batch: Batch, step: int
    ) -> tuple[Contrast, Float[Tensor, "B P D"]]:
        """The contrast of this process's queries, and the keys (B of all processes, P, D) that enter the queue.

        In MoCo's order: queries, then the teacher moves, then keys.
        """
        queries = self.queries(learner, batch)
        update_teacher(learner.network, learner.teacher, config.momentum)
        keys = self.keys(learner, config, batch, step)
        first = learner.fabric.global_rank * len(batch.images)
        return self.contrast(learner, config, batch, queries, keys[first : first + len(batch.images)]), keys

    def queries(self, learner: Learner, batch: Batch) -> Float[Tensor, "B P D"]:
        """Normalised queries: the student's output for view 1, read at the chosen cells."""
        return F.normalize(self.read_queries(learner.student(batch.first), batch), dim=2)

    @torch.no_grad()
    def keys(self, learner: Learner, config: PretrainConfig, batch: Batch, step: int) -> Float[Tensor, "_ P D"]:
        """Normalised keys of all processes: the teacher's output for view 2, read at the matched points.

        Images are shuffled over processes and virtual groups first, so a key shares batch statistics with other images
        than its query did (MoCo, section 3.3). Keys are normalised after reading.
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
        """Equation 2 for this process's queries against their own keys and the queue."""
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
        """Of the student's output, the embeddings at the chosen cells of view 1."""
        return read_cells(output, batch.cells)

    def read_keys(
        self, output: Float[Tensor, "b D h w"], points: Float[Tensor, "b P 2"], config: PretrainConfig
    ) -> Float[Tensor, "b P D"]:
        """Of the teacher's output, the embeddings at the matched points of view 2, read between cell centres."""
        return read_at(output, points, STRIDE, nearest=config.read == "nearest")

    # --- For the recipes -------------------------------------------------------------------------------------------

    def keys_per_image(self, enqueue: str | int, points: int) -> int:
        """How many keys of an image enter the queue. An invalid answer counts as 1, and the config refuses it."""
        return {"all": points}.get(enqueue, 1) if isinstance(enqueue, str) else max(1, enqueue)

    def wanted_keys(self, images: int) -> int:
        """How long the queue should be for so many images: about as many pixels as there are images."""
        return images

    def recipe(self, name: str, images: int, batch: int) -> dict[str, Any]:
        """Settings that a recipe has for this objective alone."""
        if name != "quick":
            return {}
        return {"points": 128, "enqueue": 4, "within_image": float(STRIDE)}


class MoCo(VADeR):
    """Whole images (He et al. 2020; MoCo v2): one query and one key an image, without points."""

    paper_start = None

    def read_queries(self, output: Float[Tensor, "B D"], batch: Batch) -> Float[Tensor, "B 1 D"]:
        """The image's embedding."""
        return output.unsqueeze(1)

    def read_keys(
        self, output: Float[Tensor, "b D"], points: Float[Tensor, "b P 2"], config: PretrainConfig
    ) -> Float[Tensor, "b 1 D"]:
        """The image's embedding."""
        return output.unsqueeze(1)

    def keys_per_image(self, enqueue: str | int, points: int) -> int:
        """One."""
        return 1

    def wanted_keys(self, images: int) -> int:
        """One key of 32 images."""
        return images // 32

    def recipe(self, name: str, images: int, batch: int) -> dict[str, Any]:
        """MoCo v2's temperature without a factor; in the paper's recipe every constant of `main_moco.py`."""
        settings: dict[str, Any] = {"temperature": 0.2, "factor": 1.0}
        if name == "paper":
            lr = 0.015 * batch / 128
            settings |= {"steps": max(1, 200 * images // batch), "lr_encoder": lr, "lr_decoder": lr}
            settings |= {"schedule": "cosine"}
        return settings


OBJECTIVES: dict[str, VADeR] = {"vader": VADeR(), "moco": MoCo()}
