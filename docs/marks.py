"""Tables of a page between two marks, which name what they are of and what writes them."""

from __future__ import annotations

import re
from collections.abc import Callable


def with_tables(page: str, writer: str, table: Callable[[str], str]) -> str:
    """The page with what `table` gives for each name between `NAME: written by WRITER` and `end of NAME`."""

    def written(match: re.Match[str]) -> str:
        name = match["name"]
        return f"<!-- {name}: written by {writer} -->\n{table(name)}\n<!-- end of {name} -->"

    marks = rf"<!-- (?P<name>[\w.-]+): written by {re.escape(writer)} -->.*?<!-- end of (?P=name) -->"
    return re.sub(marks, written, page, flags=re.DOTALL)
