"""The worker process: takes jobs, supervises a runner for each, and stores its results."""
