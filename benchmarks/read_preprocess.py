"""From a .nii.gz or a DICOM series to an encoder's input: ours, nibabel + MONAI, SimpleITK, gunzip.

    python benchmarks/read_preprocess.py [--quick]

One 512x512x300 int16 volume: a real chest of ../shared/data enlarged, with noise of its own so
that it compresses as a scanner's does (74 to 95 MB); a procedural chest where there is no data.
All routes end in the published recipe's input: 224x224x96, min-max scaled, cropped, area-resized.
Routes take turns, round after round, so that a busy machine slows all of them alike.
"""

import argparse
import os
import resource
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import deflate
import numpy as np
from record import table, write_result

from medfinder.volume.dicom import find_series, read_series, write_dicom_series
from medfinder.volume.nifti import read_nifti, write_nifti
from medfinder.volume.preprocess import PreprocessConfig, preprocess
from medfinder.volume.read import read_volume
from medfinder.volume.volume import Volume

SEED = 0
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "ct_nifti"
SIZE = (96, 224, 224)
PUBLISHED = PreprocessConfig(foreground_above_hu="minimum", scaling="minmax", size=SIZE)
ASTRA = PreprocessConfig(
    foreground_above_hu=-1000, size=(160, 224, 224), windows_hu=((-1000, 200),)
)
N_CORES = 2


# The input


def chest(shape: tuple[int, int, int]) -> tuple[Volume, str]:
    """Return a chest of `shape` (D, H, W), mirrored in memory as scanners' NIfTI files are."""
    rng = np.random.default_rng(SEED)
    source = SHARED / "lidc_idri_0314.nii.gz"
    if source.exists():
        import torch

        hu = torch.from_numpy(read_nifti(source).hu.copy())[None, None]
        mode: Any = {"mode": "trilinear", "align_corners": False}
        values = torch.nn.functional.interpolate(hu, shape, **mode)[0, 0].numpy()
        origin = "lidc_idri_0314 enlarged, with noise"
    else:
        d, h, w = np.meshgrid(*[np.linspace(-1, 1, n, dtype=np.float32) for n in shape], indexing="ij", sparse=True)  # fmt: skip
        values = np.full(shape, -1000, np.float32)
        values[np.broadcast_to(h**2 / 0.5 + w**2 / 0.9 < 1, shape)] = 40
        for side in (-0.42, 0.42):
            values[(h**2 / 0.25 + (w - side) ** 2 / 0.1 + d**2 / 0.9) < 1] = -850
        values[np.broadcast_to((h + 0.45) ** 2 + w**2 < 0.01, shape)] = 500
        origin = "procedural chest, with noise"
    values = values + rng.standard_normal(shape, dtype=np.float32) * 12
    stored = np.clip(np.rint(values), -1024, 3071).astype(np.int16)
    affine = np.zeros((4, 4))
    affine[[2, 1, 0, 3], [0, 1, 2, 3]] = [1.25, 0.7, 0.7, 1]
    return Volume(stored, affine), origin


def save_lps(volume: Volume, path: Path) -> None:
    """Write with nibabel in scanner order (x to the Left, y to the Posterior), gzip level 6."""
    import nibabel

    array = volume.stored[:, ::-1, ::-1].T
    affine = np.diag([-0.7, -0.7, 1.25, 1.0])
    image = nibabel.Nifti1Image(array, affine, dtype=np.int16)
    path.write_bytes(deflate.gzip_compress(image.to_bytes(), 6))


# The routes


def ours(path: Path, n_threads: int = N_CORES) -> np.ndarray:
    return preprocess(read_nifti(path), PUBLISHED, n_threads=n_threads)


def ours_astra(path: Path) -> np.ndarray:
    return preprocess(read_nifti(path), ASTRA, n_threads=N_CORES)


def ours_checked(path: Path) -> np.ndarray:
    return preprocess(read_volume(path), PUBLISHED, n_threads=N_CORES)


def ours_dicom(folder: Path) -> np.ndarray:
    (series,) = find_series(folder)
    return preprocess(read_series(series), PUBLISHED, n_threads=N_CORES)


def ours_dicom_read(folder: Path) -> Volume:
    (series,) = find_series(folder)
    return read_series(series)


def gunzip(path: Path) -> int:
    return len(deflate.gzip_decompress(path.read_bytes()))


def sitk_dicom_read(folder: Path) -> Any:
    import SimpleITK

    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    return image, SimpleITK.GetArrayViewFromImage(image)


_monai: dict[str, Any] = {}


