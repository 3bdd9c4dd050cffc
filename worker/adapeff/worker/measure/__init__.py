"""Measuring: clocks, FLOPs, latency, memory, and sensors of the machine around a run."""
