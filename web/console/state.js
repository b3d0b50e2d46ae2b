// State that the page holds of the server: who changed it last, and how it stays fresh.
//
// The key goes with each refresh. Browsers do not tell one server at a port from another, so once
// nothing answers, refreshing ends until the user asks for it: what listens there later need not be
// the server. One retry bridges a connection that the browser itself dropped (a new network
// interface on this machine makes it do so).

import * as api from './api.js';

/** Milliseconds between refreshes while the server answers, and at most while it refuses. */
const INTERVAL = 2_000;
const LONGEST = 30_000;
/** Milliseconds until the one retry of a refresh that got no answer. */
const RETRY = 300;
/** Refreshes of sandboxes for each one of templates, which change seldom. */
const TEMPLATES_EVERY = 5;
/** Sandboxes that one request gives at most. */
const PAGE = 1000;

/** Fires `change` when anything below is new, and `refreshed` after each answer. */
export const events = new EventTarget();

/** @type {any[]} */
export let sandboxes = [];
/** @type {any[]} */
export let templates = [];
/** Reason why templates cannot be listed, as for a key that may not. @type {string | null} */
export let templatesFailure = null;
/** True if there are sandboxes beyond those of one page. */
export let hasMore = false;
/** Id of the sandbox whose workspace is open. @type {string | null} */
export let selected = null;
/** Time of the last answer. @type {Date | null} */
export let refreshed = null;
/** Reason why the last refresh failed. @type {{status: number, message: string} | null} */
export let failure = null;
/** True if nothing answered: refreshing rests until `reconnect`. */
export let isLost = false;

/** Labels of what is being done to each sandbox, as `Pausing`. @type {Map<string, string[]>} */
const busy = new Map();

let isRunning = false;
/** Raised by `stop`: answers to requests of an earlier key are not taken. */
let session = 0;
let failures = 0;
let turns = 0;
let timer = 0;
let templateRequests = 0;
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
 * @param {string} id
 * @returns {string | undefined} label of what is being done to a sandbox
 */
export function busyLabel(id) {
  return busy.get(id)?.at(-1);
}

/**
 * Shows that something is done to a sandbox until it has ended, and refreshes then.
 * @template T
 * @param {string} id
 * @param {string} label
 * @param {() => Promise<T>} act
 * @returns {Promise<T>}
 */
export async function whileBusy(id, label, act) {
  const began = session;
  busy.set(id, [...(busy.get(id) ?? []), label]);
  changed();
  try {
    return await act();
  } finally {
    await refresh();
    // `stop` has forgotten the labels of its session.
    if (began === session) {
      const labels = busy.get(id) ?? [];
      labels.splice(labels.indexOf(label), 1);
      if (labels.length === 0) busy.delete(id);
      changed();
    }
  }
}

/** Begins to refresh; a hidden tab rests. */
export function start() {
  isRunning = true;
  document.addEventListener('visibilitychange', onVisibility);
  void refresh();
}

/** Ends refreshing and forgets everything. */
export function stop() {
  isRunning = false;
  session += 1;
  document.removeEventListener('visibilitychange', onVisibility);
  clearTimeout(timer);
  underWay = null;
  sandboxes = [];
  templates = [];
  templatesFailure = null;
  hasMore = false;
  selected = null;
  refreshed = null;
  failure = null;
  failures = 0;
  isLost = false;
  busy.clear();
  changed();
}

/** Refreshes again after nothing answered. */
export function reconnect() {
  isLost = false;
  failures = 0;
  void refresh();
}

function onVisibility() {
  clearTimeout(timer);
  if (!document.hidden) void refresh();
}

/**
 * Asks the server for everything now, and waits for the sandboxes. A request that is under way is
 * waited for first: its answer may be older than what the caller did.
 */
export async function refresh() {
  turns = 0;
  if (underWay) await underWay;
  await turn();
}

/** @returns {Promise<void>} */
function turn() {
  if (underWay) return underWay;
  const own = once().finally(() => {
    if (underWay === own) underWay = null;
  });
  underWay = own;
  return own;
}

async function once() {
  clearTimeout(timer);
  if (!isRunning || isLost) return;
  const own = session;
  if (turns % TEMPLATES_EVERY === 0) void loadTemplates(own);
  turns += 1;
  try {
    const page = await api.send('GET', `v1/sandboxes?limit=${PAGE}`, { isRefresh: true });
    if (own !== session) return;
    sandboxes = page.body;
    hasMore = page.headers.has('x-next-cursor');
    refreshed = new Date();
    failure = null;
    failures = 0;
    if (selected && !sandboxes.some((sandbox) => sandbox.id === selected)) selected = null;
    events.dispatchEvent(new Event('refreshed'));
  } catch (error) {
    if (own !== session) return;
    noteFailure(error);
  }
  changed();
  if (isLost || document.hidden) return;
  timer = setTimeout(turn, pauseBeforeNext());
}

/** @param {unknown} error */
function noteFailure(error) {
  const status = error instanceof api.ApiError ? error.status : -1;
  const hadNoAnswer = failure?.status === 0;
  failure = { status, message: error instanceof Error ? error.message : String(error) };
  failures += 1;
  isLost = status === 0 && hadNoAnswer;
}

/** @returns {number} milliseconds */
function pauseBeforeNext() {
  if (failure?.status === 0) return RETRY;
  return Math.min(INTERVAL * 2 ** failures, LONGEST);
}

/**
 * Loads the templates on their own: a key that may not list them still sees its sandboxes.
 * @param {number} own session of the request
 */
async function loadTemplates(own) {
  templateRequests += 1;
  const request = templateRequests;
  const isOld = () => own !== session || request !== templateRequests;
  try {
    const list = await api.get('v1/templates', true);
    if (isOld()) return;
    templates = list;
    templatesFailure = null;
  } catch (error) {
    if (isOld()) return;
    templatesFailure = error instanceof Error ? error.message : String(error);
  }
  changed();
}
