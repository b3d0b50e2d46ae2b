// Sandboxes: their creation, life, state and end.
import assert from 'node:assert/strict'
import { covers, create, e2b, isSince, killAnswer, lifetimeMs, output, portRequest, remember, runId, until } from './harness.mjs'

const gone = 'i00000000000000000000'
const sleeper = 'sleep 86399'
// Names that older versions lack are those of classes above them.
const SandboxNotFoundError = e2b.SandboxNotFoundError ?? e2b.NotFoundError
const pause = (sandbox) => (sandbox.pause ? sandbox.pause() : sandbox.betaPause())
const lifeSeconds = (info) => (info.endAt - info.startedAt) / 1000
const leftSeconds = (info) => (info.endAt - Date.now()) / 1000

// A life counts from the answer to create, and the sandbox started while that was waited for, which is long on a busy
// machine.
function isLife(info, expected, begin) {
    const found = lifeSeconds(info)
    const longest = expected + (Date.now() - begin) / 1000 + 1
    assert.ok(found >= expected - 1 && found <= longest, `${found} is not from ${expected} to ${longest}`)
}

async function start(sandbox, command) {
    const handle = await sandbox.commands.run(command, { background: true, timeoutMs: 0 })
    // Nobody waits for it.
    handle.wait().catch(() => {})
    return handle
}

async function pages(paginator) {
    const found = []
    while (paginator.hasNext) found.push(...(await paginator.nextItems()))
    return found
}

// Starts a web server in a sandbox, on its loopback address alone.
async function serve(sandbox, port) {
    await sandbox.files.makeDir('/tmp/served')
    await start(sandbox, `cd /tmp/served && python3 -m http.server --bind 127.0.0.1 ${port}`)
    const listening = `timeout 100 sh -c 'until ss -ltn | grep -q :${port}; do sleep 0.1; done'`
    await sandbox.commands.run(listening, { timeoutMs: 120_000 })
}

covers('Sandbox.create', 'makes a running sandbox', async (box) => {
    assert.match(box.sandboxId, /^[a-z0-9-]+$/)
    assert.equal(await box.isRunning(), true)
    assert.equal(await output(box, 'echo hello'), 'hello')
})

covers('Sandbox.create', 'has five minutes by default', async () => {
    const begin = Date.now()
    const sandbox = remember(await e2b.Sandbox.create())
    isLife(await sandbox.getInfo(), 300, begin)
    assert.equal(await sandbox.kill(), killAnswer(true))
})

covers('Sandbox.create(timeoutMs)', 'ends the sandbox', async () => {
    const begin = Date.now()
    const sandbox = await create({ timeoutMs: 4000 })
    const info = await sandbox.getInfo()
    isLife(info, 4, begin)
    await until(async () => !(await sandbox.isRunning()), 'the end of the sandbox')
    assert.ok(Date.now() >= info.endAt.getTime())
})

covers('Sandbox.create(metadata)', 'is kept', async () => {
    const metadata = { run: runId, 'odd key/é': 'odd & value=1 ✓' }
    const sandbox = await create({ metadata })
    assert.deepEqual((await sandbox.getInfo()).metadata, metadata)
    await pause(sandbox)
    assert.deepEqual((await sandbox.getInfo()).metadata, metadata)
    assert.equal(await sandbox.kill(), killAnswer(true))
})

covers('Sandbox.create(envs)', 'are seen by every command', async () => {
    const sandbox = await create({ envs: { GREETING: 'hello wörld', PLACE: 'sandbox' } })
    assert.equal(await output(sandbox, 'echo "$GREETING|$PLACE"'), 'hello wörld|sandbox')
    const once = await output(sandbox, 'echo "$GREETING|$PLACE"', { envs: { PLACE: 'command' } })
    assert.equal(once, 'hello wörld|command')
    assert.equal(await sandbox.kill(), killAnswer(true))
})

covers('Sandbox.create', 'refuses an unknown template', async () => {
    await assert.rejects(create('no-such-template'), /404.*no-such-template/s)
})

