// Start of the console: the key first, then everything that shows what it opens.

import * as activity from './activity.js';
import * as api from './api.js';
import * as createForm from './create_form.js';
import { byId, setText } from './dom.js';
import { clearErrors, showError } from './forms.js';
import * as key from './key.js';
import * as sandboxTable from './sandbox_table.js';
import * as state from './state.js';
import * as templates from './templates.js';
import { clock, printable } from './text.js';
import * as workspaces from './workspace.js';

key.takeFromAddress();
activity.start();
createForm.start();
sandboxTable.start();
templates.start();
workspaces.start();
state.events.addEventListener('change', showHealth);
api.events.addEventListener('refused', (event) =>
  signOut(/** @type {CustomEvent<string>} */ (event).detail),
);
byId('forget-key').addEventListener('click', () => signOut(''));
byId('key-form').addEventListener('submit', useTypedKey);
window.addEventListener('hashchange', () => {
  // The address of `wrenn console`, pasted into a tab that has the page already.
  key.takeFromAddress();
  signOut('', false);
  signIn();
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
  const wrong = key.mistake(text);
  if (wrong) {
    showError(form, input, wrong);
    return;
  }
  key.keep(text);
  input.value = '';
  signIn();
}

function signIn() {
  const hasKey = key.current() !== null;
  byId('app').hidden = !hasKey;
  byId('sign-in').hidden = hasKey;
  byId('key-chip').hidden = !hasKey;
  if (!hasKey) {
    byId('key-input').focus();
    return;
  }
  setText(byId('key-hint'), key.hint());
  state.start();
  void createForm.loadLimits().catch(() => {});
}

/**
 * @param {string} reason what the server said of the key, if that is why
 * @param {boolean} [isForgotten]
 */
function signOut(reason, isForgotten = true) {
  if (isForgotten) key.forget();
  state.stop();
  if (!isForgotten) return;
  signIn();
  const form = byId('key-form');
  clearErrors(form);
  if (reason) showError(form, byId('key-input'), reason);
}

let about = '';

async function loadHealth() {
  try {
    const health = await api.get('health', true);
    about = `${health.status === 'ok' ? 'ready' : 'no host can be reached'} · ${printable(health.version)}`;
    byId('health').dataset.state = health.status === 'ok' ? 'ok' : 'degraded';
    setText(byId('health-text'), about);
  } catch {
    about = '';
  }
}

function showHealth() {
  const place = byId('health');
  const wasLost = place.dataset.state === 'lost';
  if (state.failure) {
    const since = state.refreshed ? ` since ${clock(state.refreshed)}` : '';
    place.dataset.state = 'lost';
    setText(byId('health-text'), `No answer${since}: ${printable(state.failure)}`);
  } else if (wasLost) {
    void loadHealth();
  }
}
