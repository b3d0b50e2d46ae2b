"""`files`, and the URLs of files."""

from __future__ import annotations

import datetime
import hashlib
import io
import os
from typing import Any
from urllib.parse import parse_qs, urlsplit

import e2b
import httpx
import pytest
from conftest import VERSION, Sdk, covers, go
from packaging.version import Version

TEXT = "héllo\nwörld ✓\n"


@covers("files.write")
async def test_written_text_is_read_back(sdk: Sdk, box: Any, place: str) -> None:
    info = await go(box.files.write(f"{place}/deep/er/a.txt", TEXT))
    assert (info.name, info.path) == ("a.txt", f"{place}/deep/er/a.txt")
    assert e2b.FileType(info.type) == e2b.FileType.FILE
    assert await go(box.files.read(f"{place}/deep/er/a.txt")) == TEXT
    await go(box.files.write(f"{place}/deep/er/a.txt", "shorter"))
    assert await go(box.files.read(f"{place}/deep/er/a.txt")) == "shorter"


@covers("files.write")
async def test_written_file_has_owner_and_mode(sdk: Sdk, box: Any, place: str) -> None:
    await go(box.files.write(f"{place}/new/a.txt", "x"))
    await go(box.files.write("/opt/root-made/a.txt", "x", user="root"))
    listing = await sdk.output(box, f"stat -c '%U %G %a' {place}/new {place}/new/a.txt /opt/root-made/a.txt")
    assert listing.splitlines() == ["user user 755", "user user 644", "root root 644"]


@covers("files.write")
async def test_files_outside_home_belong_to_user(sdk: Sdk, box: Any) -> None:
    top = f"/top-{sdk.face}"
    await go(box.files.write(f"{top}/a.txt", "x"))
    assert await go(box.files.make_dir(f"{top}/b/c"))
    await go(box.files.write(f"/etc/{top}.conf", "y"))
    await go(box.files.rename(f"/etc/{top}.conf", f"/opt/{top}.conf"))
    shown = await sdk.output(box, f"stat -c '%U %a' {top} {top}/a.txt {top}/b {top}/b/c /opt/{top}.conf")
    assert shown.splitlines() == ["user 755", "user 644", "user 755", "user 755", "user 644"]
    await go(box.files.remove(top))
    assert not await go(box.files.exists(top))


@covers("files.write")
async def test_relative_path_is_in_home(sdk: Sdk, box: Any) -> None:
    info = await go(box.files.write("relative-file", "x"))
    assert info.path == "/home/user/relative-file"
    assert await go(box.files.read("~/relative-file")) == "x"


@covers("files.write")
async def test_written_directory_is_refused(sdk: Sdk, box: Any, place: str) -> None:
    with pytest.raises(e2b.InvalidArgumentException):
        await go(box.files.write(place, "x"))


@covers("files.write")
async def test_odd_names_are_kept(sdk: Sdk, box: Any, place: str) -> None:
    for name in ("with space", "ümläut", "100%", "a&b=c", "semi;colon", "quo'te", 'dou"ble', "plus+", "hash#"):
        await go(box.files.write(f"{place}/{name}", name))
        assert await go(box.files.read(f"{place}/{name}")) == name
    names = [entry.name for entry in await go(box.files.list(place))]
    assert "ümläut" in names
    assert 'dou"ble' in names


@covers("files.write")
async def test_file_object_is_written(sdk: Sdk, box: Any, place: str) -> None:
    data = os.urandom(3_000_000)
    await go(box.files.write(f"{place}/binary", io.BytesIO(data)))
    await go(box.files.write(f"{place}/text", io.StringIO(TEXT)))
    assert bytes(await go(box.files.read(f"{place}/binary", format="bytes"))) == data
    assert await go(box.files.read(f"{place}/text")) == TEXT


@covers("files.write")
async def test_full_disk_raises(sdk: Sdk, box: Any, place: str) -> None:
    await go(box.commands.run(f"mkdir -p {place}/small && mount -t tmpfs -o size=64k none {place}/small", user="root"))
    with pytest.raises(e2b.NotEnoughSpaceException):
        await go(box.files.write(f"{place}/small/large", b"x" * 1_000_000, user="root"))


