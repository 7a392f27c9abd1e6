"""Let a small head over frozen region features learn where in a chest a sentence points.

Phantoms, and the real chests of ``../shared/data`` with lesions painted in, are encoded once by
astra: 10 x 7 x 7 region features a volume, kept in a folder outside the repository; a run that is
stopped goes on. A head of two linear maps, one of regions and one of MiniLM's vector of a prompt
("Nodule in the right upper lobe."), gives every region a logit; their log-sum-exp, or their
attention, is the volume's. It learns from what a volume shows, never from where. Where is known by
drawing each phantom without the finding too.

An encoded volume is known by its name alone: give another folder after a change to what is drawn.

Run: ``python benchmarks/alignment.py [--quick] [--folder FOLDER] [--n 75]``
"""

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from record import table, write_result

from medfinder.embed import Embedder
from medfinder.model.encoder import load_encoder
from medfinder.phantom.case import KINDS, LOBES, CaseSpec, FindingSpec, make_finding, sample_case
from medfinder.phantom.chest import PhantomConfig, make_phantom
from medfinder.phantom.splits import VOXEL_MM
from medfinder.ranking.measures import auroc
from medfinder.ranking.ranks import rank_scores
from medfinder.ranking.significance import bootstrap_interval
from medfinder.volume.nifti import read_nifti
from medfinder.volume.volume import Volume

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "ct_nifti"
CHESTS = (
    "lidc_idri_0314",
    "midrc_ricord1a_001012",
    "cmb_crc_msb_01068",
    "lung_dx_a0002",
    "cip_ct64",
)
"""Complete real chests."""
FINDINGS = ("pleural effusion", "pneumothorax", "consolidation", "nodule", "pulmonary mass",
            "adenopathy", "hiatal hernia", "liver cyst")  # fmt: skip
"""Of `KINDS`: those that lie somewhere, in its order."""
P_FINDING = 0.45
SIZE = (80, 128, 128)
"""Voxels of a phantom: 4 x 3.2 mm, 0.3 s; the visibility floors are kept at `VOXEL_MM`."""
GRID = (10, 7, 7)
BATCH = 32
SPREAD = 0.58  # of a region's coordinates along each axis
N_REGIONS = 490
CHANGED_HU = 30.0
OCCUPIED = 0.05
"""Share of a region that a lesion fills to occupy it; the fullest one is always occupied."""
INSERTED = ("nodule", "pulmonary mass", "consolidation", "pleural effusion")
SEED = 1
N_PHANTOMS = 75
NOTES = (
    "Every phantom is another patient; all are tested, in folds. Settings were tried on the first "
    "30 phantoms, one seed: nothing was chosen by a figure given here but 256 axes for the heads told "
    "where. Painted lesions are balls and water, drawn by other code than the phantoms'. "
    "A region is about a tenth of a chest's height and a seventh of its width and depth."
)


# --- volumes with known lesions


@dataclass(frozen=True, eq=False)
class Study:
    """One encoded volume.

    Attributes:
        study_id: ``ph-00012``, or ``real-NAME`` with ``-FINDING-SIDE`` where a lesion was painted.
        findings: What it shows; of a real chest only what was painted.
        regions: (490, 2048) float16.
        shares: (findings, 490) share of each region that the finding changes.
    """

    study_id: str
    findings: tuple[FindingSpec, ...]
    regions: NDArray[np.float16]
    shares: Floats


Made = tuple[tuple[FindingSpec, ...], Volume, Floats]
Job = tuple[str, Callable[[], Made]]
Encode = Callable[[Volume], NDArray[np.float16]]


def phantom_case(i: int, seed: int = SEED) -> CaseSpec:
    """Draw the i-th case: every finding with a chance of its own, so that none tells another."""
    number = 900_000_000 + seed * 1_000_000 + i
    rng = np.random.default_rng([number, 0xA11])
    case = sample_case(number, p_normal=1.0)
    wanted = rng.random(len(FINDINGS)) < P_FINDING
    made = [make_finding(name, rng, VOXEL_MM) for name in FINDINGS]
    return replace(case, findings=tuple(f for f, w in zip(made, wanted, strict=True) if w))


def make_one(i: int, seed: int = SEED) -> Made:
    """Draw a phantom, and where each finding of it lies: what changes when it is left out."""
    case = phantom_case(i, seed)
    config = PhantomConfig(size=SIZE)
    volume = make_phantom(case.seed, config, case).volume
    shares = []
    for finding in case.findings:
        without = replace(case, findings=tuple(f for f in case.findings if f is not finding))
        other = make_phantom(case.seed, config, without).volume
        shares.append(region_shares(volume, np.abs(volume.hu - other.hu) > CHANGED_HU))
    return case.findings, volume, np.array(shares, np.float32).reshape(-1, N_REGIONS)


