"""The warm worker: holds the site's data and PyTorch in memory, and answers the messages that the SuperNode receives.

Started and watched by :mod:`client.supervisor` as ``python -m client.worker``. It calls the ClientApp that is installed
here and never looks at code that a coordinator sent. Both sides talk in lines of JSON over the worker's standard input and
output:

- to the worker: first ``{"settings": ..., "secret": ...}``, then ``{"runtime": HOST:PORT, "lost": null or {...}}`` whenever the
  SuperNode has (re)started or a predecessor died over a task; the end of the input ends the worker at once;
- from the worker: ``{"event": ...}`` with open, refused, claimed, pulled, step, notice, replied, failed, dropped, lost, leaving.
"""

import contextlib
import json
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from types import FrameType
from typing import IO, TYPE_CHECKING, Any, NoReturn

from mtmd_core.errors import MtmdError, RunFailedError, site_error_of
from mtmd_core.processes import die_with_parent
from mtmd_core.wire import PLAN, to_record
from mtmd_core.words import without_control

from .bundle import check_bundle
from .settings import SiteSettings, from_plain

if TYPE_CHECKING:
    from flwr.app import RecordDict

    from .flower_internals import Runtime

_log = logging.getLogger("mtmd.worker")

Tell = Callable[..., None]
NoteFailure = Callable[[str, str, int], None]
"""Writes down the word of a failure, of a run and a round, where these are known."""
_SAID = {"run": str, "round": int, "rounds": int}
_STEP_SECONDS = 1.0
"""Least pause between two words on steps."""


def unnoted(_word: str, _run: str, _round: int) -> None:
    """For a site that keeps no ledger."""


class PlainLines(logging.Formatter):
    """Lines of a log in which nothing from the other side can move a terminal's cursor."""

    def format(self, record: logging.LogRecord) -> str:
        """As :class:`logging.Formatter` does it, without control characters; a message takes one line."""
        record.msg, record.args = without_control(record.getMessage(), kept="\t"), ()
        return without_control(super().format(record), kept="\n\t")


def main() -> int:
    """Open the site, then answer messages until the server says good-bye; the exit code that it came with.

    A site that cannot be opened ends the worker with its error's own code (4: its data are not valid).
    """
    die_with_parent(signal.SIGKILL)  # the state on disk is whole at any moment, so nothing is lost by ending at once
    tell = _take_standard_output()
    orders = _read_orders(sys.stdin.buffer)
    first = orders.get()
    settings, secret = from_plain(first["settings"]), bytes.fromhex(first["secret"])
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, _note_withdrawn)
    try:
        app, exit_code, note = open_app(settings, tell)
    except MtmdError as error:
        tell("refused", code=error.exit_code, message=str(error))
        return error.exit_code
    tell("open")
    code = serve(app, exit_code, settings, secret, orders, tell, note)
    tell("leaving", code=code)
    return code


def open_app(settings: SiteSettings, tell: Tell) -> tuple[Callable[..., Any], Callable[[], int | None], NoteFailure]:
    """The locally installed ClientApp over this site's data, how to ask whether the run is over (its exit code), and how to write
    down the word of a failure."""
    from .app import build_client_app
    from .site import open_site

    site = open_site(settings)
    site.on_progress = steps_told(tell)
    site.on_notice = lambda notice: tell("notice", **to_record(notice))
    return build_client_app(site), lambda: site.exit_code, site.outbox.note_failure


def steps_told(tell: Tell, clock: Callable[[], float] = time.monotonic) -> Callable[[int, int], None]:
    """Tells of training steps: of the beginning, the end, and one a second between."""
    told = float("-inf")

    def on_progress(done: int, steps: int) -> None:
        nonlocal told
        if done in (0, steps) or clock() - told >= _STEP_SECONDS:
            told = clock()
            tell("step", done=done, steps=steps)

    return on_progress


def serve(
    app: Callable[..., Any],
    exit_code: Callable[[], int | None],
    settings: SiteSettings,
    secret: bytes,
    orders: "SimpleQueue[dict[str, Any]]",
    tell: Tell,
    note: NoteFailure = unnoted,
) -> int:
    """Claim and answer one message after another until ``exit_code`` gives one."""
    from .flower_internals import SUPERNODE_GONE, Runtime

    with contextlib.ExitStack() as connection:
        runtime, reachable = None, True
        while (code := exit_code()) is None:
            order = _next_order(orders, wait=runtime is None)
            if order is not None:
                connection.close()
                runtime = connection.enter_context(contextlib.closing(Runtime(order["runtime"], secret)))
                if order["lost"] is not None:
                    report_lost(runtime, order["lost"], tell, note)
            try:
                token = runtime.claim()
                reachable = True
                if token is None:
                    time.sleep(settings.poll_seconds)
                    continue
                tell("claimed", token=token)
                answer(runtime, token, app, tell, note)
            except SUPERNODE_GONE as error:
                if reachable:
                    _log.warning("the SuperNode does not answer: %r", error)
                reachable = False
                tell("dropped")
                time.sleep(max(settings.poll_seconds, 0.2))
    return code


