"""Where server and key come from."""

from __future__ import annotations

import pathlib

import pytest

from wrenn_sandbox import Client, CredentialsError, _settings


@pytest.fixture(autouse=True)
def directory(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    for name in ("WRENN_API_URL", "WRENN_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WRENN_DIR", str(tmp_path))
    return tmp_path


def write(directory: pathlib.Path, text: str) -> None:
    (directory / "credentials").write_text(text)


def test_arguments_come_before_environment(
    directory: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(directory, "WRENN_API_URL=http://127.0.0.1:1\nWRENN_API_KEY=wrn_file\n")
    assert _settings.load(None, None) == ("http://127.0.0.1:1", "wrn_file")
    monkeypatch.setenv("WRENN_API_URL", "http://far.example/")
    monkeypatch.setenv("WRENN_API_KEY", "wrn_env")
    assert _settings.load(None, None) == ("http://far.example", "wrn_env")
    assert _settings.load("http://other.example", "wrn_arg") == ("http://other.example", "wrn_arg")


def test_key_of_file_stays_on_machine(directory: pathlib.Path) -> None:
    write(directory, "WRENN_API_KEY=wrn_file\n")
    assert _settings.load("http://localhost:9", None).key == "wrn_file"
    assert _settings.load("http://[::1]:9", None).key == "wrn_file"
    for url in ("http://far.example", "http://127.0.0.1@far.example"):
        with pytest.raises(CredentialsError, match="not sent"):
            _settings.load(url, None)


def test_missing_file_says_what_to_do(directory: pathlib.Path) -> None:
    with pytest.raises(CredentialsError, match="wrenn up"):
        Client()
    assert _settings.load(None, "wrn_arg") == ("http://127.0.0.1:8000", "wrn_arg")


def test_unreadable_file_matters_without_key(directory: pathlib.Path) -> None:
    (directory / "credentials").mkdir()
    with pytest.raises(CredentialsError, match="cannot be read"):
        _settings.load(None, None)
    assert _settings.load(None, "wrn_arg").url == "http://127.0.0.1:8000"


def test_file_is_read_as_by_shell(directory: pathlib.Path) -> None:
    write(
        directory,
        "# here\n\nexport WRENN_API_URL='http://127.0.0.1:2'\nWRENN_API_KEY = \"k\"\nX=y\r\n",
    )
    assert _settings.load(None, None) == ("http://127.0.0.1:2", "k")
    write(directory, "A=b\nwrn_1\n")
    with pytest.raises(CredentialsError, match="line 2"):
        _settings.load(None, None)


@pytest.mark.parametrize("url", ["far.example", "ftp://far.example", "http://"])
def test_wrong_url_is_refused(url: str) -> None:
    with pytest.raises(CredentialsError, match="a user or a password") as caught:
        _settings.load("https://me:secret@host", "wrn_1")
    assert "secret" not in str(caught.value)
    with pytest.raises(CredentialsError, match="not the address"):
        _settings.load("http://[::1", "wrn_1")
    with pytest.raises(CredentialsError, match="not the address"):
        Client(url, "wrn_1")


def test_key_with_odd_characters_is_refused() -> None:
    with pytest.raises(CredentialsError, match="characters"):
        Client("http://127.0.0.1:1", "schlüssel-ł")


def test_home_is_used_where_it_is(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WRENN_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert _settings.wrenn_dir() == pathlib.Path("/var/lib/wrenn")
    (tmp_path / ".wrenn").mkdir()
    assert _settings.wrenn_dir() == tmp_path / ".wrenn"
