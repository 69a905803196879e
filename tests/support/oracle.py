"""Diffusers' network with the weights of ours, and random weights and inputs that leave no term out of a comparison."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from diffusers import SanaVideoTransformer3DModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from sana_video.config import SanaVideoConfig
from sana_video.model import SanaVideo
from sana_video.weights import to_diffusers

SMALL = SanaVideoConfig(in_channels=4, width=48, heads=2, depth=2, text_width=12, text_tokens=6)
# heads of the published width, hence the published rotary split 40/36/36
MEDIUM = SanaVideoConfig(in_channels=8, width=448, heads=4, depth=3, text_width=40, text_tokens=10)


class Inputs(NamedTuple):
    """The arguments of `SanaVideo.forward`."""

    latents: Tensor
    timestep: Tensor
    text: Tensor
    text_mask: Tensor


def shaken(config: SanaVideoConfig, seed: int = 0) -> SanaVideo:
    """A network whose every parameter is random: no zero convolution, unit norm or empty bias hides an error."""
    model = SanaVideo(config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            fixed = parameter.ndim == 1 or name.endswith("table")
            scale = 0.2 if fixed else 0.7 * parameter[0].numel() ** -0.5
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    return model


def inputs(config: SanaVideoConfig, frames: int = 5, size: tuple[int, int] = (4, 6), batch: int = 2) -> Inputs:
    """Random latents (batch, C, frames, *size), a time per sample, and prompts of different lengths."""
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(batch, config.in_channels, frames, *size, generator=generator)
    text = torch.randn(batch, config.text_tokens, config.text_width, generator=generator)
    lengths = torch.tensor([4, config.text_tokens, 1])[:batch].unsqueeze(1)
    return Inputs(latents, torch.tensor([37.0, 812.0, 500.0])[:batch], text, torch.arange(config.text_tokens) < lengths)


def oracle_of(model: SanaVideo) -> SanaVideoTransformer3DModel:
    """Diffusers' network for the configuration and the weights of `model`, with the epsilons of its origin.

    Of its two epsilons diffusers takes only that of the cross-attention's norms; for the other see `make_dense`.
    """
    config = model.config
    oracle = SanaVideoTransformer3DModel(
        in_channels=config.in_channels,
        out_channels=config.in_channels,
        num_attention_heads=config.heads,
        attention_head_dim=config.head_width,
        num_layers=config.depth,
        num_cross_attention_heads=config.heads,
        cross_attention_head_dim=config.head_width,
        cross_attention_dim=config.width,
        caption_channels=config.text_width,
        mlp_ratio=config.ffn_ratio,
        patch_size=config.patch_size,
    )
    oracle.load_state_dict(to_diffusers(model.state_dict(), config))
    if config.origin == "official":
        for block in oracle.transformer_blocks:
            block.attn2.norm_q.eps = block.attn2.norm_k.eps = 1e-6
    return oracle


def ask(oracle: SanaVideoTransformer3DModel, given: Inputs) -> Tensor:
    """The oracle's velocity; a time per frame reaches it as the same time for each token of the frame."""
    times = given.timestep
    if times.ndim == 2:
        height, width = given.latents.shape[3:]
        times = times.repeat_interleave(height * width // oracle.config.patch_size[1] ** 2, dim=1)
    velocity: Tensor = oracle(
        given.latents, given.text, times, encoder_attention_mask=given.text_mask.to(given.latents.dtype)
    ).sample
    return velocity


def relative(ours: Tensor, theirs: Tensor) -> float:
    """‖ours - theirs‖ / ‖theirs‖."""
    return ((ours - theirs).norm() / theirs.norm()).item()


def make_dense(oracle: SanaVideoTransformer3DModel, chunk_index: Sequence[int], frames: int, *, eps: float) -> None:
    """Swap both layers that look along time for matrices that are masked by who may see whom.

    There are no sums to run along and no state: a token attends by an N×N matrix, a frame reads its neighbours by three
    T×T matrices. `eps` is added to the denominator of attention.
    """
    chunk = torch.zeros(frames, dtype=torch.long)
    for number, (low, high) in enumerate(pairwise((*chunk_index, frames))):
        chunk[low:high] = number
    sees = chunk.unsqueeze(1) >= chunk
    for block in oracle.transformer_blocks:
        block.attn1.set_processor(_MatrixAttention(sees, eps))
        block.ff.conv_temp = _MatrixConvolution(block.ff.conv_temp.weight, sees)


class _MatrixAttention:
    """o = (W ∘ M) v with W = Re⟨Rφ(q), Rφ(k)⟩ / (Σ_j M ⟨φ(q), φ(k_j)⟩ + ε), rotations as complex numbers."""

    def __init__(self, sees: Tensor, eps: float) -> None:
        self.sees, self.eps = sees, eps

    def __call__(
        self, attn: Attention, hidden_states: Tensor, rotary_emb: tuple[Tensor, Tensor], **unused: None
    ) -> Tensor:
        def heads(x: Tensor) -> Tensor:
            return x.unflatten(2, (attn.heads, -1)).transpose(1, 2)

        q = heads(attn.norm_q(attn.to_q(hidden_states))).relu()
        k = heads(attn.norm_k(attn.to_k(hidden_states))).relu()
        v = heads(attn.to_v(hidden_states))
        cos, sin = (table[0, :, 0, ::2] for table in rotary_emb)
        turn = torch.complex(cos, sin)
        q_turned, k_turned = (torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * turn for x in (q, k))
        tokens = q.shape[2] // len(self.sees)
        mask = self.sees.repeat_interleave(tokens, 0).repeat_interleave(tokens, 1)
        weights = (q_turned @ k_turned.mH).real * mask
        total = ((q @ k.mT) * mask).sum(dim=-1, keepdim=True) + self.eps
        out: Tensor = attn.to_out[0]((weights / total @ v).transpose(1, 2).flatten(2))
        return out


class _MatrixConvolution(nn.Module):
    """Three taps: the frame before, whosever it is; the frame itself; the frame after, if it may be seen."""

    def __init__(self, weight: nn.Parameter, sees: Tensor) -> None:
        super().__init__()
        self.weight = weight
        one = torch.ones(len(sees) - 1)
        self.taps = torch.stack([torch.diag(one, -1), torch.eye(len(sees)), torch.diag(one, 1) * sees])

    def forward(self, u: Tensor) -> Tensor:
        return torch.einsum("kts,oik,bisn->botn", self.taps.to(u), self.weight.squeeze(-1), u)
