"""The ClientApp: message → site → reply. No mathematics, and no way out but the site's outbox."""

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from mtmd_core.wire import GOODBYE, PLAN, SHARED, RoundPlan, decode_array, from_record

from .site import Site


def build_client_app(site: Site) -> ClientApp:
    """The app that answers the coordinator's messages for one site; the same in a hospital and in a simulation."""
    app = ClientApp()

    @app.query("facts")
    def facts(message: Message, context: Context) -> Message:
        return Message(site.outbox.facts(site.facts()), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        receipt, metrics = site.train(*_unpack(message))
        learner = site.learner
        content = site.outbox.trained(receipt, metrics, learner.contribution, learner.partition)
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
    arrays: ArrayRecord = message.content[SHARED]
    return (
        from_record(RoundPlan, message.content[PLAN]),
        {name: decode_array(array.data) for name, array in arrays.items()},
    )
