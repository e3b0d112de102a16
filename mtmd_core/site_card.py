"""What a hospital hands to the coordinator: the site's name and its public key, in one file."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from mtmd_core.credentials import key_fingerprint
from mtmd_core.durable import write_json
from mtmd_core.errors import ConfigurationError
from mtmd_core.sites import check_site_name

_LIMIT_BYTES = 10_000


@dataclass(frozen=True)
class SiteCard:
    """A site's name and its public key (PEM).

    Raises:
        ConfigurationError: if the name cannot name a site.
        ValueError: if the key is none.
    """

    site: str
    public_key: str

    def __post_init__(self) -> None:
        check_site_name(self.site)
        object.__setattr__(self, "_fingerprint", key_fingerprint(self.public_key))

    @property
    def fingerprint(self) -> str:
        """That of the key, for people to compare."""
        return self._fingerprint


def write_card(path: Path, card: SiteCard) -> None:
    """Write a card whole or not at all."""
    write_json(path, asdict(card))


def read_card(path: Path) -> SiteCard:
    """Read a card that came from a hospital.

    Raises:
        ConfigurationError: if the file is not there or no card.
    """
    try:
        with open(path, "rb") as file:
            content = json.loads(file.read(_LIMIT_BYTES))
        return SiteCard(**content)
    except FileNotFoundError:
        raise ConfigurationError(f"there is no file {path}; expected one that `mtmd-client enroll` wrote.") from None
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from None
    except (OSError, ValueError, TypeError):
        raise ConfigurationError(
            f"{path} is not a site's card: expected the file NAME-card.json that `mtmd-client enroll` wrote at the hospital, "
            "which holds its name and public key."
        ) from None
