"""What the checks of translations find of planted errors, and what the offline translator manages.

Every report is a phantom's in Spanish with its exact English, from two hands: ``exact`` (this
folder's translation_pairs, the wording of `medfinder.phantom.wording`) and ``pairs``
(`medfinder.phantom.pairs`). An endpoint on loopback answers with the exact English, or with one
error planted in it; the errors are planted by text rules of this script, which share no word list
with the checks. An error counts as found where the report ends in the expert's queue, and as named
where the rule for that kind is among its problems.

    python benchmarks/translation.py [--quick]
"""

import argparse
import contextlib
import random
import re
import shutil
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from record import table, write_result
from translation_pairs import pair

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/report"))
from translation_server import serving  # noqa: E402  the tests' own endpoint

from medfinder.phantom.case import sample_case  # noqa: E402
from medfinder.phantom.pairs import english, spanish, word_pair  # noqa: E402
from medfinder.phantom.wording import WordingConfig, plain, word  # noqa: E402
from medfinder.report.apertium import Apertium  # noqa: E402
from medfinder.report.chat import Chat  # noqa: E402
from medfinder.report.translate import TranslateConfig, translate_all  # noqa: E402
from medfinder.report.translation_checks import check_translation  # noqa: E402

SENTENCES = ROOT / "tests/report/spanish_sentences.toml"
SEED = 20
Plant = Callable[[str, str, random.Random], str | None]


def _one(text: str, patterns: Sequence[tuple[str, str]], rng: random.Random) -> str | None:
    """Replace one occurrence of one pattern, chosen at random among all there are."""
    places = [(m, new) for old, new in patterns for m in re.finditer(old, text, re.IGNORECASE)]
    if not places:
        return None
    found, new = places[rng.randrange(len(places))]
    made = text[: found.start()] + found.expand(new) + text[found.end() :]
    return made if made != text else None


def dropped_negation(spanish: str, english: str, rng: random.Random) -> str | None:
    del spanish
    return _one(
        english,
        (
            (r"\bThere (is|are) no ", r"There \1 "),
            (r"(?<=\. )No ", "There is "),
            (r"(?<=: )No ", "There is "),
            (r"^No ", "There is "),
            (r"\bwithout ", "with "),
            (r"\bshow no ", "show "),
            (r"\bcannot be ruled out", "was ruled in"),
        ),
        rng,
    )


def added_negation(spanish: str, english: str, rng: random.Random) -> str | None:
    del spanish
    return _one(
        english,
        ((r"\bThere is an? ", "There is no "), (r"\bThere are (?!no )", "There are no ")),
        rng,
    )


def swapped_side(spanish: str, english: str, rng: random.Random) -> str | None:
    del spanish
    return _one(
        english,
        (
            (r"\bleft\b", "right"),
            (r"\bright (?!middle)", "left "),
            (r"\bbilateral\b", "left"),
            (r"\bboth lungs\b", "the right lung"),
            (r"\bRUL\b", "LUL"),
            (r"\bLUL\b", "RUL"),
            (r"\bRLL\b", "LLL"),
            (r"\bLLL\b", "RLL"),
        ),
        rng,
    )


def changed_number(spanish: str, english: str, rng: random.Random) -> str | None:
    del spanish
    places = list(re.finditer(r"(?<![\w.])\d+(?:\.\d+)?(?= (?:mm|cm)\b)", english))
    if not places:
        return None
    found = places[rng.randrange(len(places))]
    value = found[0]
    options = [value[::-1], str(int(float(value)) + 1), value + "0", value.replace(".", "")]
    options = [o for o in options if float(o) != float(value)]
    new = options[rng.randrange(len(options))]
    return english[: found.start()] + new + english[found.end() :]


def changed_unit(spanish: str, english: str, rng: random.Random) -> str | None:
    del spanish
    return _one(english, ((r"(?<=\d) mm\b", " cm"), (r"(?<=\d) cm\b", " mm")), rng)


