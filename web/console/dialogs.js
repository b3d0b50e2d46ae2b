// Questions before something is done, as dialogs of the browser: it keeps the focus in them, closes
// them by Escape, and gives the focus back.

import { button, byId, el } from './dom.js';
import { onSubmit } from './forms.js';
import { notify, placeNotices } from './notices.js';
import { printable } from './text.js';

/** Properties of inputs for names of snapshots and checkpoints; the server decides. */
export const NAME = {
  pattern: '[a-z0-9][a-z0-9._\\-]*',
  maxLength: 63,
  title:
    'A name has lower-case letters, digits, dots, dashes and underscores, and begins with a letter or digit.',
};

/**
 * @typedef {object} Field
 * @property {string} name
 * @property {string} label
 * @property {Record<string, any>} [input] properties of the input
 */

/**
 * Opens a dialog that asks, and does it. It stays open with the error until it is done or given up.
 * @param {object} question
 * @param {string} question.title
 * @param {string} [question.text]
 * @param {Field[]} [question.fields]
 * @param {string} question.action label of the button
 * @param {string} question.busy its label while it is being done
 * @param {boolean} [question.isDanger]
 * @param {(values: Record<string, any>) => Promise<void>} question.act
 * @returns {Promise<boolean>} true if it was done
 */
export function openDialog({ title, text, fields = [], action, busy, isDanger = false, act }) {
  const titleId = `dialog-${crypto.getRandomValues(new Uint32Array(1))[0]}`;
  const inputs = fields.map(toInput);
  const cancel = button('Cancel', '', () => dialog.close());
  const submit = el(
    'button',
    { type: 'submit', className: isDanger ? 'danger filled' : 'primary' },
    action,
  );
  const form = el('form', { noValidate: true }, el('h2', { id: titleId }, printable(title)));
  if (text) form.append(el('p', {}, printable(text)));
  form.append(
    ...inputs.map(({ place }) => place),
    el('div', { className: 'buttons' }, cancel, submit),
  );
  const dialog = el('dialog', { 'aria-labelledby': titleId }, form);
  let isDone = false;
  onSubmit(form, busy, async () => {
    try {
      await act(Object.fromEntries(inputs.map(({ name, value }) => [name, value()])));
    } catch (error) {
      if (dialog.open) throw error;
      // It was closed by Escape or "Cancel", which does not end what was begun.
      notify(`${title}: ${error instanceof Error ? error.message : error}`, true);
      return;
    }
    isDone = true;
    dialog.close();
  });
  document.body.append(dialog);
  dialog.showModal();
  // An action that cannot be undone is not one stroke of Enter away.
  (inputs[0]?.input ?? (isDanger ? cancel : submit)).focus();
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => {
      placeNotices();
      dialog.remove();
      // The browser gave the focus back to what may have gone by what was done.
      if (document.activeElement === document.body) byId('sandboxes-title').focus();
      resolve(isDone);
    });
  });
}

/** @param {Field} field */
function toInput({ name, label, input: properties = {} }) {
  const input = el('input', {
    id: `dialog-${name}`,
    name,
    type: 'text',
    autocomplete: 'off',
    ...properties,
  });
  const text = el('label', { for: input.id }, label);
  const isCheck = input.type === 'checkbox';
  const parts = isCheck ? [input, text] : [text, input];
  const place = el('div', { className: isCheck ? 'check' : 'field' }, ...parts);
  return { name, input, place, value: () => (isCheck ? input.checked : input.value) };
}
