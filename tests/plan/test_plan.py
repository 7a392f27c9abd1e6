"""What an archive will take: sums that can be done by hand."""

import dataclasses
import json
import re

import pytest

from medfinder.errors import ConfigError, InputError, UnknownName
from medfinder.plan.costs import Costs, GpuCosts, StudyCosts, VectorCosts, load_costs, save_costs
from medfinder.plan.plan import (
    DAY_S,
    Site,
    finishing_s,
    fit_finish,
    nodes_for,
    out_of_reach,
    plan,
)

COSTS = Costs(
    machine="by hand",
    study=StudyCosts(
        encoder="a + b", n=4, mvoxels=10.0, inspect_s=1.0, words_s=0.5, curate_start_s=20.0,
        read_s=1.0, preprocess_s=0.5, embed_s=4.0, text_s=0.25, commit_s=0.25, index_start_s=10.0,
        dims=(512, 256), curated_bytes=1000.0, row_bytes=500.0, worker_mib=700.0,
    ),
    vector=VectorCosts(
        dim=512, fixed_s=1.0, each_s=1e-4, pair_s=1e-10, cores_used=2.0, cores=2,
        derived_bytes=512.0, peak_bytes=4096.0, serve_bytes=64.0, serve_mib=100.0,
    ),
    gpus={"h200": GpuCosts("H200", "base", volumes_per_s=10.0, train_studies_per_s=5.0)},
)  # fmt: skip


def stage(made, name: str):
    return next(s for s in made.stages if s.stage == name)


def test_one_core_takes_the_sum_of_all_studies() -> None:
    made = plan(1000, COSTS, Site(cores=1))
    assert stage(made, "curate").cpu_s == 20 + 1000 * 1.5
    assert stage(made, "index").cpu_s == 10 + 1000 * 6.0
    assert stage(made, "index").duration_s == stage(made, "index").cpu_s
    assert made.duration_s == pytest.approx(sum(s.duration_s for s in made.stages))


def test_larger_volumes_cost_more_to_read_but_not_to_embed() -> None:
    made = plan(1000, COSTS, Site(cores=1, mvoxels=20.0))
    assert stage(made, "curate").cpu_s == 20 + 1000 * (2 * 1.0 + 0.5)
    assert stage(made, "index").cpu_s == 10 + 1000 * (2 * 1.5 + 4.5)


def test_further_cores_count_as_much_as_was_measured() -> None:
    half = dataclasses.replace(COSTS, efficiency=0.5)
    made = plan(1000, half, Site(nodes=2, cores=2))
    assert stage(made, "curate").duration_s == pytest.approx((20 + 1500) / (1 + 3 * 0.5))


def test_a_gpu_takes_the_embedding_off_the_cores_and_the_slower_of_the_two_decides() -> None:
    made = plan(1000, COSTS, Site(cores=1, gpus=1, gpu="h200"))
    index = stage(made, "index")
    assert index.gpu_s == 100.0
    assert index.cpu_s == 10 + 1000 * 2.0
    assert index.bound == "cores"
    many = stage(plan(1000, COSTS, Site(cores=64, gpus=1, gpu="h200")), "index")
    assert many.bound == "gpus"
    assert many.duration_s == 100.0


def test_the_index_is_finished_by_one_node_whatever_their_number() -> None:
    one, many = (stage(plan(1_000_000, COSTS, Site(nodes=n)), "finish") for n in (1, 8))
    assert one.duration_s == many.duration_s == pytest.approx((1 + 100 + 100) * 1.5 / 2)
    assert finishing_s(1_000_000, 256, COSTS) == pytest.approx(201 / 2)


def test_disk_memory_and_money() -> None:
    # One core that is always busy is paid for as it is hired.
    site = Site(cores=1, core_hour=3.6, tb_month=20.0, stored_mb=100.0)
    made = plan(1_000_000, COSTS, site)
    assert made.disk_bytes == pytest.approx(1e6 * (1500 + 768 * 4 + 768))
    assert made.money == pytest.approx(made.cpu_s / 1000)
    assert made.money_a_month == pytest.approx(made.disk_bytes / 1e12 * 20)
    assert made.read_bytes == 2e14
    assert made.serve_mib == pytest.approx(100 + 1e6 * 64 * 1.5 / 2**20)
    assert made.finish_mib == pytest.approx(1e6 * 4096 / 2**20)
    assert plan(10, COSTS).money is None


