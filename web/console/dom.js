// Elements made of data. Data becomes text and attributes, never markup.

/**
 * Finds an element of the page.
 * @param {string} id
 * @returns {any}
 */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no #${id}`);
  return found;
}

/**
 * Makes an element. Properties whose name has a dash, `role` and `for` become attributes, functions
 * become listeners, others are set as properties.
 * @param {string} name
 * @param {Record<string, any>} [properties]
 * @param {...(Node | string)} children
 * @returns {any}
 */
export function el(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (typeof value === 'function') element.addEventListener(key, value);
    else if (key.includes('-') || key === 'role' || key === 'for') element.setAttribute(key, value);
    else /** @type {any} */ (element)[key] = value;
  }
  element.append(...children);
  return element;
}

/**
 * Sets a text only where it is another one: a selection in it stays.
 * @param {Element} element
 * @param {string} text
 */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Sets an attribute, or removes it for `null`.
 * @param {Element} element
 * @param {string} name
 * @param {string | null} value
 */
export function setAttribute(element, name, value) {
  if (value === null) element.removeAttribute(name);
  else if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

/**
 * Shows a button as usable or not. Not by `disabled`, which would take the focus away from it.
 * @param {HTMLElement} button
 * @param {boolean} isEnabled
 */
export function setEnabled(button, isEnabled) {
  setAttribute(button, 'aria-disabled', isEnabled ? null : 'true');
}

/**
 * Makes a button. One that is shown as not usable does nothing.
 * @param {string} label
 * @param {string} className
 * @param {() => any} act
 * @returns {HTMLButtonElement}
 */
export function button(label, className, act) {
  const element = el('button', { type: 'button', className }, label);
  element.addEventListener('click', () => {
    if (element.getAttribute('aria-disabled') !== 'true') act();
  });
  return element;
}

/**
 * Makes the children of an element those of `items`, in their order. A child whose item stays is
 * updated and not made anew, so focus and selection stay; the focus of one that goes moves to its
 * neighbour, or to `fallback`.
 * @template T
 * @param {Element} container
 * @param {T[]} items
 * @param {{key: (item: T) => string, create: (item: T) => Element, update: (element: Element, item: T) => void}} how
 * @param {HTMLElement} fallback
 */
export function updateChildren(container, items, how, fallback) {
  const wanted = new Map(items.map((item) => [how.key(item), item]));
  for (const child of [...container.children]) {
    if (wanted.has(/** @type {any} */ (child).wrennKey)) continue;
    const hadFocus = child.contains(document.activeElement);
    const neighbour = child.nextElementSibling ?? child.previousElementSibling;
    child.remove();
    if (hadFocus) (neighbour?.querySelector('button') ?? fallback).focus();
  }
  const present = new Map(
    [...container.children].map((child) => [/** @type {any} */ (child).wrennKey, child]),
  );
  let next = container.firstElementChild;
  for (const [key, item] of wanted) {
    let element = present.get(key);
    if (!element) {
      element = how.create(item);
      /** @type {any} */ (element).wrennKey = key;
    }
    if (element === next) next = next.nextElementSibling;
    else container.insertBefore(element, next);
    how.update(element, item);
  }
}
