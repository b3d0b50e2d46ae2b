// `git`, which is commands of the program in the guest.
import assert from 'node:assert/strict'
import { covers, e2b, newPlace, output } from './harness.mjs'

// Makes a repository with one commit.
async function repository(box, place) {
    const path = `${place}/repo`
    await box.git.init(path, { initialBranch: 'main' })
    await box.git.configureUser('Tester', 'tester@example.com', { scope: 'local', path })
    await box.files.write(`${path}/README`, 'one\n')
    await box.git.add(path)
    await box.git.commit(path, 'first')
    return path
}

// Registers a test that begins with such a repository.
function coversGit(method, name, run) {
    covers(`git.${method}`, name, async (box) => {
        const place = await newPlace(box)
        await run(box, await repository(box, place), place)
    })
}

coversGit('init', 'makes an empty repository', async (box, _path, place) => {
    await box.git.init(`${place}/empty`, { initialBranch: 'trunk' })
    const status = await box.git.status(`${place}/empty`)
    assert.deepEqual([status.currentBranch, status.isClean], ['trunk', true])
})

coversGit('configureUser', 'holds for all repositories', async (box) => {
    await box.git.configureUser('Global Name', 'global@example.com')
    assert.equal(await box.git.getConfig('user.name'), 'Global Name')
})

coversGit('setConfig', 'is kept', async (box, path) => {
    await box.git.setConfig('wrenn.key', 'a value', { scope: 'local', path })
    assert.equal(await box.git.getConfig('wrenn.key', { scope: 'local', path }), 'a value')
})

coversGit('getConfig', 'is undefined where not set', async (box) => {
    assert.equal(await box.git.getConfig('wrenn.unset'), undefined)
})

coversGit('status', 'tells changes', async (box, path) => {
    await box.files.write(`${path}/README`, 'two\n')
    await box.files.write(`${path}/new`, 'x')
    const status = await box.git.status(path)
    const found = Object.fromEntries(status.fileStatus.map((file) => [file.name, file.status]))
    assert.deepEqual(found, { README: 'modified', new: 'untracked' })
})

coversGit('add', 'stages', async (box, path) => {
    await box.files.write(`${path}/a`, 'x')
    await box.files.write(`${path}/b`, 'x')
    await box.git.add(path, { files: ['a'] })
    assert.equal((await box.git.status(path)).stagedCount, 1)
})

coversGit('commit', 'has an author', async (box, path) => {
    const author = { authorName: 'Other', authorEmail: 'o@example.com', allowEmpty: true }
    await box.git.commit(path, "with 'quotes'", author)
    assert.equal(await output(box, `git -C ${path} log -1 --format='%an <%ae> %s'`), "Other <o@example.com> with 'quotes'")
})

coversGit('branches', 'are listed', async (box, path) => {
    await box.git.createBranch(path, 'topic')
    const { branches, currentBranch } = await box.git.branches(path)
    assert.deepEqual([branches.sort(), currentBranch], [['main', 'topic'], 'topic'])
})

coversGit('createBranch', 'is current', async (box, path) => {
    await box.git.createBranch(path, 'feature/x')
    assert.equal((await box.git.status(path)).currentBranch, 'feature/x')
})

coversGit('checkoutBranch', 'goes back', async (box, path) => {
    await box.git.createBranch(path, 'topic')
    await box.git.checkoutBranch(path, 'main')
    assert.equal((await box.git.status(path)).currentBranch, 'main')
    await assert.rejects(box.git.checkoutBranch(path, 'missing'), e2b.CommandExitError)
})

coversGit('deleteBranch', 'deletes', async (box, path) => {
    await box.git.createBranch(path, 'topic')
    await box.git.checkoutBranch(path, 'main')
    await box.git.deleteBranch(path, 'topic', { force: true })
    assert.deepEqual((await box.git.branches(path)).branches, ['main'])
})

coversGit('remoteAdd', 'is overwritten when asked', async (box, path) => {
    await box.git.remoteAdd(path, 'origin', 'https://example.com/a.git')
    await box.git.remoteAdd(path, 'origin', 'https://example.com/b.git', { overwrite: true })
    assert.equal(await box.git.remoteGet(path, 'origin'), 'https://example.com/b.git')
})

coversGit('remoteGet', 'is undefined where there is none', async (box, path) => {
    assert.equal(await box.git.remoteGet(path, 'origin'), undefined)
})

for (const method of ['push', 'clone']) {
    coversGit(method, 'brings commits over', async (box, path, place) => {
        await box.git.init(`${place}/bare.git`, { bare: true, initialBranch: 'main' })
        await box.git.remoteAdd(path, 'origin', `${place}/bare.git`)
        await box.git.push(path, { remote: 'origin', branch: 'main' })
        await box.git.clone(`${place}/bare.git`, { path: `${place}/clone`, branch: 'main' })
        assert.equal(await box.files.read(`${place}/clone/README`), 'one\n')
    })
}

coversGit('pull', 'needs an upstream', async (box, path) => {
    await assert.rejects(box.git.pull(path), e2b.GitUpstreamError)
})

coversGit('reset', 'goes back', async (box, path) => {
    await box.files.write(`${path}/README`, 'two\n')
    await box.git.reset(path, { mode: 'hard', target: 'HEAD' })
    assert.equal(await box.files.read(`${path}/README`), 'one\n')
})

coversGit('restore', 'brings a file back', async (box, path) => {
    await box.files.write(`${path}/README`, 'two\n')
    await box.git.restore(path, { paths: ['README'] })
    assert.equal((await box.git.status(path)).isClean, true)
})

coversGit('dangerouslyAuthenticate', 'stores credentials', async (box) => {
    await box.git.dangerouslyAuthenticate({ username: 'name', password: 'secret', host: 'git.example.com' })
    const question = 'protocol=https\nhost=git.example.com\n\n'
    assert.match(await output(box, `printf '%s' '${question}' | git credential fill`), /username=name\npassword=secret/)
})
