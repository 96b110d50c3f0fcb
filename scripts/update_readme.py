"""Put the committed report's numbers into README.md, between its `<!-- FILE -->` and `<!-- end -->` marks."""

import re

from know.paths import REPORTS, ROOT, atomic

README = ROOT / "README.md"
PART = re.compile(r"(<!-- (\S+\.md) -->\n).*?(<!-- end -->)", re.DOTALL)


def updated(text: str) -> str:
    """The README's text with each part as it is now in ``reports/``."""
    return PART.sub(lambda part: f"{part[1]}{(REPORTS / part[2]).read_text()}{part[3]}", text)


if __name__ == "__main__":
    text = updated(README.read_text())
    with atomic(README) as temporary:
        temporary.write_text(text)
