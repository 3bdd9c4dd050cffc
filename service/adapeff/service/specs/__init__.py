"""Specifications of sweeps, jobs and profiles, and their identity."""
