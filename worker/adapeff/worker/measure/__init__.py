"""Measuring: clocks, FLOPs, latency, memory and device peaks."""
