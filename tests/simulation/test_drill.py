"""The drill itself: it must see what goes wrong. A short one with real processes, one event of which has no protection."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np
import pytest
from flwr.app import RecordDict
from made_prototypes import SIZES, prototype_arrays
from records import arrays_in, record_of
from rich.console import Console

from mtmd_core.prototype_arrays import refusal
from mtmd_core.wire import PROTOTYPES, SHARED
from simulation.drill import command, replies
from simulation.drill.disk import small_disk
from simulation.drill.faults import FAULTS, spoil
from simulation.drill.orders import Orders
from simulation.drill.premises import Premises
from simulation.drill.records import Records
from simulation.drill.stage import Drill, Stage
from simulation.drill.table import as_json, print_verdicts
from simulation.drill.undisturbed import check_figures
from simulation.drill.verdict import Event, Findings, StuckError, Verdict, stuck

BAD = {bad.event.name: bad for bad in replies.REPLIES}
TOLD = "knee: the server left out the reply of round 3: not_finite (…)\n"
SITES = ("ankle", "knee", "shoulder")


def closed(round_: int, time: float) -> dict:
    return {"event": "round_closed", "time": time, "round": round_}


def refused(
    site: str = "knee", reason: str = "not_finite", event: str = "refused", round_: int = 3, **more: str
) -> dict:
    return {"event": event, "time": 10.0, "round": round_, "site": site, "reason": reason, **more}


def used(round_: int, *sites: str, **figures: float) -> list[dict]:
    return [{"round": round_, "site": site, "steps": 2, "loss": 0.5, "update_norm": 1.0, **figures} for site in sites]


def records(*noted: dict, third: tuple[str, ...] = ("ankle", "shoulder"), fourth: tuple[str, ...] = SITES) -> Records:
    """A run whose third round had a bad reply of knee."""
    return Records((*noted, closed(3, 10.5), closed(4, 12.5)), (*used(3, *third), *used(4, *fourth)))


def test_a_reply_left_out_for_its_own_reason_and_nothing_else_has_passed() -> None:
    verdict = replies.judge(BAD["nan"], "knee", 3, records(refused()), TOLD)
    assert (verdict.passed, verdict.lost, verdict.seconds) == (True, "none", 2.5)
    assert verdict.seen == "knee left out: not_finite; the site was told; its next reply used"


WRONG = {
    "used": (records(third=SITES), "", "left out: none, expected knee not_finite"),
    "another reason": (records(refused(reason="outlying_norm")), TOLD, "left out: knee outlying_norm"),
    "another site too": (
        records(refused(), refused("ankle"), third=("shoulder",)),
        TOLD,
        "ankle not_finite, knee not_",
    ),
    "not told": (records(refused()), "", "the site was not told"),
    "a good one missing": (records(refused(), third=("ankle",)), TOLD, "the round used ['ankle']"),
    "not used again": (records(refused(), fourth=("ankle", "shoulder")), TOLD, "its reply of round 4 was not used"),
    "prototypes too": (
        records(refused(), refused(event="prototypes_left_out", detail="x")),
        TOLD,
        "prototypes left out",
    ),
    "stuck": (Records((refused(),), ()), TOLD, "round 3 was never closed"),
}


@pytest.mark.parametrize(("seen", "told", "said"), WRONG.values(), ids=WRONG.keys())
def test_any_other_outcome_of_a_bad_reply_has_failed(seen: Records, told: str, said: str) -> None:
    verdict = replies.judge(BAD["nan"], "knee", 3, seen, told)
    assert not verdict.passed
    assert said in verdict.seen


def test_a_reply_that_comes_twice_must_be_used_once() -> None:
    once = replies.judge(BAD["repeated"], "knee", 3, records(third=SITES), "")
    twice = replies.judge(BAD["repeated"], "knee", 3, records(third=("ankle", "knee", "knee", "shoulder")), "")
    assert (once.passed, twice.passed) == (True, False)


def test_prototypes_must_be_left_out_for_their_own_reason_and_the_rest_be_used() -> None:
    noted = refused(event="prototypes_left_out", detail="not finite: s1")
    other = {**noted, "detail": "too few"}
    outcomes = [records(noted, third=SITES), records(third=SITES), records(noted), records(other, third=SITES)]
    judged = [replies.judge(BAD["prototype_nan"], "knee", 3, seen, "").passed for seen in outcomes]
    assert judged == [True, False, False, False]


def test_one_other_bit_in_a_round_counts_as_lost() -> None:
    reference = Records((), tuple(used(1, *SITES) + used(2, *SITES)))
    for own, lost in (
        (reference.lines, []),
        ((*used(1, *SITES), *used(2, *SITES, loss=0.5000000000000001)), ["figures of round 2"]),
        (used(1, *SITES), ["figures of round 2"]),
    ):
        findings = Findings()
        check_figures(findings, Records((), tuple(own)), reference, range(1, 3))
        assert (findings.lost, bool(findings.wrong)) == (lost, bool(lost))


@pytest.mark.parametrize("fault", [fault for fault, (record, _) in FAULTS.items() if record == SHARED])
def test_every_fault_changes_a_reply(fault: str) -> None:
    arrays = {"conv.bias": np.ones(2, np.float32), "conv.weight": np.ones((2, 3), np.float32)}

    def content() -> RecordDict:
        return RecordDict({SHARED: record_of(arrays)})

    spoilt = content()
    spoil(spoilt, fault)
    now = arrays_in(spoilt[SHARED])
    same = now.keys() == arrays.keys() and all(
        (now[name].dtype, now[name].shape) == (array.dtype, array.shape) and np.array_equal(now[name], array)
        for name, array in arrays.items()
    )
    assert not same
    with pytest.raises(ValueError, match="no fault 'typo'"):
        spoil(content(), "typo")


@pytest.mark.parametrize("name", [name for name, (record, _) in FAULTS.items() if record == PROTOTYPES])
def test_every_fault_of_prototypes_is_refused_as_what_it_is(name: str) -> None:
    arrays = prototype_arrays()
    content = RecordDict({PROTOTYPES: record_of(arrays)})
    assert refusal(arrays, SIZES) is None
    spoil(content, name)
    assert BAD[name].prototypes in refusal(arrays_in(content[PROTOTYPES]), SIZES)


def test_orders_hold_once_and_are_passed_by_after_that(tmp_path: Path) -> None:
    orders = Orders.give(tmp_path, {3: "nan"}, [2])
    assert (orders.fault(3), orders.fault(2), orders.is_stopped(2)) == ("nan", None, False)
    orders.go(2)
    for round_ in (1, 2, 2):
        orders.stop(round_)
    assert (orders.is_stopped(1), orders.is_stopped(2)) == (False, True)


WRITER = """
import sys
from pathlib import Path
for line in sys.stdin:
    try:
        Path(sys.argv[1], "state").write_bytes(bytes(5000))
        print("written", flush=True)
    except OSError as error:
        print(error.strerror, flush=True)
