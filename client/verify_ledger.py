"""``mtmd-client ledger verify``: whether the record of everything that left the site is as it was written."""

import json
import time
from pathlib import Path

from mtmd_core.errors import ConfigurationError, DataError
from mtmd_core.quantities import say_bytes

from .ledger import START, verify


def verify_ledger(path: Path) -> int:
    """Verify a ledger's chain, and print what it holds; 0.

    Raises:
        ConfigurationError: if there is no ledger.
        DataError: naming the first line that was altered, removed or added later.
    """
    if not path.is_file():
        raise ConfigurationError(
            f"there is no ledger at {path}: nothing has left this site yet, or --state names another."
        )
    try:
        count = verify(path)
    except UnicodeDecodeError:
        raise DataError(f"{path} is no text, and no ledger: keep it as evidence, it was altered.") from None
    except ValueError as error:
        raise DataError(f"{error}: keep the file as evidence, it is not what was written.") from None
    runs: dict[str, set[int]] = {}
    size, first, last, chain = 0, None, None, START
    for text in path.read_text(encoding="utf-8").splitlines()[:count]:
        line = json.loads(text)
        size += line.get("bytes", 0)
        if line["run"]:
            runs.setdefault(line["run"], set()).add(line["round"])
        first, last, chain = first or line["time"], line["time"], line["chain"]
    print(f"{path}: {count} lines, the chain is whole")
    if count:
        print(f"  from {_moment(first)} to {_moment(last)}; {say_bytes(size)} of arrays")
    for run, rounds in runs.items():
        print(f"  run {run}: {len(rounds)} rounds, {min(rounds)} to {max(rounds)}")
    print(f"  last digest {chain}: note it elsewhere, for lines removed at the end leave no gap")
    return 0


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