def untranslated_words(spanish: str, english: str, rng: random.Random) -> str | None:
    """Put one to three neighbouring words of the original, long enough to mean something, in."""
    words = re.findall(r"[^\W\d_]+", spanish)
    starts = [i for i, w in enumerate(words) if len(w) >= 5 and w.lower() not in english.lower()]
    if not starts:
        return None
    at = starts[rng.randrange(len(starts))]
    left = " ".join(words[at : at + rng.randrange(1, 4)])
    theirs = list(re.finditer(r"(?<= )[a-z]{4,}(?= )", english))
    if not theirs:
        return None
    place = theirs[rng.randrange(len(theirs))]
    return english[: place.start()] + left + english[place.end() :]


def dropped_sentence(spanish: str, english: str, rng: random.Random) -> str | None:
    """Leave out a sentence that says more than two words."""
    del spanish
    cut = re.split(r"(?<=\.)\s+", english)
    long = [i for i, s in enumerate(cut) if len(s.split()) > 2]
    if len(cut) < 2 or not long:
        return None
    del cut[long[rng.randrange(len(long))]]
    return " ".join(cut)


def placeholder(spanish: str, english: str, rng: random.Random) -> str | None:
    del spanish, english
    said = (
        "Something wrong with the data! #################",
        "I'm sorry, but I cannot assist with that request.",
        "As an AI language model, I am unable to translate this.",
        "",
        "N/A",
    )
    return said[rng.randrange(len(said))]


PLANTS: dict[str, tuple[Plant, tuple[str, ...]]] = {
    "dropped negation": (dropped_negation, ("translation-negation",)),
    "swapped side": (swapped_side, ("translation-side",)),
    "changed number": (changed_number, ("translation-number",)),
    "untranslated words": (untranslated_words, ("translation-residue",)),
    "added negation": (added_negation, ("translation-negation",)),
    "changed unit": (changed_unit, ("translation-unit", "translation-number")),
    "dropped sentence": (
        dropped_sentence,
        (
            "translation-findings",
            "translation-negation",
            "translation-length",
            "translation-number",
        ),
    ),
    "placeholder": (placeholder, ("translation-placeholder", "translation-missing")),
}
DEMANDED = ("dropped negation", "swapped side", "changed number", "untranslated words")


def reports(n: int) -> list[tuple[str, str, str]]:
    """Return (whose, Spanish, English), half of them of each hand, three of four without accents."""
    made = []
    for i in range(n):
        if i % 2:
            said = word_pair(sample_case(i), i)
            es = spanish(said) if i % 8 == 1 else plain(spanish(said))
            made.append(("pairs", es, english(said)))
        else:
            made.append(("exact", *pair(i, is_plain=i % 8 > 0)))
    return made


def through_endpoint(said: dict[str, str], folder: Path) -> dict[str, tuple[str, ...]]:
    """Return the rules each Spanish text's translation broke, after it went over HTTP."""
    with serving(lambda text, n: said[text]) as server:
        chat = Chat(server.url, "planted", backoff_s=0.001, retries=0)
        config = TranslateConfig(attempts=1, max_missing=10**9)
        found = {}
        for made in translate_all([(t, t) for t in said], chat, folder / "cache", config=config):
            found[made.id] = tuple(p.rule for p in made.problems)
    return found


