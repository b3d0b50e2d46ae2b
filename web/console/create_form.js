// The form that creates a sandbox. Bounds come from the API document, which has the limits of this
// server.

import * as api from './api.js';
import { shortId } from './actions.js';
import { byId, el } from './dom.js';
import { onSubmit } from './forms.js';
import { notify } from './notices.js';
import * as state from './state.js';
import { printable } from './text.js';

/** Values that the API document names as defaults. */
const DEFAULTS = { vcpus: 1, memory_mb: 512, timeout_sec: 300 };
const PREFERRED = 'minimal';

/** @type {HTMLFormElement} */
let form;
/** Values that were typed before a snapshot fixed the fields. */
const typed = new Map();

export function start() {
  form = byId('create-form');
  for (const [name, value] of Object.entries(DEFAULTS)) {
    input(name).value = String(value);
    input(name).required = true;
  }
  state.events.addEventListener('change', renderTemplates);
  input('template').addEventListener('change', showFixed);
  onSubmit(form, 'Creating…', create);
}

/** Reads the bounds of this server. Without them the server itself says what is too much. */
export async function loadLimits() {
  const document = await api.getPublic('openapi.json');
  const properties = document?.components?.schemas?.CreateSandbox?.properties ?? {};
  for (const name of Object.keys(DEFAULTS)) {
    const { maximum } = properties[name] ?? {};
    if (Number.isInteger(maximum)) input(name).max = String(maximum);
  }
}

/**
 * Chooses a template, and goes to the form.
 * @param {string} name
 */
export function useTemplate(name) {
  input('template').value = name;
  showFixed();
  input('template').focus();
}

/**
 * @param {string} name
 * @returns {HTMLInputElement}
 */
function input(name) {
  return /** @type {HTMLInputElement} */ (form.elements.namedItem(name));
}

function renderTemplates() {
  const select = input('template');
  const names = state.templates.map(({ name }) => name);
  const present = [...select.children].map(
    (option) => /** @type {HTMLOptionElement} */ (option).value,
  );
  if (names.join('\n') === present.join('\n')) return;
  const chosen = select.value;
  select.replaceChildren(
    ...state.templates.map((template) =>
      el(
        'option',
        { value: template.name },
        printable(template.name) + optionSuffix(template),
      ),
    ),
  );
  if (names.includes(chosen)) select.value = chosen;
  else if (names.includes(PREFERRED)) select.value = PREFERRED;
  showFixed();
}

/** @param {{ type: string, digest?: string }} template */
function optionSuffix({ type, digest }) {
  if (type === 'base') return '';
  return digest ? ' · image' : ' · snapshot';
}

/** @param {{ type: string, digest?: string }} template */
export function templateKind({ type, digest }) {
  if (type === 'snapshot') return 'snapshot with memory';
  if (digest) return 'imported image';
  return type === 'image' ? 'snapshot of the disk' : 'base image';
}

/** Shows what a snapshot with memory decides. */
function showFixed() {
  const template = state.templates.find(({ name }) => name === input('template').value);
  const isFixed = template?.type === 'snapshot';
  byId('create-fixed').hidden = !isFixed;
  for (const name of ['vcpus', 'memory_mb']) {
    const field = input(name);
    if (!field.disabled) typed.set(name, field.value);
    field.disabled = isFixed;
    field.value = isFixed ? String(template[name] ?? '') : typed.get(name);
  }
}

async function create() {
  const body = {
    template: input('template').value || undefined,
    timeout_sec: Number(input('timeout_sec').value),
    on_timeout: input('on_timeout').value,
    public_ports: input('public_ports').checked,
  };
  const sizes = input('vcpus').disabled
    ? {}
    : { vcpus: Number(input('vcpus').value), memory_mb: Number(input('memory_mb').value) };
  const made = await api.post('v1/sandboxes', { ...body, ...sizes });
  notify(`${shortId(made.id)} is running.`);
  await state.refresh();
  // Creating may take long. If the user went on to something else, it keeps the focus: opening the
  // new workspace would send what is being typed to another sandbox.
  const focused = document.activeElement;
  const hasFocus = !focused || focused === document.body || form.contains(focused);
  if (hasFocus && state.sandboxes.some(({ id }) => id === made.id)) state.select(made.id);
}
