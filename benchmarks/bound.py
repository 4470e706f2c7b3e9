"""What became of the bound in every update of finished runs: a line a run, and a table.

    surefoot compare fixpo trpo ppo --env ID... --certify-every 1    # leaves runs/
    python benchmarks/bound.py runs
    python benchmarks/bound.py --table

Reads run folders, has each certificate verified anew (chain, order and the kept arrays), and counts
over its lines: values recomputed in float64 above the bound by more than 1e-6 of it, updates that
kept the old policy, how much of the bound was used, updates at it (nine tenths or more), gradient
steps of fix-up phases, the mean KL and the range of log-ratios of updates, and sigma at the end
(geometric mean over actions, from the entropy of diagonal Gaussians).
Appends to results/bound.jsonl and skips what stands there.

Ratios are float32 and underflow: a log-ratio at their floor is shown as below it. A mean KL or a
log-ratio that fewer runs have than the row says which, as (1 of 3).
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

from surefoot.verifier import Verifier, load

OUT = Path(__file__).resolve().parent / "results" / "bound.jsonl"
SETTINGS = Path(__file__).resolve().parent / "settings"
EXCESS, AT_BOUND = 1e-6, 0.9
SMALLEST = 1.4e-45
FLOOR = math.log(SMALLEST)
"""The least log-ratio that can be seen: of the smallest float32."""
QUARTERS = (0.25, 0.5, 0.75, 1.0)
Row = dict[str, Any]


def lines(path: Path) -> list[Row]:
    """A file of JSON lines."""
    return [json.loads(x) for x in path.read_text().splitlines()]


def named(settings: Row) -> str:
    """The method's name, or that of the settings file whose method, batch, value function and
    networks the run has."""
    for path in sorted(SETTINGS.glob("*.json")):
        if covers(settings, json.loads(path.read_text())):
            return path.stem
    return settings["method"]["type"].lower()


def covers(settings: Row, other: Row) -> bool:
    """Whether a run has the settings of a file; fields that the file does not know yet are passed
    over."""
    shape = {k: settings["networks"].get(k) for k in other["networks"]}
    same = ("method", "batch", "value")
    return shape == other["networks"] and all(settings[k] == other[k] for k in same)


def sigmas(run: Path, metrics: list[Row]) -> list[float] | None:
    """Geometric mean of sigma over actions at each quarter, of policies with one sigma for all
    states."""
    arrays = load(max((run / "certificate").glob("*.safetensors")))
    log_std = arrays.get("new/head/std")
    if log_std is None or "new/head/mean/bias" not in arrays:
        return None
    constant = 0.5 * math.log(2 * math.pi * math.e)
    at = [metrics[math.ceil(q * len(metrics)) - 1]["entropy"] for q in QUARTERS]
    return [round(math.exp(x / log_std.size - constant), 4) for x in at]


def log_ratios(metrics: list[Row]) -> Row | None:
    """Of the smallest and the largest log-ratio of every update the medians over updates, and the
    extremes; an underflow counts as the smallest float32."""
    if "ratio_min" not in metrics[0]:
        return None
    low = [math.log(max(m["ratio_min"], SMALLEST)) for m in metrics]
    high = [math.log(max(m["ratio_max"], SMALLEST)) for m in metrics]
    return {"median": [median(low), median(high)], "extreme": [min(low), max(high)]}


def summary(run: Path) -> Row:
    """One finished run in one line."""
    config = json.loads((run / "config.json").read_text())
    settings, metrics = config["settings"], lines(run / "metrics.jsonl")
    certified = lines(run / "certificate.jsonl")[1:]
    bound = certified[0]["bound"]
    checked = [x["float64"] for x in certified if x.get("float64") is not None]
    worst = [m["kl_max"] for m in metrics]
    verified = Verifier(run).verify()
    refused = ("accepted", False), ("fixpo_scale", 0.0), ("fixup_scale", 0.0)
    old = [m["update_skipped"] or any(m.get(k) == v for k, v in refused) for m in metrics]
    steps = [m["fixpo_steps"] for m in metrics if "fixpo_steps" in m]
    row = {
        "method": named(settings),
        "env": settings["env"],
        "steps": settings["steps"],
        "seed": settings["seed"],
        "promise": certified[0]["promise"],
        "bound": bound,
        "updates": len(metrics),
        "checked": len(checked),
        "findings": len(verified.findings),
        "violations": None if bound is None else sum(x > bound * (1 + EXCESS) for x in checked),
        "largest": None if bound is None else max(checked) / bound,
        "kept_old": sum(old),
        "median_of_bound": None if bound is None else median(checked) / bound,
        "at_bound": None if bound is None else sum(x >= AT_BOUND * bound for x in checked),
        "worst_kl": max(worst),
        "median_worst_kl": median(worst),
        "median_mean_kl": median(m["kl_mean"] for m in metrics),
        "log_ratios": log_ratios(metrics),
        "fixup_steps": {"mean": sum(steps) / len(steps), "median": median(steps)}
        if steps
        else None,
        "capped": sum(m.get("fixpo_capped", 0) for m in metrics),
        "sigma": sigmas(run, metrics),
        "return": metrics[-1]["episode_return"],
        "git": (config.get("git") or {}).get("commit"),
        "versions": config["versions"],
    }
    return row


def collect(folder: Path) -> None:
    """Add every finished run below a folder that is not there yet."""
    stand = lines(OUT) if OUT.exists() else []
    done = {(x["method"], x["env"], x["steps"], x["seed"]) for x in stand}
    for path in sorted(folder.glob("**/config.json")):
        config = json.loads(path.read_text())
        metrics = path.parent / "metrics.jsonl"
        if "settings" not in config or not metrics.exists():
            continue
        s = config["settings"]
        if (named(s), s["env"], s["steps"], s["seed"]) in done:
            continue
        if not (last := lines(metrics)[-1:]) or last[0]["env_steps"] < s["steps"]:
            continue
        with OUT.open("a") as file:
            file.write(json.dumps(summary(path.parent)) + "\n")
        print(path.parent)


def of(rows: Iterable[Row], key: str) -> list[Any]:
    """Values of a column that are there."""
    return [x[key] for x in rows if x.get(key) is not None]


def span(
    pairs: list[list[float]],
    low: Callable[[Iterable[float]], float],
    high: Callable[[Iterable[float]], float],
) -> str:
    """An interval of log-ratios made of several, or a dash; at the floor something smaller
    underflowed."""
    if not pairs:
        return "-"
    least = low(x[0] for x in pairs)
    said = f"below {FLOOR:.0f}" if least <= FLOOR + 1e-9 else f"{least:.2g}"
    return f"[{said}, {high(x[1] for x in pairs):.2g}]"


def share(values: list[Any], rows: list[Row]) -> str:
    """Of how many of the rows a cell is, where not of all."""
    return f" ({len(values)} of {len(rows)})" if 0 < len(values) < len(rows) else ""


def table() -> str:
    """A line a method and task: sums over seeds, or medians of them."""
    groups = defaultdict(list)
    for row in lines(OUT):
        groups[row["env"].removeprefix("envpool:"), row["steps"], row["method"]].append(row)
    head = (
        "task", "steps", "method", "seeds", "return", "updates", "checked in float64", "above",
        "kept old", "median of bound", "at bound", "mean KL: median", "worst state's KL: median",
        "largest", "log-ratios: median of least, of largest", "extremes", "fix-up steps",
        "sigma at the end",
    )  # fmt: skip
    out = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for (env, steps, method), rows in sorted(groups.items()):
        updates = sum(of(rows, "updates"))
        bound = of(rows, "median_of_bound")
        fixups = [x["mean"] for x in of(rows, "fixup_steps")]
        sigma = [x[-1] for x in of(rows, "sigma")]
        mean_kl, ratios = of(rows, "median_mean_kl"), of(rows, "log_ratios")
        cells = (
            env, f"{steps:,}".replace(",", " "), method, len(rows),
            f"{sum(of(rows, 'return')) / len(rows):.0f}", updates, sum(of(rows, "checked")),
            sum(of(rows, "violations")) if bound else "-",
            f"{sum(of(rows, 'kept_old')) / updates:.2%}", f"{median(bound):.2f}" if bound else "-",
            f"{sum(of(rows, 'at_bound')) / updates:.0%}" if bound else "-",
            f"{median(mean_kl):.2g}{share(mean_kl, rows)}" if mean_kl else "-",
            f"{median(of(rows, 'median_worst_kl')):.3g}", f"{max(of(rows, 'worst_kl')):.3g}",
            span([x["median"] for x in ratios], median, median) + share(ratios, rows),
            span([x["extreme"] for x in ratios], min, max) + share(ratios, rows),
            f"{sum(fixups) / len(fixups):.1f}" if fixups else "-",
            f"{median(sigma):.2f}" if sigma else "-",
        )  # fmt: skip
        out.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join([*out, "", *by_method()])


def by_method() -> list[str]:
    """A line a method that promises a bound, over all its runs, and a sentence on all runs."""
    everything = lines(OUT)
    groups = defaultdict(list)
    for row in everything:
        if row["bound"] is not None:
            groups[row["method"]].append(row)
    head = "method", "runs", "updates", "above", "kept old", "median of bound"
    out = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for method, rows in sorted(groups.items()):
        updates = sum(of(rows, "updates"))
        # Of runs, each counted as often as it has updates.
        used = median(x["median_of_bound"] for x in rows for _ in range(x["updates"]))
        kept = f"{sum(of(rows, 'kept_old')) / updates:.2%}"
        cells = method, len(rows), updates, sum(of(rows, "violations")), kept, f"{used:.2f}"
        out.append(f"| {' | '.join(map(str, cells))} |")
    kept = [x for x in everything if x["bound"] is not None]
    out.append(
        f"\n{sum(of(everything, 'updates'))} updates of {len(everything)} runs, "
        f"{sum(of(everything, 'checked'))} recomputed in float64; of the "
        f"{sum(of(kept, 'checked'))} that promise a bound {sum(of(kept, 'violations'))} are above "
        f"it by more than a millionth; {sum(of(everything, 'findings'))} findings of the verifier."
    )
    return out


def main() -> None:
    """Collect, or print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="*", type=Path)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    for folder in args.folder:
        collect(folder)
    if args.table:
        print(table())


if __name__ == "__main__":
    main()
