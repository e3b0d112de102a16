"""The ClientApp: message → site → reply. No mathematics, and no way out but the site's outbox."""

import itertools

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from mtmd_core.wire import (
    CONTRAST,
    GOODBYE,
    PLAN,
    PRIOR,
    PRIOR_SHARED,
    PROTOTYPES,
    SHARED,
    ContrastPlan,
    PriorPlan,
    RoundPlan,
    Terms,
    decode_array,
    from_record,
)

from .site import Site


def build_client_app(site: Site) -> ClientApp:
    """The app that answers the coordinator's messages for one site; the same in a hospital and in a simulation."""
    app = ClientApp()

    @app.query("facts")
    def facts(message: Message, context: Context) -> Message:
        return Message(site.outbox.facts(site.facts()), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        receipt, metrics, prototypes = site.train(*_unpack(message), _terms(message.content))
        learner = site.learner
        content = site.outbox.trained(receipt, metrics, learner.contribution, learner.partition, prototypes)
        return Message(content, reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        receipt, metrics = site.evaluate(*_unpack(message))
        return Message(site.outbox.metrics(receipt, metrics), reply_to=message)

    @app.query("farewell")
    def farewell(message: Message, context: Context) -> Message:
        goodbye: ConfigRecord = message.content[GOODBYE]
        site.exit_code = 0 if goodbye.get("exit_code") == 0 else 1
        return Message(RecordDict(), reply_to=message)

    return app


def _unpack(message: Message) -> tuple[RoundPlan, dict[str, np.ndarray]]:
    return from_record(RoundPlan, message.content[PLAN]), _arrays(message.content[SHARED])


def _terms(content: RecordDict) -> Terms:
    """What a TRAIN message brings beside plan and parameters."""
    others = (f"{PROTOTYPES}.{number}" for number in itertools.count())
    return Terms(
        contrast=from_record(ContrastPlan, content[CONTRAST]) if CONTRAST in content else None,
        others=tuple(_arrays(content[name]) for name in itertools.takewhile(content.__contains__, others)),
        prior=from_record(PriorPlan, content[PRIOR]) if PRIOR in content else None,
        prior_shared=_arrays(content[PRIOR_SHARED]) if PRIOR_SHARED in content else None,
    )


def _arrays(record: ArrayRecord) -> dict[str, np.ndarray]:
    return {name: decode_array(array.data) for name, array in record.items()}
