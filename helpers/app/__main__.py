"""The command line: ./runme.sh app."""

import argparse
import os
import signal
import sys
import threading

from .. import InputError
from ..catalogue import DEFAULT_MODEL


def main(arguments: list[str] | None = None) -> int:
    """Serve until stopped. Returns the exit code: 2 bad input, 130 and 143 stopped."""
    parser = argparse.ArgumentParser("runme.sh app", description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="as for reproduce (default %(default)s)")
    parser.add_argument("--dtype", default="float32", help="float32, bfloat16 or float16 (default %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default %(default)s)")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860 on")
    parser.add_argument("--address", default="127.0.0.1", help="another one needs SUPERSCOPES_PASSWORD")
    options = parser.parse_args(arguments)

    print("starting (a few seconds) …", flush=True)  # the libraries alone take some

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    server = None
    try:
        from .desk import Desk
        from .server import USER, Server

        password = os.environ.get("SUPERSCOPES_PASSWORD", "")
        server = Server(Desk(options.model, options.dtype, options.device), options.port, options.address, password)
        who = f" (user {USER}, password as set)" if password else ""
        print(f"Superscopes is at {server.url}{who}; Ctrl-C stops it.", flush=True)
        threading.Event().wait()
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    finally:
        if server:
            server.close()


if __name__ == "__main__":
    sys.exit(main())
