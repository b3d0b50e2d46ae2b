// A shell on a terminal in a sandbox, drawn by xterm.js. It is a background command of the sandbox:
// this tab remembers which, and goes on with it after a lost connection and after a reload.

import { sandboxPath } from './actions.js';
import * as api from './api.js';
import { AttachedTerminal } from './attached_terminal.js';
import { button, el, setEnabled } from './dom.js';
import { runOrNotify } from './notices.js';
import * as state from './state.js';
import { printable } from './text.js';
import { allowStyles } from './xterm_styles.js';

/** The user's shell where it is bash, which completes and recalls; sh is everywhere. */
const SHELL = ['-c', 'command -v bash >/dev/null && exec bash -l; exec sh -l'];
/** Bytes that wait to be drawn. A guest can send faster than any browser draws; what is beyond is left out. */
const MOST_WAITING = 8 * 1024 * 1024;
/** Bytes of input in one frame. */
const FRAME = 32 * 1024;
/** Begins the key under which this tab keeps the command of a sandbox's terminal. */
const REMEMBERED = 'wrenn-terminal-';

const DARK = {
  background: '#0f151c',
  foreground: '#e3e9f0',
  cursor: '#2cc9b8',
  selectionBackground: '#2b4a5a',
};

export class TerminalPanel {
  /** @param {string} id of the sandbox */
  constructor(id) {
    this.id = id;
    /** @type {any} */
    this.terminal = null;
    /** @type {AttachedTerminal | null} */
    this.stream = null;
    /** Id of the command that this tab has here. @type {string | null} */
    this.command = sessionStorage.getItem(REMEMBERED + id);
    this.waiting = 0;
    this.isOpening = false;
    this.isClosed = false;
    this.isRead = false;
    this.message = el(
      'p',
      { role: 'status' },
      'A login shell in the sandbox. While this page shows it the sandbox stays awake.',
    );
    this.connect = button('Open terminal', 'primary', () => this.open());
    this.cover = el('div', { className: 'cover' }, this.message, this.connect);
    this.screen = el('div', { className: 'screen' });
    this.copyButton = button('Copy', 'small', () => this.copy());
    this.paste = button('Paste', 'small', () => this.pasteClipboard());
    this.reader = button('Screen reader', 'small', () => this.toggleReader());
    this.reader.setAttribute('aria-pressed', 'false');
    this.end = button('End', 'small danger', () => this.kill());
    this.connection = el('p', { className: 'connection', role: 'status' });
    this.connection.hidden = true;
    const hint = el(
      'p',
      { className: 'muted small-text grow' },
      'Copy: Ctrl+Shift+C. Paste: Ctrl+Shift+V. Leave by keyboard: Ctrl+Shift+L.',
    );
    this.element = el(
      'div',
      { className: 'panel' },
      el('div', { className: 'terminal-box' }, this.screen, this.cover, this.connection),
      el('div', { className: 'row' }, hint, this.reader, this.copyButton, this.paste, this.end),
    );
    this.showOpen(false);
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(this.screen);
  }

  /** Fits the terminal to its place. A hidden one has no size and keeps what it had. */
  resize() {
    if (this.screen.clientWidth > 0) this.fit?.fit();
  }