"""


def test_where_no_disk_may_be_mounted_a_limit_on_files_stands_in(tmp_path: Path) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    with writer, small_disk(tmp_path, 2**20, mount=False) as disk:

        def attempt() -> str:
            writer.stdin.write("\n")
            return writer.stdout.readline().strip()

        said = [attempt()]
        disk.fill([writer.pid])
        said.append(attempt())
        disk.free()
        said.append(attempt())
        assert (said, disk.kind) == (["written", "File too large", "written"], "RLIMIT_FSIZE")
        writer.stdin.close()


def test_the_table_says_what_failed_and_programs_get_the_same() -> None:
    event = Event("server_killed", "kill -9", "same figures")
    good, bad = Findings(["resumed"]).verdict(event, 4.2), stuck(event, StuckError("[never] closed"))
    console = Console(width=100, record=True, file=open("/dev/null", "w", encoding="utf-8"))  # noqa: SIM115
    with console.file:
        print_verdicts([good, bad], 9.0, console)
    said = console.export_text()
    assert all(words in said for words in ("resumed", "4.2", "[never] closed", "FAIL", "1 of 2 events passed"))
    assert json.loads(as_json([good], 9.0))["passed"] is True
    told = json.loads(as_json([good, bad], 9.0))
    assert (told["passed"], [entry["passed"] for entry in told["events"]]) == (False, [True, False])
    assert told["events"][1]["lost"] == "not known"


def test_every_event_has_a_name_of_its_own() -> None:
    names = [event.name for stage in command.STAGES for event in stage.events]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only", "nann"], "there is no event 'nann'; did you mean 'nan'"),
        (["rounds"], "unknown word 'rounds'"),
    ],
)
def test_what_is_no_event_and_no_word_is_refused(words: list[str], said: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(words)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_a_short_drill_passes_what_is_protected_and_fails_what_is_not(tmp_path: Path) -> None:
    """As a coordinator runs it. All is as in production, but for the limit on norms: the run's own configuration has none."""
    events = ["nan", "huge", "server_killed"]
    words = [word for event in events for word in ("--only", event)]
    done = subprocess.run(
        [sys.executable, "-m", "server.command", "drill", "--format", "json", "--folder", str(tmp_path / "drill"), *words,
         "federation.outlying_norm_factor=null"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    verdicts = json.loads(done.stdout)["events"]
    assert [(entry["event"], entry["passed"]) for entry in verdicts] == [
        ("server_killed", True), ("nan", True), ("huge", False),
    ], done.stdout  # fmt: skip
    assert done.returncode == 1
    killed, nan, huge = verdicts
    assert (nan["lost"], killed["lost"]) == ("none", "none")
    assert "not_finite" in nan["seen"]
    assert "outlying_norm" not in huge["seen"].partition("expected")[0]
    assert killed["seconds"] > 0
    assert (tmp_path / "drill" / "02-replies" / "server" / "audit.jsonl").is_file()  # kept where one failed


def test_ctrl_c_ends_a_drill_and_all_that_it_started(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "server.command", "drill", "--only", "nan", "--folder", str(tmp_path / "drill")],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    with process:
        assert process.stdout.readline().startswith("making exams")
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 130
    deadline = time.monotonic() + 30
    while _mentioning(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert _mentioning(tmp_path) == []


def _mentioning(folder: Path) -> list[str]:
    """The processes whose command line names a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found += [path.parent.name] if str(folder).encode() in path.read_bytes() else []
    return found


def test_what_the_drill_trips_over_fails_that_event_and_the_others_are_tried_all_the_same(tmp_path: Path) -> None:
    events = tuple(Event(name, "", "") for name in ("first", "second", "third"))
    tried = []

    def run(drill: Drill, wanted: Sequence[Event]) -> Generator[Verdict, None, None]:
        tried.append([event.name for event in wanted])
        for event in wanted:
            if event.name == "second":
                (tmp_path / "nothing").read_text()
            yield Findings(["well"]).verdict(event, 1.0)

    verdicts = Stage("a stage", events, run).verdicts(Drill(Premises(tmp_path, 1), tmp_path), events)
    assert [(verdict.event.name, verdict.passed) for verdict in verdicts] == [
        ("first", True), ("second", False), ("third", True),
    ]  # fmt: skip
    assert "FileNotFoundError" in verdicts[1].seen
    assert tried == [["first", "second", "third"], ["third"]]