def region_shares(volume: Volume, mask: Bools) -> Floats:
    """Return the share of each region's voxels in a mask, (490,), as astra crops and stretches."""
    places, inside = [], []
    seen = volume.hu > -1000
    for axis, n in enumerate(GRID):
        others = tuple(a for a in range(3) if a != axis)
        where = np.flatnonzero(seen.any(others))
        first, last = (where[0], where[-1] + 1) if len(where) else (0, mask.shape[axis])
        inside.append(slice(int(first), int(last)))
        places.append(np.arange(last - first) * n // (last - first))
    cells = (places[0][:, None, None] * GRID[1] + places[1][:, None]) * GRID[2] + places[2]
    part = mask[inside[0], inside[1], inside[2]]
    filled = np.bincount(cells.ravel(), part.ravel(), N_REGIONS)
    return (filled / np.bincount(cells.ravel(), minlength=N_REGIONS)).astype(np.float32)


def lung_mask(volume: Volume) -> Bools:
    """Return aerated lung by thresholds and connected components, airways included."""
    hu = ndimage.uniform_filter(volume.hu, 3)
    body = _largest(ndimage.binary_opening(hu > -300, iterations=2))
    filled = np.stack([ndimage.binary_fill_holes(plane) for plane in body])
    labels, n = ndimage.label(filled & (volume.hu < -400))
    sizes = np.bincount(labels.ravel(), minlength=n + 1)
    sizes[0] = 0
    return np.asarray((sizes >= 0.1 * sizes.max())[labels])


def _largest(mask: Bools) -> Bools:
    labels, _ = ndimage.label(mask)
    return np.asarray(labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:])))


