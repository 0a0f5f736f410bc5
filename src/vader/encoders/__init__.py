"""Open any encoder by a name or a path: images in, dense features out.

Names are loaded at their first use.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vader.encoders.dense import DenseEncoder
    from vader.encoders.fitting import fit, reduce_by_pca
    from vader.encoders.opening import fresh_encoder, open_encoder, open_encoders

_WHERE = {
    "DenseEncoder": "dense",
    "fit": "fitting",
    "fresh_encoder": "opening",
    "open_encoder": "opening",
    "open_encoders": "opening",
    "reduce_by_pca": "fitting",
}
__all__ = ["DenseEncoder", "fit", "fresh_encoder", "open_encoder", "open_encoders", "reduce_by_pca"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'vader.encoders' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"vader.encoders.{_WHERE[name]}"), name)
