"""What a user asks for: sweeps, jobs and profiles, and their identity."""
