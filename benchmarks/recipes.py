"""What does a recipe reach on real photographs, and how many of them must be labelled for it?

Every preset is trained from every seed on a folder with train.json and valid.json, of all training pictures or of the
first so many of a shuffle (the same for every preset: what 50 pictures hold, 100 hold too). The pictures of valid.json
decide nothing, not even which epoch is kept: what is printed is what the last weights reach on them.

    python benchmarks/recipes.py wild6 --presets blog laptop ena24          the presets beside one another
    python benchmarks/recipes.py wild6 --presets laptop --pictures 25 50 100 200 433     a learning curve
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from machine import machine
from prettytable import PrettyTable

from ena24ssd.config import change_config, read_config
from ena24ssd.sources import read_source
from ena24ssd.splits import Split
from ena24ssd.training import train

CONFIGS = Path(__file__).parents[1] / "configs"
FIGURES = {"mAP50": "detection/map50", "mAP": "detection/map", "anchor accuracy": "anchor/accuracy"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with train.json and valid.json")
    parser.add_argument("--presets", nargs="+", default=["blog", "laptop", "ena24"], help="names in configs/")
    parser.add_argument("--engines", nargs="+", default=["pytorch"], help="gluon, pytorch")
    parser.add_argument("--pictures", nargs="+", type=int, help="training pictures (left out: all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="laid over every preset")
    parser.add_argument("--keep", type=Path, help="folder to keep the runs in, and the rows as rows.jsonl")
    arguments = parser.parse_args()
    print(machine())
    table = PrettyTable(["preset", "engine", "pictures", *FIGURES, "training, min", "in all, min"])
    table.align = "r"
    with tempfile.TemporaryDirectory() as rubbish:
        folder = arguments.keep or Path(rubbish)
        folder.mkdir(parents=True, exist_ok=True)
        for preset in arguments.presets:
            for engine in arguments.engines:
                for count in arguments.pictures or [None]:
                    rows = [_train(arguments, preset, engine, count, seed, folder) for seed in arguments.seeds]
                    cells = [_spread([row[name] for row in rows]) for name in FIGURES]
                    minutes = [f"{np.mean([row[name] for row in rows]) / 60:.1f}" for name in ("training", "in all")]
                    table.add_row([preset, engine, rows[0]["pictures"], *cells, *minutes])
                    print(table, flush=True)


def _train(
    arguments: argparse.Namespace, preset: str, engine: str, count: int | None, seed: int, folder: Path
) -> dict[str, float]:
    """The figures of one run."""
    config = read_config(CONFIGS / f"{preset}.yaml", [f"data.path={arguments.data}", *arguments.set])
    split = read_source(config.data).split
    if split is None:
        raise SystemExit(f"{arguments.data}: has no train.json and valid.json")
    shuffled = np.random.default_rng(0).permutation(split.train)
    chosen = Split(tuple(map(str, shuffled[:count])), (), split.validation)
    name = f"{preset}-{engine}-{len(chosen.train)}-{seed}"
    file = folder / f"{name}.split.json"
    file.write_text(json.dumps(chosen.to_json()))
    config = change_config(config, {"engine": engine, "seed": seed, "split.file": file, "data.cache": folder / "cache"})
    began = time.monotonic()
    run = train(config, folder / name, quiet=True)
    taken = time.monotonic() - began
    speed = [json.loads(line) for line in run.speed_file.read_text().splitlines()]
    closing = next(row for row in run.rows() if row.get("closing") and row["split"] == "test")
    row = {key: closing[field] for key, field in FIGURES.items()}
    row |= {"preset": preset, "engine": engine, "pictures": len(chosen.train), "seed": seed}
    row |= {"training": sum(each["seconds"] for each in speed), "in all": taken}
    with (folder / "rows.jsonl").open("a") as rows:
        rows.write(json.dumps(row) + "\n")
    return row


def _spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    main()
