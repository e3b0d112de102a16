"""The worker of :mod:`.saboteur`: the real one, whose training can be stopped and whose finished replies can be spoilt."""

from collections.abc import Callable
from typing import Any

from flwr.app import Message, RecordDict

from client import flower_internals, worker
from mtmd_core.wire import PLAN, TRAIN

from .faults import SENT_BEFORE, SENT_TWICE, spoil
from .orders import Orders

App = Callable[..., Message]
OnProgress = Callable[[int, int], None]


class Saboteur:
    """Stands around the real ClientApp, and does what was ordered for the round of the message in hand."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._round = 0
        self._before: dict[str, Any] = {}
        self._twice = False

    def around_opening(self, open_app: Callable[..., tuple[App, Any, Any]]) -> Callable[..., tuple[App, Any, Any]]:
        """``open_app`` whose app's replies are spoilt where that is ordered."""

        def opened(*arguments: Any) -> tuple[App, Any, Any]:
            app, exit_code, note = open_app(*arguments)
            return self._around(app), exit_code, note

        return opened

    def around_steps(self, steps_told: Callable[..., OnProgress]) -> Callable[..., OnProgress]:
        """``steps_told`` whose steps come to a standstill after the first one where that is ordered."""

        def told(*arguments: Any) -> OnProgress:
            on_progress = steps_told(*arguments)

            def progress(done: int, steps: int) -> None:
                on_progress(done, steps)
                if done == 1:
                    self._orders.stop(self._round)

            return progress

        return told

    def around_replying(self, reply: Callable[..., None]) -> Callable[..., None]:
        """``Task.reply`` that sends a reply twice where that is ordered."""

        def replied(task: Any, message: Message) -> None:
            reply(task, message)
            if self._twice:
                reply(task, message)

        return replied

    def _around(self, app: App) -> App:
        def spoilt(message: Message, context: Any) -> Message:
            trains = message.metadata.message_type == TRAIN
            self._round = message.content[PLAN]["round"] if trains else 0
            reply = app(message=message, context=context)
            self._twice = False
            if trains and not reply.has_error():
                self._spoil(reply.content)
            return reply

        return spoilt

    def _spoil(self, content: RecordDict) -> None:
        fault, honest = self._orders.fault(self._round), dict(content)
        if fault == SENT_BEFORE:
            content.update(self._before)
        elif fault == SENT_TWICE:
            self._twice = True
        elif fault is not None:
            spoil(content, fault)
        self._before = honest


if __name__ == "__main__":
    saboteur = Saboteur(Orders.taken())
    worker.open_app = saboteur.around_opening(worker.open_app)
    worker.steps_told = saboteur.around_steps(worker.steps_told)
    flower_internals.Task.reply = saboteur.around_replying(flower_internals.Task.reply)
    worker.run()
