"""The part of adapeff that submits, stores and compares; it needs neither torch nor a terminal."""
