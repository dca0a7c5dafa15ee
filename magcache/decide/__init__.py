"""Which evaluations are computed, which are skipped, and how the skipped ones follow.

The published rule and the planned schedule. Pure figures: decided once an evaluation, on the
host, without a look at any activation.
"""

from .mending import Mender
from .planned import PlannedDecider, Target
from .rule import Reason, Rule, rule_of
from .ruled import FEW_STEPS, Decider, Schedule, plan
from .search import best_schedule, costs_of

__all__ = [
    "FEW_STEPS",
    "Decider",
    "Mender",
    "PlannedDecider",
    "Reason",
    "Rule",
    "Schedule",
    "Target",
    "best_schedule",
    "costs_of",
    "plan",
    "rule_of",
]
