"""What a SANA-Video network is made of: embeddings, the two attentions, the Mix-FFN, the block and the last layer.

Tokens keep their frames apart: x is (B, T, S, D) with S = H·W of the token grid, so that a modulation per frame
(B, T, 1, D) and one per sample (B, 1, 1, D) are the same broadcast. Every layer that looks along time takes what it
remembers of earlier chunks and gives back what it remembers now; no memory means the start of a video.

What stands between the matrix products comes from `ops`: definitions in plain torch, or kernels on a Hopper GPU. A
product that `fp8.quantize` exchanged takes its rows in e4m3; the functions that end in `_for` hand it what it takes.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from sana_video.fp8 import gated_add_for, gated_add_modulate_for, modulate_for
from sana_video.ops.fp8 import Quantized
from sana_video.ops.linear_attention import LinearState, normed_linear_attention
from sana_video.ops.mix_ffn import gated_depthwise, temporal_conv
from sana_video.ops.modulate import gated_add, modulate, rms_norm
from sana_video.rope import Rotary

NORM_EPS = 1e-6  # LayerNorm of the blocks and the last layer
RMS_EPS = 1e-5  # RMSNorm of queries and keys in self-attention, and of the text
PAD_BIAS = -10000.0  # added to the logits of padded text; finite, so that a prompt of nothing but padding gives no NaN


class BlockState(NamedTuple):
    """What a block remembers of all frames so far; its size does not depend on their number."""

    sum_kv: Tensor  # (B, A, E, E)
    sum_k: Tensor  # (B, A, E)
    last_u: Tensor  # (B, 1, S, D): features of the last frame before the temporal convolution


class TextMemory(NamedTuple):
    """A text as one block's cross-attention sees it: the same for every token, step and chunk of a video."""

    keys: Tensor  # (B, A, L, E), normed
    values: Tensor  # (B, A, L, E)
    bias: Tensor | None  # (B, 1, 1, L), added to the logits; None where every token counts


class Modulation(NamedTuple):
    """Shift, scale and gate of one branch, each (B, T or 1, 1, D)."""

    shift: Tensor
    scale: Tensor
    gate: Tensor


class RMSNorm(nn.Module):
    """x / rms(x) · weight over the last axis, statistics in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class TimestepEmbedding(nn.Module):
    """Sinusoids of the timestep (256: cosines, then sines), then Linear, SiLU, Linear to the width."""

    SINUSOIDS = 256

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(self.SINUSOIDS, width)
        self.fc2 = nn.Linear(width, width)

    def forward(self, timestep: Tensor) -> Tensor:
        """(B, T) in [0, 1000) -> (B, T, D)."""
        half = self.SINUSOIDS // 2
        steps = torch.arange(half, dtype=torch.float32, device=timestep.device)
        angles = timestep.float().unsqueeze(-1) * torch.exp(-math.log(10000.0) * steps / half)
        sinusoids = torch.cat([angles.cos(), angles.sin()], dim=-1)
        out: Tensor = self.fc2(F.silu(self.fc1(sinusoids.to(self.fc1.weight.dtype))))
        return out


class TextEmbedding(nn.Module):
    """Linear, GELU(tanh), Linear from the encoder's width to the model's, then RMSNorm started at 0.01."""

    def __init__(self, text_width: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(text_width, width)
        self.fc2 = nn.Linear(width, width)
        self.norm = RMSNorm(width, RMS_EPS)

    def forward(self, text: Tensor) -> Tensor:
        """(B, L, text width) -> (B, L, D)."""
        hidden = F.gelu(self.fc1(text), approximate="tanh")
        out: Tensor = self.norm(self.fc2(hidden))
        return out


class SelfAttention(nn.Module):
    """ReLU linear attention; queries and keys are normed over the full width, before the heads are split."""

    def __init__(self, width: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.eps = eps
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_norm = RMSNorm(width, RMS_EPS)
        self.k_norm = RMSNorm(width, RMS_EPS)
        self.out = nn.Linear(width, width)

    def forward(
        self, x: Tensor | Quantized, rotary: Rotary, starts: Sequence[int], state: LinearState | None
    ) -> tuple[Tensor, LinearState]:
        """x (B, T, S, D); `starts`: first token of each chunk. Returns (B, T·S, D) and the sums after all tokens."""
        mixed, after = normed_linear_attention(
            self.qkv(x).flatten(1, 2),
            self.q_norm.weight,
            self.k_norm.weight,
            rotary,
            heads=self.heads,
            norm_eps=RMS_EPS,
            eps=self.eps,
            starts=starts,
            state=state,
        )
        return self.out(mixed), after


class CrossAttention(nn.Module):
    """Softmax attention from video tokens to text; queries and keys are normed over the full width."""

    def __init__(self, width: int, heads: int, norm_eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.q_norm = RMSNorm(width, norm_eps)
        self.k_norm = RMSNorm(width, norm_eps)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor | Quantized, text: Tensor | TextMemory, text_mask: Tensor | None) -> Tensor:
        """x (B, T, S, D), text (B, L, D) and its mask (B, L), or what `read` made of both -> (B, T·S, D)."""
        keys, values, bias = text if isinstance(text, TextMemory) else self.read(text, text_mask)
        queries = self._split(self.q_norm(self.q(x).flatten(1, 2)))
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias)
        out: Tensor = self.out(rearrange(mixed, "b a n e -> b n (a e)"))
        return out

    def read(self, text: Tensor, text_mask: Tensor | None) -> TextMemory:
        """Text (B, L, D), and a mask (B, L), true where a token is; None means everywhere, and spares attention a bias.

        A text of nothing but padding is attended to as if it were all tokens.
        """
        keys, values = self.kv(text).chunk(2, dim=-1)
        keys, values = self._split(self.k_norm(keys)), self._split(values)
        if text_mask is None:
            return TextMemory(keys, values, None)
        bias = torch.zeros_like(text_mask, dtype=keys.dtype).masked_fill(~text_mask, PAD_BIAS)
        return TextMemory(keys, values, rearrange(bias, "b l -> b 1 1 l"))

    def _split(self, x: Tensor) -> Tensor:
        return rearrange(x, "b n (a e) -> b a n e", a=self.heads)


class Pointwise(nn.Conv2d):
    """A 1×1 convolution over channels-last tokens (..., C): a matrix product."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.flatten(1), self.bias)


