"""The parts of a pipeline with random weights, published sizes or tiny ones: for what they cost, not what they make."""

import json
import platform
import string
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from timing import commit

from sana_video import SanaVideo, SanaVideoConfig
from sana_video.autoencoder.wan import Wan
from sana_video.ops import select

PROMPT = "A lighthouse above a rough sea at dusk, waves breaking over the rocks, seen from a slowly rising drone."

Network = TypeVar("Network", bound=SanaVideo)


class Sizes(NamedTuple):
    """How large the parts beside the network are, and what the scripts make."""

    wan: dict[str, Any]  # of AutoencoderKLWan; what is not named is as published
    gemma: dict[str, int]
    height: int
    width: int
    fps: int
    chunk: int  # latent frames


SIZES = {
    "2b-480p": Sizes(
        wan={},
        gemma={
            "vocab_size": 256000,
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "num_hidden_layers": 26,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
        },
        height=480,
        width=832,
        fps=16,
        chunk=10,
    ),
    "tiny": Sizes(
        wan={"base_dim": 4, "num_res_blocks": 1},
        gemma={
            "vocab_size": 2000,
            "hidden_size": 384,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
        },
        height=32,
        width=32,
        fps=16,
        chunk=2,
    ),
}


def network(kind: type[Network], config: SanaVideoConfig, device: torch.device, dtype: torch.dtype) -> Network:
    """A network whose every weight is random, the temporal convolution too; made where it stays, in its dtype."""
    with torch.device("meta"):
        model = kind(config)
    model = model.to(dtype).to_empty(device=device)
    model.init_weights(0)
    for block in model.blocks:
        torch.nn.init.normal_(block.ffn.temporal.weight, std=0.01)
    return model.eval().requires_grad_(False).for_sampling()


QUIET = 0.01  # of the decoder's last layer: noise then takes 0.2 to 0.4 bits a pixel in a file, a film 0.15 to 0.43


def wan(sizes: Sizes, device: torch.device, dtype: torch.dtype) -> Wan:
    """An autoencoder of Wan 2.1's architecture, which decodes to noise as dear to encode as a real film."""
    from diffusers import AutoencoderKLWan

    with torch.device(device):
        vae = AutoencoderKLWan(**sizes.wan)
    with torch.no_grad():
        for parameter in vae.decoder.conv_out.parameters():
            parameter.mul_(QUIET)
    return Wan(vae).to(dtype)


def write_gemma(sizes: Sizes, folder: Path, device: torch.device) -> None:
    """A Gemma2 of random bfloat16 weights, and a tokenizer of Gemma's class that learned its words from a few lines."""
    from transformers import Gemma2Config, Gemma2Model

    _tokenizer().save_pretrained(folder)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            model = Gemma2Model(Gemma2Config(**sizes.gemma, pad_token_id=0, eos_token_id=1, bos_token_id=2))
    finally:
        torch.set_default_dtype(usual)
    model.save_pretrained(folder)


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, normalizers, trainers
    from transformers import GemmaTokenizer

    from sana_video.text import IMAGE_INSTRUCTION, NEGATIVE_PROMPT, with_motion

    learner = Tokenizer(models.BPE(unk_token="<unk>"))
    learner.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"],
        initial_alphabet=[*string.printable, "▁"],
        show_progress=False,
    )
    texts = (IMAGE_INSTRUCTION, NEGATIVE_PROMPT, with_motion(PROMPT, 30))
    learner.train_from_iterator([f" {word}" for text in texts for word in text.split()], trainer)
    learned = json.loads(learner.to_str())["model"]
    merges = [tuple(pair) for pair in learned["merges"]]
    return GemmaTokenizer(vocab=learned["vocab"], merges=merges, add_bos_token=True)


def wanted_device(name: str | None) -> torch.device:
    """The device of that name; without one a GPU, if there is one."""
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def about(device: torch.device) -> dict[str, Any]:
    """What the figures were taken on: device, versions, commit."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else f"CPU, {torch.get_num_threads()} threads",
        "operations": select.describe() if cuda else "plain torch (CPU)",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "commit": commit(),
    }