def monai(path: Path, reader: str | None = None) -> np.ndarray:
    """Apply the published recipe's transforms as MONAI has them; (1, X, Y, Z) in file order."""
    if not _monai:
        import monai.transforms as t
        import torch

        torch.set_num_threads(N_CORES)
        for name in (None, "PydicomReader"):
            _monai[str(name)] = t.Compose(
                [
                    t.LoadImaged(keys="image", reader=name),
                    t.EnsureChannelFirstd(keys="image"),
                    t.ScaleIntensityd(keys="image"),
                    t.CropForegroundd(keys="image", source_key="image", allow_smaller=True),
                    t.Resized(keys="image", spatial_size=SIZE[::-1]),
                ]
            )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(_monai[str(reader)]({"image": str(path)})["image"])


def monai_dicom(folder: Path) -> np.ndarray:
    return monai(folder, "PydicomReader")


# Two worker processes, one volume at a time each: throughput of bulk work


def _start_worker() -> None:
    global N_CORES
    N_CORES = 1


def _ours_one(path: Path) -> float:
    return float(ours(path, 1).mean())


def _monai_one(path: Path) -> float:
    return float(monai(path).mean())


def throughput(path: Path, n_each: dict[str, int], rounds: int) -> dict[str, float]:
    """Return volumes a second of two processes, the median of rounds that take turns."""
    pools = {name: ProcessPoolExecutor(2, get_context("spawn"), _start_worker) for name in n_each}
    work: dict[str, Callable[[Path], float]] = {"ours": _ours_one, "monai": _monai_one}
    rates: dict[str, list[float]] = {name: [] for name in n_each}
    for name, pool in pools.items():  # imports, compiled code
        list(pool.map(work[name], [path] * 4))
    for _ in range(rounds):
        for name, pool in pools.items():
            start = time.perf_counter()
            list(pool.map(work[name], [path] * n_each[name]))
            rates[name].append(n_each[name] / (time.perf_counter() - start))
    for pool in pools.values():
        pool.shutdown()
    return {name: statistics.median(found) for name, found in rates.items()}


# Measuring


def cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def take_turns(routes: dict[str, Callable[[], Any]], rounds: int) -> dict[str, dict[str, float]]:
    """Run every route once a round; wall and CPU milliseconds, medians and minima."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in routes}
    for route in routes.values():
        route()  # imports, compiled code, page cache
    for _ in range(rounds):
        for name, route in routes.items():
            cpu, wall = cpu_s(), time.perf_counter()
            result = route()
            found[name].append((time.perf_counter() - wall, cpu_s() - cpu))
            del result
    return {
        name: {
            "wall_ms": 1e3 * statistics.median(w for w, _ in times),
            "wall_min_ms": 1e3 * min(w for w, _ in times),
            "cpu_ms": 1e3 * statistics.median(c for _, c in times),
        }
        for name, times in found.items()
    }


def paired_ratio(times: dict[str, dict[str, float]], a: str, b: str) -> dict[str, float]:
    return {key.replace("_ms", "_ratio"): times[a][key] / times[b][key] for key in times[a]}


def first_call(path: Path) -> dict[str, float]:
    """Return seconds of the first preprocess in a new process, without and with compiled code."""
    import subprocess
    import sys

    code = (
        "import sys, time; sys.path.insert(0, 'benchmarks')\n"
        "import numpy as np\n"
        "from medfinder.volume.preprocess import PreprocessConfig, preprocess\n"
        "from medfinder.volume.volume import Volume\n"
        "v = Volume(np.zeros((8, 8, 8), np.int16), np.eye(4)[:, [2, 1, 0, 3]])\n"
        "c = PreprocessConfig(foreground_above_hu=-1.0, size=(4, 4, 4))\n"
        "t = time.perf_counter(); preprocess(v, c); print(time.perf_counter() - t)\n"
    )
    out = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("first_call_compiling_s", "first_call_compiled_s"):
            done = subprocess.run(
                [sys.executable, "-c", code],
                env={**os.environ, "NUMBA_CACHE_DIR": folder},
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            out[name] = float(done.stdout)
    return out


def agreement(nifti: Path, dicom: Path) -> dict[str, float]:
    """Return the largest differences in HU between ours and theirs, files and inputs."""
    import nibabel

    volume = read_nifti(nifti)
    theirs = np.asanyarray(nibabel.load(nifti).dataobj).T[:, ::-1, ::-1]
    span = float(volume.stored.max()) - float(volume.stored.min())
    resized = monai(nifti)[0].T[:, ::-1, ::-1]
    made = preprocess(volume, PUBLISHED)[0]
    from_dicom = ours_dicom_read(dicom)
    _image, array = sitk_dicom_read(dicom)  # the image keeps the array alive
    sitk_hu = array[:, ::-1, ::-1]  # LPS in memory
    series = monai_dicom(dicom)[0].T
    order = [series[:, ::h, ::w] for h in (1, -1) for w in (1, -1)]
    d_made = preprocess(from_dicom, PUBLISHED)[0]
    return {
        "nifti_read_vs_nibabel_hu": float(np.abs(volume.stored - theirs.astype(np.int32)).max()),
        "nifti_input_vs_monai_hu": float(np.abs(made - resized).max()) * span,
        "dicom_read_vs_simpleitk_hu": float(np.abs(from_dicom.hu - sitk_hu).max()),
        "dicom_input_vs_monai_hu": min(float(np.abs(d_made - o).max()) for o in order) * span,
        "nifti_vs_dicom_input_hu": float(np.abs(made - d_made).max()) * span,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "--quick", action="store_true", help="a small volume, two rounds, no record"
    )
    parser.add_argument("--rounds", type=int, default=7)
    quick = parser.parse_args().quick
    rounds = 2 if quick else parser.parse_args().rounds
    shape = (60, 256, 256) if quick else (300, 512, 512)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:N_CORES]))

    with tempfile.TemporaryDirectory() as name:
        volume, origin = chest(shape)
        nifti, dicom = Path(name) / "ct.nii.gz", Path(name) / "dicom"
        plain = Path(name) / "plain.nii"
        save_lps(volume, nifti)
        write_nifti(volume, plain)
        write_dicom_series(volume, dicom, patient_id="p", study_id="s")
        del volume
        packed = nifti.read_bytes()
        load_before = os.getloadavg()[0]
        print(f"{shape} int16, {len(packed) / 1e6:.0f} MB compressed: {origin}", flush=True)

        files = take_turns(
            {
                "gunzip, libdeflate, from memory": lambda: len(deflate.gzip_decompress(packed)),
                "gunzip, libdeflate, file": lambda: gunzip(nifti),
                "ours: read": lambda: read_nifti(nifti),
                "ours: read + preprocess": lambda: ours(nifti),
                "ours: read + checks + preprocess": lambda: ours_checked(nifti),
                "ours: read + preprocess for astra (160x224x224)": lambda: ours_astra(nifti),
                "ours: .nii, read + preprocess": lambda: ours(plain),
                "nibabel + MONAI transforms": lambda: monai(nifti),
            },
            rounds,
        )
        series = take_turns(
            {
                "ours: read": lambda: ours_dicom_read(dicom),
                "SimpleITK: read": lambda: sitk_dicom_read(dicom),
                "ours: read + preprocess": lambda: ours_dicom(dicom),
                "MONAI: read + transforms": lambda: monai_dicom(dicom),
            },
            rounds,
        )
        rates = throughput(nifti, {"ours": 16, "monai": 4}, max(2, rounds // 2))
        differences = agreement(nifti, dicom)
        compile_s = first_call(nifti)

    ratios: dict[str, Any] = {
        "monai_over_ours": paired_ratio(
            files, "nibabel + MONAI transforms", "ours: read + preprocess"
        ),
        "ours_over_gunzip_file": paired_ratio(
            files, "ours: read + preprocess", "gunzip, libdeflate, file"
        ),
        "ours_over_gunzip_memory": paired_ratio(
            files, "ours: read + preprocess", "gunzip, libdeflate, from memory"
        ),
        "dicom_monai_over_ours": paired_ratio(
            series, "MONAI: read + transforms", "ours: read + preprocess"
        ),
        "dicom_simpleitk_over_ours_read": paired_ratio(series, "SimpleITK: read", "ours: read"),
        "throughput_ours_over_monai": rates["ours"] / rates["monai"],
    }
    for title, times in ((".nii.gz", files), ("DICOM, one file a slice", series)):
        print(f"\n{title}, ms")
        print(table([{"route": route, **figures} for route, figures in times.items()]))
    print("\nRatios")
    print(table([{"ratio": n, **v} for n, v in ratios.items() if isinstance(v, dict)]))
    print(f"\nTwo processes: {rates['ours']:.2f} volumes/s, MONAI {rates['monai']:.2f}, "
          f"ratio {ratios['throughput_ours_over_monai']:.1f}")  # fmt: skip
    print("\nLargest differences, HU")
    print(table([differences]))
    print(f"\nFirst call: {compile_s}")
    if not quick:
        path = write_result(
            "read_preprocess",
            {
                "compressed_mb": len(packed) / 1e6,
                "input": origin,
                "rounds": rounds,
                "load_average_before": load_before,
                "nifti": files,
                "dicom": series,
                "ratios": ratios,
                "volumes_per_s_two_processes": rates,
                "largest_difference_hu": differences,
                **compile_s,
            },
            seeds=[SEED],
            notes="Medians of rounds in which the routes take turns, on two cores; files in the "
            "page cache; imports and compilation before the clock starts.",
        )
        print(f"\nWritten: {path}")


if __name__ == "__main__":
    main()
