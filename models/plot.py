"""The evaluation as an SVG: one line per task over the prefix length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

INKS = ("#1b6ca8", "#c8553d", "#3a7d44", "#8a5aab", "#b08900", "#4a4a4a", "#d1495b")
WIDE, HIGH, LEFT, TOP, BOTTOM, RIGHT = 860, 400, 60, 50, 50, 320


def write(path: Path, title: str, dims: Sequence[int], lines: dict[str, Sequence[float]]) -> None:
    """Shares (0 to 1) at each prefix length, on a logarithmic axis."""
    span = math.log2(dims[-1] / dims[0])
    x = lambda dim: LEFT + math.log2(dim / dims[0]) / span * (WIDE - LEFT - RIGHT)  # noqa: E731
    y = lambda share: HIGH - BOTTOM - share * (HIGH - TOP - BOTTOM)  # noqa: E731
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {HIGH}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDE}" height="{HIGH}" fill="#fff"/>',
        f'<text x="{LEFT}" y="26" font-size="15" fill="#222">{title}</text>',
    ]
    for tenth in range(0, 11, 2):
        at = y(tenth / 10)
        parts.append(f'<path d="M{LEFT} {at:.1f}H{WIDE - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end" fill="#555">{tenth * 10} %</text>')
    for dim in dims:
        parts.append(f'<text x="{x(dim):.1f}" y="{HIGH - BOTTOM + 20}" text-anchor="middle" fill="#555">{dim}</text>')
    middle = (LEFT + WIDE - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HIGH - 10}" text-anchor="middle" fill="#555">dimensions used</text>')
    for (name, shares), ink, row in zip(lines.items(), INKS, range(len(lines))):
        points = " ".join(f"{x(dim):.1f},{y(share):.1f}" for dim, share in zip(dims, shares))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{ink}" stroke-width="2"/>')
        parts += [f'<circle cx="{x(d):.1f}" cy="{y(s):.1f}" r="3" fill="{ink}"/>' for d, s in zip(dims, shares)]
        at = TOP + 16 + 24 * row
        parts.append(f'<path d="M{WIDE - RIGHT + 20} {at - 4}h22" stroke="{ink}" stroke-width="3"/>')
        parts.append(f'<text x="{WIDE - RIGHT + 50}" y="{at}" fill="#222">{name}</text>')
    path.write_text("\n".join([*parts, "</svg>"]) + "\n", encoding="ascii")
