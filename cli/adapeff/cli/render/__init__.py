"""How results look: tables, text formats, pictures."""
