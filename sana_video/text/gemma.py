"""Gemma-2-2b-it, the model's own text encoder, read the way the published checkpoints were (facts: docs/model.md)."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sana_video.text.states import count, digest, last_states, load_frozen
from sana_video.weights import MissingWeights

if TYPE_CHECKING:
    import torch
    from torch import Tensor

NAME_IN_CATALOGUE = "gemma-2-2b-it"


class GemmaTextEncoder:
    """Gemma-2-2b-it from a local folder, behind an instruction; the states after its final norm, 2304 wide.

    The instruction is joined directly before the prompt. The budget is the instruction's tokens + `tokens` - 2, padded
    on the right; kept are position 0 and the last `tokens` - 1, of the states and of the mask alike. Without
    instruction, as for a negative prompt, the budget is `tokens` and all are kept.

    Prompts are stripped and keep their case, like in the official script. diffusers lowers it, so "A Cat" has another
    embedding there; whoever wants its numbers passes lower-case prompts.
    """

    name = "Gemma-2-2b-it"

    def __init__(
        self,
        folder: Path,
        tokens: int,
        instruction: str,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> None:
        """`folder`: model and tokenizer, or a diffusers pipeline with both in text_encoder/ and tokenizer/.

        dtype None is bf16 on a GPU and fp32 elsewhere. Raises MissingWeights if the folder holds no model, ValueError
        if it holds another or a damaged one.
        """
        import torch

        self.tokens, self.instruction = tokens, instruction
        self.folders = _parts(folder)
        text_width(folder)
        precision = dtype or (torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32)
        self.model, self.tokenizer = load_frozen(*self.folders, device, precision)
        self.width: int = self.model.config.hidden_size
        if self.tokenizer("").input_ids != [self.tokenizer.bos_token_id]:
            raise ValueError(f"the tokenizer in {self.folders[1]} does not put <bos> first, as Gemma's does")
        self._instruction_tokens = count(self.tokenizer, instruction)

    def encode(self, prompts: list[str], *, instruct: bool = True) -> tuple[Tensor, Tensor]:
        """See `TextEncoder`."""
        texts, budget = [self._told(prompt, instruct) for prompt in prompts], self._budget(instruct)
        states, mask = last_states(self.model, self.tokenizer, texts, budget)
        kept = [0, *range(budget - self.tokens + 1, budget)]
        return states[:, kept], mask[:, kept]

    def overflow(self, prompt: str, *, instruct: bool = True) -> int:
        """See `TextEncoder`."""
        return max(0, count(self.tokenizer, self._told(prompt, instruct)) - self._budget(instruct))

    @cached_property
    def identity(self) -> str:
        """See `TextEncoder`. The weights are read once more for it, at the speed of the disk."""
        weights = digest(*dict.fromkeys(self.folders))
        return f"{self.name}, {weights}, {self.model.dtype}, {self.tokens} tokens, behind {self.instruction!r}"

    def _told(self, prompt: str, instruct: bool) -> str:
        return (self.instruction if instruct else "") + prompt.strip()

    def _budget(self, instruct: bool) -> int:
        """Positions read. The 2: <bos>, counted with the instruction, and its last token, a space that may merge."""
        return self.tokens + (self._instruction_tokens - 2 if instruct else 0)


def text_width(folder: Path) -> int:
    """Width of the states that Gemma in `folder` gives, as its config.json says; raises as `GemmaTextEncoder`."""
    model, _ = _parts(folder)
    config = _config(model, asked=folder)
    if config.get("model_type") != "gemma2":
        raise ValueError(f"{model} holds a {config.get('model_type')} model; gemma-2-2b-it is a gemma2")
    width = config.get("hidden_size")
    if not isinstance(width, int):
        raise ValueError(f"{model / 'config.json'}: hidden_size is {width!r}; a number is wanted")
    return width


def _parts(folder: Path) -> tuple[Path, Path]:
    """Where model and tokenizer lie."""
    inner = folder / "text_encoder"
    return (inner, folder / "tokenizer") if inner.is_dir() else (folder, folder)


def _config(folder: Path, asked: Path) -> dict[str, Any]:
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise MissingWeights(NAME_IN_CATALOGUE, asked)
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise ValueError(f"{folder / 'config.json'} is damaged: it is no JSON object")
    return config
