"""The federation's only open port: encrypted, for admitted sites, and for the calls that a site makes.

Flower serves everything on one port and asks for no credential when a run is submitted or a node registered, so its SuperLink
listens on loopback and this stands in front. It hands on the calls of the Fleet API that a SuperNode makes, and answers
everything else with 404 or 405. Each call must be signed by a key that is admitted at that moment. A site that is revoked is
refused from its next call on; one that is admitted comes in without a restart.

``python -m server.door STATE LISTEN PORT SUPERLINK_PORT`` runs it.
"""

import contextlib
import logging
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mtmd_core.credentials import CredentialError, key_fingerprint, signer
from mtmd_core.errors import ConfigurationError
from mtmd_core.processes import die_with_parent

from .admission import Admission, Entry
from .authority import certificates_in
from .flower_internals import (
    ACTIVATE,
    DEACTIVATE,
    FLEET_PATH,
    MEDIA_TYPE,
    PUSH_MESSAGES,
    SITE_CALLS,
    deactivation,
    register_site,
    speaks_for_another,
)

KNOCK = "admission"
"""A call of our own beside Flower's: a site asks whether it may come in, and which site it is."""
LARGEST_BODY_BYTES = 32 * 2**20
"""Flower cuts arrays into pieces of 5 MiB."""
LINES_A_MINUTE = 100
"""Of the log that strangers can cause."""
UNAUTHORIZED = 401
"""What a SuperNode ends on, instead of trying again."""

log = logging.getLogger("mtmd.door")
refusals = logging.getLogger("mtmd.door.refused")
STRANGERS = (refusals.name, "uvicorn.error")
"""Whose lines anybody can cause who reaches the port."""


@dataclass
class Door:
    """What stands between the open port and the SuperLink.

    Args:
        admission: who may come in.
        superlink: a client whose base URL is the SuperLink.
        register: makes a site known to the SuperLink; the number of its node.
    """

    admission: Admission
    superlink: httpx.AsyncClient
    register: Callable[[Entry], int]
    _nodes: dict[str, int] = field(default_factory=dict)

    async def knock(self, request: Request) -> Response:
        """Tell a site who it is here."""
        return JSONResponse({"site": self._admitted(request).card.site})

    async def call(self, request: Request) -> Response:
        """Hand on one call of an admitted site, and the SuperLink's answer to it."""
        name = request.path_params["call"]
        if name not in SITE_CALLS:
            return Response(status_code=404)
        entry = self._admitted(request)
        if request.headers.get("content-type") != MEDIA_TYPE:
            return _refused(415, f"expected {MEDIA_TYPE}")
        body = await _read_body(request)
        if body is None:
            return _refused(413, f"more than {LARGEST_BODY_BYTES} bytes in one call")
        if name == PUSH_MESSAGES and speaks_for_another(body):
            log.warning("%s: a message that names another node as its sender was refused", entry.card.site)
            return _refused(UNAUTHORIZED, "a message must name its own sender")
        if name == ACTIVATE:
            await self._let_in(entry, request)
        return await self._forward(name, body, request)

    def _admitted(self, request: Request) -> Entry:
        """The admitted site that signed a request.

        Raises:
            CredentialError: if nobody did, or its key is not admitted now.
            ConfigurationError: if the list of sites cannot be read.
        """
        key = key_fingerprint(signer(request.headers, datetime.now(UTC)))
        entry = self.admission.of_key(key)
        if entry is None:
            raise CredentialError(
                f"the key with the fingerprint {key} is not admitted: hand the site's card to the coordinator, who runs "
                "`mtmd-server admit` with it."
            )
        if entry.revoked is not None:
            raise CredentialError(f"{entry.card.site} was revoked on {entry.revoked}: ask the coordinator.")
        return entry

    async def _let_in(self, entry: Entry, request: Request) -> None:
        """Before a site's program is activated: make the site known to the SuperLink, or say that its last program ended.

        One that was killed could not say so itself, and the SuperLink would refuse the next one for a minute. The site's
        own signature covers both calls: it is that of the time.
        """
        key = entry.card.fingerprint
        if key in self._nodes:
            await self._forward(DEACTIVATE, deactivation(self._nodes[key]), request)
        else:
            self._nodes[key] = await run_in_threadpool(self.register, entry)
        log.info("%s comes in", entry.card.site)

    async def _forward(self, call: str, body: bytes, request: Request) -> Response:
        headers = {name: value for name, value in request.headers.items() if name.startswith("flwr-")}
        headers |= {"content-type": MEDIA_TYPE, "accept": MEDIA_TYPE}
        answer = await self.superlink.post(FLEET_PATH + call, content=body, headers=headers)
        kept = {name: value for name, value in answer.headers.items() if name.startswith("flwr-")}
        return Response(answer.content, answer.status_code, kept, answer.headers.get("content-type"))


