"""Numbers and names as they stand on the page."""

from __future__ import annotations

import html
import math


def escape(value: object) -> str:
    """``value`` as HTML text, safe in attributes too; what UTF-8 has no form for becomes a question mark."""
    return html.escape(str(value).encode("utf-8", "replace").decode())


def number(value: float) -> str:
    """At most four digits that count, thousands set apart.

    >>> number(0.00012345), number(20.0), number(107859.0), number(31.23)
    ('0.0001234', '20', '107,859', '31.23')
    """
    if not math.isfinite(value):
        return "–"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"
