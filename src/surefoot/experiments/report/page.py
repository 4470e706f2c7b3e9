"""The page: one HTML document with nothing behind it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from surefoot.console import clock, steps_text
from surefoot.experiments import statistics as st
from surefoot.experiments import table as tb
from surefoot.experiments.report import svg
from surefoot.experiments.report.chart import Chart, number, rows, short
from surefoot.experiments.report.evidence import Evidence
from surefoot.experiments.report.figures import BOUNDED, Figures, Panel, bound_of
from surefoot.experiments.report.gather import Material
from surefoot.experiments.report.markup import Markup, breakable, element, identifier, joined
from surefoot.experiments.report.settings import compared, versions
from surefoot.experiments.report.style import inside, style_sheet

POLICY = "default-src 'none'; style-src '{}'; script-src '{}'; base-uri 'none'; form-action 'none'"
"""What a browser lets the page load: nothing; and run: its own style sheet and script, by their
hashes."""
SHOWN = 12
"""Points of a line in the table below its figure; all are in the CSV."""
OPEN = 4
"""Most trust panels that are unfolded from the start."""
SECTIONS = (
    "Summary",
    "Learning curves",
    "Performance profile",
    "Trust panel",
    "Certificates",
    "Settings",
    "Versions",
    "Runs and commands",
)


def page(m: Material, drawn: Figures, files: Sequence[str]) -> str:
    """The whole document; the same material gives the same bytes."""
    bodies = {
        "Summary": overview(m),
        "Learning curves": curves(m, drawn),
        "Performance profile": profile(m, drawn),
        "Trust panel": trust(m, drawn),
        "Certificates": certificates(m),
        "Settings": settings(m),
        "Versions": made(m),
        "Runs and commands": commands(m, files),
    }
    look, script = style_sheet(), inside("page.js")
    policy = POLICY.format(hashed(look), hashed(script))
    sections = [section(title, bodies[title]) for title in SECTIONS if bodies[title]]
    links = [
        element("li", element("a", title, href=f"#{identifier(title)}"))
        for title in SECTIONS
        if bodies[title]
    ]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="generator", content="surefoot report"),
        element("title", f"{m.title}: surefoot report"),
        element("style", Markup(look)),
    )
    top = element(
        "header",
        element(
            "div",
            element("h1", m.title),
            element("button", "Dark colours", id="theme", type="button", hidden=True),
            class_="top",
        ),
        element("p", lead(m), class_="lead"),
        element("nav", element("ul", *links), aria_label="Sections"),
    )
    body = element(
        "body",
        element("a", "Skip to the results", href="#main", class_="skip"),
        top,
        element("main", *sections, id="main", tabindex=-1),
        element("footer", element("p", "Made by surefoot report. Nothing is loaded by this page.")),
        element("script", Markup(script)),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def hashed(text: str) -> str:
    """A style sheet or a script as a policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def section(title: str, inside: Sequence[Markup]) -> Markup:
    """A part of the page under its heading."""
    name = identifier(title)
    return element(
        "section",
        element("h2", title, id=name),
        *inside,
        aria_labelledby=name,
    )


def lead(m: Material) -> str:
    """What was run, in a sentence."""
    n, steps = len(m.evidence), {x.settings.get("steps") for x in m.evidence}
    runs = "1 run" if n == 1 else f"{n} runs"
    said = f"{runs} of {len(m.comparison.methods)} method{'s'[: len(m.comparison.methods) != 1]}"
    whole = sorted(s for s in steps if isinstance(s, int))
    if whole:
        ends = [steps_text(s) for s in dict.fromkeys((whole[0], whole[-1]))]
        said += f", {' to '.join(ends)} environment steps each"
    return f"{said}."


# Parts that many sections use.


def grid(
    header: Sequence[str],
    lines: Iterable[Sequence[str | Markup]],
    caption: str,
    *,
    numeric: Sequence[int] = (),
    name: str | None = None,
    marked: Sequence[bool] | None = None,
    fit: bool = False,
) -> Markup:
    """A table in a region that can be scrolled, by keyboard too. The first cell of a line is its
    header; `numeric` columns stand right, `marked` lines stand out, cells of a table that is to
    `fit` are broken into lines."""

    def kind(i: int) -> str | None:
        return "n" if i in numeric else None

    head = [element("th", h, scope="col", class_=kind(i)) for i, h in enumerate(header)]
    body = []
    for j, line in enumerate(lines):
        cells = [element("th", line[0], scope="row")]
        cells += [element("td", x, class_=kind(i)) for i, x in enumerate(line[1:], 1)]
        body.append(element("tr", *cells, class_="differs" if marked and marked[j] else None))
    whole = element(
        "table",
        element("caption", element("span", caption)),
        element("thead", element("tr", *head, class_="head")),
        element("tbody", *body),
        id=name,
        class_="fit" if fit else None,
    )
    return element("div", whole, class_="scroll", tabindex=0, role="region", aria_label=caption)


