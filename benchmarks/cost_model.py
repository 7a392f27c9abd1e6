"""What `medfinder plan` predicts against what runs took that its costs were not fitted on.

    python benchmarks/cost_model.py [--parts pipeline vectors costs] [--quick] [--work FOLDER]

- ``pipeline``: curate and index 100, 1,000 and 10,000 phantoms (32 x 48 x 48, one worker of one
  thread), with a network of the shipped one's kind, but small, and random weights. Costs are measured
  on the folder of 1,000 (a sample of 64 studies; fixed parts from the runs over 100 and 1,000), and the
  run over 10,000 is predicted from them.
- ``vectors``: finish columns of 50,000, 100,000 and 200,000 vectors of 512 numbers, fit
  ``fixed + n each + n^2 pair``, and predict 1,000,000: seconds, disk, memory of building and serving.
- ``costs``: write ``src/medfinder/plan/costs.json``, which ships: the shipped encoders on real CTs of
  ``../shared/data`` and on phantoms' reports, the vectors' fit, and the GPU figures of gpu.json.

CPU-seconds are compared, since other work may share the cores. What a part found is kept in the
result file until the part is run again.
"""

import argparse
import csv
import dataclasses
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from record import RESULTS, _cpu, table, write_result

from medfinder.config import from_dict
from medfinder.plan.costs import Costs, GpuCosts, StudyCosts, VectorCosts, save_costs
from medfinder.plan.plan import Site, finishing_s, fit_finish, plan

HOME = Path("~/.cache/medfinder/plan").expanduser()
DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "ct_nifti"
SHIPPED = Path(__file__).resolve().parents[1] / "src" / "medfinder" / "plan" / "costs.json"
SEED = 1
SIZES = (100, 1_000, 10_000)
VECTORS = (50_000, 100_000, 200_000, 1_000_000)
ONE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def run(*arguments: str | Path) -> dict[str, float]:
    """Run a command with one thread and return its seconds: of CPUs and of the clock."""
    program = [sys.executable, "-c", "from medfinder.cli import main; main()"]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [*program, *map(str, arguments)],
        check=True,
        env={**os.environ, **ONE},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "clock_s": time.perf_counter() - start,
    }


def phantoms(work: Path, n: int, size: str = "32x48x48") -> Path:
    """Return a folder of n phantoms, drawn where they are not there yet."""
    folder = work / f"ph{n}-{size}"
    if not (folder / "studies.csv").is_file():
        run("phantom", folder, "--n", str(n), "--size", size, "--seed", str(SEED))
    return folder


