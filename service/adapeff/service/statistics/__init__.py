"""Statistics of scores and costs: pure functions on numbers, with their sources."""
