"""Which form of an operation runs: only Hopper takes kernels, and a context can take them away."""

import subprocess
import sys

import pytest
import torch

from sana_video.ops import select


def test_a_cpu_has_no_kernels() -> None:
    assert not select.kernels_for(torch.ones(2))


@pytest.mark.parametrize(("capability", "capable"), [((9, 0), True), ((8, 0), False), ((10, 0), False)])
def test_only_hopper_is_capable(capability: tuple[int, int], capable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "a card")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    found, reason = select._reason(0)
    assert found is capable and "a card" in reason
    assert capable or f"{capability[0]}.{capability[1]}" in reason


def test_disabled_contexts_nest() -> None:
    with select.disabled():
        with select.disabled():
            assert select._off == 2
        assert select._off == 1
    assert select._off == 0


def test_torch_compile_takes_the_card_for_a_constant_and_is_not_imported_for_that() -> None:
    assert vars(select._capable) == vars(torch.compiler.assume_constant_result(lambda: None))
    code = "import sys, sana_video.pipeline; sys.exit('torch._dynamo' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
