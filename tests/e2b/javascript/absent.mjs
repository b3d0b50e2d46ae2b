// Calls whose thing there is not are refused, and say what it is.
import assert from 'node:assert/strict'
import { covers, create, e2b, killAnswer, output } from './harness.mjs'

async function isRefused(call, thing, status) {
    const error = await call().then(() => assert.fail('it was not refused'), (error) => error)
    assert.match(error.message, new RegExp(status))
    assert.match(error.message, thing)
}

function coversRefusal(label, call, thing, status = '501') {
    covers(label, 'is refused', () => isRefused(call, thing, status), { refused: status })
}

coversRefusal('Volume.create', () => e2b.Volume.create('data'), /volume/)
coversRefusal('Volume.list', () => e2b.Volume.list(), /volume/)
coversRefusal('Sandbox.create(volumeMounts)', () => create({ volumeMounts: { '/data': 'name' } }), /volume/)
coversRefusal('Secret.create', () => e2b.Secret.create('NAME', 'value'), /secret/)
coversRefusal('Secret.list', () => e2b.Secret.list().nextItems(), /secret/)

covers('Sandbox.pause(keepMemory)', 'is refused where false', async () => {
    const sandbox = await create()
    await isRefused(() => sandbox.pause({ keepMemory: false }), /memory/, '400')
    assert.equal(await output(sandbox, 'echo still running'), 'still running')
    assert.equal(await sandbox.kill(), killAnswer(true))
}, { refused: '400' })

covers('Sandbox.connect(onResume)', 'is refused where a reboot', async () => {
    const sandbox = await create()
    await sandbox.pause()
    await isRefused(() => sandbox.connect({ onResume: 'reboot' }), /memory/, '400')
    assert.equal(await sandbox.kill(), killAnswer(true))
}, { refused: '400' })
