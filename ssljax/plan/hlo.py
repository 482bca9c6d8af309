"""What a compiled program says in its text (HLO): instructions, how often they run, what they read and write."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

BITS = {"pred": 8, "token": 0, "opaque": 0, "c64": 64, "c128": 128, "s4": 4, "u4": 4}
"""Bits of the element types whose name does not end in them (bf16, f8e4m3fn has its own rule)."""

# These move nothing themselves: they name, group or run what others compute, or wait for it.
_FREE = re.compile(
    "parameter|constant|tuple|get-tuple-element|bitcast|while|conditional|call|after-all|partition-id|replica-id|iota"
    "|opt-barrier|async-start|async-update|.*-done"
)
_CALLS = re.compile(r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_SHAPE = re.compile(r"([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
_MATMUL = re.compile(
    r'custom_call_target="[^"]*(cublas|cudnn|gemm|matmul|conv|dot|tpu_custom_call)[^"]*"', re.IGNORECASE
)


class Instruction(NamedTuple):
    """One line of a program.

    Attributes:
        name: Unique in the program.
        type: Of its result: element type, shape and layout, or a tuple of them.
        opcode: What it does.
        operands: Names of what it takes.
        attributes: All that follows the operands.
        root: Whether it is its computation's result.
    """

    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    root: bool


class Program:
    """A compiled program: computations by name, and how often each runs in one call."""

    def __init__(self, text: str) -> None:
        """Parse what `compiled.as_text()` returns."""
        self.computations: dict[str, list[Instruction]] = {}
        self.entry = ""
        current: list[Instruction] = []
        for line in text.splitlines():
            if line.endswith("{") and " = " not in line.split("->")[0] and "(" in line:
                name = line.removeprefix("ENTRY ").split()[0].split("(")[0].lstrip("%")
                current = self.computations.setdefault(name, [])
                self.entry = name if line.startswith("ENTRY ") else self.entry
            elif " = " in line and line.startswith(" "):
                current.append(_instruction(line.strip()))
        self.times: dict[str, float] = defaultdict(float)
        self.run: set[str] = set()
        """The computations that are not inside a fusion: their instructions are what the device is given."""
        self._visit(self.entry, 1.0, fused=False)

    def instructions(self) -> Iterator[tuple[Instruction, float]]:
        """Yield every instruction, those inside fusions too, and how often it runs."""
        for name, times in self.times.items():
            for instruction in self.computations[name]:
                yield instruction, times

    def traffic(self) -> tuple[float, float]:
        """Return the bytes that move from and to memory, by instructions with matrix products and by the others.

        Every instruction reads its operands and writes its result once; what lies in a TPU's on-chip memory (layouts
        with "S(1)") moves nothing. A slice that is taken or updated in place counts as a slice.
        """
        with_products = without = 0.0
        for name in self.run:
            types = {each.name: each.type for each in self.computations[name]}
            for each in self.computations[name]:
                if _FREE.fullmatch(each.opcode):
                    continue
                moved = self.times[name] * self._moved(each, types)
                if self._multiplies(each):
                    with_products += moved
                else:
                    without += moved
        return with_products, without

    def _visit(self, name: str, times: float, *, fused: bool) -> None:
        self.times[name] += times
        if not fused:
            self.run.add(name)
        for each in self.computations.get(name, ()):
            called = _CALLS.findall(each.attributes)
            for branches in _BRANCHES.findall(each.attributes):
                called += [branch.strip().lstrip("%") for branch in branches.split(",")]
            if each.opcode not in ("fusion", "while", "conditional", "call", "async-start"):
                continue  # the functions that reductions and sorts apply to single numbers
            inner = times * (self._trips(each) if each.opcode == "while" else 1)
            for other in called:
                if other in self.computations:
                    self._visit(other, inner, fused=fused or each.opcode == "fusion")

    def _trips(self, loop: Instruction) -> float:
        """Return how often a loop's body runs: as noted by the compiler, or the number that its counter is below."""
        known = re.search(r'known_trip_count[^\d}]*"?(\d+)', loop.attributes)
        if known:
            return float(known.group(1))
        condition = re.search(r"condition=%?([\w.\-]+)", loop.attributes)
        body = self.computations.get(condition.group(1) if condition else "", [])
        constants = [each.attributes for each in body if each.opcode == "constant" and each.type.startswith("s32[]")]
        compares = [each for each in body if each.opcode == "compare" and "direction=LT" in each.attributes]
        if len(constants) == 1 and len(compares) == 1:
            return float(constants[0].split(")")[0])
        return 1.0

    def _multiplies(self, each: Instruction) -> bool:
        if each.opcode in ("dot", "convolution"):
            return True
        if each.opcode == "custom-call":
            return bool(_MATMUL.search(each.attributes))
        if each.opcode != "fusion":
            return False
        return any(
            self._multiplies(inner)
            for name in _CALLS.findall(each.attributes)
            for inner in self.computations.get(name, ())
        )

    def _moved(self, each: Instruction, types: dict[str, str]) -> float:
        written = bytes_of(each.type, in_memory=True)
        if each.opcode in ("slice-start", "dynamic-slice-start"):  # its type names the whole array first
            return sum(bytes_of(part, in_memory=seen) for part in shapes(each.type)[1:2] for seen in (False, True))
        if each.opcode.endswith("-start"):  # its type names what it reads, too
            return written
        if each.opcode == "dynamic-update-slice":
            return 2 * bytes_of(types.get(each.operands[1], ""), in_memory=True)
        if each.opcode in ("dynamic-slice", "slice", "gather"):
            return 2 * written
        read = [bytes_of(types.get(operand, ""), in_memory=True) for operand in each.operands]
        called = _CALLS.findall(each.attributes)
        if each.opcode == "fusion" and called and called[0] in self.computations:
            written, read = self._fused(self.computations[called[0]], written, read)
        return written + sum(read)

    @staticmethod
    def _fused(body: list[Instruction], written: float, read: list[float]) -> tuple[float, list[float]]:
        """Correct what a fusion writes and reads for slices of large arrays."""
        by_name = {each.name: each for each in body}
        users: dict[str, list[Instruction]] = defaultdict(list)
        for each in body:
            for operand in each.operands:
                users[operand].append(each)
        for each in body:
            if each.opcode != "parameter":
                continue
            number, used = int(each.attributes.split(")")[0]), users[each.name]
            if (
                used
                and number < len(read)
                and all(user.opcode in ("dynamic-slice", "slice", "gather") for user in used)
            ):
                read[number] = min(read[number], sum(bytes_of(user.type) for user in used))
            elif (
                used
                and number < len(read)
                and all(user.opcode == "dynamic-update-slice" and user.operands[0] == each.name for user in used)
            ):
                read[number] = 0.0
        root = next((each for each in body if each.root), None)
        while root is not None and root.opcode in ("bitcast", "convert", "copy") and root.operands:
            root = by_name.get(root.operands[0])
        if root is not None and root.opcode == "dynamic-update-slice" and root.operands[1] in by_name:
            written = min(written, bytes_of(by_name[root.operands[1]].type))
        return written, read