def part_of(folder: Path, n: int, target: Path) -> Path:
    """Return a folder of the first n of them, the same files."""
    shutil.rmtree(target, ignore_errors=True)
    (target / "volumes").mkdir(parents=True)
    with open(folder / "studies.csv", newline="", encoding="utf-8") as file:
        head, *rows = list(csv.reader(file))
    with open(target / "studies.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *rows[:n]])
    names = sorted(path.name for path in (folder / "volumes").iterdir())[:n]
    for name in names:
        os.link(folder / "volumes" / name, target / "volumes" / name)
    return target


def small_checkpoint(work: Path, reports: Sequence[str]) -> Path:
    """Write a checkpoint of the shipped model's kind, with a small network and random weights."""
    import torch

    import medfinder.model.networks  # noqa: F401  (registers them)
    from medfinder.model.checkpoint import save_checkpoint
    from medfinder.model.dual_stream import CURVE_HU, DualStream, ModelConfig
    from medfinder.model.text_encoder import TextEncoderConfig
    from medfinder.model.volume_encoder import VolumeEncoderConfig
    from medfinder.volume.preprocess import PreprocessConfig

    torch.manual_seed(SEED)
    model = DualStream(
        ModelConfig(
            volume=VolumeEncoderConfig(width=32, depth=1),
            text=TextEncoderConfig(width=64, depth=1),
            preprocess=PreprocessConfig(
                frame="lungs",
                spacing_mm=(10.0, 10.0, 10.0),
                size=(32, 32, 32),
                scaling="curve",
                curve_hu=CURVE_HU,
                output_range=(0.0, 255.0),
                dtype="uint8",
            ),
            dim=64,
            layout_width=4,
        )
    )
    model.text.fit_tokenizer(reports)
    return save_checkpoint(model, work / "checkpoint", name="small", source="random weights")


def measured(folder: Path, encoder: str, text_encoder: str, sample: int) -> StudyCosts:
    """Return `measure_study`'s figures, taken in a process of its own."""
    saved = folder / "measured.json"
    run(
        "plan", "--measure", folder, "--encoder", encoder, "--text-encoder", text_encoder,
        "--sample", str(sample), "--save", saved,
    )  # fmt: skip
    return from_dict(StudyCosts, json.loads(saved.read_text())["study"])


def pipeline(work: Path, sizes: Sequence[int]) -> dict[str, Any]:
    """Fit on the two smaller sizes, predict the largest, and run all three."""
    small, middle, large = sizes
    drawn = phantoms(work, large)
    with open(drawn / "studies.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    text = next(name for name in ("report", "text", "findings") if name in rows[0])
    checkpoint = small_checkpoint(work, [row[text] for row in rows[:500]])
    took: dict[str, dict[str, Any]] = {}
    for n in sizes:
        folder = part_of(drawn, n, work / f"part-{n}")
        studies, index = work / f"studies-{n}", work / f"index-{n}"
        for old in (studies, index):
            shutil.rmtree(old, ignore_errors=True)
        took[str(n)] = {
            "curate": run(
                "curate", "folder", folder, studies, "--reports", folder / "studies.csv",
                "--set", "workers=1",
            ),
            "index": run(
                "index", studies, index, "--encoder", checkpoint, "--text-encoder", "none"
            ),
            "disk_bytes": _bytes(studies) + _bytes(index),
        }  # fmt: skip
        print(f"{n:,}", took[str(n)], flush=True)
    study = measured(work / f"studies-{middle}", str(checkpoint), "none", 64)
    # Curation's fixed part: two runs, one line through them.
    few, many = (took[str(n)]["curate"]["cpu_s"] for n in (small, middle))
    each = (many - few) / (middle - small)
    study = dataclasses.replace(
        study,
        curate_start_s=max(0.0, few - small * each),
        words_s=max(0.0, each - study.inspect_s),
    )
    # What an index costs once, its finishing included: what the smallest took beyond its studies.
    alone = study.read_s + study.preprocess_s + study.embed_s + study.text_s + study.commit_s
    begun = took[str(small)]["index"]["cpu_s"] - small * alone
    study = dataclasses.replace(study, index_start_s=max(0.0, begun))
    costs = Costs(machine=_cpu(), study=study, vector=VectorCosts(dim=64))
    rows_: list[dict[str, Any]] = []
    for n in sizes:
        predicted = plan(n, costs, Site(cores=1))
        for stage in ("curate", "index"):
            found = next(s.cpu_s for s in predicted.stages if s.stage == stage)
            actual = took[str(n)][stage]["cpu_s"]
            rows_.append(
                {
                    "studies": n,
                    "stage": stage,
                    "fitted": n == small or (n == middle and stage == "curate"),
                    "predicted_cpu_s": found,
                    "measured_cpu_s": actual,
                    "ratio": found / actual,
                }
            )
        rows_.append(
            {
                "studies": n,
                "stage": "disk",
                "fitted": False,
                "predicted_mb": n
                * (study.curated_bytes + study.row_bytes + 4 * sum(study.dims))
                / 1e6,
                "measured_mb": took[str(n)]["disk_bytes"] / 1e6,
                "ratio": n
                * (study.curated_bytes + study.row_bytes + 4 * sum(study.dims))
                / took[str(n)]["disk_bytes"],
            }
        )
    for row in rows_:
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()})
    return {"runs": took, "study": dataclasses.asdict(study), "rows": rows_}


_BUILD = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
from datetime import timedelta
from pathlib import Path
from index_search import World, build, _memory
from medfinder.index.store import Index
n, folder = int(sys.argv[2]), Path(sys.argv[3])
world = World()
before = _memory()[0]
built = build(world, folder, n)
# Versions of the last minute stay for who still reads them; the disk is that of the last alone.
Index.open(folder / "index")._table.optimize(cleanup_older_than=timedelta(0))
said = dict(built, before_mib=before)
said["disk_bytes"] = sum(f.stat().st_size for f in (folder / "index").rglob("*") if f.is_file())
derived = folder / "index" / "derived"
said["derived_bytes"] = sum(f.stat().st_size for f in derived.rglob("*") if f.is_file())
print(json.dumps(said))
"""
_SERVE = """
import json, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from index_search import World, _memory
from medfinder.index.store import Index
world = World()
vectors, texts = world.queries(20)
before = _memory()[0]
index = Index.open(Path(sys.argv[2]) / "index")
for vector, text in zip(vectors, texts):
    index.search_vector("volume", vector, 10)
    index.search_text(text, 10)
