"""Reads a page as a browser's parser would, and refuses what a browser would silently mend."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br", "hr", "input", "path", "use"}


@dataclass
class Element:
    """A tag, its attributes and its text without that of the elements within it."""

    tag: str
    attributes: dict[str, str]
    own_text: str = ""
    children: list["Element"] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All text within."""
        return (self.own_text + "".join(child.text for child in self.children)).strip()

    def all(self, *tags: str) -> list["Element"]:
        """Return all elements within of these tags, or all; in the order of the page."""
        found = [self] if not tags or self.tag in tags else []
        for child in self.children:
            found += child.all(*tags)
        return found

    def at(self, key: str) -> "Element":
        """Return the element with that id."""
        return next(e for e in self.all() if e.attributes.get("id") == key)

    def table(self, caption: str) -> list[list[str]]:
        """Return the texts of the first table with a caption that begins so, header first."""
        for table in self.all("table"):
            if table.all("caption")[0].text.startswith(caption):
                return [[cell.text for cell in row.all("th", "td")] for row in table.all("tr")]
        raise AssertionError(f"no table '{caption}'")


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice: {names}"
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID or element.tag in ("path", "use"):
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Element(tag, {n: v or "" for n, v in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].own_text += data


def read_page(text: str) -> Element:
    """Return the elements of a page, all of whose tags must be closed in order."""
    reader = _Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == [reader.root], f"never closed: {[e.tag for e in reader.open[1:]]}"
    return reader.root
