"""Expert review: the doubted studies of a curated folder, heaviest first, and what readers decide.

A study needs the independent decisions of `readers` people. Equal ones settle it; where two differ,
a third person, the adjudicator, sees both and decides. Nobody sees another's decision before their
own counts. Every decision is an event of ``FOLDER/review.db`` (`event_log`); the files that
``medfinder curate`` wrote are never touched (`review_apply` writes a new folder).
"""

import contextlib
import hashlib
import json
import math
import threading
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

from medfinder.artifact import MANIFEST, Manifest, read_manifest
from medfinder.curate.agreement import Agreement, agreement
from medfinder.curate.event_log import ORIGIN, Event, EventLog, Turn
from medfinder.errors import ConfigError, InputError, Mismatch, UnknownName
from medfinder.records import Doubt, Study
from medfinder.report.clean import clean
from medfinder.report.vocabulary import vocabulary
from medfinder.studies import from_row, schema

Verdict = Literal["accept", "edit", "reject"]
State = Literal["todo", "waiting", "disputed", "taken", "settled"]
Origin = Literal["page", "table"]

LOG = "review.db"
CANDIDATES = "translations.parquet"
READERS = 2
LEASE_S = 20 * 60.0
MAX_TEXT = 50_000
MAX_REASON = 2_000
MAX_NAME = 80
MAX_LABELS = 100
_OF_TRANSLATION = "translation-"
_PLACEHOLDER = f"{_OF_TRANSLATION}placeholder"


@dataclass(frozen=True, slots=True)
class Decision:
    """What a reader makes of a study.

    Attributes:
        verdict: ``accept`` takes what is shown as right, the English included; ``edit`` keeps the
            study with another English text or other labels; ``reject`` leaves it out.
        translation: The English after an edit; "" keeps the study without one; None leaves it.
        labels: Names of the findings the study has, after an edit; None leaves them.
        reason: Why; a rejection needs one.
    """

    verdict: Verdict
    translation: str | None = None
    labels: tuple[str, ...] | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Vote:
    """A decision that counts.

    Attributes:
        number: Of its event.
        at: UTC, ISO 8601.
        reader: Who.
        decision: What.
        shown: `Shown.hash` of what they saw.
        is_adjudication: Whether it settles a dispute between two others.
    """

    number: int
    at: str
    reader: str
    decision: Decision
    shown: str
    is_adjudication: bool


@dataclass(frozen=True, slots=True)
class Item:
    """A place in the queue.

    Attributes:
        study_id: The study.
        weight: How much it is doubted: the sum, over the rules, of each rule's heaviest doubt.
            Several kinds of doubt weigh more than one; many of one kind do not.
        doubts: All of them, heaviest first.
    """

    study_id: str
    weight: float
    doubts: tuple[Doubt, ...]


@dataclass(frozen=True, slots=True)
class Shown:
    """What a reader is shown of a study, and decides on.

    Attributes:
        study: As curated.
        english: The English of a report in another language: the translation, or the candidate
            that failed its checks; None where there is neither, or the report is English.
        is_candidate: Whether `english` failed its checks.
        problems: What the checks said of the candidate; where its table does not tell, the
            doubts about the translation.
        labels: The source's labels; where it gives none, the findings that the text affirms.
        hash: 16 hex digits that change when text, English, labels or the kinds of doubt do.
    """

    study: Study
    english: str | None
    is_candidate: bool
    problems: tuple[str, ...]
    labels: tuple[str, ...]
    hash: str


@dataclass(frozen=True, slots=True)
class View:
    """A study as one reader may see it.

    Attributes:
        item: Its place in the queue.
        shown: Texts and labels.
        state: For this reader: ``todo``; ``waiting``, they decided and others have not, or decided
            otherwise; ``disputed``, two others disagree and this reader may adjudicate; ``taken``,
            enough others are at work on it; ``settled``.
        mine: The reader's own decision that counts.
        others: Decisions of others; empty until `state` is ``disputed`` or ``settled``.
        outcome: The decision that settled it.
    """

    item: Item
    shown: Shown
    state: State
    mine: Vote | None
    others: tuple[Vote, ...]
    outcome: Decision | None


