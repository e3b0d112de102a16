"""The prototypes that sites released, as the coordinator's folder keeps them; read without disturbing a run."""

from pathlib import Path
from typing import Any

from mtmd_core.prototype_similarities import prototype_similarities
from mtmd_core.strategies import Contrast, strategy_named
from mtmd_core.tensor_files import DamagedFileError, peek_tensors

from .checkpoints import PROTOTYPES, Shelved


def released_prototypes(folder: Path, run: str | None) -> dict[str, Shelved]:
    """Site → its last prototypes, as of the last finished round; nothing where there are none.

    Args:
        folder: of the run.
        run: its name; a file of an older run in the same folder is passed over.
    """
    for which in ("last", "previous"):
        try:
            tensors, facts = peek_tensors(folder / "checkpoints" / f"{which}.safetensors", PROTOTYPES)
        except DamagedFileError:
            continue
        if facts["run"] != run:
            continue
        found: dict[str, Shelved] = {}
        for site, round_ in sorted(facts.get("prototypes", {}).items()):
            prefix = f"{PROTOTYPES}{site}/"
            own = {n.removeprefix(prefix): t.numpy() for n, t in tensors.items() if n.startswith(prefix)}
            found[site] = Shelved(round_, own)
        return found
    return {}


def told_by_prototypes(folder: Path, run: str | None, strategy: str) -> dict[str, Any]:
    """Similarities within and between sites for a page; empty where no prototypes were released.

    Returns:
        ``rounds``: site → the round at whose end it made its prototypes; ``lines``: of
        :func:`mtmd_core.prototype_similarities.prototype_similarities`.
    """
    kept = released_prototypes(folder, run)
    if not kept:
        return {}
    single_scale = strategy_named(strategy).contrast is Contrast.SINGLE_SCALE
    lines = prototype_similarities({site: own.arrays for site, own in kept.items()}, single_scale)
    return {"rounds": {site: own.round for site, own in kept.items()}, "lines": lines}