covers('Sandbox.create(secure)', 'guards the agent', async (box) => {
    assert.equal((await portRequest(box, 49983, '/files?path=/etc/hostname')).status, 401)
    assert.equal((await portRequest(box, 49983, '/health')).ok, true)
})

covers('Sandbox.create(allowInternetAccess)', 'can be taken', async () => {
    const sandbox = await create({ allowInternetAccess: false })
    await assert.rejects(sandbox.commands.run('curl -sS --max-time 3 http://192.0.2.1/'), e2b.CommandExitError)
    assert.equal(await sandbox.kill(), killAnswer(true))
})

covers('Sandbox.create(network)', 'is told', async () => {
    const network = { allowOut: ['1.1.1.1'], denyOut: ['0.0.0.0/0'] }
    const sandbox = await create({ network })
    if (isSince('2.26')) {
        const found = (await sandbox.getInfo()).network
        assert.equal(found.allowOut.length, 1)
        assert.deepEqual(found.denyOut, ['0.0.0.0/0'])
    }
    assert.equal(await output(sandbox, 'echo still reachable'), 'still reachable')
    assert.equal(await sandbox.kill(), killAnswer(true))
    await assert.rejects(create({ network: { denyOut: ['not an address'] } }), /400/)
})

covers('Sandbox.create(allowPublicTraffic)', 'needs the token where false', async () => {
    const sandbox = await create({ network: { allowPublicTraffic: false } })
    await serve(sandbox, 8000)
    assert.equal((await portRequest(sandbox, 8000)).status, 403)
    const token = { 'e2b-traffic-access-token': sandbox.trafficAccessToken }
    assert.equal((await portRequest(sandbox, 8000, '/', token)).status, 200)
    assert.equal(await sandbox.kill(), killAnswer(true))
})

covers('Sandbox.create(lifecycle)', 'pauses at the timeout', async () => {
    const sandbox = await create({ lifecycle: { onTimeout: 'pause' } })
    const command = await start(sandbox, sleeper)
    if (isSince('2.26')) assert.equal((await sandbox.getInfo()).lifecycle.onTimeout, 'pause')
    await sandbox.setTimeout(1000)
    await until(async () => (await sandbox.getInfo()).state === 'paused', 'the pause')
    await sandbox.connect({ timeoutMs: 60_000 })
    assert.equal(await output(sandbox, `kill -0 ${command.pid} && echo alive`), 'alive')
    assert.equal(await sandbox.kill(), killAnswer(true))
})

covers('Sandbox.create(autoResume)', 'resumes by itself', async () => {
    const sandbox = await create({ lifecycle: { onTimeout: 'pause', autoResume: true } })
    await serve(sandbox, 8000)
    await pause(sandbox)
    assert.equal((await portRequest(sandbox, 8000)).status, 200)
    assert.equal(await output(sandbox, 'echo awake'), 'awake')
    assert.equal(await sandbox.kill(), killAnswer(true))
})

covers('Sandbox.betaCreate', 'pauses at the timeout', async () => {
    const sandbox = remember(await e2b.Sandbox.betaCreate({ timeoutMs: 2000, autoPause: true }))
    await until(async () => (await sandbox.getInfo()).state === 'paused', 'the pause')
    assert.equal(await sandbox.kill(), killAnswer(true))
})

covers('Sandbox.connect', 'finds a running sandbox', async (box) => {
    const again = await e2b.Sandbox.connect(box.sandboxId)
    assert.equal(await output(again, 'echo $E2B_SANDBOX_ID'), box.sandboxId)
    await assert.rejects(e2b.Sandbox.connect(gone), SandboxNotFoundError)
})

covers('Sandbox.connect(timeoutMs)', 'extends and never shortens', async (box) => {
    await box.setTimeout(300_000)
    await e2b.Sandbox.connect(box.sandboxId, { timeoutMs: 10_000 })
    assert.ok(leftSeconds(await box.getInfo()) > 280)
    await e2b.Sandbox.connect(box.sandboxId, { timeoutMs: lifetimeMs })
    assert.ok(leftSeconds(await box.getInfo()) > lifetimeMs / 1000 - 60)
})

