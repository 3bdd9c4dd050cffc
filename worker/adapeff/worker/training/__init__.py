"""The stages of a training run: load, batch, train, tune, evaluate, record."""
