"""Embeddings kept by content, so that a prompt goes through the encoder once.

One safetensors file a prompt, named by the sha256 of everything its states depend on: the encoder's identity (weights,
precision, tokens, instruction), whether the instruction stands before it, and the prompt. So nothing is ever stale, and
the folder may be removed at any time. Files appear whole, by rename: several processes may share a folder, and the
worst they do is to compute the same embedding twice. A damaged file is computed again and replaced.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from sana_video.text.states import AT_ONCE

if TYPE_CHECKING:
    from torch import Tensor

    from sana_video.text.encoder import TextEncoder

VERSION = 1  # of what a file holds


def cached(encoder: TextEncoder, folder: Path) -> TextEncoder:
    """`encoder`, asked only for what `folder` does not hold yet. OSError if the folder cannot be written."""
    return _CachedTextEncoder(encoder, folder)


class _CachedTextEncoder:
    def __init__(self, encoder: TextEncoder, folder: Path) -> None:
        self.encoder, self.name, self.width, self.tokens = encoder, encoder.name, encoder.width, encoder.tokens
        self.identity = encoder.identity
        self.folder = folder / _sha256(str(VERSION), self.identity)[:16]

    def encode(self, prompts: list[str], *, instruct: bool = True) -> tuple[Tensor, Tensor]:
        """See `TextEncoder`; bit for bit what the encoder gave."""
        import torch

        places = {prompt: self._place(prompt, instruct) for prompt in prompts}
        known = {prompt: kept for prompt, path in places.items() if (kept := self._read(path)) is not None}
        missing = [prompt for prompt in places if prompt not in known]
        for group in (missing[start : start + AT_ONCE] for start in range(0, len(missing), AT_ONCE)):
            for prompt, text, mask in zip(group, *self.encoder.encode(group, instruct=instruct), strict=True):
                _write(places[prompt], text, mask)
                known[prompt] = text, mask
        if not prompts:
            raise ValueError("no prompts to encode")
        return torch.stack([known[p][0] for p in prompts]), torch.stack([known[p][1] for p in prompts])

    def overflow(self, prompt: str, *, instruct: bool = True) -> int:
        """See `TextEncoder`."""
        return self.encoder.overflow(prompt, instruct=instruct)

    def _place(self, prompt: str, instruct: bool) -> Path:
        key = _sha256(str(instruct), prompt)
        return self.folder / key[:2] / f"{key}.safetensors"

    def _read(self, path: Path) -> tuple[Tensor, Tensor] | None:
        """What `path` holds; None if there is nothing, or nothing that can be trusted."""
        from sana_video import weights

        try:
            kept = weights.load(path)
            text, mask, check = kept["text"], kept["mask"], kept["sha256"]
        except (FileNotFoundError, ValueError, KeyError):
            return None
        whole = text.shape == (self.tokens, self.width) and mask.shape == (self.tokens,)
        return (text.float(), mask) if whole and check.equal(_fingerprint(text, mask)) else None


def _write(path: Path, text: Tensor, mask: Tensor) -> None:
    """Keep (L, D) states and their mask; states of a bf16 encoder, which lose nothing by it, as bf16."""
    import torch

    from sana_video import weights

    short = text.to(torch.bfloat16)
    exact = short if torch.equal(short.float(), text) else text
    path.parent.mkdir(parents=True, exist_ok=True)
    weights.save(path, {"text": exact, "mask": mask, "sha256": _fingerprint(exact, mask)})


def _fingerprint(text: Tensor, mask: Tensor) -> Tensor:
    """(32,) uint8: sha256 of the bytes of both."""
    import torch

    raw = b"".join(tensor.contiguous().view(torch.uint8).numpy().tobytes() for tensor in (text, mask))
    return torch.frombuffer(bytearray(hashlib.sha256(raw).digest()), dtype=torch.uint8)


def _sha256(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
