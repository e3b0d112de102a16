"""How many images of a site methods were trained on, and whether a comparison of them is one of methods alone."""

from collections.abc import Iterable, Mapping

UNEQUAL = 1.25
"""Methods whose numbers of images differ by more than this factor did not see as many: batches that are not full explain less."""


def images_a_site(runs: Iterable[Mapping[str, int]]) -> int | None:
    """Mean over runs and sites of site → images, as summaries hold them under ``images``, to the nearest; None without any.

    >>> images_a_site([{"ankle": 10, "knee": 20}, {"ankle": 30, "knee": 60}])
    30
    """
    counts = [count for run in runs for count in run.values()]
    return round(sum(counts) / len(counts)) if counts else None


def unequal_images(methods: Mapping[str, int | None]) -> str | None:
    """One line for people where methods saw different numbers of images of a site, and how to let them see as many.

    Args:
        methods: title → images a site; None where it is not known.
    """
    known = {title: count for title, count in methods.items() if count}
    if not known:
        return None
    most, fewest = max(known, key=known.get), min(known, key=known.get)
    ratio = known[most] / known[fewest]
    if ratio <= UNEQUAL:
        return None
    return (
        f"{most} saw {ratio:.1f} times as many images of a site as {fewest}, so that they differ in more than the method: "
        "in a step, a site alone fills the whole batch by itself. With epochs they see as many (training.epochs and no "
        "training.steps; in a federation federation.local_epochs), and so do the rungs of experiment=ladder."
    )
