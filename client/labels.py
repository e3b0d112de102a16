"""Where a site's structures lie among the classes of the network that a plan asks for."""

from mtmd_core.errors import ConfigurationError
from mtmd_core.strategies import EVERY_SITE, LabelSpace
from mtmd_core.wire import RoundPlan


def label_space(plan: RoundPlan, site: str, structures: int) -> LabelSpace:
    """Where a site's structures lie among the network's classes.

    Args:
        plan: of any round of the run.
        site: its name.
        structures: how many its exams have.

    Raises:
        ConfigurationError: if they do not fit among those of the plan.
    """
    if plan.label_classes == 0:
        return LabelSpace(site, 0, structures, structures + 1)
    if plan.label_offset + structures >= plan.label_classes:
        raise ConfigurationError(
            f"the plan has {plan.label_classes} classes in all and puts this site's {structures} structures after "
            f"{plan.label_offset}: they do not fit. Where the exams' structures have changed, tell the coordinator"
        )
    return LabelSpace(EVERY_SITE, plan.label_offset, structures, plan.label_classes)
