"""The peers of the benchmarks: diffusers' SANA-Video as shipped, and the fastest plain-PyTorch forms of it.

Each is the same diffusers network with the same weights. `merged` joins the three projections of self-attention and
keeps its sums in bf16; `linear` also runs the 1x1 convolutions of the Mix-FFN as matrix products over channels-last
tokens. Both are public recipes (Sol-Engine's flags; SGLang), put on from outside so that no line of theirs is here.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sana_video import SanaVideo, weights


class MergedAttention:
    """Processor of diffusers' self-attention: one projection for query, key and value, sums in the working dtype."""

    def __call__(self, attn: Any, hidden_states: Tensor, rotary_emb: tuple[Tensor, Tensor], **_: Any) -> Tensor:
        query, key, value = F.linear(hidden_states, attn.merged).chunk(3, dim=-1)
        query, key = attn.norm_q(query), attn.norm_k(key)
        query, key, value = (y.unflatten(2, (attn.heads, -1)) for y in (query, key, value))
        query, key = F.relu(query), F.relu(key)
        turned_query, turned_key = _turn(query, rotary_emb), _turn(key, rotary_emb)
        total = torch.einsum("bnhe,bhe->bnh", query, key.sum(dim=1))  # kept dimensions break a compiled backward
        inverse = 1 / (total.unsqueeze(-1) + 1e-15)
        scores = torch.einsum("bnhe,bnhf->bhef", value, turned_key)
        mixed = torch.einsum("bhef,bnhf->bnhe", scores, turned_query) * inverse
        out: Tensor = attn.to_out[0](mixed.flatten(2, 3).to(hidden_states.dtype))
        return out


def _turn(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = rotary[0][..., 0::2], rotary[1][..., 1::2]
    return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2).type_as(x)


class LinearFFN(nn.Module):
    """diffusers' Mix-FFN over channels-last tokens: 1x1 convolutions as matrix products."""

    def __init__(self, ffn: Any) -> None:
        super().__init__()
        self.ffn = ffn

    def forward(self, x: Tensor) -> Tensor:
        ffn, (B, T, H, W, D) = self.ffn, x.shape
        hidden = F.silu(F.linear(x, ffn.conv_inverted.weight.flatten(1), ffn.conv_inverted.bias))
        hidden = ffn.conv_depth(hidden.flatten(0, 1).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        value, gate = hidden.chunk(2, dim=-1)
        u = F.linear(value * F.silu(gate), ffn.conv_point.weight.flatten(1))
        frames = u.view(B, T, H * W, D).permute(0, 3, 1, 2)
        return (frames + ffn.conv_temp(frames)).permute(0, 2, 3, 1).reshape(B, T, H, W, D)


def diffusers_model(model: SanaVideo) -> Any:
    """diffusers' network with the weights of `model`, on its device and in its dtype."""
    from diffusers import SanaVideoTransformer3DModel

    config = model.config
    parameter = next(model.parameters())
    with torch.device("meta"):
        peer = SanaVideoTransformer3DModel(
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
        rope = type(peer.rope)
    peer.rope = rope(config.head_width, config.patch_size, config.rope_max).to(parameter.device)
    peer.load_state_dict(weights.to_diffusers(model.state_dict(), model.config), assign=True)
    return peer.eval()


def merge_projections(peer: Any) -> Any:
    """`merged`: in place."""
    for block in peer.transformer_blocks:
        attn = block.attn1
        attn.merged = nn.Parameter(torch.cat([attn.to_q.weight, attn.to_k.weight, attn.to_v.weight]))
        attn.set_processor(MergedAttention())
        attn.to_q = attn.to_k = attn.to_v = nn.Identity()
    return peer


def linear_ffn(peer: Any) -> Any:
    """`linear`: in place, on top of `merge_projections`."""
    for block in peer.transformer_blocks:
        block.ff.conv_depth.to(memory_format=torch.channels_last)
        block.ff.conv_temp.to(memory_format=torch.channels_last)
        block.ff = LinearFFN(block.ff)
    return peer


def compiled(peer: Any) -> Any:
    """torch.compile, block by block, default mode; in place."""
    for block in peer.transformer_blocks:
        block.compile()
    return peer


def diffusers_pipeline(pipeline: Any) -> Any:
    """diffusers' SanaVideoPipeline with our weights: its own scheduler, and the autoencoder in fp32, as it ships."""
    from diffusers import DPMSolverMultistepScheduler, SanaVideoPipeline

    scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=pipeline.defaults.flow_shift
    )
    peer = SanaVideoPipeline(
        tokenizer=pipeline.text_encoder.tokenizer,
        text_encoder=pipeline.text_encoder.model,
        vae=copy.deepcopy(pipeline.autoencoder.vae).float(),
        transformer=diffusers_model(pipeline.model),
        scheduler=scheduler,
    )
    peer.set_progress_bar_config(disable=True)
    return peer
