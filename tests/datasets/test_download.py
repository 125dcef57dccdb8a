import errno
import io
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import h5py
import numpy as np
import pytest

from rlrat import load_dataset
from rlrat.datasets import d4rl, download
from rlrat.errors import InputError

NAME, FILE = "hopper-medium-v2", "hopper_medium-v2.hdf5"


class Server(ThreadingHTTPServer):
    """Serves `body` as D4RL's file and records the Range header of each request."""

    ranges = True  # whether it honours them
    cuts = ()  # after how many bytes the connection breaks, request by request
    status = 200  # what it answers instead, if anything else
    length = True  # whether it says how long the file is

    def __init__(self, body):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body = body
        self.requests = []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.requests.append(asked)
        if server.status != 200 or self.path != f"/{FILE}":
            return self.send_error(server.status if server.status != 200 else 404)
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and server.ranges else 0
        size = len(server.body)
        if start >= size:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{size}")
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        if server.length:
            self.send_header("Content-Length", str(size - start))
        self.end_headers()
        end = size
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
        monkeypatch.setattr(download, "PAUSE", 0.0)
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

    monkeypatch.setattr(download.urllib.request, "urlopen", refuse)
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

    monkeypatch.setattr(download, "_copy", full)
    with pytest.raises(InputError, match=f"no room for .*{FILE}: free some and run again"):
        load_dataset(NAME)
    assert not (folder / FILE).exists()


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
    np.testing.assert_array_equal(load_dataset(NAME).actions.shape[1:], (2,))
