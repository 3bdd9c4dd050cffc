"""The stages of a run, in the order they are called: prepare, train, evaluate, profile."""
