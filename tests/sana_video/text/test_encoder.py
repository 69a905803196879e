"""Which encoder the parameters name, and the null embedding."""

from pathlib import Path

import pytest
import torch

from sana_video.text import (
    IMAGE_INSTRUCTION,
    GemmaTextEncoder,
    MiniLmTextEncoder,
    TextParams,
    load_text_encoder,
    null_condition,
)
from sana_video.weights import MissingWeights


@pytest.mark.parametrize("instruction", ["image", "video"])
def test_gemma_by_params(gemma_folder: Path, instruction: str) -> None:
    params = TextParams(encoder="gemma-2-2b-it", tokens=5, instruction=instruction)  # type: ignore[arg-type]
    encoder = load_text_encoder(params, gemma_folder)
    assert isinstance(encoder, GemmaTextEncoder) and f"for {instruction} generation" in encoder.instruction
    text, mask = encoder.encode(["a b c d e f g h"])
    assert encoder.name == "Gemma-2-2b-it" and text.shape == (1, 5, 16) and mask.all()


def test_the_folder_given_goes_before_that_of_the_params(gemma_folder: Path) -> None:
    params = TextParams(encoder="gemma-2-2b-it", tokens=5, folder="nowhere")
    assert load_text_encoder(params, gemma_folder).width == 16
    with pytest.raises(MissingWeights, match="nowhere"):
        load_text_encoder(params)


def test_minilm_by_params() -> None:
    encoder = load_text_encoder(TextParams(encoder="minilm", tokens=7), dtype=torch.bfloat16)
    assert isinstance(encoder, MiniLmTextEncoder) and encoder.model.dtype == torch.bfloat16
    assert encoder.encode(["a"])[0].shape == (1, 7, 384)


def test_gemma_needs_a_folder_with_gemma_in_it(tmp_path: Path) -> None:
    gemma = TextParams(encoder="gemma-2-2b-it", tokens=8)
    with pytest.raises(ValueError, match=r"needs text\.folder"):
        load_text_encoder(gemma)
    with pytest.raises(MissingWeights, match=str(tmp_path)):
        load_text_encoder(gemma, tmp_path)


def test_nothing_to_encode_is_an_error(minilm: MiniLmTextEncoder) -> None:
    with pytest.raises(ValueError, match="no prompts"):
        minilm.encode([])


def test_null_condition_is_the_empty_prompt_without_instruction(gemma_folder: Path) -> None:
    encoder = GemmaTextEncoder(gemma_folder, 6, IMAGE_INSTRUCTION)
    text, mask = null_condition(encoder)
    assert text.shape == (6, 16) and mask.tolist() == [True] + [False] * 5
    alone = encoder.model(input_ids=torch.tensor([[encoder.tokenizer.bos_token_id]])).last_hidden_state[0]
    torch.testing.assert_close(text[:1], alone)
    behind, _ = encoder.encode([""])
    assert not torch.allclose(behind[0, 1], text[1]), "the instruction would be in it"
