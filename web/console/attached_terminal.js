// A background command on a terminal, over as many connections as it takes. The command belongs to
// the sandbox: a connection that ends takes nothing with it, and the next one goes on at the byte
// where output was.

import * as api from './api.js';
import { sandboxPath } from './actions.js';
import { KEY_PREFIX, PROTOCOL } from './exec_stream.js';
import * as key from './key.js';
import * as state from './state.js';

/** Milliseconds between two attempts: at first, and at most. */
const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 5_000;
/** Bytes of output that a page shows again. */
const TAIL = 256 * 1024;
/** Errors after which another attempt may go better. */
const PASSING = ['host_unavailable', 'internal_error'];

/** @typedef {import('./exec_stream.js').Ending} Ending */

export class AttachedTerminal {
  /**
   * @param {string} id of the sandbox
   * @param {string} command its id
   * @param {{cols: number, rows: number}} size
   * @param {(data: string) => void} onOutput base64
   * @param {(isConnected: boolean) => void} onConnection
   */
  constructor(id, command, size, onOutput, onConnection) {
    this.sandboxId = id;
    this.path = `/commands/${encodeURIComponent(command)}`;
    this.size = size;
    this.onOutput = onOutput;
    this.onConnection = onConnection;
    /** Offset of the next byte; unknown before the first. @type {number | null} */
    this.offset = null;
    this.pause = FIRST_PAUSE;
    this.isClosedHere = false;
    /** @type {WebSocket | null} */
    this.socket = null;
    /** Resolves at the end of the command, or of all attempts, and never fails. @type {Promise<Ending>} */
    this.ended = this.run();
  }

  /** @returns {Promise<Ending>} */
  async run() {
    for (;;) {
      const ending = await this.connect();
      if (ending) return ending;
      if (this.isClosedHere) return { exitCode: null, error: 'this page left it' };
      this.onConnection(false);
      const error = await this.wait();
      if (error) return { exitCode: null, error };
    }
  }

  /**
   * Stays connected as long as that lasts.
   * @returns {Promise<Ending | null>} null where another connection goes on
   */
  connect() {
    const url = api.address(sandboxPath(this.sandboxId, `${this.path}/attach`));
    url.protocol = url.protocol.replace('http', 'ws');
    url.searchParams.set('encoding', 'base64');
    if (this.offset === null) url.searchParams.set('tail_bytes', String(TAIL));
    else url.searchParams.set('offset', String(this.offset));
    const began = performance.now();
    const socket = new WebSocket(url, [PROTOCOL, KEY_PREFIX + (key.currentKey() ?? '')]);
    this.socket = socket;
    /** @type {Ending | null} */
    let ending = null;
    let isOpen = false;
    socket.addEventListener('open', () => {
      isOpen = true;
    });
    socket.addEventListener('message', ({ data }) => {
      ending = this.receive(JSON.parse(data)) ?? ending;
    });
    return new Promise((resolve) => {
      socket.addEventListener('close', () => {
        this.socket = null;
        api.record({
          time: new Date(),
          method: 'WS',
          path: url.pathname,
          status: isOpen ? 101 : 0,
          ms: Math.round(performance.now() - began),
          error: ending?.error ?? '',
          isRefresh: false,
        });
        resolve(ending);
      });
    });
  }

  /**
   * @param {any} message
   * @returns {Ending | null} where it is the last one
   */
  receive(message) {
    switch (message.type) {
      case 'attached':
        this.pause = FIRST_PAUSE;
        this.onConnection(true);
        // Also where it is the present size: a full-screen program is drawn again.
        this.resize(this.size);
        break;
      case 'stdout':
      case 'stderr':
        this.offset = message.next_offset;
        this.onOutput(message.data);
        break;
      case 'dropped':
        this.offset = message.next_offset;
        this.resize(this.size);
        break;
      case 'exit':
        return { exitCode: message.exit_code, error: '' };
      case 'error':
        if (!PASSING.includes(message.code)) return { exitCode: null, error: message.data };
    }
    return null;
  }

  /**
   * Waits until the server answers again. Its answers to the table are waited for, so that nothing
   * is asked of a server that is lost.
   * @returns {Promise<string>} why there is no other attempt; empty where there is one
   */
  async wait() {
    await new Promise((resolve) => setTimeout(resolve, this.pause));
    this.pause = Math.min(this.pause * 2, LONGEST_PAUSE);
    const answered = new Promise((resolve) =>
      state.events.addEventListener('refreshed', resolve, { once: true }),
    );
    void state.refresh();
    await answered;
    if (this.isClosedHere) return 'this page left it';
    const sandbox = state.sandboxes.find(({ id }) => id === this.sandboxId);
    if (!sandbox) return 'the sandbox is gone';
    if (sandbox.status === 'paused') return 'the sandbox is paused; resume it and open it again';
    if (sandbox.status !== 'running') return `the sandbox is not running: ${sandbox.status}`;
    try {
      await api.get(sandboxPath(this.sandboxId, this.path), true);
      return '';
    } catch (error) {
      const isPassing =
        error instanceof api.ApiError && (error.status === 0 || PASSING.includes(error.code));
      if (isPassing) return '';
      return error instanceof Error ? error.message : String(error);
    }
  }

  /** @param {Record<string, any>} message */
  send(message) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  /** @param {{cols: number, rows: number}} size */
  resize(size) {
    this.size = size;
    this.send({ type: 'resize', size });
  }

  /** Hangs up; the command runs on. */
  close() {
    this.isClosedHere = true;
    this.socket?.close();
  }
}