@covers("files.write", needs=("commands.stream_input",))
async def test_iterable_is_streamed(sdk: Sdk, box: Any, place: str) -> None:
    chunks = [bytes([number]) * 100_000 for number in range(20)]
    if sdk.is_async:

        async def produce() -> Any:
            for chunk in chunks:
                yield chunk

        await box.files.write(f"{place}/streamed", produce())
    else:
        box.files.write(f"{place}/streamed", iter(chunks))
    shown = await sdk.output(box, f"sha256sum < {place}/streamed")
    assert shown.split()[0] == hashlib.sha256(b"".join(chunks)).hexdigest()


@covers("files.write(gzip)")
async def test_compressed_upload_is_unpacked(sdk: Sdk, box: Any, place: str) -> None:
    await go(box.files.write(f"{place}/zipped", TEXT * 1000, gzip=True))
    assert await sdk.output(box, f"head -n 1 {place}/zipped") == "héllo"
    assert await go(box.files.read(f"{place}/zipped", gzip=True)) == TEXT * 1000


@covers("files.write(use_octet_stream)")
async def test_both_forms_of_upload_work(sdk: Sdk, box: Any, place: str) -> None:
    for octets in (True, False):
        await go(box.files.write(f"{place}/{octets}", TEXT, use_octet_stream=octets))
        assert await go(box.files.read(f"{place}/{octets}")) == TEXT


@covers("files.write(metadata)")
async def test_metadata_stays_with_file(sdk: Sdk, box: Any, place: str) -> None:
    await go(box.files.write(f"{place}/a", "x", metadata={"Origin": "test", "number": "1"}))
    assert (await go(box.files.get_info(f"{place}/a"))).metadata == {"origin": "test", "number": "1"}
    moved = await go(box.files.rename(f"{place}/a", f"{place}/b"))
    assert moved.metadata == {"origin": "test", "number": "1"}
    await sdk.output(box, f"python3 -c \"import os; os.setxattr('{place}/b', 'user.e2b.extra', b'guest')\"")
    assert (await go(box.files.get_info(f"{place}/b"))).metadata["extra"] == "guest"
    await go(box.files.write(f"{place}/b", "y", metadata={"only": "this"}))
    assert (await go(box.files.get_info(f"{place}/b"))).metadata == {"only": "this"}


@covers("files.write_files")
async def test_many_files_are_written(sdk: Sdk, box: Any, place: str) -> None:
    files = [{"path": f"{place}/{number}/f", "data": f"content {number}"} for number in range(20)]
    infos = await go(box.files.write_files(files))
    assert [info.path for info in infos] == [file["path"] for file in files]
    assert await sdk.output(box, f"cat {place}/*/f | wc -c") == str(sum(len(file["data"]) for file in files))
    assert await go(box.files.write_files([])) == []


@covers("files.read")
async def test_missing_file_raises(sdk: Sdk, box: Any, place: str) -> None:
    with pytest.raises(e2b.NotFoundException) as caught:
        await go(box.files.read(f"{place}/missing"))
    assert isinstance(caught.value, e2b.FileNotFoundException)


@covers("files.read")
async def test_read_directory_is_refused(sdk: Sdk, box: Any, place: str) -> None:
    with pytest.raises(e2b.InvalidArgumentException):
        await go(box.files.read(place))


@covers("files.read")
async def test_pseudo_and_empty_files_are_read(sdk: Sdk, box: Any, place: str) -> None:
    assert len((await go(box.files.read("/proc/sys/kernel/random/boot_id"))).strip()) == 36
    await go(box.files.write(f"{place}/empty", ""))
    assert await go(box.files.read(f"{place}/empty")) == ""


@covers("files.read")
async def test_files_of_root_are_read_by_root(sdk: Sdk, box: Any) -> None:
    assert "root:" in await go(box.files.read("/etc/shadow", user="root"))


@covers("files.read(format=bytes)")
async def test_bytes_are_kept(sdk: Sdk, box: Any, place: str) -> None:
    data = bytes(range(256)) * 5000
    await go(box.files.write(f"{place}/bytes", data))
    found = await go(box.files.read(f"{place}/bytes", format="bytes"))
    assert isinstance(found, bytearray)
    assert found == data


