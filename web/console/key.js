// The API key. The server gives it to no page: it is typed in, or comes in the fragment of the
// address that `wrenn console` prints, which browsers send nowhere. It is kept in sessionStorage:
// for this origin and this tab, until the tab is closed or "Forget key". It never stands in a
// query, a cookie, an attribute or the log of this page. crates/control/src/api/console.rs has the
// reasons.

const STORED = 'wrenn-key';
const IN_FRAGMENT = /^#key=([\w-]+)$/;

/** Takes a key out of the address, before anything else can see it there. */
export function takeFromAddress() {
  const found = IN_FRAGMENT.exec(location.hash);
  if (!found) return;
  history.replaceState(null, '', location.pathname + location.search);
  sessionStorage.setItem(STORED, found[1]);
}

/** @returns {string | null} */
export function current() {
  return sessionStorage.getItem(STORED);
}

/** @param {string} key */
export function keep(key) {
  sessionStorage.setItem(STORED, key);
}

export function forget() {
  sessionStorage.removeItem(STORED);
}

/** @returns {string} what tells one key from another, and not more */
export function hint() {
  const key = current() ?? '';
  return `${key.slice(0, 4)}…${key.slice(-4)}`;
}

/**
 * Says what is wrong with what was typed, if anything.
 * @param {string} text
 * @returns {string | null}
 */
export function mistake(text) {
  if (text === '') return 'Type a key: wrn_ and 40 hexadecimal digits.';
  if (!/^(wrn|e2b)_[0-9a-f]{40}$/.test(text))
    return 'This is no key: one is wrn_ and 40 hexadecimal digits.';
  return null;
}
