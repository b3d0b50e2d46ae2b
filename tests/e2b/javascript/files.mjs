// `files`, the URLs of files, and watches.
import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { covers, e2b, newPlace, output, until } from './harness.mjs'

const text = 'héllo\nwörld ✓\n'
const sha256 = (data) => createHash('sha256').update(data).digest('hex')
const { FileType, FilesystemEventType: Type } = e2b

covers('files.write', 'is read back', async (box) => {
    const place = await newPlace(box)
    const info = await box.files.write(`${place}/deep/er/a.txt`, text)
    assert.deepEqual([info.name, info.path, info.type], ['a.txt', `${place}/deep/er/a.txt`, FileType.FILE])
    assert.equal(await box.files.read(`${place}/deep/er/a.txt`), text)
    assert.equal(await output(box, `stat -c '%U %a' ${place}/deep ${place}/deep/er/a.txt`), 'user 755\nuser 644')
    await assert.rejects(box.files.write(place, 'x'), e2b.InvalidArgumentError)
})

covers('files.write', 'gives files outside of the home to the user', async (box) => {
    await box.files.write('/top/a.txt', text)
    assert.equal(await box.files.makeDir('/top/b/c'), true)
    assert.equal(await output(box, "stat -c '%U %a' /top /top/a.txt /top/b/c"), 'user 755\nuser 644\nuser 755')
    await box.files.remove('/top')
    assert.equal(await box.files.exists('/top'), false)
})

covers('files.write', 'takes bytes, blobs and streams', async (box) => {
    const place = await newPlace(box)
    const data = randomBytes(2_000_000)
    const view = data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength)
    for (const [name, body] of [['buffer', view], ['blob', new Blob([data])], ['stream', new Blob([data]).stream()]]) {
        await box.files.write(`${place}/${name}`, body)
        assert.equal((await output(box, `sha256sum < ${place}/${name}`)).split(' ')[0], sha256(data), name)
    }
})

covers('files.write', 'keeps odd names', async (box) => {
    const place = await newPlace(box)
    for (const name of ['with space', 'ümläut', '100%', 'a&b=c', 'plus+', 'hash#']) {
        await box.files.write(`${place}/${name}`, name)
        assert.equal(await box.files.read(`${place}/${name}`), name)
    }
})

covers('files.write', 'raises on a full disk', async (box) => {
    const place = await newPlace(box)
    await box.commands.run(`mkdir ${place}/small && mount -t tmpfs -o size=64k none ${place}/small`, { user: 'root' })
    const large = box.files.write(`${place}/small/large`, 'x'.repeat(1_000_000), { user: 'root' })
    await assert.rejects(large, e2b.NotEnoughSpaceError)
})

covers('files.write(gzip)', 'is unpacked', async (box) => {
    const place = await newPlace(box)
    await box.files.write(`${place}/zipped`, text.repeat(1000), { gzip: true })
    assert.equal(await output(box, `head -n 1 ${place}/zipped`), 'héllo')
    assert.equal(await box.files.read(`${place}/zipped`, { gzip: true }), text.repeat(1000))
})

covers('files.write(useOctetStream)', 'works in both forms', async (box) => {
    const place = await newPlace(box)
    for (const useOctetStream of [true, false]) {
        await box.files.write(`${place}/${useOctetStream}`, text, { useOctetStream })
        assert.equal(await box.files.read(`${place}/${useOctetStream}`), text)
    }
})

covers('files.write(metadata)', 'stays with the file', async (box) => {
    const place = await newPlace(box)
    const info = await box.files.write(`${place}/a`, 'x', { metadata: { origin: 'test' } })
    assert.deepEqual(info.metadata, { origin: 'test' })
    assert.deepEqual((await box.files.getInfo(`${place}/a`)).metadata, { origin: 'test' })
    assert.deepEqual((await box.files.rename(`${place}/a`, `${place}/b`)).metadata, { origin: 'test' })
})

for (const method of ['write', 'writeFiles']) {
    covers(`files.${method}`, 'writes many', async (box) => {
        const place = await newPlace(box)
        const files = Array.from({ length: 20 }, (_, n) => ({ path: `${place}/${n}/f`, data: `content ${n}` }))
        const infos = await box.files[method](files)
        assert.deepEqual(infos.map((info) => info.path), files.map((file) => file.path))
        assert.equal(await output(box, `cat ${place}/*/f | wc -c`), String(files.map((f) => f.data).join('').length))
    })
}

covers('files.read', 'raises for what is missing or a directory', async (box) => {
    const place = await newPlace(box)
    const missing = await box.files.read(`${place}/missing`).catch((error) => error)
    assert.ok(missing instanceof e2b.NotFoundError)
    if (e2b.FileNotFoundError) assert.ok(missing instanceof e2b.FileNotFoundError)
    await assert.rejects(box.files.read(place), e2b.InvalidArgumentError)
})

