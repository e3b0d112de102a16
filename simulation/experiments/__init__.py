"""Runs that belong together: each module is one ``experiment=NAME``."""