def answer(runtime: "Runtime", token: str, app: Callable[..., Any], tell: Tell, note: NoteFailure = unnoted) -> None:
    """Pull the claimed message, let the app answer it, push the reply; one that comes with a foreign bundle is refused.

    An exception of the app becomes an error reply with one word (:class:`mtmd_core.errors.SiteError`); its text may quote data,
    so it goes to the log on this machine alone.
    """
    from .flower_internals import APP_FAILED, metadata_of

    started = time.monotonic()
    with runtime.task(token) as task:
        message, context, bundle = task.pull()
        kind, group = printable(message.metadata.message_type), printable(message.metadata.group_id)
        visit = _visit(message.content) | {"bytes": array_bytes(message.content)}
        tell("pulled", kind=kind, group=group, metadata=metadata_of(message), **visit)
        try:
            check_bundle(bundle)
            reply = app(message=message, context=context)
        except Exception as error:
            _log.exception("answering %s of round %s failed", kind, group or "-")
            word = site_error_of(error).value
            note(word, str(visit.get("run", "")), int(visit.get("round", 0)))
            task.refuse(message, APP_FAILED, word)
            tell("failed", kind=kind, group=group, error=word)
        else:
            task.reply(reply)
            sent, seconds = array_bytes(reply.content), time.monotonic() - started
            tell("replied", kind=kind, group=group, seconds=seconds, bytes=sent)


def report_lost(runtime: "Runtime", lost: dict[str, Any], tell: Tell, note: NoteFailure = unnoted) -> None:
    """Answer, with an error, the message over which the previous worker died.

    Otherwise the SuperNode notices only after a minute, and not at all if that worker had not pulled the message yet. A
    message that is to come ``again`` is answered as one that was lost on its way, which the server then sends once more.
    """
    from .flower_internals import APP_FAILED, SUPERNODE_GONE, WORKER_DIED

    code, word = WORKER_DIED if lost["again"] else APP_FAILED, lost["error"]
    note(word, "", 0)
    try:
        with runtime.task(lost["token"]) as task:
            if lost["metadata"] is None:
                task.refuse(task.pull()[0], code, word)
            else:
                task.refuse_unseen(lost["metadata"], code, word)
    except SUPERNODE_GONE as error:
        _log.warning("the message that the previous worker died over could not be answered: %r", error)
    tell("lost")


def _visit(content: "RecordDict") -> dict[str, Any]:
    """What a message says of run, round and rounds, as far as it does; the site itself reads it strictly."""
    plan = content.config_records.get(PLAN, {})
    said = {word: plan[word] for word, kind in _SAID.items() if type(plan.get(word)) is kind}
    return {word: printable(value) if isinstance(value, str) else value for word, value in said.items()}


def printable(word: str) -> str:
    """A word from the other side as logs and terminals may show it; ``?`` for what no server of this project sends.

    >>> printable("2026-11-30_1"), printable("\x1b[2J")
    ('2026-11-30_1', '?')
    """
    return word if re.fullmatch(r"[A-Za-z0-9_.-]{0,64}", word) else "?"


def array_bytes(content: "RecordDict") -> int:
    """Bytes of all arrays of a message."""
    return sum(len(array.data) for record in content.array_records.values() for array in record.values())


def _next_order(orders: "SimpleQueue[dict[str, Any]]", *, wait: bool) -> dict[str, Any] | None:
    try:
        return orders.get(block=wait)
    except Empty:
        return None


def _read_orders(stream: IO[bytes]) -> "SimpleQueue[dict[str, Any]]":
    """Read orders in a thread; the end of the stream means that the supervisor is gone, and ends the process."""
    orders: SimpleQueue[dict[str, Any]] = SimpleQueue()

    def read() -> None:
        for line in stream:
            orders.put(json.loads(line))
        os._exit(RunFailedError.exit_code)

    threading.Thread(target=read, name="orders", daemon=True).start()
    return orders


def _take_standard_output() -> Tell:
    """Keep standard output for events; whatever else in this process prints goes to standard error, the log."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(event: str, **details: Any) -> None:
        events.write(json.dumps({"event": event, **details}) + "\n")
        events.flush()

    return tell


def _leave(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _note_withdrawn(_number: int, _frame: FrameType | None) -> None:
    # Flower's heartbeat raises SIGINT when the SuperNode has given a task up; Ctrl-C never comes here (own session)
    _log.warning("the SuperNode has given up the message in hand; its reply will not be taken")


def run() -> NoReturn:
    """As :func:`main`, with whatever goes wrong written to the log; ends the process with its exit code."""
    logging.basicConfig(level=logging.INFO)
    logging.getLogger().handlers[0].setFormatter(PlainLines("%(asctime)s %(name)s %(levelname)s %(message)s"))
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        ended_with = main()
    except SystemExit as ended:
        ended_with = int(ended.code or 0)
    except BaseException:
        _log.exception("the worker cannot go on")
        ended_with = RunFailedError.exit_code
    logging.shutdown()
    os._exit(ended_with)  # Python's own way out would wait for the thread that reads orders, and abort


if __name__ == "__main__":
    run()
