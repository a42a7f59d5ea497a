"""The Ray launcher."""
