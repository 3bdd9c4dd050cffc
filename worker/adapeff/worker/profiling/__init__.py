"""Profile jobs: several methods measured interleaved in one process."""
