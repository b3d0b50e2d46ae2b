// Runs commands in a sandbox, and shows their output.

import { button, el, setEnabled } from './dom.js';
import { ExecStream } from './exec_stream.js';
import { clearErrors } from './forms.js';
import { Output } from './output.js';
import * as state from './state.js';
import { printable } from './text.js';

/** Signals that can be sent, the first one by default. */
const SIGNALS = ['SIGTERM', 'SIGINT', 'SIGKILL', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2'];

export class ExecPanel {
  /** @param {string} id of the sandbox */
  constructor(id) {
    this.id = id;
    /** @type {string[]} */
    this.history = [];
    this.place = 0;
    /** @type {ExecStream | null} */
    this.stream = null;
    this.output = new Output(`Output of commands in ${id}`);
    this.status = el('span', { className: 'hidden-text', role: 'status' });
    this.form = this.makeForm();
    this.element = el('div', { className: 'panel' }, this.form, this.output.element, this.status);
    this.showRunning(false);
  }

  makeForm() {
    /** @param {string} name @param {string} label @param {string} className @param {object} more */
    const field = (name, label, className, more) => {
      const input = el('input', {
        id: `${name}-${this.id}`,
        name,
        type: 'text',
        autocomplete: 'off',
        spellcheck: false,
        ...more,
      });
      return {
        input,
        element: el(
          'div',
          { className: `field ${className}` },
          el('label', { for: input.id }, label),
          input,
        ),
      };
    };
    const command = field('cmd', 'Command, for sh', 'grow', {
      className: 'mono',
      placeholder: "python3 -c 'print(6 * 7)'",
    });
    const cwd = field('cwd', 'Directory', 'middle', { className: 'mono', placeholder: 'home' });
    const user = field('user', 'User', '', { placeholder: 'default' });
    this.command = command.input;
    this.cwd = cwd.input;
    this.user = user.input;
    this.run = el('button', { type: 'submit', className: 'primary' }, 'Run');
    this.signal = el(
      'select',
      { 'aria-label': 'Signal' },
      ...SIGNALS.map((name) => el('option', {}, name)),
    );
    this.stop = button('Stop', 'danger', () =>
      this.stream?.send({ type: 'signal', signal: this.signal.value }),
    );
    const clear = button('Clear', '', () => this.output.clear());
    this.stopping = el(
      'div',
      { className: 'row' },
      el('div', { className: 'field' }, this.signal),
      this.stop,
    );
    const form = el(
      'form',
      { className: 'row', noValidate: true },
      command.element,
      cwd.element,
      user.element,
      this.run,
      this.stopping,
      clear,
    );
    form.addEventListener('submit', (/** @type {Event} */ event) => {
      event.preventDefault();
      void this.start();
    });
    this.command.addEventListener('keydown', (/** @type {KeyboardEvent} */ event) =>
      this.recall(event),
    );
    return form;
  }

  async start() {
    const line = this.command.value;
    if (this.stream || line.trim() === '') return;
    clearErrors(this.form);
    if (this.history.at(-1) !== line) this.history.push(line);
    this.place = this.history.length;
    this.command.value = '';
    this.output.freshLine();
    this.output.append('command', `$ ${line}\n`);
    const start = {
      cmd: 'sh',
      args: ['-c', line],
      cwd: this.cwd.value || undefined,
      user: this.user.value || undefined,
    };
    this.stream = new ExecStream(this.id, start, (kind, data) => this.output.append(kind, data));
    this.showRunning(true);
    const { exitCode, error } = await this.stream.ended;
    const seconds = ((performance.now() - this.stream.began) / 1000).toFixed(2);
    this.stream = null;
    this.output.freshLine();
    const told = error ? printable(error) : `exit code ${exitCode}`;
    this.output.append(
      error || exitCode !== 0 ? 'result bad' : 'result',
      `${told} · ${seconds} s\n`,
    );
    this.status.textContent = `The command ended: ${told}`;
    this.showRunning(false);
    // It may have woken the sandbox, or been cut off by its end.
    void state.refresh();
  }

  /** @param {boolean} isRunning */
  showRunning(isRunning) {
    const hadFocus = this.stopping.contains(document.activeElement);
    this.stopping.hidden = !isRunning;
    setEnabled(this.run, !isRunning);
    this.run.textContent = isRunning ? 'Running…' : 'Run';
    if (hadFocus && !isRunning) this.command.focus();
  }

  /**
   * Gives earlier commands by the arrows, as shells do.
   * @param {KeyboardEvent} event
   */
  recall(event) {
    const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    this.place = Math.min(Math.max(this.place + step, 0), this.history.length);
    this.command.value = this.history[this.place] ?? '';
  }

  focus() {
    this.command.focus();
  }

  close() {
    this.stream?.close();
  }
}
