"""What :mod:`server.flower_internals` and the server's use of Flower's commands rely on inside Flower."""

import importlib
import inspect

import flwr
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_HEADER, TIMESTAMP_TOLERANCE, ErrorCode
from flwr.supercore import constant
from flwr.supercore.inflatable.inflatable_utils import ObjectUnavailableError, pull_objects
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
from flwr.supercore.superexec import run_superexec
from flwr.superlink.grid import http_grid
from flwr.superlink.routers.fleet import node_auth

from mtmd_core import credentials
from server import flower_internals


def test_flower_is_the_minor_version_that_this_was_written_for() -> None:
    assert flwr.__version__.split(".")[:2] == ["1", "41"]


def test_the_waits_for_parts_of_a_reply_can_be_shortened() -> None:
    assert {"initial_backoff", "backoff_cap"} <= set(inspect.signature(pull_objects).parameters)
    assert "pull_objects(" in inspect.getsource(http_grid.HttpGrid.pull_messages)
    flower_internals.shorten_waits()
    assert http_grid.pull_objects.func is pull_objects
    assert http_grid.pull_objects.keywords["initial_backoff"] < 1


def test_a_reply_is_waited_for_longer_than_flower_keeps_an_upload_open() -> None:
    flower_internals.shorten_waits()
    looks = iter(range(flower_internals.OBJECT_TRIES - 1))

    def pull(object_id: str) -> bytes:
        if next(looks, None) is not None:
            raise ObjectUnavailableError(object_id)
        return b"there"

    assert http_grid.pull_objects(["part"], pull, initial_backoff=0, backoff_cap=0) == {"part": b"there"}
    patience = flower_internals.OBJECT_TRIES * flower_internals.OBJECT_WAIT_SECONDS[1]
    assert patience > constant.OBJECT_PUSH_SESSION_TTL_SECONDS


def test_words_of_the_superlinks_command_line() -> None:
    command = importlib.import_module("flwr.superlink.cli.flower_superlink")
    known = command._parse_args_run_superlink()._option_string_actions
    used = ("--insecure", "--host", "--port", "--disable-runtime-dependency-installation")
    assert [word for word in used if word not in known] == []
    assert run_superexec._TASK_POLL_INTERVAL_ENV == "FLWR_SUPEREXEC_TASK_POLL_INTERVAL"


def test_failures_of_a_sites_own_program_have_codes_of_their_own() -> None:
    assert ErrorCode.CLIENT_APP_RAISED_EXCEPTION in flower_internals._SITE_ERRORS
    assert ErrorCode.CLIENT_APP_CRASHED not in flower_internals._SITE_ERRORS


def test_a_site_signs_as_flowers_supernode_does_and_the_time_alone() -> None:
    assert credentials.PUBLIC_KEY_HEADER == constant.FLEET_HTTP_PUBLIC_KEY_HEADER
    assert credentials.SIGNATURE_HEADER == constant.FLEET_HTTP_SIGNATURE_HEADER
    assert credentials.TIMESTAMP_HEADER == TIMESTAMP_HEADER
    assert credentials.OLDEST_SECONDS == TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE
    assert credentials.NEWEST_SECONDS == -SYSTEM_TIME_TOLERANCE
    assert 'timestamp.encode("ascii"), signature' in inspect.getsource(node_auth.authenticate_node)


def test_the_calls_that_are_handed_on_are_flowers_but_for_registering() -> None:
    paths = {path for method, path in PROTOBUF_REQUEST_TYPES if path.startswith(flower_internals.FLEET_PATH)}
    handed_on = {flower_internals.FLEET_PATH + call for call in flower_internals.SITE_CALLS}
    assert paths - handed_on == {"/v1/fleet/register-node", "/v1/fleet/unregister-node"}
    assert handed_on <= paths
