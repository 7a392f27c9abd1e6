"""The slow truth for the objective's terms: each equation as it is printed, one number at a time."""

import math
from collections.abc import Sequence

Rows = Sequence[Sequence[float]]


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def log_softmax(row: Sequence[float], i: int) -> float:
    top = max(row)
    return row[i] - top - math.log(math.fsum(math.exp(x - top) for x in row))


def view_mse(first: Rows, second: Rows) -> float:
    squares = [
        (x - y) ** 2 for a, b in zip(first, second, strict=True) for x, y in zip(a, b, strict=True)
    ]
    return math.fsum(squares) / len(squares)


def one_directional(texts: Rows, volumes: Rows, scale: float) -> float:
    found = [
        log_softmax([scale * dot(text, volume) for volume in volumes], i)
        for i, text in enumerate(texts)
    ]
    return -math.fsum(found) / len(found)


def info_nce(texts: Rows, volumes: Rows, scale: float, same: Sequence[Sequence[bool]]) -> float:
    n = len(texts)
    lost = []
    for i in range(n):
        to_volumes = [scale * dot(texts[i], volumes[j]) for j in range(n)]
        to_texts = [scale * dot(texts[j], volumes[i]) for j in range(n)]
        right = [j for j in range(n) if same[i][j]]
        asked = [j for j in range(n) if same[j][i]]
        lost.append(math.fsum(log_softmax(to_volumes, j) for j in right) / len(right))
        lost.append(math.fsum(log_softmax(to_texts, j) for j in asked) / len(asked))
    return -math.fsum(lost) / (2 * n)


def siglip(
    texts: Rows, volumes: Rows, scale: float, bias: float, same: Sequence[Sequence[bool]]
) -> float:
    lost = [
        softplus(-(1 if same[i][j] else -1) * (scale * dot(text, volume) + bias))
        for i, text in enumerate(texts)
        for j, volume in enumerate(volumes)
    ]
    return math.fsum(lost) / len(texts)


def statements(
    volumes: Rows, sentences: Rows, truth: Sequence[Sequence[int]], scale: float, bias: float
) -> float:
    classes: dict[int, list[float]] = {1: [], 0: [], 2: []}
    for i, volume in enumerate(volumes):
        for s, sentence in enumerate(sentences):
            if truth[i][s] != -1:
                sign = 1 if truth[i][s] == 1 else -1
                asked = scale * dot(volume, sentence) + bias
                classes[truth[i][s]].append(softplus(-sign * asked))
    return math.fsum(math.fsum(lost) / len(lost) for lost in classes.values() if lost) / 3


def attribute_choice(
    volumes: Rows, told: Rows, changed: Rows, owner: Sequence[int], scale: float
) -> float:
    lost = [
        softplus(-scale * (dot(volumes[o], p) - dot(volumes[o], q)))
        for o, p, q in zip(owner, told, changed, strict=True)
    ]
    return math.fsum(lost) / len(lost)