for (const method of ['getInfo', 'getFullInfo']) {
    covers(`Sandbox.${method}`, 'describes the sandbox', async (box) => {
        const info = await e2b.Sandbox[method](box.sandboxId)
        assert.ok(info.sandboxId === box.sandboxId || info.sandboxID === box.sandboxId)
        assert.equal(info.metadata.run, runId)
        assert.equal(info.state, 'running')
        assert.ok(info.templateId)
        assert.ok(info.cpuCount >= 1)
        assert.ok(info.memoryMB >= 128)
        assert.ok(info.startedAt instanceof Date)
        await assert.rejects(e2b.Sandbox[method](gone), SandboxNotFoundError)
    })
}

covers('Sandbox.setTimeout', 'can be changed both ways', async (box) => {
    const changes = [
        [200, () => box.setTimeout(200_000)],
        [lifetimeMs / 1000, () => e2b.Sandbox.setTimeout(box.sandboxId, lifetimeMs)],
    ]
    for (const [seconds, change] of changes) {
        const begin = Date.now()
        await change()
        const left = leftSeconds(await box.getInfo())
        // To the second, less what the two calls took.
        const least = seconds - 1 - (Date.now() - begin) / 1000
        assert.ok(left >= least && left <= seconds + 1, `${left} is not from ${least} to ${seconds + 1}`)
    }
    await assert.rejects(e2b.Sandbox.setTimeout(gone, 50_000), SandboxNotFoundError)
})

covers('Sandbox.setTimeout', 'ends the sandbox where 0', async () => {
    const sandbox = await create()
    await sandbox.setTimeout(0)
    await until(async () => !(await sandbox.isRunning()), 'the end of the sandbox')
})

covers('Sandbox.isRunning', 'is false for a killed one', async () => {
    const sandbox = await create()
    assert.equal(await sandbox.isRunning(), true)
    await sandbox.kill()
    assert.equal(await sandbox.isRunning(), false)
})

covers('Sandbox.kill', 'is true once', async () => {
    const sandbox = await create()
    assert.equal(await e2b.Sandbox.kill(sandbox.sandboxId), true)
    assert.equal(await sandbox.kill(), killAnswer(false))
    assert.equal(await e2b.Sandbox.kill(gone), false)
    await assert.rejects(sandbox.commands.run('true'), SandboxNotFoundError)
    await assert.rejects(sandbox.files.read('/etc/hostname'), e2b.TimeoutError)
})

covers('Sandbox.kill', 'breaks the stream of a command', async () => {
    const sandbox = await create()
    const handle = await sandbox.commands.run(sleeper, { background: true, timeoutMs: 0 })
    const ended = handle.wait().catch((error) => error)
    assert.equal(await sandbox.kill(), killAnswer(true))
    const error = await ended
    assert.ok(error instanceof Error)
    if (isSince('2.49')) assert.ok(error instanceof e2b.TimeoutError, String(error))
})

async function keepsProcesses(method) {
    const sandbox = await create()
    const command = await start(sandbox, sleeper)
    const first = await sandbox[method]()
    assert.equal((await sandbox.getInfo()).state, 'paused')
    assert.equal(await sandbox.isRunning(), false)
    await assert.rejects(sandbox.commands.run('true'), SandboxNotFoundError)
    const second = await sandbox[method]()
    assert.deepEqual([first, second], [true, false])
    const again = await e2b.Sandbox.connect(sandbox.sandboxId)
    assert.equal(await output(again, `kill -0 ${command.pid} && echo alive`), 'alive')
    assert.equal(await sandbox.kill(), killAnswer(true))
}

covers('Sandbox.pause', 'keeps processes', () => keepsProcesses('pause'))
covers('Sandbox.betaPause', 'keeps processes', () => keepsProcesses('betaPause'))

covers('Sandbox.list', 'finds by metadata', async (box) => {
    const found = await pages(e2b.Sandbox.list({ query: { metadata: { run: runId, purpose: 'shared' } } }))
    assert.deepEqual(found.map((info) => info.sandboxId), [box.sandboxId])
    assert.ok((await pages(e2b.Sandbox.list())).some((info) => info.sandboxId === box.sandboxId))
})

