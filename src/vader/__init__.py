"""VADeR: unsupervised learning of dense visual representations. Pretrain on a folder of images, embed every pixel.

Names are loaded at their first use, so that `import vader` is fast.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from vader.encoders.dense import DenseEncoder
    from vader.encoders.opening import load
    from vader.errors import VaderError
    from vader.exams.verbs import compare, evaluate
    from vader.inference.verbs import browse, embed, index, propagate, retrieve, show
    from vader.models.network import NetworkConfig
    from vader.pretraining import recipes
    from vader.pretraining.config import PretrainConfig
    from vader.pretraining.start import pretrain
    from vader.pretraining.views import ViewConfig
    from vader.scenes.verbs import scenes

_WHERE = {
    "browse": "vader.inference.verbs",
    "compare": "vader.exams.verbs",
    "embed": "vader.inference.verbs",
    "evaluate": "vader.exams.verbs",
    "index": "vader.inference.verbs",
    "load": "vader.encoders.opening",
    "pretrain": "vader.pretraining.start",
    "propagate": "vader.inference.verbs",
    "retrieve": "vader.inference.verbs",
    "scenes": "vader",
    "show": "vader.inference.verbs",
    "recipes": "vader.pretraining",
    "DenseEncoder": "vader.encoders.dense",
    "NetworkConfig": "vader.models.network",
    "PretrainConfig": "vader.pretraining.config",
    "ViewConfig": "vader.pretraining.views",
    "VaderError": "vader.errors",
}
__all__ = [
    "DenseEncoder", "NetworkConfig", "PretrainConfig", "VaderError", "ViewConfig", "browse", "compare", "embed",
    "evaluate", "index", "load", "pretrain", "propagate", "recipes", "retrieve", "scenes", "show",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'vader' has no attribute {name!r}")
    from importlib import import_module

    where = _WHERE[name]
    if name in ("recipes", "scenes"):  # modules; `vader.scenes` can be called
        return import_module(f"{where}.{name}")
    return getattr(import_module(where), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
