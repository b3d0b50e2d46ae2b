// Short messages about what happened, which screen readers read out.

import { button, byId, el } from './dom.js';
import { printable } from './text.js';

/** Milliseconds that a message about success stays. */
const STAY = 4_000;
/** Messages that are there at once. */
const MOST = 3;

/** Puts the messages into the open dialog, if any: a modal makes the rest of the page inert. */
export function placeNotices() {
  const list = byId('notices');
  const dialog = [...document.querySelectorAll('dialog[open]')].at(-1);
  if (dialog && list.parentElement !== dialog) dialog.append(list);
  else if (!dialog && list.parentElement !== document.body) byId('main').before(list);
}

/**
 * @param {string} text
 * @param {boolean} [isBad] an error stays until it is dismissed
 */
export function notify(text, isBad = false) {
  placeNotices();
  const list = byId('notices');
  const dismiss = button('Dismiss', 'small', () => notice.remove());
  const notice = el(
    'div',
    { className: isBad ? 'notice bad' : 'notice' },
    el('p', {}, printable(text)),
    dismiss,
  );
  list.append(notice);
  // An error stays as long as a success can go in its place.
  while (list.children.length > MOST)
    (list.querySelector('.notice:not(.bad)') ?? list.firstElementChild).remove();
  if (!isBad) setTimeout(() => notice.remove(), STAY);
}

/**
 * Does something, and notifies of its failure.
 * @param {string} what as `The sandbox was not paused`
 * @param {() => Promise<unknown>} act
 * @returns {Promise<boolean>} true if it was done
 */
export async function runOrNotify(what, act) {
  try {
    await act();
    return true;
  } catch (error) {
    notify(`${what}: ${error instanceof Error ? error.message : error}`, true);
    return false;
  }
}
