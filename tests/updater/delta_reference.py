"""A decoder of patches written from docs/delta-format.md alone: one symbol at a time, no numpy.

It shares no line with skerry's decoder; where both give the same bytes the document is right.
"""

import bz2
import hashlib
import lzma
import math
import struct
from itertools import permutations
from math import isqrt
from typing import NamedTuple

from backports import zstd

_SIZES = (1, 2, 4, 2, 2, 4)
_MANTISSA = (0, 0, 0, 10, 7, 23)
_LARGEST = (0, 0, 0, 30, 254, 254)
_FIRST_LEVEL = (0, 0, 20, 30, 240, 260)
_KINDS = {0x10: "base", 0x11: "empty", 0x12: "same", 0x14: "alone"}
_KINDS |= {0x2E: "base", 0x2A: "same", 0x26: "alone", 0x2F: "chain"}
_ORDERS = list(permutations(range(4)))


class _Bytes:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        assert self.at + n <= len(self.data)
        self.at += n
        return self.data[self.at - n : self.at]

    def varint(self):
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def svarint(self):
        z = self.varint()
        return -(z + 1) // 2 if z & 1 else z // 2

    def rest(self):
        return self.take(len(self.data) - self.at)


def decode(base: bytes, patch: bytes) -> bytes:
    if patch == b"\x1b\xd1":
        return b""
    p = _Bytes(patch)
    assert p.take(1) == b"\xe4"
    kind = _KINDS[p.take(1)[0]]
    if kind == "empty":
        assert not p.rest()
        return b""
    if kind == "base":
        assert p.varint() == len(base)
        assert p.take(8) == hashlib.sha256(base).digest()[:8]
    links = p.varint() if kind == "chain" else 0
    size, result = p.varint(), b""
    if kind == "same":
        result = base
    for _ in range(links):
        base = result = decode(base, p.take(p.varint()))
    while len(result) < size:
        length = p.varint()
        result += _segment(_Bytes(p.take(p.varint())), length, base)
    assert len(result) == size
    before = patch[: p.at]
    assert p.rest() == hashlib.sha256(before + hashlib.sha256(result).digest()).digest()[:16]
    return result


def _segment(p, length, base):
    method = p.take(1)[0]
    if method == 0:
        at = p.varint()
        return base[at : at + length]
    count = p.varint()
    at = p.varint() if count else 0
    dictionary = base[at : at + count]
    if method == 1:
        return _unpack(p.rest(), length, dictionary)
    size = p.varint()
    operations = _operations(_unpack(p.take(p.varint()), size, b""))
    sums = [sum(op[1] for op in operations if op[0] == kind) for kind in range(4)]
    literals = _Bytes(_unpack(p.take(p.varint()), sums[1], dictionary))
    differences = _Bytes(_unpack(p.take(p.varint()), sums[2], b""))
    shapes = [(op[3], base[op[2] : op[2] + op[1]]) for op in operations if op[0] == 3]
    tensors = iter(_Tensors(p, shapes).decode() if shapes else [])
    out = []
    for kind, n, at, _ in operations:
        was = base[at : at + n]
        if kind == 1:
            out.append(literals.take(n))
        elif kind == 2:
            out.append(bytes((a + b) % 256 for a, b in zip(was, differences.take(n), strict=True)))
        else:
            out.append(was if kind == 0 else next(tensors))
    return b"".join(out)


def _unpack(packed, size, dictionary):
    codec, body = packed[0], packed[1:]
    if codec == 1:
        known = zstd.ZstdDict(dictionary, is_raw=True).as_prefix if len(dictionary) >= 8 else None
        body = zstd.decompress(b"\x28\xb5\x2f\xfd" + body, zstd_dict=known)
    elif codec == 2:
        body = bz2.decompress(body)
    elif codec == 3:
        window = min(max(1 << (size - 1).bit_length(), 4096), 1 << 24)
        chain = [{"id": lzma.FILTER_LZMA1, "dict_size": window, "lc": 3, "lp": 0, "pb": 0}]
        body = lzma.decompress(body, lzma.FORMAT_RAW, filters=chain)
    assert len(body) == size
    return body


