"""The open port: what it hands on, what it answers with 404, and whom it refuses with which words."""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from enrolled import make_certificates
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PushMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata
from flwr.proto.node_pb2 import Node

from mtmd_core.credentials import new_private_key, public_pem, signed_headers
from mtmd_core.site_card import SiteCard
from server.admission import Admission, Entry
from server.authority import certificates_in
from server.door import LARGEST_BODY_BYTES, Door, FewLines, build_app, configured
from server.flower_internals import MEDIA_TYPE

KEY = new_private_key()
CARD = SiteCard("ankle", public_pem(KEY.public_key()))


class OpenPort:
    """The door in this process, before a SuperLink that notes what reaches it and answers with the path."""

    def __init__(self, state: Path) -> None:
        self.admission = Admission(state)
        self.reached: list[str] = []
        self.registered: list[str] = []
        self.admission.admit(CARD, datetime.now(UTC))

    def ask(
        self, path: str, body: bytes = b"", *, method: str = "POST", headers: dict[str, str] | None = None
    ) -> httpx.Response:
        """One request with ankle's signature, or with other headers."""
        headers = signed_headers(KEY, datetime.now(UTC)) if headers is None else headers
        return asyncio.run(self._ask(method, path, body, {"content-type": MEDIA_TYPE, **headers}))

    async def _ask(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
        superlink = httpx.AsyncClient(transport=httpx.MockTransport(self._superlink), base_url="http://superlink")
        door = Door(self.admission, superlink, self._register, dict.fromkeys(self.registered, 7))
        transport = httpx.ASGITransport(build_app(door))
        async with superlink, httpx.AsyncClient(transport=transport, base_url="https://door") as client:
            return await client.request(method, path, content=body, headers=headers)

    def _superlink(self, request: httpx.Request) -> httpx.Response:
        self.reached.append(request.url.path)
        return httpx.Response(200, content=request.url.path.encode())

    def _register(self, entry: Entry) -> int:
        self.registered.append(entry.card.fingerprint)
        return 7


@pytest.fixture
def port(tmp_path: Path) -> Iterator[OpenPort]:
    return OpenPort(tmp_path)


def test_a_call_of_an_admitted_site_is_handed_on_and_answered(port: OpenPort) -> None:
    answer = port.ask("/v1/fleet/pull-messages")
    assert (answer.status_code, answer.text) == (200, "/v1/fleet/pull-messages")
    knock = port.ask("/v1/fleet/admission", method="GET")
    assert knock.json() == {"site": "ankle"}
    assert port.reached == ["/v1/fleet/pull-messages"]


@pytest.mark.parametrize(
    "path",
    [
        "/", "/health", "/docs", "/v1/control/start-run", "/v1/control/register-node", "/v1/runtime/pull-task-input",
        "/v1/fleet/register-node", "/v1/fleet/unregister-node", "/v1/fleet/", "/v1/fleet/../control/start-run",
        "/v1/fleet/..%2Fcontrol%2Fstart-run", "/v1/fleet/admission/", "/v1/fleet/pull-messages/x", "//v1/control/start-run",
    ],
)  # fmt: skip
def test_everything_else_is_not_there_even_for_an_admitted_site(path: str, port: OpenPort) -> None:
    assert port.ask(path).status_code == 404
    assert port.reached == []


def test_who_is_not_admitted_is_refused_with_the_reason(port: OpenPort) -> None:
    now, stranger = datetime.now(UTC), new_private_key()
    forged = {**signed_headers(stranger, now), "flwr-public-key": signed_headers(KEY, now)["flwr-public-key"]}
    refusals = {
        "not signed": {},
        "is not admitted": signed_headers(stranger, now),
        "signature is not that of the key": forged,
        "400 s old by the server's clock": signed_headers(KEY, now - timedelta(seconds=400)),
        "60 s in the future by the server's clock": signed_headers(KEY, now + timedelta(seconds=60)),
    }
    for reason, headers in refusals.items():
        answer = port.ask("/v1/fleet/pull-messages", headers=headers)
        assert answer.status_code == 401
        assert reason in answer.json()["detail"].replace("399 s", "400 s").replace("59 s", "60 s")
    assert port.reached == []


def test_nothing_older_than_tls_1_3_is_spoken(tmp_path: Path) -> None:
    make_certificates(tmp_path)
    listening = configured(tmp_path, "127.0.0.1", 0, 9).ssl
    calling = ssl.create_default_context(cafile=str(certificates_in(tmp_path).authority))
    assert _shake_hands(calling, listening) == "TLSv1.3"
    calling.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol"):
        _shake_hands(calling, listening)


def _shake_hands(calling: ssl.SSLContext, listening: ssl.SSLContext) -> str | None:
    """The version on which two sides in this process agree."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        calling.wrap_bio(back, there, server_hostname="127.0.0.1"),
        listening.wrap_bio(there, back, server_side=True),
    ]
    for _ in range(3):
        for side in sides:
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    return sides[0].version()


def test_who_knocks_at_random_cannot_fill_the_disk_with_the_log() -> None:
    now = 0.0
    few = FewLines(2, lambda: now)
    records = [logging.makeLogRecord({"msg": "refused, from %s", "args": (place,)}) for place in range(6)]
    assert [few.filter(record) for record in records[:4]] == [True, True, False, False]
    now = 61.0
    assert [few.filter(record) for record in records[4:]] == [True, True]
    said = [record.getMessage() for record in records[4:]]
    assert said == ["refused, from 4 (before it 2 lines were left out)", "refused, from 5"]


def test_a_revoked_site_is_refused_from_its_next_call_on_and_comes_in_again_when_admitted(port: OpenPort) -> None:
    assert port.ask("/v1/fleet/pull-messages").status_code == 200
    port.admission.revoke("ankle", datetime.now(UTC))
    answer = port.ask("/v1/fleet/pull-messages")
    assert (answer.status_code, "ankle was revoked on" in answer.json()["detail"]) == (401, True)
    port.admission.admit(CARD, datetime.now(UTC))
    assert port.ask("/v1/fleet/pull-messages").status_code == 200


def test_a_site_is_registered_once_and_a_program_that_was_killed_makes_way_for_the_next(port: OpenPort) -> None:
    body = ActivateNodeRequest(public_key=CARD.public_key.encode(), heartbeat_interval=30).SerializeToString()
    for _ in range(2):
        assert port.ask("/v1/fleet/activate-node", body).status_code == 200
    assert port.registered == [CARD.fingerprint]
    assert port.reached == [f"/v1/fleet/{call}" for call in ("activate-node", "deactivate-node", "activate-node")]


@pytest.mark.parametrize("sender", [1, 8])
def test_a_site_speaks_neither_for_another_nor_for_the_coordinator(sender: int, port: OpenPort) -> None:
    def push(source: int) -> int:
        message = Message(metadata=Metadata(src_node_id=source, dst_node_id=9))
        body = PushMessagesRequest(node=Node(node_id=7), messages_list=[message]).SerializeToString()
        return port.ask("/v1/fleet/push-messages", body).status_code

    assert (push(7), push(sender)) == (200, 401)
    assert port.ask("/v1/fleet/push-messages", b"\xff").status_code == 401
    assert port.reached == ["/v1/fleet/push-messages"]


def test_what_no_supernode_sends_is_not_handed_on(port: OpenPort) -> None:
    signed = signed_headers(KEY, datetime.now(UTC))
    other = port.ask("/v1/fleet/pull-messages", headers={**signed, "content-type": "application/json"})
    long = port.ask("/v1/fleet/push-object", bytes(LARGEST_BODY_BYTES + 1))
    assert (other.status_code, long.status_code, port.reached) == (415, 413, [])


def test_a_list_of_sites_that_cannot_be_read_lets_nobody_in(port: OpenPort, tmp_path: Path) -> None:
    (tmp_path / "admission" / "ankle.json").write_text("{")
    answer = port.ask("/v1/fleet/pull-messages")
    assert (answer.status_code, port.reached) == (503, [])
    assert str(tmp_path) not in answer.text
