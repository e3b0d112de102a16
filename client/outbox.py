"""The only door out of a site: an allow-list, closed by default.

Nothing is put into a message but by :class:`Outbox`. It lets out receipts, counts, metrics at the level that the site's own
settings allow, and shared parameters or a change of them: exactly those that the network's layers say are shared.
"""

from collections.abc import Mapping

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from mtmd_core.errors import MtmdError
from mtmd_core.parameters import Partition
from mtmd_core.update_encoding import SCALE
from mtmd_core.wire import (
    FACTS,
    METRIC_NAMES,
    METRICS,
    RECEIPT,
    Contribution,
    Receipt,
    SiteFacts,
    array_shape,
    encode_array,
    to_record,
)

from .ledger import Ledger


class ForbiddenError(MtmdError):
    """Something was about to leave that the allow-list does not name."""


class Outbox:
    """Builds every reply of a site.

    Args:
        release: ``none``, ``mean`` or ``structure``: which metrics may leave.
        ledger: where to write what leaves; None writes nothing.
    """

    def __init__(self, release: str, ledger: Ledger | None = None) -> None:
        self.allowed = METRIC_NAMES[release]
        self.ledger = ledger

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
    ) -> RecordDict:
        """A reply with what training brought.

        Raises:
            ForbiddenError: if any of them is not one that the network's layers say is shared.
        """
        arrays = contribution.arrays
        forbidden = sorted({name.removesuffix(SCALE) for name in arrays} - set(partition.shared))
        if forbidden:
            raise ForbiddenError(f"'{forbidden[0]}' is private and must not leave: nothing was sent")
        content = self.metrics(receipt, metrics)
        self._note(receipt.run, receipt.round, contribution.record, arrays)
        content[contribution.record] = ArrayRecord(
            {name: Array(*array_shape(array), "numpy.ndarray", encode_array(array)) for name, array in arrays.items()}
        )
        return content

    def _note(self, run: str, round_: int, record: str, content: Mapping[str, object]) -> None:
        if self.ledger is not None:
            self.ledger.append(run, round_, record, content)
