"""Wires between a caller and a server, on which an echo shows what happens."""

import socket
import threading
from contextlib import contextmanager, suppress

import pytest
from faults.wires import ANSWERS, CutError, Wires
from waiting import no_thread_left, wait_until


class Echo:
    """Sends back what it gets, on ``ports``: the first one, and further ones that are listened on later."""

    def __init__(self) -> None:
        self.listeners: list[socket.socket] = []
        self.connections: list[socket.socket] = []
        self.threads: list[threading.Thread] = []
        self.listen()

    @property
    def ports(self) -> list[int]:
        return [listener.getsockname()[1] for listener in self.listeners]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.ports[0]}"

    def listen(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        self.listeners.append(listener)
        self.start(self.accept, listener)

    def accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                self.connections.append(connection)
                self.start(self.answer, connection)

    def answer(self, connection: socket.socket) -> None:
        with suppress(OSError):
            while data := connection.recv(1 << 16):
                connection.sendall(data)
            connection.shutdown(socket.SHUT_RDWR)

    def start(self, target, *arguments) -> None:
        self.threads.append(threading.Thread(target=target, args=arguments))
        self.threads[-1].start()

    def close(self) -> None:
        for end in self.listeners:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for end in self.connections:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join()
        for end in (*self.listeners, *self.connections):
            end.close()


@pytest.fixture
def echo():
    with no_thread_left():
        server = Echo()
        try:
            yield server
        finally:
            server.close()


@contextmanager
def calling(address: str):
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        yield connection


def ask(connection: socket.socket, data: bytes = b"ping") -> bytes:
    connection.sendall(data)
    return connection.recv(100)


def test_what_passes_is_harmed_as_is_wanted_now(echo):
    with Wires() as wires, calling(wires.to(echo.address)) as connection:
        assert ask(connection) == b"ping"
        wires.harm = lambda direction, data: data.upper() if direction == ANSWERS else data
        assert ask(connection) == b"PING"


def test_cut_wires_end_on_both_sides_and_others_can_be_had(echo):
    with Wires() as wires:
        address = wires.to(echo.address)
        with calling(address) as connection:
            assert ask(connection) == b"ping"
            wires.cut()
            assert connection.recv(100) == b""
        with calling(address) as connection:
            assert ask(connection) == b"ping"


def test_a_harm_may_cut_in_the_middle(echo):
    def cut(direction: str, data: bytes) -> bytes:
        if direction == ANSWERS:
            raise CutError(data[:2])
        return data

    with Wires(cut) as wires, calling(wires.to(echo.address)) as connection:
        assert ask(connection) == b"pi"
        assert connection.recv(100) == b""


def test_an_abandoned_end_hears_nothing_not_even_the_end_while_new_ones_are_served(echo):
    with Wires() as wires:
        address = wires.to(echo.address)
        with calling(address) as connection:
            assert ask(connection) == b"ping"
            wires.abandon()
            wait_until(lambda: not echo.threads[1].is_alive())
            connection.settimeout(0.1)
            with pytest.raises(TimeoutError):
                ask(connection)
            with calling(address) as other:
                assert ask(other) == b"ping"
            connection.settimeout(10)
            wires.cut()
            assert connection.recv(100) == b""


def test_a_server_that_is_not_there_is_an_end_and_may_come_later(echo):
    with Wires() as wires:
        address = wires.to(f"127.0.0.1:{echo.ports[0]}")
        echo.close()
        with calling(address) as connection, suppress(ConnectionResetError):
            assert connection.recv(100) == b""


def test_a_port_that_an_answer_tells_of_is_wired_under_the_same_number(echo):
    def further_ports() -> set[int]:
        return set(echo.ports[1:])

    with Wires(host="127.0.0.2") as wires, calling(wires.to(echo.address, further_ports)) as connection:
        echo.listen()
        assert ask(connection) == b"ping"
        with calling(f"127.0.0.2:{echo.ports[1]}") as further:
            wires.harm = lambda direction, data: data.upper()
            assert ask(further) == b"PING"
