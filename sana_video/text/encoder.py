"""What a text encoder is, which one the parameters name, and what the network is told instead of a prompt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sana_video.text.gemma import GemmaTextEncoder
from sana_video.text.instructions import INSTRUCTIONS
from sana_video.text.minilm import MiniLmTextEncoder
from sana_video.text.params import TextParams

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class TextEncoder(Protocol):
    """Prompts to token states. `name` is how the encoder is labelled wherever its numbers appear."""

    @property
    def name(self) -> str: ...

    @property
    def width(self) -> int: ...

    @property
    def tokens(self) -> int: ...

    @property
    def identity(self) -> str:
        """Everything that the states depend on besides the prompt: weights, precision, tokens, instruction."""

    def encode(self, prompts: list[str], *, instruct: bool = True) -> tuple[Tensor, Tensor]:
        """(B, L, D) float32 states and (B, L) bool mask, true at real tokens, on the CPU; L is `tokens`, D is `width`.

        instruct: put the encoder's instruction, if it has one, before each prompt; off for negative prompts and for the
        null embedding. A prompt that is too long is cut at its end, with a warning. ValueError for no prompts at all.
        """

    def overflow(self, prompt: str, *, instruct: bool = True) -> int:
        """How many tokens `encode` would cut off this prompt; 0 if it fits."""


def load_text_encoder(
    params: TextParams,
    folder: Path | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> TextEncoder:
    """The encoder that `params` name; Gemma's weights lie in `folder`, or `params.folder`; MiniLM brings its own.

    dtype: of the weights; None is bf16 for Gemma on a GPU, as the published model was trained, and else fp32. Raises
    ValueError if Gemma is asked for without a folder or the folder holds another model or a damaged one,
    MissingWeights (a FileNotFoundError) if it holds none.
    """
    if params.encoder == "minilm":
        return MiniLmTextEncoder(params.tokens, device=device, dtype=dtype)
    given = folder or (Path(params.folder) if params.folder else None)
    if given is None:
        raise ValueError("text.encoder gemma-2-2b-it needs text.folder, where its weights are; minilm needs none")
    assert params.instruction is not None
    return GemmaTextEncoder(given, params.tokens, INSTRUCTIONS[params.instruction], device=device, dtype=dtype)


def null_condition(encoder: TextEncoder) -> tuple[Tensor, Tensor]:
    """The states (L, D) and mask (L,) of the empty prompt: what training puts for a dropped caption.

    Encoded without instruction, as the published null embedding was. The published training replaces the states and
    keeps the mask of the caption it drops; here the mask goes with the states, so that what guidance asks for at
    sampling is exactly what training showed.
    """
    text, mask = encoder.encode([""], instruct=False)
    return text[0], mask[0]
