"""Weights in and out: our own safetensors files, the official checkpoints and diffusers' folders.

A name loads its module when it is first used: who only wants to say that weights are missing must not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from sana_video.weights.missing import MissingWeights

if TYPE_CHECKING:
    from sana_video.weights.conversion import convert as convert
    from sana_video.weights.files import FILE_NAME as FILE_NAME
    from sana_video.weights.files import NULL_FILE as NULL_FILE
    from sana_video.weights.files import check_fit as check_fit
    from sana_video.weights.files import load as load
    from sana_video.weights.files import load_into as load_into
    from sana_video.weights.files import save as save
    from sana_video.weights.files import write_atomically as write_atomically
    from sana_video.weights.names import from_diffusers as from_diffusers
    from sana_video.weights.names import from_official as from_official
    from sana_video.weights.names import to_diffusers as to_diffusers
    from sana_video.weights.names import to_official as to_official
    from sana_video.weights.pipelines import assemble as assemble
    from sana_video.weights.pipelines import convert_pipeline as convert_pipeline
    from sana_video.weights.warm_start import convert_image_model as convert_image_model
    from sana_video.weights.warm_start import grow as grow

_HOME = {
    "conversion": ("convert",),
    "files": ("FILE_NAME", "NULL_FILE", "check_fit", "load", "load_into", "save", "write_atomically"),
    "names": ("from_diffusers", "from_official", "to_diffusers", "to_official"),
    "pipelines": ("assemble", "convert_pipeline"),
    "warm_start": ("convert_image_model", "grow"),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}

__all__ = ["MissingWeights", *sorted(_MODULE)]


def __getattr__(name: str) -> object:
    if name not in _MODULE:
        raise AttributeError(f"module 'sana_video.weights' has no attribute {name!r}")
    return getattr(import_module(f"sana_video.weights.{_MODULE[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