def figure(chart: Chart) -> Markup:
    """A chart, its legend and its numbers."""
    legend = [element("li", svg.swatch(s.style), s.label) for s in chart.series]
    if chart.bound is not None:
        words = f"{chart.bound_name} {short(chart.bound)}"
        legend.append(element("li", svg.swatch(0, "bound"), words))
    if chart.lost:
        legend.append(element("li", svg.swatch(0, "lost"), chart.lost_text))
    if chart.band:
        legend.append(element("li", f"band: {chart.band}", class_="band"))
    numbers = grid(
        ("line", chart.x_label, "value", "low", "high"),
        [line[1:] for line in rows(chart, SHOWN)],
        f"{chart.title}: up to {SHOWN} points a line",
        numeric=(1, 2, 3, 4),
    )
    return element(
        "figure",
        element("figcaption", chart.title),
        element("p", chart.y_label, class_="axis-name"),
        svg.draw(chart),
        element("ul", *legend, class_="legend"),
        element("details", element("summary", "Numbers"), numbers),
        id=f"f-{chart.name}",
    )


def bullets(words: Iterable[str]) -> Markup | None:
    """A list of remarks; None of none."""
    items = [element("li", w) for w in words]
    return element("ul", *items, class_="notes") if items else None


def some(*parts: Markup | None) -> list[Markup]:
    """Those that are there."""
    return [p for p in parts if p is not None]


# Sections.


def overview(m: Material) -> list[Markup]:
    """Facts, the verdicts, the table, what is missing."""
    c, said = m.comparison, m.said
    promised = [x for x in m.evidence if x.bound is not None and x.result is not None]
    kept = tb.updates_kept([x.result for x in promised if x.result is not None])
    facts = {"runs": str(len(m.evidence)), "environments": str(len(c.envs))}
    if kept is not None:
        facts["updates within the bound"] = tb.share_kept(kept)
        facts["runs that promise one"] = str(len(promised))
    spent = [x.result.seconds for x in m.evidence if x.result is not None]
    if spent:
        facts["wall time of all runs"] = clock(sum(spent))
    tiles = [element("div", element("dt", k), element("dd", v)) for k, v in facts.items()]
    tables = []
    if said.get("methods"):
        tables.append(score_table(m, said["methods"], "All environments" if c.scale else c.envs[0]))
    for env, by_method in said.get("by_env", {}).items():
        if by_method:
            tables.append(score_table(m, by_method, f"{env}, returns"))
    explained = f"Score: {said['score']}. {tb.EXPLAINED}" if tables else ""
    return some(
        element("dl", *tiles, class_="facts"),
        verdicts(m),
        *tables,
        element("p", explained) if explained else None,
        bullets([*(f"missing: {w}" for w in m.missing), *m.notes]),
    )


def score_table(m: Material, by_method: dict[str, Any], caption: str) -> Markup:
    """What `compare` prints, a line a method, the best first."""
    header, *lines = tb.long_table(by_method, m.comparison.baseline)
    return grid(header, [[*map(kept_whole, line)] for line in lines], caption, fit=True)


def kept_whole(cell: str) -> Markup:
    """A cell that may be broken before its interval, and not inside."""
    at = max(cell.find(" ["), cell.find(" ("))
    if at < 0:
        return joined(cell)
    return joined(cell[: at + 1], element("span", cell[at + 1 :], class_="whole"))


def verdicts(m: Material) -> Markup | None:
    """Every method against the baseline, in a table and in words."""
    given = m.said.get("verdicts") or []
    if not given:
        return None
    words, lines = [], []
    for v in given:
        word = "supported" if v["decided"] else "undecided"
        if "no verdict" in v["words"]:
            word = "no verdict"
        words.append(
            element(
                "li",
                element("span", word, class_="tag"),
                v["words"],
                class_="decided" if v["decided"] else None,
            )
        )
        ends = "-"
        if v["low"] is not None and v["high"] is not None:
            ends = st.interval_text(float(v["low"]), float(v["high"]), True)
        more = "-" if v["further_seeds"] is None else str(v["further_seeds"])
        gap = st.number_text(float(v["difference"]), True)
        lines.append([v["method"], v["baseline"], gap, ends, st.level_text(v["level"]), word, more])
    header = (
        "method",
        "against",
        "difference of IQM",
        "interval",
        "level",
        "verdict",
        "more seeds",
    )
    return joined(
        element("h3", "Verdicts"),
        element("ul", *words, class_="verdicts"),
        grid(header, lines, "Verdicts: supported where the interval excludes zero"),
    )


