"""Machines of a federation as folders: certificates, enrolled sites and their exams, made as in production."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from client.settings import OWN_FILE
from mtmd_core.processes import child_environment, free_port

from .exams import SITES, write_exams
from .verdict import StuckError

HOST = "127.0.0.1"
STRANGER = "hip"
"""A site with a key that nobody admitted."""
STRATEGIES = "dsl,dsl_ssc"
COMMAND_SECONDS = 120.0
"""How long a command that ends by itself may take."""


@dataclass(frozen=True)
class Premises:
    """What all federations of a drill begin with, in a folder; they use one port, one after another."""

    folder: Path
    port: int

    @classmethod
    def make(cls, folder: Path) -> "Premises":
        """Make exams, certificates and keys with the commands that a coordinator and hospitals use.

        Raises:
            StuckError: if one of the commands fails.
        """
        premises = cls(folder, free_port())
        premises._init(premises.server)
        premises._init(folder / "elsewhere")
        (premises.server / "server.yaml").write_text(yaml.safe_dump({"listen": HOST}), encoding="utf-8")
        for site, structures in (SITES | {STRANGER: 1}).items():
            premises._enrol(site, structures)
        return premises

    @property
    def server(self) -> Path:
        """The coordinator's folder."""
        return self.folder / "server"

    @property
    def other_authority(self) -> Path:
        """The certificate of an authority that has nothing to do with this federation."""
        return self.folder / "elsewhere" / "tls" / "authority.pem"

    def site(self, name: str) -> Path:
        """A site's own folder."""
        return self.folder / "sites" / name

    def exams(self, site: str) -> Path:
        """A site's exams."""
        return self.folder / "exams" / site

    def copy_to(self, folder: Path) -> None:
        """Make another federation's folders like these, before anybody joined."""
        for part in ("server", "sites"):
            shutil.copytree(self.folder / part, folder / part)

    def _init(self, state: Path) -> None:
        call("server.command", "init", "--state", str(state), "--name", HOST, folder=self.folder)

    def _enrol(self, site: str, structures: int) -> None:
        exams, state = write_exams(self.exams(site), site, structures), self.site(site)
        call(
            "client.command", "enroll", "--site", site, "--state", str(state), "--data", str(exams), "--threads", "1",
            "--server", f"{HOST}:{self.port}", "--authority", str(self.server / "tls" / "authority.pem"),
            "--strategies", STRATEGIES, folder=self.folder,
        )  # fmt: skip
        with open(state / OWN_FILE, "a", encoding="utf-8") as file:
            yaml.safe_dump(
                {"limits": {"min_round_slices": 1}}, file
            )  # a drill's rounds take a second, and its exams are noise
        if site != STRANGER:
            call(
                "server.command",
                "admit",
                "--state",
                str(self.server),
                str(state / f"{site}-card.json"),
                folder=self.folder,
            )


def attempt(module: str, *words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run one of mtmd's commands to its end, whatever that is.

    Raises:
        StuckError: if it does not end in time.
    """
    command: Sequence[str] = [sys.executable, "-m", module, *words]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return subprocess.run(
            command, cwd=folder, env=child_environment({}), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=COMMAND_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise StuckError(f"`{module} {words[0]}` did not end within {COMMAND_SECONDS:g} s") from None


def call(module: str, *words: str, folder: Path) -> str:
    """Run one of mtmd's commands, which must succeed; what it printed.

    Raises:
        StuckError: if it fails or does not end in time.
    """
    done = attempt(module, *words, folder=folder)
    if done.returncode:
        raise StuckError(f"`{module} {words[0]}` ended with {done.returncode}: {' '.join(done.stderr.split())[-300:]}")
    return done.stdout
