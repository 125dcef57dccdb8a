import errno
import hashlib
import io
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import h5py
import numpy as np
import pytest

from rlrat import load_dataset
from rlrat.datasets import d4rl, download
from rlrat.datasets.d4rl_names import NAMES
from rlrat.errors import InputError

NAME, FILE = "hopper-medium-v2", "hopper_medium-v2.hdf5"


class Server(ThreadingHTTPServer):
    """Serves `body` as D4RL's file and records the Range header of each request."""

    ranges = True  # whether it honours them
    cuts = ()  # after how many bytes the connection breaks, request by request
    status = 200  # what it answers instead, if anything else
    length = True  # whether it says how long the file is
    headers = ()  # what else it says, pairs
    compares = True  # whether it honours If-Range
    words = None  # what it calls its status
    to = None  # where it sends on to
    drips = None  # an event till which it keeps what follows the first bytes
    silent = None  # an event till which it keeps its answer
    grows = b""  # what a file has more from the second request on
    file = NAMES[NAME].path

    def __init__(self, body):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body = body
        self.requests = []
        self.left = threading.Event()

    def handle_error(self, *_):  # it left before the end
        pass


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.requests.append(asked)
        if server.silent is not None:
            server.silent.wait(10)
        if len(server.requests) > 1:
            server.body, server.grows = server.body + server.grows, b""
        if server.to is not None and self.path == f"/{server.file}":
            self.send_response(302)
            self.send_header("Location", server.to)
            return self.end_headers()
        if server.status != 200 or self.path not in (f"/{server.file}", "/elsewhere"):
            return self.send_error(server.status if server.status != 200 else 404, server.words)
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and server.ranges else 0
        size, known = len(server.body), self.headers.get("If-Range")
        if known is not None and server.compares and known not in dict(server.headers).values():
            start = 0
        if start >= size:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{size}")
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        if server.length:
            self.send_header("Content-Length", str(size - start))
        for name, value in server.headers:
            self.send_header(name, value)
        self.end_headers()
        end = size
        if server.drips is not None:
            self.wfile.write(server.body[:100])
            if server.drips.wait(10):
                server.left.set()
            return None
        if len(server.requests) <= len(server.cuts):
            end = start + server.cuts[len(server.requests) - 1]
        self.wfile.write(server.body[start:end])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def body(d4rl_arrays):
    file = io.BytesIO()
    with h5py.File(file, "w") as hdf5:
        for key, value in d4rl_arrays("toto", steps=500).items():
            hdf5[key] = value
    return file.getvalue()


@pytest.fixture
def server(body, monkeypatch):
    with Server(body) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(d4rl, "BASE_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(download, "PAUSE_SECONDS", 0.0)
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "d4rl"


def assert_whole(folder, body):
    assert (folder / FILE).read_bytes() == body
    assert not (folder / f"{FILE}.part").exists()


def test_a_dataset_is_downloaded_once(server, folder, body):
    first = load_dataset(NAME)
    assert_whole(folder, body)
    assert load_dataset(NAME).fingerprint == first.fingerprint
    assert server.requests == [None]


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no ranges"])
def test_a_cut_connection_is_gone_on_with(server, folder, body, ranges):
    server.ranges, server.cuts = ranges, (5000, 7000)
    load_dataset(NAME)
    assert_whole(folder, body)
    assert server.requests == [None, "bytes=5000-", "bytes=12000-" if ranges else "bytes=7000-"]


def test_what_came_is_kept_for_the_next_run(server, folder, body, monkeypatch):
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    server.cuts = (5000,)
    with pytest.raises(InputError, match=rf"cannot download .* \(5000 of {len(body)} bytes.*5000 bytes that came"):
        load_dataset(NAME)
    assert not (folder / FILE).exists()
    assert (folder / f"{FILE}.part").read_bytes() == body[:5000]
    load_dataset(NAME)
    assert_whole(folder, body)
    assert server.requests == [None, "bytes=5000-"]


def test_a_whole_part_is_only_moved(server, folder, body):
    folder.mkdir()
    (folder / f"{FILE}.part").write_bytes(body)
    load_dataset(NAME)
    assert_whole(folder, body)
    assert server.requests == [f"bytes={len(body)}-"]


def test_a_part_longer_than_the_file_is_begun_again(server, folder, body):
    folder.mkdir()
    (folder / f"{FILE}.part").write_bytes(body + b"more")
    load_dataset(NAME)
    assert_whole(folder, body)


def test_a_server_that_tells_no_length(server, folder, body):
    server.length = False
    load_dataset(NAME)
    assert_whole(folder, body)


def test_no_such_file(server, folder):
    server.status = 404
    with pytest.raises(InputError, match=rf"the server refuses http://.*{FILE}: 404"):
        load_dataset(NAME)
    assert len(server.requests) == 1
    assert not (folder / FILE).exists()


def test_a_failing_server_is_asked_again(server):
    server.status = 503
    with pytest.raises(InputError, match=r"503 Service Unavailable.*check the network and run again, or put"):
        load_dataset(NAME)
    assert len(server.requests) == download.ATTEMPTS


@pytest.mark.parametrize("cut", [None, 9000], ids=["page", "short"])
def test_what_does_not_open_is_refused_and_removed(server, folder, body, cut):
    server.body = b"<html>a login page</html>" if cut is None else body[:cut]
    with pytest.raises(InputError, match=r"sent something else than the dataset: .*not an HDF5 file"):
        load_dataset(NAME)
    assert not (folder / FILE).exists()
    assert not (folder / f"{FILE}.part").exists()


def test_no_network(server, monkeypatch):
    def refuse(*_, **__):
        raise OSError("[Errno -2] Name or service not known")

    monkeypatch.setattr(download.urllib.request.OpenerDirector, "open", refuse)
    message = rf"cannot download .*Name or service.*put {FILE} into .*d4rl yourself"
    with pytest.raises(InputError, match=message) as caught:
        load_dataset(NAME)
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_written(server, folder):
    folder.write_text("a file in its place")
    with pytest.raises(InputError, match=r"cannot write .*D4RL_DATASET_DIR"):
        load_dataset(NAME)


def test_a_full_disk(server, folder, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download._Transfer, "_copy", full)
    with pytest.raises(InputError, match=f"no room for .*{FILE}: free some and run again"):
        load_dataset(NAME)
    assert not (folder / FILE).exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="it has no disk that is always full")
