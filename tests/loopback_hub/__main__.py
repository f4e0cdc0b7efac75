"""`python -m tests.loopback_hub ROOT --port N`: serves ROOT until interrupted."""

import argparse
import sys
import threading
from pathlib import Path

from .hub import LoopbackHub


def main() -> None:
    """Prints the endpoint and serves until the process is interrupted."""
    parser = argparse.ArgumentParser(prog="loopback_hub", description="A Hugging Face Hub on disk, for tests.")
    parser.add_argument("root", type=Path, help="folder that holds the repositories")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    arguments = parser.parse_args()
    with LoopbackHub(arguments.root, port=arguments.port) as hub:
        sys.stdout.write(f"{hub.endpoint}\n")
        sys.stdout.flush()
        threading.Event().wait()


if __name__ == "__main__":
    main()
