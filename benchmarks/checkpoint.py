"""Train the checkpoint that ships, measure it where nothing was chosen, and put it into the package.

The recipe is ``configs/small.toml``; studies are those of the phantom benchmark. What ships is the
checkpoint of the best validation, its matrices as float16, and what is measured is what ships.
Stopped, it goes on where it was.

Run: ``python benchmarks/checkpoint.py [--recipe small] [--n-train 20000] [--max-s 598] [--out FOLDER]``
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import phantom_pools as pools
from recipes import CONFIGS, SPLITS, device_name, training_sets
from record import table, write_result

from medfinder.artifact import atomic_write
from medfinder.config import load_config
from medfinder.model.checkpoint import TRAINING, copy_checkpoint, load_checkpoint, save_checkpoint
from medfinder.model.hub import FOLDER
from medfinder.model.joint_encoder import JointEncoder
from medfinder.train.loop import fit
from medfinder.train.recipe import RecipeConfig

FITTED = "fitted.json"
LIMITS = (
    "Trained on synthetic chest CTs and their generated English reports alone. What it finds in real "
    "CTs has not been measured and is not to be relied on.",
)


def trained(recipe: RecipeConfig, data: pools.Data, run: Path) -> dict[str, Any]:
    """Train, or read what a run that has ended says."""
    if not (run / FITTED).is_file():
        train, val = training_sets(data)

        def told(done: int, total: int) -> None:
            if done % 50 == 0:
                print(f"step {done} of at most {total}", flush=True)

        done = fit(recipe, train, val, run, resume=True, progress=told)
        facts = {
            "step": done.step,
            "n_steps": done.n_steps,
            "n_seen": done.n_seen,
            "cpu_s": round(done.cpu_s, 1),
            "duration_s": round(done.duration_s, 1),
            "device": device_name(next(done.model.parameters()).device.type),
            "validation": dict(done.measures),
        }
        with atomic_write(run / FITTED) as file:
            file.write(json.dumps(facts).encode())
    facts = json.loads((run / FITTED).read_text(encoding="utf-8"))
    assert isinstance(facts, dict)
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    home = Path("~/.cache/medfinder/recipes").expanduser()
    parser.add_argument("--folder", type=Path, default=home, help="of the phantom pools")
    parser.add_argument("--run", type=Path, help="of the run; FOLDER/runs/ships by default")
    parser.add_argument("--out", type=Path, default=FOLDER, help="of the checkpoint")
    parser.add_argument("--recipe", default="small", help="a file of configs/")
    parser.add_argument("--n-train", type=int, default=20_000)
    parser.add_argument("--max-s", type=float, default=0.0, help="in place of train.steps")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--splits", nargs="+", default=["val", *SPLITS], choices=["val", *SPLITS])
    args = parser.parse_args()
    recipe = load_config(RecipeConfig, CONFIGS / f"{args.recipe}.toml")
    if args.max_s:
        recipe = replace(recipe, train=replace(recipe.train, steps=100_000, max_s=args.max_s))
    data = pools.Data(
        args.folder,
        n_train=args.n_train,
        preprocess=recipe.model.preprocess,
        workers=args.workers,
    )
    run = args.run or args.folder / "runs" / "ships"
    facts = trained(recipe, data, run)
    short = copy_checkpoint(run / "checkpoint", run / "short", dtype="float16", name="medfinder")
    encoder = JointEncoder(load_checkpoint(short))
    splits = {
        split: pools.score(pools.answers(encoder, data, split), pools.questions(data, split))
        for split in args.splits
    }
    flat = {split: pools.headline(figures) for split, figures in splits.items()}
    notes = json.loads((short / TRAINING).read_text(encoding="utf-8"))
    notes["data"] = {
        "studies": f"{args.n_train} phantoms of medfinder phantom --benchmark --seed {data.seed}",
        "wordings of each report": pools.N_WORDINGS,
        "real studies": 0,
    } | notes["data"]
    notes["measures"] = {"pool": {split: f["n"] for split, f in splits.items()}} | flat
    notes["limits"] = LIMITS
    save_checkpoint(
        load_checkpoint(short),
        args.out,
        training=notes,
        dtype="float16",
        name="medfinder",
        source=f"{args.n_train} synthetic chest CTs and reports",
    )
    size_bytes = sum(f.stat().st_size for f in args.out.iterdir())
    rows = [{"split": split} | figures for split, figures in flat.items()]
    print(table([{k: row.get(k, "") for k in rows[0]} for row in rows]))
    record = {
        "recipe": args.recipe,
        "run": facts,
        "n_parameters": sum(p.numel() for p in encoder.model.parameters()),
        "size_bytes": size_bytes,
        "headline": flat,
        "splits": splits,
    }
    print(write_result("checkpoint", record, [recipe.train.seed, data.seed]))


if __name__ == "__main__":
    main()
