// Output of commands as text: of any length, within bounds.

import { el } from './dom.js';
import { printable } from './text.js';

/** Characters that are kept; what is older goes. */
const MOST = 512 * 1024;
/** Characters of one element, so that little goes at a time. */
const PIECE = 16 * 1024;
/** Milliseconds in which output is gathered before it is shown. */
const GATHER = 40;

export class Output {
  /** @param {string} label */
  constructor(label) {
    this.element = el('pre', {
      className: 'output',
      tabIndex: 0,
      role: 'log',
      'aria-live': 'off',
      'aria-label': label,
      'data-empty': 'Output appears here: standard output plain, standard error in red.',
    });
    /** @type {{kind: string, text: string}[]} */
    this.waiting = [];
    this.waitingLength = 0;
    this.length = 0;
    this.isCut = false;
    this.timer = 0;
    this.endsInReturn = false;
  }

  /**
   * @param {string} kind a class: `command`, `stdout`, `stderr`, `result`
   * @param {string} raw
   */
  append(kind, raw) {
    const text = this.readable(raw);
    const last = this.waiting.at(-1);
    if (last?.kind === kind && last.text.length < PIECE) last.text += text;
    else this.waiting.push({ kind, text });
    this.waitingLength += text.length;
    while (this.waitingLength > MOST) {
      this.waitingLength -= this.waiting.shift()?.text.length ?? 0;
      this.isCut = true;
    }
    this.timer ||= setTimeout(() => this.flush(), GATHER);
  }

  /**
   * Makes carriage returns ends of lines, and shows other control characters.
   * @param {string} raw
   */
  readable(raw) {
    const text = this.endsInReturn && raw.startsWith('\n') ? raw.slice(1) : raw;
    this.endsInReturn = raw.endsWith('\r');
    return printable(text.replace(/\r\n?/g, '\n'), '\n\t');
  }

  flush() {
    clearTimeout(this.timer);
    this.timer = 0;
    const element = this.element;
    const wasAtEnd = element.scrollHeight - element.scrollTop - element.clientHeight < 24;
    for (const { kind, text } of this.waiting) {
      element.append(el('span', { className: kind }, text));
      this.length += text.length;
    }
    this.waiting = [];
    this.waitingLength = 0;
    this.cut();
    if (wasAtEnd) element.scrollTop = element.scrollHeight;
  }

  cut() {
    const first = () => this.element.querySelector('span:not(.cut)');
    while (this.length > MOST) {
      this.length -= first().textContent.length;
      first().remove();
      this.isCut = true;
    }
    if (this.isCut && !this.element.querySelector('.cut')) {
      this.element.prepend(
        el('span', { className: 'result cut' }, '… earlier output is not kept\n'),
      );
    }
  }

  /** Begins a line, if the last one has not ended. */
  freshLine() {
    this.flush();
    if (this.element.textContent !== '' && !this.element.textContent.endsWith('\n'))
      this.append('result', '\n');
  }

  clear() {
    this.flush();
    this.element.replaceChildren();
    this.length = 0;
    this.isCut = false;
  }
}
