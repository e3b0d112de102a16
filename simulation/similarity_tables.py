"""How alike the domains' representations are under several methods, as tables: a column a scale."""

from collections.abc import Mapping, Sequence
from typing import Any

from mtmd_core.page.html import Html, element, join
from mtmd_core.page.numbers import number
from mtmd_core.page.similarities import sampled
from mtmd_core.page.tables import table

Lines = Sequence[Mapping[str, Any]]


def of_methods(lines: Lines) -> Html:
    """A row a method: its mean similarity within sites, then between them; from :func:`simulation.contenders.compare`."""
    scales = list(dict.fromkeys(line["scale"] for line in lines))
    by_method: dict[str, dict[str, Mapping[str, Any]]] = {}
    for line in lines:
        by_method.setdefault(line["method"], {})[line["scale"]] = line

    def of(kind: str, title: str) -> Html:
        rows = (
            [method, *(number(own.get(scale, {}).get(kind), 2) for scale in scales)]
            for method, own in by_method.items()
        )
        return table(f"Cosine similarity of embeddings {title}", ["Method", *scales], rows)

    shown = [of("within", "within sites"), of("between", "between sites")]
    note = "Mean over sites, or pairs of sites, and folds; training and validation slices. s5: bottleneck."
    return join([*shown, element("p", note, class_="note")]) if lines else Html()


def of_table5(rows: Lines) -> Html:
    """Table 5 of the paper: a table a network and strategy, from the rows of ``table5.csv``."""
    by_method: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        line = {"mean": row["similarity_mean"], "deviation": row["similarity_std"]}
        line |= {word: row[word] for word in ("scale", "domain", "other_domain", "pairs")}
        by_method.setdefault((row["backbone"], row["strategy"]), []).append(line)
    return join(sampled(lines, f"{strategy}, {backbone}") for (backbone, strategy), lines in by_method.items())
