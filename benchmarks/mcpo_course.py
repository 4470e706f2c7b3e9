"""What MCPO did over a run, as a small table: a row an update.

    python benchmarks/mcpo_course.py RUN OUT.csv [--every N]

The means over the update's minibatch steps that MCPO reports (docs/metrics.md), the mean KL of the
ruler and the return of the last 100 training episodes, of the metrics of a run folder, six digits
each. The runs behind results/mcpo/*.csv are in docs/methods/mcpo.md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from surefoot.experiments.table import csv_text

COLUMNS = (
    *("update", "env_steps", "episode_return", "kl_mean", "mcpo_beta", "mcpo_kl_old_theta"),
    *("mcpo_kl_old_psi", "mcpo_kl_theta_psi", "mcpo_attention_entropy", "mcpo_slot", "mcpo_filled"),
    *("mcpo_writes", "mcpo_alpha"),
)


def cell(x: Any) -> Any:
    """A number in six digits: alpha is a half and a little, and the little matters."""
    return f"{x:.6g}" if isinstance(x, float) else x


def course(lines: list[str], every: int = 1) -> str:
    """The table of a run's metrics.jsonl: the first update, and of the others every `every`-th."""
    rows = [json.loads(line) for line in lines][::every]
    return csv_text(COLUMNS, [[cell(row.get(name)) for name in COLUMNS] for row in rows])


def main() -> None:
    """Read and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--every", type=int, default=1)
    args = parser.parse_args()
    lines = (args.run / "metrics.jsonl").read_text().splitlines()
    args.out.write_text(course(lines, args.every))


if __name__ == "__main__":
    main()
