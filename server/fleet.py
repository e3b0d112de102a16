"""The sites behind a Flower grid: who is who, and messages that survive a site's restart.

Flower addresses nodes by numbers. A site without a key gets another number when its program restarts, one with a key keeps its
number and is activated anew. A :class:`Fleet` is a grid that knows which site is behind a node, sends a message again when the
site comes back, and polls quickly.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from mtmd_core.credentials import key_fingerprint
from mtmd_core.errors import RunFailedError, UnreachableError
from mtmd_core.sites import check_site_name
from mtmd_core.wire import (
    FACTS,
    FAREWELL,
    GOODBYE,
    NOTICE,
    NOTIFY,
    PROTOCOL,
    QUERY,
    Notice,
    SiteFacts,
    from_record,
    to_record,
)

from .admission import Admission
from .flower_internals import NodeInfo, Run, site_failed

log = logging.getLogger(__name__)

POLL_SECONDS = (0.01, 0.2)
"""Pause between two looks for replies: it grows from the first to the second."""
LOOK_AROUND_SECONDS = 1.0
"""Pause between two looks for nodes that came."""
FACTS_TTL_SECONDS = 3600.0
MOST_STRUCTURES = 255
"""Of a site: label maps are of 8 bits."""


@dataclass(frozen=True)
class _Errand:
    """A message on its way to a site."""

    site: str
    message: Message


class Fleet(Grid):
    """A grid of named sites.

    Args:
        grid: Flower's own, or the simulation's.
        on_change: called with the names of the sites that are connected, whenever one comes or goes.
        admission: a node then takes part only with an admitted key, and under the name that its key was admitted as; None
            where nodes show no keys (plain HTTP, simulations).
    """

    def __init__(
        self,
        grid: Grid,
        on_change: Callable[[list[str]], None] = lambda sites: None,
        admission: Admission | None = None,
    ) -> None:
        self._grid = grid
        self._on_change = on_change
        self._admission = admission
        self._here: list[str] = []
        self._nodes: dict[str, int] = {}
        self._site_by_node: dict[int, str] = {}  # of every node that ever said who it is
        self._facts: dict[str, SiteFacts] = {}
        self._asked: dict[str, int] = {}
        self._known_nodes: dict[int, str] = {}  # and since when each is active
        self._admitted_as: dict[int, str] = {}  # of nodes that showed a key
        self._left_out: dict[str, str] = {}  # sites that came as what they cannot take part as, and why
        self._looked = float("-inf")

    @property
    def sites(self) -> dict[str, SiteFacts]:
        """The sites that have answered a roll call, in the order of their names."""
        return dict(sorted(self._facts.items()))

    def node_of(self, site: str) -> int:
        """The node that a site was last seen as; only for one of :attr:`sites`."""
        return self._nodes[site]

    def site_of(self, node_id: int) -> str:
        """The site that is, or once was, behind a node."""
        return self._site_by_node[node_id]

    def revoked(self, sites: Iterable[str]) -> list[str]:
        """Those of some sites that were admitted once and may not take part any more."""
        return [] if self._admission is None else [site for site in sites if self._admission.is_revoked(site)]

    def assemble(
        self, count: int, names: Iterable[str], timeout: float, spare_revoked: bool = False
    ) -> dict[str, SiteFacts]:
        """Wait until the expected sites are there.

        Args:
            count: how many sites.
            names: which ones; empty for any.
            timeout: seconds to wait.
            spare_revoked: whether not to wait for those of ``names`` that are revoked.

        Raises:
            UnreachableError: naming who is missing.
        """
        wanted, deadline = set(names), time.monotonic() + timeout
        while True:
            self._look_around()
            present = {
                site: facts
                for site, facts in self.sites.items()
                if (not wanted or site in wanted) and self._is_expected(site)
            }
            needed = count - len(self.revoked(wanted)) if spare_revoked else count
            if len(present) >= needed:
                return dict(list(present.items())[:needed])
            if time.monotonic() > deadline:
                raise UnreachableError(
                    f"{len(present)} of {needed} sites came within {timeout:g} s ({', '.join(present) or 'none'})"
                    f"{self._missing(wanted - set(present))}. "
                    "Start mtmd-client at each site, or wait longer (federation.join_timeout_seconds)."
                )
            time.sleep(POLL_SECONDS[1])

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send messages to sites and wait for their replies, in the order of the sites' names.

        A message whose node is lost goes to the site's next node as soon as it is there. After ``timeout`` seconds the
        replies that are there are returned, and before that, if all that are missing are those of sites that were revoked, or
        came back as what cannot take part.
        """
        deadline = time.monotonic() + (float("inf") if timeout is None else timeout)
        waiting = [_Errand(self.site_of(message.metadata.dst_node_id), message) for message in messages]
        waiting = [errand for errand in waiting if self._is_expected(errand.site)]
        out: dict[str, _Errand] = {}
        homeless: dict[str, _Errand] = {}
        replies: dict[str, Message] = {}
        pause = POLL_SECONDS[0]
        self._send(waiting, out, homeless)
        in_time = True  # sending may have taken all the time there is: a simulation's sites work meanwhile
        while in_time and any(
            errand.site not in replies and self._is_expected(errand.site) and errand.site not in self._left_out
            for errand in waiting
        ):
            in_time = time.monotonic() < deadline
            # Flower waits long for a reply whose sender was stopped half-way; a revoked site's is not wanted any more.
            wanted = [key for key, errand in out.items() if self._is_expected(errand.site)]
            came = list(self._grid.pull_messages(wanted))
            for reply in came:
                errand = out.pop(reply.metadata.reply_to_message_id, None)
                if errand is None:
                    log.warning("an answer to what nobody was asked is passed over")
                elif reply.has_error() and not site_failed(reply.error):
                    log.warning("a message to %s was lost (error %d)", errand.site, reply.error.code)
                    homeless[errand.site] = errand
                    self._known_nodes.pop(self._nodes[errand.site], None)  # if it still lives it is asked again
                else:
                    replies[errand.site] = reply
            if came:
                pause = POLL_SECONDS[0]
                continue
            for site in self._look_around():
                for key in [key for key, errand in out.items() if errand.site == site]:
                    homeless[site] = out.pop(key)
                if site in homeless:
                    self._send([homeless.pop(site)], out, homeless)
            time.sleep(pause)
            pause = min(2 * pause, POLL_SECONDS[1])
        return [replies[site] for site in sorted(replies)]

    def farewell(self, exit_code: int) -> None:
        """Tell every site that the run is over; whether they answer does not matter."""
        content = RecordDict({GOODBYE: ConfigRecord({"exit_code": exit_code})})
        self._grid.push_messages(
            [Message(content, node, FAREWELL, ttl=FACTS_TTL_SECONDS) for node in self._nodes.values()]
        )

    def notify(self, site: str, notice: Notice) -> None:
        """Tell a site something between two visits; whether it answers does not matter."""
        content = RecordDict({NOTICE: ConfigRecord(to_record(notice))})
        self._grid.push_messages([Message(content, self._nodes[site], NOTIFY, ttl=FACTS_TTL_SECONDS)])

    def _send(self, errands: list[_Errand], out: dict[str, _Errand], homeless: dict[str, _Errand]) -> None:
        """Push errands to the nodes that their sites were last seen as; what Flower does not take becomes homeless."""
        messages = []
        for errand in errands:
            known = errand.message.metadata
            node, content = self._nodes[errand.site], errand.message.content
            messages.append(Message(content, node, known.message_type, ttl=known.ttl, group_id=known.group_id))
        keys = list(self._grid.push_messages(messages)) if messages else []
        if len(keys) != len(errands):
            raise RunFailedError(
                f"Flower took {len(keys)} of {len(errands)} messages: they may be larger than it accepts."
            )
        for key, errand in zip(keys, errands, strict=True):
            if key:
                out[key] = errand
            else:  # the node has left
                homeless[errand.site] = errand
                self._known_nodes.pop(self._nodes[errand.site], None)

    def _look_around(self) -> list[str]:
        """Ask nodes that came who they are; returns the sites that answered."""
        if time.monotonic() - self._looked >= LOOK_AROUND_SECONDS or not self._facts:
            self._looked = time.monotonic()
            nodes = {node.node_id: node.last_activated_at for node in self._grid.get_nodes() if self._may_come(node)}
            self._note_presence(nodes)
            new = [node for node, since in nodes.items() if self._known_nodes.get(node) != since]
            questions = [Message(RecordDict(), node, QUERY, ttl=FACTS_TTL_SECONDS) for node in new]
            for key, node in zip(self._grid.push_messages(questions) if new else [], new, strict=True):
                if key:  # else it has left again
                    self._asked[key] = node
                    self._known_nodes[node] = nodes[node]
        answers = self._grid.pull_messages(list(self._asked)) if self._asked else []
        return [site for answer in answers if (site := self._introduce(answer)) is not None]

    def _may_come(self, node: NodeInfo) -> bool:
        """Whether a node's key, where keys are asked for, is that of a site that is admitted now."""
        if self._admission is None:
            return True
        entry = self._admission.of_key(key_fingerprint(node.public_key.decode("ascii")))
        if entry is None or entry.revoked is not None:
            return False
        self._admitted_as[node.node_id] = entry.card.site
        return True

    def _is_expected(self, site: str) -> bool:
        """Whether a reply of a site may still come: not once it was revoked."""
        return self._admission is None or self._admission.is_admitted(site)

    def _missing(self, sites: Collection[str]) -> str:
        """Who has not come, for a message; empty if nobody was expected by name."""
        why = self._left_out | dict.fromkeys(self.revoked(sites), "revoked")
        names = [f"{site} ({why[site]})" if site in why else site for site in sorted(sites)]
        return f"; missing: {', '.join(names)}" if names else ""

    def _note_presence(self, nodes: Iterable[int]) -> None:
        """Say who is connected, if that has changed."""
        here = sorted(site for site, node in self._nodes.items() if node in set(nodes))
        if here != self._here:
            self._here = here
            self._on_change(here)

    def _introduce(self, answer: Message) -> str | None:
        node = self._asked.pop(answer.metadata.reply_to_message_id, None)
        if node is None:
            log.warning("an answer to what nobody was asked is passed over")
            return None
        if answer.has_error():
            log.warning("a node did not say which site it is (error %d)", answer.error.code)
            self._known_nodes.pop(node, None)
            return None
        admitted = self._admitted_as.get(node)
        try:
            facts = from_record(SiteFacts, answer.content[FACTS])
            check_site_name(facts.site)
            if not 1 <= facts.structures <= MOST_STRUCTURES:
                raise ValueError(f"{facts.structures} structures")
        except (KeyError, ValueError):  # whose text may quote what the node wrote
            log.warning(
                "%s is left out: it does not say what a site of protocol %d says of itself; install the same mtmd version",
                admitted or "a node",
                PROTOCOL,
            )
            if admitted is not None:
                self._left_out[admitted] = "another mtmd version"
            return None
        if self._admitted_as.get(node, facts.site) != facts.site:
            log.warning("%s says that it is %s, and is left out", self._admitted_as[node], facts.site)
            return None
        if facts.site in self._facts and self._facts[facts.site] != facts:
            log.warning("%s came back with another number of structures and is left out", facts.site)
            self._left_out[facts.site] = "another number of structures"
            return None
        self._left_out.pop(facts.site, None)
        self._nodes[facts.site], self._facts[facts.site] = node, facts
        self._site_by_node[node] = facts.site
        self._note_presence([*(self._nodes[site] for site in self._here), node])
        return facts.site

    # What remains of a Grid is passed on.

    def set_run(self, run: Run) -> None:
        """See :class:`flwr.serverapp.Grid`."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """See :class:`flwr.serverapp.Grid`."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """See :class:`flwr.serverapp.Grid`."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Nodes of the sites that have answered a roll call."""
        return list(self._nodes.values())

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """See :class:`flwr.serverapp.Grid`."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """See :class:`flwr.serverapp.Grid`."""
        return self._grid.pull_messages(message_ids)
