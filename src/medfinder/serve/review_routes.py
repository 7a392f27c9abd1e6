"""What the service answers about a review: ``/v1/review``, where one is served.

Who reads is the account that is signed in. Where nobody signs in, it is in the header ``X-Reader``,
percent-encoded UTF-8, as the header alone cannot hold every name. That is a name, not a sign-in:
whoever reaches the service can write another one.
"""

import copy
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Annotated, TypeVar, get_args
from urllib.parse import unquote

from fastapi import Depends, Header, Query, Request

from medfinder.curate.agreement import agreement
from medfinder.curate.review import (
    Decision,
    Progress,
    ReviewAgreement,
    ReviewQueue,
    State,
    Verdict,
    View,
    reader_name,
)
from medfinder.errors import ArtifactError, InputError, UnknownName
from medfinder.serve.access.roles import LOCAL, Identity, guarded
from medfinder.serve.faults import Refusal
from medfinder.serve.lanes import Lane
from medfinder.serve.review_schemas import (
    Ct,
    DecisionRequest,
    HistoryResponse,
    QueueItem,
    QueueResponse,
    ReopenRequest,
    ReviewItem,
    ReviewStatus,
    event_out,
    item_out,
    status_out,
)
from medfinder.serve.service import ERRORS, Service
from medfinder.serve.service import The as TheIndex
from medfinder.serve.session_routes import Who

T = TypeVar("T")
MAX_ITEMS = 1000
TAG = {"name": "review", "description": "Expert review of the studies in doubt."}
_NOT_READABLE = "The dataset under review cannot be read or written."


class ReviewService:
    """What the review's routes share: the queue, and a lane of threads for it.

    Attributes:
        seen: Ids of the only studies that who asks may see; None for all.
    """

    seen: frozenset[str] | None = None

    def __init__(self, queue: ReviewQueue) -> None:
        self.queue = queue
        self._lane = Lane("review", 4)

    @property
    def is_working(self) -> bool:
        """Tell whether a thread is at work, for an answer that may no longer be awaited."""
        return self._lane.is_running

    def close(self) -> None:
        """Let go of the threads; what waits for one is cancelled."""
        self._lane.close()

    async def seen_by(self, index: Service) -> "ReviewService":
        """Return the review as somebody may see it: of what the index shows them, no more."""
        if index.sources is None:
            return self
        view = copy.copy(self)
        view.seen = frozenset(await index.rows(index.finder.index.ids))
        return view

    def check(self, study_id: str) -> None:
        """Refuse a study that who asks may not see, in the words for one that is not there.

        Raises:
            UnknownName: Rule ``unknown-study``.
        """
        if self.seen is not None and study_id not in self.seen:
            raise UnknownName(
                "The study is not in the review's queue - expected the id of a study with doubts - "
                "take ids from the queue.",
                rule="unknown-study",
            )

    def progress(self, reader: str) -> tuple[Progress, ReviewAgreement]:
        """Return how far the review is; for who may not see all of it, how far their part is."""
        if self.seen is None:
            return self.queue.progress(), self.queue.agreement()
        states = Counter(
            now for item, now in self.queue.states(reader) if item.study_id in self.seen
        )
        settled = [s for i, s in self.queue.settled().items() if i in self.seen]
        verdicts = Counter(s.decision.verdict for s in settled)
        own = Progress(
            n_items=sum(states.values()),
            n_settled=len(settled),
            n_disputed=states["disputed"],
            n_started=states["waiting"],
            n_decisions=sum(len(s.votes) for s in settled),
            outcomes={v: verdicts[v] for v in get_args(Verdict)},
            n_orphans=0,
            n_stale=0,
        )
        return own, ReviewAgreement(agreement([]), {})

    async def run(self, work: Callable[[], T]) -> T:
        """Ask the queue.

        Raises:
            Refusal: 503 when the folder is being curated again, or its log cannot be used.
        """
        try:
            return await self._lane.run(work)
        except ArtifactError as error:  # its text names folders
            raise Refusal(
                503,
                type(error).__name__,
                _NOT_READABLE,
                "Ask whoever runs this service to look at the folder; no decision was lost.",
            ) from None


# Not plain functions: the framework would call those in threads.
async def _review(request: Request, index: TheIndex) -> ReviewService:
    review: ReviewService = request.app.state.review
    return await review.seen_by(index)


