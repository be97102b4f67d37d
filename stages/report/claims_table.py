"""The section on the papers' claims: what they say, what was measured here, and the verdicts."""

from stages.report.claims import Claim, Comparison
from stages.report.sections import Section
from stages.report.sides import DOES_NOT_HOLD, HOLDS, UNDECIDED
from stages.report.tables import Table, rounded

HEADS = ["claim", "verdict here", "what it says", "why undecided", "effect", "deviations", "trainings", "published"]
ROW_HEADS = [
    "role", "should win", "against", "metric", "values", "effect", "deviations", "spread of", "verdict", "objection",
]  # fmt: skip
ORDER = (HOLDS, DOES_NOT_HOLD, UNDECIDED)


def by_verdict(claims: list[Claim]) -> list[Claim]:
    """What was decided first."""
    return sorted(claims, key=lambda claim: ORDER.index(claim.verdict))


def claims_section(claims: list[Claim]) -> Section:
    """A row for each claim, its first comparison beside it; below, every comparison with its controls and the rule."""
    rows = [claim_row(claim) for claim in claims]
    details = [
        (f"{claim.key}: {claim.title}", Table(ROW_HEADS, [comparison_row(one) for one in claim.comparisons]))
        for claim in claims
        if claim.comparisons
    ]
    facts = {"claims": claims}
    return Section("claims", "The papers' claims, tested here", facts, [Table(HEADS, rows)], details=details)


def claim_row(claim: Claim) -> list[str]:
    """A claim with the effect and the spread of the first comparison that tests it."""
    first = next((one for one in claim.comparisons if one.role == "claim"), None)
    measured = [effect(first), f"{first.sigmas:.1f}", trainings(first)] if first else ["–"] * 3
    published = f"{claim.published} ({claim.source})"
    return [claim.key, claim.verdict, claim.title, "; ".join(claim.missing) or "–", *measured, published]


def effect(one: Comparison) -> str:
    """The gain with its deviation, in the metric's unit; above 0 as claimed."""
    return f"{one.metric}: {rounded(one.gain, sum(std**2 for std in one.spreads) ** 0.5)}"


def trainings(one: Comparison) -> str:
    """How many trainings stand behind both sides."""
    return f"{one.trainings[0]} and {one.trainings[1]}"


def comparison_row(one: Comparison) -> list[str]:
    """Both sides with their values and spreads."""
    values = " against ".join(rounded(*side) for side in zip(one.values, one.spreads, strict=True))
    return [
        one.role, one.better, one.worse, one.metric, values, effect(one).partition(": ")[2], f"{one.sigmas:.1f}",
        f"{one.spread_of} ({trainings(one)})", one.verdict, one.objection or "–",
    ]  # fmt: skip
