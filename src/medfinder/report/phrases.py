"""Phrase patterns → a matcher that finds all of them in one pass over words.

A pattern is a row of words; ``(a|b c|)`` is a choice (an empty one makes it optional) and ``~3``
stands for up to three words that do not end a clause. All patterns of a language become one
automaton whose deterministic states are made when a text first needs them, so that matching costs
a few dictionary look-ups a word, whatever the number of patterns.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from medfinder.records import Language
from medfinder.report.tokens import fold, tokenize

# A gap never crosses these: what stands behind them belongs to another statement.
_CLAUSE_ENDS = frozenset(".;:()[]?!•·\u201c\u201d")
# Nor these: "no effusion except a small pleural one" holds no "effusion … pleural".
_GAP_ENDS = _CLAUSE_ENDS | frozenset(
    ["but", "except", "however", "although", "pero", "salvo", "excepto", "aunque", "excepting"]
)
_MAX_STATES = 20_000


@dataclass(frozen=True, slots=True)
class Match:
    """Words ``start`` to ``end`` (exclusive) state `key`."""

    key: str
    start: int
    end: int


class _Node:
    """A state of the pattern automaton before it is made deterministic."""

    __slots__ = ("after_any", "after_word", "keys", "number", "skips")

    def __init__(self, number: int) -> None:
        self.number = number
        self.after_word: dict[str, list[_Node]] = {}
        self.after_any: list[_Node] = []
        self.skips: list[_Node] = []
        self.keys: list[str] = []


class _State:
    """A set of nodes, with the transitions met so far."""

    __slots__ = ("after_other", "after_word", "keys", "nodes", "words")

    def __init__(self, nodes: list[_Node]) -> None:
        self.nodes = nodes
        self.keys = tuple(dict.fromkeys(key for node in nodes for key in node.keys))
        self.words = frozenset(word for node in nodes for word in node.after_word)
        self.after_word: dict[str, _State | None] = {}
        self.after_other: _State | bool | None = False  # False: not made yet


class Phrases:
    """A set of patterns, each with the key it stands for.

    Args:
        language: Decides stems and dropped words.
    """

    def __init__(self, language: Language) -> None:
        self.language: Language = language
        self._n_nodes = 0
        self._root = self._node()
        self._states: dict[frozenset[int], _State] = {}
        self._first: _State | None = None

    def add(self, key: str, patterns: Iterable[str]) -> None:
        """Let every pattern in `patterns` stand for `key`."""
        for pattern in patterns:
            end = self._node()
            self._compile(list(_pieces(pattern)), self._root, end)
            end.keys.append(key)
        self._first = None
        self._states.clear()

    def matches(self, words: list[str]) -> list[Match]:
        """Return, for each starting word and key, the longest match; in order of start."""
        if self._first is None or len(self._states) > _MAX_STATES:
            self._states.clear()
            self._first = self._state([self._root])
        found: list[Match] = []
        first = self._first
        first_words = first.words
        n = len(words)
        for i in range(n):
            word = words[i]
            if word not in first_words:
                continue
            state = self._step(first, word)
            longest: dict[str, int] = {}
            j = i + 1
            while state is not None:
                for key in state.keys:
                    longest[key] = j
                if j == n:
                    break
                state = self._step(state, words[j])
                j += 1
            for key, end in longest.items():
                found.append(Match(key, i, end))
        return found

    def _step(self, state: _State, word: str) -> _State | None:
        if word in state.words:
            if word in state.after_word:
                return state.after_word[word]
            nodes = [n for node in state.nodes for n in node.after_word.get(word, ())]
            if word not in _GAP_ENDS:
                nodes += [n for node in state.nodes for n in node.after_any]
            made = self._state(nodes) if nodes else None
            state.after_word[word] = made
            return made
        if word in _GAP_ENDS:
            return None
        other = state.after_other
        if other is False:
            nodes = [n for node in state.nodes for n in node.after_any]
            other = state.after_other = self._state(nodes) if nodes else None
        return other if isinstance(other, _State) else None

    def _state(self, nodes: list[_Node]) -> _State:
        closed: dict[int, _Node] = {}
        open_nodes = list(nodes)
        while open_nodes:
            node = open_nodes.pop()
            if node.number not in closed:
                closed[node.number] = node
                open_nodes += node.skips
        identity = frozenset(closed)
        state = self._states.get(identity)
        if state is None:
            state = self._states[identity] = _State([closed[n] for n in sorted(closed)])
        return state

    def _node(self) -> _Node:
        self._n_nodes += 1
        return _Node(self._n_nodes)

    def _compile(self, pieces: list[str | list[str]], start: _Node, end: _Node) -> None:
        here = start
        for k, piece in enumerate(pieces):
            there = end if k == len(pieces) - 1 else self._node()
            if isinstance(piece, list):
                for option in piece:
                    self._compile(list(_pieces(option)), here, there)
            elif piece.startswith("~"):
                # A chain of n optional words; each link may also stop here.
                link = here
                for _ in range(int(piece[1:])):
                    link.skips.append(there)
                    following = self._node()
                    link.after_any.append(following)
                    link = following
                link.skips.append(there)
            else:
                # A hyphenated or accented word becomes what the text's words become.
                words = tokenize(fold(piece), self.language).words
                link = here
                for word in words:
                    following = self._node()
                    link.after_word.setdefault(word, []).append(following)
                    link = following
                link.skips.append(there)
            here = there
        if not pieces:
            start.skips.append(end)


def _pieces(pattern: str) -> Iterator[str | list[str]]:
    """Yield words, gaps and choices; choices may nest."""
    depth = 0
    word = ""
    options: list[str] = []
    for char in pattern + " ":
        if char == "(":
            if depth:
                word += char
            elif word:
                raise ValueError(f"Phrase pattern {pattern!r}: a choice must be a word of its own.")
            depth += 1
        elif char == ")" and depth:
            depth -= 1
            if depth:
                word += char
            else:
                yield [*options, word]
                options, word = [], ""
        elif char == "|" and depth == 1:
            options.append(word)
            word = ""
        elif char == " " and depth == 0:
            if word:
                yield word
            word = ""
        else:
            word += char
    if depth:
        raise ValueError(f"Phrase pattern {pattern!r} has an unclosed choice.")
