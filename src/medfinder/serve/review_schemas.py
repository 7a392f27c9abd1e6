"""What travels over ``/v1/review``: typed requests and responses, from which OpenAPI is made."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from medfinder.curate.agreement import Agreement
from medfinder.curate.event_log import Event
from medfinder.curate.review import (
    MAX_LABELS,
    MAX_REASON,
    MAX_TEXT,
    Decision,
    Progress,
    ReviewAgreement,
    State,
    Verdict,
    View,
    Vote,
)
from medfinder.records import Language
from medfinder.report.findings import extract_findings
from medfinder.serve.schemas import FindingOut, Name, Strict, finding_out

Ct = Literal["indexed", "another", "none"]
Reason = Annotated[str, Field(max_length=MAX_REASON)]


class DecisionRequest(Strict):
    """A decision on a study, as the reader saw it."""

    verdict: Verdict = Field(
        description="accept: all that is shown is right, the English included; edit: kept with "
        "another English text or other labels; reject: left out."
    )
    translation: str | None = Field(
        default=None,
        max_length=MAX_TEXT,
        description="The English after an edit; empty keeps the study without; null leaves it.",
    )
    labels: list[Name] | None = Field(
        default=None, max_length=MAX_LABELS, description="Findings after an edit; null leaves them."
    )
    reason: Reason = Field(default="", description="A rejection needs one.")
    source_hash: str | None = Field(
        default=None,
        max_length=64,
        description="Of the item as it was seen; the decision is refused if it has changed.",
    )


class ReopenRequest(Strict):
    """Why a settled study is begun anew."""

    reason: Reason


class DoubtOut(BaseModel):
    """Why a study is in the queue; heavier ones matter more, 0 to 1."""

    rule: str
    reason: str
    weight: float


class QueueItem(BaseModel):
    """A place in the queue; `state` is for the reader who asks."""

    study_id: str
    weight: float
    rules: list[str]
    state: State


class QueueResponse(BaseModel):
    """A part of the queue, most doubted first."""

    items: list[QueueItem]
    n_items: int = Field(description="In the whole queue, under the given states.")


class TextOut(BaseModel):
    """Plain text, to be shown as text, and the findings it states; offsets refer to it."""

    text: str
    language: Language
    findings: list[FindingOut]


class DecisionOut(BaseModel):
    """What a reader decided."""

    verdict: Verdict
    translation: str | None
    labels: list[str] | None
    reason: str


class VoteOut(BaseModel):
    """A decision that counts, and whose."""

    reader: str
    at: str
    decision: DecisionOut
    is_adjudication: bool


class ReviewItem(BaseModel):
    """A study as the reader who asks may see it."""

    study_id: str
    weight: float
    state: State
    doubts: list[DoubtOut]
    original: TextOut | None
    english: TextOut | None
    is_candidate: bool = Field(description="The English failed its checks.")
    problems: list[str]
    labels: list[str]
    source_hash: str
    ct: Ct = Field(description="Whether the index has this study's CT, or another under its id.")
    mine: DecisionOut | None
    others: list[VoteOut] = Field(description="Empty until the reader may see them.")
    outcome: DecisionOut | None


class AgreementOut(BaseModel):
    """Agreement of the two independent readers; kappa is null where it is undefined."""

    n_items: int
    observed: float | None
    kappa: float | None


class ProgressOut(BaseModel):
    """How far the review is."""

    n_items: int
    n_settled: int
    n_disputed: int
    n_started: int
    n_decisions: int
    outcomes: dict[Verdict, int]
    n_orphans: int
    n_stale: int


class ReviewStatus(BaseModel):
    """How far the review is, and how far its readers agree."""

    readers: int
    progress: ProgressOut
    agreement: AgreementOut
    agreement_by_finding: dict[str, AgreementOut]


class EventOut(BaseModel):
    """An event of the audit trail; `hash` binds it to the one before."""

    number: int
    at: str
    reader: str
    kind: str
    before: dict[str, Any]
    after: dict[str, Any]
    previous: str
    hash: str


class HistoryResponse(BaseModel):
    """What happened to a study, in order."""

    events: list[EventOut]


def item_out(view: View, ct: Ct) -> ReviewItem:
    """Return what may be told of a study under review."""
    shown = view.shown
    report = shown.study.report
    original = english = None
    if report is not None:
        own = [finding_out(f) for f in shown.study.findings]
        original = TextOut(text=report.text, language=report.language, findings=own)
    if shown.english is not None:
        found = [finding_out(f) for f in extract_findings(shown.english, "en")]
        english = TextOut(text=shown.english, language="en", findings=found)
    return ReviewItem(
        study_id=view.item.study_id,
        weight=view.item.weight,
        state=view.state,
        doubts=[DoubtOut(rule=d.rule, reason=d.reason, weight=d.weight) for d in view.item.doubts],
        original=original,
        english=english,
        is_candidate=shown.is_candidate,
        problems=list(shown.problems),
        labels=list(shown.labels),
        source_hash=shown.hash,
        ct=ct,
        mine=_decision_out(view.mine.decision) if view.mine else None,
        others=[_vote_out(v) for v in view.others],
        outcome=_decision_out(view.outcome) if view.outcome else None,
    )


def status_out(readers: int, progress: Progress, agreement: ReviewAgreement) -> ReviewStatus:
    """Return progress and agreement."""
    return ReviewStatus(
        readers=readers,
        progress=ProgressOut(
            n_items=progress.n_items,
            n_settled=progress.n_settled,
            n_disputed=progress.n_disputed,
            n_started=progress.n_started,
            n_decisions=progress.n_decisions,
            outcomes=dict(progress.outcomes),  # type: ignore[arg-type]
            n_orphans=progress.n_orphans,
            n_stale=progress.n_stale,
        ),
        agreement=_agreement_out(agreement.decisions),
        agreement_by_finding={n: _agreement_out(a) for n, a in agreement.findings.items()},
    )


def event_out(event: Event) -> EventOut:
    """Return an event."""
    return EventOut(
        number=event.number,
        at=event.at,
        reader=event.reader,
        kind=event.kind,
        before=dict(event.before),
        after=dict(event.after),
        previous=event.previous,
        hash=event.hash,
    )


def _agreement_out(agreement: Agreement) -> AgreementOut:
    return AgreementOut(
        n_items=agreement.n_items, observed=agreement.observed, kappa=agreement.kappa
    )


def _decision_out(decision: Decision) -> DecisionOut:
    return DecisionOut(
        verdict=decision.verdict,
        translation=decision.translation,
        labels=None if decision.labels is None else list(decision.labels),
        reason=decision.reason,
    )


def _vote_out(vote: Vote) -> VoteOut:
    return VoteOut(
        reader=vote.reader,
        at=vote.at,
        decision=_decision_out(vote.decision),
        is_adjudication=vote.is_adjudication,
    )
