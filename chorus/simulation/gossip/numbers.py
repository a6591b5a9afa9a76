"""How figures and quantities of the simulation are written for people."""

from __future__ import annotations


def exact(value: float) -> str:
    """As it was given: for mistakes. Whole numbers in full up to 10^15; others with twelve digits."""
    return str(int(value)) if value == value // 1 and abs(value) < 1e15 else f"{value:.12g}"


def number(value: float) -> str:
    """For a table: whole numbers in full, others with what matters."""
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
