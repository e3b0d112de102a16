"""Pictures of a folder, inside the page: PNG files as data, with their captions."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path

from .html import Html, element, join

FOLDER = "figures"
CAPTIONS = "captions.json"
"""File in ``figures/``: file name → caption."""


def figures(folder: Path, captions: Mapping[str, str] | None = None) -> Html:
    """Every PNG of a folder and of its ``figures/``, in the order of names.

    Args:
        folder: of a run or a study.
        captions: of pictures beside ``figures/``; a picture without one is called after its file.
    """
    place = folder / FOLDER
    found = [(path, (captions or {}).get(path.name)) for path in sorted(folder.glob("*.png"))]
    known = known_captions(place)
    found += [(path, known.get(path.name)) for path in sorted(place.glob("*.png"))]
    return join(_picture(path, caption or path.stem.replace("_", " ")) for path, caption in found)


def _picture(path: Path, caption: str) -> Html:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    image = element("img", src=f"data:image/png;base64,{data}", alt=caption)
    return element("figure", image, element("figcaption", caption), class_="picture")


def known_captions(place: Path) -> dict[str, str]:
    """What ``captions.json`` says; nothing where there is none or it cannot be read: a page is worth more than a caption."""
    try:
        content = json.loads((place / CAPTIONS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(name): str(caption) for name, caption in content.items()} if isinstance(content, dict) else {}
