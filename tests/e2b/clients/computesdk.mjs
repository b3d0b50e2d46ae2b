// ComputeSDK's provider does what its users ask of it.
import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { join } from 'node:path'

const { e2b } = createRequire(join(process.env.E2B_TEST_PACKAGE, 'package.json'))('@computesdk/e2b')

const compute = e2b({ apiKey: process.env.E2B_API_KEY })
const options = { timeout: 600_000, envs: { FROM: 'create' }, metadata: { by: 'computesdk' } }
const sandbox = await compute.sandbox.create(options)
try {
    const result = await sandbox.runCommand('echo "$FROM $PWD"; echo oh >&2; exit 3')
    assert.deepEqual([result.stdout, result.stderr, result.exitCode], ['create /home/user\n', 'oh\n', 3])
    const placed = await sandbox.runCommand('pwd', { cwd: '/tmp' })
    assert.equal(placed.stdout, '/tmp\n')

    await sandbox.filesystem.mkdir('/home/user/d')
    await sandbox.filesystem.writeFile('/home/user/d/file', 'content')
    assert.equal(await sandbox.filesystem.readFile('/home/user/d/file'), 'content')
    assert.deepEqual((await sandbox.filesystem.readdir('/home/user/d')).map((entry) => entry.name), ['file'])
    await sandbox.filesystem.remove('/home/user/d/file')
    assert.equal(await sandbox.filesystem.exists('/home/user/d/file'), false)

    assert.match(await sandbox.getUrl({ port: 3000 }), new RegExp(`^https://3000-${sandbox.sandboxId}\\.`))
    const again = await compute.sandbox.getById(sandbox.sandboxId)
    assert.equal((await again.runCommand('echo again')).stdout, 'again\n')
    const listed = await compute.sandbox.list()
    assert.ok(listed.some((one) => one.sandboxId === sandbox.sandboxId))
} finally {
    await sandbox.destroy()
}
assert.equal(await compute.sandbox.getById(sandbox.sandboxId), null)
