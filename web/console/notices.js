// Short messages about what happened, which screen readers read out.

import { button, byId, el } from './dom.js';
import { printable } from './text.js';

/** Milliseconds that a message about success stays. */
const STAY = 4_000;
/** Messages that are there at once. */
const MOST = 3;

/**
 * @param {string} text
 * @param {boolean} [isBad] an error stays until it is dismissed
 */
export function notify(text, isBad = false) {
  const list = byId('notices');
  const dismiss = button('Dismiss', 'small', () => notice.remove());
  const notice = el(
    'div',
    { className: isBad ? 'notice bad' : 'notice' },
    el('p', {}, printable(text)),
    dismiss,
  );
  list.append(notice);
  while (list.children.length > MOST) list.firstElementChild.remove();
  if (!isBad) setTimeout(() => notice.remove(), STAY);
}

/**
 * Does something, and tells when it failed.
 * @param {string} what as `The sandbox was not paused`
 * @param {() => Promise<unknown>} act
 * @returns {Promise<boolean>} whether it was done
 */
export async function attempt(what, act) {
  try {
    await act();
    return true;
  } catch (error) {
    notify(`${what}: ${error instanceof Error ? error.message : error}`, true);
    return false;
  }
}
