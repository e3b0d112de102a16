"""Why a server leaves a site's reply out: one word for programs, what it means for people.

Light on purpose: a command that shows them must not wait for NumPy.
"""

from enum import StrEnum


class Reason(StrEnum):
    """Why the server leaves a reply out; what each means to a person is in :data:`MEANING`."""

    NO_REPLY = "no_reply"
    SITE_ERROR = "site_error"
    WRONG_RECORDS = "wrong_records"
    UNREADABLE_RECEIPT = "unreadable_receipt"
    STALE_ROUND = "stale_round"
    OTHER_VISIT = "other_visit"
    WRONG_METRICS = "wrong_metrics"
    NO_SLICES = "no_slices"
    WRONG_PARAMETERS = "wrong_parameters"
    NOT_FINITE = "not_finite"
    OUTLYING_NORM = "outlying_norm"
    UNREADABLE = "unreadable"


BAD_TRAINING = (Reason.NOT_FINITE, Reason.OUTLYING_NORM)
"""Reasons that speak of what training made of the site's own state too, and not of the message alone."""
MEANING = {
    Reason.NO_REPLY: "none came in time",
    Reason.SITE_ERROR: "this site answered with an error",
    Reason.WRONG_RECORDS: "it does not hold the records that were asked for",
    Reason.UNREADABLE_RECEIPT: "its receipt cannot be read",
    Reason.STALE_ROUND: "it names another round than the one that was asked for",
    Reason.OTHER_VISIT: "it names another run or another site",
    Reason.WRONG_METRICS: "it holds a metric that cannot be one",
    Reason.NO_SLICES: "it does not say how many slices were trained on, which was asked for",
    Reason.WRONG_PARAMETERS: "its parameters have other names, shapes or dtypes than those that were asked for",
    Reason.NOT_FINITE: "its parameters hold NaN or infinity",
    Reason.OUTLYING_NORM: "its update is many times as long as the run's last ones",
    Reason.UNREADABLE: "the server could not read it; the coordinator's log says where",
}
