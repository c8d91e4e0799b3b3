#!/usr/bin/env python3
"""What llvm-mca says of the innermost loops of the kernels on 64-bit ARM: cycles of an iteration beside the least that the
CPU's pipes allow. A Markdown table: `.ci/arm.sh loops`, which gives it the kernels' library."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

CPUS = ["neoverse-n1", "neoverse-n2", "neoverse-v1", "neoverse-v2", "apple-m1", "apple-m2"]
# An instruction that multiplies, what the table calls it, and what a CPU must have for it.
KINDS = {
    "fmla": ("f32", None),
    "bfmmla": ("bf16, `bfmmla`", "bf16"),
    "sdot": ("bytes, `sdot`", "dotprod"),
    "usmmla": ("bytes, `usmmla`", "i8mm"),
}
LACKING = {"neoverse-n1": {"bf16", "i8mm"}, "apple-m1": {"bf16", "i8mm"}}
TOOLS = ["llvm-objdump-22", "llvm-mca-22"]


def loops(library):
    """Instructions of each loop that jumps back within a function, with the mnemonics of those that multiply."""
    listing = subprocess.run([TOOLS[0], "-d", "--no-show-raw-insn", "--mattr=+all", library], capture_output=True, text=True, check=True)
    for function in re.split(r"\n\n", listing.stdout):
        lines = re.findall(r"^\s*([0-9a-f]+):\s+(\S+)[ \t]*(.*)$", function, re.M)
        at = {int(address, 16): index for index, (address, _, _) in enumerate(lines)}
        for end, (_, name, operands) in enumerate(lines):
            # The last number: tbz has that of a bit before.
            target = re.search(r"0x([0-9a-f]+)(?!.*0x)", re.sub(r"<.*", "", operands))
            if not re.fullmatch(r"b|b\.\w+|cbn?z|tbn?z", name) or not target:
                continue
            start = at.get(int(target[1], 16))
            if start is None or start > end:
                continue
            body = lines[start : end + 1]
            # The innermost: none of the jumps before the last goes back.
            if any(re.fullmatch(r"b|b\.\w+|cbn?z|tbn?z|bl|ret", name) for _, name, _ in body[:-1]):
                continue
            yield [(name, re.sub(r"<.*|//.*", "", operands).strip()) for _, name, operands in body]


def largest(library):
    """For each kind the loop with the most products; of f32 also those with weights that are widened."""
    found = {}
    for body in loops(library):
        names = [name for name, _ in body]
        for kind, (title, needs) in KINDS.items():
            products = names.count(kind)
            if kind == "fmla":
                by_lane = sum(name == "fmla" and re.search(r"\.s\[\d\]", operands) is not None for name, operands in body)
                products = by_lane if by_lane == products else 0
                title = "f32 by f16 weights" if "fcvtl" in names else "f32 by bf16 weights" if "ushll" in names or "shll" in names else title
            if products >= 16 and products > found.get(title, (0,))[0]:
                found[title] = (products, needs, body)
    return found


def analyse(body, cpu):
    """Cycles of an iteration, and the least that the pipes allow."""
    text = ["loop:"]
    for name, operands in body[:-1]:
        text.append(f"{name} {operands}")
    text.append(f"{body[-1][0]} {re.sub(r'0x[0-9a-f]+$', 'loop', body[-1][1])}")
    command = [TOOLS[1], "-mtriple=aarch64", f"-mcpu={cpu}", "-mattr=+bf16,+i8mm,+dotprod,+fullfp16", "-iterations=400"]
    report = subprocess.run(command, input="\n".join(text), capture_output=True, text=True)
    if report.returncode != 0:
        sys.exit(f"llvm-mca: {report.stderr}")
    cycles = int(re.search(r"Total Cycles:\s+(\d+)", report.stdout)[1]) / 400
    return cycles, float(re.search(r"Block RThroughput:\s+([\d.]+)", report.stdout)[1])


def main():
    for tool in TOOLS:
        if not shutil.which(tool):
            sys.exit(f"{tool} is missing: apt-get install llvm-22")
    [library] = sys.argv[1:]
    print(f"| loop (products) | {' | '.join(CPUS)} |")
    print("|---|" + "---|" * len(CPUS))
    for title, (products, needs, body) in sorted(largest(Path(library)).items()):
        cells = []
        for cpu in CPUS:
            if needs in LACKING.get(cpu, ()):
                cells.append("–")
                continue
            cycles, least = analyse(body, cpu)
            cells.append(f"{cycles:.1f} of {least:.1f}, {100 * least / cycles:.0f} %")
        print(f"| {title} ({products}) | {' | '.join(cells)} |")


main()
