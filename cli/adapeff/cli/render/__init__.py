"""How results look: tables, Markdown, plots."""
