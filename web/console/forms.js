// Errors beside the fields that they are about.

import { el, setEnabled } from './dom.js';
import { printable } from './text.js';

let lastId = 0;

/** @param {HTMLFormElement} form */
export function clearErrors(form) {
  form.querySelectorAll('.error-text').forEach((text) => text.remove());
  for (const field of form.querySelectorAll('[aria-invalid]')) {
    field.removeAttribute('aria-invalid');
    field.removeAttribute('aria-describedby');
  }
}

/**
 * Forgets what was wrong with a field that is being corrected.
 * @param {Element} field
 */
function clearError(field) {
  if (!field.hasAttribute('aria-invalid')) return;
  document.getElementById(field.getAttribute('aria-describedby') ?? '')?.remove();
  field.removeAttribute('aria-invalid');
  field.removeAttribute('aria-describedby');
}

/**
 * Shows what is wrong below a field, or above the form's button where no field is known.
 * @param {HTMLFormElement} form
 * @param {HTMLElement | null} field
 * @param {string} message
 */
export function showError(form, field, message) {
  lastId += 1;
  const text = el(
    'p',
    { className: 'error-text', id: `error-${lastId}`, role: 'alert' },
    printable(message),
  );
  const place = field?.closest('.field, .check');
  if (!field || !place) {
    const last = form.querySelector('button[type="submit"]');
    const buttons = last?.closest('.buttons') ?? last;
    form.insertBefore(text, buttons?.parentElement === form ? buttons : null);
    return;
  }
  field.setAttribute('aria-invalid', 'true');
  field.setAttribute('aria-describedby', text.id);
  place.append(text);
  if (form.querySelector('[aria-invalid]') === field) field.focus();
}

/**
 * Finds the field that an error of the API speaks of: the one whose name stands first in it.
 * @param {HTMLFormElement} form
 * @param {string} message
 * @returns {HTMLElement | null}
 */
function fieldOf(form, message) {
  const words = message.toLowerCase().replaceAll('_', ' ');
  let first = Infinity;
  let found = null;
  for (const field of form.querySelectorAll('[name]')) {
    const name = (field.getAttribute('name') ?? '').replaceAll('_', ' ').replace(/ (mb|sec)$/, '');
    const place = words.search(new RegExp(`\\b${name}\\b`));
    if (place >= 0 && place < first) {
      first = place;
      found = field;
    }
  }
  return /** @type {HTMLElement | null} */ (found);
}

/**
 * Checks numbers against their bounds, and names against their pattern.
 * @param {HTMLFormElement} form
 * @returns {boolean} true if all are right
 */
export function validateForm(form) {
  clearErrors(form);
  let isRight = true;
  for (const field of form.querySelectorAll('input')) {
    if (field.disabled || field.validity.valid) continue;
    isRight = false;
    showError(form, field, mistake(field));
  }
  return isRight;
}

/**
 * @param {HTMLInputElement} field
 * @returns {string}
 */
function mistake(field) {
  if (field.type !== 'number') return field.title || field.validationMessage;
  const { min, max } = field;
  if (min && max) return `Must be a whole number from ${min} to ${max}.`;
  return `Must be a whole number${min ? `, at least ${min}` : ''}.`;
}

/**
 * Makes a form do something when it is sent: what is wrong comes beside the fields, and a second
 * click while it is being done does nothing.
 * @param {HTMLFormElement} form
 * @param {string} busyLabel of the button, while it is being done
 * @param {() => Promise<void>} act
 */
export function onSubmit(form, busyLabel, act) {
  const submit = /** @type {HTMLButtonElement} */ (form.querySelector('button[type="submit"]'));
  form.addEventListener('input', (event) => clearError(/** @type {Element} */ (event.target)));
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    if (submit.getAttribute('aria-disabled') === 'true' || !validateForm(form)) return;
    const label = submit.textContent;
    setEnabled(submit, false);
    submit.textContent = busyLabel;
    try {
      await act();
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      showError(form, fieldOf(form, message), message);
    } finally {
      submit.textContent = label;
      setEnabled(submit, true);
    }
  });
}
