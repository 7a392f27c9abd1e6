"""Ask the checkpoint that ships for findings together and without each other, as people do.

Questions are made of the findings of a split ("nodule without adenopathy", "mass, no pneumothorax or
hernia"); a CT answers where its phantom has what is asked for and nothing of what is denied. A
question is compared as it stands, and taken apart (`medfinder.search.question`). The weight of what
is denied is chosen on ``val``. Whole reports in Spanish, which the checkpoint does not read, are
compared as they stand and by English names of their findings.

Run: ``python benchmarks/questions.py [--folder FOLDER]``
"""

import argparse
import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))
import phantom_pools as pools
from recipes import CONFIGS
from record import table, write_result

from medfinder.config import load_config
from medfinder.embed import Embedder
from medfinder.model.checkpoint import load_encoder_from
from medfinder.model.hub import FOLDER
from medfinder.phantom.case import KINDS
from medfinder.phantom.splits import report_of
from medfinder.search import question
from medfinder.train.recipe import RecipeConfig

SHUNS = (0.0, 0.25, 0.5, 0.75, 1.0)
LEAST, LEAST_HAVING, N_DRAWS = 5, 10, 1000
"""CTs that must answer a question; CTs that must have a finding; draws of an interval."""

Asked = tuple[str, NDArray[np.bool_]]  # a question, and which CTs answer it


def questions(has: Mapping[str, NDArray[np.bool_]], seed: int = 0) -> dict[str, list[Asked]]:
    """Make questions of each kind from who has what, (n,) of each finding."""
    rng = np.random.default_rng(seed)
    names = [name for name in KINDS if has[name].sum() >= LEAST_HAVING]
    made: dict[str, list[Asked]] = {}

    def add(kind: str, text: str, answers: NDArray[np.bool_], is_told_apart: bool = True) -> None:
        if answers.sum() >= LEAST and is_told_apart:
            made.setdefault(kind, []).append((text, answers))

    for x, y in itertools.permutations(names, 2):
        z = names[int(rng.integers(len(names)))]
        both, either = has[x] & has[y], has[y] | has[z]
        add("X without Y", f"{x} without {y}", has[x] & ~has[y], both.sum() >= 3)
        if z in (x, y):
            continue
        add("X, no Y or Z", f"{x}, no {y} or {z}", has[x] & ~either, (has[x] & either).sum() >= 3)
        if x < y:
            add("X and Y", f"{x} and {y}", both)
            add("X, Y without Z", f"{x}, {y} without {z}", both & ~has[z])
    for name in names:
        add("no Y", f"no {name}", ~has[name])
    return made


def precision(scores: NDArray[np.float64], answers: NDArray[np.bool_]) -> float:
    """Return the average precision in percent; ties in the order of the CTs."""
    hit = answers[np.argsort(-scores, kind="stable")]
    return 100 * float((np.cumsum(hit) / np.arange(1, len(hit) + 1))[hit].mean())


def summary(values: Sequence[float] | NDArray[np.float64]) -> dict[str, float]:
    """Return the mean over questions and its 95 % interval over drawn questions."""
    drawn = np.random.default_rng(0).choice(values, (N_DRAWS, len(values))).mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"value": float(np.mean(values)), "low": float(low), "high": float(high)}


def success(places: Sequence[NDArray[np.float32]], volumes: NDArray[np.float32]) -> dict[str, Any]:
    """Return R@1 and R@10 of reports whose volumes stand in their order."""
    scores = np.stack(places) @ volumes.T
    rank = (scores > scores.diagonal()[:, None]).sum(1)
    return {f"R@{k}": summary(100.0 * (rank < k)) for k in (1, 10)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    home = Path("~/.cache/medfinder/recipes").expanduser()
    parser.add_argument("--folder", type=Path, default=home, help="of the phantom pools")
    args = parser.parse_args()
    preprocess = load_config(RecipeConfig, CONFIGS / "small.toml").model.preprocess
    data = pools.Data(args.folder, preprocess=preprocess, workers=2)
    embedder = Embedder(load_encoder_from(FOLDER), batch_size=16)

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        return embedder.embed_texts(texts).vectors

    found: dict[str, Any] = {"model_id": embedder.model_id, "shun": question.SHUN, "splits": {}}
    rows = []
    for split in ("val", "test"):
        pool = data.pool(split)
        ids = [study.study_id for study in pool.studies]
        volumes = embedder.embed_prepared(ids, pool.volumes).vectors
        has = {k: np.array([study.case.has(k) for study in pool.studies]) for k in KINDS}
        kinds: dict[str, Any] = {}
        for kind, asked in questions(has).items():
            texts, answers = zip(*asked, strict=True)
            shown = [
                precision(volumes @ place, a)
                for place, a in zip(embed(texts), answers, strict=True)
            ]
            one: dict[str, Any] = {
                "n": len(asked),
                "share that answers": 100 * float(np.mean([a.mean() for a in answers])),
                "as it stands": summary(shown),
                "taken apart": {},
            }
            for shun in SHUNS if split == "val" else (question.SHUN,):
                places = [question.read_question(text).place(embed, shun) for text in texts]
                apart = [precision(volumes @ p, a) for p, a in zip(places, answers, strict=True)]
                one["taken apart"][f"{shun:g}"] = summary(apart)
            kinds[kind] = one
            best = one["taken apart"][f"{found['shun']:g}"]["value"]
            rows.append(
                {
                    "split": split,
                    "question": kind,
                    "n": len(asked),
                    "chance": one["share that answers"],
                    "as it stands": one["as it stands"]["value"],
                    "taken apart": best,
                }
            )
        found["splits"][split] = kinds
        reports = [report_of(study, language="es") for study in pool.studies]
        named = [
            question.read_question(r, embedder.info.languages, is_report=True) for r in reports
        ]
        found["spanish reports"] = {
            "n": len(reports),
            "as it stands": success(list(embed(reports)), volumes),
            "by names": success([one.place(embed) for one in named], volumes),
        }
    print(table(rows))
    for way in ("as it stands", "by names"):
        print(way, found["spanish reports"][way])
    print(write_result("questions", found, [data.seed]))


if __name__ == "__main__":
    main()
