// The API key. The server gives it to no page: it is typed in, or comes in the fragment of the
// address that `wrenn console` prints, which browsers send nowhere. It is kept in sessionStorage:
// for this origin and this tab, until "Forget key" or the end of the tab; a browser that reopens a
// closed tab brings it back. It never stands in a query, a cookie, an attribute or the log of this
// page. crates/control/src/api/console.rs has the reasons.

const STORED = 'wrenn-key';
const FRAGMENT = '#key=';

/**
 * Takes a key out of the address, before anything else can see it there.
 * @returns {boolean} true if another key than the present one is kept now
 */
export function takeKeyFromAddress() {
  if (!location.hash.startsWith(FRAGMENT)) return false;
  const found = location.hash.slice(FRAGMENT.length);
  // Also one that is malformed: it may be most of a key.
  history.replaceState(null, '', location.pathname + location.search);
  if (!/^[\w-]+$/.test(found) || found === currentKey()) return false;
  storeKey(found);
  return true;
}

/** @returns {string | null} */
export function currentKey() {
  return sessionStorage.getItem(STORED);
}

/** @param {string} key */
export function storeKey(key) {
  sessionStorage.setItem(STORED, key);
}

export function forgetKey() {
  // What this tab remembers of sandboxes goes with the key that opened them.
  sessionStorage.clear();
}

/** @returns {string} what tells one key from another, and not more */
export function keyHint() {
  const key = currentKey() ?? '';
  return `${key.slice(0, 4)}…${key.slice(-4)}`;
}

/**
 * Says what is wrong with what was typed, if anything.
 * @param {string} text
 * @returns {string | null}
 */
export function describeMistake(text) {
  if (text === '') return 'Type a key: wrn_ and 40 hexadecimal digits.';
  if (!/^(wrn|e2b)_[0-9a-f]{40}$/.test(text))
    return 'This is no key: one is wrn_ and 40 hexadecimal digits.';
  return null;
}
