"""Launchers: a configuration becomes processes."""
