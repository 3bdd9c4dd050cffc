"""One file per command or group of commands: Typer functions that parse and print.

`main.py` has the table of commands. A module is imported only when one of its commands runs (`lazy.py`), so each one
imports everything it needs at the top.
"""