@covers("files.read(format=stream)")
async def test_large_file_is_streamed(sdk: Sdk, box: Any, place: str) -> None:
    await go(box.commands.run(f"head -c 20000000 /dev/urandom > {place}/large"))
    digest, length = hashlib.sha256(), 0
    stream = await go(box.files.read(f"{place}/large", format="stream"))
    if sdk.is_async:
        async for chunk in stream:
            digest.update(chunk)
            length += len(chunk)
    else:
        for chunk in stream:
            digest.update(chunk)
            length += len(chunk)
    assert length == 20_000_000
    assert await sdk.output(box, f"sha256sum < {place}/large") == f"{digest.hexdigest()}  -"


@covers("files.list")
async def test_list_tells_about_entries(sdk: Sdk, box: Any, place: str) -> None:
    await go(box.files.write(f"{place}/a", "12345"))
    await go(box.files.write(f"{place}/d/b", "x"))
    await go(box.commands.run(f"ln -s {place}/a {place}/link; chmod 600 {place}/a"))
    entries = await go(box.files.list(place))
    assert [entry.name for entry in entries] == ["a", "d", "link"]
    file, directory, link = entries
    assert (file.path, file.type, file.size) == (f"{place}/a", e2b.FileType.FILE, 5)
    assert (file.mode, file.permissions, file.owner, file.group) == (0o600, "-rw-------", "user", "user")
    assert (directory.type, directory.permissions) == (e2b.FileType.DIR, "drwxr-xr-x")
    assert link.symlink_target == f"{place}/a"
    age = datetime.datetime.now(datetime.UTC) - file.modified_time.astimezone(datetime.UTC)
    assert abs(age) < datetime.timedelta(minutes=2)


@covers("files.list(depth)")
async def test_list_goes_as_deep_as_asked(sdk: Sdk, box: Any, place: str) -> None:
    await go(box.files.write(f"{place}/1/2/3/f", "x"))
    await go(box.files.write(f"{place}/a", "x"))

    async def paths(depth: int) -> list[str]:
        return [entry.path.removeprefix(place) for entry in await go(box.files.list(place, depth=depth))]

    assert await paths(1) == ["/1", "/a"]
    assert await paths(2) == ["/1", "/1/2", "/a"]
    assert await paths(9) == ["/1", "/1/2", "/1/2/3", "/1/2/3/f", "/a"]
    with pytest.raises(e2b.InvalidArgumentException):
        await paths(-1)


@covers("files.list")
async def test_list_of_missing_or_file_raises(sdk: Sdk, box: Any, place: str) -> None:
    await go(box.files.write(f"{place}/file", "x"))
    with pytest.raises(e2b.NotFoundException):
        await go(box.files.list(f"{place}/missing"))
    with pytest.raises(e2b.InvalidArgumentException):
        await go(box.files.list(f"{place}/file"))


@covers("files.exists")
async def test_exists_of_all_kinds(sdk: Sdk, box: Any, place: str) -> None:
    await go(box.files.write(f"{place}/file", "x"))
    assert await go(box.files.exists(f"{place}/file")) is True
    assert await go(box.files.exists(place)) is True
    assert await go(box.files.exists(f"{place}/missing")) is False


@covers("files.get_info")
async def test_info_of_file_directory_and_link(sdk: Sdk, box: Any, place: str) -> None:
    await go(box.files.write(f"{place}/file", "123"))
    await go(box.commands.run(f"ln -s file {place}/link"))
    file = await go(box.files.get_info(f"{place}/file"))
    assert (file.name, file.type, file.path, file.size) == ("file", e2b.FileType.FILE, f"{place}/file", 3)
    assert (file.mode, file.permissions, file.symlink_target) == (0o644, "-rw-r--r--", None)
    directory = await go(box.files.get_info(place))
    assert (directory.type, directory.mode) == (e2b.FileType.DIR, 0o755)
    assert directory.size > 0
    assert (await go(box.files.get_info(f"{place}/link"))).symlink_target == f"{place}/file"
    with pytest.raises(e2b.NotFoundException):
        await go(box.files.get_info(f"{place}/missing"))


@covers("files.rename")
async def test_renamed_file_is_moved(sdk: Sdk, box: Any, place: str) -> None:
    await go(box.files.write(f"{place}/old", "x"))
    info = await go(box.files.rename(f"{place}/old", f"{place}/new/name"))
    assert (info.name, info.path) == ("name", f"{place}/new/name")
    assert not await go(box.files.exists(f"{place}/old"))
    with pytest.raises(e2b.NotFoundException):
        await go(box.files.rename(f"{place}/old", f"{place}/other"))