@dataclass(frozen=True, slots=True)
class Settled:
    """What came of a study: the decision that counts, and who gave it."""

    decision: Decision
    votes: tuple[Vote, ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the review is.

    Attributes:
        n_items: Studies in doubt.
        n_settled: Of them settled.
        n_disputed: Of them waiting for an adjudicator.
        n_started: Of them decided by one of two readers.
        n_decisions: Decisions that count.
        outcomes: Verdict → settled studies.
        n_orphans: Doubted studies that are not in ``studies.parquet``.
        n_stale: Studies with decisions that no longer count, since what was shown has changed.
    """

    n_items: int
    n_settled: int
    n_disputed: int
    n_started: int
    n_decisions: int
    outcomes: Mapping[str, int]
    n_orphans: int
    n_stale: int


@dataclass(frozen=True, slots=True)
class ReviewAgreement:
    """How far the two independent readers of each study agree.

    Attributes:
        decisions: On accept, edit or reject.
        findings: Finding → agreement on whether the study has it, over the studies that both keep.
    """

    decisions: Agreement
    findings: Mapping[str, Agreement]


@dataclass(slots=True)
class _Case:
    """What the log says of a study: the last decision of each reader, and the adjudication."""

    votes: dict[str, Vote] = field(default_factory=dict)
    adjudication: Vote | None = None


@dataclass(frozen=True, slots=True)
class _Standing:
    votes: tuple[Vote, ...]
    state: Literal["open", "disputed", "settled"]
    settled: Settled | None


class ReviewQueue:
    """The review of one curated folder; safe for several threads, and processes, at once.

    A folder that was curated again is read again; decisions on studies whose text, English,
    labels or kinds of doubt have changed since no longer count, and stay in the log.

    Args:
        folder: What ``medfinder curate`` wrote, finished.
        readers: Independent decisions a study needs, 1 or 2; None for what the log says, else
            `READERS`. Another number than the log's is written to it, before the first decision.
        candidates: Parquet table of English that failed its checks: study_id, text and, where it
            has the column, problems, a text or a list; None for ``FOLDER/translations.parquet``
            where it is.
        lease_s: Seconds for which a study is held for the reader who opened it.
        now: Seconds since 1970; a test may turn the clock.

    Raises:
        InputError: There is no such folder.
        ConfigError: `readers` is neither 1 nor 2 (rule ``readers``), or differs from the log's
            after the first decision (rule ``readers-fixed``).
        Incomplete: The folder is not finished.
        Mismatch: It is another stage's folder, a table or the log cannot be read, or the log was
            tampered with.
        ArtifactError: The log cannot be used: disk full, no permission, another writer hangs.
    """

    def __init__(
        self,
        folder: Path,
        *,
        readers: int | None = None,
        candidates: Path | None = None,
        lease_s: float = LEASE_S,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.folder = folder
        self.readers = READERS
        self.lease_s = lease_s
        self.manifest: Manifest
        self._candidates_path = candidates or folder / CANDIDATES
        self._lock = threading.RLock()
        self._mark: tuple[tuple[int, int, int], ...] = ()
        self._standings: dict[str, _Standing] = {}
        self._now = now
        self._load()
        self.log = EventLog(folder / LOG, now)
        self._last, self._head = 0, ORIGIN
        self._cases: dict[str, _Case] = {}
        self._catch_up(self.log.after())
        if readers is not None and readers != self.readers:
            self._set_up(readers)

    # ---- looking ----------------------------------------------------------------------------

    def items(self) -> list[Item]:
        """Return the queue, most doubted first; equal ones by study_id."""
        with self._fresh():
            return list(self._items.values())

    def states(self, reader: str) -> list[tuple[Item, State]]:
        """Return the queue with the state of each item for this reader.

        Raises:
            InputError: The name is empty or no name (rules ``no-reader``, ``bad-reader``).
        """
        key = _key(reader_name(reader))
        with self._fresh():
            holders = _holders(self.log.leases())
            return [
                (item, self._state(self._standing(i), key, holders.get(i, frozenset())))
                for i, item in self._items.items()
            ]

    def view(self, reader: str, study_id: str) -> View:
        """Return a study as this reader may see it.

        Raises:
            InputError: The name is empty or no name.
            UnknownName: The study is not in the queue (rule ``unknown-study``).
        """
        key = _key(reader_name(reader))
        with self._fresh():
            item = self._item(study_id)
            standing = self._standing(study_id)
            holders = _holders(self.log.leases()).get(study_id, frozenset())
            state = self._state(standing, key, holders)
            mine = next((v for v in standing.votes if _key(v.reader) == key), None)
            may_see = state in ("disputed", "settled")
            return View(
                item=item,
                shown=self._shown(study_id),
                state=state,
                mine=mine,
                others=tuple(v for v in standing.votes if v is not mine) if may_see else (),
                outcome=standing.settled.decision if standing.settled else None,
            )

    def settled(self) -> dict[str, Settled]:
        """Return study_id → what came of it, for all that are settled."""
        with self._fresh():
            found = ((i, self._standing(i).settled) for i in self._items)
            return {i: settled for i, settled in found if settled is not None}

    def shown(self, study_id: str) -> Shown:
        """Return what readers are shown of a study.

        Raises:
            UnknownName: The study is not in the queue.
        """
        with self._fresh():
            self._item(study_id)
            return self._shown(study_id)

    def history(self, study_id: str = "") -> list[Event]:
        """Return the events of a study, or of all, in order: the audit trail."""
        return [e for e in self.log.after() if not study_id or e.study_id == study_id]

    def progress(self) -> Progress:
        """Return how far the review is."""
        with self._fresh():
            standings = {i: self._standing(i) for i in self._items}
            outcomes = Counter(
                s.settled.decision.verdict for s in standings.values() if s.settled is not None
            )
            states = Counter(s.state for s in standings.values())
            return Progress(
                n_items=len(self._items),
                n_settled=states["settled"],
                n_disputed=states["disputed"],
                n_started=sum(s.state == "open" and bool(s.votes) for s in standings.values()),
                n_decisions=sum(len(s.votes) for s in standings.values()),
                outcomes={v: outcomes[v] for v in get_args(Verdict)},
                n_orphans=self._n_orphans,
                n_stale=sum(
                    len(self._standing(i).votes) < len(case.votes) + (case.adjudication is not None)
                    for i, case in self._cases.items()
                ),
            )

    def agreement(self) -> ReviewAgreement:
        """Return how far the two independent readers agree, adjudicators left out."""
        with self._fresh():
            verdicts = []
            kept: list[tuple[tuple[str, frozenset[str]], tuple[str, frozenset[str]]]] = []
            for study_id in self._cases:
                if study_id not in self._items:
                    continue
                standing = self._standing(study_id)
                independent = [v for v in standing.votes if not v.is_adjudication]
                if len(independent) != 2:
                    continue
                a, b = independent
                verdicts.append(
                    ((_key(a.reader), a.decision.verdict), (_key(b.reader), b.decision.verdict))
                )
                if "reject" not in (a.decision.verdict, b.decision.verdict):
                    _, given = self._hash_and_labels(study_id)
                    kept.append(
                        (
                            (_key(a.reader), frozenset(_labels(a.decision, given))),
                            (_key(b.reader), frozenset(_labels(b.decision, given))),
                        )
                    )  # fmt: skip
            names = sorted({name for pair in kept for _, labels in pair for name in labels})
            return ReviewAgreement(
                agreement(verdicts),
                {
                    name: agreement(((a, name in x), (b, name in y)) for (a, x), (b, y) in kept)
                    for name in names
                },
            )

    # ---- deciding ---------------------------------------------------------------------------

    def lease(self, reader: str, study_id: str) -> None:
        """Hold a study for a reader who opens it, so that no more work on it than are needed.

        A study that this reader cannot add to, since it is settled or they have decided, is not
        held. Nobody is kept from deciding without a lease.

        Raises:
            InputError: Enough others are at work on it (rule ``taken``), or the name is no name.
            UnknownName: The study is not in the queue.
        """
        key = _key(reader_name(reader))
        with self._turn() as turn:
            self._item(study_id)
            holders = _holders(turn.leases()).get(study_id, frozenset())
            state = self._state(self._standing(study_id), key, holders)
            if state == "taken":
                raise InputError(
                    "Enough readers are at work on this study. Take the next one.", rule="taken"
                )
            if state in ("todo", "disputed"):
                turn.lease(study_id, key, self.lease_s)

    def decide(
        self,
        reader: str,
        study_id: str,
        decision: Decision,
        *,
        shown: str | None = None,
        origin: Origin = "page",
    ) -> View:
        """Record a decision, and return the study as the reader may see it now.

        A second decision by the same reader is a correction: both are kept, the later counts.

        Args:
            shown: `Shown.hash` of what the reader saw; None for what there is now.

        Raises:
            InputError: The study is settled (``settled``), has changed since (``changed-source``),
                a rejection has no reason (``no-reason``), an edit changes nothing
                (``empty-edit``), edits what is no translation (``not-a-translation``), is too long
                (``too-long``) or no text (``not-text``), a placeholder is accepted
                (``placeholder-accepted``), or the name is no name (``no-reader``, ``bad-reader``).
            UnknownName: The study is not in the queue (``unknown-study``), or a label is in no
                vocabulary (``unknown-name``).
        """
        name = reader_name(reader)
        with self._turn() as turn:
            self._record(turn, name, study_id, decision, shown, origin)
        return self.view(name, study_id)

    def decide_all(
        self,
        reader: str,
        decisions: Iterable[tuple[int, str, Decision, str | None]],
        *,
        is_trial: bool = False,
        origin: Origin = "table",
    ) -> tuple[int, int, list[tuple[int, str, str, str]]]:
        """Record all decisions or none.

        Args:
            decisions: (row, study_id, decision, `Shown.hash` or None) of each.
            is_trial: Only find out what is wrong with them; record nothing.

        Returns:
            How many were recorded; how many were there before, equal, and were not recorded again;
            and (row, study_id, rule, reason) of each that cannot be, in which case none was.

        Raises:
            InputError: The name is no name.
        """
        name = reader_name(reader)
        problems: list[tuple[int, str, str, str]] = []
        n_recorded = n_known = 0
        with contextlib.suppress(_NotAll), self._turn() as turn:
            for row, study_id, decision, shown in decisions:
                try:
                    if self._is_known(name, study_id, decision):
                        n_known += 1
                    else:
                        self._record(turn, name, study_id, decision, shown, origin)
                        n_recorded += 1
                except InputError as error:
                    problems.append((row, study_id, error.rule, str(error)))
            if problems or is_trial:
                raise _NotAll
        return (0, 0, problems) if problems else (n_recorded, n_known, [])

    def reopen(self, reader: str, study_id: str, reason: str) -> View:
        """Begin a settled study anew: its decisions stay in the log and no longer count.

        Raises:
            InputError: There is no reason (``no-reason``), or the study is not settled
                (``not-settled``), or the name is no name.
            UnknownName: The study is not in the queue.
        """
        name = reader_name(reader)
        why = _text(reason, "reason", MAX_REASON)
        if not why:
            raise InputError("Reopening a study needs a reason. Write one.", rule="no-reason")
        with self._turn() as turn:
            self._item(study_id)
            standing = self._standing(study_id)
            if standing.settled is None:
                raise InputError(
                    "The study is not settled, so there is nothing to reopen. Decide on it.",
                    rule="not-settled",
                )
            before = {"votes": [v.number for v in standing.votes]}
            self._fold(turn.append(name, "reopened", study_id, before, {"reason": why}))
        return self.view(name, study_id)

    # ---- inside -----------------------------------------------------------------------------

    def _set_up(self, readers: int) -> None:
        if readers not in (1, 2):
            raise ConfigError(
                f"A study is decided by 1 or 2 independent readers, got {readers}.", rule="readers"
            )
        with self._turn() as turn:
            if self._cases:
                raise ConfigError(
                    f"The review has begun with {self.readers} readers a study, got {readers} - the "
                    "number is fixed with the first decision - leave it as it is.",
                    rule="readers-fixed",
                )
            before = {"readers": self.readers}
            self._fold(turn.append("", "set-up", "", before, {"readers": readers}))

    @contextlib.contextmanager
    def _fresh(self) -> Iterator[None]:
        """Hold the lock, with the folder and the log read up to now."""
        with self._lock:
            self._load()
            self._catch_up(self.log.after(self._last, self._head))
            yield

    @contextlib.contextmanager
    def _turn(self) -> Iterator[Turn]:
        """Hold the lock and the log alone; what was folded is forgotten when the turn fails."""
        with self._lock:
            self._load()
            try:
                with self.log.turn() as turn:
                    self._catch_up(turn.after(self._last, self._head))
                    yield turn
            except BaseException:
                self._last, self._head = 0, ORIGIN
                self._cases = {}
                self._standings = {}
                raise

    def _load(self) -> None:
        """Read the folder's tables, unless they are those that were read."""
        files = (self.folder / MANIFEST, self._candidates_path)
        mark = tuple(_mark(file) for file in files)
        if mark == self._mark:
            return
        manifest = read_manifest(self.folder, "curate")
        doubts = _doubts(self.folder / "doubts.parquet")
        table = _studies(self.folder / "studies.parquet", list(doubts))
        self._row = {i: n for n, i in enumerate(table.column("study_id").to_pylist())}
        self._n_orphans = len(doubts.keys() - self._row.keys())
        found = [_item(i, doubts[i]) for i in self._row]
        self._items = {i.study_id: i for i in sorted(found, key=lambda i: (-i.weight, i.study_id))}
        self._table = table
        self._candidates = _candidates(self._candidates_path, self._row)
        self._seen: dict[str, tuple[str, tuple[str, ...]]] = {}
        self._standings = {}
        self.manifest = manifest
        self._mark = mark

    def _catch_up(self, events: Iterable[Event]) -> None:
        for event in events:
            self._fold(event)

    def _fold(self, event: Event) -> None:
        """Let one event change what counts."""
        self._last, self._head = event.number, event.hash
        self._standings.pop(event.study_id, None)
        if event.kind == "set-up":
            self.readers = int(event.after["readers"])
        elif event.kind == "reopened":
            self._cases.pop(event.study_id, None)
        elif event.kind in ("decided", "corrected", "adjudicated"):
            case = self._cases.setdefault(event.study_id, _Case())
            labels = event.after["labels"]
            vote = Vote(
                event.number,
                event.at,
                event.reader,
                Decision(
                    event.after["verdict"],
                    event.after["translation"],
                    None if labels is None else tuple(labels),
                    event.after["reason"],
                ),
                event.before["shown"],
                event.kind == "adjudicated",
            )
            if vote.is_adjudication:
                case.adjudication = vote
            else:
                case.votes[_key(vote.reader)] = vote

    def _item(self, study_id: str) -> Item:
        try:
            return self._items[study_id]
        except KeyError:
            raise UnknownName(
                "The study is not in the review's queue - expected the id of a study with doubts - "
                "take ids from the queue.",
                rule="unknown-study",
            ) from None

    def _shown(self, study_id: str) -> Shown:
        study = from_row(self._table.slice(self._row[study_id], 1).to_pylist()[0])
        english, is_candidate = study.translation, False
        problems: tuple[str, ...] = ()
        if study.report is None or study.report.language == "en":
            english = None
        elif english is None and study_id in self._candidates:
            english, problems = self._candidates[study_id]
            is_candidate = english is not None
            if not problems:
                told = dict.fromkeys(d.rule for d in self._items[study_id].doubts)
                problems = tuple(
                    rule.removeprefix(_OF_TRANSLATION)
                    for rule in told
                    if rule.startswith(_OF_TRANSLATION)
                )
        labels = study.labels or tuple(
            dict.fromkeys(f.name for f in study.findings if f.status == "present")
        )
        # The kinds of doubt too: nobody has decided on one that came later.
        rules = sorted({d.rule for d in self._items[study_id].doubts})
        text = json.dumps([study.report.text if study.report else None, english, labels, rules])
        shown = hashlib.sha256(text.encode()).hexdigest()[:16]
        return Shown(study, english, is_candidate, problems, labels, shown)

    def _hash_and_labels(self, study_id: str) -> tuple[str, tuple[str, ...]]:
        """Return what `Shown` says, without reading the study's row a second time."""
        found = self._seen.get(study_id)
        if found is None:
            shown = self._shown(study_id)
            found = self._seen[study_id] = (shown.hash, shown.labels)
        return found

    def _standing(self, study_id: str) -> _Standing:
        """Return which votes on a study count, and what comes of them."""
        case = self._cases.get(study_id)
        if case is None or study_id not in self._items:
            return _Standing((), "open", None)
        found = self._standings.get(study_id)
        if found is None:
            found = self._standings[study_id] = self._weighed(case, study_id)
        return found

    def _weighed(self, case: _Case, study_id: str) -> _Standing:
        now, _ = self._hash_and_labels(study_id)
        votes = sorted((v for v in case.votes.values() if v.shown == now), key=lambda v: v.number)
        last = case.adjudication
        if last is not None and last.shown == now:
            every = (*votes, last)
            return _Standing(every, "settled", Settled(last.decision, every))
        if len(votes) < self.readers:
            return _Standing(tuple(votes), "open", None)
        given = self._shown(study_id)
        if len({_meaning(v.decision, given) for v in votes}) == 1:
            first = votes[0].decision
            reasons = dict.fromkeys(v.decision.reason for v in votes if v.decision.reason)
            agreed = Decision(first.verdict, first.translation, first.labels, "; ".join(reasons))
            return _Standing(tuple(votes), "settled", Settled(agreed, tuple(votes)))
        return _Standing(tuple(votes), "disputed", None)

    def _state(self, standing: _Standing, key: str, holders: frozenset[str]) -> State:
        if standing.state == "settled":
            return "settled"
        voted = {_key(v.reader) for v in standing.votes}
        if key in voted:
            return "waiting"  # not "disputed": that would tell what the other decided
        n_places = 1 if standing.state == "disputed" else self.readers - len(voted)
        if len(holders - voted - {key}) >= n_places:
            return "taken"
        return "disputed" if standing.state == "disputed" else "todo"

    def _is_known(self, reader: str, study_id: str, decision: Decision) -> bool:
        """Tell whether this very decision of the reader counts already."""
        if study_id not in self._items:
            return False
        given = self._shown(study_id)
        key = _key(reader)
        mine = [v for v in self._standing(study_id).votes if _key(v.reader) == key]
        return bool(mine) and mine[-1].decision == _checked(decision, given, self._items[study_id])

    def _record(
        self,
        turn: Turn,
        reader: str,
        study_id: str,
        decision: Decision,
        shown: str | None,
        origin: Origin,
    ) -> None:
        item = self._item(study_id)
        given = self._shown(study_id)
        if shown is not None and shown != given.hash:
            raise InputError(
                "The study's text, English, labels or doubts have changed since this decision was "
                "made. Look at it again, and decide on what it is now.",
                rule="changed-source",
            )
        standing = self._standing(study_id)
        if standing.state == "settled":
            raise InputError(
                "The study is settled: no more decisions are taken. Reopen it, with a reason, if "
                "it must change.",
                rule="settled",
            )
        checked = _checked(decision, given, item)
        key = _key(reader)
        earlier = next((v for v in standing.votes if _key(v.reader) == key), None)
        kind = (
            "corrected" if earlier else "adjudicated" if standing.state == "disputed" else "decided"
        )
        before = {
            "shown": given.hash,
            "translation": given.english,
            "labels": list(given.labels),
            "corrects": earlier.number if earlier else None,
        }
        after = {
            "verdict": checked.verdict,
            "translation": checked.translation,
            "labels": None if checked.labels is None else list(checked.labels),
            "reason": checked.reason,
            "origin": origin,
        }
        self._fold(turn.append(reader, kind, study_id, before, after))
        turn.release(study_id, key)


class _NotAll(Exception):
    """Ends a turn of which nothing may stay."""


def reader_name(text: str) -> str:
    """Return a reader's name as it is kept: NFC, one space between words.

    Raises:
        InputError: It is empty (rule ``no-reader``), longer than `MAX_NAME`, or holds characters
            that cannot be seen (rule ``bad-reader``).
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(
            "The reader's name is not text. Write it with letters.", rule="bad-reader"
        ) from None
    name = " ".join(unicodedata.normalize("NFC", text).split())
    if not name:
        raise InputError(
            "The reader has no name: expected who decides. Give one.", rule="no-reader"
        )
    if len(name) > MAX_NAME or not name.isprintable():
        raise InputError(
            f"The reader's name cannot be used: expected at most {MAX_NAME} characters that can be "
            f"seen, got {len(name)}. Write it shorter, with letters.",
            rule="bad-reader",
        )
    return name


def outcome_of(decision: Decision, shown: Shown) -> tuple[str | None, tuple[str, ...]]:
    """Return the English and the labels of a study that is kept under `decision`."""
    english = shown.english if decision.translation is None else decision.translation or None
    return english, _labels(decision, shown.labels)


def _key(name: str) -> str:
    """Return what makes two spellings of a name one person."""
    return unicodedata.normalize("NFKC", name).casefold()


def _labels(decision: Decision, given: tuple[str, ...]) -> tuple[str, ...]:
    return given if decision.labels is None else decision.labels


def _meaning(decision: Decision, shown: Shown) -> tuple[object, ...]:
    """Return what two decisions must share to be equal; wording of reasons does not matter."""
    if decision.verdict == "reject":
        return ("reject",)
    english, labels = outcome_of(decision, shown)
    return ("keep", " ".join((english or "").split()), frozenset(labels))


def _checked(decision: Decision, shown: Shown, item: Item) -> Decision:
    """Return a decision that can be recorded, cleaned.

    Raises:
        InputError: As `ReviewQueue.decide` says.
    """
    if decision.verdict not in get_args(Verdict):
        raise InputError(
            f"The decision is none of {', '.join(get_args(Verdict))}. Write one of them.",
            rule="bad-decision",
        )
    reason = _text(decision.reason, "reason", MAX_REASON)
    if decision.verdict == "reject":
        if not reason:
            raise InputError("A rejection needs a reason. Write one.", rule="no-reason")
        return Decision("reject", reason=reason)
    if decision.verdict == "accept":
        _refuse_placeholder(shown, item)
        return Decision("accept", reason=reason)
    translation: str | None = None
    labels: tuple[str, ...] | None = None
    if decision.translation is not None:
        if shown.study.report is None or shown.study.report.language == "en":
            raise InputError(
                "The study has no translation to edit: its report is English, or it has none. "
                "Edit its labels, accept or reject it.",
                rule="not-a-translation",
            )
        translation = _text(decision.translation, "English text", MAX_TEXT)
        if translation == clean(shown.english or ""):
            translation = None
    if decision.labels is not None:
        labels = _known_labels(decision.labels, shown.labels)
        if set(labels) == set(shown.labels):
            labels = None
    if translation is None:
        _refuse_placeholder(shown, item)
    if translation is None and labels is None:
        raise InputError(
            "The edit changes nothing: expected another English text or other labels. Accept the "
            "study as it is, or change it.",
            rule="empty-edit",
        )
    return Decision("edit", translation, labels, reason)


def _refuse_placeholder(shown: Shown, item: Item) -> None:
    if shown.is_candidate and any(d.rule == _PLACEHOLDER for d in item.doubts):
        raise InputError(
            "The English of this study is a placeholder, not a translation, and cannot be "
            "accepted. Edit it (empty keeps the study without English), or reject the study.",
            rule="placeholder-accepted",
        )


def _text(text: str, what: str, most: int) -> str:
    """Return a reader's text, cleaned as reports are."""
    if len(text) > most:
        raise InputError(
            f"The {what} is too long: expected at most {most} characters, got {len(text)}. "
            "Shorten it.",
            rule="too-long",
        )
    return clean(text)


def _known_labels(labels: Sequence[str], given: Sequence[str]) -> tuple[str, ...]:
    if len(labels) > MAX_LABELS:
        raise InputError(
            f"There are too many labels: expected at most {MAX_LABELS}, got {len(labels)}.",
            rule="too-long",
        )
    known = vocabulary()
    names = (label if label in given else known.resolve(label) for label in labels)
    return tuple(dict.fromkeys(names))


def _item(study_id: str, doubts: Sequence[Doubt]) -> Item:
    heaviest: dict[str, float] = {}
    for doubt in doubts:
        heaviest[doubt.rule] = max(doubt.weight, heaviest.get(doubt.rule, 0.0))
    ordered = sorted(doubts, key=lambda d: (-d.weight, d.rule, d.reason))
    return Item(study_id, round(sum(heaviest.values()), 6), tuple(ordered))


def _holders(leases: Iterable[tuple[str, str]]) -> dict[str, frozenset[str]]:
    """Return study_id → keys of the readers who hold it."""
    found: dict[str, set[str]] = {}
    for study_id, reader in leases:
        found.setdefault(study_id, set()).add(reader)
    return {i: frozenset(readers) for i, readers in found.items()}


def _mark(file: Path) -> tuple[int, int, int]:
    """Return what changes when a file is replaced."""
    try:
        stat = file.stat()
    except OSError:
        return (0, 0, 0)
    return (stat.st_ino, stat.st_size, stat.st_mtime_ns)


def _doubts(path: Path) -> dict[str, list[Doubt]]:
    found: dict[str, list[Doubt]] = {}
    if path.is_file():
        for row in _read(path, ("study_id", "rule", "reason", "weight")).to_pylist():
            weight = row["weight"] if math.isfinite(row["weight"] or 0.0) else 0.0
            doubt = Doubt(row["study_id"], row["rule"], row["reason"], weight or 0.0)
            found.setdefault(doubt.study_id, []).append(doubt)
    return found


def _studies(path: Path, ids: Sequence[str]) -> Any:
    """Return the rows of these studies as a ``pyarrow.Table``; the others are not held."""
    return _read(path, schema().names, ids)


def _candidates(
    path: Path, wanted: Mapping[str, int]
) -> dict[str, tuple[str | None, tuple[str, ...]]]:
    if not path.is_file():
        return {}
    found = {}
    for row in _read(path, ("study_id", "text"), optional=("problems",)).to_pylist():
        if row["study_id"] in wanted:
            problems = row.get("problems") or ()
            told = (problems,) if isinstance(problems, str) else tuple(map(str, problems))
            found[row["study_id"]] = (cast("str | None", row["text"] or None), told)
    return found


def _read(
    path: Path,
    columns: Sequence[str],
    ids: Sequence[str] | None = None,
    optional: Sequence[str] = (),
) -> Any:
    """Read columns of a Parquet table, only the rows with these study_ids where given.

    Raises:
        Mismatch: It is no Parquet file, is not there, or lacks a column.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        present = pq.read_schema(path).names
        missing = sorted(set(columns) - set(present))
        if not missing:
            only = None if ids is None else pc.field("study_id").isin(pa.array(ids, pa.string()))
            wanted = [*columns, *(name for name in optional if name in present)]
            return pq.read_table(path, columns=wanted, filters=only)
    except (pa.ArrowInvalid, OSError):
        raise Mismatch(
            f"{path.name} cannot be read: expected the Parquet table that 'medfinder curate' "
            "wrote. Run it again."
        ) from None
    raise Mismatch(
        f"{path.name} lacks the columns {', '.join(missing)}: another version of MedFinder wrote "
        "it. Run 'medfinder curate' again."
    )
