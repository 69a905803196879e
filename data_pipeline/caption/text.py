"""Foreign text on its way into a table or a prompt: one plain line, no control, format or bidi characters.

A caption is data. It is not unescaped, executed or put into a path; what shows it escapes it (`report`).
"""

from __future__ import annotations

import re
import unicodedata

MOTION = re.compile(r"motion[\W_]*score", re.IGNORECASE)


def clean(text: str, most: int) -> str:
    """`text` on one line without control, format and bidi characters or talk of a motion score, at most `most`
    characters: the motion score is `encode`'s to append, and a caption that speaks of one would speak of two."""
    plain = "".join(" " if c.isspace() else c for c in text if c.isspace() or unicodedata.category(c)[0] != "C")
    while MOTION.search(plain):
        plain = MOTION.sub(" ", plain)
    plain = " ".join(plain.split())
    if len(plain) <= most:
        return plain
    return plain[: most + 1].rsplit(" ", 1)[0][:most]
