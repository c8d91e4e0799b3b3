#!/usr/bin/env python3
"""Compares the Rust sentence splitter with NLTK's Punkt on generated texts.

Run it in an environment with nltk 3.9.1. MODEL is the directory of the English Punkt parameters as the NLTK data
package `punkt_tab` has it (nltk_data/tokenizers/punkt_tab/english):

    cargo build --release --example split_sentences
    python3 tests/oracles/punkt_fuzz.py fuzz MODEL target/release/examples/split_sentences --texts 20000 --seed 1
    python3 tests/oracles/punkt_fuzz.py fuzz MODEL target/release/examples/split_sentences --code-points

`fuzz` prints the number of texts and of differences and fails if there is one. Four texts in five have their whitespace
collapsed first, as the reference does it; the fifth is split as it is. `--sample FILE` writes a part of the texts with
NLTK's answers as a fixture. `parameters MODEL FILE` writes the parameters as the one file that the Rust side reads.
"""

import argparse
import json
import random
import subprocess
import sys
import unicodedata
from pathlib import Path

PROSE = Path(__file__).parent.parent / "fixtures" / "punkt" / "english.json"

BLANKS = [" "] * 30 + ["  ", "\n", "\n\n", "\r\n", "\t", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x1f", "\x85", "\xa0",
                       "\u1680", "\u2003", "\u200a", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000"]
# Look like whitespace and are none.
NO_BLANKS = ["\u200b", "\ufeff", "\u180e", "\u2060", "\u00ad"]
MARKS = [".", ".", ".", ".", "?", "!", "..", "...", "....", ". . .", ". . . .", ". .", "?!", "!!", "!!!", "?..", ".?", "…",
         "。", "！", "？", "‽", ".,", ".;", ".:"]
CLOSERS = ["\"", "'", ")", "]", "}", "\")", "')", "''", "``", "`", "”", "’", "»", "\"'", ")]}", "\"--", ")--", "'-"]
OPENERS = ["\"", "'", "(", "[", "{", "``", "`", "“", "‘", "«", "*", "@", "#", "&", "("]
JOINERS = ["-", "--", "---", "–", "—", ",", ",,", ";", ":", "/", "_", "*", "@", "&", "#", "'", "=", "%", "$", ", ", "; ", ": ",
           " - ", " -- ", " & "]
INITIALS = list("ABCJSabcjsIiOo_") + ["É", "é", "Ж", "ж", "Σ", "ß", "İ", "ı", "ǅ", "ǆ", "Ⅻ", "ⅻ", "²", "½", "①", "ª", "中",
                                      "ا", "ʰ", "Ⓐ", "\u0301", "\u0903", "٣", "0", "7", "𝔸", "𝟘", "𐐀", "𐐨"]
NUMBERS = ["1", "42", "3.14", "1,000", "-5", "-.5", ".5", ",5", "1-2", "1990-91", "1.", "1.2.3.", "12,", "5-", "-", "--1", "1a",
           "٣", "१२", "３", "𝟘", "²", "½", "Ⅻ", "1²", "5.-", "0.,-"]
WORDS = ["the", "The", "THE", "It", "it", "He", "he", "a", "A", "I", "i", "In", "in", "However", "said", "Smith", "smith", "John",
         "Paris", "iPhone", "e.g", "i.e", "E.g", "etc", "No", "no", "vs", "al", "et", "Ph.D", "U.S", "u.s", "a.m", "p.m", "Mr",
         "mr", "MR", "Mrs", "Dr", "St", "Inc", "Corp", "Co", "co-Mr", "ex-Sen", "non-U.S", "x-y-z", "well-known", "don't",
         "rock'n'roll", "www.example.com", "a@b.org", "foo.bar", "foo?bar", "foo!Bar", "C++", "AT&T", "naïve", "Élan", "Über",
         "ΑΣ", "ΟΔΟΣ", "σας", "İstanbul", "Привет", "мир", "中文", "日本語です", "한국어", "مرحبا", "नमस्ते", "ไทย", "ﬁn", "ŉa",
         "ǅungla", "𝔸bc", "👍", "😀😀", "e\u0301t", "\u0301x", "##number##", "...", "-", "_", "$5", "50%", "#1"]


def read_model(directory):
    from nltk.tokenize.punkt import load_punkt_params

    return load_punkt_params(directory)


class Texts:
    """A source of texts that depends on the seed, the parameters and the prose alone."""

    def __init__(self, seed, parameters):
        self.random = random.Random(seed)
        self.abbreviations = sorted(parameters.abbrev_types)
        self.collocations = sorted(parameters.collocations)
        self.starters = sorted(parameters.sent_starters)
        self.by_orthography = {}
        for word, seen in sorted(parameters.ortho_context.items()):
            self.by_orthography.setdefault(seen, []).append(word)
        self.orthographies = sorted(self.by_orthography)
        self.prose = [case["text"] for case in json.loads(PROSE.read_text(encoding="utf-8"))]

    def next(self):
        kind = self.random.choices([self.soup, self.pairs, self.prose_mutated, self.letters, self.unicode, self.nested],
                                   [30, 25, 15, 20, 5, 5])[0]
        return kind()

    def blank(self):
        return self.random.choice(BLANKS)

    def cased(self, word):
        change = self.random.choice([str, str, str.capitalize, str.capitalize, str.upper, str.lower, str.title, str.swapcase])
        return change(word)

    def model_word(self):
        kind = self.random.randrange(5)
        if kind == 0:
            return self.random.choice(self.starters)
        if kind == 1:
            return self.random.choice(self.abbreviations)
        if kind == 2:
            return self.random.choice(self.random.choice(self.collocations)).replace("##number##", "12")
        return self.random.choice(self.by_orthography[self.random.choice(self.orthographies)])

    def word(self):
        choice = self.random.choice
        kind = self.random.randrange(12)
        if kind < 4:
            return choice(WORDS)
        if kind < 7:
            return self.cased(self.model_word())
        if kind == 7:
            return choice(INITIALS)
        if kind == 8:
            return choice(NUMBERS)
        if kind == 9:
            return self.word() + choice(JOINERS) + self.word()
        if kind == 10:
            return ".".join(choice(INITIALS) for _ in range(self.random.randint(2, 4)))
        return choice(OPENERS) + self.word() + choice(CLOSERS)

    def soup(self):
        """Words, marks, quotes and blanks in any order."""
        pieces = []
        for _ in range(self.random.randint(1, 25)):
            pieces.append(self.word())
            if self.random.random() < 0.5:
                pieces.append(self.random.choice(MARKS))
            if self.random.random() < 0.2:
                pieces.append(self.random.choice(CLOSERS))
            if self.random.random() < 0.1:
                pieces.append(self.random.choice(JOINERS + NO_BLANKS))
            if self.random.random() < 0.9:
                pieces.append(self.blank())
            if self.random.random() < 0.15:
                pieces.append(self.random.choice(OPENERS + CLOSERS))
        return "".join(pieces)

    def pairs(self):
        """A word, a mark and a word from the parameters, many times: all branches of the second pass."""
        pieces = []
        for _ in range(self.random.randint(1, 8)):
            if self.random.random() < 0.25:
                first, second = self.random.choice(self.collocations)
                first = first.replace("##number##", self.random.choice(NUMBERS))
            else:
                first = self.random.choice([self.model_word(), self.random.choice(self.abbreviations),
                                            self.random.choice(INITIALS), self.random.choice(NUMBERS), "and so.."])
                second = self.model_word()
            mark = self.random.choice([".", ".", ".", ".", "...", "..", "?", "."])
            tail = self.random.choice(["", "", "", ".", ",", "?", "..", " ", ")", "'s"])
            prefix = self.random.choice(["", "", "", "ex-", "-", "(", "\"", "'", "x--"])
            pieces.append(prefix + self.cased(first) + mark + self.random.choice([" ", " ", " ", "", ") ", "\" ", "\n", "-"])
                          + self.cased(second) + tail)
        return " ".join(pieces)

    def prose_mutated(self):
        """A piece of real prose with a few edits."""
        text = self.random.choice(self.prose)
        start = self.random.randrange(max(1, len(text) - 50))
        text = list(text[start:start + self.random.randint(20, 600)])
        for _ in range(self.random.randint(0, 12)):
            if not text:
                break
            at = self.random.randrange(len(text))
            edit = self.random.randrange(5)
            if edit == 0:
                del text[at]
            elif edit == 1:
                text.insert(at, self.random.choice(MARKS + CLOSERS + OPENERS + JOINERS + BLANKS))
            elif edit == 2:
                text[at] = text[at].swapcase()
            elif edit == 3:
                text.insert(at, " " + self.word() + self.random.choice(MARKS) + " ")
            else:
                text[at] = self.random.choice(".?! ")
        return "".join(text)

    def letters(self):
        """Short strings over a small alphabet: the corners of the regular expressions."""
        alphabet = self.random.choice([". ", ".? a", ".!A \"", ".a -", ". ,-aA", ".,1 -a", ".?!\"')]} -", ". \n.a", "..  .\t.A",
                                       ".aA1 ?!,-\"')(\u00a0\n", ".-' \x1c\u3000é", "!\"- A.", "a.b-C. D"])
        return "".join(self.random.choice(alphabet) for _ in range(self.random.randint(0, 24)))

    def unicode(self):
        """Characters of any block among marks and blanks."""
        pieces = []
        for _ in range(self.random.randint(1, 40)):
            limit = self.random.choice([0x100, 0x800, 0x3100, 0x10000, 0x20000])
            character = chr(self.random.randrange(limit))
            if not is_assigned(character):
                character = "x"
            pieces.append(self.random.choice([character, character, character + ".", ".", "? ", " ", ". ", "! "]))
        return "".join(pieces)

    def nested(self):
        """Runs of one thing, long enough that overlapping contexts matter."""
        return "".join(self.random.choice(MARKS + CLOSERS + OPENERS + [" ", "a", "A"]) * self.random.randint(1, 12)
                       for _ in range(self.random.randint(1, 8)))


def is_assigned(character):
    """Neither a surrogate nor unassigned: newer Unicode versions class the latter anew."""
    return unicodedata.category(character) not in ("Cs", "Cn")


def code_points():
    """Each assigned character as an initial, in an abbreviation, in a number, first in a word (its case!), and as a blank."""
    for code in range(0x110000):
        character = chr(code)
        if is_assigned(character) and unicodedata.category(character) != "Co":
            yield (f"A {character}. Zzyx b {character}. the c {character}5. {character}the d 5{character}. the e etc. {character}nd "
                   f"f Mr.{character}The g St. {character}. H.{character} I x{character}. J {character} "
                   f"k L. {character}zz m 5. {character}zz n etc. {character}zz {character}. {character}{character} o")


def collapse(text):
    return " ".join(text.split())


def split_by_rust(splitter, texts, arguments):
    lines = "".join(json.dumps(text) + "\n" for text in texts)
    done = subprocess.run([splitter, *arguments], input=lines.encode(), stdout=subprocess.PIPE, check=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    if len(answers) != len(texts):
        sys.exit(f"{len(texts)} texts went in, {len(answers)} answers came out")
    return answers


def fuzz(options):
    import nltk
    from nltk.tokenize.punkt import PunktSentenceTokenizer

    if nltk.__version__ != "3.9.1":
        sys.exit(f"nltk {nltk.__version__} is not the reference's 3.9.1")
    parameters = read_model(options.model)
    tokenizer = PunktSentenceTokenizer(parameters)
    if options.code_points:
        collapsed, as_given = list(code_points()), []
    else:
        source = Texts(options.seed, parameters)
        texts = [source.next() for _ in range(options.texts)]
        as_given = texts[4::5]
        collapsed = [text for number, text in enumerate(texts) if number % 5 != 4]

    cases = [("fuzz", text, tokenizer.tokenize(collapse(text))) for text in collapsed]
    cases += [("uncollapsed", text, tokenizer.tokenize(text)) for text in as_given]
    answers = split_by_rust(options.splitter, collapsed, [])
    answers += split_by_rust(options.splitter, as_given, ["--as-given"])

    differences = 0
    for (kind, text, expected), answer in zip(cases, answers):
        if answer != expected:
            differences += 1
            if differences <= 10:
                print(f"{kind} {ascii(text)}\n  nltk {ascii(expected)}\n  rust {ascii(answer)}")
    sentences = sum(len(expected) for _, _, expected in cases)
    unit = "code points" if options.code_points else f"seed {options.seed}"
    print(f"{unit}: {len(cases)} texts, {sentences} sentences, {differences} differences")

    if options.sample:
        chosen = random.Random(options.seed).sample([case for case in cases if len(case[1]) <= 400], options.sample_size)
        lines = [json.dumps({"src": kind, "text": text, "sentences": expected}, separators=(",", ":"))
                 for kind, text, expected in chosen]
        Path(options.sample).write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
    return 1 if differences else 0


def parameters(options):
    model = read_model(options.model)
    lines = ["Punkt parameters for English, from the NLTK data package punkt_tab (Punkt Tokenizer Models by Jan Strunk).",
             "License: MIT License. Only the layout was changed: [section] lines, each followed by tab-separated entries.",
             "Orthography sections are named by the bit set of contexts and cases that their words were seen in."]

    def section(name, entries):
        lines.append(f"[{name}]")
        line = ""
        for entry in sorted(entries):
            if line and len(line) + 1 + len(entry) > 118:
                lines.append(line)
                line = entry
            else:
                line = f"{line}\t{entry}" if line else entry
        lines.append(line)

    section("abbreviations", model.abbrev_types)
    section("collocations", (" ".join(pair) for pair in model.collocations))
    section("sentence starters", model.sent_starters)
    for seen in sorted(set(model.ortho_context.values())):
        section(f"orthography {seen}", (word for word, value in model.ortho_context.items() if value == seen))
    Path(options.output).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("fuzz")
    command.set_defaults(run=fuzz)
    command.add_argument("model", help="directory of the English Punkt parameters")
    command.add_argument("splitter", help="the built example split_sentences")
    command.add_argument("--texts", type=int, default=20000)
    command.add_argument("--seed", type=int, default=1)
    command.add_argument("--code-points", action="store_true", help="one text per assigned character instead")
    command.add_argument("--sample", help="fixture file to write")
    command.add_argument("--sample-size", type=int, default=500)
    command = commands.add_parser("parameters")
    command.set_defaults(run=parameters)
    command.add_argument("model", help="directory of the English Punkt parameters")
    command.add_argument("output")
    options = parser.parse_args()
    sys.exit(options.run(options))


if __name__ == "__main__":
    main()