covers('files.read', 'reads pseudo and empty files', async (box) => {
    const place = await newPlace(box)
    assert.equal((await box.files.read('/proc/sys/kernel/random/boot_id')).trim().length, 36)
    await box.files.write(`${place}/empty`, '')
    assert.equal(await box.files.read(`${place}/empty`), '')
})

covers('files.read', 'reads as the user', async (box) => {
    assert.match(await box.files.read('/etc/shadow', { user: 'root' }), /root:/)
})

covers('files.read', 'gives bytes, blob and stream', async (box) => {
    const place = await newPlace(box)
    const data = randomBytes(3_000_000)
    await box.files.write(`${place}/data`, new Blob([data]))
    assert.equal(sha256(await box.files.read(`${place}/data`, { format: 'bytes' })), sha256(data))
    const blob = await box.files.read(`${place}/data`, { format: 'blob' })
    assert.equal(sha256(Buffer.from(await blob.arrayBuffer())), sha256(data))
    const chunks = []
    for await (const chunk of await box.files.read(`${place}/data`, { format: 'stream' })) chunks.push(chunk)
    assert.equal(sha256(Buffer.concat(chunks)), sha256(data))
})

covers('files.list', 'tells about entries', async (box) => {
    const place = await newPlace(box)
    await box.files.write(`${place}/a`, '12345')
    await box.files.write(`${place}/d/b`, 'x')
    await box.commands.run(`ln -s ${place}/a ${place}/link; chmod 600 ${place}/a`)
    const [file, directory, link, ...rest] = await box.files.list(place)
    assert.deepEqual(rest, [])
    assert.deepEqual([file.name, file.path, file.type, file.size], ['a', `${place}/a`, FileType.FILE, 5])
    assert.deepEqual([file.mode, file.permissions, file.owner, file.group], [0o600, '-rw-------', 'user', 'user'])
    assert.deepEqual([directory.name, directory.type, directory.permissions], ['d', FileType.DIR, 'drwxr-xr-x'])
    assert.equal(link.symlinkTarget, `${place}/a`)
    assert.ok(Math.abs(Date.now() - file.modifiedTime.getTime()) < 120_000)
    await assert.rejects(box.files.list(`${place}/missing`), e2b.NotFoundError)
    await assert.rejects(box.files.list(`${place}/a`), e2b.InvalidArgumentError)
})

covers('files.list(depth)', 'goes as deep as asked', async (box) => {
    const place = await newPlace(box)
    await box.files.write(`${place}/1/2/3/f`, 'x')
    await box.files.write(`${place}/a`, 'x')
    const paths = async (depth) => (await box.files.list(place, { depth })).map((one) => one.path.slice(place.length))
    assert.deepEqual(await paths(1), ['/1', '/a'])
    assert.deepEqual(await paths(2), ['/1', '/1/2', '/a'])
    assert.deepEqual(await paths(9), ['/1', '/1/2', '/1/2/3', '/1/2/3/f', '/a'])
})

covers('files.exists', 'knows all kinds', async (box) => {
    const place = await newPlace(box)
    assert.equal(await box.files.exists(place), true)
    assert.equal(await box.files.exists(`${place}/missing`), false)
})

covers('files.getInfo', 'describes file, directory and link', async (box) => {
    const place = await newPlace(box)
    await box.files.write(`${place}/file`, '123')
    await box.commands.run(`ln -s file ${place}/link`)
    const file = await box.files.getInfo(`${place}/file`)
    assert.deepEqual([file.name, file.type, file.size, file.mode], ['file', FileType.FILE, 3, 0o644])
    assert.equal(file.symlinkTarget, undefined)
    const directory = await box.files.getInfo(place)
    assert.deepEqual([directory.type, directory.mode, directory.size > 0], [FileType.DIR, 0o755, true])
    assert.equal((await box.files.getInfo(`${place}/link`)).symlinkTarget, `${place}/file`)
    await assert.rejects(box.files.getInfo(`${place}/missing`), e2b.NotFoundError)
})

covers('files.rename', 'moves the file', async (box) => {
    const place = await newPlace(box)
    await box.files.write(`${place}/old`, 'x')
    const info = await box.files.rename(`${place}/old`, `${place}/new/name`)
    assert.deepEqual([info.name, info.path], ['name', `${place}/new/name`])
    assert.equal(await box.files.exists(`${place}/old`), false)
    await assert.rejects(box.files.rename(`${place}/old`, `${place}/other`), e2b.NotFoundError)
})

covers('files.remove', 'removes directories, and twice', async (box) => {
    const place = await newPlace(box)
    await box.files.write(`${place}/d/e/f`, 'x')
    await box.files.remove(`${place}/d`)
    assert.equal(await box.files.exists(`${place}/d`), false)
    await box.files.remove(`${place}/d`)
})

covers('files.makeDir', 'is true once', async (box) => {
    const place = await newPlace(box)
    assert.equal(await box.files.makeDir(`${place}/a/b`), true)
    assert.equal(await box.files.makeDir(`${place}/a/b`), false)
    await box.files.write(`${place}/file`, 'x')
    await assert.rejects(box.files.makeDir(`${place}/file`), e2b.InvalidArgumentError)
})

