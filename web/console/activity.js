// Log of the requests that this page sent.

import { events } from './api.js';
import { byId, el } from './dom.js';
import { formatTime, printable } from './text.js';

/** Entries that are kept. */
const MOST = 200;

export function start() {
  const list = byId('activity');
  const withRefreshes = byId('activity-refreshes');
  const show = () => {
    list.hidden = list.children.length === 0;
    byId('activity-empty').hidden = !list.hidden;
  };
  events.addEventListener('activity', (event) => {
    const entry = /** @type {CustomEvent<import('./api.js').Entry>} */ (event).detail;
    // A refresh that failed is worth a line.
    if (entry.isRefresh && entry.error === '' && !withRefreshes.checked) return;
    list.prepend(line(entry));
    while (list.children.length > MOST) list.lastElementChild.remove();
    show();
  });
  byId('activity-clear').addEventListener('click', () => {
    list.replaceChildren();
    show();
  });
}

/** @param {import('./api.js').Entry} entry */
function line({ time, method, path, status, ms, error }) {
  const item = el(
    'li',
    { className: error ? 'failed' : '' },
    el('span', { className: 'time' }, formatTime(time)),
    el('span', { className: 'method' }, method),
    el('span', { className: 'path' }, printable(path)),
    el('span', { className: 'status' }, status ? String(status) : '–'),
    el('span', { className: 'took' }, `${ms} ms`),
  );
  if (error) item.append(el('span', { className: 'error' }, printable(error)));
  return item;
}
