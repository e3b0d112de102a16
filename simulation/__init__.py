"""The researcher's side: the paper's centralised runs, and the federation in one process."""
