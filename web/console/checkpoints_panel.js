// Checkpoints of a sandbox.

import * as api from './api.js';
import { sandboxPath, shortId } from './actions.js';
import { NAME, openDialog } from './dialogs.js';
import { button, el, setText, updateChildren } from './dom.js';
import { notify } from './notices.js';
import * as state from './state.js';
import { formatBytes, printable } from './text.js';

export class CheckpointsPanel {
  /** @param {string} id of the sandbox */
  constructor(id) {
    this.id = id;
    this.create = button('Create checkpoint', 'primary', () => this.askForNew());
    this.note = el('p', { className: 'empty' }, 'loading…');
    this.rows = el('tbody');
    const heads = ['Name', 'Size', 'Created', ''].map((name) => el('th', { scope: 'col' }, name));
    this.table = el(
      'table',
      { className: 'table', 'aria-label': `Checkpoints of ${id}`, hidden: true },
      el('thead', {}, el('tr', {}, ...heads)),
      this.rows,
    );
    const top = el(
      'div',
      { className: 'card-head' },
      el(
        'p',
        { className: 'muted grow' },
        'Saved states of memory and disk that the sandbox can be rolled back to.',
      ),
      this.create,
    );
    this.element = el('div', { className: 'panel' }, top, this.note, this.table);
  }

  /** The panel is shown: what it has may be old. */
  async show() {
    try {
      const list = await api.get(sandboxPath(this.id, '/checkpoints'), true);
      updateChildren(
        this.rows,
        list,
        {
          key: ({ name, created_at: at }) => `${name} ${at}`,
          create: (checkpoint) => this.row(checkpoint),
          update: () => {},
        },
        this.create,
      );
      this.table.hidden = list.length === 0;
      this.note.hidden = list.length > 0;
      setText(this.note, 'There is no checkpoint.');
    } catch (error) {
      this.table.hidden = true;
      this.note.hidden = false;
      setText(this.note, printable(error instanceof Error ? error.message : error));
    }
  }

  /** @param {any} checkpoint */
  row({ name, size_bytes: bytes, created_at: at }) {
    const rollback = button('Roll back', 'small', () => this.askForRollback(name));
    rollback.setAttribute('aria-label', `Roll back to ${name}`);
    const remove = button('Delete', 'small danger', () => this.askForDelete(name));
    remove.setAttribute('aria-label', `Delete the checkpoint ${name}`);
    return el(
      'tr',
      {},
      el('td', { className: 'mono' }, printable(name)),
      el('td', {}, formatBytes(bytes)),
      el('td', {}, new Date(at).toLocaleString()),
      el('td', {}, el('div', { className: 'buttons' }, rollback, remove)),
    );
  }

  askForNew() {
    return openDialog({
      title: `Create a checkpoint of ${shortId(this.id)}`,
      fields: [
        {
          name: 'name',
          label: 'Name',
          input: { ...NAME, className: 'mono', placeholder: 'generated if empty' },
        },
      ],
      action: 'Create checkpoint',
      busy: 'Creating…',
      act: ({ name }) =>
        state.whileBusy(this.id, 'Saving', async () => {
          const made = await api.post(sandboxPath(this.id, '/checkpoints'), {
            name: name || undefined,
          });
          notify(`Checkpoint ${made.name} created.`);
          await this.show();
        }),
    });
  }

  /** @param {string} name */
  askForRollback(name) {
    return openDialog({
      title: `Roll back to ${name}?`,
      text: 'What came after it is lost, in memory and on disk. Commands and terminals end.',
      action: 'Roll back',
      busy: 'Rolling back…',
      isDanger: true,
      act: () =>
        state.whileBusy(this.id, 'Rolling back', async () => {
          await api.post(sandboxPath(this.id, `/checkpoints/${encodeURIComponent(name)}/rollback`));
          notify(`${shortId(this.id)} is rolled back to ${name}.`);
        }),
    });
  }

  /** @param {string} name */
  askForDelete(name) {
    return openDialog({
      title: `Delete the checkpoint ${name}?`,
      action: 'Delete',
      busy: 'Deleting…',
      isDanger: true,
      act: async () => {
        await api.remove(sandboxPath(this.id, `/checkpoints/${encodeURIComponent(name)}`));
        notify(`The checkpoint ${name} is deleted.`);
        await this.show();
      },
    });
  }

  focus() {
    this.create.focus();
  }

  close() {}
}
