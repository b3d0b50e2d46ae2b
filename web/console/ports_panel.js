// Signed URLs of a sandbox's ports.

import * as api from './api.js';
import { sandboxPath } from './actions.js';
import { el } from './dom.js';
import { onSubmit } from './forms.js';
import { printable } from './text.js';

/** Lives of links, in seconds. @type {[string, number][]} */
const LIVES = [
  ['1 hour', 3600],
  ['8 hours', 28800],
  ['7 days', 604800],
];

export class PortsPanel {
  /** @param {string} id of the sandbox */
  constructor(id) {
    this.id = id;
    this.port = el('input', {
      id: `port-${id}`,
      name: 'port',
      type: 'number',
      min: 1,
      max: 65535,
      step: 1,
      required: true,
      placeholder: '3000',
      inputMode: 'numeric',
    });
    this.life = el(
      'select',
      { id: `life-${id}`, name: 'expires_in_sec' },
      ...LIVES.map(([label, value]) => el('option', { value }, label)),
    );
    const form = el(
      'form',
      { className: 'row', noValidate: true },
      el('div', { className: 'field' }, el('label', { for: this.port.id }, 'Port'), this.port),
      el('div', { className: 'field' }, el('label', { for: this.life.id }, 'Works for'), this.life),
      el('button', { type: 'submit', className: 'primary' }, 'Create link'),
    );
    this.result = el('p', { className: 'link-result', role: 'status' });
    this.element = el(
      'div',
      { className: 'panel' },
      el(
        'p',
        { className: 'muted' },
        'Anyone with the link reaches what listens on the port, until it expires. It wakes a paused sandbox.',
      ),
      form,
      this.result,
    );
    onSubmit(form, 'Creating…', () => this.create());
  }

  async create() {
    const port = Number(this.port.value);
    const link = await api.post(sandboxPath(this.id, '/port-links'), {
      port,
      expires_in_sec: Number(this.life.value),
    });
    const url = new URL(link.url);
    if (!['http:', 'https:'].includes(url.protocol))
      throw new Error(`the link has the scheme ${url.protocol}`);
    // A page of a sandbox gets no handle of this one.
    const open = el(
      'a',
      { href: url.href, target: '_blank', rel: 'noopener noreferrer' },
      `Open port ${port}`,
    );
    const end = link.expires_at ? `, until ${new Date(link.expires_at).toLocaleString()}` : '';
    this.result.replaceChildren(open, end, el('br'), el('code', {}, printable(url.href)));
    open.focus();
  }

  focus() {
    this.port.focus();
  }

  close() {}
}
