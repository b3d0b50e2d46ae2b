// The guide as a server serves it, in Chromium: browser.mjs URL DIRECTORY_OF_GUIDE [DIRECTORY FOR PICTURES]
//
// Every page is opened; none may load anything from elsewhere or be refused anything by its policy. The search is
// tried with all other hosts cut off.

import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import path from "node:path";
import { chromium } from "playwright-core";

const [, , origin, guide, pictures] = process.argv;
const base = `${origin}/docs/guide/`;
const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox"] });
const context = await browser.newContext({ viewport: { width: 1280, height: 900 } });
const page = await context.newPage();

/** What went wrong on the pages so far. */
const complaints = [];
// Chromium gives requests up when a network device of the host comes or goes, as those of sandboxes do.
const DISTURBED = "ERR_NETWORK_CHANGED";

/** Opens a page, again where that was disturbed. */
async function open(name) {
  const before = complaints.length;
  for (let attempt = 0; attempt < 10; attempt += 1) {
    complaints.length = before;
    await page.goto(base + name).catch((error) => complaints.push(error.message));
    await page.waitForLoadState("networkidle");
    if (!complaints.some((text) => text.includes(DISTURBED))) break;
  }
}
page.on("console", (message) => {
  if (["error", "warning"].includes(message.type())) complaints.push(`${page.url()}: ${message.text()}`);
});
page.on("pageerror", (error) => complaints.push(`${page.url()}: ${error.message}`));
page.on("requestfailed", (request) => {
  // Pages that are left end what they were loading.
  const reason = request.failure()?.errorText;
  if (reason !== "net::ERR_ABORTED") complaints.push(`${request.url()}: ${reason}`);
});
page.on("response", (response) => {
  if (response.status() >= 400) complaints.push(`${response.url()}: ${response.status()}`);
});
await context.route(
  (url) => url.origin !== origin,
  (route) => {
    complaints.push(`${route.request().url()} is elsewhere`);
    return route.abort();
  },
);

const tests = {
  async first_page_has_contents() {
    await open("../guide");
    assert.equal(page.url(), base);
    await page.getByRole("heading", { name: "Wrenn Sandbox", level: 1 }).last().waitFor();
    const chapters = page.locator("#mdbook-sidebar a");
    await chapters.filter({ hasText: "Getting started" }).waitFor();
    assert.ok((await chapters.count()) > 25);
    await shoot("first");
  },

  async every_page_keeps_policy() {
    const names = readdirSync(guide).filter((name) => name.endsWith(".html") && name !== "toc.html");
    assert.ok(names.length > 25, `${names.length} pages`);
    for (const name of names) {
      await open(name);
      await page.locator("main h1").first().waitFor();
    }
  },

  async search_finds_without_internet() {
    await open("");
    await page.keyboard.press("s");
    await page.locator("#mdbook-searchbar").pressSequentially("rollback checkpoint");
    const results = page.locator("#mdbook-searchresults > li");
    await results.first().waitFor();
    assert.ok((await results.allTextContents()).some((text) => text.includes("Persistence")));
    await shoot("search");
    await results.locator("a").first().click();
    await page.locator("mark").first().waitFor();
  },

  async chosen_language_holds_everywhere() {
    await open("persistence.html");
    await page.getByRole("tab", { name: "Go" }).first().click();
    for (const name of ["Go", "CLI"]) {
      await page.getByRole("tab", { name, exact: true }).first().click();
      const shown = await page.locator("[role=tab][aria-selected=true]").allTextContents();
      assert.ok(shown.length > 4 && shown.every((text) => text === name), `${shown}`);
    }
    await page.getByRole("tab", { name: "CLI" }).first().press("ArrowRight");
    await open("commands.html");
    await page.getByRole("tab", { name: "curl", selected: true }).first().waitFor();
    await page.getByRole("tab", { name: "Python" }).first().click();
    await shoot("tabs");
  },

  async narrow_dark_page_is_usable() {
    await page.emulateMedia({ colorScheme: "dark" });
    await page.setViewportSize({ width: 420, height: 800 });
    await open("limits.html");
    const [content, window] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    assert.ok(content <= window, `the page is ${content} wide in a window of ${window}`);
    await shoot("narrow");
  },
};

async function shoot(name) {
  if (pictures) await page.screenshot({ path: path.join(pictures, `${name}.png`) });
}

let failed = 0;
for (const [name, test] of Object.entries(tests)) {
  complaints.length = 0;
  let verdict = "ok";
  try {
    await test();
    assert.deepEqual(complaints, []);
  } catch (error) {
    failed += 1;
    verdict = "FAILED";
    console.log(error.message, complaints);
  }
  console.log(`test docs::${name} ... ${verdict}`);
}
await browser.close();
const passed = Object.keys(tests).length - failed;
console.log(`test result: ${failed === 0 ? "ok" : "FAILED"}. ${passed} passed; ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