covers('Sandbox.downloadUrl', 'needs no key', async (box) => {
    const place = await newPlace(box)
    await box.files.write(`${place}/with space`, text)
    const url = await box.downloadUrl(`${place}/with space`)
    assert.equal(await (await fetch(url)).text(), text)
    assert.equal((await fetch(url.replace('signature=v1_', 'signature=v1_AAAA'))).status, 401)
    assert.equal((await fetch(await box.downloadUrl(`${place}/missing`))).status, 404)
})

covers('Sandbox.downloadUrl(useSignatureExpiration)', 'expires', async (box) => {
    const place = await newPlace(box)
    await box.files.write(`${place}/file`, 'x')
    const good = await box.downloadUrl(`${place}/file`, { useSignatureExpiration: 60 })
    assert.equal(await (await fetch(good)).text(), 'x')
    const late = await fetch(await box.downloadUrl(`${place}/file`, { useSignatureExpiration: -60 }))
    assert.deepEqual([late.status, (await late.json()).message], [401, 'signature is already expired'])
})

covers('Sandbox.uploadUrl', 'takes a form', async (box) => {
    const place = await newPlace(box)
    const form = new FormData()
    form.append('file', new Blob([text]), 'ignored')
    const answer = await fetch(await box.uploadUrl(`${place}/up`), { method: 'POST', body: form })
    assert.equal(answer.status, 200)
    assert.deepEqual(await answer.json(), [{ path: `${place}/up`, name: 'up', type: 'file' }])
    assert.equal(await box.files.read(`${place}/up`), text)
})

covers('Sandbox.uploadUrl', 'takes the name of the part as the path', async (box) => {
    const place = await newPlace(box)
    const form = new FormData()
    form.append('file', new Blob([text]), `${place}/named`)
    const answer = await fetch(await box.uploadUrl(), { method: 'POST', body: form })
    assert.equal(answer.status, 200)
    assert.equal(await box.files.read(`${place}/named`), text)
})

async function watched(box, path, options) {
    const events = []
    const handle = await box.files.watchDir(path, (event) => void events.push(event), options)
    const saw = (name, type) => {
        const find = () => events.find((event) => event.name === name && event.type === type)
        return until(find, `${type} of ${name}`)
    }
    return { events, handle, saw }
}

covers('files.watchDir', 'sees a new file as three events', async (box) => {
    const place = await newPlace(box)
    const { events, handle } = await watched(box, place)
    await box.files.write(`${place}/new`, 'x')
    await until(() => events.length >= 3, 'three events')
    assert.deepEqual(events.map((event) => event.name), ['new', 'new', 'new'])
    assert.equal(events[0].type, Type.CREATE)
    await handle.stop()
})

covers('files.watchDir', 'sees each kind of change', async (box) => {
    const place = await newPlace(box)
    await box.files.write(`${place}/file`, 'x')
    const { handle, saw } = await watched(box, place)
    await box.files.write(`${place}/file`, 'y')
    await saw('file', Type.WRITE)
    await box.commands.run(`chmod 600 ${place}/file`)
    await saw('file', Type.CHMOD)
    await box.files.rename(`${place}/file`, `${place}/other`)
    await saw('file', Type.RENAME)
    await saw('other', Type.CREATE)
    await box.files.remove(`${place}/other`)
    await saw('other', Type.REMOVE)
    await handle.stop()
})

covers('files.watchDir(recursive)', 'sees new directories', async (box) => {
    const place = await newPlace(box)
    const { handle, saw } = await watched(box, place, { recursive: true })
    await box.files.makeDir(`${place}/new`)
    await saw('new', Type.CREATE)
    await box.files.write(`${place}/new/file`, 'x')
    await saw('new/file', Type.WRITE)
    await handle.stop()
})

covers('files.watchDir(includeEntry)', 'carries entries', async (box) => {
    const place = await newPlace(box)
    const { handle, saw } = await watched(box, place, { includeEntry: true })
    await box.files.write(`${place}/file`, '12345')
    const event = await saw('file', Type.WRITE)
    assert.deepEqual([event.entry.path, event.entry.owner], [`${place}/file`, 'user'])
    await handle.stop()
})

covers('files.watchDir', 'raises for what is missing or a file', async (box) => {
    const place = await newPlace(box)
    await box.files.write(`${place}/file`, 'x')
    await assert.rejects(box.files.watchDir(`${place}/missing`, () => {}), e2b.NotFoundError)
    await assert.rejects(box.files.watchDir(`${place}/file`, () => {}), e2b.InvalidArgumentError)
})

covers('watch.stop', 'ends the events', async (box) => {
    const place = await newPlace(box)
    let exits = 0
    const events = []
    const handle = await box.files.watchDir(place, (event) => void events.push(event), { onExit: () => void exits++ })
    await handle.stop()
    await until(() => exits === 1, 'the call of onExit')
    await box.files.write(`${place}/file`, 'x')
    assert.deepEqual(events, [])
})
