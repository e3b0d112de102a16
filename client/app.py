"""The ClientApp: message → site → reply. No mathematics, and no way out but the site's outbox."""

import itertools
from typing import TypeVar

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from mtmd_core.errors import MtmdError, SiteError
from mtmd_core.wire import (
    CONTRAST,
    GOODBYE,
    NOTICE,
    PACKED,
    PLAN,
    PRIOR,
    PRIOR_SHARED,
    PROTOTYPES,
    SHARED,
    ContrastPlan,
    Notice,
    PriorPlan,
    RoundPlan,
    Terms,
    from_record,
    unpack_arrays,
)

from .site import Site

T = TypeVar("T")


class UnreadableMessageError(MtmdError):
    """A message does not hold the records that its kind has."""

    site_error = SiteError.MESSAGE_UNREADABLE


def build_client_app(site: Site) -> ClientApp:
    """The app that answers the coordinator's messages for one site; the same in a hospital and in a simulation."""
    app = ClientApp()

    @app.query("facts")
    def facts(message: Message, context: Context) -> Message:
        return Message(site.outbox.facts(site.facts()), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        _pass_on_notice(site, message.content)
        receipt, metrics, prototypes = site.train(*_unpack(message.content), _terms(message.content))
        learner = site.learner
        content = site.outbox.trained(receipt, metrics, learner.contribution, learner.partition, prototypes)
        return Message(content, reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        _pass_on_notice(site, message.content)
        receipt, metrics = site.evaluate(*_unpack(message.content))
        return Message(site.outbox.metrics(receipt, metrics), reply_to=message)

    @app.query("notice")
    def notice(message: Message, context: Context) -> Message:
        _pass_on_notice(site, message.content)
        return Message(RecordDict(), reply_to=message)

    @app.query("farewell")
    def farewell(message: Message, context: Context) -> Message:
        goodbye: ConfigRecord = message.content[GOODBYE]
        site.part(0 if goodbye.get("exit_code") == 0 else 1)
        return Message(RecordDict(), reply_to=message)

    return app


def _pass_on_notice(site: Site, content: RecordDict) -> None:
    if NOTICE in content:
        site.heed(_read(content, NOTICE, Notice))


def _unpack(content: RecordDict) -> tuple[RoundPlan, dict[str, np.ndarray]]:
    return _read(content, PLAN, RoundPlan), _arrays(content, SHARED)


def _terms(content: RecordDict) -> Terms:
    """What a TRAIN message brings beside plan and parameters."""
    others = (f"{PROTOTYPES}.{number}" for number in itertools.count())
    return Terms(
        contrast=_read(content, CONTRAST, ContrastPlan) if CONTRAST in content else None,
        others=tuple(_arrays(content, name) for name in itertools.takewhile(content.__contains__, others)),
        prior=_read(content, PRIOR, PriorPlan) if PRIOR in content else None,
        prior_shared=_arrays(content, PRIOR_SHARED) if PRIOR_SHARED in content else None,
    )


def _read(content: RecordDict, name: str, kind: type[T]) -> T:
    try:
        return from_record(kind, content[name])
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableMessageError(f"the record '{name}' of a message cannot be read: {error}") from error


def _arrays(content: RecordDict, name: str) -> dict[str, np.ndarray]:
    try:
        record: ArrayRecord = content[name]
        return unpack_arrays(record[PACKED].data)
    except (KeyError, AttributeError, ValueError) as error:
        raise UnreadableMessageError(f"the arrays '{name}' of a message cannot be read: {error}") from error