def test_a_disk_that_fills_up(server, folder):
    folder.mkdir()
    (folder / f"{FILE}.part").symlink_to("/dev/full")
    with pytest.raises(InputError, match=f"no room for .*{FILE}: free some and run again"):
        load_dataset(NAME)
    assert not (folder / FILE).exists()
    assert server.requests == [None]


def test_a_server_that_never_answers(server, folder, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.05)
    server.silent = threading.Event()
    with pytest.raises(InputError, match=r"cannot download .*timed out.*check the network and run again, or put"):
        load_dataset(NAME)
    server.silent.set()
    assert not (folder / FILE).exists()


def test_a_server_that_never_ends(server, folder, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.05)
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    server.drips = threading.Event()
    with pytest.raises(InputError, match=r"timed out.*100 bytes that came are kept"):
        load_dataset(NAME)
    server.drips.set()


@pytest.mark.parametrize("headers", [(), (("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT"),)])
def test_a_file_that_has_another_size_than_before_is_begun_anew(server, folder, body, headers):
    server.headers, server.body, server.cuts, server.grows = headers, body[:-9], (5000,), body[-9:]
    load_dataset(NAME)
    assert_whole(folder, body)
    assert server.requests == [None, "bytes=5000-", None]


def test_processes_that_want_the_same_file_fetch_it_once(server, folder, body):
    loaded = []
    threads = [threading.Thread(target=lambda: loaded.append(load_dataset(NAME).fingerprint)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loaded) == 4
    assert len(set(loaded)) == 1
    assert server.requests == [None]
    assert_whole(folder, body)
    np.testing.assert_array_equal(load_dataset(NAME).actions.shape[1:], (3,))


ETAG, DATE = ("ETag", '"abc-1"'), ("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")


def break_off(server, folder, monkeypatch):
    """The first 5000 bytes are there."""
    with monkeypatch.context() as patch:
        patch.setattr(download, "ATTEMPTS", 1)
        server.cuts = (5000,)
        with pytest.raises(InputError, match="5000 bytes that came are kept"):
            load_dataset(NAME)
    assert (folder / f"{FILE}.part").stat().st_size == 5000


@pytest.mark.parametrize("headers", [(ETAG,), (DATE,), (ETAG, DATE)], ids=["ETag", "Last-Modified", "both"])
@pytest.mark.parametrize("compares", [True, False], ids=["If-Range", "no If-Range"])
def test_a_file_that_changed_is_begun_anew(server, folder, body, monkeypatch, headers, compares):
    server.headers, server.compares, server.body = headers, compares, bytes(len(body))
    break_off(server, folder, monkeypatch)
    server.headers, server.body = [(name, value.replace("1", "2")) for name, value in headers], body
    load_dataset(NAME)
    assert_whole(folder, body)
    assert server.requests == [None, "bytes=5000-", *([] if compares else [None])]
    assert list(folder.glob("*.version")) == []


@pytest.mark.parametrize("headers", [(ETAG,), (DATE,), (("ETag", 'W/"abc"'),), ()])
def test_a_file_that_did_not_change_is_gone_on_with(server, folder, body, monkeypatch, headers):
    server.headers = headers
    break_off(server, folder, monkeypatch)
    kept = [path.read_text() for path in folder.glob("*.version")]
    assert kept == [value for name, value in headers if "W/" not in value]
    load_dataset(NAME)
    assert_whole(folder, body)
    assert server.requests == [None, "bytes=5000-"]


@pytest.mark.parametrize("value", ["", 'W/"abc"', '"a\r\nHost: b"', "\xff", '"' + "a" * 300 + '"'])
def test_a_garbled_version_is_not_sent(server, folder, body, monkeypatch, value):
    break_off(server, folder, monkeypatch)
    (folder / f"{FILE}.part.version").write_text(value, newline="")
    load_dataset(NAME)
    assert_whole(folder, body)
    assert server.requests == [None, "bytes=5000-"]


@pytest.mark.parametrize(
    "url",
    ["http://a.org", "ftp://a.org", "file:///etc", "data:,", "http://127.0.0.1.a.org", "http://[", "", "https:///x"],
)
def test_only_encrypted_addresses(monkeypatch, url):
    monkeypatch.setattr(d4rl, "BASE_URL", url)
    with pytest.raises(InputError, match="is no https address"):
        load_dataset(NAME)


def test_the_published_address_is_encrypted():
    assert d4rl.BASE_URL.startswith("https://")


def test_sent_on_within_its_host(server, folder, body):
    server.to = "/elsewhere"
    load_dataset(NAME)
    assert_whole(folder, body)


@pytest.mark.parametrize(
    "to",
    [
        "http://localhost:1/elsewhere",
        "http://rail.eecs.berkeley.edu/elsewhere",
        "https://example.org/\x1b[2J",
        "file:///etc/passwd",
        "ftp://127.0.0.1/elsewhere",
        "//example.org/elsewhere",
        "http://[/",
    ],
)
def test_sent_elsewhere(server, folder, to):
    server.to = to
    with pytest.raises(
        InputError, match=r"sends on to .* it is not followed|refuses .*not allowed|sends on to what is no"
    ) as caught:
        load_dataset(NAME)
    assert "\x1b" not in str(caught.value)
    assert not (folder / FILE).exists()
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://a.org/x", True),
        ("https://b.org/x", True),
        ("https://A.org:443/x", True),
        ("https://c.org/x", False),
        ("http://b.org/x", False),
        ("http://a.org/x", False),
        ("http://localhost/x", False),
        ("https://a.org@c.org/x", False),
    ],
)
def test_hosts(url, allowed):
    opener = download._make_opener("https://a.org", ("b.org",))
    (redirects,) = (handler for handler in opener.handlers if type(handler).__name__ == "Redirects")
    request = download.urllib.request.Request("https://a.org")
    if allowed:
        assert redirects.redirect_request(request, None, 302, "", {}, url).full_url == url
    else:
        with pytest.raises(InputError, match="not followed"):
            redirects.redirect_request(request, None, 302, "", {}, url)