def offline(name: str, texts: Sequence[str]) -> dict[str, Any]:
    """Run the offline translator for real."""
    translator = Apertium()
    list(translator.translate(texts[:1]))
    began = time.perf_counter()
    made = dict(translator.translate(texts))
    wall_s = time.perf_counter() - began
    broken: Counter[str] = Counter()
    n_passed = n_left = n_words = n_findings = 0
    for i, text in enumerate(texts):
        answer = made[i]
        problems = check_translation(text, answer) if isinstance(answer, str) else ()
        rules = {p.rule for p in problems}
        broken.update(rules)
        n_passed += not rules and isinstance(answer, str)
        n_findings += not rules & {"translation-findings", "translation-negation"}
        n_words += len(str(answer).split())
        left = next((p.reason for p in problems if p.rule == "translation-residue"), "")
        n_left += left.count(",") + 1 if left else 0
    return {
        "reports": name,
        "n": len(texts),
        "pass_all_share": n_passed / len(texts),
        "same_findings_share": n_findings / len(texts),
        "untranslated_word_share": n_left / max(1, n_words),
        "s_per_report": wall_s / len(texts),
        "broken": dict(broken),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="60 reports, and nothing is written")
    chosen = parser.parse_args()
    n = 60 if chosen.quick else 500
    rng = random.Random(SEED)
    pairs = reports(n)
    unique = {es: (whose, en) for whose, es, en in pairs}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        untouched = through_endpoint({es: en for es, (_, en) in unique.items()}, Path(folder, "0"))
        alarms = Counter(unique[es][0] for es, rules in untouched.items() if rules)
        false_alarms = sum(alarms.values()) / len(untouched)
        for k, (kind, (plant, names)) in enumerate(PLANTS.items(), start=1):
            said = {}
            for es, (_, en) in unique.items():
                wrong = plant(es, en, rng)
                if wrong is not None:
                    said[es] = wrong
            found = through_endpoint(said, Path(folder, str(k)))
            rows.append(
                {
                    "planted": kind,
                    "n": len(said),
                    "found": sum(bool(r) for r in found.values()) / len(said),
                    "named": sum(bool(set(r) & set(names)) for r in found.values()) / len(said),
                }
            )
    for es, (_, en) in list(unique.items())[:5]:
        check_translation(es, en)
    began = time.process_time()
    for es, (_, en) in unique.items():
        check_translation(es, en)
    per_s = len(unique) / (time.process_time() - began)
    print(table(rows))
    print(f"\nuntouched: {len(unique)} reports, false alarms {false_alarms:.3f} {dict(alarms)}")
    print(f"checks: {per_s:.0f} reports a second of CPU")
    figures: dict[str, Any] = {
        "n_reports": len(unique),
        "planted": rows,
        "false_alarm_share": false_alarms,
        "checked_per_cpu_s": per_s,
    }
    if shutil.which("apertium-wblank-mode"):
        unseen = WordingConfig(sentences="unseen", p_plain=0.0)
        sentences = tomllib.loads(SENTENCES.read_text(encoding="utf-8"))["sentence"]
        figures["offline"] = [
            offline("phantom wording", [pair(i)[0] for i in range(n)]),
            offline(
                "phantom wording, unseen sentences",
                [plain(word(sample_case(i), i, "es", unseen)) for i in range(n, n + n // 2)],
            ),
            offline(
                "phantom pairs",
                [plain(spanish(word_pair(sample_case(i), i))) for i in range(n // 2)],
            ),
            offline("sentences of tests/report", [s["text"] for s in sentences]),
        ]
        print()
        print(
            table([{k: v for k, v in row.items() if k != "broken"} for row in figures["offline"]])
        )
    else:
        print("Without apertium the offline translator is not measured.")
    missed = [r["planted"] for r in rows if r["planted"] in DEMANDED and r["found"] < 0.95]
    if missed or false_alarms > 0.05:
        print(f"Below what is demanded: {', '.join(map(str, missed)) or 'false alarms'}")
    if not chosen.quick:
        with contextlib.suppress(OSError):
            print(
                write_result(
                    "translation",
                    figures,
                    seeds=[SEED],
                    notes="Phantom reports: our glossary and checks were written beside their wording "
                    "('phantom pairs' came later and from another hand), so real reports will do "
                    "worse: the 76 sentences of tests/report passed at .868 before the glossary was "
                    "mended with them; of 16 further lines in BIMCV's style .625 passed before, and "
                    "of the next 20 .85. False alarms on merged sentences were .055 of 200. "
                    "Detection needs no rule of the right name; 'named' does.",
                )
            )


if __name__ == "__main__":
    main()