def curves(m: Material, drawn: Figures) -> list[Markup]:
    """A heading an environment, and both charts."""
    out: list[Markup] = []
    for env, charts in drawn.curves.items():
        if charts:
            out.append(element("h3", env))
            out.append(element("div", *(figure(c) for c in charts), class_="grid wide"))
    if out:
        out.insert(0, element("p", " ".join(timed(m))))
    if not out:
        return [element("p", "No episode has ended yet, so there is no return to show.")]
    return out


def timed(m: Material) -> list[str]:
    """What charts against seconds stand on."""
    words = ["Against seconds a line is drawn at the median time of its seeds."]
    if any(x.stored and x.ruler is None for x in m.evidence):
        words.append(
            "Runs of which the store keeps no course are spread evenly over their steps; the "
            "others have their own clock."
        )
    spans = {
        key: [x.result.seconds for x in runs if x.result is not None and x.result.seconds > 0]
        for key, runs in m.cells.items()
    }
    spread = {key: max(s) / min(s) for key, s in spans.items() if s}
    (method, env), most = max(spread.items(), key=lambda x: x[1], default=(("", ""), 1.0))
    if most > 1.2:
        ends = " to ".join(clock(f(spans[method, env])) for f in (min, max))
        words.append(
            f"Seconds are those of the clock, whatever else the machine did: seeds of {method} on "
            f"{env} took {ends}, the widest spread here. Times of every run are in the last table."
        )
    return words


def profile(m: Material, drawn: Figures) -> list[Markup]:
    """The performance profile, where there are runs to share."""
    if drawn.profile is None:
        return []
    words = (
        "Read across: of how many runs a score was above the one below. A line that is higher "
        "everywhere is better; every environment counts the same."
    )
    return [
        element("p", words),
        element("div", figure(drawn.profile), class_="grid wide"),
    ]


def trust(m: Material, drawn: Figures) -> list[Markup]:
    """What every cell promised and kept, then its charts."""
    lines = [promise_line(method, env, runs) for (method, env), runs in m.cells.items()]
    header = ("method", "environment", "promise", "updates", "within the bound", "worst state KL")
    out = [grid(header, lines, "What was promised, and kept", numeric=(3, 4, 5))]
    bare = [p for p in drawn.panels if not p.charts]
    full = [p for p in drawn.panels if p.charts]
    if bare:
        names = "; ".join(f"{p.method} on {p.env}" for p in bare)
        words = (
            "Over time the ruler is in a run's folder, and in the store where the run was added "
            f"with it. Neither is there of: {names}."
        )
        out.append(element("p", words))
    if len(full) > OPEN:
        button = element(
            "button",
            "Open or close all panels",
            type="button",
            hidden=True,
            data_open="details.cell",
            aria_expanded="false",
        )
        out.append(element("div", button, class_="tools"))
    return [*out, *(trust_panel(p, len(full) <= OPEN) for p in full)]


def trust_panel(p: Panel, unfolded: bool) -> Markup:
    """The charts of a cell."""
    count = f"{p.runs} run{'s'[: p.runs != 1]}"
    if p.runs < p.asked:
        count += f" of {p.asked} (the store keeps no course of the others)"
    return element(
        "details",
        element("summary", f"{p.method} on {p.env}, {count}"),
        element("div", *(figure(c) for c in p.charts), class_="grid"),
        open=unfolded,
        class_="cell",
    )


def promise_line(method: str, env: str, runs: Sequence[Evidence]) -> list[str]:
    """What a cell promised, and what came of it."""
    column, bound = bound_of(runs)
    results = [x.result for x in runs if x.result is not None]
    words = "nothing" if bound is None else f"{BOUNDED[column]} ≤ {bound:g}"
    if {x.promise for x in runs} == {"not recorded"}:
        words = "not recorded"
    elif len({(x.promise, x.bound) for x in runs}) > 1:
        words = "differs between runs"
    kept = tb.updates_kept(results)
    share = "-" if kept is None else tb.share_kept(kept)
    worst = number(max(r.worst_kl for r in results)) if results else "-"
    updates = str(sum(r.updates for r in results)) if results else "-"
    return [method, env, words, updates, share, worst]


