"""What an int8 federation's model lacks of its sites' updates at any time, in points of Dice.

Error feedback sends in the next round what rounding took off an update, so the shared parameters of a federation with int8
updates are those of its sites' exact updates less what the sites still keep back: their residuals of the last round, and nothing
of any round before it. ``python -m simulation.benchmarks.withheld`` trains such a federation on phantom joints (the ladder's
rung ``dsl_msc_mjap_10_int8``, FedAvg; words of ``mtmd-simulate`` may follow), adds the residuals every so many rounds, and scores
every exam of every site with both models. Both are the same training's, so that their difference is not one between two
trainings, which chance decides.
"""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table

from client.learner import RESIDUAL, Learner
from client.site import Site
from mtmd_core.calibration import calibrate
from mtmd_core.evaluation import evaluate_exams
from mtmd_core.scores import dice_of_exams
from mtmd_core.update_encoding import INT8
from mtmd_core.wire import UPDATE, Arrays
from server.update_norms import update_norm
from simulation.benchmarks.watched import Look, arguments, watch
from simulation.ladder import Rung

RUNG = Rung("dsl_msc_mjap", local_steps=10, variant=INT8)


@dataclass(frozen=True)
class Comparison:
    """After a round: norm of what is kept back over that of the round's change, mean Dice in percent, and how much more it would
    be with what is kept back, exam by exam."""

    round: int
    share: float
    dice: float
    lost: list[float]


def compare(look: Look) -> Comparison:
    """Score both models."""
    lacking = {name: look.rate * array for name, array in withheld(look.members, look.run, look.round).items()}
    whole = {name: (array + lacking.get(name, 0)).astype(array.dtype) for name, array in look.shared.items()}
    batches = look.config.federation.calibration_batches
    scores, lost = [], []
    for site in look.members.values():
        sent, exact = (dice(site.learner, shared, batches) for shared in (look.shared, whole))
        scores += sent.values()
        lost += [exact[exam] - sent[exam] for exam in sent]
    share = update_norm(lacking, {}, UPDATE) / look.change
    return Comparison(look.round, share, statistics.fmean(scores), lost)


def withheld(members: Mapping[str, Site], run: str, round_: int) -> Arrays:
    """The mean of what the sites keep back after a round, by tensor."""
    residuals = [
        {
            name.removesuffix(f"/{RESIDUAL}"): tensor.numpy()
            for name, tensor in site.state.newest(run, upto=round_).optimiser.items()
            if name.endswith(f"/{RESIDUAL}")
        }
        for site in members.values()
    ]
    return {name: np.mean([own[name] for own in residuals], axis=0) for name in residuals[0]}


def dice(learner: Learner, shared: Arrays, batches: int) -> dict[str, float]:
    """Dice in percent of every exam of a site with its private parameters and these shared ones; the learner stays as it was."""
    before = {name: tensor.clone() for name, tensor in learner.network.state_dict().items()}
    learner.receive(shared)
    calibrate(learner.network, learner.sources, learner.recipe, batches, learner.forward)
    scores = evaluate_exams(learner.network, learner.space, learner.data, list(learner.data.exams))
    learner.network.load_state_dict(before)
    return {exam: 100 * value for exam, value in dice_of_exams(scores.summary).items()}


def main() -> None:
    """Measure and print."""
    own, found = arguments(__doc__), []
    watch(RUNG, own.words, own.every, lambda look: found.append(compare(look)))
    table = Table("round", title="Dice points lost to what sites keep back, all exams")
    for title in ("kept back, of a round's change", "mean Dice", "lost", "at most"):
        table.add_column(title, justify="right")
    for each in found:
        cells = [f"{statistics.fmean(each.lost):+.3f}", f"{max(map(abs, each.lost)):.2f}"]
        table.add_row(str(each.round), f"{each.share:.2%}", f"{each.dice:.1f}", *cells)
    console = Console()
    console.print(table)
    means = [statistics.fmean(each.lost) for each in found]
    error = statistics.stdev(means) / math.sqrt(len(means)) if len(means) > 1 else math.nan
    console.print(f"lost: {statistics.fmean(means):+.4f} points, standard error {error:.4f} over {len(means)} rounds")


if __name__ == "__main__":
    main()