  async open() {
    if (this.stream || this.isOpening || this.isClosed) return;
    this.isOpening = true;
    const isLoaded = await this.load();
    // The sandbox may have gone while the terminal was loaded.
    if (!isLoaded || this.isClosed) {
      this.isOpening = false;
      return;
    }
    this.resize();
    const { cols, rows } = this.terminal;
    const size = { cols, rows };
    this.terminal.reset();
    try {
      this.command ??= await this.start(size);
    } catch (error) {
      const reason = printable(error instanceof Error ? error.message : error);
      this.message.textContent = `No shell was started: ${reason}.`;
      return;
    } finally {
      this.isOpening = false;
    }
    if (this.isClosed) return;
    sessionStorage.setItem(REMEMBERED + this.id, this.command);
    this.stream = new AttachedTerminal(
      this.id,
      this.command,
      size,
      (data) => this.draw(data),
      (isConnected) => this.showConnection(isConnected),
    );
    this.showOpen(true);
    if (this.screen.checkVisibility()) this.terminal.focus();
    const { exitCode, error } = await this.stream.ended;
    this.stream = null;
    if (this.isClosed) return;
    this.showConnection(true);
    const told = error
      ? `The terminal is left: ${error}.`
      : `The shell ended with exit code ${exitCode}.`;
    this.message.textContent = printable(told);
    await this.forgetEnded(error);
    const hadFocus = this.element.contains(document.activeElement);
    this.showOpen(false);
    if (hadFocus) this.connect.focus();
    void state.refresh();
  }

  /**
   * @param {{cols: number, rows: number}} size
   * @returns {Promise<string>} id of the command
   */
  async start(size) {
    const { id } = await api.post(sandboxPath(this.id, '/commands'), {
      cmd: 'sh',
      args: SHELL,
      stdin: true,
      terminal: size,
      envs: { TERM: 'xterm-256color', COLORTERM: 'truecolor' },
    });
    return id;
  }

  /**
   * Forgets a shell that has ended; one that runs can be gone on with.
   * @param {string} error
   */
  async forgetEnded(error) {
    const isGone = (/** @type {unknown} */ reason) =>
      reason instanceof api.ApiError && reason.status === 404;
    if (error) {
      const command = await api
        .get(sandboxPath(this.id, `/commands/${this.command}`), true)
        .catch((reason) => (isGone(reason) ? { state: 'exited' } : null));
      if (command?.state !== 'exited') {
        this.connect.textContent = 'Reconnect';
        return;
      }
    }
    this.command = null;
    sessionStorage.removeItem(REMEMBERED + this.id);
    this.connect.textContent = 'Open another one';
  }

  /** Ends the shell with all that it started. */
  kill() {
    void runOrNotify('The shell was not ended', () =>
      api.post(sandboxPath(this.id, `/commands/${this.command}/signal`), { signal: 'SIGKILL' }),
    );
  }

  /** @param {boolean} isConnected */
  showConnection(isConnected) {
    this.connection.hidden = isConnected;
    this.connection.textContent = isConnected
      ? ''
      : 'The connection is lost. The shell runs on, and this page reconnects by itself.';
  }

  /** The panel has come into sight. */
  show() {
    this.resize();
    if (this.command && !this.stream) void this.open();
  }

  /** Fetches xterm.js once, and makes the terminal; tells where the server has none. */
  async load() {
    if (this.terminal) return true;
    // Browsers keep the failure of an import for its address.
    const again = retries ? `?retry=${retries}` : '';
    try {
      const [{ Terminal }, { FitAddon }] = await Promise.all([
        // @ts-ignore: fetched by scripts/build-console.sh
        import(`./vendor/xterm.mjs${again}`),
        // @ts-ignore
        import(`./vendor/addon-fit.mjs${again}`),
        loadStyles(),
      ]);
      if (!this.isClosed) this.make(Terminal, FitAddon);
      return true;
    } catch (error) {
      retries += 1;
      const reason = printable(error instanceof Error ? error.message : error);
      this.message.textContent =
        `The terminal was not loaded: ${reason}. The server may be away, or was built without ` +
        'xterm.js: then run `make build` and start it again. The tab Command works without.';
      this.connect.textContent = 'Try again';
      return false;
    }
  }