covers('Sandbox.list', 'finds odd metadata and states', async () => {
    const metadata = { 'a b': 'c&d/é=1 %20+', list: runId }
    const sandbox = await create({ metadata })
    await pause(sandbox)
    const ids = async (query) => (await pages(e2b.Sandbox.list({ query }))).map((info) => info.sandboxId)
    assert.deepEqual(await ids({ metadata }), [sandbox.sandboxId])
    assert.deepEqual(await ids({ metadata: { 'a b': 'other' } }), [])
    assert.deepEqual(await ids({ metadata, state: ['paused'] }), [sandbox.sandboxId])
    assert.deepEqual(await ids({ metadata, state: ['running'] }), [])
    assert.deepEqual(await ids({ metadata, state: ['running', 'paused'] }), [sandbox.sandboxId])
    assert.equal(await sandbox.kill(), killAnswer(true))
})

covers('Sandbox.list(limit)', 'comes in pages', async () => {
    const metadata = { page: runId }
    const ids = []
    for (let number = 0; number < 2; number++) ids.unshift((await create({ metadata })).sandboxId)
    const paginator = e2b.Sandbox.list({ query: { metadata }, limit: 1 })
    const first = await paginator.nextItems()
    assert.deepEqual([first.length, paginator.hasNext], [1, true])
    const { nextToken } = paginator
    const rest = await e2b.Sandbox.list({ query: { metadata }, limit: 1, nextToken }).nextItems()
    assert.deepEqual([...first, ...rest].map((info) => info.sandboxId), ids)
    await paginator.nextItems()
    assert.equal(paginator.hasNext, false)
    await assert.rejects(paginator.nextItems())
    await Promise.all(ids.map((id) => e2b.Sandbox.kill(id)))
})

covers('Sandbox.list(startedAfter)', 'finds by start and template', async (box) => {
    const info = await box.getInfo()
    const metadata = { run: runId, purpose: 'shared' }
    const ids = async (query) =>
        (await pages(e2b.Sandbox.list({ query: { metadata, ...query } }))).map((one) => one.sandboxId)
    assert.deepEqual(await ids({ startedAfter: info.startedAt }), [box.sandboxId])
    assert.deepEqual(await ids({ startedAfter: new Date(info.startedAt.getTime() + 1000) }), [])
    assert.deepEqual(await ids({ template: info.templateId }), [box.sandboxId])
    assert.deepEqual(await ids({ template: 'no-such-template' }), [])
})

covers('Sandbox.getMetrics', 'come for a running sandbox', async (box) => {
    const metrics = await until(async () => {
        const found = await box.getMetrics()
        return found.length > 0 && found
    }, 'a first metric')
    const metric = metrics.at(-1)
    assert.ok(metric.cpuCount >= 1)
    assert.ok(metric.memUsed > 0 && metric.memUsed <= metric.memTotal)
    assert.ok(metric.diskUsed > 0 && metric.diskUsed <= metric.diskTotal)
})

covers('Sandbox.getHost', 'names port and sandbox', async (box) => {
    assert.ok(box.getHost(3000).startsWith(`3000-${box.sandboxId}.`))
    await serve(box, 3000)
    const answer = await portRequest(box, 3000)
    assert.deepEqual([answer.status, /Directory listing/.test(await answer.text())], [200, true])
    const closed = await portRequest(box, 3999)
    const { message, port } = await closed.json()
    assert.deepEqual([closed.status, message, port], [502, 'The sandbox is running but port is not open', 3999])
})

covers('Sandbox.getHost', 'of a killed sandbox is not found', async () => {
    const sandbox = await create()
    await sandbox.kill()
    const answer = await portRequest(sandbox, 3000)
    const body = await answer.json()
    assert.deepEqual([answer.status, body.message, body.code], [502, 'The sandbox was not found', 502])
    assert.ok(sandbox.sandboxId.startsWith(body.sandboxId))
})

covers('Sandbox.getMcpUrl', 'names the port', async (box) => {
    assert.equal(box.getMcpUrl(), `https://${box.getHost(50005)}/mcp`)
})

covers('Sandbox.getMcpToken', 'is read as root', async (box) => {
    await box.files.write('/etc/mcp-gateway/.token', 'secret', { user: 'root' })
    assert.equal(await box.getMcpToken(), 'secret')
})

