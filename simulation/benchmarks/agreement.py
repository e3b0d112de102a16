"""How far the sites' updates of a round point the same way, and so how much of their steps an average leaves.

``python -m simulation.benchmarks.agreement`` trains the ladder's federation of the whole method on phantom joints (words of
``mtmd-simulate`` may follow) and prints, every so many rounds, the norm of the mean of the sites' updates over the mean of their
norms: 1 where they are the same, 1/√K where K sites' are orthogonal. There, the average's step is √K times shorter than a site's,
and so than one of pooled training with the same optimiser and rate; ``federation.server_optimiser.learning_rate`` of √K gives its
length back.
"""

import statistics

from rich.console import Console
from rich.table import Table

from simulation.benchmarks.watched import Look, arguments, watch
from simulation.ladder import Rung

RUNG = Rung("dsl_msc_mjap", local_steps=10)


def agreement(look: Look) -> float:
    """‖mean of the updates‖ / mean of ‖update‖."""
    return look.change / look.rate / statistics.fmean(look.norms)


def main() -> None:
    """Measure and print."""
    own, found = arguments(__doc__), []
    watch(RUNG, own.words, own.every, lambda look: found.append((look.round, len(look.norms), agreement(look))))
    table = Table("round", title="How far sites' updates agree")
    for title in ("‖mean‖ / mean of norms", "where orthogonal"):
        table.add_column(title, justify="right")
    for round_, sites, value in found:
        table.add_row(str(round_), f"{value:.3f}", f"{sites**-0.5:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
