"""One file per command: a Typer wrapper that parses and prints, and plain functions.

What is heavy (SQLAlchemy, Celery, rich tables, matplotlib) is imported inside the functions, against habit, so that
`adapeff --help` stays instant; a test holds the starting time's causes.
"""
