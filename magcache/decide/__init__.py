"""Decides which evaluations are computed or skipped, and how skipped ones are predicted.

`decider_for` makes the decider of a run, which follows the published rule or a plan. A decision
uses figures only. It is made once per evaluation, on the CPU, and never looks at activations.
"""

from .by_plan import PlanDecider
from .by_rule import RuleDecider
from .choose import decider_for
from .decider import Decider, Decision, Held, Holding, nothing_held
from .difference import in_words
from .mending import Mender
from .rule import Rule, rule_of
from .schedule import FEW_STEPS, Course, Reason, Schedule
from .search import best_schedule, costs_of
from .target import Target
from .window import Window

__all__ = [
    "FEW_STEPS",
    "Course",
    "Decider",
    "Decision",
    "Held",
    "Holding",
    "Mender",
    "PlanDecider",
    "Reason",
    "Rule",
    "RuleDecider",
    "Schedule",
    "Target",
    "Window",
    "best_schedule",
    "costs_of",
    "decider_for",
    "in_words",
    "nothing_held",
    "rule_of",
]
