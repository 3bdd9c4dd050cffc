"""Alembic's migrations; they ship in the package and run from it."""
