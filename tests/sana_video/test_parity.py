"""The network against diffusers' SanaVideoTransformer3DModel and against attention written as a masked matrix.

Every parameter is random, so that no term is hidden by a zero. In float32 both sides differ by the order of their sums
only: 1e-5 relative for velocities, 1e-4 for gradients, which pass through each layer twice.
"""

import copy
from collections.abc import Callable

import pytest
import torch
from diffusers import SanaVideoTransformer3DModel
from oracle import MEDIUM, SMALL, Inputs, ask, inputs, make_dense, oracle_of, relative, shaken
from torch import Tensor

from sana_video.config import Origin, SanaVideoConfig
from sana_video.model import SanaVideo
from sana_video.weights import to_diffusers

FORWARD, GRADIENT = 1e-5, 1e-4
CONFIGS = {
    "small": SMALL,
    "small in patches": SMALL.with_(patch_size=(1, 2, 2)),
    "medium": MEDIUM,
    "medium in patches": MEDIUM.with_(patch_size=(1, 2, 2)),
}
PER_FRAME = torch.tensor([[0.0, 100, 200, 300, 999], [0.0, 5, 5, 900, 901]])

configs = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
origins = pytest.mark.parametrize("origin", ["official", "diffusers"])


@configs
@origins
@pytest.mark.parametrize(
    ("frames", "size", "batch"),
    [(5, (4, 6), 2), (1, (4, 6), 2), (3, (10, 6), 1), (2, (2, 14), 3)],
    ids=["clips", "images", "upright", "three flat clips"],
)
@torch.no_grad()
def test_velocity(config: SanaVideoConfig, origin: Origin, frames: int, size: tuple[int, int], batch: int) -> None:
    model = shaken(config.with_(origin=origin))
    given = inputs(config, frames, size, batch)
    assert relative(model(*given), ask(oracle_of(model), given)) < FORWARD


@pytest.mark.parametrize("config", [SMALL, MEDIUM], ids=["small", "medium"])
def test_odd_sizes(config: SanaVideoConfig) -> None:
    model, given = shaken(config), inputs(config, 3, (5, 7))
    assert relative(model(*given), ask(oracle_of(model), given)) < FORWARD


@configs
def test_a_time_for_each_frame(config: SanaVideoConfig) -> None:
    model = shaken(config)
    given = inputs(config)._replace(timestep=PER_FRAME)
    assert relative(model(*given), ask(oracle_of(model), given)) < FORWARD


@pytest.mark.parametrize("lengths", [(0, 0), (0, 6), (1, 5)])
def test_text_masks(lengths: tuple[int, int]) -> None:
    model, given = shaken(SMALL), inputs(SMALL)
    given = given._replace(text_mask=torch.arange(SMALL.text_tokens) < torch.tensor(lengths).unsqueeze(1))
    assert relative(model(*given), ask(oracle_of(model), given)) < FORWARD


def test_text_masks_with_holes() -> None:
    model, given = shaken(SMALL), inputs(SMALL)
    holes = torch.tensor([[True, False, True, True, False, False], [False, True, False, False, False, True]])
    given = given._replace(text_mask=holes)
    assert relative(model(*given), ask(oracle_of(model), given)) < FORWARD


@configs
@pytest.mark.parametrize("times", [None, PER_FRAME], ids=["time per sample", "time per frame"])
def test_gradients(config: SanaVideoConfig, times: Tensor | None) -> None:
    model, given = shaken(config), inputs(config)
    given = given if times is None else given._replace(timestep=times)
    assert_same_gradients(model, model, oracle_of(model), given)


@configs
@pytest.mark.parametrize("chunk_index", [(0, 3), (0, 1, 2, 4)], ids=str)
@torch.no_grad()
def test_chunks_are_attention_under_a_mask(config: SanaVideoConfig, chunk_index: tuple[int, ...]) -> None:
    model, given = shaken(config), inputs(config)
    oracle = oracle_of(model)
    make_dense(oracle, chunk_index, 5, eps=model.config.attention_eps)
    assert relative(model(*given, chunk_index=chunk_index), ask(oracle, given)) < FORWARD


