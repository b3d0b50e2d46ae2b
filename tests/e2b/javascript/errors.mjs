// Errors that are those of no single call.
import assert from 'node:assert/strict'
import { covers, create, e2b, killAnswer, remember } from './harness.mjs'

const wrongKey = `e2b_${'0'.repeat(40)}`

covers('AuthenticationError', 'is raised for an unknown key', async () => {
    await assert.rejects(e2b.Sandbox.create({ apiKey: wrongKey }), e2b.AuthenticationError)
    await assert.rejects(e2b.Sandbox.list({ apiKey: wrongKey }).nextItems(), e2b.AuthenticationError)
})

covers('E2B', 'is bound to its key', async () => {
    const wrong = new e2b.E2B({ apiKey: wrongKey })
    await assert.rejects(wrong.Sandbox.create(), e2b.AuthenticationError)
    const good = new e2b.E2B({ apiKey: process.env.E2B_API_KEY })
    const sandbox = remember(await good.Sandbox.create({ timeoutMs: 60_000 }))
    assert.equal(await sandbox.kill(), killAnswer(true))
})

covers('InvalidArgumentError', 'is raised for a wrong timeout', async () => {
    await assert.rejects(create({ timeoutMs: -5000 }), /400|timeout/i)
})

covers('TimeoutError', 'is raised for a paused sandbox', async () => {
    const sandbox = await create()
    await (sandbox.pause ? sandbox.pause() : sandbox.betaPause())
    await assert.rejects(sandbox.files.list('/'), e2b.TimeoutError)
    assert.equal(await sandbox.kill(), killAnswer(true))
})
