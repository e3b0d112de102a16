"""A federation that is broken on purpose, one thing at a time: what ``mtmd-server drill`` runs."""
