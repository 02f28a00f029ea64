"""A run or a study on one page that needs nothing else: picture, table, configuration, versions."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape

from outgrow.errors import printable
from outgrow.text.table import TextTable

CSS = """
:root { color-scheme: light; }
body { font: 16px/1.55 system-ui, sans-serif; color: #22282f; background: #fff; max-width: 72rem; margin: 2.5rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .5rem; } h2 { font-size: 1.05rem; margin: 2.2rem 0 .6rem; }
p { max-width: 46rem; overflow-wrap: anywhere; }
p.verdict { font-size: 1.15rem; line-height: 1.45; margin: 0 0 .5rem; }
p.lead { color: #5c6773; margin: .4rem 0 1.5rem; }
p.warning { border-left: 3px solid #c77700; background: #fdf6ea; padding: .5rem .9rem; margin: .5rem 0; }
img { width: 100%; max-width: 56rem; height: auto; display: block; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { text-align: right; padding: .4rem .55rem; border-bottom: 1px solid #e7eaee; vertical-align: baseline; }
th { font-weight: 600; color: #5c6773; line-height: 1.3; } th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere; }
tr.whole td { font-weight: 600; border-top: 2px solid #c9cfd6; }
table.facts { width: auto; } table.facts td { text-align: left; overflow-wrap: anywhere; }
pre { background: #f6f7f9; padding: .9rem 1.1rem; border-radius: 6px; overflow-x: auto; font-size: .86rem; line-height: 1.45; }
@media (max-width: 45rem) {
  body { margin: 1.25rem auto; padding: 0 .9rem; } h1 { font-size: 1.35rem; }
  table:not(.facts), table:not(.facts) tbody, table:not(.facts) tr, table:not(.facts) td { display: block; }
  table:not(.facts) thead { display: none; }
  table:not(.facts) tr { border: 1px solid #e7eaee; border-radius: 6px; margin: 0 0 .7rem; padding: .3rem .2rem; }
  table:not(.facts) td { display: flex; justify-content: space-between; gap: 1rem; border: 0; padding: .2rem .55rem; }
  table:not(.facts) td:first-child { font-weight: 600; }
  table:not(.facts) td:empty { display: none; }
  td[data-label]::before { content: attr(data-label); color: #5c6773; font-weight: 400; text-align: left; }
}
"""


def html_page(
    *,
    title: str,
    verdict: str,
    lead: str,
    picture_svg: bytes,
    tables: Sequence[TextTable],
    configuration: str,
    facts: Mapping[str, str],
    command: str,
    warnings: Sequence[str] = (),
) -> str:
    """The HTML text: what came out in a sentence, then what it is, then the numbers. Everything in it is embedded."""
    picture = base64.b64encode(picture_svg).decode()
    return printable(f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{CSS}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<p class="verdict">{escape(verdict)}</p>
<p class="lead">{escape(lead)}</p>
<img alt="loss against FLOPs" src="data:image/svg+xml;base64,{picture}">
{"".join(f'<p class="warning">{escape(warning)}</p>' for warning in warnings)}
{"".join(map(_table, tables))}
<h2>Command</h2>
<pre>{escape(command)}</pre>
<h2>Configuration</h2>
<pre>{escape(configuration)}</pre>
<h2>Versions and machine</h2>
<table class="facts"><tbody>{"".join(_fact(name, value) for name, value in facts.items())}</tbody></table>
</body>
</html>
""")


def _table(section: TextTable) -> str:
    note = f'<p class="lead">{escape(section.note)}</p>' if section.note else ""
    return f"""<h2>{escape(section.heading)}</h2>
{section.html()}
{note}
"""


def _fact(name: str, value: str) -> str:
    return f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>\n"
