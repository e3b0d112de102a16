"""One equation of the paper a file; a loss is minimised."""
