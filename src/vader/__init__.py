"""VADeR: unsupervised learning of dense visual representations. Pretrain on a folder of images, embed every pixel.

Names are loaded when first used, so that `import vader` costs nothing.
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from vader.exams.compare import compare
    from vader.exams.evaluate import evaluate
    from vader.inference.propagate import propagate
    from vader.models.checkpoint import load_model as load
    from vader.pretraining.config import PretrainConfig
    from vader.pretraining.pretrain import pretrain
    from vader.pretraining.views import ViewConfig

_WHERE = {
    "compare": ("vader.exams.compare", "compare"),
    "evaluate": ("vader.exams.evaluate", "evaluate"),
    "load": ("vader.models.checkpoint", "load_model"),
    "pretrain": ("vader.pretraining.pretrain", "pretrain"),
    "propagate": ("vader.inference.propagate", "propagate"),
    "PretrainConfig": ("vader.pretraining.pretrain", "PretrainConfig"),
    "ViewConfig": ("vader.pretraining.views", "ViewConfig"),
    "NetworkConfig": ("vader.models.network", "NetworkConfig"),
    "recipes": ("vader.pretraining.recipes", None),
    "VaderError": ("vader.errors", "VaderError"),
}
__all__ = [
    "NetworkConfig", "PretrainConfig", "VaderError", "ViewConfig", "compare", "evaluate", "load", "pretrain",
    "propagate", "recipes",
]  # fmt: skip


class _Package(ModuleType):
    """A package whose public names stay what they are when a file of the same name is imported.

    Importing `vader.pretrain` would else put the file in the place of the function, in this process, for good.
    `from vader.pretrain import PretrainConfig` finds the file in `sys.modules` and needs no such attribute.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (isinstance(value, ModuleType) and _WHERE.get(name, (None, None))[1]):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'vader' has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _WHERE[name]
    return getattr(import_module(module), attribute) if attribute else import_module(module)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
