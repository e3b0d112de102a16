"""A page: one HTML document with its style inside, which fetches nothing and needs no script."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from .html import Html, element, join

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""What a browser may fetch for a page: nothing."""


@dataclass(frozen=True)
class Section:
    """A part of a page that the table of contents names; without content it is left out."""

    name: str
    title: str
    content: Html


def document(
    title: str,
    lead: object,
    sections: Sequence[Section],
    notice: str | None = None,
    refresh_seconds: int | None = None,
) -> str:
    """The whole page.

    Args:
        title: of the page.
        lead: what comes before the first section.
        sections: those that are empty are left out.
        notice: what a reader must know first, for example that a run was interrupted.
        refresh_seconds: how often a browser loads the page anew; None for a page that is written once.
    """
    shown = [section for section in sections if section.content]
    links = (element("li", element("a", section.title, href=f"#{section.name}")) for section in shown)
    style = Html((files("mtmd_core.page") / "style.css").read_text(encoding="utf-8"))
    head = [
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        *([element("meta", http_equiv="refresh", content=refresh_seconds)] if refresh_seconds else []),
        element("title", title),
        element("style", style),
    ]
    body = [
        element("header", element("h1", title), element("p", notice, class_="notice", role="status") if notice else ""),
        element("nav", element("ul", *links), aria_label="Contents") if len(shown) > 1 else "",
        element("main", lead, *map(_section, shown)),
    ]
    root = element("html", element("head", join(head, "\n")), "\n", element("body", join(body, "\n")), lang="en")
    return f"<!DOCTYPE html>\n{root}\n"


def _section(section: Section) -> Html:
    heading = element("h2", section.title, id=f"{section.name}-title")
    return element("section", heading, section.content, id=section.name, aria_labelledby=f"{section.name}-title")