@pytest.mark.parametrize("length", [True, False], ids=["said", "unsaid"])
def test_a_file_that_is_too_large(server, folder, body, length):
    server.length = length
    url = f"{d4rl.BASE_URL}/{NAMES[NAME].path}"
    with pytest.raises(InputError, match=r"sends [\d,]+ bytes or more: at most 10,000 are taken"):
        download.download(url, folder / FILE, lambda _: None, largest=10_000)
    assert list(folder.glob("*.part*")) == []
    download.download(url, folder / FILE, lambda _: None, largest=len(body))
    assert_whole(folder, body)


def test_a_server_that_drips_is_left(server, monkeypatch):
    monkeypatch.setattr(download, "LONGEST_SECONDS", 0.0)
    server.drips = threading.Event()
    with pytest.raises(InputError, match=r"it took more than 0 hours.*100 bytes that came are kept"):
        load_dataset(NAME)
    assert len(server.requests) == 1
    server.drips.set()
    assert server.left.wait(10)


@pytest.mark.parametrize("right", [True, False])
def test_a_published_checksum(server, folder, body, right):
    sha256 = hashlib.sha256(body if right else b"").hexdigest()
    url = f"{d4rl.BASE_URL}/{NAMES[NAME].path}"
    if right:
        download.download(url, folder / FILE, lambda _: None, sha256=sha256.upper())
        assert_whole(folder, body)
    else:
        with pytest.raises(InputError, match=f"something else than the dataset: its SHA-256 .* {sha256} is published"):
            download.download(url, folder / FILE, lambda _: None, sha256=sha256)
        assert [path.name for path in folder.iterdir()] == [f".{FILE}.lock"]


@pytest.mark.parametrize("status", [404, 500])
def test_a_servers_words_are_short_and_command_nothing(server, status):
    server.status, server.words = status, "\x1b]0;" + "a" * 5000
    with pytest.raises(InputError, match=f"{status} �]0;a") as caught:
        load_dataset(NAME)
    assert len(str(caught.value)) < 700
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("text", ["-5", "nine", "9" * 5000])
def test_a_length_that_is_none(server, folder, body, text):
    server.length, server.headers = False, [("Content-Length", text)]
    load_dataset(NAME)
    assert_whole(folder, body)
