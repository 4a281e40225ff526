"""How ``strataprobe generate --check`` shows what it found."""

from __future__ import annotations

from typing import Any

from strataprobe.cli.output import print_wrapped


def print_check(found: dict[str, Any]) -> None:
    """The plan, the first prompt, the words no text may use, and the findings."""
    plan = found["plan"]
    rows = [
        ("classes", ", ".join(plan["classes"])),
        ("texts", f"{plan['n_per_class']:,} a class, {plan['n_texts']:,} in all"),
        ("members", ", ".join(f"{n} of {name}" for name, n in plan["members"].items()) or "none"),
        ("situations", f"{plan['situations']:,}, of which {plan['groups']:,} are used"),
        ("cells", f"{plan['styles']} styles, {plan['personas']} personas, {plan['tellings']} ways of telling"),
        ("split", ", ".join(f"{n:,} {name}" for name, n in plan["split"].items())),
        ("suffix", repr(found["suffix"])),
    ]
    for name, value in rows:
        print_wrapped(f"{name:<12} {value}")
    label, prompt = next(iter(found["prompts"].items()))
    print(f"\nthe first request for {label}:\n")
    print_wrapped("\n".join(f"  {line}" for line in prompt.splitlines()))
    print()
    for finding in found["findings"]:
        mark = "" if finding["level"] == "ok" else f"{finding['level']}: "
        print_wrapped(f"{finding['code']} {mark}{finding['message']}")