def test_money_is_for_machines_while_they_are_hired_and_not_for_what_is_busy_of_them() -> None:
    costs = dataclasses.replace(COSTS, efficiency=0.5)
    site = Site(nodes=3, cores=4, gpus=2, gpu="h200", core_hour=0.5, gpu_hour=3.0, epochs=2)
    made = plan(1_000_000, costs, site)
    curate, index, finish, train = (s.duration_s / 3600 for s in made.stages)
    assert [s.nodes for s in made.stages] == [3, 3, 1, 3]
    hour = 4 * 0.5 + 2 * 3.0
    assert made.money == pytest.approx((3 * (curate + index + train) + finish) * hour)
    assert made.money_busy == pytest.approx((made.cpu_s * 0.5 + made.gpu_s * 3.0) / 3600)
    assert made.money > made.money_busy
    for stage_ in made.stages:  # nothing is busy that is not hired
        assert stage_.hired_s * 4 >= stage_.cpu_s
        assert stage_.hired_s * 2 >= stage_.gpu_s


def test_money_is_not_told_where_a_price_is_missing() -> None:
    site = Site(gpus=1, gpu="h200", core_hour=1.0)
    assert plan(10, COSTS, site).money is None
    assert plan(10, COSTS, dataclasses.replace(site, gpu_hour=0.0)).money is not None


def test_the_archive_is_read_while_curating_and_again_while_indexing_and_not_else() -> None:
    made = plan(1000, COSTS, Site(cores=1, gpus=1, gpu="h200", epochs=10, stored_mb=100.0))
    assert [s.read_bytes for s in made.stages] == [1e11, 1e11, 0, 0]
    assert stage(made, "curate").read_mb_s == pytest.approx(1e5 / (20 + 1500))
    assert stage(made, "index").read_mb_s == pytest.approx(1e5 / (10 + 2000))


def test_training_is_planned_where_it_is_asked_for() -> None:
    made = plan(1000, COSTS, Site(gpus=2, gpu="h200", epochs=10))
    assert stage(made, "train").duration_s == 1000
    with pytest.raises(ConfigError, match="--gpu h200"):
        plan(1000, COSTS, Site(epochs=1))


def test_as_many_nodes_as_the_days_need_and_not_one_more() -> None:
    site = Site(cores=4)
    found = nodes_for(100_000, 0.1, COSTS, site)
    assert found is not None
    assert found > 1

    def days(nodes: int) -> float:
        return plan(100_000, COSTS, dataclasses.replace(site, nodes=nodes)).duration_s / DAY_S

    assert days(found) <= 0.1 < days(found - 1)
    assert nodes_for(10, 1, COSTS, site) == 1


def test_no_number_of_nodes_shortens_what_one_does() -> None:
    assert nodes_for(100_000_000, 1.0, COSTS, Site()) is None
    why = out_of_reach(100_000_000, 1.0, COSTS, Site())
    assert "finishing the index, on one of them, 8.77 days" in why  # (1 + 1e4 + 1e6) * 1.5 / 2 s
    assert "an index a source" in why


def test_what_start_times_forbid_is_not_blamed_on_finishing() -> None:
    assert nodes_for(1000, 1e-4, COSTS, Site()) is None  # 8.64 s
    why = out_of_reach(1000, 1e-4, COSTS, Site())
    assert "starting a worker takes 10.0 seconds" in why
    assert "an index a source" not in why


def test_days_that_only_too_many_nodes_would_do_are_said_to_be_that() -> None:
    one_for_all = dataclasses.replace(COSTS, efficiency=1e-9)
    assert nodes_for(100_000, 0.01, one_for_all, Site()) is None
    assert "not even 1,048,576" in out_of_reach(100_000, 0.01, one_for_all, Site())


def test_a_fit_finds_what_made_the_figures() -> None:
    sizes = (50_000, 100_000, 200_000, 400_000)
    fixed, each, pair = fit_finish(sizes, [finishing_s(n, 512, COSTS) for n in sizes])
    assert (fixed, each, pair) == pytest.approx((1.0, 1e-4, 1e-10))


def test_a_fit_has_no_negative_costs() -> None:
    assert min(fit_finish((1, 2, 3), (5.0, 4.0, 3.0))) >= 0
    with pytest.raises(ConfigError, match="three sizes"):
        fit_finish((1, 2), (5.0, 4.0))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"nodes": 0}, "--nodes is 0; expected 1 to"),
        ({"nodes": 10**400}, "--nodes is 10"),
        ({"cores": 0}, "--cores is 0; expected 1 to"),
        ({"epochs": -1}, "--epochs is -1"),
        ({"gpus": 1}, "which GPU"),
        ({"gpu": "h200"}, "which GPU"),
        ({"mvoxels": -1.0}, "--mvoxels is -1.0; expected more than 0"),
        ({"mvoxels": 0.0}, "--mvoxels is 0.0"),
        ({"mvoxels": float("nan")}, "--mvoxels is nan"),
        ({"stored_mb": float("nan")}, "--stored-mb is nan"),
        ({"core_hour": -1.0}, "--core-hour is -1.0; expected 0 to"),
        ({"gpu_hour": float("inf")}, "--gpu-hour is inf"),
        ({"tb_month": float("nan")}, "--tb-month is nan"),
    ],
)
def test_a_site_that_cannot_be_is_refused(fields, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Site(**fields)


def test_bad_questions_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least one study"):
        plan(0, COSTS)
    with pytest.raises(ConfigError, match="at most"):
        plan(10**400, COSTS)
    for days in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="more than 0 days"):
            nodes_for(10, days, COSTS, Site())
    with pytest.raises(ConfigError, match="efficiency is 0; expected a finite number, above 0"):
        plan(10, dataclasses.replace(COSTS, efficiency=0.0))
    with pytest.raises(UnknownName, match="'a100'"):
        plan(10, COSTS, Site(gpus=1, gpu="a100"))