def build_app(door: Door) -> Starlette:
    """The ASGI application: two routes, and 404 (405 where only the method is another) for whatever else is asked."""

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with door.superlink:
            yield

    routes = [
        Route(FLEET_PATH + KNOCK, door.knock, methods=["GET"]),
        Route(FLEET_PATH + "{call}", door.call, methods=["POST"]),
    ]
    handlers = {CredentialError: _not_let_in, ConfigurationError: _unable, httpx.HTTPError: _unable}
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)
    app.router.redirect_slashes = False
    return app


def configured(state: Path, listen: str, port: int, superlink_port: int) -> uvicorn.Config:
    """How to serve: the newest TLS alone, with the certificate of the coordinator's folder."""
    superlink = f"127.0.0.1:{superlink_port}"
    # trust_env: no proxy of this machine's environment stands between two programs of its own
    client = httpx.AsyncClient(base_url=f"http://{superlink}", timeout=60.0, trust_env=False)
    door = Door(
        Admission(state), client, lambda entry: register_site(superlink, entry.card.public_key, entry.card.site)
    )
    certificates = certificates_in(state)
    config = uvicorn.Config(
        build_app(door),
        host=listen,
        port=port,
        ssl_certfile=certificates.server,
        ssl_keyfile=certificates.server_key,
        access_log=False,
        log_config=None,
        server_header=False,
        log_level="warning",
        limit_concurrency=256,
    )
    config.load()
    config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
    return config


async def _not_let_in(request: Request, error: Exception) -> Response:
    refusals.warning("from %s: %s", request.client.host if request.client else "nowhere", error)
    return _refused(UNAUTHORIZED, str(error))


async def _unable(_request: Request, error: Exception) -> Response:
    """A site tries again later; the reason is the coordinator's business."""
    log.error("%s: %s", type(error).__name__, error)
    return _refused(503, "the coordinator's server cannot answer just now")


def _refused(status: int, reason: str) -> JSONResponse:
    """A refusal in the form in which Flower's SuperNode finds the reason and logs it."""
    return JSONResponse({"code": status, "detail": reason}, status)


async def _read_body(request: Request) -> bytes | None:
    """A request's body; None if it is too long."""
    body = bytearray()
    with contextlib.suppress(ClientDisconnect):
        async for piece in request.stream():
            body += piece
            if len(body) > LARGEST_BODY_BYTES:
                return None
    return bytes(body)


class FewLines(logging.Filter):
    """Lets so many records through in a minute: whoever reaches the port can cause lines, and must not fill the disk.

    Args:
        most: records a minute.
        clock: seconds, of any beginning.
    """

    def __init__(self, most: int = LINES_A_MINUTE, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._most, self._clock = most, clock
        self._minute, self._passed, self._dropped = -1, 0, 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is logged; the first one after others were not says how many these were."""
        minute = int(self._clock() // 60)
        if minute != self._minute:
            if self._dropped:
                record.msg, record.args = f"{record.getMessage()} (before it {self._dropped} lines were left out)", ()
            self._minute, self._passed, self._dropped = minute, 0, 0
        self._passed += 1
        self._dropped += self._passed > self._most
        return self._passed <= self._most


if __name__ == "__main__":
    die_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    for name in STRANGERS:
        logging.getLogger(name).addFilter(FewLines())
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # until SIGTERM
    uvicorn.Server(configured(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))).run()
