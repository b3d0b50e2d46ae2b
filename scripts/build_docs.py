"""Makes the pages of the guide out of the repository's documents, for mdBook, and a site of what mdBook makes of them.

    build_docs.py gather SRC    copies the pages that docs/SUMMARY.md lists, and their pictures, into a directory
    build_docs.py finish BOOK   makes the site fit for a strict content security policy, and checks its links

The pages are ordinary documents, whose links lead to other files of the repository. In the guide a link leads to the
page that the file became; the API document is served by the server; any other file is named and not linked, because
the guide is read without the repository and without the internet.

A policy that allows no inline scripts and styles lets nothing run that a mistake in a page would put there. mdBook has
some: each script becomes a file, each style a rule of one style sheet.
"""

import hashlib
import html.parser
import os
import pathlib
import posixpath
import re
import shutil
import sys
import urllib.parse

DOCS = pathlib.PurePosixPath("docs")
SUMMARY = "docs/SUMMARY.md"
# Where the server has it, seen from /docs/guide/.
API_DOCUMENT = ("api/openapi.json", "../../openapi.json")
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s]+)\)")
FENCE = re.compile(r"^ *(```+|~~~+)")


def page_name(path):
    """Name of the page that a document of the repository becomes."""
    path = pathlib.PurePosixPath(path)
    if path.parent == DOCS:
        return "index.md" if path.name == "README.md" else path.name
    name = "-".join(path.parts).lower()
    return "security-model.md" if name == "security.md" else name.replace("-readme", "")


def target_of(document, link):
    """The file of the repository that a relative link in a document leads to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(document), link))


def is_local(link):
    return not urllib.parse.urlsplit(link).scheme and not link.startswith("#")


def documents_of(summary):
    return [target_of(SUMMARY, link) for _, _, link in LINK.findall(summary) if is_local(link)]


def rewritten(document, text, pages, pictures):
    """The text with its links as they are in the guide; pictures are noted."""

    def replace(match):
        mark, words, link = match.groups()
        if not is_local(link):
            return match[0]
        path, _, fragment = link.partition("#")
        target = target_of(document, path)
        if mark:
            pictures.add(target)
            return f"![{words}]({posixpath.basename(target)})"
        if target == API_DOCUMENT[0]:
            return f"[{words}]({API_DOCUMENT[1]})"
        if target not in pages:
            return words
        return f"[{words}]({page_name(target)}{'#' + fragment if fragment else ''})"

    # A link may go over the end of a line, and is none inside of a block of code.
    parts = []
    prose = []
    fence = None
    for line in text.splitlines(keepends=True):
        found = FENCE.match(line)
        if fence is None and not found:
            prose.append(line)
            continue
        if fence is None:
            parts.append(LINK.sub(replace, "".join(prose)))
            prose = []
            fence = found[1]
            # A language that the book can highlight: none.
            line = line.replace("```output", "```text,output")
        elif found and found[1] == fence:
            fence = None
        parts.append(line)
    return "".join(parts) + LINK.sub(replace, "".join(prose))


def gather(src):
    src = pathlib.Path(src)
    src.mkdir(parents=True, exist_ok=True)
    summary = pathlib.Path(SUMMARY).read_text()
    pages = documents_of(summary)
    unlisted = {str(path) for path in pathlib.Path("docs").glob("*.md")} - {*pages, SUMMARY}
    if unlisted:
        sys.exit(f"{SUMMARY} does not list {', '.join(sorted(unlisted))}: give each a place in the guide")
    missing = [page for page in pages if not os.path.exists(page)]
    if missing:
        sys.exit(f"{SUMMARY} lists {', '.join(missing)}, which are not there: write them, or remove the lines")
    pictures = set()
    for page in pages:
        text = pathlib.Path(page).read_text()
        (src / page_name(page)).write_text(rewritten(page, text, pages, pictures))
    (src / "SUMMARY.md").write_text(rewritten(SUMMARY, summary, pages, pictures))
    for picture in pictures:
        shutil.copy(picture, src / posixpath.basename(picture))
    shutil.copytree("docs/theme", src.parent / "theme")


class Site:
    """The files of a built book."""

    def __init__(self, root):
        self.root = pathlib.Path(root)
        self.styles = {}

    def externalize(self):
        """Moves scripts and styles that are inside of pages into files."""
        for page in sorted(self.root.glob("**/*.html")):
            text = page.read_text()
            up = "../" * (len(page.relative_to(self.root).parts) - 1)
            text = re.sub(
                r"<script>(.*?)</script>", lambda match: self.script(match[1], up), text, flags=re.DOTALL
            )
            text = re.sub(r'\sstyle="([^"]*)"', self.style, text)
            sheet = f'<link rel="stylesheet" href="{up}inline.css">'
            page.write_text(text.replace("</head>", f"{sheet}</head>", 1))
        rules = [f'[data-style="{number}"] {{ {style} }}\n' for style, number in self.styles.items()]
        (self.root / "inline.css").write_text("".join(rules))
        for script in self.root.glob("searcher*.js"):
            # A style attribute is inline, its property is not.
            text = re.sub(r"(\w+)\.setAttribute\('style', ('[^']*')\)", r"\1.style.cssText = \2", script.read_text())
            script.write_text(text)

    def script(self, code, up):
        name = f"inline-{hashlib.sha256(code.encode()).hexdigest()[:12]}.js"
        (self.root / name).write_text(code.strip() + "\n")
        return f'<script src="{up}{name}"></script>'

    def style(self, match):
        number = self.styles.setdefault(match[1], len(self.styles))
        return f' data-style="{number}"'

    def findings(self):
        """What is wrong: links that lead nowhere, and what the policy would refuse."""
        pages = {page.relative_to(self.root).as_posix(): Page(page.read_text()) for page in self.root.glob("**/*.html")}
        for name, page in sorted(pages.items()):
            yield from (f"{name}: {problem}" for problem in page.inline)
            for link in page.links:
                parts = urllib.parse.urlsplit(link)
                if parts.scheme or link == API_DOCUMENT[1]:
                    continue
                target = posixpath.normpath(posixpath.join(posixpath.dirname(name), parts.path)) if parts.path else name
                if not (self.root / target).is_file():
                    yield f"{name}: the link to {link} leads nowhere"
                elif parts.fragment and target in pages and parts.fragment not in pages[target].ids:
                    yield f"{name}: there is no {parts.fragment} in {target}"


class Page(html.parser.HTMLParser):
    """Links, ids and inline code of a page."""

    def __init__(self, text):
        super().__init__()
        self.links = []
        self.ids = set()
        self.inline = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.ids.update(value for name, value in attrs if name in ("id", "name"))
        self.links.extend(value for name, value in attrs if name in ("href", "src") and value)
        if tag == "style" or (tag == "script" and "src" not in attributes):
            self.inline.append(f"has an inline <{tag}>")
        self.inline.extend(f"has an attribute {name}" for name in attributes if name == "style" or name[:2] == "on")
        foreign = attributes.get("src", attributes.get("href") if tag == "link" else None) or ""
        if urllib.parse.urlsplit(foreign).netloc:
            self.inline.append(f"loads {foreign}")


def finish(book):
    site = Site(book)
    (site.root / "404.html").unlink(missing_ok=True)
    site.externalize()
    findings = list(site.findings())
    if findings:
        sys.exit("\n".join(findings))


if __name__ == "__main__":
    actions = {"gather": gather, "finish": finish}
    if len(sys.argv) != 3 or sys.argv[1] not in actions:
        sys.exit(__doc__)
    actions[sys.argv[1]](sys.argv[2])
