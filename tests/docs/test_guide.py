"""Tests of what reads and builds the guide, and of what its pages say about limits. Needs no server."""

import importlib.util
import os
import pathlib
import re
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))
import blocks
import programs

spec = importlib.util.spec_from_file_location("build_docs", ROOT / "scripts/build_docs.py")
build_docs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build_docs)


def parsed(text):
    """The blocks of a page with this text."""
    with tempfile.TemporaryDirectory() as directory:
        page = pathlib.Path(directory) / "page.md"
        page.write_text(text)
        found = blocks.parse(page)
        blocks.check(found, ROOT)
        return found


class Blocks(unittest.TestCase):
    def test_block_has_language_text_and_line(self):
        (block,) = parsed("# Page\n\n```sh,curl\necho a\n\necho b\n```\n")
        self.assertEqual((block.language, block.line, block.text), ("sh", 3, "echo a\n\necho b\n"))
        self.assertTrue(block.is_program)

    def test_indented_block_loses_indent(self):
        (block,) = parsed("1. step\n\n     ```sh\n     if true; then\n         echo\n     fi\n     ```\n")
        self.assertEqual(block.text, "if true; then\n    echo\nfi\n")

    def test_reason_excuses_next_block_alone(self):
        first, second = parsed("<!-- not run: a reason -->\n```sh\na\n```\n\n```sh\nb\n```\n")
        self.assertEqual(first.reason, ("not run", "a reason"))
        self.assertFalse(first.is_program)
        self.assertTrue(second.is_program)

    def test_wrong_pages_are_refused(self):
        for text, said in [
            ("```\na\n```\n", "has a language"),
            ("```bash\na\n```\n", "'bash'"),
            ("```output\na\n```\n", "no program before"),
            ("```javascript\na\n```\n", "write it as ts"),
            ("```sh\na\n", "no end"),
            ("<!-- run by: tests/none.rs -->\n```sh\na\n```\n", "does not run page.md"),
            ("<!-- run by: README.md -->\n```sh\na\n```\n", "does not run page.md"),
        ]:
            with self.assertRaisesRegex(blocks.BadPage, said, msg=text):
                parsed(text)

    def test_output_is_compared_in_order(self):
        output = "first sb-4f2 running\nnoise\nlast\n"
        self.assertIsNone(blocks.missing_line("first … running\nlast\n", output))
        self.assertIsNone(blocks.missing_line("…\nnoise", output))
        self.assertEqual(blocks.missing_line("last\nnoise\n", output), "noise")
        self.assertEqual(blocks.missing_line("las\n", output), "las")


class Programs(unittest.TestCase):
    def test_part_of_go_program_becomes_whole(self):
        whole = programs.go_program('answer := strings.ToUpper("a")\nfmt.Println(answer, os.Args)')
        for line in ['"strings"', '"fmt"', '"os"', '"context"', "func run(ctx context.Context) error {"]:
            self.assertIn(line, whole)
        self.assertNotIn("wrenn", whole)
        self.assertEqual(programs.go_program("package main\n"), "package main\n")

    def test_shell_keeps_variables_and_reports_failure(self):
        with tempfile.TemporaryDirectory() as directory:
            shell = programs.Shell(pathlib.Path(directory), os.environ)
            try:
                self.assertEqual(shell.run("a=1\nprintf one").strip(), "one")
                self.assertEqual(shell.run("echo $a; cat").strip(), "1")
                with self.assertRaisesRegex(programs.Failure, "FAILED: false"):
                    shell.run("true\nfalse\necho not reached")
            finally:
                shell.end()


class Building(unittest.TestCase):
    def rewritten(self, text, document="docs/a.md"):
        pages = ["docs/a.md", "docs/README.md", "SECURITY.md", "sdks/README.md", "sdks/go/README.md"]
        self.pictures = set()
        return build_docs.rewritten(document, text, pages, self.pictures)

    def test_links_lead_to_pages_of_guide(self):
        for link, right in [
            ("[a](../SECURITY.md#keys)", "[a](security-model.md#keys)"),
            ("[a](README.md)", "[a](index.md)"),
            ("[two\nlines](../sdks/README.md)", "[two\nlines](sdks.md)"),
            ("[a](#here)", "[a](#here)"),
            ("[a](https://x.y/z.md)", "[a](https://x.y/z.md)"),
            ("[a](../api/openapi.json)", "[a](../../openapi.json)"),
            ("[`deploy/a.yml`](../deploy/a.yml)", "`deploy/a.yml`"),
            ("```sh\n[a](../SECURITY.md)\n```\n", "```sh\n[a](../SECURITY.md)\n```\n"),
            ("```output\na\n```\n", "```text,output\na\n```\n"),
        ]:
            self.assertEqual(self.rewritten(link), right)
        self.assertEqual(self.rewritten("[a](../README.md)", "sdks/go/README.md"), "[a](sdks.md)")
        self.assertEqual(self.rewritten("![a](console.png)"), "![a](console.png)")
        self.assertEqual(self.pictures, {"docs/console.png"})

    def site(self, pages):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        for name, text in pages.items():
            (pathlib.Path(directory.name) / name).write_text(text)
        return build_docs.Site(directory.name)

    def test_inline_code_becomes_files(self):
        page = '<head></head><script>run("</p>");</script><p style="clear: both">a</p><p style="clear: both">b</p>'
        site = self.site({"a.html": page, "searcher-1.js": "tmp.setAttribute('style', 'opacity: 0;');"})
        self.assertEqual(len(list(site.findings())), 3)
        site.externalize()
        self.assertEqual(list(site.findings()), [])
        (script,) = site.root.glob("inline-*.js")
        self.assertEqual(script.read_text(), 'run("</p>");\n')
        self.assertEqual((site.root / "inline.css").read_text(), '[data-style="0"] { clear: both }\n')
        self.assertEqual((site.root / "searcher-1.js").read_text(), "tmp.style.cssText = 'opacity: 0;';")

    def test_dead_links_and_foreign_files_are_found(self):
        page = '<p id="x"><a href="b.html"></a><a href="#y"></a><a href="#x"></a><a href="https://x.y"></a>'
        page += '<img src="https://x.y/z.png"><p onclick="a()">'
        found = list(self.site({"a.html": page}).findings())
        self.assertEqual(len(found), 4, found)


class Limits(unittest.TestCase):
    """What docs/limits.md says of a setting is the default in docs/configuration.md."""

    def test_limits_are_defaults_of_settings(self):
        defaults = {}
        for name, default in re.findall(r"^\| `([A-Z_]+)` \| ([^|]*) \|", self.page("configuration"), re.MULTILINE):
            defaults[name] = re.search(r"\d+|$", default)[0]
        rows = re.findall(r"^\| [^|]* \| ([^|]*) \| `([A-Z_]+)` \|", self.page("limits"), re.MULTILINE)
        self.assertGreater(len(rows), 15)
        for value, setting in rows:
            self.assertIn(defaults[setting], re.findall(r"\d+", value), setting)

    @staticmethod
    def page(name):
        return (ROOT / f"docs/{name}.md").read_text()


if __name__ == "__main__":
    result = unittest.main(exit=False, verbosity=0).result
    bad = len(result.failures) + len(result.errors)
    print(f"test result: {'FAILED' if bad else 'ok'}. {result.testsRun - bad} passed; {bad} failed")
    sys.exit(bad > 0)
