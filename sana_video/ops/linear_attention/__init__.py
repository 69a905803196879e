"""ReLU linear attention with rotary positions: both ways, chunk-causal, and continued from a running state."""

from sana_video.ops.linear_attention.naive import LinearState, linear_attention

__all__ = ["LinearState", "linear_attention"]