async def _reader(
    request: Request,
    x_reader: Annotated[
        str, Header(description="Who reads, percent-encoded UTF-8.", max_length=1000)
    ] = "",
) -> str:
    identity: Identity = request.state.identity
    if identity is not LOCAL:
        return reader_name(identity.name)
    # What is no UTF-8 becomes halves of characters, which no name may hold.
    return reader_name(unquote(x_reader, errors="surrogateescape"))


The = Annotated[ReviewService, Depends(_review)]
Reader = Annotated[str, Depends(_reader)]

api = guarded("reviewer", prefix="/v1/review", tags=["review"], responses=ERRORS)


@api.get("/status", operation_id="get_review_status")
async def get_status(review: The, who: Who) -> ReviewStatus:
    """Return how far the review is, and how far its readers agree."""
    readers = review.queue.readers
    return await review.run(lambda: status_out(readers, *review.progress(who.name)))


@api.get("/items", operation_id="get_review_items")
async def get_items(
    review: The,
    reader: Reader,
    state: Annotated[
        list[State] | None, Query(description="Only items in these states, for this reader.")
    ] = None,
    offset: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_ITEMS)] = 200,
) -> QueueResponse:
    """Return the queue, most doubted first, with each item's state for the reader who asks."""
    states = await review.run(partial(review.queue.states, reader))
    found = [
        (item, now)
        for item, now in states
        if (state is None or now in state) and (review.seen is None or item.study_id in review.seen)
    ]
    return QueueResponse(
        items=[
            QueueItem(
                study_id=item.study_id,
                weight=item.weight,
                rules=list(dict.fromkeys(d.rule for d in item.doubts)),
                state=now,
            )
            for item, now in found[offset : offset + limit]
        ],
        n_items=len(found),
    )


@api.get("/items/{study_id}", operation_id="get_review_item")
async def get_item(study_id: str, review: The, index: TheIndex, reader: Reader) -> ReviewItem:
    """Return a study under review, as the reader who asks may see it."""
    review.check(study_id)
    view = await review.run(partial(review.queue.view, reader, study_id))
    return await _item(review, index, view)


@api.post("/items/{study_id}/lease", operation_id="lease_review_item")
async def lease_item(study_id: str, review: The, index: TheIndex, reader: Reader) -> ReviewItem:
    """Return a study and hold it for the reader, so that no more work on it than are needed."""
    review.check(study_id)
    await review.run(partial(review.queue.lease, reader, study_id))
    return await get_item(study_id, review, index, reader)


@api.post("/items/{study_id}/decision", operation_id="decide_review_item")
async def decide_item(
    study_id: str, given: DecisionRequest, review: The, index: TheIndex, reader: Reader
) -> ReviewItem:
    """Record a decision; a second one of the same reader corrects the first, and both are kept."""
    review.check(study_id)
    decision = Decision(
        given.verdict,
        given.translation,
        None if given.labels is None else tuple(given.labels),
        given.reason,
    )
    view = await review.run(
        partial(review.queue.decide, reader, study_id, decision, shown=given.source_hash)
    )
    return await _item(review, index, view)


@api.post("/items/{study_id}/reopen", operation_id="reopen_review_item")
async def reopen_item(
    study_id: str, given: ReopenRequest, review: The, index: TheIndex, reader: Reader
) -> ReviewItem:
    """Begin a settled study anew; its decisions stay in the audit trail."""
    review.check(study_id)
    view = await review.run(partial(review.queue.reopen, reader, study_id, given.reason))
    return await _item(review, index, view)


@api.get("/items/{study_id}/history", operation_id="get_review_history")
async def get_history(study_id: str, review: The, reader: Reader) -> HistoryResponse:
    """Return a settled study's audit trail; before that it would tell one reader of another."""
    review.check(study_id)

    def events() -> HistoryResponse:
        if review.queue.view(reader, study_id).state != "settled":
            raise InputError(
                "The study is not settled, so its decisions are not shown. Decide on it first.",
                rule="not-settled",
            )
        return HistoryResponse(events=[event_out(e) for e in review.queue.history(study_id)])

    return await review.run(events)


async def _item(review: ReviewService, index: Service, view: View) -> ReviewItem:
    ct = await _ct(index, view)
    return await review.run(lambda: item_out(view, ct))


async def _ct(index: Service, view: View) -> Ct:
    """Tell whether the index shows the CT that this review is about."""
    study = view.shown.study
    if not study.volume_path:
        return "none"
    try:
        indexed = await index.study(study.study_id)
    except Refusal:
        return "none"
    return "indexed" if indexed.volume_hash == study.volume_hash else "another"
