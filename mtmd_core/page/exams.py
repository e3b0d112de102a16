"""A site's exams on a page: how many there are, their slices, and which exam is in which part of the split."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .html import Html, join
from .numbers import Number, number
from .tables import folded, table

if TYPE_CHECKING:
    from mtmd_core.data.site_data import SiteData
    from mtmd_core.data.split import Split

PARTS = ("train", "validation", "test")


def describe(data: "SiteData", split: "Split") -> dict[str, Any]:
    """A site's exams as JSON holds them.

    Returns:
        ``structures``: their names; ``slice_axis``; ``slices``: of each part; ``exams``: a list, in order of names, of
        ``name``, ``part``, ``slices``, ``voxels`` along each axis and ``spacing_mm``.
    """
    part_of = {name: part for part, names in split.as_dict().items() for name in names}
    exams = [
        {
            "name": name,
            "part": part_of[name],
            "slices": len(exam.images),
            "voxels": [int(length) for length in exam.truth.shape],
            "spacing_mm": [round(float(length), 4) for length in exam.spacing_mm],
        }
        for name, exam in data.exams.items()
    ]
    slices = {part: sum(exam["slices"] for exam in exams if exam["part"] == part) for part in PARTS}
    return {"structures": list(data.structures), "slice_axis": data.axis, "slices": slices, "exams": exams}


def exams(data: Mapping[str, Mapping[str, Any]]) -> Html:
    """A table of sites, and one of all exams folded away."""
    sites = table(
        "Sites: exams and slices",
        ["Site", "Structures", "Exams", *(f"{part.capitalize()}: exams" for part in PARTS), *_slice_titles()],
        ([site, ", ".join(own["structures"]), *_counts(own)] for site, own in data.items()),
    )
    rows = [
        [
            site,
            exam["name"],
            exam["part"],
            number(exam["slices"]),
            Number(" × ".join(str(number(length)) for length in exam["voxels"])),
            Number(" × ".join(str(number(length, 2)) for length in exam["spacing_mm"])),
        ]
        for site, own in data.items()
        for exam in own["exams"]
    ]
    header = ["Site", "Exam", "Part", "Slices", "Voxels", "Spacing, mm"]
    return join([sites, folded(f"All exams ({len(rows)})", table("Exams", header, rows))]) if rows else sites


def _slice_titles() -> list[str]:
    return [f"{part.capitalize()}: slices" for part in PARTS]


def _counts(own: Mapping[str, Any]) -> list[Number]:
    parts = [exam["part"] for exam in own["exams"]]
    counts = [len(parts), *(parts.count(part) for part in PARTS), *(own["slices"][part] for part in PARTS)]
    return [Number(count) for count in counts[:4]] + [number(count) for count in counts[4:]]
