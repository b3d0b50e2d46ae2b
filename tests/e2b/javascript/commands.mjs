// `commands`, and the handles that it gives.
import assert from 'node:assert/strict'
import { covers, e2b, isSince, newPlace, output, until, untilExists } from './harness.mjs'

const isGone = async (box, command) => (await output(box, `pgrep -fx '${command}' || echo gone`)) === 'gone'

covers('commands.run', 'returns output and code', async (box) => {
    const result = await box.commands.run('echo out; echo err >&2')
    assert.deepEqual([result.stdout, result.stderr, result.exitCode], ['out\n', 'err\n', 0])
})

covers('commands.run', 'raises with another code', async (box) => {
    const error = await box.commands.run('echo out; echo err >&2; exit 7').catch((error) => error)
    assert.ok(error instanceof e2b.CommandExitError)
    assert.deepEqual([error.stdout, error.stderr, error.exitCode], ['out\n', 'err\n', 7])
    assert.match(error.error, /exit status 7/)
})

covers('commands.run', 'uses the login shell of the user', async (box) => {
    const shell = 'echo $USER:$HOME:$PWD; shopt -q login_shell && echo login; echo $E2B_SANDBOX:$E2B_SANDBOX_ID'
    assert.equal(await output(box, shell), `user:/home/user:/home/user\nlogin\ntrue:${box.sandboxId}`)
})

covers('commands.run', 'passes large and odd output', async (box) => {
    const large = await box.commands.run("head -c 3000000 /dev/zero | tr '\\0' x")
    assert.equal(large.stdout.length, 3_000_000)
    if (isSince('2.39')) {
        const odd = await box.commands.run("printf '\\xc3'; sleep 0.2; printf '\\xa9'")
        assert.equal(odd.stdout, 'é')
    }
})

covers('commands.run(envs)', 'hold for one command', async (box) => {
    const envs = { GREETING: 'héllo wörld', EMPTY: '' }
    assert.equal(await output(box, 'echo "$GREETING|${EMPTY-unset}"', { envs }), 'héllo wörld|')
    assert.equal(await output(box, 'echo "${GREETING-unset}"'), 'unset')
})

covers('commands.run(user)', 'is chosen', async (box) => {
    assert.equal(await output(box, 'whoami; echo $HOME', { user: 'root' }), 'root\n/root')
    await assert.rejects(box.commands.run('true', { user: 'nobody-has-this-name' }), e2b.AuthenticationError)
})

covers('commands.run(cwd)', 'is chosen', async (box) => {
    assert.equal(await output(box, 'pwd', { cwd: '/tmp' }), '/tmp')
    await assert.rejects(box.commands.run('true', { cwd: '/does/not/exist' }), e2b.InvalidArgumentError)
})

covers('commands.run(onStdout)', 'gets output as it comes', async (box) => {
    const seen = []
    await box.commands.run('echo one; sleep 0.3; echo two >&2; sleep 0.3; echo three', {
        onStdout: (data) => void seen.push(['out', data]),
        onStderr: (data) => void seen.push(['err', data]),
    })
    assert.deepEqual(seen, [['out', 'one\n'], ['err', 'two\n'], ['out', 'three\n']])
})

covers('commands.run(timeoutMs)', 'kills what goes beyond', async (box) => {
    await assert.rejects(box.commands.run('sleep 98763', { timeoutMs: 1000 }), e2b.TimeoutError)
    await until(() => isGone(box, 'sleep 98763'), 'the end of the command')
})

covers('commands.run(timeoutMs)', 'holds without the client', async (box) => {
    const handle = await box.commands.run('sleep 98762', { background: true, timeoutMs: 1000 })
    await handle.disconnect()
    await until(() => isGone(box, 'sleep 98762'), 'the end of the command')
})

covers('commands.run(background)', 'has the pid of the guest', async (box) => {
    const go = `${await newPlace(box)}/go`
    const handle = await box.commands.run(`echo begun; ${untilExists(go)}; echo ended`, { background: true })
    assert.equal(await output(box, `kill -0 ${handle.pid} && echo alive; touch ${go}`), 'alive')
    const result = await handle.wait()
    assert.deepEqual([result.stdout, result.exitCode, handle.exitCode], ['begun\nended\n', 0, 0])
})

