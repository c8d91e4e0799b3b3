"""A stream of very many short texts through grpcio, as a loader sends them: `stream.py --texts 1000000 localhost:8080`.

Every text must be answered once, by its id. With `--pid` of the server it says what the server's memory did. Exit code 1 if
anything was lost. Needs grpcio and grpcio-reflection (requirements.txt). Not one of `make e2e`'s tests: it takes minutes."""

import argparse
import sys
import threading
import time

from reflected import Reflected

CLASS = '{"class": "Word", "vectorizer": "text2vec-transformers", "properties": [{"name": "text", "dataType": ["text"]}]}'


def resident(pid):
    """Resident memory in MiB; 0 where the process is not known."""
    if not pid:
        return 0
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024


def vectorizer(message, texts, words):
    request = message()
    for number in range(texts):
        request.id, request.text = str(number), f"w{number % words}"
        yield request


def module(message, texts, words):
    header, request = message(), message()
    header.header.config.class_json = CLASS
    yield header
    for number in range(texts):
        request.object.json = f'{{"text": "w{number % words}"}}'
        yield request


METHODS = {"VectorizeStream": ("Vectorizer", vectorizer), "VectorizeBatchStream": ("Module", module)}


def stream(server, types, given, out):
    service, make = METHODS[given.method]
    stub = server.channel.stream_stream(
        f"/text2vec.v1.{service}/{given.method}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=types["Response"].FromString,
    )
    seen, count, out_of_order, failed, last = bytearray(given.texts), 0, 0, 0, -1
    try:
        for answer in stub(make(types["Request"], given.texts, given.words)):
            number = int(answer.id) if service == "Vectorizer" else answer.index
            failed += answer.result.WhichOneof("result") != "vector" or seen[number]
            seen[number] = 1
            out_of_order += number < last
            last, count = max(last, number), count + 1
            if given.pause and count % given.every == 0:
                time.sleep(given.pause)
    except Exception as error:
        print(f"after {count} answers: {error}", file=sys.stderr)
    out.append((count, out_of_order, failed, sum(seen)))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("--texts", type=int, default=1_000_000)
    parser.add_argument("--words", type=int, default=1000, help="how many different ones")
    parser.add_argument("--streams", type=int, default=1, help="at once, over one connection")
    parser.add_argument("--method", choices=METHODS, default="VectorizeStream")
    parser.add_argument("--pause", type=float, default=0, help="seconds the reader rests")
    parser.add_argument("--every", type=int, default=1000, help="after so many answers")
    parser.add_argument("--pid", type=int, help="of the server, to watch its memory")
    given = parser.parse_args()
    server = Reflected(given.address)
    types = {end: type(server.message(f"text2vec.v1.{given.method}{end}")) for end in ("Request", "Response")}
    before, begun, out = resident(given.pid), time.monotonic(), []
    threads = [threading.Thread(target=stream, args=(server, types, given, out)) for _ in range(given.streams)]
    for thread in threads:
        thread.start()
    highest = before
    while any(thread.is_alive() for thread in threads):
        highest = max(highest, resident(given.pid))
        time.sleep(0.1)
    took = time.monotonic() - begun
    lost = sum(given.texts - seen for *_, seen in out)
    failed = sum(failed for *_, failed, _ in out)
    print(
        f"{given.method}, {given.streams} at once: {sum(count for count, *_ in out)} answers in {took:.1f} s, {lost} lost, "
        f"{failed} failed, {sum(late for _, late, *_ in out)} out of order; server's memory {before:.0f} MiB before, "
        f"{highest:.0f} at most, {resident(given.pid):.0f} after"
    )
    sys.exit(lost + failed > 0)


if __name__ == "__main__":
    main()
