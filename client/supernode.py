"""Flower's SuperNode as a child of ``mtmd-client``.

``python -m client.supernode SERVER_POLL_SECONDS POLL_SECONDS OPTION ...``, with the options of ``flower-supernode``.
"""

import os
import signal
import sys
import traceback

from mtmd_core.processes import die_with_parent


def main() -> None:
    """Run the SuperNode until it ends, and then end the process for certain.

    When the SuperNode's loop ends on an error, Flower leaves the thread that serves the worker running: the process would
    stay, joined to nothing. Its supervisor can only start a new one when this one is gone.
    """
    die_with_parent(signal.SIGTERM)
    from .flower_internals import run_supernode

    code = 1
    try:
        run_supernode(sys.argv[3:], float(sys.argv[1]), float(sys.argv[2]))
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
