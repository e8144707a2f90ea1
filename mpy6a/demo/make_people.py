"""Makes people.csv: 3,000 person records with the names that break programs, the same bytes at every run.

Run as `python -m mpy6a.demo.make_people > mpy6a/demo/people.csv`. Nobody in it is real.
"""

from __future__ import annotations

import csv
import io
import random
import sys
from collections.abc import Sequence
from typing import Final, TypeVar

ROWS: Final = 3_000
SEED: Final = 6
DOUBLED_EVERY: Final = 40  # a row takes the nickname of an earlier one
BAD_EVERY: Final = 90  # a row no loader may take

T = TypeVar("T")

# (given names, family names, cities) of one script each; latin ones with the letters that get lost.
_SCRIPTS: Final = (
    ("Zoë Renée Søren Jürgen Þóra Łukasz Őrs", "Müller Ångström Nuñez O'Brien D'Angelo Smith-Jones", "Köln"),
    ("Иван Ольга Ёлка Андрей Юлия Щукарь", "Щербаков Ъюлин Петрова Чехов Жуковская", "Орёл"),
    ("Οδυσσέας Ελένη Νίκος Σοφία", "Παπαδόπουλος Ιωάννου Χατζής", "Αθήνα"),
    ("שרה דוד יעל משה", "כהן לוי בן־דוד", "ירושלים"),
    ("محمد فاطمة يوسف ليلى", "الخطيب حسن القاضي", "القاهرة"),
    ("अनिल प्रिया क्षितिज ज्ञान", "शर्मा त्रिपाठी कृष्णन", "मुंबई"),
    ("伟 芳 娜 秀英", "李 王 張 歐陽", "北京"),
    ("さくら 太郎 ゆうき ケンジ", "佐藤 鈴木 髙橋", "東京"),
    ("민준 서연 지우 하은", "김 이 박 남궁", "서울"),
    ("สมชาย สุดา กมล", "ศรีสุข แก้วมณี", "กรุงเทพ"),
    ("გიორგი ნინო თამარ", "ბერიძე კაპანაძე", "თბილისი"),
    ("Արամ Անի Նարե", "Պետրոսյան Սարգսյան", "Երևան"),
    ("አበበ ሰላም ደስታ", "ተሰማ ከበደ", "አዲስ አበባ"),
    ("Ngọc Hương Đức", "Nguyễn Trần Phạm", "Huế"),
    ("Ayşe İpek Işıl Çağrı", "Yılmaz Güneş İnce", "İzmir"),
)
# What stands in fields of real files and is read as something else.
_AWKWARD: Final = (
    'Bob "the fox" Ray', "Doe, Jane", "Robert'); DROP TABLE user;--", "null", "None", "NaN", "0", "-1", "1e5",
    "true", "=1+1", "%s %d {} ${HOME}", "<b>bold</b>", "back\\slash", "semi;colon", "tab\there", "two\nlines",
    "cr\r\nlf", "\U0001f98a", "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 family",
    "e\u0301 decomposed", "\ufb01 ligature", "\u0130stanbul i\u0307", "\u00df or \u1e9e",
    "\u202eright to left", "zero\u200bwidth", "Z\u0338\u0322\u0361a\u0336l\u0337g\u0335o\u0338", "𝔐𝔞𝔱𝔥",
    "\u01c5 title", "  spaces around  ", "¿Qué?", "…", "--", "NICKNAME", "index", "a", "../../etc/passwd",
    "https://example.org/?q=1&r=2#x", "OR 1=1", "NEAR(", '""', "'", ",,", "#hash", "@at", "+49 170 1234567",
)  # fmt: skip
_NOTES: Final = (
    "likes tea", 'says "hello, world"', "first line\nsecond line", 'любит чай, кофе и "сок"', "喜歡喝茶",
    "émigré", "x" * 300, "a,b,c", "multi\n\n\nblank", 'ends with a quote"',
)  # fmt: skip


def make() -> bytes:
    """The whole file."""
    draw = random.Random(SEED)
    out: list[bytes] = [b"nickname,name,email,city,note\r\n"]
    nicknames: list[str] = []
    for row in range(1, ROWS + 1):
        if row % BAD_EVERY == 0:
            out.append(_bad(row // BAD_EVERY, row))
            continue
        given, family, city = _pick(draw, _SCRIPTS)
        name = f"{_pick(draw, given.split())} {_pick(draw, family.split())}"
        nickname = _nickname(draw, row, name)
        if row % DOUBLED_EVERY == 0:
            nickname = _pick(draw, nicknames[-200:])
        nicknames.append(nickname)
        email = f"user{row}@example.org" if draw.random() < 0.7 else ""
        note = _pick(draw, _NOTES) if draw.random() < 0.3 else ""
        out.append(_line(nickname, name, email, city if draw.random() < 0.8 else "", note))
    return b"".join(out)


def _nickname(draw: random.Random, row: int, name: str) -> str:
    chance = draw.random()
    if row <= 2 * len(_AWKWARD) and row % 2 == 0:
        return _AWKWARD[row // 2 - 1]
    if chance < 0.1:
        return f"{_pick(draw, _AWKWARD)} {row}"
    if chance < 0.5:
        return f"{name} {row}"
    return f"{name.split()[0].lower()}{row}"


def _bad(number: int, row: int) -> bytes:
    """One of the ways in which a row is no record."""
    kinds = (
        _line("", f"Nobody {row}", f"user{row}@example.org", "", "the nickname is missing"),
        _line(f"many{row}", "Too", "many", "columns", "in", "this", "row"),
        _line(f"few{row}", "Too few"),
        b"latin1-" + "Jürgen".encode("latin-1") + f"{row},Jurgen,,Koln,not UTF-8\r\n".encode(),
        _line("   \t ", "Blank", "", "", "the nickname is only white space"),
        _line("long" * 20 + str(row), "Long", "", "", "the nickname is too long"),
        _line(f"nul\0{row}", "Nul", "", "", "a NUL character"),
        b"\xff\xfe\xfa,\xc3\x28,,,\r\n",
    )
    return kinds[(number - 1) % len(kinds)]


def _line(*fields: str) -> bytes:
    out = io.StringIO()
    csv.writer(out).writerow(fields)
    return out.getvalue().encode()


def _pick(draw: random.Random, among: Sequence[T]) -> T:
    """random() is the one method whose sequence Python promises to keep over versions."""
    return among[int(draw.random() * len(among))]


if __name__ == "__main__":
    sys.stdout.buffer.write(make())
