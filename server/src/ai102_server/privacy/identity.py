# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Check digits of payment cards, bank accounts and national identity numbers.

Numbers are given as text of digits (and letters, upper case) without separators. A check digit is what tells an
identity number from any other number of that length; where a country has none, its form and ranges have to do.
"""

from __future__ import annotations

import calendar
from collections.abc import Callable, Mapping
from typing import Final

__all__ = ["DIGIT_FORMATS", "IBAN_LENGTHS", "LETTER_FORMATS", "is_card", "is_iban", "luhn"]

# Length of an account number by country, as in the IBAN registry (SWIFT).
IBAN_LENGTHS: Final[Mapping[str, int]] = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BI": 27, "BR": 29,
    "BY": 28, "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DJ": 27, "DK": 18, "DO": 28, "EE": 20, "EG": 29,
    "ES": 24, "FI": 18, "FK": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28,
    "HN": 28, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20,
    "LB": 28, "LC": 32, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19,
    "MN": 20, "MR": 27, "MT": 31, "MU": 30, "NI": 28, "NL": 18, "NO": 15, "OM": 23, "PK": 24, "PL": 28, "PS": 29,
    "PT": 25, "QA": 29, "RO": 24, "RS": 22, "RU": 33, "SA": 24, "SC": 31, "SD": 18, "SE": 24, "SI": 19, "SK": 24,
    "SM": 27, "SO": 23, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20,
    "YE": 30,
}  # fmt: skip

# First digits of payment cards (ISO/IEC 7812-1), as ranges of their first four digits.
_ISSUERS: Final = (
    (2200, 2204), (2221, 2720), (3000, 3059), (3095, 3095), (3400, 3499), (3528, 3589), (3600, 3699), (3700, 3999),
    (4000, 4999), (5000, 5099), (5100, 5599), (5600, 5999), (6000, 6999), (8100, 8171), (9792, 9792),
)  # fmt: skip
CARD_LENGTHS: Final = range(13, 20)


def luhn(digits: str) -> bool:
    """Whether the last digit is right (ISO/IEC 7812-1, annex B)."""
    total = sum(map(int, digits[-1::-2])) + sum(sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return total % 10 == 0


def is_card(digits: str) -> bool:
    """A payment card: 13 to 19 digits, of a known kind of issuer, with the right check digit."""
    if len(digits) not in CARD_LENGTHS:
        return False
    first = int(digits[:4])
    return any(low <= first <= high for low, high in _ISSUERS) and luhn(digits)


def is_iban(text: str) -> bool:
    """An international bank account number (ISO 13616): length of its country, and remainder 1 modulo 97."""
    if IBAN_LENGTHS.get(text[:2]) != len(text):
        return False
    return int("".join(str(int(character, 36)) for character in text[4:] + text[:4])) % 97 == 1


def _weighted(digits: str, weights: tuple[int, ...]) -> int:
    return sum(int(digit) * weight for digit, weight in zip(digits, weights, strict=False))


def _date(year: int, month: int, day: int) -> bool:
    return 1 <= month <= 12 and 1 <= day <= calendar.monthrange(year, month)[1]  # noqa: PLR2004  # months of a year


# --------------------------------------------------------------------------------------------------------------------
# Digits only
# --------------------------------------------------------------------------------------------------------------------
def _us_ssn(digits: str) -> bool:
    """United States: no check digit, but area, group and serial that are never given out."""
    area = digits[:3]
    return area not in {"000", "666"} and area[0] != "9" and digits[3:5] != "00" and digits[5:] != "0000"


def _de_tax_id(digits: str) -> bool:
    """Germany: ISO 7064 MOD 11,10, and of the first ten digits some occur more than once."""
    if digits[0] == "0" or len(set(digits[:10])) not in {8, 9}:
        return False
    product = 10
    for digit in digits[:10]:
        product = (int(digit) + product) % 10 or 10
        product = product * 2 % 11
    return (11 - product) % 10 == int(digits[10])


def _fr_nir(digits: str) -> bool:
    """France: 97 less the remainder modulo 97."""
    return digits[0] in "12" and 97 - int(digits[:13]) % 97 == int(digits[13:])


def _br_cpf(digits: str) -> bool:
    """Brazil: two check digits modulo 11."""
    if len(set(digits)) == 1:
        return False
    for length in (9, 10):
        rest = _weighted(digits, tuple(range(length + 1, 1, -1))) * 10 % 11 % 10
        if rest != int(digits[length]):
            return False
    return True


_D5: Final = (
    "0123456789", "1234067895", "2340178956", "3401289567", "4012395678",
    "5987604321", "6598710432", "7659821043", "8765932104", "9876543210",
)  # fmt: skip
_P8: Final = (
    "0123456789", "1576283094", "5803796142", "8916043527", "9453126870", "4286573901", "2793806415", "7046913258",
)  # fmt: skip


def _in_aadhaar(digits: str) -> bool:
    """India: Verhoeff's check digit; the first is 2 to 9."""
    check = 0
    for place, digit in enumerate(reversed(digits)):
        check = int(_D5[check][int(_P8[place % 8][int(digit)])])
    return digits[0] in "23456789" and check == 0


