"""A report as its reader finds it: the elements of the page, its tables, its notes."""

from html.parser import HTMLParser

from tests.v4d.report.conftest import v4d

EMPTY = {"meta", "link", "img", "path", "rect", "circle", "input", "br"}


class Page(HTMLParser):
    """The elements of a page: (tag, attributes, text below it), and the texts of each row of each table."""

    def __init__(self, text):
        super().__init__()
        self.found, self.open, self.tables = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        element = [tag, dict(attrs), ""]
        self.found.append(element)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append(element)
        if tag not in EMPTY:
            self.open.append(element)

    def handle_endtag(self, tag):
        if tag not in EMPTY:
            assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for element in self.open:
            element[2] += data

    def all(self, tag, **attributes):
        wanted = {key.rstrip("_"): value for key, value in attributes.items()}.items()
        return [
            (has, " ".join(text.split())) for name, has, text in self.found if name == tag and wanted <= has.items()
        ]

    def table(self, class_):
        """The texts of the first table of a class, without its head."""
        number = [has.get("class") for has, _ in self.all("table")].index(class_)
        return [[" ".join(text.split()) for _, _, text in row] for row in self.tables[number][1:]]


def report(run, *options):
    said = v4d("report", run, "--gpus", "0", *options)
    assert f"report: {run}/report.html" in said
    return Page((run / "report.html").read_text(encoding="utf-8"))


def notes(page):
    return " ".join(text for _, text in page.all("p", class_="note"))
