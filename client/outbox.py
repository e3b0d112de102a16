"""The only door out of a site: an allow-list, closed by default.

Nothing is put into a message but by :class:`Outbox`. It lets out receipts, counts, metrics at the level that the site's own
settings allow, shared parameters or a change of them: exactly those that the network's layers say are shared, and prototypes of
as many exams and slices as the settings ask for.
"""

import logging
import re
from collections.abc import Mapping

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from mtmd_core.errors import MtmdError, SiteError
from mtmd_core.minimum import MINIMUM, Minimum
from mtmd_core.parameters import Partition
from mtmd_core.prototype_arrays import COUNTS, array_shapes
from mtmd_core.update_encoding import SCALE
from mtmd_core.wire import (
    FACTS,
    METRIC_NAMES,
    METRICS,
    PACKED,
    PROTOTYPES,
    RECEIPT,
    Contribution,
    Receipt,
    SiteFacts,
    array_shape,
    misfit,
    pack_arrays,
    to_record,
)

from .ledger import Ledger

log = logging.getLogger(__name__)

FAILURE = "failure"
"""The ledger's name of what leaves in place of a reply."""


class ForbiddenError(MtmdError):
    """Something was about to leave that the allow-list does not name."""

    site_error = SiteError.NOT_LET_OUT


class Outbox:
    """Builds every reply of a site.

    Args:
        release: ``none``, ``mean`` or ``structure``: which metrics may leave.
        ledger: where to write what leaves; None writes nothing.
        minimum: exams and slices that prototypes must be of.
    """

    def __init__(self, release: str, ledger: Ledger | None = None, minimum: Minimum = MINIMUM) -> None:
        self.allowed = METRIC_NAMES[release]
        self.ledger = ledger
        self.minimum = minimum

    def facts(self, facts: SiteFacts) -> RecordDict:
        """The answer to a roll call."""
        self._note("", 0, FACTS, to_record(facts))
        return RecordDict({FACTS: ConfigRecord(to_record(facts))})

    def metrics(self, receipt: Receipt, metrics: Mapping[str, float]) -> RecordDict:
        """A reply with metrics alone; those that the site does not release stay here."""
        released = {name: value for name, value in metrics.items() if self.allowed.fullmatch(name)}
        self._note(receipt.run, receipt.round, METRICS, released)
        return RecordDict({RECEIPT: ConfigRecord(to_record(receipt)), METRICS: MetricRecord(released)})

    def trained(
        self,
        receipt: Receipt,
        metrics: Mapping[str, float],
        contribution: Contribution,
        partition: Partition,
        prototypes: Mapping[str, np.ndarray] | None = None,
    ) -> RecordDict:
        """A reply with what training brought, and with prototypes where there are some.

        Raises:
            ForbiddenError: if any parameter is not one that the network's layers say is shared, or the prototypes are anything
                else than moments of enough exams and slices.
        """
        arrays = contribution.arrays
        forbidden = sorted({name.removesuffix(SCALE) for name in arrays} - set(partition.shared))
        if forbidden:
            raise ForbiddenError(f"'{forbidden[0]}' is private and must not leave: nothing was sent")
        if prototypes is not None:
            self._check_prototypes(prototypes)
        content = self.metrics(receipt, metrics)
        for record, sent in ((contribution.record, arrays), (PROTOTYPES, prototypes)):
            if sent is not None:
                self._note(receipt.run, receipt.round, record, sent)
                content[record] = _packed(sent)
        return content

    def note_failure(self, word: str, run: str, round_: int) -> None:
        """Write down the one word that leaves in place of a reply; it leaves too where the ledger cannot be written.

        Args:
            word: of :class:`mtmd_core.errors.SiteError`.
            run: that the message said it was of, or nothing.
            round_: the same.
        """
        try:
            self._note(run, round_, FAILURE, {"word": word})
        except OSError as error:  # the disk may be what has failed
            log.warning("the word '%s' leaves without a line in the ledger: %s", word, error)

    def _check_prototypes(self, prototypes: Mapping[str, np.ndarray]) -> None:
        sizes = [array.size for name, array in sorted(prototypes.items()) if re.fullmatch(r"s[1-9]/mean", name)]
        given = {name: array_shape(array) for name, array in prototypes.items()}
        reason = misfit(array_shapes(sizes), given)
        if reason is not None:
            raise ForbiddenError(f"what should be prototypes is not ({reason}): nothing was sent")
        slices, exams, _ = prototypes[COUNTS]
        if not (slices >= self.minimum.slices and exams >= self.minimum.exams):
            raise ForbiddenError(
                f"prototypes of {exams:g} exams with {slices:g} slices must not leave; {self.minimum.exams} and "
                f"{self.minimum.slices} are the least: nothing was sent"
            )

    def _note(self, run: str, round_: int, record: str, content: Mapping[str, object]) -> None:
        if self.ledger is not None:
            self.ledger.append(run, round_, record, content)


def _packed(arrays: Mapping[str, np.ndarray]) -> ArrayRecord:
    data = pack_arrays(arrays)
    return ArrayRecord({PACKED: Array("uint8", (len(data),), PACKED, data)})