def _pl_pesel(digits: str) -> bool:
    """Poland: a date of birth whose month says the century, and a weighted check digit modulo 10."""
    year, month, day = int(digits[:2]), int(digits[2:4]), int(digits[4:6])
    century = (1900, 2000, 2100, 2200, 1800)[month // 20]
    if not _date(century + year, month % 20, day):
        return False
    return (10 - _weighted(digits, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3)) % 10) % 10 == int(digits[10])


def _kr_rrn(digits: str) -> bool:
    """South Korea: a date of birth and a digit for sex and century. None of since 2020 has a check digit."""
    return digits[6] in "12345678" and _date(2000, int(digits[2:4]), int(digits[4:6]))


def _cn_resident(text: str) -> bool:
    """China (GB 11643): date of birth, and ISO 7064 MOD 11-2, whose check character may be X."""
    if not _date(int(text[6:10]) or 1, int(text[10:12]), int(text[12:14])):
        return False
    total = _weighted(text[:17], (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2))
    return "10X98765432"[total % 11] == text[17]


DIGIT_FORMATS: Final[Mapping[tuple[int, ...], tuple[Callable[[str], bool], ...]]] = {
    (3, 2, 4): (_us_ssn,),
    (2, 3, 3, 3): (_de_tax_id,),
    (1, 2, 2, 2, 3, 3, 2): (_fr_nir,),
    (3, 3, 3, 2): (_br_cpf,),
    (4, 4, 4): (_in_aadhaar,),
    (6, 7): (_kr_rrn,),
    (11,): (_de_tax_id, _br_cpf, _pl_pesel),
    (12,): (_in_aadhaar,),
    (15,): (_fr_nir,),
    (18,): (_cn_resident,),
}
"""How the digits are grouped, and what may be written so."""


# --------------------------------------------------------------------------------------------------------------------
# Digits and letters
# --------------------------------------------------------------------------------------------------------------------
_DNI: Final = "TRWAGMYFPDXBNJZSQVHLCKE"


def _es_dni(text: str) -> bool:
    """Spain: DNI (8 digits) or NIE (X, Y or Z and 7 digits), and a letter modulo 23."""
    number = str("XYZ".index(text[0])) + text[1:-1] if text[0] in "XYZ" else text[:-1]
    return _DNI[int(number) % 23] == text[-1]


_CF_ODD: Final = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)


def _it_codice_fiscale(text: str) -> bool:
    """Italy: 16 characters, the last one a check letter modulo 26."""
    total = 0
    for place, character in enumerate(text[:15], 1):
        value = int(character) if character.isdigit() else ord(character) - ord("A")
        total += _CF_ODD[value] if place % 2 else value
    return chr(ord("A") + total % 26) == text[15]


def _gb_nino(text: str) -> bool:
    """United Kingdom: no check digit, but prefixes that are never given out."""
    return text[:2] not in {"BG", "GB", "KN", "NK", "NT", "TN", "ZZ"}


def _tw_national(text: str) -> bool:
    """Taiwan: a letter that stands for two digits, and nine digits, weighted modulo 10."""
    code = "ABCDEFGHJKLMNPQRSTUVXYWZIO".index(text[0]) + 10
    return (code // 10 + code % 10 * 9 + _weighted(text[1:], (8, 7, 6, 5, 4, 3, 2, 1, 1))) % 10 == 0


LETTER_FORMATS: Final[tuple[tuple[str, Callable[[str], bool]], ...]] = (
    (r"[0-9]{8}[ -]?[A-Z]|[XYZ][ -]?[0-9]{7}[ -]?[A-Z]", _es_dni),
    (r"[A-Z]{6}[0-9]{2}[A-EHLMPRST][0-9]{2}[A-Z][0-9]{3}[A-Z]", _it_codice_fiscale),
    (r"[A-CEGHJ-PRSTW-Z][A-CEGHJ-NPRSTW-Z] ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D]", _gb_nino),
    (r"[A-Z][1289][0-9]{8}", _tw_national),
    (r"[1-9][0-9]{16}X", _cn_resident),
)
"""How the number is written (letters of either case; spaces and hyphens are taken out), and its check."""
