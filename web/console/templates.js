// The list of what sandboxes can be created from.

import { deleteTemplate } from './actions.js';
import { templateKind, useTemplate } from './create_form.js';
import { button, byId, el, setText, updateChildren } from './dom.js';
import * as state from './state.js';
import { formatBytes, formatMemory, printable } from './text.js';

export function start() {
  state.events.addEventListener('change', render);
}

function render() {
  updateChildren(
    byId('templates'),
    state.templates,
    { key: ({ name, type, digest }) => `${type} ${name} ${digest ?? ''}`, create, update },
    byId('create-template'),
  );
  const failure = byId('templates-failure');
  failure.hidden = state.templatesFailure === null;
  setText(failure, printable(state.templatesFailure ?? ''));
}

/** @param {any} template */
function create(template) {
  const { name, type, digest } = template;
  const about = el('div', { className: 'about' });
  const use = button('Use', 'small', () => useTemplate(name));
  use.setAttribute('aria-label', `Use ${name} as the template`);
  const buttons = el('div', { className: 'buttons' }, use);
  if (type !== 'base') {
    const remove = button('Delete', 'small danger', () => deleteTemplate(template));
    remove.setAttribute('aria-label', `Delete the ${digest ? 'image' : 'snapshot'} ${name}`);
    buttons.append(remove);
  }
  const item = el('li', {}, el('div', { className: 'name' }, printable(name)), about, buttons);
  item.about = about;
  return item;
}

/**
 * @param {any} item
 * @param {any} template
 */
function update(
  item,
  { type, digest, vcpus, memory_mb: mb, size_bytes: bytes, source_sandbox_id: source },
) {
  const parts = [templateKind({ type, digest }), formatBytes(bytes)];
  if (vcpus && mb) parts.push(`${vcpus} vCPU${vcpus === 1 ? '' : 's'}, ${formatMemory(mb)}`);
  setText(item.about, parts.join(' · '));
  item.about.title = source ? `made of ${source}` : '';
}
