"""Sidecars that go away during an import: nothing is lost but what Weaviate itself reports.

These sidecars are the tests' own, behind a class's `inferenceUrl`, so that the one all other tests use stays.
"""

import contextlib
import select
import socket
import threading
import time
import uuid

from own_sidecar import Process, create, free_port, is_ready
from sidecar import Sidecar, max_difference
from topics import FACTS

SAME_VECTOR = 1e-6
COPIES = 4


class Balancer:
    """One address for several sidecars: new connections go to those that are ready, in turns."""

    def __init__(self, ports):
        self.ports = ports
        self.turn = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                incoming, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(incoming,), daemon=True).start()

    def _serve(self, incoming):
        with incoming:
            for _ in range(100):
                ports = list(self.ports)
                self.turn += 1
                port = ports[self.turn % len(ports)]
                if is_ready(port):
                    break
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as outgoing:
                other = {incoming: outgoing, outgoing: incoming}
                while True:
                    for side in select.select([incoming, outgoing], [], [])[0]:
                        data = side.recv(65536)
                        if not data:
                            return
                        other[side].sendall(data)

    def close(self):
        self.listener.close()


def import_during(collection, texts, meanwhile):
    """Imports while `meanwhile` happens, begun after a fifth of the objects. Objects that failed, by id."""
    thread = threading.Thread(target=meanwhile)
    with collection.batch.fixed_size(batch_size=20, concurrent_requests=2) as batch:
        for place, (id, text) in enumerate(texts.items()):
            if place == len(texts) // 5:
                thread.start()
            batch.add_object({"body": text}, uuid=id)
    thread.join()
    return {str(failed.object_.uuid): failed.message for failed in collection.batch.failed_objects}


def assert_all_accounted_for(collection, texts, failed, sidecar):
    stored = {str(entry.uuid): entry for entry in collection.iterator(include_vector=True)}
    assert set(stored) | set(failed) == set(texts), "an object is neither stored nor reported"
    assert not set(stored) & set(failed), "an object is reported as failed and stored"
    ids = list(stored)
    for id, expected in zip(ids, sidecar.passages([texts[id] for id in ids])):
        assert max_difference(stored[id].vector["default"], expected) <= SAME_VECTOR


def many_texts():
    facts = [f"{fact.body} ({copy})" for copy in range(COPIES) for fact in FACTS]
    return {str(uuid.UUID(int=number + 1)): text for number, text in enumerate(facts)}


def test_a_restart_during_an_import_loses_nothing_unreported(client, weaviate_url, sidecar, processes, figure):
    processes.append(Process(free_port()))
    port = processes[0].port
    collection = create(client, weaviate_url, "Restarted", f"http://127.0.0.1:{port}")
    texts = many_texts()

    def restart():
        assert processes[0].end() == 0
        time.sleep(0.5)
        processes.append(Process(port))

    failed = import_during(collection, texts, restart)
    assert len(processes) == 2
    assert_all_accounted_for(collection, texts, failed, sidecar)
    for message in failed.values():
        assert f"127.0.0.1:{port}" in message, message
    figure(f"restart during an import: {len(texts) - len(failed)} of {len(texts)} stored, {len(failed)} reported as failed")
    # What was reported can be sent again.
    with collection.batch.fixed_size(batch_size=20) as batch:
        for id in failed:
            batch.add_object({"body": texts[id]}, uuid=id)
    assert not collection.batch.failed_objects
    assert_all_accounted_for(collection, texts, {}, sidecar)


def test_two_sidecars_are_replaced_one_after_the_other(client, weaviate_url, sidecar, processes, figure):
    processes += [Process(free_port()), Process(free_port())]
    balancer = Balancer([process.port for process in processes])
    try:
        collection = create(client, weaviate_url, "Rolled", f"http://127.0.0.1:{balancer.port}")
        texts = many_texts()

        def replace():
            for old in processes[:2]:
                new = Process(free_port())
                processes.append(new)
                balancer.ports = [new.port if port == old.port else port for port in balancer.ports]
                assert old.end() == 0

        failed = import_during(collection, texts, replace)
        assert len(processes) == 4
        assert_all_accounted_for(collection, texts, failed, sidecar)
        assert not failed, next(iter(failed.values()))
        figure(f"rolling replacement of two sidecars during an import: all {len(texts)} objects stored")
        assert Sidecar(f"127.0.0.1:{balancer.port}").meta()
    finally:
        balancer.close()
