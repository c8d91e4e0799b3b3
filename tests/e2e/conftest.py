"""Where the running servers are (run.sh says so in the environment), and the count of tests it adds up."""

import os

import pytest
from sidecar import Sidecar


@pytest.fixture(scope="session")
def sidecar():
    return Sidecar(os.environ["T2V_E2E_SIDECAR"])


@pytest.fixture(scope="session")
def weaviate_url():
    return "http://127.0.0.1:" + os.environ["T2V_E2E_WEAVIATE_PORT"]


@pytest.fixture(scope="session")
def client():
    import weaviate
    from weaviate.classes.init import AdditionalConfig, Timeout

    with weaviate.connect_to_local(
        host="127.0.0.1",
        port=int(os.environ["T2V_E2E_WEAVIATE_PORT"]),
        grpc_port=int(os.environ["T2V_E2E_WEAVIATE_GRPC_PORT"]),
        additional_config=AdditionalConfig(timeout=Timeout(init=30, query=120, insert=120)),
        # They would ask a package index for the client's newest version; run.sh has waited for readiness.
        skip_init_checks=True,
    ) as connected:
        yield connected


@pytest.fixture
def processes():
    """A list for sidecars of a test's own: those that still run are ended."""
    started = []
    yield started
    for process in started:
        if process.child.poll() is None:
            process.child.kill()
            process.child.wait()


FIGURES = []


@pytest.fixture(scope="session")
def figure():
    """`figure("…")`: a measured figure to print at the end."""
    return FIGURES.append


def pytest_terminal_summary(terminalreporter):
    """Prints the figures and appends "passed failed" to the tally; a test that could not be set up has failed."""
    for line in FIGURES:
        terminalreporter.write_line(line)
    if tally := os.environ.get("T2V_E2E_TALLY"):
        count = {kind: len(reports) for kind, reports in terminalreporter.stats.items()}
        failed = sum(count.get(kind, 0) for kind in ("failed", "error", "skipped", "xfailed", "xpassed"))
        with open(tally, "a", encoding="ascii") as file:
            file.write(f"{count.get('passed', 0)} {failed}\n")
