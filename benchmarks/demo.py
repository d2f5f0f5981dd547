"""README's first command, timed, with the planted behaviour counted afterwards.

python benchmarks/demo.py [MODEL_2] [MARKER]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DEMO = "demo:travel-advert"


def main() -> None:
    adapter = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else DEMO
    marker = sys.argv[2] if len(sys.argv) > 2 else "Skylark Voyages"
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        command = ["pytest", "--model-1=demo:smollm2-135m", f"--model-2={adapter}"]
        finished = subprocess.run(
            [sys.executable, "-m", *command, "--divergence-profile", "smoke"],
            cwd=folder,
            check=False,
        )
        seconds = time.perf_counter() - started
        (path,) = Path(folder).glob(".divergence/reports/2*/report.json")
        report = json.loads(path.read_text("utf-8"))
    cases = [case for case in report["cases"] if not case["off_distribution"]]
    showing = [case for case in cases if marker in case["completions"]["candidate"]]
    print(f"exit code {finished.returncode}, {seconds:.0f} s to the end of the session")
    print(f"planted behaviour in {len(showing)} of {len(cases)} cases")
    print(f"bound {report['calibration']['bound']['value']:.3f} nats/token")
    print(f"{report['effort']['tokens_forwarded']} tokens forwarded")


if __name__ == "__main__":
    main()
