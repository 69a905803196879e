"""A recorded forward: the same bits as the plain one, and no recording where none is worth it."""

import pytest
import torch
from torch import Tensor

from sana_video.recorded import Recorded


class Counted:
    """A function of x and the time that knows how often Python ran it."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Tensor, timestep: Tensor) -> Tensor:
        self.calls += 1
        return x.sin() * timestep.view(-1, 1, 1, 1, 1)


def test_more_than_is_worth_recording_runs_as_it_is() -> None:
    run = Counted()
    recorded = Recorded(run, most=2 * 3 * 4 * 4 - 1)
    x, timestep = torch.randn(2, 5, 3, 4, 4), torch.tensor([1.0, 2.0])
    for _ in range(3):
        assert torch.equal(recorded(x, timestep), run(x, timestep))
    assert run.calls == 6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
def test_a_replay_gives_the_same_bits_without_python() -> None:
    run = Counted()
    recorded = Recorded(run, most=10**6)
    results = []
    for seed in range(5):
        generator = torch.Generator("cuda").manual_seed(seed)
        x = torch.randn(2, 5, 3, 4, 4, generator=generator, device="cuda")
        timestep = torch.rand(2, generator=generator, device="cuda")
        results.append((recorded(x, timestep), Counted()(x, timestep)))
    assert run.calls == 2  # as it is, and while it was recorded
    for got, expected in results:  # none was overwritten by a later replay
        assert torch.equal(got, expected)
    other = torch.randn(1, 5, 3, 4, 4, device="cuda")
    assert torch.equal(recorded(other, timestep[:1]), Counted()(other, timestep[:1]))
