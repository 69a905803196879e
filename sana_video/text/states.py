"""A frozen transformer from files on disk, and the last hidden states of what it reads: common to both encoders."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

AT_ONCE = 16  # texts per forward, so that memory does not grow with the number of prompts
_READ = ("*.safetensors", "*.json", "*.model", "*.txt")  # what a model and its tokenizer consist of
# A fast tokenizer keeps its padding and truncation as state: another thread's call in between would undo them.
_TOKENIZING = threading.Lock()
_log = logging.getLogger(__name__)


def load_frozen(folder: Path, tokenizer: Path, device: torch.device | str, dtype: torch.dtype) -> tuple[Any, Any]:
    """The base model, frozen, and its tokenizer, both from files on disk alone. ValueError if they are damaged."""
    from safetensors import SafetensorError
    from transformers import AutoModel, AutoTokenizer

    try:
        with _quiet():
            words = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True, padding_side="right")
            model, report = AutoModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=dtype, output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{folder} holds a text encoder that does not load: {_first_line(error)}") from error
    if absent := sorted(report["missing_keys"]):
        rest = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
        raise ValueError(f"{folder} lacks weights of the text encoder: {', '.join(absent[:3])}{rest}")
    return model.to(device).eval().requires_grad_(False), words


def last_states(model: Any, tokenizer: Any, texts: list[str], length: int) -> tuple[Tensor, Tensor]:
    """Float32 (B, length, D) last hidden states, and bool mask (B, length), of texts padded on the right or cut.

    ValueError for no texts, and for states that are not finite: such weights are damaged.
    """
    import torch

    if not texts:
        raise ValueError("no prompts to encode")
    if cut := sum(count(tokenizer, text) > length for text in texts):
        _log.warning("%d of %d prompts are too long for the text encoder and lose their end", cut, len(texts))
    with _TOKENIZING:
        batch = tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    pairs = zip(batch.input_ids.split(AT_ONCE), batch.attention_mask.split(AT_ONCE), strict=True)
    with torch.no_grad():
        states = torch.cat([_forward(model, ids, mask) for ids, mask in pairs])
    mask = batch.attention_mask.bool()
    if not bool(torch.isfinite(states[mask]).all()):
        raise ValueError(f"the text encoder at {model.config.name_or_path} gives states that are not finite: damaged?")
    return states, mask


def count(tokenizer: Any, text: str) -> int:
    """Tokens of `text`, the special ones around it included."""
    with _TOKENIZING:
        return len(tokenizer(text, verbose=False).input_ids)


def digest(*folders: Path) -> str:
    """Hex sha256 over the files that models and tokenizers in `folders` consist of, names and contents."""
    whole = hashlib.sha256()
    for folder in folders:
        for path in sorted({path for pattern in _READ for path in folder.glob(pattern)}):
            with path.open("rb") as file:
                whole.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()


def _forward(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    states: Tensor = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).last_hidden_state
    return states.float().cpu()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bar and no table of keys: a bar per load is noise in a log, and missing keys are an error here."""
    import transformers

    noise: Any = transformers.utils.logging
    bars, level = noise.is_progress_bar_enabled(), noise.get_verbosity()
    noise.disable_progress_bar()
    noise.set_verbosity_error()
    try:
        yield
    finally:
        noise.set_verbosity(level)
        if bars:
            noise.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
