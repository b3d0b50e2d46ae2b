// Cells through `@e2b/code-interpreter`: results, charts, languages, contexts, callbacks, timeouts.
import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { join } from 'node:path'

const require = createRequire(join(process.env.E2B_TEST_PACKAGE, 'package.json'))
const { Sandbox, NotFoundError, TimeoutError } = require('@e2b/code-interpreter')

// The guest may be emulated.
const slow = { timeoutMs: 240_000, requestTimeoutMs: 240_000 }

const sandbox = await Sandbox.create({ timeoutMs: 900_000, envs: { FROM_SANDBOX: 'of the sandbox' } })
const run = (code, options = {}) => sandbox.runCode(code, { ...slow, ...options })
try {
    const first = await run('x = 1; x')
    assert.deepEqual([first.text, first.executionCount, first.error], ['1', 1, undefined])
    assert.equal((await run('x += 1; x')).text, '2')

    const seen = { out: [], err: [], results: [], errors: [] }
    const callbacks = {
        onStdout: (message) => seen.out.push(message.line),
        onStderr: (message) => seen.err.push(message.line),
        onResult: (result) => seen.results.push(result.text),
        onError: (error) => seen.errors.push(error.name),
    }
    await run("import sys\nprint('ü€😀' * 3000)\nprint('bad', file=sys.stderr)\n7", callbacks)
    assert.equal(seen.out.join(''), 'ü€😀'.repeat(3000) + '\n')
    assert.deepEqual([seen.err, seen.results], [['bad\n'], ['7']])
    const failed = await run('1 / 0', callbacks)
    assert.deepEqual([failed.error.name, seen.errors], ['ZeroDivisionError', ['ZeroDivisionError']])
    assert.match(failed.error.traceback, /1 \/ 0/)

    const plot = await run("import matplotlib.pyplot as plt\nplt.bar(['a', 'b'], [1, 2], label='g')\nplt.show()")
    assert.ok(plot.results[0].png.startsWith('iVBOR'))
    assert.deepEqual(plot.results[0].chart.elements[1], { label: 'b', group: 'g', value: 2 })
    const frame = await run("import pandas as pd\npd.DataFrame({'a': [1, 2]})")
    assert.deepEqual(frame.results[0].data, { a: [1, 2] })
    assert.match(frame.results[0].html, /<table/)

    assert.equal((await run('process.env.FROM_SANDBOX', { language: 'js' })).text, 'of the sandbox')
    assert.deepEqual((await run('({ a: [1] })', { language: 'javascript' })).results[0].json, { a: [1] })
    assert.equal((await run('const n: number = 42; n', { language: 'ts' })).text, '42')
    assert.equal((await run('echo $OWN', { language: 'bash', envs: { OWN: 'a b' } })).logs.stdout.join(''), 'a b\n')

    const context = await sandbox.createCodeContext({ cwd: '/tmp', requestTimeoutMs: 240_000 })
    assert.equal((await run('import os; os.getcwd()', { context })).text, '/tmp')
    assert.equal((await run('x', { context })).error.name, 'NameError')
    assert.ok((await sandbox.listCodeContexts()).some((it) => it.id === context.id && it.cwd === '/tmp'))
    await sandbox.removeCodeContext(context)
    await assert.rejects(run('1', { context }), NotFoundError)

    await assert.rejects(run('while True: pass', { timeoutMs: 4_000 }), TimeoutError)
    assert.equal((await run('x')).text, '2')
} finally {
    assert.equal(await sandbox.kill(), true)
}
