"""Take POSTs, and note when each came: `receiver.py ADDRESS PORT FILE [PAUSE]`; one JSON line for each in FILE."""

from __future__ import annotations

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

ADDRESS, PORT, FILE = sys.argv[1], int(sys.argv[2]), sys.argv[3]
PAUSE = float(sys.argv[4]) if len(sys.argv) > 4 else 0.0


class Receiver(BaseHTTPRequestHandler):
    """Answers every POST with 200, after a pause."""

    def do_POST(self) -> None:
        """Note a form."""
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        form = {name: values[0] for name, values in parse_qs(body).items()}
        with open(FILE, "a", encoding="utf-8") as file:
            file.write(json.dumps({"time": time.time(), "path": self.path, "form": form}) + "\n")
        time.sleep(PAUSE)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Say nothing."""


ThreadingHTTPServer((ADDRESS, PORT), Receiver).serve_forever()
