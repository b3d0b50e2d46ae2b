// The table of sandboxes. Rows stay the same elements from refresh to refresh.

import * as actions from './actions.js';
import { clockOffset } from './api.js';
import { button, byId, el, setAttribute, setEnabled, setText, updateChildren } from './dom.js';
import * as state from './state.js';
import { formatDuration, formatMemory, formatTime, printable } from './text.js';

/** Changes what there is between refreshes: ages. */
const TICK = 1000;

/** States in which something is there to fork or to save. */
const ALIVE = ['running', 'paused'];

export function start() {
  state.events.addEventListener('change', render);
  setInterval(() => {
    if (!document.hidden) render();
  }, TICK);
}

function render() {
  const title = byId('sandboxes-title');
  updateChildren(
    byId('sandbox-rows'),
    state.sandboxes,
    { key: (sandbox) => sandbox.id, create, update },
    title,
  );
  const count = state.sandboxes.length;
  byId('sandbox-table').hidden = count === 0;
  byId('sandboxes-empty').hidden = count > 0 || !state.refreshed;
  setText(byId('sandbox-count'), count ? String(count) : '');
  const { refreshed } = state;
  setText(byId('refreshed'), refreshed ? `as of ${formatTime(refreshed)}` : 'loading…');
  const more = byId('sandboxes-more');
  more.hidden = !state.hasMore;
  setText(more, `The first ${count} are shown; \`wrenn ls --all\` lists all.`);
}

/**
 * Moves the focus to the row of a sandbox, or to the title of the table if it has none.
 * @param {string} id
 */
export function focusRow(id) {
  const rows = [...byId('sandbox-rows').children];
  const row = rows.find((one) => /** @type {any} */ (one).wrennKey === id);
  (row?.parts.open ?? byId('sandboxes-title')).focus();
}

/** @param {any} sandbox */
function create({ id }) {
  const open = button(printable(id), 'plain id', () =>
    state.select(state.selected === id ? null : id),
  );
  open.title = 'Open';
  const parts = {
    open,
    badge: el('span', { className: 'badge' }),
    reason: el('div', { className: 'second' }),
    template: el('div', { className: 'template-name' }),
    size: el('div', { className: 'second' }),
    age: el('div', {}),
    idle: el('div', { className: 'second' }),
    toggle: button('Pause', 'small', () => toggle(id)),
    fork: button('Fork', 'small', () => actions.fork(id)),
    snapshot: button('Snapshot', 'small', () => actions.snapshot(id)),
    destroy: button('Delete', 'small danger', () => actions.destroy(id)),
  };
  for (const [name, control] of Object.entries({
    Fork: parts.fork,
    Snapshot: parts.snapshot,
    Delete: parts.destroy,
  })) {
    control.setAttribute('aria-label', `${name} ${id}`);
  }
  const buttons = el(
    'div',
    { className: 'buttons' },
    parts.toggle,
    parts.fork,
    parts.snapshot,
    parts.destroy,
  );
  const row = el(
    'tr',
    { role: 'row' },
    el('td', { role: 'cell' }, open, parts.reason),
    el('td', { role: 'cell' }, parts.badge),
    el('td', { role: 'cell' }, parts.template, parts.size),
    el('td', { role: 'cell', className: 'age' }, parts.age, parts.idle),
    el('td', { role: 'cell', className: 'actions' }, buttons),
  );
  row.parts = parts;
  row.addEventListener('click', (/** @type {MouseEvent} */ event) => {
    const target = /** @type {Element} */ (event.target);
    // Not where a text was selected to be copied.
    if (!target.closest('button') && String(getSelection()) === '') state.select(id);
  });
  return row;
}

/** @param {string} id */
function toggle(id) {
  const sandbox = state.sandboxes.find((one) => one.id === id);
  if (sandbox?.status === 'paused') void actions.resume(id);
  else void actions.pause(id);
}

/**
 * @param {any} row
 * @param {any} sandbox
 */
function update(row, sandbox) {
  const { id, status } = sandbox;
  const parts = row.parts;
  const isSelected = state.selected === id;
  setAttribute(row, 'aria-current', isSelected ? 'true' : null);
  setAttribute(parts.open, 'aria-expanded', String(isSelected));
  updateBadge(parts.badge, sandbox);
  setText(parts.reason, printable(sandbox.reason ?? ''));
  parts.reason.className = status === 'error' ? 'second bad' : 'second';
  setText(parts.template, printable(sandbox.template));
  setText(
    parts.size,
    `${sandbox.vcpus} vCPU${sandbox.vcpus === 1 ? '' : 's'} · ${formatMemory(sandbox.memory_mb)}`,
  );
  setText(parts.age, since(sandbox.created_at));
  setText(parts.idle, idle(sandbox));
  const label = status === 'paused' ? 'Resume' : 'Pause';
  setText(parts.toggle, label);
  setAttribute(parts.toggle, 'aria-label', `${label} ${id}`);
  const isIdle = state.busyLabel(id) === undefined;
  setEnabled(parts.toggle, isIdle && ALIVE.includes(status));
  setEnabled(parts.fork, isIdle && ALIVE.includes(status));
  setEnabled(parts.snapshot, isIdle && ALIVE.includes(status));
}

/**
 * Shows the state of a sandbox, or what is being done to it.
 * @param {HTMLElement} badge
 * @param {any} sandbox
 */
export function updateBadge(badge, sandbox) {
  const busy = state.busyLabel(sandbox.id);
  setText(badge, busy ?? printable(sandbox.status));
  badge.dataset.status = busy ? 'busy' : sandbox.status;
}

/** @param {string} time */
function since(time) {
  return formatDuration((Date.now() + clockOffset - Date.parse(time)) / 1000);
}

/** @param {any} sandbox */
function idle({
  status,
  last_active_at: lastActive,
  started_at: started,
  timeout_sec: limit,
  on_timeout: action,
  last_updated: updated,
}) {
  if (status === 'paused') return `paused for ${since(updated)}`;
  if (status !== 'running') return '';
  const from = Date.parse(lastActive ?? started ?? updated);
  const left = (from + limit * 1000 - Date.now() - clockOffset) / 1000;
  const verb = action === 'kill' ? 'stops' : 'pauses';
  return left > 0 ? `${verb} in ${formatDuration(left)}` : `${verb} when idle`;
}
