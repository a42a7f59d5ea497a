"""The configuration of a run: its schema, how it is loaded, and the credentials that it names."""