def paint(chest: Volume, name: str, side: str, rng: np.random.Generator) -> Made:
    """Paint a lesion into a real chest.

    Balls of soft tissue with a wavy border for the three that are round, cut to the lung; for an
    effusion, water in the fifth of the lung that lies lowest in a patient on the back.
    """
    lungs = lung_mask(chest)
    box = [np.flatnonzero(lungs.any(tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    middle = (box[2][0] + box[2][-1]) / 2
    columns = np.arange(lungs.shape[2])
    lung = lungs & ((columns > middle) if side == "right" else (columns < middle))
    d, h, w = (np.arange(n) * mm for n, mm in zip(lungs.shape, chest.spacing_mm, strict=True))
    lobe, size_mm = None, None
    if name == "pleural effusion":
        height = h[:, None] + 0.35 * d[:, None, None] + 0 * w
        cover = lung * np.clip((np.quantile(height[lung], 0.2) - height) / 3 + 0.5, 0, 1)
        hu = 10.0
    else:
        radius = {"nodule": 11.0, "pulmonary mass": 24.0, "consolidation": 36.0}[name]
        size_mm = round(2 * radius)
        depth = ndimage.distance_transform_edt(lung, chest.spacing_mm)
        deep = np.argwhere(depth >= min(12.0, 0.7 * depth.max()))
        at = deep[rng.integers(len(deep))]
        lobe = "upper" if at[0] > (box[0][0] + box[0][-1]) / 2 else "lower"
        away = (d - d[at[0]])[:, None, None] ** 2 + (h - h[at[1]])[:, None] ** 2
        waves = ndimage.zoom(
            rng.normal(0, 0.12 * radius, (8, 8, 8)), np.array(lungs.shape) / 8, order=1
        )
        distance = (
            np.sqrt(away + (w - w[at[2]]) ** 2) - radius + waves[: len(d), : len(h), : len(w)]
        )
        room = ndimage.binary_closing(lung, iterations=2) | lung  # vessels are of the lung
        cover, hu = room * np.clip(0.5 - distance / 2, 0, 1), 40.0
    new = chest.hu * (1 - cover) + cover * (hu + rng.normal(0, 15, lungs.shape))
    stored = np.round(new).clip(-32768, 32767).astype(np.int16)
    changed = replace(chest, stored=stored, slope=1.0, intercept=0.0)
    finding = FindingSpec(name, side=side, lobe=lobe, size_mm=size_mm)  # type: ignore[arg-type]
    return (finding,), changed, region_shares(chest, cover > 0.4)[None]


def phantom_jobs(n: int) -> list[Job]:
    return [(f"ph-{i:05}", partial(make_one, i)) for i in range(n)]


def real_jobs(names: Sequence[str] = CHESTS) -> list[Job]:
    """List each real chest as it is and with each of `INSERTED`, sides in turn."""
    jobs: list[Job] = []
    for k, name in enumerate(names):
        path = DATA / f"{name}.nii.gz"
        jobs.append((f"real-{name}", partial(as_it_is, path)))
        for j, finding in enumerate(INSERTED):
            side = ("right", "left")[(j + k) % 2]
            study_id = f"real-{name}-{finding.replace(' ', '_')}-{side}"
            jobs.append((study_id, partial(painted, path, finding, side, (SEED, k, j))))
    return jobs


def as_it_is(path: Path) -> Made:
    return (), read_nifti(path), np.zeros((0, N_REGIONS), np.float32)


def painted(path: Path, name: str, side: str, seed: Sequence[int]) -> Made:
    return paint(read_nifti(path), name, side, np.random.default_rng(seed))


def encoded(folder: Path, jobs: Sequence[Job], encode: Callable[[], Encode]) -> list[Study]:
    """Return every job's study; what lies in the folder is not made again.

    Args:
        encode: Loads the encoder; called when something is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run: Encode | None = None
    studies = []
    for number, (study_id, make) in enumerate(jobs, 1):
        path = folder / f"{study_id}.npz"
        if not path.is_file():
            run = run or encode()
            start = time.perf_counter()
            findings, volume, shares = make()
            kept: dict[str, Any] = {"regions": run(volume), "shares": shares}
            kept["findings"] = json.dumps([asdict(f) for f in findings])
            with (folder / f"{study_id}.part").open("wb") as file:
                np.savez(file, **kept)
            os.replace(folder / f"{study_id}.part", path)
            print(
                f"{number}/{len(jobs)} {study_id} {time.perf_counter() - start:.1f} s", flush=True
            )
        studies.append(read(path))
    return studies


def read(path: Path) -> Study:
    with np.load(path) as kept:
        findings = tuple(FindingSpec(**f) for f in json.loads(str(kept["findings"])))
        return Study(path.stem, findings, kept["regions"], kept["shares"])


# --- what is asked


@dataclass(frozen=True)
class Prompt:
    """A finding, with as much of its place as is told."""

    name: str
    side: str | None = None
    lobe: str | None = None

    @property
    def text(self) -> str:
        """Say it: "Nodule in the right upper lobe."."""
        if self.lobe:
            return f"{self.name.capitalize()} in the {self.side} {self.lobe} lobe."
        return (
            f"{self.side} {self.name}.".capitalize() if self.side else f"{self.name.capitalize()}."
        )

    def fits(self, finding: FindingSpec) -> bool:
        """Tell whether it is true of a finding."""
        side = self.side in (None, finding.side) or finding.side == "bilateral"
        return self.name == finding.name and side and self.lobe in (None, finding.lobe)


def prompts() -> list[Prompt]:
    """List what is asked of every volume: each finding, on each side, in each lobe."""
    asked = []
    for name in FINDINGS:
        asked.append(Prompt(name))
        if KINDS[name].sides:
            asked += [Prompt(name, side) for side in ("left", "right")]
        if KINDS[name].lobar:
            asked += [Prompt(name, side, lobe) for side, lobe in LOBES]
    return asked


PROMPTS = prompts()


def told(finding: FindingSpec) -> int:
    """Return the place in `PROMPTS` of the one that says most of a finding."""
    fitting = [i for i, prompt in enumerate(PROMPTS) if prompt.fits(finding)]
    if finding.side == "bilateral":
        return fitting[0]
    return fitting[-1]


def truth_of(studies: Sequence[Study]) -> Bools:
    """Return (N, P) which prompt is true of which study."""
    return np.array([[any(p.fits(f) for f in s.findings) for p in PROMPTS] for s in studies])


def places_of(study: Study) -> list[Bools]:
    """Return which regions each finding occupies, (490,)."""
    return [np.asarray((s >= min(OCCUPIED, s.max())) & (s > 0)) for s in study.shares]


def with_neighbours(regions: Bools) -> Bools:
    """Add the 26 neighbours of each region, (490,)."""
    grown = ndimage.binary_dilation(regions.reshape(GRID), np.ones((3, 3, 3)))
    return np.asarray(grown).ravel()


# --- heads


@dataclass(frozen=True)
class Setting:
    """What is trained.

    Attributes:
        pooling: Of a text's logits over regions.
        place: Let a region's logit also depend on where it is.
        masks: Also learn from where findings are: what these features allow, not what sentences
            teach.
        usual: Subtract from each region what is usual at its place, in training volumes.
        n_axes: Principal axes kept of the features.
        steps: Of AdamW, on 32 phantoms each.
    """

    pooling: str = "log-sum-exp"
    place: bool = False
    masks: bool = False
    usual: bool = False
    n_axes: int = 128
    width: int = 32
    steps: int = 150
    rate: float = 3e-3
    decay: float = 0.1


SETTINGS = {
    "mean": Setting(pooling="mean"),
    "log-sum-exp": Setting(),
    "log-sum-exp, place": Setting(place=True),
    "log-sum-exp, less the usual": Setting(usual=True),
    "attention": Setting(pooling="attention"),
    "told where": Setting(masks=True, n_axes=256),
    "told where, place": Setting(masks=True, n_axes=256, place=True),
}


class Head(nn.Module):
    """Two linear maps into a common space; a region's logit is the product."""

    def __init__(self, n_in: int, n_text: int, setting: Setting) -> None:
        super().__init__()
        self.pooling = setting.pooling
        self.region = nn.Linear(n_in, setting.width, bias=False)
        self.text = nn.Linear(n_text, setting.width)
        self.value = nn.Linear(n_in, setting.width, bias=False)  # of "attention" alone
        self.bias = nn.Linear(n_text, 1)

    def forward(self, regions: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """(N, R, n_in) x (P, n_text) -> (N, P) logits of volumes, (N, P, R) of regions."""
        meaning = self.text(texts)
        where = regions @ (self.region.weight.T @ meaning.T)  # (N, R, P)
        if self.pooling == "attention":
            value = regions @ (self.value.weight.T @ meaning.T)
            share = (where - where.amax(1, keepdim=True)).exp()  # softmax(1) takes ten times longer
            found = (share * value).sum(1) / share.sum(1)
            return found + self.bias(texts)[:, 0], where.mT
        where = where + self.bias(texts)[:, 0]
        if self.pooling == "mean":
            return where.mean(1), where.mT
        return where.logsumexp(1) - math.log(where.shape[1]), where.mT


def floats(study: Study) -> Tensor:
    return torch.from_numpy(study.regions.astype(np.float32))


@dataclass(frozen=True, eq=False)
class Space:
    """Region features as the heads read them, made from training volumes alone."""

    usual: Tensor
    axes: Tensor
    place: Tensor | None

    def __call__(self, studies: Sequence[Study]) -> Tensor:
        """Return (N, 490, n_in)."""
        out = torch.stack([(floats(s) - self.usual) @ self.axes for s in studies])
        if self.place is None:
            return out
        return torch.cat([out, self.place.expand(len(out), -1, -1)], -1)


def space(studies: Sequence[Study], setting: Setting) -> Space:
    """Find the principal axes of training volumes' regions, scaled to a spread of `SPREAD`."""
    mean = torch.stack([floats(s) for s in studies]).mean(0)
    usual = mean if setting.usual else mean.mean(0)
    covariance = torch.zeros(2 * (mean.shape[1],))
    for s in studies:
        x = floats(s) - usual
        covariance += x.T @ x / len(x)
    values, vectors = torch.linalg.eigh(covariance / len(studies))
    values, vectors = values[-setting.n_axes :], vectors[:, -setting.n_axes :]
    place = None
    if setting.place:
        index = np.indices(GRID).reshape(3, -1)
        axes = [np.eye(n, dtype=np.float32)[i] for n, i in zip(GRID, index, strict=True)]
        place = torch.from_numpy(np.concatenate(axes, 1))
    return Space(usual, SPREAD * vectors / values.clamp(min=1e-8).sqrt(), place)


def even(positive: Tensor, known: Tensor) -> Tensor:
    """Weight examples so that each prompt's positives, and its negatives, add up to a half."""
    rest = [axis for axis in range(positive.ndim) if axis != 1]
    yes, no = positive & known, ~positive & known
    n_yes, n_no = (v.sum(rest, keepdim=True).clamp(min=1) for v in (yes, no))
    return (yes / n_yes + no / n_no) / 2 / positive.shape[1]


def fit(
    studies: Sequence[Study],
    setting: Setting,
    texts: Tensor,
    seed: int,
    known_space: Space | None = None,
) -> tuple[Head, Space]:
    """Train a head on phantoms, and on real chests with and without what was painted into them.

    What else a real chest shows is not known: of it the head is only told that its volume's logit
    of the painted finding is above that of the same chest as it was.
    """
    made = known_space or space(studies, setting)
    x, truth = made(studies), torch.from_numpy(truth_of(studies))
    real = torch.tensor([s.study_id.startswith("real-") for s in studies])
    row = {s.study_id: i for i, s in enumerate(studies)}
    pairs = [
        (i, row["-".join(s.study_id.split("-")[:2])], p)
        for i, s in enumerate(studies)
        if real[i]
        for p in np.flatnonzero(truth[i].numpy())
    ]
    weight = even(truth, ~real[:, None].expand_as(truth))
    where_true = torch.zeros((len(studies), len(PROMPTS), N_REGIONS), dtype=torch.bool)
    for i, study in enumerate(studies):
        for finding, shares in zip(study.findings, places_of(study), strict=True):
            for p, prompt in enumerate(PROMPTS):
                if prompt.fits(finding):
                    where_true[i, p] |= torch.from_numpy(shares)
    seen = (truth | ~real[:, None])[..., None].expand_as(where_true)
    where_weight = even(where_true, seen) if setting.masks else None
    torch.manual_seed(seed)
    head = Head(x.shape[-1], texts.shape[1], setting)
    optimiser = torch.optim.AdamW(head.parameters(), setting.rate, weight_decay=setting.decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, setting.rate, setting.steps)
    bce = nn.functional.binary_cross_entropy_with_logits
    n, size = int((~real).sum()), min(BATCH, int((~real).sum()))  # real chests are the last
    shuffled = torch.Generator().manual_seed(seed)
    for _ in range(setting.steps):
        rows = torch.cat([torch.randperm(n, generator=shuffled)[:size], torch.arange(n, len(x))])
        scores, where = head(x[rows], texts)
        loss = bce(scores, truth[rows].float(), weight[rows] * n / size, reduction="sum")
        if where_weight is not None:
            target = where_true[rows].float()
            loss = loss + bce(where, target, where_weight[rows] * n / size, reduction="sum")
        if pairs:
            lesion, plain, asked = torch.tensor(pairs).T
            difference = scores[lesion - n + size, asked] - scores[plain - n + size, asked]
            loss = loss + nn.functional.softplus(-difference).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return head.eval(), made


def judge(
    head: Head, made: Space, studies: Sequence[Study], texts: Tensor
) -> tuple[Floats, Floats]:
    """Return (N, P) logits of volumes and (N, P, 490) of their regions."""
    with torch.no_grad():
        scores, where = head(made(studies), texts)
    return scores.numpy(), where.numpy()


# --- what is measured


def detection(studies: Sequence[Study], scores: Floats) -> dict[str, float]:
    """Return the AUROC of each prompt that some studies fit and some do not."""
    truth = truth_of(studies)
    some = truth.any(0) & ~truth.all(0)
    values = auroc(rank_scores(scores.T[some], truth.T[some]))
    asked = [PROMPTS[i].text for i in np.flatnonzero(some)]
    return dict(zip(asked, map(float, values), strict=True))


def choices(studies: Sequence[Study], scores: Floats) -> list[dict[str, Any]]:
    """Ask of each finding on which of two sides, and in which of five lobes it is."""
    rows: list[dict[str, Any]] = []
    for study, row in zip(studies, scores, strict=True):
        of = dict(zip(PROMPTS, map(float, row), strict=True))
        for f in study.findings:
            asked: list[tuple[str, list[Prompt]]] = []
            if f.side in ("left", "right"):
                asked.append(("side", [Prompt(f.name, side) for side in ("left", "right")]))
            if f.lobe:
                asked.append(("lobe", [Prompt(f.name, *lobe) for lobe in LOBES]))
            for what, among in asked:
                chosen = among[int(np.argmax([of[prompt] for prompt in among]))]
                row_of = {"study": study.study_id, "name": f.name, "what": what}
                rows.append({**row_of, "hit": chosen.fits(f)})
    return rows


def pointing(studies: Sequence[Study], where: Floats, whole: bool = True) -> list[dict[str, Any]]:
    """Ask of each finding whether the highest region is one it occupies, or next to one.

    Args:
        where: (N, P, 490).
        whole: Ask with all that is told of the place, else with the finding alone.
    """
    rows: list[dict[str, Any]] = []
    for study, maps in zip(studies, where, strict=True):
        for f, mine in zip(study.findings, places_of(study), strict=True):
            p = told(f) if whole else PROMPTS.index(Prompt(f.name))
            near, best = with_neighbours(mine), int(np.argmax(maps[p]))
            rows.append({
                "study": study.study_id, "name": f.name,
                "hit": mine[best], "near": near[best],
                "chance": mine.mean(), "chance_near": near.mean(),
            })  # fmt: skip
    return rows


def baselines(train: Sequence[Study], test: Sequence[Study]) -> dict[str, Floats]:
    """Return maps (N, P, 490) that no text was trained for.

    ``feature norm`` and ``unlike the usual`` point at the region with the longest feature and at
    the one farthest from what is usual at its place; ``usual place`` knows from masks where
    training's findings lie and does not look at the volume.
    """
    usual = np.mean([s.regions.astype(np.float32) for s in train], 0)
    x = np.stack([s.regions.astype(np.float32) for s in test])
    spread = np.sqrt(
        np.mean([(s.regions.astype(np.float32) - usual) ** 2 for s in train], 0).mean(1)
    )
    prior = np.zeros((len(PROMPTS), N_REGIONS), np.float32)
    for study in train:
        for f, mine in zip(study.findings, places_of(study), strict=True):
            prior[[p.fits(f) for p in PROMPTS]] += mine
    return {
        "feature norm": np.repeat(np.linalg.norm(x, axis=2)[:, None], len(PROMPTS), 1),
        "unlike the usual": np.repeat(
            (np.linalg.norm(x - usual, axis=2) / spread)[:, None], len(PROMPTS), 1
        ),
        "usual place": np.repeat(prior[None], len(test), 0),
    }


def share(rows: Sequence[dict[str, Any]], key: str = "hit") -> dict[str, Any]:
    """Return the share of rows, with a 95 % interval over patients."""
    found = bootstrap_interval(np.array([float(r[key]) for r in rows]), [r["study"] for r in rows])
    return {"share": found.estimate, "low": found.low, "high": found.high, "n": len(rows)}


def means(rows: Sequence[dict[str, Any]], keys: Sequence[str]) -> dict[str, float]:
    return {key: float(np.mean([row[key] for row in rows])) for key in keys}


def summary(points: list[dict[str, Any]], asked: list[dict[str, Any]]) -> dict[str, Any]:
    """Sum up, over all findings and for each."""
    keys = ("hit", "near", "chance", "chance_near")
    made: dict[str, Any] = {key: share(points, key) for key in keys}
    by_finding: dict[str, dict[str, float]] = {}
    for name in FINDINGS:
        mine = [row for row in points if row["name"] == name]
        if mine:
            by_finding[name] = means(mine, keys) | {"n": len(mine)}
    for what in ("side", "lobe"):
        rows = [row for row in asked if row["what"] == what]
        if rows:
            made[what] = share(rows)
        for name in {row["name"] for row in rows}:
            of_name = [row for row in rows if row["name"] == name]
            by_finding[name][what] = means(of_name, ["hit"])["hit"]
    made["by_finding"] = by_finding
    return made


def cross_validate(
    studies: Sequence[Study], settings: dict[str, Setting], texts: Tensor, others: Tensor,
    seeds: Sequence[int], n_folds: int,
) -> dict[str, Any]:  # fmt: skip
    """Train on all folds but one, measure on it, in turns; every phantom is another patient.

    Args:
        texts: (P, 384) of the prompts.
        others: (P, 384) of the prompts in other words, which no head was trained on.
    """
    points: dict[str, list[dict[str, Any]]] = {}
    alone: dict[str, list[dict[str, Any]]] = {}
    asked: dict[str, list[dict[str, Any]]] = {}
    areas: dict[str, list[dict[str, float]]] = {}
    for fold in range(n_folds):
        test = studies[fold::n_folds]
        train = [s for i, s in enumerate(studies) if i % n_folds != fold]
        for name, maps in baselines(train, test).items():
            points.setdefault(name, []).extend(pointing(test, maps))
            alone.setdefault(name, []).extend(pointing(test, maps, whole=False))
        spaces: dict[tuple[Any, ...], Space] = {}
        for name, setting in settings.items():
            key = (setting.usual, setting.place, setting.n_axes)
            spaces[key] = spaces.get(key) or space(train, setting)
            for seed in seeds:
                head, made = fit(train, setting, texts, seed, spaces[key])
                scores, where = judge(head, made, test, texts)
                points.setdefault(name, []).extend(pointing(test, where))
                alone.setdefault(name, []).extend(pointing(test, where, whole=False))
                asked.setdefault(name, []).extend(choices(test, scores))
                areas.setdefault(name, []).append(detection(test, scores))
                reworded = judge(head, made, test, others)[0]
                areas.setdefault(f"{name}, other words", []).append(detection(test, reworded))
            print(f"fold {fold} {name}", flush=True)
    figures: dict[str, Any] = {}
    for name, rows in points.items():
        figures[name] = summary(rows, asked.get(name, []))
        figures[name]["finding_alone"] = {k: share(alone[name], k) for k in ("hit", "near")}
        if name in areas:
            figures[name] |= areas_of(areas[name])
            figures[name]["other_words"] = areas_of(areas[f"{name}, other words"])["auroc"]
    return figures


def areas_of(runs: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Average AUROCs over folds and seeds: of the findings, and of sides and lobes."""
    mean = {p: float(np.mean([run[p.text] for run in runs if p.text in run])) for p in PROMPTS
            if any(p.text in run for run in runs)}  # fmt: skip
    kinds = {
        "finding": [v for p, v in mean.items() if p.side is None],
        "side": [v for p, v in mean.items() if p.side and p.lobe is None],
        "lobe": [v for p, v in mean.items() if p.lobe],
    }
    return {
        "auroc": {kind: float(np.mean(values)) for kind, values in kinds.items() if values},
        "auroc_by_finding": {p.name: v for p, v in mean.items() if p.side is None},
    }


def on_real(
    painted: Sequence[Study], plain: dict[str, Study], head: Head, made: Space, texts: Tensor
) -> list[dict[str, Any]]:
    """Compare each painted chest with the same chest as it was."""
    rows = []
    scores, where = judge(head, made, painted, texts)
    for study, score, maps in zip(painted, scores, where, strict=True):
        base = plain[study.study_id.split("-")[1]]
        before, maps_before = (v[0] for v in judge(head, made, [base], texts))
        (f,), (mine,) = study.findings, places_of(study)
        p = PROMPTS.index(Prompt(f.name, f.side))
        rise = (maps - maps_before)[:, mine].mean(1)
        gains = {name: float(rise[PROMPTS.index(Prompt(name))]) for name in INSERTED}
        other = "left" if f.side == "right" else "right"
        q, best = PROMPTS.index(Prompt(f.name, other)), int(np.argmax(maps[p]))
        near = with_neighbours(mine)
        rows.append({
            "study": base.study_id, "name": f.name,
            "rise": float(rise[p] / maps_before[p].std()), "rises": rise[p] > 0,
            "volume_rises": score[p] > before[p],
            "gains_most": max(gains, key=gains.__getitem__) == f.name,
            "side": score[p] - before[p] > score[q] - before[q],
            "hit": mine[best], "near": near[best],
            "near_before": near[int(np.argmax(maps_before[p]))],
            "chance": mine.mean(), "chance_near": near.mean(),
        })  # fmt: skip
    return rows


def real_chests(
    phantoms: Sequence[Study], real: Sequence[Study], texts: Tensor, seeds: Sequence[int]
) -> dict[str, Any]:
    """Measure heads of phantoms alone, and of phantoms and the other chests, on painted chests."""
    names = sorted({s.study_id.split("-")[1] for s in real})
    plain = {s.study_id.split("-")[1]: s for s in real if not s.findings}
    figures: dict[str, Any] = {}
    for kind in ("log-sum-exp", "told where"):
        setting = SETTINGS[kind]
        alone: list[dict[str, Any]] = []
        others: list[dict[str, Any]] = []
        common = space(phantoms, setting)
        heads = [fit(phantoms, setting, texts, seed, common)[0] for seed in seeds]
        for name in names:
            mine = [s for s in real if s.study_id.split("-")[1] == name and s.findings]
            rest = [*phantoms, *(s for s in real if s.study_id.split("-")[1] != name)]
            both = space(rest, setting)
            for seed, head in zip(seeds, heads, strict=True):
                alone += on_real(mine, plain, head, common, texts)
                others += on_real(
                    mine, plain, fit(rest, setting, texts, seed, both)[0], both, texts
                )
        for label, rows in (
            (f"{kind}, phantoms", alone),
            (f"{kind}, phantoms and other chests", others),
        ):
            keys = [k for k in rows[0] if k not in ("study", "name", "rise")]
            figures[label] = {key: share(rows, key) for key in keys}
            figures[label]["mean_rise_sd"] = float(np.mean([r["rise"] for r in rows]))
            figures[label]["by_finding"] = {
                name: means([row for row in rows if row["name"] == name], [*keys, "rise"])
                for name in INSERTED
            }
        print(f"real chests {kind}", flush=True)
    return figures


def examples(
    phantoms: Sequence[Study], real: Sequence[Study], texts: Tensor, seeds: Sequence[int]
) -> list[dict[str, Any]]:
    """Say which region of each unchanged real chest answers a prompt: examples, no measure."""
    rows: list[dict[str, Any]] = []
    chests = [s for s in real if not s.findings]
    for kind in ("log-sum-exp", "told where"):
        common = space(phantoms, SETTINGS[kind])
        heads = [fit(phantoms, SETTINGS[kind], texts, seed, common)[0] for seed in seeds]
        runs = [judge(head, common, chests, texts) for head in heads]
        known = [judge(head, common, phantoms, texts)[0] for head in heads]
        for i, chest in enumerate(chests):
            for p, prompt in enumerate(PROMPTS):
                if prompt.side is None:
                    above = [k[:, p] < run[0][i, p] for k, run in zip(known, runs, strict=True)]
                    rows.append({
                        "head": kind, "chest": chest.study_id, "prompt": prompt.text,
                        "above_phantoms": float(np.mean(above)),
                        "where": [in_words(int(np.argmax(run[1][i, p]))) for run in runs],
                    })  # fmt: skip
    return rows


def in_words(region: int) -> str:
    """Say where a region of the frame lies: "right, front, level 3 of 10"."""
    d, h, w = (int(v) for v in np.unravel_index(region, GRID))
    side = "right" if w > 3 else "left" if w < 3 else "midline"
    return f"{side}, {'back' if h < 2 else 'front' if h > 4 else 'middle'}, level {d + 1} of 10"


def text_vectors() -> tuple[Tensor, Tensor]:
    """Return MiniLM's vectors of the prompts and of the same in other words, about their mean."""
    embedder = Embedder("minilm")
    usual = embedder.embed_texts([p.text for p in PROMPTS]).vectors
    words = [f"CT shows {p.name}{f' on the {p.side} side' if p.side else ''}"
             f"{f', in its {p.lobe} lobe' if p.lobe else ''}." for p in PROMPTS]  # fmt: skip
    others = embedder.embed_texts(words).vectors
    mean, scale = usual.mean(0), np.float32(1 / usual.std(0).mean())
    return torch.from_numpy((usual - mean) * scale), torch.from_numpy((others - mean) * scale)


def load_astra() -> Encode:
    encoder = load_encoder("astra")
    return Embedder(encoder).region_features


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="eight phantoms, one chest, one seed")
    parser.add_argument("--n", type=int, default=N_PHANTOMS, help="phantoms")
    parser.add_argument("--folder", type=Path, default=Path("~/.cache/medfinder/alignment"))
    parser.add_argument("--note", default="", help="said beside the figures, such as of the folder")
    parser.add_argument("--threads", type=int, help="of torch; its own choice by default")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    n, seeds, n_folds = (8, (0,), 2) if options.quick else (options.n, (0, 1, 2), 4)
    folder = options.folder.expanduser()
    phantoms = encoded(folder, phantom_jobs(n), load_astra)
    real: list[Study] = []
    if DATA.is_dir():
        real = encoded(folder, real_jobs(CHESTS[: 2 if options.quick else None]), load_astra)
    else:
        print("No ../shared/data beside the checkout: phantoms only.")
    texts, others = text_vectors()
    start = time.process_time()
    figures: dict[str, Any] = {
        "n_phantoms": n,
        "n_findings": sum(len(s.findings) for s in phantoms),
        "n_folds": n_folds,
        "phantoms": cross_validate(phantoms, SETTINGS, texts, others, seeds, n_folds),
    }
    if real:
        figures["real_chests"] = real_chests(phantoms, real, texts, seeds)
        figures["examples"] = examples(phantoms, real, texts, seeds)
    figures["training_cpu_s"] = time.process_time() - start
    print(table([flat(name, row) for name, row in figures["phantoms"].items()]))
    for name, row in figures.get("real_chests", {}).items():
        print(
            name,
            {
                k: round(v["share"], 3)
                for k, v in row.items()
                if isinstance(v, dict) and "share" in v
            },
        )
    if not options.quick:
        write_result("alignment", figures, [SEED, *seeds], f"{NOTES} {options.note}".strip())


def flat(name: str, row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of the printed table."""
    made: dict[str, Any] = {"way": name}
    made |= {k: row[k]["share"] for k in ("hit", "chance", "near", "chance_near")}
    made["alone hit"], made["alone near"] = (
        row["finding_alone"][k]["share"] for k in ("hit", "near")
    )
    made |= {k: row[k]["share"] if k in row else "" for k in ("side", "lobe")}
    made |= {f"AUROC {k}": row.get("auroc", {}).get(k, "") for k in ("finding", "side", "lobe")}
    made["other words"] = row.get("other_words", {}).get("finding", "")
    return made


if __name__ == "__main__":
    main()
