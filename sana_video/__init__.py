"""SANA-Video: the model, its maths, training, sampling and data format. The public names, listed once.

A name loads its module when it is first used: reading parameters must not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sana_video.config import SanaVideoConfig as SanaVideoConfig
    from sana_video.model import SanaVideo as SanaVideo
    from sana_video.pipeline import SanaVideoPipeline as SanaVideoPipeline

__all__ = ["SanaVideo", "SanaVideoConfig", "SanaVideoPipeline"]

_HOME = {"SanaVideo": "model", "SanaVideoConfig": "config", "SanaVideoPipeline": "pipeline"}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'sana_video' has no attribute {name!r}")
    return getattr(import_module(f"sana_video.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