let copied
// Returns a sandbox that is copied, with a file and a process in it.
function source() {
    copied ??= create({ metadata: { source: runId } }).then(async (sandbox) => {
        await sandbox.files.write('state', 'saved')
        return { sandbox, command: await start(sandbox, sleeper) }
    })
    return copied
}

covers('Sandbox.fork', 'begins where the parent is', async () => {
    const { sandbox: parent, command } = await source()
    const children = (await parent.fork({ count: 2, timeoutMs: 300_000 })).map(remember)
    assert.equal(new Set([parent, ...children].map((one) => one.sandboxId)).size, 3)
    for (const child of children) {
        assert.equal(await child.files.read('state'), 'saved')
        assert.equal(await output(child, `kill -0 ${command.pid} && echo alive`), 'alive')
        await child.files.write('state', 'child')
    }
    assert.equal(await parent.files.read('state'), 'saved')
    for (const child of children) assert.equal(await child.kill(), killAnswer(true))
    await assert.rejects(e2b.Sandbox.fork(gone), SandboxNotFoundError)
})

covers('Sandbox.createSnapshot', 'makes new sandboxes', async () => {
    const { sandbox, command } = await source()
    const snapshot = await sandbox.createSnapshot()
    assert.equal(await sandbox.isRunning(), true)
    await sandbox.files.write('state', 'later')
    const copy = await create(snapshot.snapshotId)
    assert.equal(await copy.files.read('state'), 'saved')
    assert.equal(await output(copy, `kill -0 ${command.pid} && echo alive`), 'alive')
    assert.equal(await copy.kill(), killAnswer(true))
    await sandbox.files.write('state', 'saved')
    assert.equal(await e2b.Sandbox.deleteSnapshot(snapshot.snapshotId), true)
})

covers('Sandbox.createSnapshot(name)', 'has the name', async () => {
    const { sandbox } = await source()
    const name = `js-snap-${runId}`
    const snapshot = await sandbox.createSnapshot({ name })
    assert.ok(snapshot.names.some((full) => full.includes(name)))
    const copy = await create(name)
    assert.equal(await copy.kill(), killAnswer(true))
    assert.equal(await e2b.Sandbox.deleteSnapshot(snapshot.snapshotId), true)
})

covers('Sandbox.listSnapshots', 'come in pages', async () => {
    const { sandbox } = await source()
    const ids = []
    for (let number = 0; number < 2; number++) ids.push((await sandbox.createSnapshot()).snapshotId)
    const listed = await pages(sandbox.listSnapshots({ limit: 1 }))
    assert.deepEqual(listed.map((one) => one.snapshotId).sort(), ids.sort())
    const all = (await pages(e2b.Sandbox.listSnapshots())).map((one) => one.snapshotId)
    assert.ok(ids.every((id) => all.includes(id)))
    for (const id of ids) assert.equal(await e2b.Sandbox.deleteSnapshot(id), true)
})

covers('Sandbox.deleteSnapshot', 'is true once', async () => {
    const { snapshotId } = await (await source()).sandbox.createSnapshot()
    assert.equal(await e2b.Sandbox.deleteSnapshot(snapshotId), true)
    assert.equal(await e2b.Sandbox.deleteSnapshot(snapshotId), false)
})

covers('Sandbox.updateNetwork', 'replaces all of it', async () => {
    const sandbox = await create({ network: { denyOut: ['8.8.4.0/24'] } })
    await sandbox.updateNetwork({ allowOut: ['1.1.1.1'], denyOut: ['0.0.0.0/0'] })
    const { allowOut, denyOut } = (await sandbox.getInfo()).network
    assert.deepEqual([allowOut, denyOut], [['1.1.1.1'], ['0.0.0.0/0']])
    await sandbox.updateNetwork({})
    assert.ok(!(await sandbox.getInfo()).network?.denyOut?.length)
    assert.equal(await sandbox.kill(), killAnswer(true))
    await assert.rejects(e2b.Sandbox.updateNetwork(gone, {}), SandboxNotFoundError)
})
