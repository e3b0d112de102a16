"""``python -m simulation.drill``: what ``mtmd-server drill`` runs."""

import sys

from .command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
