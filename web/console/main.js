// Start of the console: the key first, then everything that shows what it opens.

import * as activity from './activity.js';
import * as api from './api.js';
import * as createForm from './create_form.js';
import { byId, setText } from './dom.js';
import { openStreams } from './exec_stream.js';
import { clearErrors, showError } from './forms.js';
import * as key from './key.js';
import * as sandboxTable from './sandbox_table.js';
import * as state from './state.js';
import * as templates from './templates.js';
import { formatTime, printable } from './text.js';
import * as workspaces from './workspace.js';

key.takeKeyFromAddress();
activity.start();
createForm.start();
sandboxTable.start();
templates.start();
workspaces.start();
state.events.addEventListener('change', showHealth);
state.events.addEventListener('refreshed', countRefresh);
api.events.addEventListener('refused', (event) =>
  signOut(/** @type {CustomEvent<string>} */ (event).detail),
);
byId('forget-key').addEventListener('click', () => signOut(''));
byId('key-form').addEventListener('submit', useTypedKey);
byId('reconnect').addEventListener('click', () => {
  // The place of the button goes; the focus must not.
  byId('sandboxes-title').focus();
  state.reconnect();
});
byId('reload').addEventListener('click', () => location.reload());
window.addEventListener('hashchange', () => {
  // The address of `wrenn console`, pasted into a tab that has the page already. Other fragments are
  // places on the page, as the skip link has one.
  if (!key.takeKeyFromAddress()) return;
  signOut('', false);
  signIn();
});
window.addEventListener('beforeunload', (event) => {
  // Commands end with the page; terminals do not.
  if (openStreams.size > 0) event.preventDefault();
});
signIn();
void loadHealth();

/** @param {Event} event */
function useTypedKey(event) {
  event.preventDefault();
  const input = byId('key-input');
  const form = byId('key-form');
  clearErrors(form);
  const text = input.value.trim();
  const wrong = key.describeMistake(text);
  if (wrong) {
    showError(form, input, wrong);
    return;
  }
  key.storeKey(text);
  input.value = '';
  signIn();
}

function signIn() {
  const hasKey = key.currentKey() !== null;
  byId('app').hidden = !hasKey;
  byId('sign-in').hidden = hasKey;
  byId('key-chip').hidden = !hasKey;
  if (!hasKey) {
    byId('key-input').focus();
    return;
  }
  setText(byId('key-hint'), key.keyHint());
  state.start();
  void createForm.loadLimits().catch(() => {});
}

/**
 * @param {string} reason what the server said of the key, if that is why
 * @param {boolean} [isForgotten]
 */
function signOut(reason, isForgotten = true) {
  if (isForgotten) key.forgetKey();
  state.stop();
  // The sandboxes that they ask about went with the key.
  for (const dialog of document.querySelectorAll('dialog[open]'))
    /** @type {HTMLDialogElement} */ (dialog).close();
  if (!isForgotten) return;
  signIn();
  const form = byId('key-form');
  clearErrors(form);
  if (reason) showError(form, byId('key-input'), reason);
}

/** Refreshes for each look at the server's health. */
const HEALTH_EVERY = 15;
let refreshes = 0;
/** Version of the server that this page came from. @type {string | null} */
let firstVersion = null;

function countRefresh() {
  refreshes += 1;
  if (refreshes % HEALTH_EVERY === 0) void loadHealth();
}

async function loadHealth() {
  try {
    const { status, version } = await api.getPublic('health');
    firstVersion ??= version;
    byId('upgraded').hidden = version === firstVersion;
    const isOk = status === 'ok';
    const about = isOk ? 'ready' : 'degraded: a host or the store does not answer';
    // A refresh that got no answer in the meantime says more.
    if (state.failure) return;
    byId('health').dataset.state = isOk ? 'ok' : 'degraded';
    setText(byId('health-text'), `${about} · ${printable(version)}`);
  } catch (error) {
    if (state.failure) return;
    byId('health').dataset.state = 'lost';
    const message = error instanceof Error ? error.message : String(error);
    setText(byId('health-text'), `The health is not known: ${printable(message)}`);
  }
}

function showHealth() {
  const place = byId('health');
  const { failure, isLost } = state;
  byId('lost').hidden = !isLost;
  if (failure) {
    const since = state.refreshed ? ` since ${formatTime(state.refreshed)}` : '';
    const message = printable(failure.message);
    place.dataset.state = 'lost';
    const text = failure.status === 0 ? `No answer${since}: ${message}` : `Refused: ${message}`;
    setText(byId('health-text'), text);
    setText(
      byId('lost-text'),
      `No answer${since}: ${message}. The page asks no more, since each request carries the key: ` +
        'see that it is your server that listens there again, then reconnect.',
    );
  } else if (place.dataset.state === 'lost' && state.refreshed) {
    place.dataset.state = '';
    void loadHealth();
  }
}
