// Output of commands as text: of any length, within bounds.

import { el } from './dom.js';
import { printable } from './text.js';

/** Characters that are kept; what is older goes. */
const MOST = 512 * 1024;
/** Characters of one piece, so that little goes at a time. */
const PIECE = 16 * 1024;
/** Pieces that are kept: elements cost more than their characters. */
const MOST_PIECES = 2000;
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
    if (last?.kind === kind && last.text.length + text.length <= PIECE) last.text += text;
    else for (const piece of pieces(text)) this.waiting.push({ kind, text: piece });
    this.waitingLength += text.length;
    while (this.waitingLength > MOST || this.waiting.length > MOST_PIECES) {
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
      const last = element.lastElementChild;
      if (last?.className === kind && last.textContent.length + text.length <= PIECE)
        last.firstChild.appendData(text);
      else element.append(el('span', { className: kind }, text));
      this.length += text.length;
    }
    this.waiting = [];
    this.waitingLength = 0;
    this.cut();
    if (wasAtEnd) element.scrollTop = element.scrollHeight;
  }

  cut() {
    const first = () => this.element.querySelector('span:not(.cut)');
    while (this.length > MOST || this.element.childElementCount > MOST_PIECES) {
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
    const last = this.element.lastElementChild?.textContent ?? '';
    if (last !== '' && !last.endsWith('\n'))
      this.append('result', '\n');
  }

  clear() {
    this.flush();
    this.element.replaceChildren();
    this.length = 0;
    this.isCut = false;
  }
}

/**
 * Cuts a text into pieces, not between the halves of a surrogate pair.
 * @param {string} text
 * @returns {string[]}
 */
function pieces(text) {
  const cut = [];
  for (let begin = 0; begin < text.length; ) {
    let end = Math.min(begin + PIECE, text.length);
    if (end < text.length && /[\ud800-\udbff]/.test(text[end - 1])) end -= 1;
    cut.push(text.slice(begin, end));
    begin = end;
  }
  return cut;
}
