"""Calls recorded in a CUDA graph: short kernels are timed without the gaps that launching them from Python leaves."""

from collections.abc import Callable, Mapping

import torch
from timing import interleaved


def graphed(run: Callable[[], object], calls: int) -> Callable[[], None]:
    """A replay of `calls` runs in a row."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            run()
    return graph.replay


def milliseconds(contenders: Mapping[str, Callable[[], object]], calls: int = 10, rounds: int = 5) -> dict[str, float]:
    """Of one run of each, taken in turns. One that fails is reported and left out."""
    graphs = {}
    for name, run in contenders.items():
        try:
            graphs[name] = graphed(run, calls)
        except Exception as error:  # a variant that does not compile or fit must not cost the others their figures
            print(f"  {name}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}", flush=True)
            torch.cuda.synchronize()
    return {name: took / calls for name, took in interleaved(graphs, rounds=rounds, calls=2).items()}


def table(title: str, took: Mapping[str, float], floor: float, errors: Mapping[str, float]) -> None:
    print(f"{title}; floor {floor:.3f} ms")
    for name, ms in sorted(took.items(), key=lambda pair: pair[1]):
        error = f"   error {errors[name]:.1e}" if name in errors else ""
        print(f"  {name:58s} {ms:7.3f} ms   {floor / ms:5.0%} of the floor{error}", flush=True)
