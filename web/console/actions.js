// What can be done with a sandbox, from wherever on the page.

import * as api from './api.js';
import { NAME, ask } from './dialogs.js';
import { attempt, notify } from './notices.js';
import * as state from './state.js';

/**
 * @param {string} id
 * @param {string} [rest]
 * @returns {string} path of a sandbox, or of something below it
 */
export function path(id, rest = '') {
  return `v1/sandboxes/${encodeURIComponent(id)}${rest}`;
}

/**
 * @param {string} id
 * @returns {string} its beginning, which is enough to know it by
 */
export function short(id) {
  return id.slice(0, 11);
}

/** @param {string} id */
export function pause(id) {
  return attempt(`${short(id)} was not paused`, () =>
    state.whileBusy(id, 'Pausing', async () => {
      await api.post(path(id, '/pause'));
      notify(`${short(id)} is paused.`);
    }),
  );
}

/** @param {string} id */
export function resume(id) {
  return attempt(`${short(id)} was not resumed`, () =>
    state.whileBusy(id, 'Resuming', async () => {
      await api.post(path(id, '/resume'));
      notify(`${short(id)} is running.`);
    }),
  );
}

/** @param {string} id */
export function fork(id) {
  return ask({
    title: `Fork ${short(id)}`,
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
        const children = await api.post(path(id, '/fork'), { count: Number(count) });
        notify(
          `Forked: ${children.map((/** @type {any} */ child) => short(child.id)).join(', ')}.`,
        );
      }),
  });
}

/** @param {string} id */
export function snapshot(id) {
  return ask({
    title: `Create a snapshot of ${short(id)}`,
    text: `Sandboxes can be created from it. With the memory they go on where ${id} is now; without it they boot from its disk.`,
    fields: [
      {
        name: 'name',
        label: 'Name',
        input: { ...NAME, placeholder: 'one is made up where this is empty', className: 'mono' },
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
  return ask({
    title: `Delete ${short(id)}?`,
    text: `Disk, memory and checkpoints of ${id} are removed. Snapshots that were made of it stay.`,
    action: 'Delete',
    busy: 'Deleting…',
    isDanger: true,
    act: () =>
      state.whileBusy(id, 'Deleting', async () => {
        await api.remove(path(id));
        notify(`${short(id)} is deleted.`);
      }),
  });
}

/** @param {string} name */
export function deleteSnapshot(name) {
  return ask({
    title: `Delete the snapshot ${name}?`,
    text: 'Sandboxes that were created from it stay.',
    action: 'Delete',
    busy: 'Deleting…',
    isDanger: true,
    act: async () => {
      await api.remove(`v1/snapshots/${encodeURIComponent(name)}`);
      notify(`The snapshot ${name} is deleted.`);
      await state.refresh();
    },
  });
}
