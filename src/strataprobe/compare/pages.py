"""What the report and the page of several sets share: the templates, their filters, the order of findings."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib import resources

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from strataprobe.compare.sets_findings import number, signed
from strataprobe.compare.wording import Finding, p_value, percent, spaced, three

_LEVELS = ("error", "warning", "ok", "skipped")


@cache
def environment() -> Environment:
    """The templates of this folder; everything written into them is escaped."""
    templates = resources.files("strataprobe.compare")
    found = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(lambda name: (templates / name).read_text("utf-8")),
    )
    found.filters |= {
        "three": three,
        "percent": percent,
        "p_value": p_value,
        "spaced": spaced,
        "signed": signed,
        "number": number,
        "code": _code,
        "breakable": _breakable,
        "cut": _cut,
    }
    return found


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Errors, warnings, what is well, and what was skipped, each in the order given."""
    return sorted(findings, key=lambda f: _LEVELS.index(f["level"]))


def _code(text: str) -> Markup:
    """Escaped text, with what stands between backticks as code."""
    parts = [escape(part) for part in text.split("`")]
    return Markup("").join(Markup("<code>{}</code>").format(p) if i % 2 else p for i, p in enumerate(parts))


def _breakable(text: str) -> Markup:
    """Escaped text that may be broken after underscores."""
    return Markup("_<wbr>").join(text.split("_"))


def _cut(text: str, most: int) -> str:
    """The first ``most`` characters, with a mark where there were more."""
    return text if len(text) <= most else f"{text[: most - 2].rstrip()} …"
