"""SANA-Video: a diffusion transformer for video whose attention is linear (arXiv 2509.24695).

`SanaVideo.forward` is the whole story on one screen. The model is written for one device; sharding, recompute, compile
and precision are put on from outside. Parameters map one to one to the official checkpoint, fused qkv and kv included.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self, cast

import torch
from einops import rearrange
from torch import Tensor, nn

from sana_video import weights
from sana_video.config import SanaVideoConfig
from sana_video.layers import (
    Block,
    BlockState,
    FinalLayer,
    RMSNorm,
    TemporalConv,
    TextEmbedding,
    TextMemory,
    TimestepEmbedding,
)
from sana_video.rope import rotary_tables
from sana_video.weights.checkpoints import load_diffusers
from sana_video.weights.diffusers import transformer_folder


class Reading(NamedTuple):
    """A text as every block sees it, made once by `SanaVideo.read` and handed to each call about it."""

    blocks: tuple[TextMemory, ...]


class StreamState(NamedTuple):
    """All that is remembered of a video generated so far: one state per block and the number of latent frames."""

    blocks: tuple[BlockState, ...]
    frames: int

    @property
    def bytes(self) -> int:
        """Memory that the state keeps alive."""
        return sum(tensor.untyped_storage().nbytes() for block in self.blocks for tensor in block)


class SanaVideo(nn.Module):
    """The network of `config`: velocity of a noised latent video, given time and text.

    Freshly built it is initialised from `seed`; on the meta device it costs neither time nor memory. In training the
    stream is in the precision that products are taken in, bf16 under autocast though the weights are float32, since it
    is what training's memory holds most of; see `for_sampling`.
    """

    def __init__(self, config: SanaVideoConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.stream_dtype: torch.dtype | None = None  # of what the blocks add to; None: that of products
        C, D, patch = config.in_channels, config.width, config.patch_size
        self.patch_embed = nn.Conv3d(C, D, kernel_size=patch, stride=patch)
        self.time_embed = TimestepEmbedding(D)
        self.time_modulation = nn.Linear(D, 6 * D)
        self.text_embed = TextEmbedding(config.text_width, D)
        self.blocks = nn.ModuleList(
            Block(
                D,
                config.heads,
                config.ffn_width,
                attention_eps=config.attention_eps,
                cross_norm_eps=config.cross_norm_eps,
            )
            for _ in range(config.depth)
        )
        self.final = FinalLayer(D, patch[0] * patch[1] * patch[2] * C)
        if self.patch_embed.weight.device.type != "meta":
            self.init_weights(seed)

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        text: Tensor | Reading,
        text_mask: Tensor | None = None,
        chunk_index: Sequence[int] | None = None,
        state: StreamState | None = None,
    ) -> Tensor:
        """Velocity ε - x₀ (B, C, T, H, W) of latents of the same shape.

        timestep: (B,), or (B, T) per latent frame, in [0, 1000); text: (B, L, text width), or its `read`; text_mask:
        (B, L) bool, true where a token is, None where each is one, and for a reading, which has its own; chunk_index:
        first latent frame of each chunk, where not `config.chunk_index(T)`; state: what is remembered of the frames
        before these (see `stream`); it is not changed. Raises ValueError for shapes that do not fit the configuration.
        """
        chunks = self.config.chunk_index(latents.shape[2]) if chunk_index is None else chunk_index
        velocity, _ = self._run(latents, timestep, text, text_mask, chunks, state, keep=False)
        return velocity

    def stream(
        self,
        latents: Tensor,
        timestep: Tensor,
        text: Tensor | Reading,
        text_mask: Tensor | None,
        state: StreamState | None,
    ) -> tuple[Tensor, StreamState]:
        """Velocity of the next chunk of a video, and the state after it (arXiv 2509.24695, Algorithm 1).

        The chunk sees itself both ways and what `state` remembers; None starts a video. Frames take absolute positions.
        The state to keep is that after clean latents at time 0; where none is wanted, `forward` keeps none alive.
        """
        velocity, blocks = self._run(latents, timestep, text, text_mask, (0,), state, keep=True)
        return velocity, StreamState(blocks, (state.frames if state else 0) + latents.shape[2])

    def read(self, text: Tensor, text_mask: Tensor | None) -> Reading:
        """Text (B, L, text width) and its mask as every block sees them: what no step of a sampler changes.

        Text without its padding (see `padding.trimmed`) costs less of everything. For sampling: a sharded network must
        project its text inside its blocks.
        """
        self._check_text(text, text_mask)
        described = self.text_embed(text.to(self.patch_embed.weight.dtype))
        return Reading(tuple(cast(Block, block).cross.read(described, text_mask) for block in self.blocks))

    def _run(
        self,
        latents: Tensor,
        timestep: Tensor,
        text: Tensor | Reading,
        text_mask: Tensor | None,
        chunk_index: Sequence[int],
        state: StreamState | None,
        *,
        keep: bool,
    ) -> tuple[Tensor, tuple[BlockState, ...]]:
        first_frame = state.frames if state else 0
        self._check(latents, timestep, text, text_mask, first_frame)
        dtype = self.patch_embed.weight.dtype
        x = self.patch_embed(latents.to(dtype))
        T, H, W = x.shape[2:]
        x = rearrange(x, "b d t h w -> b t (h w) d").contiguous()  # channels last in memory, for all that follows
        x = x.to(self.stream_dtype or x.dtype)  # autocast has made bf16 of it, where training runs in bf16
        rotary = rotary_tables(self.config.rotary_split, (T, H, W), first_frame, x.device)

        embedding = self.time_embed(timestep if timestep.ndim == 2 else timestep.unsqueeze(1))
        modulation = self.time_modulation(nn.functional.silu(embedding))
        modulation = rearrange(modulation, "b t (six d) -> b t six d", six=6)
        described = text if isinstance(text, Reading) else self.text_embed(text.to(dtype))

        after = []
        for i, block in enumerate(self.blocks):
            x, block_state = block(
                x,
                modulation=modulation,
                text=described.blocks[i] if isinstance(described, Reading) else described,
                text_mask=text_mask,
                rotary=rotary,
                height=H,
                chunk_index=chunk_index,
                state=state.blocks[i] if state else None,
            )
            if keep:
                after.append(block_state)

        _, p, q = self.config.patch_size
        pixels = self.final(x, embedding)
        velocity = rearrange(pixels, "b t (h w) (p q c) -> b c t (h p) (w q)", h=H, p=p, q=q)
        return velocity, tuple(after)

    def _check(
        self,
        latents: Tensor,
        timestep: Tensor,
        text: Tensor | Reading,
        text_mask: Tensor | None,
        first_frame: int,
    ) -> None:
        config, (B, C, T, H, W) = self.config, latents.shape
        patch, limit = config.patch_size[1], config.rope_max
        if config.in_channels != C:
            raise ValueError(f"latents have {C} channels; this model takes {config.in_channels}")
        if H % patch or W % patch:
            raise ValueError(f"latents of {H}x{W} do not divide into patches of {patch}x{patch}")
        if first_frame + T > limit or max(H, W) > limit * patch:
            raise ValueError(f"latent frames up to {first_frame + T} at {H}x{W} exceed {limit} positions per axis")
        if timestep.shape not in {(B,), (B, T)}:
            raise ValueError(f"timestep of shape {list(timestep.shape)} is neither [{B}] nor [{B}, {T}]")
        if isinstance(text, Reading):
            found = text.blocks[0].keys.shape[0]
            if text_mask is not None or found != B:
                raise ValueError(f"a reading of {found} texts, which has its own mask, is given for a batch of {B}")
            return
        if text.shape[:1] != (B,):
            raise ValueError(f"text of shape {list(text.shape)} is not [{B}, tokens, {config.text_width}]")
        self._check_text(text, text_mask)

    def _check_text(self, text: Tensor, text_mask: Tensor | None) -> None:
        width = self.config.text_width
        if text.ndim != 3 or text.shape[2] != width:
            raise ValueError(f"text of shape {list(text.shape)} is not [batch, tokens, {width}]")
        if text_mask is not None and (text_mask.shape != text.shape[:2] or text_mask.dtype != torch.bool):
            raise ValueError(f"text_mask must be bool {list(text.shape[:2])}, not {list(text_mask.shape)}")

    def for_sampling(self) -> Self:
        """Itself, changed in place: to sum the stream in float32, and to read its weights without copying any.

        Rounding the stream to bf16 three times a block is most of the error of a network in bf16.
        """
        self.stream_dtype = torch.float32
        for module in self.modules():
            if isinstance(module, TemporalConv):
                module.lay_out_taps()
        return self

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Draw all weights anew from `seed`, as published; the same again on the same kind of device."""
        generator = torch.Generator(device=self.patch_embed.weight.device).manual_seed(seed)
        for name, module in self.named_modules():
            _init_module(name, module, generator)
        self.text_embed.norm.weight.fill_(0.01)

    @classmethod
    def from_pretrained(
        cls, folder: Path | str, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
    ) -> Self:
        """The model in `folder`, in eval mode: one of ours (config.json, model.safetensors) or one of diffusers.

        diffusers' may be the transformer's own folder, sharded or not, or a whole pipeline's; its origin decides the
        epsilons. Raises FileNotFoundError for what is missing, and ValueError for weights that are not this model's:
        see `weights.load_into`.
        """
        folder = Path(folder)
        if transformer_folder(folder) is not None:
            config, state = load_diffusers(folder, device=device, dtype=dtype)
            model = cls._empty(config)
            model.load_state_dict(state, assign=True)
        else:
            model = cls._empty(SanaVideoConfig.load(folder / "config.json"))
            weights.load_into(model, folder / weights.FILE_NAME, device=device, dtype=dtype)
        return model.eval()

    @classmethod
    def _empty(cls, config: SanaVideoConfig) -> Self:
        with torch.device("meta"):
            return cls(config)

    def save_pretrained(self, folder: Path | str) -> None:
        """Write config.json and model.safetensors into `folder`; each appears whole or not at all."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights.save(folder / weights.FILE_NAME, self.state_dict())
        weights.write_atomically(folder / "config.json", self.config.dump().encode())


def _init_module(name: str, module: nn.Module, generator: torch.Generator) -> None:
    """Section 1.13 of the definition: Xavier for linear layers, N(0, 0.02) for embeddings of time and text."""
    if isinstance(module, nn.Linear):
        if name.startswith(("time_", "text_")):
            nn.init.normal_(module.weight, std=0.02, generator=generator)
        else:
            nn.init.xavier_uniform_(module.weight, generator=generator)
    elif isinstance(module, nn.Conv3d):
        nn.init.xavier_uniform_(module.weight.flatten(1), generator=generator)
    elif isinstance(module, nn.Conv2d):
        nn.init.kaiming_uniform_(module.weight, a=5**0.5, generator=generator)
    elif isinstance(module, RMSNorm):
        nn.init.ones_(module.weight)
    elif isinstance(module, Block | FinalLayer):
        nn.init.normal_(module.table, std=module.table.shape[1] ** -0.5, generator=generator)
    if isinstance(module, nn.Conv2d) and name.endswith("ffn.temporal"):
        nn.init.zeros_(module.weight)
    if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d) and module.bias is not None:
        nn.init.zeros_(module.bias)
