// Actions on a sandbox, from anywhere on the page.

import * as api from './api.js';
import { NAME, openDialog } from './dialogs.js';
import { notify, runOrNotify } from './notices.js';
import * as state from './state.js';

/**
 * @param {string} id
 * @param {string} [rest]
 * @returns {string} path of a sandbox, or of something below it
 */
export function sandboxPath(id, rest = '') {
  return `v1/sandboxes/${encodeURIComponent(id)}${rest}`;
}

/**
 * @param {string} id
 * @returns {string} its beginning, which is enough to know it by
 */
export function shortId(id) {
  return id.slice(0, 11);
}

/** @param {string} id */
export function pause(id) {
  return runOrNotify(`${shortId(id)} was not paused`, () =>
    state.whileBusy(id, 'Pausing', async () => {
      await api.post(sandboxPath(id, '/pause'));
      notify(`${shortId(id)} is paused.`);
    }),
  );
}

/** @param {string} id */
export function resume(id) {
  return runOrNotify(`${shortId(id)} was not resumed`, () =>
    state.whileBusy(id, 'Resuming', async () => {
      await api.post(sandboxPath(id, '/resume'));
      notify(`${shortId(id)} is running.`);
    }),
  );
}

/** @param {string} id */
export function fork(id) {
  return openDialog({
    title: `Fork ${shortId(id)}`,
    text: `The copies go on from the present state of ${id}, memory included. All are made, or none.`,
    fields: [
      {
        name: 'count',
        label: 'Copies',
        input: { type: 'number', min: 1, max: 32, step: 1, value: '1', required: true },
      },
    ],
    action: 'Fork',
    busy: 'Forking…',
    act: ({ count }) =>
      state.whileBusy(id, 'Forking', async () => {
        const children = await api.post(sandboxPath(id, '/fork'), { count: Number(count) });
        notify(
          `Forked: ${children.map((/** @type {any} */ child) => shortId(child.id)).join(', ')}.`,
        );
      }),
  });
}

/** @param {string} id */
export function snapshot(id) {
  return openDialog({
    title: `Create a snapshot of ${shortId(id)}`,
    text: `Sandboxes can be created from it. With the memory they go on where ${id} is now; without it they boot from its disk.`,
    fields: [
      {
        name: 'name',
        label: 'Name',
        input: { ...NAME, placeholder: 'generated if empty', className: 'mono' },
      },
      { name: 'memory', label: 'With the memory', input: { type: 'checkbox', checked: true } },
      { name: 'overwrite', label: 'Replace a snapshot of that name', input: { type: 'checkbox' } },
    ],
    action: 'Create snapshot',
    busy: 'Creating…',
    act: ({ name, memory, overwrite }) =>
      state.whileBusy(id, 'Saving', async () => {
        const made = await api.post('v1/snapshots', {
          sandbox_id: id,
          name: name || undefined,
          memory,
          overwrite,
        });
        notify(`The snapshot ${made.name} is ready.`);
      }),
  });
}

/** @param {string} id */
export function destroy(id) {
  return openDialog({
    title: `Delete ${shortId(id)}?`,
    text: `Disk, memory and checkpoints of ${id} are removed. Snapshots that were made of it stay.`,
    action: 'Delete',
    busy: 'Deleting…',
    isDanger: true,
    act: () =>
      state.whileBusy(id, 'Deleting', async () => {
        await api.remove(sandboxPath(id));
        notify(`${shortId(id)} is deleted.`);
      }),
  });
}

/** @param {{ name: string, digest?: string }} template an imported image, which has a digest, or a snapshot */
export function deleteTemplate({ name, digest }) {
  const [kind, path] = digest ? ['image', 'v1/images'] : ['snapshot', 'v1/snapshots'];
  return openDialog({
    title: `Delete the ${kind} ${name}?`,
    text: 'Sandboxes that were created from it stay.',
    action: 'Delete',
    busy: 'Deleting…',
    isDanger: true,
    act: async () => {
      await api.remove(`${path}/${encodeURIComponent(name)}`);
      notify(`The ${kind} ${name} is deleted.`);
      await state.refresh();
    },
  });
}
