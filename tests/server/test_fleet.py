"""Sites by name behind nodes that come, go and come back as others."""

import itertools
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from mtmd_core.credentials import new_private_key, public_pem
from mtmd_core.errors import UnreachableError
from mtmd_core.site_card import SiteCard
from mtmd_core.wire import FACTS, PROTOCOL, QUERY, SiteFacts, to_record
from server import fleet as fleet_module
from server.admission import Admission
from server.fleet import Fleet
from server.flower_internals import NodeInfo

RAISED, UNAVAILABLE = 2, 5  # Flower's codes: the site's app raised; the node is gone


class NodesComeAndGo(Grid):
    """A Flower grid whose nodes are dictionaries: node → site, and whose answers the test decides."""

    def __init__(self) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 0, 1, 0
        self.online: dict[int, SiteFacts] = {}
        self.silent: set[int] = set()
        self.fails: dict[int, int] = {}
        self.received: list[tuple[int, str]] = []
        self.replies: dict[str, Message] = {}
        self.ids = map(str, itertools.count())
        self.at_pull = lambda: None
        self.keys: dict[int, bytes] = {}
        self.since: dict[int, str] = {}

    def get_node_ids(self) -> list[int]:
        return list(self.online)

    def get_nodes(self) -> list[NodeInfo]:
        return [
            NodeInfo(node_id=node, public_key=self.keys.get(node, b""), last_activated_at=self.since.get(node, ""))
            for node in self.online
        ]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        return [self.push(message) for message in messages]

    def push(self, message: Message) -> str:
        key, node = next(self.ids), message.metadata.dst_node_id
        message.metadata.__dict__["_message_id"] = key
        kind = message.metadata.message_type
        if node not in self.online:
            return ""  # Flower's answer for a node that has left
        self.received.append((node, kind))
        if node in self.fails:
            self.replies[key] = Message(Error(self.fails.pop(node), "as scripted"), reply_to=message)
        elif node not in self.silent and kind == QUERY:
            facts = ConfigRecord(to_record(self.online[node]))
            self.replies[key] = Message(RecordDict({FACTS: facts}), reply_to=message)
        elif node not in self.silent:
            self.replies[key] = Message(RecordDict(), reply_to=message)
        return key

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        self.at_pull()
        return [self.replies.pop(key) for key in list(message_ids) if key in self.replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        raise AssertionError("a fleet does its own waiting")

    def create_message(self, *arguments: object) -> Message:
        raise AssertionError("a fleet makes its own messages")

    def set_run(self, run: object) -> None:
        self._run = run

    @property
    def run(self) -> object:
        return self._run


@pytest.fixture
def grid(monkeypatch: pytest.MonkeyPatch) -> NodesComeAndGo:
    monkeypatch.setattr(fleet_module, "LOOK_AROUND_SECONDS", 0.0)
    monkeypatch.setattr(fleet_module, "POLL_SECONDS", (0.001, 0.001))
    grid = NodesComeAndGo()
    grid.online = {11: SiteFacts("knee", 4), 12: SiteFacts("ankle", 3)}
    return grid


def train(fleet: Fleet, site: str) -> Message:
    return Message(RecordDict(), fleet.node_of(site), "train", ttl=60)


def sources(fleet: Fleet, replies: list[Message]) -> list[str]:
    return [fleet.site_of(reply.metadata.src_node_id) for reply in replies]


def test_roll_call_knows_sites_by_name_and_orders_them(grid: NodesComeAndGo) -> None:
    fleet = Fleet(grid)
    assert fleet.assemble(2, [], timeout=5) == {"ankle": SiteFacts("ankle", 3), "knee": SiteFacts("knee", 4)}
    assert (fleet.node_of("knee"), fleet.site_of(12)) == (11, "ankle")


@pytest.mark.parametrize("structures", [-2, 0, 256])
def test_a_number_of_structures_that_no_label_map_has_is_none(structures: int, grid: NodesComeAndGo) -> None:
    grid.online[12] = SiteFacts("ankle", structures)
    with pytest.raises(UnreachableError, match=r"1 of 2 sites came .*\(knee\)"):
        Fleet(grid).assemble(2, [], timeout=0.01)


def test_an_answer_to_what_nobody_was_asked_ends_nothing(grid: NodesComeAndGo, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(grid)
    fleet.assemble(2, [], timeout=5)
    pulled = grid.pull_messages

    def with_another(keys: Iterable[str]) -> list[Message]:
        came = pulled(keys)
        for reply in came[:1]:
            reply.metadata.__dict__["_reply_to_message_id"] = "nothing"
        return came

    monkeypatch.setattr(grid, "pull_messages", with_another)
    assert fleet.send_and_receive([train(fleet, "knee")], timeout=0.05) == []


def test_who_is_missing_is_named_after_a_finite_wait(grid: NodesComeAndGo) -> None:
    with pytest.raises(UnreachableError, match=r"1 of 2 sites.*missing: shoulder"):
        Fleet(grid).assemble(2, ["ankle", "shoulder"], timeout=0.01)


def test_replies_come_in_the_order_of_site_names(grid: NodesComeAndGo) -> None:
    fleet = Fleet(grid)
    fleet.assemble(2, [], timeout=5)
    replies = fleet.send_and_receive([train(fleet, "knee"), train(fleet, "ankle")], timeout=5)
    assert sources(fleet, replies) == ["ankle", "knee"]


def test_replies_that_are_there_when_the_time_is_over_are_taken(grid: NodesComeAndGo) -> None:
    """A simulation's sites train while they are sent to, which may take longer than a round may."""
    fleet = Fleet(grid)
    fleet.assemble(2, [], timeout=5)
    replies = fleet.send_and_receive([train(fleet, "knee"), train(fleet, "ankle")], timeout=0)
    assert sources(fleet, replies) == ["ankle", "knee"]
    grid.silent = {11}
    assert sources(fleet, fleet.send_and_receive([train(fleet, "knee"), train(fleet, "ankle")], timeout=0)) == ["ankle"]


def test_a_message_goes_to_the_node_that_a_site_comes_back_as(grid: NodesComeAndGo) -> None:
    fleet = Fleet(grid)
    fleet.assemble(2, [], timeout=5)
    grid.silent = {11}

    def knee_comes_back() -> None:
        grid.online[13] = SiteFacts("knee", 4)

    grid.at_pull = knee_comes_back
    replies = fleet.send_and_receive([train(fleet, "ankle"), train(fleet, "knee")], timeout=5)
    assert sources(fleet, replies) == ["ankle", "knee"]
    assert [node for node, kind in grid.received if kind == "train"] == [12, 11, 13]


def test_a_message_that_was_lost_is_sent_again(grid: NodesComeAndGo) -> None:
    fleet = Fleet(grid)
    fleet.assemble(2, [], timeout=5)
    grid.fails = {11: UNAVAILABLE}
    replies = fleet.send_and_receive([train(fleet, "knee")], timeout=5)
    assert [reply.has_error() for reply in replies] == [False]
    assert [node for node, kind in grid.received if kind == "train"] == [11, 11]


def test_a_site_that_failed_is_not_asked_again(grid: NodesComeAndGo) -> None:
    fleet = Fleet(grid)
    fleet.assemble(2, [], timeout=5)
    grid.fails = {11: RAISED}
    replies = fleet.send_and_receive([train(fleet, "knee")], timeout=5)
    assert [reply.error.code for reply in replies] == [RAISED]


def test_the_wait_ends_with_what_is_there(grid: NodesComeAndGo) -> None:
    fleet = Fleet(grid)
    fleet.assemble(2, [], timeout=5)
    grid.silent = {11}
    replies = fleet.send_and_receive([train(fleet, "ankle"), train(fleet, "knee")], timeout=0.05)
    assert sources(fleet, replies) == ["ankle"]


def test_a_site_that_comes_back_with_other_exams_is_left_out(grid: NodesComeAndGo) -> None:
    fleet = Fleet(grid)
    fleet.assemble(2, [], timeout=5)
    grid.online[13] = SiteFacts("knee", 2)
    fleet.assemble(2, [], timeout=5)
    assert fleet.node_of("knee") == 11


def test_nobody_waits_for_a_site_that_came_back_as_what_cannot_take_part_until_it_can(grid: NodesComeAndGo) -> None:
    fleet = Fleet(grid)
    fleet.assemble(2, [], timeout=5)
    grid.silent = {11}
    grid.at_pull = lambda: grid.online.update({13: SiteFacts("knee", 5)})
    replies = fleet.send_and_receive([train(fleet, "ankle"), train(fleet, "knee")], timeout=600)
    assert sources(fleet, replies) == ["ankle"]
    grid.at_pull = lambda: None
    grid.online |= {14: SiteFacts("knee", 4)}
    fleet.assemble(2, [], timeout=0)
    replies = fleet.send_and_receive([train(fleet, "ankle"), train(fleet, "knee")], timeout=600)
    assert sources(fleet, replies) == ["ankle", "knee"]


def test_a_site_that_answered_and_came_back_as_another_node_is_still_known(grid: NodesComeAndGo) -> None:
    fleet = Fleet(grid)
    fleet.assemble(2, [], timeout=5)
    grid.silent = {12}

    def knee_restarts_then_ankle_answers() -> None:
        grid.online[13] = SiteFacts("knee", 4)
        if fleet.node_of("knee") == 13 and grid.silent:
            grid.silent = set()
            grid.online[14] = SiteFacts("ankle", 3)

    grid.at_pull = knee_restarts_then_ankle_answers
    replies = fleet.send_and_receive([train(fleet, "ankle"), train(fleet, "knee")], timeout=5)
    assert {reply.metadata.src_node_id for reply in replies} == {11, 14}
    assert sources(fleet, replies) == ["ankle", "knee"]


def test_messages_to_two_sites_that_have_left_wait_for_both(grid: NodesComeAndGo) -> None:
    fleet = Fleet(grid)
    fleet.assemble(2, [], timeout=5)
    messages = [train(fleet, "ankle"), train(fleet, "knee")]
    grid.online = {}

    def both_come_back() -> None:
        grid.online = {21: SiteFacts("knee", 4), 22: SiteFacts("ankle", 3)}

    grid.at_pull = both_come_back
    assert sources(fleet, fleet.send_and_receive(messages, timeout=5)) == ["ankle", "knee"]


@pytest.fixture
def admission(tmp_path: Path, grid: NodesComeAndGo) -> Admission:
    """Knee's key is node 11's and ankle's is node 12's."""
    admission = Admission(tmp_path)
    for node, site in ((11, "knee"), (12, "ankle")):
        grid.keys[node] = public_pem(new_private_key().public_key()).encode()
        admission.admit(SiteCard(site, grid.keys[node].decode()), datetime.now(UTC))
    return admission


def test_a_site_takes_part_under_the_name_of_its_key_alone(grid: NodesComeAndGo, admission: Admission) -> None:
    grid.online[12] = SiteFacts("knee", 4)  # ankle's key, knee's name
    grid.keys[13] = public_pem(new_private_key().public_key()).encode()
    grid.online[13] = SiteFacts("ankle", 3)  # nobody's key
    with pytest.raises(UnreachableError, match=r"1 of 2 sites.*\(knee\)"):
        Fleet(grid, admission=admission).assemble(2, [], timeout=0.05)
    assert 13 not in [node for node, _ in grid.received]


def test_an_admitted_site_of_another_version_is_named(
    grid: NodesComeAndGo, admission: Admission, caplog: pytest.LogCaptureFixture
) -> None:
    grid.online = {11: SiteFacts("knee", 4, protocol=PROTOCOL - 1)}
    with pytest.raises(UnreachableError, match=r"missing: knee \(another mtmd version\)"):
        Fleet(grid, admission=admission).assemble(1, ["knee"], timeout=0.05)
    assert f"knee is left out: it does not say what a site of protocol {PROTOCOL} says" in caplog.text


def test_a_site_that_comes_back_under_its_number_gets_its_message_again(
    grid: NodesComeAndGo, admission: Admission
) -> None:
    fleet = Fleet(grid, admission=admission)
    fleet.assemble(2, [], timeout=5)
    grid.silent = {11}

    def knee_comes_back() -> None:
        grid.since[11], grid.silent = "later", set()

    grid.at_pull = knee_comes_back
    assert sources(fleet, fleet.send_and_receive([train(fleet, "knee")], timeout=5)) == ["knee"]
    assert [node for node, kind in grid.received if kind == "train"] == [11, 11]


def test_at_roll_call_a_revoked_site_is_named_and_where_a_run_goes_on_not_waited_for(
    grid: NodesComeAndGo, admission: Admission
) -> None:
    admission.revoke("knee", datetime.now(UTC))
    fleet = Fleet(grid, admission=admission)
    assert fleet.revoked(["ankle", "hip", "knee"]) == ["knee"]
    with pytest.raises(UnreachableError, match=r"1 of 2 sites.*missing: knee \(revoked\)"):
        fleet.assemble(2, ["ankle", "knee"], timeout=0.01)
    assert list(fleet.assemble(2, ["ankle", "knee"], timeout=5, spare_revoked=True)) == ["ankle"]
    assert Fleet(grid).revoked(["knee"]) == []


def test_nobody_waits_for_a_site_that_was_revoked(grid: NodesComeAndGo, admission: Admission) -> None:
    fleet = Fleet(grid, admission=admission)
    fleet.assemble(2, [], timeout=5)
    grid.silent = {11}
    grid.at_pull = lambda: admission.revoke("knee", datetime.now(UTC))
    replies = fleet.send_and_receive([train(fleet, "ankle"), train(fleet, "knee")], timeout=None)
    assert sources(fleet, replies) == ["ankle"]
    assert fleet.send_and_receive([train(fleet, "knee")], timeout=None) == []
