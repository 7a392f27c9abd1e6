"""``medfinder plan``: what somebody who pays for the machines is told."""

import json
import math
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from cli.conftest import Done, Run

HIRE = (
    "--studies 5_000_000 --cores 32 --gpu h100 --days 7 --stored-mb 150 --core-hour 0.05 "
    "--gpu-hour 3 --tb-month 20"
)


@pytest.fixture
def run(command_line: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs ``medfinder plan`` as typed, on a terminal of 80 columns."""
    monkeypatch.delenv("COLUMNS")

    def call(typed: str, *more: object) -> Done:
        return command_line("plan", *typed.split(), *more)

    return call


def told(done: Done) -> dict[str, Any]:
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


def test_a_plan_is_the_arithmetic_of_the_page(run: Run) -> None:
    """The formulas of docs/explanation/scale.md, by hand, from the constants that ship."""
    costs = json.loads((files("medfinder.plan") / "costs.json").read_text())
    study, vector, efficiency = costs["study"], costs["vector"], costs["efficiency"]
    plan = told(run(HIRE + " --json"))
    n, nodes, cores = 5_000_000, plan["nodes"], 32
    larger = 79 / study["mvoxels"]
    at_work = 1 + (nodes * cores - 1) * efficiency
    curate = (
        study["curate_start_s"] + n * (study["inspect_s"] * larger + study["words_s"])
    ) / at_work
    each = (study["read_s"] + study["preprocess_s"]) * larger + study["text_s"] + study["commit_s"]
    index = study["index_start_s"] + n * each / at_work
    assert n / costs["gpus"]["h100"]["volumes_per_s"] / nodes < index  # cores decide
    once = vector["fixed_s"] + n * vector["each_s"] + n**2 * vector["pair_s"]
    finish = once * sum(dim / 512 for dim in study["dims"]) / vector["cores_used"]
    assert [s["duration_s"] for s in plan["stages"]] == pytest.approx([curate, index, finish])
    assert plan["days"] == pytest.approx((curate + index + finish) / 86_400)
    assert plan["disk_bytes"] == pytest.approx(
        n * (study["curated_bytes"] + study["row_bytes"])
        + n * sum(dim * (4 + vector["derived_bytes"] / 512) for dim in study["dims"])
    )
    hired_h = (nodes * (curate + index) + finish) / 3600
    assert plan["hired"]["machine_hours"] == pytest.approx(hired_h)
    assert plan["hired"]["gpu_hours"] == pytest.approx(hired_h)
    assert plan["hired"]["core_hours"] == pytest.approx(32 * hired_h)
    assert plan["money"] == pytest.approx(hired_h * (32 * 0.05 + 3))
    busy_s = curate * at_work + study["index_start_s"] * nodes * cores + n * each
    busy_s += finish * vector["cores_used"]
    gpu_s = n / costs["gpus"]["h100"]["volumes_per_s"]
    assert plan["money_busy"] == pytest.approx((busy_s * 0.05 + gpu_s * 3) / 3600)
    assert plan["money"] > 2 * plan["money_busy"]
    assert plan["money_a_month"] == pytest.approx(plan["disk_bytes"] / 1e12 * 20)
    assert plan["reachable"] is True
    assert plan["stages"][0]["read_mb_s"] == pytest.approx(n * 150 / curate)
    assert plan["stages"][1]["read_mb_s"] == pytest.approx(n * 150 / index)
    assert plan["stages"][2]["read_mb_s"] == 0


def test_the_text_says_what_is_paid_for_and_what_is_not_in_it(run: Run) -> None:
    plan, done = told(run(HIRE + " --json")), run(HIRE)
    assert done.code == 0
    table = done.out.partition("\n")[2].partition("Hired:")[0]
    assert max(map(len, table.splitlines())) <= 80
    assert "\u2026" not in table  # nothing is cut off
    assert (
        f"{plan['nodes']} machines, each of 32 cores and 1 h100: {plan['days']:.2f} days, "
        "of 7 days asked for" in done.out
    )
    assert re.search(r"finish +[\d.]+ hours +1 +1 machine", table)
    assert (
        f"Money: {plan['money']:,.0f} for {plan['hired']['machine_hours']:,.0f} machine-hours "
        "hired, at 4.60 an hour (32 cores x 0.05 + 1 h100 x 3)" in done.out
    )
    assert "the others given back meanwhile" in done.out
    curate, index, _ = (f"{stage['read_mb_s']:,.0f} MB a second" for stage in plan["stages"])
    assert f"750 TB read to curate, at {curate}, and again to index, at {index}" in done.out
    assert "Not included: the archive's own disks and network" in done.out


def test_the_rate_of_the_archive_is_not_that_of_stages_that_do_not_read_it(run: Run) -> None:
    bare, trained = (told(run(f"--gpu h100 --stored-mb 150 --epochs {n} --json")) for n in (0, 100))
    rates = [[s["read_mb_s"] for s in plan["stages"]] for plan in (bare, trained)]
    assert rates[1] == [*rates[0], 0]
    assert "before training" not in bare["not_included"]
    assert "each volume once more before training" in trained["not_included"]


@pytest.mark.parametrize("studies", [1, 40, 1_000, 1_000_000])
def test_no_figure_of_the_text_is_nothing(run: Run, studies: int) -> None:
    done = run(f"--studies {studies} --core-hour 0.05 --tb-month 20 --stored-mb 150")
    assert done.code == 0
    assert not re.search(r"(?<![\d.,])0\.0+(?![\d])", done.out)


def test_a_price_that_is_missing_is_named(run: Run) -> None:
    out = run("--gpu h100 --core-hour 1").out
    assert "Money for machines: not known without --gpu-hour" in out
    assert "Money for the disk: not known without --tb-month" in out
    assert "--gpu-hour counts for nothing" in run("--core-hour 1 --gpu-hour 3").out


def test_days_that_no_number_of_machines_reaches_are_told_in_json_too(run: Run) -> None:
    done = run("--studies 40_000_000 --days 3 --json")
    plan = told(done)
    assert plan["reachable"] is False
    assert plan["days_asked"] == 3
    assert plan["nodes"] == 1
    assert "finishing the index, on one of them" in plan["why"]
    assert plan["why"] in done.err
    assert told(run("--studies 40_000 --json"))["reachable"] is None


def test_start_times_are_named_where_they_are_the_reason(run: Run) -> None:
    done = run("--studies 1000 --days 0.00001")
    assert re.search(r"starting a worker takes [\d.]+ seconds", done.err)
    assert "make an index a source" not in done.err


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("--mvoxels nan", "--mvoxels is nan"),
        ("--mvoxels 0", "--mvoxels is 0.0; expected more than 0"),
        ("--stored-mb inf", "--stored-mb is inf"),
        ("--days nan", "--days is nan"),
        ("--days 0", "more than 0 days"),
        ("--core-hour -3", "--core-hour is -3.0"),
        ("--gpu-hour -1", "--gpu-hour is -1.0"),
        ("--tb-month nan", "--tb-month is nan"),
        ("--encoder astra", "--encoder belongs to --measure"),
        ("--text-encoder none", "--text-encoder belongs to --measure"),
        ("--sample 24", "--sample belongs to --measure"),
        ("--save x.json", "--save belongs to --measure"),
        ("--nodes 2 --days 7", "Leave --nodes or --days out"),
        ("--studies 1e6", "expected a number such as 5_000_000"),
        ("--measure studies --save nodir/x.json", "no folder 'nodir'"),
    ],
)
def test_nonsense_is_refused_in_a_line(run: Run, typed: str, message: str) -> None:
    done = run(typed)
    assert (done.code, done.out) == (2, "")
    assert message in done.err


def test_costs_that_say_nothing_are_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "e.json").write_text("{}")
    done = run("--costs", tmp_path / "e.json")
    assert done.code == 2
    assert "e.json" in done.err
    assert "study is missing" in done.err
    assert not math.isnan(told(run("--json"))["days"])
