"""A page as a reader of HTML sees it."""

import re
from html.parser import HTMLParser

VOID = ("meta", "img", "br", "path", "use")


class HtmlPage(HTMLParser):
    """Tags, attributes, text and images as a browser sees; a whole page must close its tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self._open: list[str] = []
        self._is_whole = html.startswith("<!doctype")
        self.feed(html)
        self.close()
        assert not self._is_whole or self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._is_whole and tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + " "

    @property
    def ids(self) -> list[str]:
        """Of all elements."""
        return [value for name, value in self.attributes if name == "id"]

    @property
    def references(self) -> set[str]:
        """Ids that other elements point to."""
        used = {value[1:] for name, value in self.attributes if name.endswith("href")}
        return used | {m[1] for _, v in self.attributes if (m := re.match(r"url\(#(.*)\)", v))}


def words(html: str) -> str:
    """The text of a page with single spaces."""
    return " ".join(HtmlPage(html).text.split())
