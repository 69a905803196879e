"""The kernels inside a whole network: see `interpreted_network.py`, which needs a process of its own."""

import interpreter
import pytest


@pytest.mark.slow
def test_a_network_of_kernels_under_the_interpreter() -> None:
    interpreter.run("interpreted_network.py", "slow or not slow")