covers('commands.sendStdin', 'reaches the command', async (box) => {
    const handle = await box.commands.run('read line; echo "got $line"', { background: true, stdin: true })
    await box.commands.sendStdin(handle.pid, 'a líne\n')
    assert.equal((await handle.wait()).stdout, 'got a líne\n')
    await assert.rejects(box.commands.sendStdin(999_999, 'x'), e2b.NotFoundError)
})

covers('commands.closeStdin', 'is the end of input', async (box) => {
    const handle = await box.commands.run('cat', { background: true, stdin: true })
    await box.commands.sendStdin(handle.pid, 'first\n')
    await box.commands.closeStdin(handle.pid)
    assert.equal((await handle.wait()).stdout, 'first\n')
})

covers('handle.sendStdin', 'sends and closes', async (box) => {
    const handle = await box.commands.run('wc -c', { background: true, stdin: true })
    await handle.sendStdin('12345')
    await handle.sendStdin(new TextEncoder().encode('678'))
    await handle.closeStdin()
    assert.equal((await handle.wait()).stdout, '8\n')
})

covers('commands.list', 'has running commands only', async (box) => {
    const handle = await box.commands.run('sleep 45', { background: true, envs: { MARK: '1' }, cwd: '/tmp' })
    const found = (await box.commands.list()).filter((one) => one.pid === handle.pid)
    assert.equal(found.length, 1)
    assert.deepEqual([found[0].cmd, found[0].args, found[0].cwd], ['/bin/bash', ['-l', '-c', 'sleep 45'], '/tmp'])
    assert.equal(found[0].envs.MARK, '1')
    await handle.kill()
    const unlisted = async () => !(await box.commands.list()).some((one) => one.pid === handle.pid)
    await until(unlisted, 'the removal from the list')
})

covers('commands.kill', 'ends the command', async (box) => {
    const handle = await box.commands.run('sleep 46', { background: true })
    const ended = handle.wait().catch((error) => error)
    assert.equal(await box.commands.kill(handle.pid), true)
    assert.ok((await ended) instanceof e2b.CommandExitError)
    assert.match((await ended).error, /kill/)
    assert.equal(await output(box, `kill -0 ${handle.pid} 2>/dev/null || echo gone`), 'gone')
    assert.equal(await box.commands.kill(handle.pid), false)
})

covers('handle.kill', 'ends the command', async (box) => {
    const handle = await box.commands.run('sleep 47', { background: true })
    const ended = handle.wait().catch((error) => error)
    assert.equal(await handle.kill(), true)
    assert.ok((await ended) instanceof e2b.CommandExitError)
})

covers('commands.connect', 'gets output and end', async (box) => {
    const go = `${await newPlace(box)}/go`
    const first = await box.commands.run(`${untilExists(go)}; echo later; exit 3`, { background: true })
    first.wait().catch(() => {})
    const second = await box.commands.connect(first.pid)
    await box.files.write(go, '')
    const error = await second.wait().catch((error) => error)
    assert.deepEqual([error.stdout, error.exitCode], ['later\n', 3])
    await assert.rejects(box.commands.connect(999_999), e2b.NotFoundError)
})

covers('handle.disconnect', 'lets the command go on', async (box) => {
    const go = `${await newPlace(box)}/go`
    const command = `${untilExists(go)}; echo "went on" > /tmp/disconnected`
    const handle = await box.commands.run(command, { background: true })
    await handle.disconnect()
    const again = await box.commands.connect(handle.pid)
    await box.files.write(go, '')
    await again.wait()
    assert.equal(await output(box, 'cat /tmp/disconnected'), 'went on')
})

covers('handle.wait', 'keeps many apart', async (box) => {
    const numbers = Array.from({ length: 12 }, (_, number) => number)
    const results = await Promise.all(numbers.map((number) => box.commands.run(`sleep 0.2; echo ${number}`)))
    assert.deepEqual(results.map((result) => result.stdout), numbers.map((number) => `${number}\n`))
})