def certificates(m: Material) -> list[Markup]:
    """What was certified, how many, and whether any is above its bound."""
    there = [x for x in m.evidence if x.certificate is not None]
    if not there:
        return [
            element(
                "p",
                "No certificate is here: it is in the folder of a run, and none of these runs has "
                "a folder with one, or was added to the store with what it was found to be. How "
                "many updates were within the bound, by the ruler's float32 values, is in the "
                "table above.",
            )
        ]
    lines, findings = [], []
    total = checked = above = 0
    for x in there:
        c = x.certificate
        assert c is not None
        total, checked, above = total + c.updates, checked + c.checked, above + c.above
        holds = element(
            "span", "REJECTED" if c.findings else "holds", class_="bad" if c.findings else "good"
        )
        promise = "nothing promised" if x.bound is None else f"{x.promise} ≤ {x.bound:g}"
        worst = "-" if c.largest is None else f"{number(c.largest)} (update {c.worst})"
        said = "-" if x.bound is None else str(c.above)
        lines.append(
            [x.name, holds, promise, str(c.updates), str(c.checked), str(c.recomputed), said, worst]
        )
        findings += [f"{x.name}: {f}" for f in c.findings[:5]]
        if len(c.findings) > 5:
            findings.append(f"{x.name}: {len(c.findings) - 5} more findings")
    rejected = sum(bool(x.certificate and x.certificate.findings) for x in there)
    stored = sum(x.stored for x in there)
    when = "now" if not stored else "when the run was added to the store"
    if 0 < stored < len(there):
        when = f"now, of {stored} runs when they were added to the store"
    words = (
        f"Certificates of {len(there)} of {len(m.evidence)} runs, of {total} updates, {checked} of "
        f"them computed again in float64 while training. Checked {when}: {len(there) - rejected} "
        f"hold, {rejected} rejected; {above} updates above a bound."
    )
    header = ("run", "verdict", "promise", "updates", "in float64", "recomputed", "above bound")
    return some(
        element("p", words),
        grid((*header, "largest"), lines, "Certificates", numeric=(3, 4, 5, 6)),
        bullets(findings),
    )


def settings(m: Material) -> list[Markup]:
    """Side by side, what differs marked and first."""
    out: list[Markup] = []
    for i, (env, sheet) in enumerate(compared(m).items()):
        differ = [row.differs for row in sheet.rows.values()]
        several = len(sheet.columns) > 1
        lines = [
            [*(("≠" if row.differs else "") for _ in range(several)), *row.values]
            for row in sheet.rows.values()
        ]
        lines = [[breakable(name), *line] for name, line in zip(sheet.rows, lines, strict=True)]
        head = ("setting", *(("differs",) if several else ()), *sheet.columns)
        name = f"settings-{i}"
        out.append(element("h3", env))
        if several:
            button = element(
                "button",
                "Only what differs",
                type="button",
                hidden=True,
                data_only=name,
                aria_pressed="false",
                aria_controls=name,
            )
            out.append(element("div", button, class_="tools"))
        caption = f"Settings, {env}"
        if several:
            caption += f": {sum(differ)} of {len(differ)} differ (≠, marked)"
        out.append(grid(head, lines, caption, name=name, marked=differ if several else None))
    return out


def made(m: Material) -> list[Markup]:
    """Versions, code and machines, several values marked."""
    found = versions(m)
    if not found:
        return [element("p", "The runs do not say what they were made with.")]
    lines, several = [], []
    for name, counts in found.items():
        known = {v: n for v, n in counts.items() if v != "not recorded"}
        several.append(len(known) > 1)
        one = len(counts) == 1
        said = [v if one else f"{v} ({n} run{'s'[: n != 1]})" for v, n in counts.items()]
        lines.append([name, "≠" if len(known) > 1 else "", "; ".join(said)])
    return [
        grid(("what", "differs", "version"), lines, "What the runs were made with", marked=several)
    ]


def commands(m: Material, files: Sequence[str]) -> list[Markup]:
    """The lines that make all of it again, and a line a run."""
    out: list[Markup] = []
    if m.commands:
        out.append(element("h3", "Commands to repeat"))
        text = element("code", "\n".join(m.commands))
        out.append(element("pre", text, tabindex=0, role="region", aria_label="Commands"))
    lines = []
    for x in m.evidence:
        r = x.result
        numbers = ["-"] * 5
        if r is not None:
            kept = "-" if r.bound_kept is None else tb.share_kept(r.bound_kept)
            numbers = [number(r.score), number(r.auc), str(r.env_steps), kept, clock(r.seconds)]
        place = f"store {x.place}" if x.stored else x.place
        lines.append([x.label, x.env, str(x.seed), *numbers, place])
    header = ("method", "environment", "seed", "score", "AUC", "steps", "bound kept", "time")
    out.append(element("h3", "Runs"))
    out.append(grid((*header, "from"), lines, "Every run", numeric=(2, 3, 4, 5, 6, 7)))
    if files:
        out.append(element("h3", "Files beside this page"))
        out.append(element("p", ", ".join(files), "."))
    return out
