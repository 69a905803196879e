"""A tiny random Gemma2 with a tokenizer of Gemma's own class, on disk as the published one is."""

import string
from pathlib import Path

import pytest
import torch

from sana_video.text import MiniLmTextEncoder

MERGES = [("▁", "a"), ("▁", "t"), ("t", "h"), ("th", "e"), ("o", "n"), ("▁", "u"), ("i", "n"), ("in", "g"), ("e", "r")]


@pytest.fixture(scope="session")
def minilm() -> MiniLmTextEncoder:
    return MiniLmTextEncoder(tokens=12)


@pytest.fixture(scope="session")
def gemma_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import Gemma2Config, Gemma2Model, GemmaTokenizer

    folder = tmp_path_factory.mktemp("gemma")
    plain = [*string.ascii_letters, *string.digits, *string.punctuation, "\n", "▁"]
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *plain, *(left + right for left, right in MERGES)]
    vocab = {word: i for i, word in enumerate(words)}
    GemmaTokenizer(vocab=vocab, merges=MERGES, add_bos_token=True).save_pretrained(folder)
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    Gemma2Model(config).save_pretrained(folder)
    return folder
