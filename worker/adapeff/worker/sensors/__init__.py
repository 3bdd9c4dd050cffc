"""Sensors of the machine around a run: energy, throttling, other load."""
