"""Text encoders: shapes, masks, the published selection rule, and the motion suffix."""

from pathlib import Path

import pytest
import torch

from sana_video.text import (
    VIDEO_INSTRUCTION,
    GemmaTextEncoder,
    MiniLmTextEncoder,
    TextParams,
    load_text_encoder,
    with_motion,
)


@pytest.mark.parametrize(
    ("caption", "score", "expected"),
    [
        ("a hill", 7.9, "a hill motion score: 7."),
        ("a hill motion score: 3.", 12, "a hill motion score: 12."),
        ("a hill. motion score: 30. ", 0.4, "a hill. motion score: 0."),
        ("motion score: high", 2, "motion score: high motion score: 2."),
        ("slow emotion score: 3.", 2, "slow emotion score: 3. motion score: 2."),
    ],
)
def test_motion_suffix_is_exact_and_never_doubled(caption: str, score: float, expected: str) -> None:
    assert with_motion(caption, score) == expected


@pytest.fixture(scope="module")
def minilm() -> MiniLmTextEncoder:
    return MiniLmTextEncoder(tokens=12)


def test_minilm_pads_and_cuts_to_its_tokens(minilm: MiniLmTextEncoder) -> None:
    text, mask = minilm.encode(["a bunny", "word " * 50])
    assert text.shape == (2, 12, 384) and text.dtype == torch.float32
    assert mask.dtype == torch.bool and mask.sum(1).tolist() == [4, 12]  # [CLS] a bunny [SEP]


def test_minilm_state_does_not_depend_on_its_neighbours_in_the_batch(minilm: MiniLmTextEncoder) -> None:
    alone, mask = minilm.encode(["a grey rabbit walks"])
    together, _ = minilm.encode(["a much longer sentence about the weather", "a grey rabbit walks"])
    torch.testing.assert_close(alone[mask], together[1:][mask], atol=1e-5, rtol=0)


def test_minilm_tells_meanings_apart(minilm: MiniLmTextEncoder) -> None:
    text, mask = minilm.encode(["a rabbit on the grass", "a bunny in a meadow", "the tax law of 1974"])
    means = torch.nn.functional.normalize((text * mask[..., None]).sum(1) / mask.sum(1, keepdim=True), dim=1)
    assert means[0] @ means[1] > means[0] @ means[2] + 0.2


def test_minilm_is_labelled_a_stand_in(minilm: MiniLmTextEncoder) -> None:
    assert minilm.name == "MiniLM all-MiniLM-L6-v2 (stand-in for Gemma-2-2b-it)"


@pytest.fixture(scope="module")
def gemma_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Gemma2 with a whitespace tokenizer that, like Gemma's, puts <bos> first."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import Gemma2Config, Gemma2Model, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("gemma")
    words = ["<pad>", "<bos>", "<unk>", *["rewrite", "this", ":"], *"abcdefgh"]
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", bos_token="<bos>", unk_token="<unk>", padding_side="left"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    Gemma2Model(config).save_pretrained(folder)
    return folder


def test_gemma_keeps_the_first_and_the_last_positions_behind_the_prefix(gemma_folder: Path) -> None:
    encoder = GemmaTextEncoder(gemma_folder, tokens=6, instruction="rewrite this : ")
    text, mask = encoder.encode([" a b c ", "a b c d e f g h"])
    assert text.shape == (2, 6, 16) and encoder.width == 16

    prefix = encoder.tokenizer.encode("rewrite this : ")
    assert len(prefix) == 4  # <bos> and three words: the budget is 4 + 6 - 2 = 8
    ids = torch.tensor([[*prefix, *encoder.tokenizer.convert_tokens_to_ids(["a", "b", "c"]), 0]])
    whole = encoder.model(input_ids=ids, attention_mask=(ids != 0).long()).last_hidden_state
    torch.testing.assert_close(text[:1], whole[:, [0, 3, 4, 5, 6, 7]], atol=1e-6, rtol=1e-5)
    assert mask.tolist() == [[True] * 5 + [False], [True] * 6]


def test_gemma_without_instruction_takes_the_prompt_alone(gemma_folder: Path) -> None:
    encoder = GemmaTextEncoder(gemma_folder, tokens=6, instruction="")
    text, mask = encoder.encode(["a b", ""])
    assert text.shape == (2, 6, 16) and mask.sum(1).tolist() == [3, 1]


def test_gemma_by_params(gemma_folder: Path) -> None:
    encoder = load_text_encoder(TextParams(encoder="gemma-2-2b-it", tokens=5), gemma_folder)
    text, mask = encoder.encode(["a b c d e f g h"])
    assert encoder.name == "Gemma-2-2b-it" and text.shape == (1, 5, 16) and mask.all()


def test_instruction_is_the_one_that_diffusers_ships() -> None:
    import inspect

    diffusers = pytest.importorskip("diffusers")
    default = inspect.signature(diffusers.SanaVideoPipeline.__call__).parameters["complex_human_instruction"].default
    assert "\n".join(default) == VIDEO_INSTRUCTION


def test_bad_input_is_named(gemma_folder: Path, tmp_path: Path, minilm: MiniLmTextEncoder) -> None:
    gemma = TextParams(encoder="gemma-2-2b-it", tokens=8)
    with pytest.raises(ValueError, match=r"needs text\.folder"):
        load_text_encoder(gemma)
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        load_text_encoder(gemma, tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="bert"):
        load_text_encoder(gemma, tmp_path)
    with pytest.raises(ValueError, match="no prompts"):
        minilm.encode([])
