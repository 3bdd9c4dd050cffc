"""The device a run uses: its clock, memory, precision, environment record, and the lock on it."""
