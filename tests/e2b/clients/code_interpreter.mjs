// The sandboxes of `@e2b/code-interpreter` are those of `e2b`, with its own default template.
import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { join } from 'node:path'

const { Sandbox } = createRequire(join(process.env.E2B_TEST_PACKAGE, 'package.json'))('@e2b/code-interpreter')

const sandbox = await Sandbox.create('base', { timeoutMs: 600_000 })
try {
    assert.equal((await sandbox.commands.run('echo $((6 * 7))')).stdout, '42\n')
    await sandbox.files.write('a.txt', 'content')
    const again = await Sandbox.connect(sandbox.sandboxId)
    assert.equal(await again.files.read('a.txt'), 'content')
} finally {
    assert.equal(await sandbox.kill(), true)
}
