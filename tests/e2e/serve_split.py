"""Runs inside a pod: splits the checkpoint EXPERTMESH_MODEL into a file per expert and serves them.

python serve_split.py PORT. Says "serving" when it does.
"""

import os
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

DIRECTORY = "/tmp/split"


def main(port):
    """Serve until killed."""
    subprocess.run(["expertmesh", "split", os.environ["EXPERTMESH_MODEL"], DIRECTORY], check=True)
    server = ThreadingHTTPServer(("0.0.0.0", port), partial(SimpleHTTPRequestHandler, directory=DIRECTORY))
    print("serving", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]))
