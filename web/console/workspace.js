// Work inside one sandbox: commands, terminal, checkpoints, ports. A workspace stays, with
// what runs in it, while another one is open; it goes with its sandbox.

import { button, byId, el, setText } from './dom.js';
import { CheckpointsPanel } from './checkpoints_panel.js';
import { ExecPanel } from './exec_panel.js';
import { notify } from './notices.js';
import { PortsPanel } from './ports_panel.js';
import { focusRow, updateBadge } from './sandbox_table.js';
import * as state from './state.js';
import { TerminalPanel } from './terminal_panel.js';
import { printable } from './text.js';

/** @type {Map<string, Workspace>} */
const open = new Map();
/** @type {string | null} */
let shown = null;
/** Under which this tab keeps the sandbox and the panel that are open, for a reload. */
const REMEMBERED = 'wrenn-workspace';
/** What was open before the page was loaded. @type {{id: string, panel: string} | null} */
let before = JSON.parse(sessionStorage.getItem(REMEMBERED) ?? 'null');

export function start() {
  state.events.addEventListener('refreshed', reopen);
  state.events.addEventListener('change', render);
}

/** Opens what was open before a reload, once it is known what is there. */
function reopen() {
  if (!before) return;
  const { id, panel } = before;
  before = null;
  if (state.selected || !state.sandboxes.some((sandbox) => sandbox.id === id)) return;
  state.select(id);
  open.get(id)?.choose(panel);
}

function render() {
  const present = new Set(state.sandboxes.map(({ id }) => id));
  for (const [id, workspace] of open) {
    if (present.has(id)) continue;
    const hadFocus = workspace.element.contains(document.activeElement);
    workspace.close();
    open.delete(id);
    if (hadFocus) byId('sandboxes-title').focus();
  }
  const id = state.selected;
  if (id && !open.has(id)) {
    const made = new Workspace(id);
    open.set(id, made);
    byId('workspaces').append(made.element);
  }
  for (const [key, workspace] of open) {
    workspace.element.hidden = key !== id;
    workspace.update(state.sandboxes.find((sandbox) => sandbox.id === key));
  }
  const chosen = id ? open.get(id) : null;
  if (chosen && shown !== id) chosen.shown();
  if (shown !== id) remember(chosen);
  shown = id;
}

/** @param {Workspace | null | undefined} workspace */
function remember(workspace) {
  if (before) return;
  const { id, current } = workspace ?? {};
  if (id) sessionStorage.setItem(REMEMBERED, JSON.stringify({ id, panel: current }));
  else sessionStorage.removeItem(REMEMBERED);
}

class Workspace {
  /** @param {string} id */
  constructor(id) {
    this.id = id;
    /** @type {Record<string, any>} */
    this.panels = {
      Command: new ExecPanel(id),
      Terminal: new TerminalPanel(id),
      Checkpoints: new CheckpointsPanel(id),
      Ports: new PortsPanel(id),
    };
    this.current = 'Command';
    const title = el('h2', { id: `title-${id}`, className: 'id' }, printable(id));
    this.badge = el('span', { className: 'badge' });
    // Not "Close": commands and terminals go on.
    const hide = button('Hide', 'small', () => {
      state.select(null);
      focusRow(id);
    });
    hide.title = 'Commands and terminals go on; open the sandbox again to see them.';
    const head = el(
      'div',
      { className: 'card-head' },
      el('div', { className: 'workspace-id' }, title, this.badge),
      button('Copy id', 'small', () => copyId(id)),
      hide,
    );
    this.tabs = el(
      'div',
      { className: 'tabs', role: 'tablist', 'aria-labelledby': title.id },
      ...Object.keys(this.panels).map((name) => this.tab(name)),
    );
    this.tabs.addEventListener('keydown', (/** @type {KeyboardEvent} */ event) => this.step(event));
    this.element = el(
      'section',
      { className: 'card', 'aria-labelledby': title.id },
      head,
      this.tabs,
    );
    for (const [name, { element }] of Object.entries(this.panels)) {
      element.id = `panel-${name}-${id}`;
      element.setAttribute('role', 'tabpanel');
      element.setAttribute('aria-labelledby', `tab-${name}-${id}`);
      this.element.append(element);
    }
    this.choose('Command');
  }

  /** @param {string} name */
  tab(name) {
    const tab = button(name, '', () => {
      this.choose(name);
      this.panels[name].focus();
    });
    tab.id = `tab-${name}-${this.id}`;
    tab.setAttribute('role', 'tab');
    tab.setAttribute('aria-controls', `panel-${name}-${this.id}`);
    tab.dataset.name = name;
    return tab;
  }

  /** @param {string} name */
  choose(name) {
    this.current = name;
    for (const tab of this.tabs.children) {
      const isChosen = tab.dataset.name === name;
      tab.setAttribute('aria-selected', String(isChosen));
      tab.tabIndex = isChosen ? 0 : -1;
      this.panels[tab.dataset.name].element.hidden = !isChosen;
    }
    this.panels[name].show?.();
    if (this.element?.isConnected) remember(this);
  }

  /**
   * Moves between tabs by the arrows.
   * @param {KeyboardEvent} event
   */
  step(event) {
    const names = Object.keys(this.panels);
    const place = names.indexOf(this.current);
    const next = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: names.length - 1 }[
      event.key
    ];
    if (next === undefined) return;
    event.preventDefault();
    const name = names[(next + names.length) % names.length];
    this.choose(name);
    byId(`tab-${name}-${this.id}`).focus();
  }

  /** The workspace has come into sight. */
  shown() {
    this.choose(this.current);
    this.element.scrollIntoView({ block: 'nearest' });
    this.panels[this.current].focus();
  }

  /** @param {any} sandbox */
  update(sandbox) {
    if (!sandbox) return;
    updateBadge(this.badge, sandbox);
    setText(byId(`title-${this.id}`), printable(sandbox.id));
  }

  close() {
    for (const panel of Object.values(this.panels)) panel.close();
    this.element.remove();
  }
}

/** @param {string} id */
async function copyId(id) {
  try {
    await navigator.clipboard.writeText(id);
    notify('The id is copied.');
  } catch {
    notify('This browser lets no page copy over plain http; select the id and copy it.', true);
  }
}