def _operations(data):
    p, shapes, found, at = _Bytes(data), [], [], 0
    heads = _Bytes(p.take(p.varint()))
    seeks = _Bytes(p.rest())
    while heads.at < len(heads.data):
        h = heads.varint()
        kind, n, shape = h & 3, h >> 3, None
        if kind == 3:
            if n == len(shapes):
                element = heads.take(1)[0]
                sizes = [heads.varint() for _ in range(4)]
                orders = heads.varint()
                shapes.append((element, sizes, _ORDERS[orders // 24], _ORDERS[orders % 24]))
            shape = shapes[n]
            n = _SIZES[shape[0]] * _product(shape[1])
        if h & 4:
            at += seeks.svarint()
        found.append((kind, n, at, shape))
        if kind != 1:
            at += n
    return found


def _product(sizes):
    total = 1
    for size in sizes:
        total *= size
    return total


def _stands_for(token):
    if token < 31:
        return abs(token - 15), abs(token - 15) + 1, token < 15, 0
    n, t, s = (token - 31) // 8 + 5, (token - 31) // 2 % 4, (token - 31) % 2
    low = (4 + t) << (n - 3)
    return low, low + (1 << n - 3), bool(s), n - 3


_geometric_known = {}


def _geometric(level):
    if level in _geometric_known:
        return _geometric_known[level]
    one = 1 << 32
    s = isqrt(1 << 64 + level)
    q = (s << 32) // (s + one)

    def power(e):
        result, factor = one, q
        while e:
            if e & 1:
                result = result * factor >> 32
            factor = factor * factor >> 32
            e >>= 1
        return result

    weights = []
    for token in range(255):
        low, high, _, _ = _stands_for(token)
        weights.append(power(low) - power(high))
    weights.append(sum(weights) >> 13)
    total = sum(weights)
    _geometric_known[level] = [(w << 16) // total for w in weights]
    return _geometric_known[level]


def tensors(stream, shapes):
    """The new bytes of tensors of these shapes and old bytes."""
    return _Tensors(_Bytes(stream), shapes).decode()


class _Tensors:
    def __init__(self, p, shapes):
        self.lanes = 1 << p.take(1)[0]
        self.states = [int.from_bytes(p.take(4), "little") for _ in range(self.lanes)]
        count = p.varint()
        self.words = iter([int.from_bytes(p.take(2), "little") for _ in range(count)])
        self.raw = int.from_bytes(p.rest(), "little")
        self.shapes, self.counts, self.made, self.tables = shapes, {}, {}, {}

    def bits(self, n):
        value = self.raw & (1 << n) - 1
        self.raw >>= n
        return value

    def table(self, c):
        counts = [self.counts.get((c, t), 0) for t in range(256)]
        seen = sum(counts)
        if c in self.made and seen < self.made[c]:
            return
        self.made[c] = seen * 9 // 8 + 4
        index = c // 8
        geometric = _geometric(index - 16 if index < 64 else 3)
        level = [
            (sum(self.counts.get((8 * index + b, t), 0) for b in range(8)) << 16)
            + 64 * geometric[t]
            for t in range(256)
        ]
        total = sum(level)
        weight = [(counts[t] << 16) + 80 * ((level[t] << 16) // total) for t in range(256)]
        whole = sum(weight)
        least = [1 if t == 255 or counts[t] else 0 for t in range(256)]
        f = [
            max((8192 * w + whole) // (2 * whole), at_least)
            for w, at_least in zip(weight, least, strict=True)
        ]
        first = f.index(max(f))
        f[first] += 4096 - sum(f)
        if f[first] < 1:
            f = [w * 3840 // whole + n for w, n in zip(weight, least, strict=True)]
            f[f.index(max(f))] += 4096 - sum(f)
        self.tables[c] = [(t, n, sum(f[:t])) for t, n in enumerate(f) if n]

    def block(self, contexts):
        for c in set(contexts):
            self.table(c)
        tokens = []
        for row in range(0, len(contexts), self.lanes):
            part = contexts[row : row + self.lanes]
            for lane, c in enumerate(part):
                x = self.states[lane]
                slot = x % 4096
                token, f, start = next(e for e in reversed(self.tables[c]) if e[2] <= slot)
                self.states[lane] = f * (x >> 12) + slot - start
                tokens.append(token)
            for lane in range(len(part)):
                if self.states[lane] < 1 << 16:
                    self.states[lane] = self.states[lane] << 16 | next(self.words)
        tokens = [self.bits(8) if t == 255 else t for t in tokens]
        for c, t in zip(contexts, tokens, strict=True):
            self.counts[c, t] = self.counts.get((c, t), 0) + 1
        values = []
        for t in tokens:
            low, _, negative, n = _stands_for(t)
            m = low + self.bits(n)
            values.append(_signed(-m if negative else m, 32))
        return values

    def side(self, k, count, together=256):
        found = []
        while len(found) < count:
            found += self.block([8 * (64 + k)] * min(together, count - len(found)))
        return found

    def decode(self):
        shapes = [shape for shape, _ in self.shapes]
        modes = self.side(0, len(shapes))
        levels, last = [], dict(enumerate(_FIRST_LEVEL))
        for (element, *_), step in zip(shapes, self.side(1, len(shapes)), strict=True):
            last[element] += step
            levels.append(last[element])
        parts = []
        for k, bit, axis in ((2, 1, 2), (3, 2, 3), (4, 4, 2)):
            sizes = [s[1][axis] if m & bit else 0 for s, m in zip(shapes, modes, strict=True)]
            values = iter(self.side(k, sum(sizes)))
            parts.append([[next(values) for _ in range(n)] for n in sizes])
        guided = [m >> 5 & 1 for m in modes]
        guides = iter(self.side(5, sum(guided)))
        guides = [i - next(guides) if g else None for i, g in enumerate(guided)]
        kernels = [s[1][0] * s[1][1] if m & 128 else 0 for s, m in zip(shapes, modes, strict=True)]
        values = iter(self.side(7, sum(kernels)))
        parts.append([[next(values) for _ in range(n)] for n in kernels])
        befores = [
            _before(*s[1][:2]) if m & 128 else [] for s, m in zip(shapes, modes, strict=True)
        ]
        values = iter(self.side(8, sum(len(other) for b in befores for other in b)))
        parts.append([[[(o, next(values)) for o in others] for others in b] for b in befores])
        out = {}
        for i in sorted(range(len(shapes)), key=lambda i: guides[i] is not None):
            shape, old = self.shapes[i]
            sides, guide = [part[i] for part in parts], None
            if guides[i] is not None:
                at = guides[i]
                assert at >= 0 and guides[at] is None and self.shapes[at][0][:2] == shape[:2]
                guide = [
                    (self.shapes[at][1], self.shapes[at][0][2]),
                    (out[at], self.shapes[at][0][3]),
                ]
            out[i] = self.tensor(shape, old, modes[i], levels[i], *sides, guide)
        assert all(x == 1 << 16 for x in self.states) and next(self.words, None) is None
        return [out[i] for i in range(len(shapes))]

    @staticmethod
    def scaled(element, bits, reference, ratio, gain):
        form, unsigned, fine, sign = (
            ("<e", "<H", 14, 1 << 15) if element == 3 else ("<f", "<I", 22, 1 << 31)
        )
        old = struct.unpack(form, struct.pack(unsigned, bits))[0]
        product = old
        if gain is not None:
            was, now = (struct.unpack("<f", struct.pack("<I", g))[0] for g in gain)
            if was == 0:
                return reference
            product *= now / was
        if ratio is not None:
            product *= 1 + ratio / (1 << fine)
        try:
            found = struct.unpack(unsigned, struct.pack(form, product))[0]
        except OverflowError:
            return reference
        if not math.isfinite(old) or not math.isfinite(product):
            return reference
        return found ^ (2 * sign - 1) if found & sign else found | sign

    def tensor(
        self, shape, old, mode, level, row_levels, column_levels, ratios, planes, before, guide
    ):
        element, (height, width, rows, columns), old_order, new_order = shape
        size, sizes, f = _SIZES[element], (height, width, rows, columns), _MANTISSA[element]
        limit, sign = 1 << 8 * size, 1 << 8 * size - 1
        cells, predicted = mode & (16 | 64), mode & 128
        made, near, moved = bytearray(len(old)), {}, {}

        def place(order, where):
            at = 0
            for axis in order:
                at = at * sizes[axis] + where[axis]
            return at * size

        for plane in range(height * width):
            step = max(1, 65536 // columns)
            for top in range(0, rows, step):
                todo = []
                for r in range(top, min(top + step, rows)):
                    for c in range(columns):
                        where = (plane // width, plane % width, r, c)
                        at = place(old_order, where)
                        bits = int.from_bytes(old[at : at + size], "little")
                        expected = level
                        expected += row_levels[r] if row_levels else 0
                        expected += column_levels[c] if column_levels else 0
                        added = planes[plane] if predicted else 0
                        index = 16 + expected + added
                        reference = bits
                        if f:
                            reference = bits ^ (limit - 1) if bits & sign else bits | sign
                            exponent = max(1, (bits & sign - 1) >> f)
                            index -= 0 if mode & 8 and not cells else 2 * exponent
                        if guide or (ratios and element in (3, 5)):
                            gain = None
                            if guide:
                                found = ((held, place(lies, where)) for held, lies in guide)
                                gain = [int.from_bytes(h[g : g + size], "little") for h, g in found]
                            ratio = ratios[r] if ratios else None
                            reference = self.scaled(element, bits, reference, ratio, gain)
                        rest, pulls = 0, []
                        if ratios and element == 0:
                            exact = (bits - 256 * (bits > 127)) * (1024 + ratios[r])
                            whole = (exact + 512) >> 10
                            rest = exact - 1024 * whole
                            reference = min(max(whole, -128), 127)
                        ahead = whole = wide = 0
                        if predicted:
                            ahead = sum(k * moved[o, r, c] for o, k in before[plane])
                        unit = start = None
                        if cells:
                            unit = min(max((expected >> 1) - 3, 0), _LARGEST[element] - 1)
                            pattern = _pattern(reference, sign)
                            start, p = _cell(pattern, unit, f, sign), pattern & sign - 1
                            e = max(p >> f, 1) - 1
                            if mode & 16:
                                if -4 <= start < 4:
                                    unit = None
                                else:
                                    index = 14 + expected - 2 * unit
                            elif p == 0 or p >> f <= unit - f - 9:
                                unit, index = None, 14 + expected + added - 2 * e
                            else:
                                index = 14 + expected + added - 2 * max(unit, e)
                                wide = min(max(unit, e) - unit, 15)
                                whole = (ahead + (512 << wide)) >> 10 + wide
                        elif predicted:
                            whole = (ahead + rest + 512) >> 10
                        index = min(max(index, 0), 63)
                        scale = (isqrt(1 << 124 - index) >> 30) + 1 >> 1
                        if not predicted:
                            if plane % width:
                                pulls.append(near[plane - 1, r, c])
                            if plane >= width:
                                pulls.append(near[plane - width, r, c])
                        if element == 0 and (ratios or predicted):
                            pulls.append((ahead + rest - 1024 * whole) * scale >> 30)
                        pull = sum(pulls)
                        b = sum(n <= abs(pull) for n in (2, 6, 11, 19, 31, 51))
                        context = 8 * index + (b if pulls else 7)
                        todo.append(
                            _Todo(
                                where,
                                context,
                                pull < 0,
                                reference,
                                scale,
                                whole,
                                rest,
                                wide,
                                unit,
                                start,
                            )
                        )
                values = self.block([entry.context for entry in todo])
                values = [
                    _signed(-v, 32) if entry.turned else v
                    for v, entry in zip(values, todo, strict=True)
                ]
                new = [
                    None if entry.unit is None else _signed(entry.start + entry.whole + v, 32)
                    for v, entry in zip(values, todo, strict=True)
                ]
                deep = [c in (0, -1) and entry.unit > f for c, entry in zip(new, todo, strict=True)]
                depths = iter(self.side(6, sum(deep), 256 if mode & 16 else 65536))
                depths = [next(depths) if d else 0 for d in deep]
                for v, entry, cell, depth in zip(values, todo, new, depths, strict=True):
                    plane_row_column = plane, entry.where[2], entry.where[3]
                    total = v if cells else v + entry.whole
                    found = (entry.reference + total) % limit
                    if f:
                        found = found ^ sign if found & sign else found ^ (limit - 1)
                    far = _signed(16 * total - (entry.rest >> 6), 16)
                    if cells:
                        far = 0
                    if cell is not None:
                        found = self.float_in(cell, entry.unit, depth, element)
                        far = _confined(cell - entry.start, 1 << 11) << 4 + entry.wide
                        far = _confined(far, (1 << 15) - 1)
                    moved[plane_row_column] = far
                    at = place(new_order, entry.where)
                    made[at : at + size] = found.to_bytes(size, "little")
                    bounded = _confined(v, 1 << 28)
                    near[plane_row_column] = _confined(bounded * entry.scale >> 20, 127)
        return bytes(made)

    def float_in(self, cell, unit, depth, element):
        f, sign = _MANTISSA[element], 1 << 8 * _SIZES[element] - 1
        distance = ~cell if cell < 0 else cell
        if distance >= 1 << f:
            pattern = distance + (unit << f)
        elif distance:
            shift = min(unit, f + 1 - distance.bit_length())
            pattern = (distance << shift) + ((unit - shift) << f) + self.bits(min(shift, f))
        elif unit > f:
            assert 0 <= unit - f - depth <= _LARGEST[element] - 1
            pattern = ((unit - f - depth) << f) + self.bits(f)
        else:
            pattern = self.bits(unit)
        assert pattern < sign
        return pattern | sign if cell < 0 else pattern


class _Todo(NamedTuple):
    where: tuple
    context: int
    turned: bool
    reference: int
    scale: int
    whole: int
    rest: int
    wide: int
    unit: int | None
    start: int | None


def _before(height, width):
    found = []
    for plane in range(height * width):
        y, x = divmod(plane, width)
        left, above, right = x > 0, y > 0, x + 1 < width
        near = [plane - 1] * left + [plane - width - 1] * (left and above)
        found.append(near + [plane - width] * above + [plane - width + 1] * (above and right))
    return found


def _confined(value, most):
    return min(max(value, -most), most)


def _signed(value, bits):
    return (value + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1)


def _pattern(ordered, sign):
    return ordered ^ sign if ordered & sign else ordered ^ (2 * sign - 1)


def _cell(bits, unit, f, sign):
    pattern = bits & sign - 1
    exponent = max(pattern >> f, 1) - 1
    if unit > exponent:
        cell = (pattern - (exponent << f)) >> unit - exponent
    else:
        cell = pattern - (unit << f)
    return ~cell if bits & sign else cell