  /** @param {any} Terminal @param {any} FitAddon */
  make(Terminal, FitAddon) {
    allowStyles();
    const terminal = new Terminal({
      cursorBlink: true,
      fontFamily: 'ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace',
      fontSize: 13,
      // A link of a guest leads where the guest likes; the text can be copied.
      linkHandler: { activate() {} },
      screenReaderMode: this.isRead,
      theme: DARK,
    });
    const fit = new FitAddon();
    terminal.loadAddon(fit);
    this.screen.replaceChildren();
    terminal.open(this.screen);
    terminal.onData((/** @type {string} */ text) => this.type(new TextEncoder().encode(text)));
    terminal.onBinary((/** @type {string} */ text) =>
      this.type(Uint8Array.from(text, (character) => character.charCodeAt(0))),
    );
    terminal.onResize((/** @type {any} */ { cols, rows }) =>
      this.stream?.resize({ cols, rows }),
    );
    terminal.onSelectionChange(() =>
      setEnabled(this.copyButton, terminal.hasSelection()),
    );
    terminal.attachCustomKeyEventHandler((/** @type {KeyboardEvent} */ event) =>
      this.ownKey(event),
    );
    setEnabled(this.copyButton, false);
    // Last: what failed above is made anew by the next try.
    this.fit = fit;
    this.terminal = terminal;
  }

  /** @param {string} data base64 */
  draw(data) {
    const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
    if (this.waiting > MOST_WAITING) return;
    this.waiting += bytes.length;
    this.terminal.write(bytes, () => {
      this.waiting -= bytes.length;
    });
  }

  /** @param {Uint8Array} bytes */
  type(bytes) {
    for (let begin = 0; begin < bytes.length; begin += FRAME) {
      const piece = bytes.subarray(begin, begin + FRAME);
      this.stream?.send({
        type: 'stdin',
        data: btoa(String.fromCharCode(...piece)),
        encoding: 'base64',
      });
    }
  }

  /**
   * Keys that are not for the shell.
   * @param {KeyboardEvent} event
   * @returns {boolean} true if the terminal gets it
   */
  ownKey(event) {
    if (!event.ctrlKey || !event.shiftKey) return true;
    const act = { KeyC: () => this.copy(), KeyL: () => this.end.focus() }[event.code];
    // Pasting is the browser's own, for which xterm.js listens.
    if (!act) return event.code !== 'KeyV';
    event.preventDefault();
    if (event.type === 'keydown') act();
    return false;
  }

  /** Toggles reading out, while which xterm.js takes no text from emoji pickers and the like. */
  toggleReader() {
    this.isRead = !this.isRead;
    this.reader.setAttribute('aria-pressed', String(this.isRead));
    if (this.terminal) this.terminal.options.screenReaderMode = this.isRead;
  }

  copy() {
    const text = this.terminal?.getSelection() ?? '';
    if (text === '') return;
    void runOrNotify('Nothing was copied; select the text and use the menu of the browser', () =>
      navigator.clipboard.writeText(text),
    );
  }

  pasteClipboard() {
    void runOrNotify('Nothing was pasted; use Ctrl+Shift+V in the terminal', async () => {
      this.terminal?.paste(await navigator.clipboard.readText());
      this.terminal?.focus();
    });
  }

  /** @param {boolean} isOpen */
  showOpen(isOpen) {
    this.cover.hidden = isOpen;
    this.screen.inert = !isOpen;
    setEnabled(this.paste, isOpen);
    setEnabled(this.end, isOpen);
    if (!this.terminal) setEnabled(this.copyButton, false);
  }

  focus() {
    if (this.stream) this.terminal?.focus();
    else this.connect.focus();
  }

  close() {
    this.isClosed = true;
    this.observer.disconnect();
    this.stream?.close();
    this.terminal?.dispose();
  }
}

/** Number of loads of xterm.js that failed. */
let retries = 0;
/** @type {Promise<void> | null} */
let styles = null;

/** @returns {Promise<void>} */
function loadStyles() {
  styles ??= new Promise((resolve, reject) => {
    const link = el('link', { rel: 'stylesheet', href: 'test/vendor/xterm.css' });
    link.addEventListener('load', () => resolve());
    link.addEventListener('error', () => {
      styles = null;
      link.remove();
      reject(new Error('no style sheet of xterm.js'));
    });
    document.head.append(link);
  });
  return styles;
}
