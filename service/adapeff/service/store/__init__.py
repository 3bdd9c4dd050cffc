"""The database: tables, sessions, the state machine of jobs, results and sweeps."""
