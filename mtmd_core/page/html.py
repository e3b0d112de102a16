"""HTML that cannot be broken by what is put into it: all text is escaped, only :class:`Html` is taken as it is."""

from collections.abc import Iterable
from html import escape

_VOID = ("br", "col", "img", "meta")


class Html(str):
    """Markup that goes into a page as it is."""

    __slots__ = ()


def text(content: object) -> Html:
    """Anything as markup: :class:`Html` as it is, everything else as escaped text.

    >>> text("<script>"), text(Html("<br>"))
    ('&lt;script&gt;', '<br>')
    """
    return content if isinstance(content, Html) else Html(escape(str(content)))


def join(parts: Iterable[object], separator: str = "") -> Html:
    """Several pieces of content as one."""
    return Html(text(separator).join(map(text, parts)))


def element(name: str, /, *content: object, **attributes: object) -> Html:
    """An element with its content and attributes, all escaped.

    Underscores in an attribute's name stand for hyphens, one at its end keeps it from being a word of Python. An attribute
    that is None is left out.

    >>> element("td", "a < b", class_="wide", aria_label='"x"', title=None)
    '<td class="wide" aria-label="&quot;x&quot;">a &lt; b</td>'
    """
    spelt = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{spelt}>" + ("" if name in _VOID else f"{join(content)}</{name}>"))