@pytest.mark.parametrize("config", [SMALL, MEDIUM.with_(patch_size=(1, 2, 2))], ids=["small", "medium in patches"])
def test_gradients_of_chunks(config: SanaVideoConfig) -> None:
    model, given = shaken(config), inputs(config)._replace(timestep=PER_FRAME)
    oracle = oracle_of(model)
    make_dense(oracle, (0, 2, 3), 5, eps=model.config.attention_eps)
    assert_same_gradients(model, lambda *x: model(*x, chunk_index=(0, 2, 3)), oracle, given)


def test_epsilons_are_those_of_the_origin() -> None:
    """Queries and keys so small that an epsilon decides: each origin meets its own oracle and misses the other's."""
    velocities = {}
    for origin in ("official", "diffusers"):
        model = faint(shaken(SMALL.with_(origin=origin)))
        oracle, given = oracle_of(model), inputs(SMALL)
        make_dense(oracle, (0,), 5, eps={"official": 1e-8, "diffusers": 1e-15}[origin])
        velocities[origin] = model(*given)
        assert relative(velocities[origin], ask(oracle, given)) < FORWARD, origin
        if origin == "diffusers":
            assert relative(velocities[origin], ask(oracle_of(model), given)) < FORWARD
    assert relative(velocities["official"], velocities["diffusers"]) > 0.01


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_bfloat16_is_as_exact_as_diffusers(seed: int) -> None:
    """Weights and inputs are bfloat16 numbers, so all error is arithmetic's: of the same layers, the same size.

    Ours should be the smaller one, since it keeps both sums of the attention in float32; chance may add a quarter.
    A rounding to bfloat16 errs by 0.2 % at most, and a dozen in each of three blocks add up like a random walk: 1.2 %.
    """
    rough = shaken(MEDIUM.with_(patch_size=(1, 2, 2), origin="diffusers"), seed).to(torch.bfloat16)
    given = inputs(rough.config)
    given = given._replace(latents=given.latents.bfloat16(), text=given.text.bfloat16())
    exact = copy.deepcopy(rough).float()
    reference = exact(given.latents.float(), given.timestep, given.text.float(), given.text_mask)
    oracle = oracle_of(exact)
    tables = oracle.rope
    oracle = oracle.to(torch.bfloat16)
    oracle.rope = tables.float()  # diffusers at its best: `.to` would round its angles too
    ours, theirs = (relative(v.float(), reference) for v in (rough(*given), ask(oracle, given)))
    assert ours < 1.25 * theirs
    assert ours < 0.012


def faint(model: SanaVideo) -> SanaVideo:
    with torch.no_grad():
        for block in model.blocks:
            for norm in (block.attn.q_norm, block.attn.k_norm):
                norm.weight *= 1e-5
            block.cross.q.weight *= 1e-3
            block.cross.q.bias *= 1e-3
    return model


def assert_same_gradients(
    model: SanaVideo, forward: Callable[..., Tensor], oracle: SanaVideoTransformer3DModel, given: Inputs
) -> None:
    """Of the mean square of the velocity, for every parameter, the latents and the text."""
    mine, other = (
        given._replace(latents=given.latents.clone().requires_grad_(), text=given.text.clone().requires_grad_())
        for _ in range(2)
    )
    forward(*mine).square().mean().backward()
    ask(oracle, other).square().mean().backward()
    ours = to_diffusers({name: p.grad for name, p in model.named_parameters()}, model.config)
    theirs = {name: p.grad for name, p in oracle.named_parameters()}
    assert ours.keys() == theirs.keys()
    ours |= {"latents": mine.latents.grad, "text": mine.text.grad}
    theirs |= {"latents": other.latents.grad, "text": other.text.grad}
    wrong = {name: error for name in ours if (error := relative(ours[name], theirs[name])) >= GRADIENT}
    assert wrong == {}
