// `pty`.
import assert from 'node:assert/strict'
import { covers, e2b, output, until } from './harness.mjs'

const size = { cols: 80, rows: 24 }

class Terminal {
    shown = ''
    decoder = new TextDecoder()

    constructor(box) {
        this.box = box
    }

    onData = (data) => {
        this.shown += this.decoder.decode(data, { stream: true })
    }

    async open(options = {}) {
        this.handle = await this.box.pty.create({ ...size, onData: this.onData, ...options })
        return this
    }

    async connect(pid) {
        this.handle = await this.box.pty.connect(pid, { onData: this.onData })
        return this
    }

    send(text) {
        return this.box.pty.sendInput(this.handle.pid, new TextEncoder().encode(text))
    }

    // Waits for the end of the shell.
    async end() {
        await this.handle.wait()
        return this.shown
    }
}

covers('pty.create', 'runs the login shell', async (box) => {
    const terminal = await new Terminal(box).open({ envs: { MARK: 'm1' } })
    await terminal.send('echo "<$TERM $MARK $PWD $(whoami) $(stty size)>"; exit\n')
    assert.match(await terminal.end(), /<xterm-256color m1 \/home\/user user 24 80>/)
})

covers('pty.create(user)', 'is of root in a directory', async (box) => {
    const terminal = await new Terminal(box).open({ user: 'root', cwd: '/tmp' })
    await terminal.send('echo "<$(whoami) $PWD>"; exit\n')
    assert.match(await terminal.end(), /<root \/tmp>/)
})

covers('pty.resize', 'is seen in the terminal', async (box) => {
    const terminal = await new Terminal(box).open()
    await box.pty.resize(terminal.handle.pid, { cols: 132, rows: 50 })
    await terminal.send('echo "<$(stty size)>"; exit\n')
    assert.match(await terminal.end(), /<50 132>/)
})

covers('pty.sendInput', 'interrupts a command', async (box) => {
    const terminal = await new Terminal(box).open()
    const isAsleep = async () => (await output(box, "pgrep -fx 'sleep 4321' || echo no")) !== 'no'
    await terminal.send('sleep 4321\n')
    await until(isAsleep, 'the start of the command')
    await terminal.send('\x03')
    await until(async () => !(await isAsleep()), 'the end of the command')
    await terminal.send('echo "<$((6 * 7))>"; exit 0\n')
    assert.match(await terminal.end(), /<42>/)
})

covers('pty.kill', 'ends the terminal', async (box) => {
    const terminal = await new Terminal(box).open()
    const ended = terminal.end().catch((error) => error)
    assert.equal(await box.pty.kill(terminal.handle.pid), true)
    assert.ok((await ended) instanceof e2b.CommandExitError)
    assert.equal(await box.pty.kill(terminal.handle.pid), false)
})

covers('pty.connect', 'finds the terminal again', async (box) => {
    const first = await new Terminal(box).open()
    await first.send('KEPT=yes\n')
    await first.handle.disconnect()
    const second = await new Terminal(box).connect(first.handle.pid)
    await second.send('echo "<$KEPT>"; exit\n')
    assert.match(await second.end(), /<yes>/)
})
