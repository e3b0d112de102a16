"""What noised prototypes have cost the exams of a site so far, and whether another release fits its budget.

Every release of the same exams counts, in whichever run, and one without noise makes ε infinite: (ε, δ) composes over all. The
accounting is that of Google's ``dp-accounting``: privacy loss distributions (Doroshenko et al. 2022), and Rényi divergences
(Mironov 2017) where ε is so large that distributions do not fit into memory.
"""

import json
import logging
import math
import secrets
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch

from mtmd_core.durable import write_json
from mtmd_core.errors import ConfigurationError, DataError
from mtmd_core.seeds import derive_seed

log = logging.getLogger(__name__)

TIGHT_UPTO = 100.0
"""Sum of 1/multiplier² over releases, up to which ε is computed from privacy loss distributions; it is some 90 there."""
STEP = 1e-3
"""Step of the privacy loss, always rounded up: ten times coarser than the library's own, and ten times as fast."""
LOOSE_ORDERS = [1 + 10**exponent for exponent in (x / 10 for x in range(-50, 11))]
"""Orders of the Rényi divergences: close to 1, as large ε wants them."""
DELTA = 1e-5
"""δ that a site states its ε for, if it says nothing else."""


@dataclass
class PrivacyBudget:
    """A site's noise, and the releases that it was added to.

    Args:
        noise_multiplier: standard deviation of the noise over the sensitivity; 0 for none. A coordinator can only ask for more.
        delta: δ of the guarantee, above 0.
        max_epsilon: no release takes ε beyond it; None for no bound.
        path: where releases are remembered; None for memory alone.
        seed: of the noise, in a simulation, which must repeat itself; a site that has none draws its noise from the operating
            system's randomness.

    Raises:
        ConfigurationError: if noise is asked for and the accountant is not installed.
        DataError: if the file of releases cannot be read: nothing may be released on top of an unknown sum.
    """

    noise_multiplier: float = 0.0
    delta: float = DELTA
    max_epsilon: float | None = None
    path: Path | None = None
    seed: int | None = None
    _releases: Counter[float] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.require_accountant(0.0)
        if self.path is not None and self.path.exists():
            self._releases = _read(self.path)

    def multiplier(self, asked: float) -> float:
        """The noise multiplier of a release: the site's own or the plan's, whichever is larger."""
        return max(self.noise_multiplier, asked)

    def require_accountant(self, asked: float) -> None:
        """See that what a release with a plan's noise multiplier costs could be counted.

        Raises:
            ConfigurationError: if it is noised and the accountant is not installed.
        """
        if self.multiplier(asked):
            _accountant()

    def epsilon(self, more: float | None = None) -> float:
        """ε at δ of all releases so far, and of one more with the noise multiplier ``more``; infinite without noise."""
        releases = self._releases + Counter([] if more is None else [more])
        return epsilon(tuple(sorted(releases.items())), self.delta)

    def allows(self, noise_multiplier: float) -> bool:
        """Whether one more release fits."""
        if self.max_epsilon is None:
            return True
        after = self.epsilon(noise_multiplier)
        if after > self.max_epsilon:
            log.warning(
                "no prototypes are sent: another release of noise multiplier %g would make epsilon %.3g, max_epsilon is %g",
                noise_multiplier, after, self.max_epsilon,
            )  # fmt: skip
        return after <= self.max_epsilon

    def spend(self, noise_multiplier: float) -> None:
        """Count a release; to be called before it leaves."""
        self._releases[noise_multiplier] += 1
        if self.path is not None:
            write_json(self.path, [[multiplier, count] for multiplier, count in sorted(self._releases.items())])

    def generator(self, phase_seed: int, round_: int) -> torch.Generator:
        """Randomness for one release: that of a round of a phase, which no other has."""
        seed = secrets.randbits(63) if self.seed is None else derive_seed(self.seed, phase_seed, round_)
        return torch.Generator().manual_seed(seed)

    def facts(self) -> dict[str, float | int | str | None] | None:
        """What a summary says of it; None where nothing was released with noise.

        ``epsilon`` is None where it cannot be computed or has no bound, and ``reason`` says why: results must not wait for it.
        """
        if not any(self._releases):
            return None
        facts = {"releases": self._releases.total(), "delta": self.delta}
        if bare := self._releases[0.0]:
            return facts | {"epsilon": None, "reason": f"{bare} of them went without noise, so that there is no bound"}
        try:
            return facts | {"epsilon": self.epsilon()}
        except Exception as error:  # of whatever kind the accountant raises
            log.warning("epsilon of %d releases cannot be stated: %s", self._releases.total(), error)
            return facts | {"epsilon": None, "reason": str(error)}


@lru_cache
def epsilon(releases: tuple[tuple[float, int], ...], delta: float) -> float:
    """ε at δ of Gaussian mechanisms, one after another.

    Args:
        releases: noise multiplier, at least 0, and how many times.
        delta: above 0.
    """
    if any(multiplier <= 0 for multiplier, _ in releases):
        return math.inf
    loss = sum(count / multiplier**2 for multiplier, count in releases)
    events, accountant = _accountant(loss > TIGHT_UPTO)
    for multiplier, count in releases:
        accountant.compose(events.GaussianDpEvent(multiplier), count)
    return float(accountant.get_epsilon(delta))


def _accountant(loose: bool = False) -> tuple:
    try:
        from dp_accounting import dp_event
        from dp_accounting.pld import PLDAccountant
        from dp_accounting.rdp import RdpAccountant
    except ImportError:
        raise ConfigurationError(
            "noise on prototypes needs an accountant, which is not installed: pip install 'mtmd[privacy]', or set "
            "noise_multiplier to 0, here and at the coordinator (prototypes.noise_multiplier)."
        ) from None
    return dp_event, RdpAccountant(LOOSE_ORDERS) if loose else PLDAccountant(value_discretization_interval=STEP)


def _read(path: Path) -> Counter[float]:
    try:
        return Counter(
            {float(multiplier): int(count) for multiplier, count in json.loads(path.read_text(encoding="utf-8"))}
        )
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{path} should say how many prototypes were released with which noise, and cannot be read ({error}): put back a "
            "copy of it, or start with other exams; without it, what was released before would be forgotten."
        ) from None
