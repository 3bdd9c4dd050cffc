"""The worker process: it takes jobs, supervises a runner for each, and stores what the runner found."""