class TemporalConv(nn.Conv2d):
    """The convolution over three frames of channels-last tokens; see `ops.mix_ffn.temporal_conv`."""

    def forward(self, u: Tensor, starts: Sequence[int], last_u: Tensor | None) -> Tensor:  # type: ignore[override]
        return temporal_conv(u, self.weight, starts, last_u)

    def lay_out_taps(self) -> None:
        """Each tap in one piece of memory, as its product reads it: else they are copied at each call.

        Not for training: FSDP2 shards contiguous parameters.
        """
        self.weight.data = self.weight.data.contiguous(memory_format=torch.channels_last)


class MixFFN(nn.Module):
    """Gated depthwise 3×3 convolution within each frame, then a full-width convolution over three frames.

    The temporal one starts at zero: a network grown from an image model computes what that one did. At the end of a
    chunk it sees nothing to its right; at a chunk's start it sees the last frame of the chunk before.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.expand = Pointwise(width, 2 * hidden, 1)
        self.depth = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden)
        self.project = Pointwise(hidden, width, 1, bias=False)
        self.temporal = TemporalConv(width, width, (3, 1), bias=False)

    def forward(
        self, x: Tensor | Quantized, height: int, chunk_index: Sequence[int], last_u: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, T, H·W, D); `chunk_index`: first frame of each chunk.

        Returns u, what its neighbours in time add to it (the branch is the sum of the two), and the new `last_u`.
        """
        hidden = self.expand(x)
        frames = gated_depthwise(rearrange(hidden, "b t (h w) d -> (b t) h w d", h=height), *_taps(self.depth))
        u = self.project(frames).view(*hidden.shape[:-1], -1)
        along_time = self.temporal(u, chunk_index, last_u)
        return u, along_time, u[:, -1:].clone()  # a view would keep every frame alive


class Block(nn.Module):
    """Modulated self-attention, plain cross-attention to the text, modulated Mix-FFN; each added to the stream."""

    def __init__(self, width: int, heads: int, ffn_width: int, *, attention_eps: float, cross_norm_eps: float) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(6, width))
        self.attn = SelfAttention(width, heads, attention_eps)
        self.cross = CrossAttention(width, heads, cross_norm_eps)
        self.ffn = MixFFN(width, ffn_width)

    def forward(
        self,
        x: Tensor,
        *,
        modulation: Tensor,
        text: Tensor | TextMemory,
        text_mask: Tensor | None,
        rotary: Rotary,
        height: int,
        chunk_index: Sequence[int],
        state: BlockState | None,
    ) -> tuple[Tensor, BlockState]:
        """x (B, T, S, D), modulation (B, T or 1, 6, D); text and mask as in `CrossAttention`.

        Returns x and the state after these frames.
        """
        T, S = x.shape[1:3]
        attn, ffn = self._modulations(modulation)

        tokens = modulate_for(self.attn.qkv, x, attn.shift, attn.scale, NORM_EPS)
        past = None if state is None else LinearState(state.sum_kv, state.sum_k)
        mixed, sums = self.attn(tokens, rotary, [start * S for start in chunk_index], past)
        mixed = rearrange(mixed, "b (t s) d -> b t s d", t=T)
        x, asking = gated_add_for(self.cross.q, x, mixed, attn.gate)

        told = rearrange(self.cross(asking, text, text_mask), "b (t s) d -> b t s d", t=T)
        x, tokens = gated_add_modulate_for(self.ffn.expand, x, told, None, ffn.shift, ffn.scale, NORM_EPS)

        u, along_time, last_u = self.ffn(tokens, height, chunk_index, None if state is None else state.last_u)
        return gated_add(x, u, ffn.gate, skip=along_time), BlockState(sums.sum_kv, sums.sum_k, last_u)

    def _modulations(self, modulation: Tensor) -> tuple[Modulation, Modulation]:
        summed = (self.table + modulation).to(modulation.dtype)  # one rounding: under autocast the table is float32
        six = rearrange(summed, "b t six d -> six b t 1 d").unbind(0)
        return Modulation(*six[:3]), Modulation(*six[3:])


class FinalLayer(nn.Module):
    """Modulated LayerNorm and a Linear to the pixels of a patch, channels innermost."""

    def __init__(self, width: int, patch_values: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(2, width))
        self.linear = nn.Linear(width, patch_values)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x (B, T, S, D), embedding (B, T or 1, D): the timestep's, before the shared AdaLN head."""
        summed = (self.table + embedding.unsqueeze(2)).to(embedding.dtype)
        shift, scale = rearrange(summed, "b t two d -> two b t 1 d").unbind(0)
        out: Tensor = self.linear(modulate(x, shift, scale, NORM_EPS))
        return out


def _taps(layer: nn.Conv2d) -> tuple[Tensor, Tensor]:
    assert layer.bias is not None
    return layer.weight, layer.bias
