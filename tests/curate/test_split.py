from collections import Counter

import numpy as np
import pytest

from medfinder.curate.split import SPLITS, Group, SplitConfig, deal, leakage
from medfinder.errors import ConfigError


def groups(n: int, seed: int = 0) -> list[Group]:
    rng = np.random.default_rng(seed)
    rates = {"common": 0.5, "some": 0.2, "rare": 0.03}
    made = []
    for k in range(n):
        found = frozenset(name for name, rate in rates.items() if rng.random() < rate)
        made.append(Group(f"p{k:04d}", int(rng.integers(1, 5)), found))
    return made


def shares(dealt: dict[str, str], of: list[Group], finding: str | None = None) -> dict[str, float]:
    n: Counter[str] = Counter()
    for group in of:
        if finding is None:
            n[dealt[group.name]] += group.n_studies
        elif finding in group.findings:
            n[dealt[group.name]] += 1
    return {split: n[split] / n.total() for split in SPLITS}


def test_studies_are_dealt_out_by_the_shares() -> None:
    made = groups(1000)
    found = shares(dict(deal(made, SplitConfig())), made)
    assert found == pytest.approx({"train": 0.7, "val": 0.1, "test": 0.2}, abs=0.01)


@pytest.mark.parametrize("finding", ["common", "some", "rare"])
def test_every_finding_is_spread_by_the_shares(finding: str) -> None:
    made = groups(1000)
    found = shares(dict(deal(made, SplitConfig())), made, finding)
    assert found == pytest.approx({"train": 0.7, "val": 0.1, "test": 0.2}, abs=0.03)


def test_the_order_of_the_groups_changes_nothing() -> None:
    made = groups(200)
    assert deal(made, SplitConfig()) == deal(made[::-1], SplitConfig())


def test_another_key_is_another_split() -> None:
    made = groups(200)
    assert deal(made, SplitConfig()) != deal(made, SplitConfig(key="other"))


def test_who_has_a_split_keeps_it_when_more_come_and_the_rest_makes_up_for_it() -> None:
    made = groups(1000)
    before = deal(made[:400], SplitConfig())
    after = deal(made, SplitConfig(), before)
    assert {name: after[name] for name in before} == before
    found = shares(dict(after), made)
    assert found == pytest.approx({"train": 0.7, "val": 0.1, "test": 0.2}, abs=0.01)


def test_a_group_of_half_the_studies_goes_to_train() -> None:
    made = [*groups(100), Group("a", 300, frozenset(["common"]))]
    assert deal(made, SplitConfig())["a"] == "train"


def test_a_share_of_nothing_gets_nothing() -> None:
    made = groups(50)
    assert set(deal(made, SplitConfig(val=0.0)).values()) == {"train", "test"}


def test_nothing_to_deal_out_is_no_error() -> None:
    assert deal([], SplitConfig()) == {}


def test_what_crosses_is_counted() -> None:
    rows = [
        ("p1", "a", "train"),
        ("p1", "b", "test"),
        ("p2", "a", "val"),
        ("p3", "", "val"),
        ("p3", "", "val"),
        ("p4", "c", None),
    ]
    assert leakage(rows) == {"patients": 1, "texts": 1}  # type: ignore[arg-type]


def test_a_split_that_leaves_nothing_to_train_on_and_an_unknown_method_are_told() -> None:
    with pytest.raises(ConfigError, match=r"leave something to train on"):
        SplitConfig(val=0.5, test=0.5)
    with pytest.raises(ConfigError, match=r"expected 'auto', 'source' or 'hash'"):
        SplitConfig(method="random")