print(json.dumps({"serve_mib": _memory()[0] - before}))
"""


def vectors(work: Path, sizes: Sequence[int]) -> dict[str, Any]:
    """Fit on all sizes but the last, predict the last."""
    took: dict[str, dict[str, float]] = {}
    here = str(Path(__file__).parent)
    for n in sizes:
        folder = work / f"vectors-{n}"
        shutil.rmtree(folder, ignore_errors=True)
        said: dict[str, float] = {}
        for script in ([_BUILD, here, str(n), str(folder)], [_SERVE, here, str(folder)]):
            done = subprocess.run(
                [sys.executable, "-c", *script], check=True, capture_output=True, text=True
            )
            said |= json.loads(done.stdout.strip().splitlines()[-1])
        took[str(n)] = said
        shutil.rmtree(folder)
        print(f"{n:,} vectors", said, flush=True)
    *fitted, last = sizes
    cpu = [took[str(n)]["finish_cpu_s"] for n in fitted]
    fixed, each, pair = fit_finish(fitted, cpu)

    def slope(name: str) -> tuple[float, float]:
        found = np.polyfit(fitted, [took[str(n)][name] for n in fitted], 1)
        return float(found[0]), float(found[1])

    peak = slope("build_peak_mib")
    serve = slope("serve_mib")
    cost = VectorCosts(
        dim=512,
        sizes=tuple(fitted),
        fixed_s=fixed,
        each_s=each,
        pair_s=pair,
        cores_used=float(
            np.mean([c / took[str(n)]["finish_s"] for c, n in zip(cpu, fitted, strict=True)])
        ),
        cores=os.cpu_count() or 1,
        derived_bytes=slope("derived_bytes")[0],
        peak_bytes=peak[0] * 2**20,
        serve_bytes=max(0.0, serve[0]) * 2**20,
        serve_mib=max(0.0, serve[1]),
    )
    costs = Costs(vector=cost)
    actual = took[str(last)]
    disk = slope("disk_bytes")
    rows = [
        {
            "what": what,
            "predicted": found,
            "measured": real,
            "ratio": found / real,
        }
        for what, found, real in (
            ("finish, CPU-s", finishing_s(last, 512, costs), actual["finish_cpu_s"]),
            ("disk, MB", (disk[0] * last + disk[1]) / 1e6, actual["disk_bytes"] / 1e6),
            ("peak of building, MiB", peak[0] * last + peak[1], actual["build_peak_mib"]),
            ("memory of a reader, MiB", serve[0] * last + serve[1], actual["serve_mib"]),
        )
    ]
    print(table(rows))
    return {"runs": took, "vector": dataclasses.asdict(cost), "rows": rows, "predicted_n": last}


def shipped(work: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Measure the shipped encoders and write the costs that ship."""
    large = phantoms(work, 64, "96x160x160")
    studies = work / "studies-large"
    if not (studies / "manifest.json").is_file():
        run("curate", "folder", large, studies, "--reports", large / "studies.csv",
            "--set", "workers=1")  # fmt: skip
    study = measured(studies, "medfinder", "minilm", 24)
    start = found.get("pipeline", {}).get("study", {}).get("curate_start_s", 0.0)
    study = dataclasses.replace(
        study,
        curate_start_s=start,
        words_s=max(0.0, study.words_s - start / 64),
    )
    if DATA.is_dir():
        real = work / "studies-real"
        if not (real / "manifest.json").is_file():
            run("curate", "folder", DATA, real, "--set", "workers=1")
        ct = measured(real, "medfinder", "none", 22)
        study = dataclasses.replace(
            study,
            n=ct.n,
            mvoxels=ct.mvoxels,
            inspect_s=ct.inspect_s,
            read_s=ct.read_s,
            preprocess_s=ct.preprocess_s,
            embed_s=ct.embed_s,
            worker_mib=max(ct.worker_mib, study.worker_mib),
        )
    gpu = json.loads((RESULTS / "gpu.json").read_text())["figures"]
    embedding, training = gpu["embedding"][0], gpu["training"][0]
    network = f"configs/base.toml, {'x'.join(map(str, embedding['size']))}"
    h200 = GpuCosts(
        device=gpu["device"]["name"],
        network=network,
        volumes_per_s=embedding["volumes_per_s"],
        train_studies_per_s=training["studies_per_s"],
    )
    h100 = dataclasses.replace(
        h200,
        assumed="an H100 as fast as the H200 measured: the same chip, with less and slower memory",
    )
    scale = RESULTS / "scale.json"
    efficiency = 1.0
    if scale.is_file():
        found_ratio = json.loads(scale.read_text())["figures"]["efficiency_ratio"]["processes"]
        efficiency = min(1.0, float(found_ratio))
    costs = Costs(
        machine=f"{_cpu()}, one core",
        study=study,
        vector=from_dict(VectorCosts, found["vectors"]["vector"]),
        gpus={"h100": h100, "h200": h200},
        efficiency=efficiency,
    )
    save_costs(costs, SHIPPED)
    return {"study": dataclasses.asdict(study)}


def _bytes(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", default=["pipeline", "vectors", "costs"])
    parser.add_argument("--quick", action="store_true", help="50, 100, 200 studies; 60,000 vectors")
    parser.add_argument("--work", type=Path, default=HOME)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    sizes = (50, 100, 200) if options.quick else SIZES
    columns = (52_000, 54_000, 56_000, 60_000) if options.quick else VECTORS
    kept = RESULTS / "cost_model.json"
    found = json.loads(kept.read_text())["figures"] if kept.is_file() else {}
    if "pipeline" in options.parts:
        found["pipeline"] = pipeline(options.work, sizes)
    if "vectors" in options.parts:
        found["vectors"] = vectors(options.work, columns)
    if "costs" in options.parts and not options.quick:
        found["shipped"] = shipped(options.work, found)
    found["load_average"] = os.getloadavg()[0]
    if not options.quick:
        notes = "CPU-seconds of one worker with one thread; other work may have shared the cores."
        write_result("cost_model", found, [SEED], notes)


if __name__ == "__main__":
    main()
