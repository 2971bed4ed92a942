# Copyright: (c) 2026, AI-102 inference maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One self-contained HTML page: no script, no font and no picture from elsewhere.

Reports are opened on machines without internet and mailed around, so everything a page needs stands in it.
Every text goes through `escape`; callers pass plain text to the helpers here and never markup of their own,
except through `Markup`.
"""

from __future__ import annotations

import html
import typing as t


class Markup(str):
    """Text that is HTML already and must not be escaped again."""

    __slots__ = ()


def escape(value: object) -> Markup:
    """Escape a value for HTML text and attributes; `Markup` passes unchanged."""
    if isinstance(value, Markup):
        return value
    return Markup(html.escape(str(value), quote=True))


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """Build one element; a trailing underscore of an attribute's name is dropped (`class_`), others become dashes."""
    rendered = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{rendered}>{''.join(escape(child) for child in children)}</{name}>")


def join(parts: t.Iterable[object], separator: str = "") -> Markup:
    """Join parts, escaping those that are plain text."""
    return Markup(separator.join(escape(part) for part in parts))


def status_badge(status: str) -> Markup:
    """The coloured word of a check's status; the word itself says it too, for people who do not see the colour."""
    return tag("span", status, class_=f"badge {status}")


def table(head: t.Sequence[str], rows: t.Iterable[t.Sequence[object]], class_: str = "") -> Markup:
    """A table that scrolls sideways by itself on a narrow screen."""
    header = tag("tr", *(tag("th", cell, scope="col") for cell in head))
    body = join(tag("tr", *(tag("td", cell) for cell in row)) for row in rows)
    return tag("div", tag("table", tag("thead", header), tag("tbody", body), class_=class_ or None), class_="scroll")


STYLE: t.Final = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1c2128;--soft:#5b6570;--line:#d8dee4;--panel:#f6f8fa;
--pass:#1a7f37;--warn:#9a6700;--fail:#cf222e;--skip:#59636e;--accent:#0b63c5}
@media (prefers-color-scheme:dark){:root{--bg:#0d1117;--fg:#e6edf3;--soft:#9aa4af;--line:#30363d;--panel:#161b22;
--pass:#3fb950;--warn:#d29922;--fail:#f85149;--skip:#8b949e;--accent:#4493f8}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:72rem;padding:1.5rem;background:var(--bg);color:var(--fg);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
h1{font-size:1.5rem;margin:0 0 .25rem}h2{font-size:1.1rem;margin:2rem 0 .5rem}h3{font-size:1rem;margin:1.25rem 0 .5rem}
.lead{color:var(--soft);margin:0 0 1rem}.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.9rem}
th,td{text-align:left;padding:.4rem .6rem;border-bottom:1px solid var(--line);vertical-align:top}
th{color:var(--soft);font-weight:600;white-space:nowrap}td{overflow-wrap:anywhere}
td.number,th.number{text-align:right;font-variant-numeric:tabular-nums}
.hint{color:var(--soft);display:block;margin-top:.15rem}
.badge{display:inline-block;min-width:3.2rem;text-align:center;border-radius:.3rem;padding:0 .4rem;font-size:.8rem;
font-weight:600;border:1px solid currentColor;text-transform:uppercase}
.pass{color:var(--pass)}.warn{color:var(--warn)}.fail{color:var(--fail)}.skip{color:var(--skip)}
.cards{display:flex;flex-wrap:wrap;gap:.75rem;margin:1rem 0}
.card{background:var(--panel);border:1px solid var(--line);border-radius:.5rem;padding:.6rem .9rem;min-width:8rem}
.card b{display:block;font-size:1.25rem}.card span{color:var(--soft);font-size:.85rem}
svg{max-width:100%;height:auto;display:block}
svg text{fill:var(--fg);font:13px system-ui,sans-serif}svg .small{fill:var(--soft);font-size:11px}
svg .tier{fill:var(--panel);stroke:var(--line)}svg .host{fill:var(--bg);stroke:var(--line)}
svg .host.failed{stroke:var(--fail);stroke-width:2}svg .host.changed{stroke:var(--warn)}
svg .host.ok{stroke:var(--pass)}svg .flow{stroke:var(--soft);fill:none}
.bar{height:.55rem;background:var(--accent);border-radius:.2rem;min-width:2px}
footer{margin-top:2rem;color:var(--soft);font-size:.85rem}
"""


def page(title: str, *body: object, language: str = "en") -> str:
    """The whole document. `body` parts are escaped unless they are `Markup`."""
    return (
        f'<!DOCTYPE html>\n<html lang="{escape(language)}">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # Nothing may be loaded or run, even if an escaping fault should ever slip through.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"{join(body, chr(10))}\n</body>\n</html>\n"
    )
