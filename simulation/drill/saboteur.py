"""The drill's own site: ``mtmd-client`` as it is, but for a worker that hangs or sends rubbish when it was told to.

``python -m simulation.drill.saboteur --site knee --state DIR`` takes the words of ``mtmd-client``. What a hospital installs has
no such switch: it is this module that puts another worker into the client's place, in its own process alone.
"""

import sys

from client import worker_process
from client.command import main

if __name__ == "__main__":
    worker_process.WORKER_MODULE = "simulation.drill.saboteur_worker"
    sys.exit(main())