def bytes_of(text: str, *, in_memory: bool = False) -> float:
    """Return the bytes of a type; `in_memory` leaves out what lies in on-chip memory."""
    total = 0.0
    for element, shape, layout in _SHAPE.findall(text):
        if in_memory and re.search(r"S\([1-9]\d*\)", layout or ""):
            continue
        count = 1
        for size in filter(None, shape.split(",")):
            count *= int(size)
        total += count * bits_of(element) / 8
    return total


def bits_of(element: str) -> int:
    """Return the bits of an element type's name, such as bf16, s32 or f8e4m3fn."""
    if element in BITS:
        return BITS[element]
    digits = re.match(r"[a-z]+(\d+)", element)
    return int(digits.group(1)) if digits else 0


def shapes(text: str) -> list[str]:
    """Return the shapes in a type, one by one."""
    return [match.group(0) for match in _SHAPE.finditer(text)]


def _instruction(line: str) -> Instruction:
    name, _, rest = line.removeprefix("ROOT ").partition(" = ")
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    kind, rest = rest[:end], rest[end:].lstrip()
    opcode, _, _ = rest.partition("(")
    start = len(opcode)
    stop = _closing(rest, start)
    inside = rest[start + 1 : stop]
    operands = tuple(re.findall(r"%([\w.\-]+)", inside))
    attributes = rest[stop + 1 :] if opcode not in ("parameter", "constant") else rest[start + 1 :]
    return Instruction(name.lstrip("%"), kind, opcode, operands, attributes, line.startswith("ROOT "))


def _closing(text: str, start: int) -> int:
    """Return where the parenthesis that opens at `start` closes."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place
    return len(text)
