"""Put the committed reports' numbers into README.md, docs/bench.md, docs/beyond.md and docs/emoji.md, between their `<!-- FILE -->` and `<!-- end -->` marks."""

import re

from know.paths import REPORTS, ROOT, atomic

PAGES = (ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in ("bench", "beyond", "emoji")))
PART = re.compile(r"(<!-- (\S+\.md) -->\n).*?(<!-- end -->)", re.DOTALL)


def updated(text: str) -> str:
    """A page's text with each part as it is now in ``reports/``."""
    return PART.sub(lambda part: f"{part[1]}{(REPORTS / part[2]).read_text()}{part[3]}", text)


if __name__ == "__main__":
    for page in PAGES:
        text = updated(page.read_text())
        with atomic(page) as temporary:
            temporary.write_text(text)