@covers("files.remove")
async def test_removed_directory_is_gone(sdk: Sdk, box: Any, place: str) -> None:
    await go(box.files.write(f"{place}/d/e/f", "x"))
    await go(box.files.remove(f"{place}/d"))
    assert not await go(box.files.exists(f"{place}/d"))
    await go(box.files.remove(f"{place}/d"))


@covers("files.make_dir")
async def test_directory_is_made_anywhere_for_user(sdk: Sdk, box: Any) -> None:
    top = f"/workspace-{sdk.run_id}"
    assert await go(box.files.make_dir(f"{top}/of-user")) is True
    assert await go(box.files.make_dir(f"{top}/of-root", user="root")) is True
    shown = await sdk.output(box, f"stat -c '%U %a' {top} {top}/of-user {top}/of-root")
    assert shown.splitlines() == ["user 755", "user 755", "root 755"]


@covers("files.make_dir")
async def test_directory_is_made_once(sdk: Sdk, box: Any, place: str) -> None:
    assert await go(box.files.make_dir(f"{place}/a/b/c")) is True
    assert await go(box.files.make_dir(f"{place}/a/b/c")) is False
    assert await sdk.output(box, f"stat -c '%U %a' {place}/a") == "user 755"
    await go(box.files.write(f"{place}/file", "x"))
    with pytest.raises(e2b.InvalidArgumentException):
        await go(box.files.make_dir(f"{place}/file"))


@covers("Sandbox.download_url")
async def test_download_url_needs_no_key(sdk: Sdk, box: Any, place: str) -> None:
    await go(box.files.write(f"{place}/with space", TEXT))
    url = box.download_url(f"{place}/with space")
    assert httpx.get(url).content.decode() == TEXT
    assert httpx.get(url, headers={"Range": "bytes=0-4"}).content == TEXT.encode()[:5]
    broken = url.replace("signature=v1_", "signature=v1_AAAA")
    assert httpx.get(broken).status_code == 401
    assert httpx.get(box.download_url(f"{place}/missing")).status_code == 404


@covers("Sandbox.download_url(use_signature_expiration)")
async def test_download_url_expires(sdk: Sdk, box: Any, place: str) -> None:
    await go(box.files.write(f"{place}/file", "x"))
    assert httpx.get(box.download_url(f"{place}/file", use_signature_expiration=60)).text == "x"
    late = httpx.get(box.download_url(f"{place}/file", use_signature_expiration=-60))
    assert late.status_code == 401
    assert late.json()["message"] == "signature is already expired"


@covers("Sandbox.download_url(user)")
async def test_download_url_is_of_user(sdk: Sdk, box: Any) -> None:
    assert "root:" in httpx.get(box.download_url("/etc/shadow", user="root")).text


@covers("Sandbox.upload_url")
async def test_upload_url_takes_form(sdk: Sdk, box: Any, place: str) -> None:
    answer = httpx.post(box.upload_url(f"{place}/up"), files={"file": ("ignored", TEXT.encode())})
    assert answer.status_code == 200
    assert answer.json() == [{"path": f"{place}/up", "name": "up", "type": "file"}]
    assert await go(box.files.read(f"{place}/up")) == TEXT
    # A signature for reading does not write.
    stolen = parse_qs(urlsplit(box.download_url(f"{place}/up")).query)["signature"][0]
    wrong = httpx.post(
        urlsplit(box.upload_url(f"{place}/up"))._replace(query="").geturl(),
        params={"path": f"{place}/up", "signature": stolen},
        files={"file": b"y"},
    )
    assert wrong.status_code == 401


@covers("Sandbox.upload_url(use_signature_expiration)")
async def test_upload_url_expires(sdk: Sdk, box: Any, place: str) -> None:
    url = box.upload_url(f"{place}/up", use_signature_expiration=-60)
    late = httpx.post(url, files={"file": b"x"})
    assert (late.status_code, late.json()["message"]) == (401, "signature is already expired")
    assert Version("2.31") > VERSION or not await go(box.files.exists(f"{place}/up"))
