"""How outputs travel: one contract (`base`), several implementations."""
