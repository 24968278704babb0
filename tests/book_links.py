"""Links of the book as it was built: each leads to a file, and to an anchor in it. Usage: book_links.py DIRECTORY"""

import html.parser
import pathlib
import sys
import urllib.parse


class Page(html.parser.HTMLParser):
    """What a page can be linked at, and what it links to."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.twice = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name == "id":
                if value in self.ids:
                    self.twice.append(value)
                self.ids.add(value)
            elif (tag, name) in {("a", "href"), ("img", "src"), ("source", "srcset")}:
                self.links.append(value)


def main(root):
    pages = {path: Page(path.read_text()) for path in root.rglob("*.html")}
    wrong = []
    for path, page in pages.items():
        # All chapters in one: their headings may be the same.
        whole = path.name == "print.html"
        wrong += [f"{path.name}: two of #{one}" for one in page.twice if not whole]
        for link in page.links:
            to = urllib.parse.urlsplit(link)
            if to.scheme or to.netloc:
                continue
            target = (path.parent / urllib.parse.unquote(to.path)).resolve() if to.path else path.resolve()
            fragment = urllib.parse.unquote(to.fragment)
            if not target.exists():
                wrong.append(f"{path.name}: {link} leads nowhere")
            elif fragment and target in pages and fragment not in pages[target].ids and not whole:
                wrong.append(f"{path.name}: {link} has no such heading")
    print("\n".join(wrong) if wrong else f"{len(pages)} pages, {sum(len(page.links) for page in pages.values())} links")
    return len(pages) < 10 or bool(wrong)


sys.exit(main(pathlib.Path(sys.argv[1]).resolve()))
