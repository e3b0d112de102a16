"""A hospital's way out: an HTTP proxy that opens tunnels (CONNECT) and reads nothing of what goes through."""

import contextlib
import socket
import socketserver
import threading

_PIECE_BYTES = 2**16


class ConnectProxy(socketserver.ThreadingTCPServer):
    """Listens on a free port of loopback while it is entered; ``asked`` are the first lines of all requests.

    ``refusal``: status and reason with which it opens no tunnel. ``carried``: bytes that went through its tunnels, both ways.
    """

    daemon_threads = True

    def __init__(self, refusal: str = "") -> None:
        super().__init__(("127.0.0.1", 0), _Tunnel)
        self.asked: list[str] = []
        self.refusal = refusal
        self.carried = 0
        self._counting = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, daemon=True)

    @property
    def environment(self) -> dict[str, str]:
        """What has a program of a machine on which all else about proxies is said too take this one."""
        url = f"http://127.0.0.1:{self.server_address[1]}"
        return dict.fromkeys(("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"), url) | {
            "NO_PROXY": "",
            "no_proxy": "",
        }

    def carry(self, source: socket.socket, target: socket.socket) -> None:
        """Hand on what comes from one end of a tunnel to the other, until either ends."""
        with contextlib.suppress(OSError):
            while piece := source.recv(_PIECE_BYTES):
                target.sendall(piece)
                with self._counting:
                    self.carried += len(piece)
            target.shutdown(socket.SHUT_WR)

    def __enter__(self) -> "ConnectProxy":
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.shutdown()
        self.server_close()


class _Tunnel(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        line = self.rfile.readline().decode("latin-1").strip()
        self.server.asked.append(line)
        while self.rfile.readline().strip():
            pass  # headers
        verb, _, rest = line.partition(" ")
        if refusal := self.server.refusal or ("405 Method Not Allowed" if verb != "CONNECT" else ""):
            self.wfile.write(f"HTTP/1.1 {refusal}\r\n\r\n".encode())
            return
        host, _, port = rest.split(" ")[0].rpartition(":")
        try:
            server = socket.create_connection((host, int(port)))
        except OSError:
            self.wfile.write(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
            return
        self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with server:
            back = threading.Thread(target=self.server.carry, args=(server, self.connection), daemon=True)
            back.start()
            self.server.carry(self.connection, server)
            back.join()