def test_costs_are_read_as_they_were_written(tmp_path) -> None:
    save_costs(COSTS, tmp_path / "costs.json")
    assert load_costs(tmp_path / "costs.json") == COSTS


def test_costs_that_cannot_be_read_are_refused(tmp_path) -> None:
    with pytest.raises(InputError, match="--measure"):
        load_costs(tmp_path / "none.json")
    for text in ("[1]", "{", "{}", "\x00", json.dumps({"machine": "x", "study": {"wrong": 1}})):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ConfigError):
            load_costs(tmp_path / "bad.json")


@pytest.mark.parametrize(
    ("where", "value", "words"),
    [
        ("study", None, "study is missing"),
        ("vector", None, "vector is missing"),
        ("efficiency", None, "efficiency is missing"),
        ("study.read_s", None, "study.read_s is missing"),
        ("vector.pair_s", None, "vector.pair_s is missing"),
        ("gpus.h200.volumes_per_s", None, "gpus.h200.volumes_per_s is missing"),
        ("study.read_s", -5, "study.read_s is -5"),
        ("study.embed_s", float("nan"), "study.embed_s is nan"),
        ("study.embed_s", float("inf"), "study.embed_s is inf"),
        pytest.param("study.embed_s", 10**400, "too large", id="study.embed_s-huge"),
        ("study.embed_s", "1", "study.embed_s must be float"),
        ("study.mvoxels", 0, "study.mvoxels is 0; expected above 0"),
        ("study.dims", [], "study.dims"),
        ("study.dims", [256, 0], "study.dims"),
        ("vector.cores_used", 0, "vector.cores_used is 0; expected a finite number, above 0"),
        ("vector.dim", 0, "vector.dim is 0"),
        ("efficiency", 0, "efficiency is 0"),
        ("efficiency", 2, "efficiency is 2; expected at most 1"),
        ("gpus.h200.volumes_per_s", 0, "gpus.h200.volumes_per_s is 0"),
        ("gpus.h200", 5, "gpus.h200 must be a table"),
        ("gpus", [1], "gpus must be a table"),
    ],
)
def test_costs_that_cannot_be_are_refused_by_file_and_field(
    tmp_path, where: str, value: object, words: str
) -> None:
    figures = dataclasses.asdict(COSTS)
    *parents, name = where.split(".")
    table = figures
    for parent in parents:
        table = table[parent]
    if value is None:
        del table[name]
    else:
        table[name] = value
    (tmp_path / "mine.json").write_text(json.dumps(figures))
    with pytest.raises(ConfigError, match=r"mine\.json.*" + re.escape(words)):
        load_costs(tmp_path / "mine.json")


def test_words_of_a_costs_file_and_its_gpus_may_be_left_out(tmp_path) -> None:
    figures = dataclasses.asdict(COSTS)
    del figures["machine"], figures["gpus"], figures["study"]["encoder"]
    (tmp_path / "costs.json").write_text(json.dumps(figures))
    assert load_costs(tmp_path / "costs.json").study.read_s == 1.0


def test_costs_that_cannot_be_written_are_refused_with_their_path(tmp_path) -> None:
    with pytest.raises(InputError, match=r"nodir.x\.json.*no folder"):
        save_costs(COSTS, tmp_path / "nodir" / "x.json")
    with pytest.raises(InputError, match="it is a folder"):
        save_costs(COSTS, tmp_path)


def test_the_costs_that_ship_were_measured() -> None:
    costs = load_costs()
    assert costs.machine
    study, vector = costs.study, costs.vector
    assert min(study.inspect_s, study.words_s, study.read_s, study.embed_s, study.text_s) > 0
    assert len(vector.sizes) >= 3
    assert vector.each_s + vector.pair_s > 0
    assert {"h100", "h200"} <= costs.gpus.keys()
    assert costs.gpu("h100").assumed
    assert not costs.gpu("h200").assumed
    assert 0.3 < costs.efficiency <= 1.1
