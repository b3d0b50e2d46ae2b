// Requests to the API of the server that this page came from.

import * as key from './key.js';

/** Milliseconds after which a read is given up; what makes or changes something may take longer. */
const READ_TIMEOUT = 20_000;

/** An answer that says no, or none at all (status 0). */
export class ApiError extends Error {
  /**
   * @param {number} status
   * @param {string} code
   * @param {string} message
   */
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/**
 * @typedef {object} Entry a request that ended
 * @property {Date} time
 * @property {string} method
 * @property {string} path
 * @property {number} status 0 where no answer came
 * @property {number} ms
 * @property {string} error
 * @property {boolean} isRefresh
 */

/** Where requests are told of: `activity` with an Entry, `refused` when the key is not accepted. */
export const events = new EventTarget();

/** Milliseconds that the server's clock is ahead of this one. */
export let clockOffset = 0;

/** @param {Entry} entry */
export function record(entry) {
  events.dispatchEvent(new CustomEvent('activity', { detail: entry }));
}

/**
 * Resolves a path of the API, also where a proxy serves it below a path of its own.
 * @param {string} path without a slash at its beginning
 * @returns {URL}
 */
export function address(path) {
  return new URL(path, document.baseURI);
}

/**
 * Sends a request and gives the parsed body with the headers.
 * @param {string} method
 * @param {string} path without a slash at its beginning
 * @param {{body?: unknown, isRefresh?: boolean, isPublic?: boolean}} [options] no key goes with what is public
 * @returns {Promise<{body: any, headers: Headers}>}
 */
export async function send(method, path, { body, isRefresh = false, isPublic = false } = {}) {
  const sentKey = isPublic ? null : key.currentKey();
  const began = performance.now();
  /** @type {Entry} */
  const entry = {
    time: new Date(),
    method,
    path: `/${path}`,
    status: 0,
    ms: 0,
    error: '',
    isRefresh,
  };
  try {
    const response = await fetch(address(path), options(method, body, sentKey));
    entry.status = response.status;
    const answer = await parsed(response);
    if (response.ok) {
      noteClock(response.headers.get('date'));
      return { body: answer, headers: response.headers };
    }
    const detail = answer?.error ?? {};
    throw new ApiError(
      response.status,
      detail.code ?? 'unknown',
      detail.message ?? `status ${response.status}`,
    );
  } catch (error) {
    const told =
      error instanceof ApiError ? error : new ApiError(0, 'unreachable', unreachable(error));
    entry.error = told.message;
    // An answer about an earlier key says nothing of the present one.
    if (told.status === 401 && sentKey !== null && sentKey === key.currentKey())
      events.dispatchEvent(new CustomEvent('refused', { detail: told.message }));
    throw told;
  } finally {
    entry.ms = Math.round(performance.now() - began);
    record(entry);
  }
}

/**
 * Asks for something.
 * @param {string} path
 * @param {boolean} [isRefresh]
 * @returns {Promise<any>}
 */
export async function get(path, isRefresh = false) {
  return (await send('GET', path, { isRefresh })).body;
}

/**
 * Asks for what needs no key.
 * @param {string} path
 * @returns {Promise<any>}
 */
export async function getPublic(path) {
  return (await send('GET', path, { isRefresh: true, isPublic: true })).body;
}

/**
 * @param {string} path
 * @param {unknown} [body]
 * @returns {Promise<any>}
 */
export async function post(path, body) {
  return (await send('POST', path, { body })).body;
}

/** @param {string} path */
export async function remove(path) {
  await send('DELETE', path);
}

/**
 * @param {string} method
 * @param {unknown} body
 * @param {string | null} sentKey
 * @returns {RequestInit}
 */
function options(method, body, sentKey) {
  /** @type {Record<string, string>} */
  const headers = {};
  if (sentKey) headers['X-API-Key'] = sentKey;
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  return {
    method,
    headers,
    body: body === undefined ? undefined : JSON.stringify(body),
    cache: 'no-store',
    credentials: 'omit',
    redirect: 'error',
    signal: method === 'GET' ? AbortSignal.timeout(READ_TIMEOUT) : undefined,
  };
}

/** @param {Response} response */
async function parsed(response) {
  const text = await response.text();
  try {
    return text === '' ? null : JSON.parse(text);
  } catch {
    return null;
  }
}

/** @param {unknown} error */
function unreachable(error) {
  const isLate = error instanceof DOMException && error.name === 'TimeoutError';
  return isLate
    ? `the server did not answer within ${READ_TIMEOUT / 1000} s`
    : 'the server cannot be reached';
}

/** @param {string | null} date */
function noteClock(date) {
  const theirs = Date.parse(date ?? '');
  // The header has whole seconds, so smaller differences say nothing.
  const offset = theirs - Date.now();
  if (!Number.isNaN(theirs)) clockOffset = Math.abs(offset) > 2000 ? offset : 0;
}
