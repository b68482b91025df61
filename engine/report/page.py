# SPDX-License-Identifier: GPL-2.0-or-later
"""The page that every report is: one file of HTML that loads nothing and runs no script, its style, and its tables.

Text that is passed in is escaped here, once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from .charts import ink, shade

Row = Sequence[str]

_STYLE = """
:root{color-scheme:light;--ink:#1f2933;--soft:#616e7c;--line:#e4e7eb;--blue:#2166ac}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1080px;padding:32px 24px 64px;color:var(--ink);background:#fff;
font:15px/1.5 system-ui,"Segoe UI",Roboto,"Noto Sans",sans-serif}
h1{font-size:26px;margin:0 0 4px}h2{font-size:19px;margin:40px 0 12px;padding-bottom:6px;
border-bottom:1px solid var(--line)}h3{font-size:15px;margin:20px 0 8px}
p{margin:8px 0;max-width:80ch}.soft,caption{color:var(--soft)}
.cards{display:flex;flex-wrap:wrap;gap:12px;margin:20px 0}
.card{border:1px solid var(--line);border-radius:8px;padding:10px 16px;min-width:132px}
.card b{display:block;font-size:24px;font-weight:600}.card span{color:var(--soft);font-size:13px}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;margin:8px 0}
th,td{padding:4px 10px;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th{font-weight:600;color:var(--soft);vertical-align:bottom}th:first-child,td:first-child{text-align:left}
td.none{color:#9aa5b1}td.words{text-align:left;white-space:normal;overflow-wrap:anywhere}
.chip{display:inline-block;width:12px;height:12px;border-radius:3px;margin-right:8px;
border:1px solid rgba(0,0,0,.15);vertical-align:-1px}
.warn{background:#fff8e6;border-left:4px solid #e0a100;padding:8px 14px;margin:8px 0;max-width:84ch}
svg{max-width:100%;height:auto;display:block;margin:8px 0 16px}svg text{font-size:12px;fill:var(--ink)}
svg text.axis{fill:var(--soft)}svg .cell{stroke:var(--line)}svg .track{fill:#f0f3f7}svg .bar{fill:var(--blue)}
svg .share{fill:#9fb3c8}svg .ideal{stroke:#d64545;stroke-dasharray:5 4;stroke-width:1.5}
svg .whisker{stroke:#1f2933;stroke-width:1.5;fill:none}svg .mapped{stroke:#e0a100;stroke-width:3}
.key{display:inline-block;margin-right:18px}figure{display:inline-block;margin:0 16px 10px 0}
figcaption{font-size:13px;color:var(--soft)}
img{width:220px;image-rendering:pixelated;border:1px solid var(--line);display:block}
svg .frame{fill:none;stroke:var(--line)}
svg .line{fill:none;stroke-width:1.8}svg .region{stroke:#888;fill-rule:evenodd}
.two{display:flex;flex-wrap:wrap;gap:32px;align-items:flex-start}
details{margin:12px 0}summary{cursor:pointer}
@media print{body{padding:0}h2{break-after:avoid}svg,tr{break-inside:avoid}}
"""


def render(title: str, sections: Iterable[str]) -> str:
    """Return the page of `sections`, which are HTML already; empty ones are left out."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(section for section in sections if section)
        + "\n</body>\n</html>\n"
    )


def header(title: str, words: str, figures: Iterable[tuple[str, str]]) -> str:
    """Return the head of a report: its title, what it is of, and its main figures, each with what it means."""
    cards = (f'<div class="card"><b>{escape(value)}</b><span>{escape(label)}</span></div>' for label, value in figures)
    return (
        f'<header><h1>{escape(title)}</h1><p class="soft">{escape(words)}</p></header>'
        f'<div class="cards">{"".join(cards)}</div>'
    )


def section(title: str, body: str, words: str = "") -> str:
    """Return a section: its title, a sentence on what is shown, and `body`, which is HTML already."""
    said = f'<p class="soft">{escape(words)}</p>' if words else ""
    return f"<section><h2>{escape(title)}</h2>{said}{body}</section>"


def warnings(texts: Iterable[str]) -> str:
    """Return a box for each warning."""
    return "".join(f'<div class="warn">{escape(text)}</div>' for text in texts)


def key(names: Iterable[str], colors: Sequence[str]) -> str:
    """Return the key to the colours of a chart; colours return when they are used up."""
    chips = (
        f'<span class="key"><span class="chip" style="background:{escape(colors[index % len(colors)])}"></span>'
        f"{escape(name)}</span>"
        for index, name in enumerate(names)
    )
    return f"<p>{''.join(chips)}</p>"


def table(header: Sequence[str], rows: Iterable[Row]) -> str:
    """Return a table; `rows` are of cells that are HTML already."""
    head = f"<thead><tr>{''.join(f'<th>{escape(text)}</th>' for text in header)}</tr></thead>" if header else ""
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>'


def cell(text: str) -> str:
    """Return a cell with `text`."""
    return f"<td>{escape(text)}</td>"


def number_cell(value: float | None) -> str:
    """Return a cell with a number in three decimals, or the word none."""
    return '<td class="none">none</td>' if value is None else f"<td>{value:.3f}</td>"


def shaded(value: float | None) -> str:
    """Return a cell with a share from 0 to 1, the darker the larger."""
    if value is None:
        return number_cell(None)
    return f'<td style="background:{shade(value)};color:{ink(value)}">{value:.3f}</td>'


def class_cell(item: Mapping[str, Any]) -> str:
    """Return a cell with the colour and the name of a class."""
    return f'<td><span class="chip" style="background:{escape(item["color"])}"></span>{escape(item["name"])}</td>'
