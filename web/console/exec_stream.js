// One command over the WebSocket of `exec/stream`.

import * as api from './api.js';
import { sandboxPath } from './actions.js';
import * as key from './key.js';

/** Subprotocols: browsers set no headers here, so the key is one of them; the server chooses the other. */
export const PROTOCOL = 'wrenn.v1';
export const KEY_PREFIX = 'wrenn.bearer.';

/** Streams that have not ended. @type {Set<ExecStream>} */
export const openStreams = new Set();

/**
 * @typedef {object} Ending how a command, or the connection to it, ended
 * @property {number | null} exitCode
 * @property {string} error empty where the command ended by itself
 */

export class ExecStream {
  /**
   * Starts a command.
   * @param {string} id of the sandbox
   * @param {Record<string, any>} start the frame `start` without its type
   * @param {(kind: 'stdout' | 'stderr', data: string) => void} onOutput
   */
  constructor(id, start, onOutput) {
    const url = api.address(sandboxPath(id, '/exec/stream'));
    url.protocol = url.protocol.replace('http', 'ws');
    this.sandboxId = id;
    this.path = url.pathname;
    this.began = performance.now();
    this.isOpen = false;
    this.isClosedHere = false;
    /** @type {Ending | null} */
    this.ending = null;
    /** Resolves when the command runs; never, where it does not start. @type {Promise<void>} */
    this.started = new Promise((resolve) => {
      this.resolveStarted = resolve;
    });
    openStreams.add(this);
    this.socket = new WebSocket(url, [PROTOCOL, KEY_PREFIX + (key.currentKey() ?? '')]);
    /** Resolves at the end, and never fails. @type {Promise<Ending>} */
    this.ended = new Promise((resolve) => {
      this.socket.addEventListener('open', () => {
        this.isOpen = true;
        this.send({ type: 'start', ...start });
      });
      this.socket.addEventListener('message', ({ data }) =>
        this.receive(JSON.parse(data), onOutput),
      );
      this.socket.addEventListener('close', () => void this.conclude().then(resolve));
    });
  }

  /**
   * @param {any} message
   * @param {(kind: 'stdout' | 'stderr', data: string) => void} onOutput
   */
  receive(message, onOutput) {
    switch (message.type) {
      case 'start':
        this.resolveStarted?.();
        break;
      case 'stdout':
      case 'stderr':
        onOutput(message.type, message.data);
        break;
      case 'exit':
        this.ending = { exitCode: message.exit_code, error: '' };
        break;
      case 'error':
        this.ending = { exitCode: message.exit_code ?? null, error: message.data };
        break;
    }
  }

  /** @returns {Promise<Ending>} */
  async conclude() {
    openStreams.delete(this);
    const ms = Math.round(performance.now() - this.began);
    const ending = this.ending ?? { exitCode: null, error: await this.reason() };
    const status = this.isOpen ? 101 : 0;
    api.record({
      time: new Date(),
      method: 'WS',
      path: this.path,
      status,
      ms,
      error: ending.error,
      isRefresh: false,
    });
    return ending;
  }

  /** Finds out why the connection ended or did not come about, which browsers do not tell. */
  async reason() {
    if (this.isClosedHere) return 'this page ended it';
    if (this.isOpen) return 'the connection was lost, and the command with it';
    try {
      const { status } = await api.get(sandboxPath(this.sandboxId), true);
      if (status === 'paused') return 'the sandbox is paused; resume it';
      if (status !== 'running') return `the sandbox is not running: ${status}`;
      return (
        'the server refused the WebSocket: the key may not run commands, too many of them run, ' +
        'or a proxy in front of the server does not pass on the header Host and upgrades'
      );
    } catch (error) {
      return error instanceof Error ? error.message : String(error);
    }
  }

  /** @param {Record<string, any>} message */
  send(message) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  /** Hangs up, which kills the command. */
  close() {
    this.isClosedHere = true;
    this.socket.close();
  }
}
