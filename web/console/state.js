// What the page knows of the server, who changed it last, and how it stays fresh.

import * as api from './api.js';

/** Milliseconds between refreshes while the server answers, and at most while it does not. */
const INTERVAL = 2_000;
const LONGEST = 30_000;
/** Refreshes of sandboxes for each one of templates, which change seldom. */
const TEMPLATES_EVERY = 5;
/** Sandboxes that one request gives at most. */
const PAGE = 1000;

/** Fires `change` when anything below is new. */
export const events = new EventTarget();

/** @type {any[]} */
export let sandboxes = [];
/** @type {any[]} */
export let templates = [];
/** Whether there are sandboxes beyond those of one page. */
export let hasMore = false;
/** Id of the sandbox whose workspace is open. @type {string | null} */
export let selected = null;
/** Time of the last answer. @type {Date | null} */
export let refreshed = null;
/** What kept the last refresh from being done. @type {string | null} */
export let failure = null;
/** What is being done to which sandbox, as `Pausing`. @type {Map<string, string>} */
export const busy = new Map();

let isRunning = false;
let failures = 0;
let turns = 0;
let timer = 0;
/** @type {Promise<void> | null} */
let underWay = null;

function changed() {
  events.dispatchEvent(new Event('change'));
}

/** @param {string | null} id */
export function select(id) {
  selected = id;
  changed();
}

/**
 * Shows that something is done to a sandbox until it has ended, and refreshes then.
 * @template T
 * @param {string} id
 * @param {string} what
 * @param {() => Promise<T>} act
 * @returns {Promise<T>}
 */
export async function whileBusy(id, what, act) {
  busy.set(id, what);
  changed();
  try {
    return await act();
  } finally {
    await refresh();
    busy.delete(id);
    changed();
  }
}

/** Begins to refresh; a tab that nobody sees rests. */
export function start() {
  isRunning = true;
  document.addEventListener('visibilitychange', onVisibility);
  void refresh();
}

/** Ends refreshing and forgets everything. */
export function stop() {
  isRunning = false;
  document.removeEventListener('visibilitychange', onVisibility);
  clearTimeout(timer);
  sandboxes = [];
  templates = [];
  selected = null;
  failure = null;
  changed();
}

function onVisibility() {
  clearTimeout(timer);
  if (!document.hidden) void refresh();
}

/**
 * Asks the server for everything now, templates included. What was asked for before is waited for
 * first: its answer may be older than what the caller did.
 */
export async function refresh() {
  turns = 0;
  if (underWay) await underWay;
  await turn();
}

/** @returns {Promise<void>} */
function turn() {
  underWay ??= once().finally(() => {
    underWay = null;
  });
  return underWay;
}

async function once() {
  clearTimeout(timer);
  if (!isRunning) return;
  const withTemplates = turns % TEMPLATES_EVERY === 0;
  turns += 1;
  try {
    const [page, list] = await Promise.all([
      api.send('GET', `v1/sandboxes?limit=${PAGE}`, { isRefresh: true }),
      withTemplates ? api.get('v1/templates', true) : templates,
    ]);
    sandboxes = page.body;
    hasMore = page.headers.has('x-next-cursor');
    templates = list;
    refreshed = new Date();
    failure = null;
    failures = 0;
  } catch (error) {
    if (!isRunning) return;
    failure = error instanceof Error ? error.message : String(error);
    failures += 1;
  }
  if (!isRunning) return;
  if (selected && !failure && !sandboxes.some((sandbox) => sandbox.id === selected))
    selected = null;
  changed();
  const wait = Math.min(INTERVAL * 2 ** failures, LONGEST);
  if (!document.hidden) timer = setTimeout(turn, wait);
}
