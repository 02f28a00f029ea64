"""Words and tables for people: the same rows for a terminal, a page and a notebook."""
