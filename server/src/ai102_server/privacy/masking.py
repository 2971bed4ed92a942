# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""Masking: what must not be in a log is replaced by what it was, such as ``[email]``.

=============  ======================================================================================================
kind           what is masked
=============  ======================================================================================================
``secret``     values of keys such as ``password``, ``api_key``, ``authorization``, ``token`` (``key=value``, JSON, also
               escaped, headers), passwords in URLs, private keys (PEM), Argon2 hashes
``token``      ``Bearer …`` and JSON web tokens
``email``      addresses, also with ``%40`` as in URLs
``iban``       account numbers with the right length for their country and remainder 1 modulo 97
``card``       13 to 19 digits of a known issuer with the right check digit, also in groups
``identity``   identity numbers: China, South Korea (form only), Taiwan, India, United States (form only), Brazil,
               Germany, France, Spain, Italy, Poland, United Kingdom (form only)
``phone``      numbers with ``+`` or ``00`` and a country, national ones that begin with 0 or are grouped as in North
               America, and Chinese mobile numbers
``ip``         IPv4 and IPv6 addresses; not masked unless asked for, as operators need them
=============  ======================================================================================================

A number counts only where it stands for itself: not as a part of a longer number, a word, a UUID or a hash. Names and
postal addresses cannot be found by their form and are not. All of it takes time that grows with the length of the text
and no faster; most lines of a log hold no candidate and cost one search.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from typing import Final

from ai102_server.privacy.identity import DIGIT_FORMATS, IBAN_LENGTHS, LETTER_FORMATS, is_card, is_iban
from ai102_server.privacy.patterns import CustomPattern

__all__ = ["DEFAULT_KINDS", "KINDS", "Masker"]

KINDS: Final = ("secret", "token", "email", "iban", "card", "identity", "phone", "ip")
DEFAULT_KINDS: Final = KINDS[:-1]

# --------------------------------------------------------------------------------------------------------------------
# Secrets and tokens
# --------------------------------------------------------------------------------------------------------------------
# Names that say it all, and names that are also used for other things, whose value is masked only after a = or as JSON.
_STRONG: Final = (
    r"pass(?:word|wd|phrase|code)[A-Za-z]{0,10}|pwd|(?:client|shared|app)[_-]?secret|secret(?:s|[_-]?key)?|api[_-]?key"
    r"|access[_-]?key|private[_-]?key|authorization|set-cookie|cookie"
)
_WEAK: Final = r"token|credentials?|session[_-]?id|signature|otp|pin|cvv2?|cvc"
_STRONG_NAME: Final = rf"(?:{_STRONG})(?![A-Za-z])(?:[_-][\w-]{{0,20}})?"
_WEAK_NAME: Final = rf"(?<![A-Za-z])(?:[A-Za-z]{{1,20}}[_-]|[A-Za-z]{{1,20}}(?=token))?(?:{_WEAK})(?![A-Za-z])"
_SECRET: Final = re.compile(
    rf"""
    (?:
        # JSON, and what Python prints: a name in quotes and a colon. In JSON inside of JSON the quotes are escaped.
        (?P<json>(?:{_STRONG_NAME}|{_WEAK_NAME})(?P<mark>\\{{0,3}}["'])\s{{0,4}}:)
        |(?:{_STRONG_NAME}\s{{0,4}}[:=]|{_WEAK_NAME}\s?=)
    )
    \s{{0,4}}(?:[bru]{{1,2}}(?=["']))?
    # A value in quotes, or without: then to a blank or a mark that ends a value.
    (?:(?P<open>\\{{0,3}}["'])
      |(?P<bare>\[secret\]
        |(?(json)
            (?:\[[^\]\r\n]*\]?|[^\s,;"'{{}}\[\]\\]+)
            |(?:(?:bearer|basic|digest|negotiate|token|apikey)[ ]+)?
             (?:[^\s,;&"'\\]|\\(?!["']))*(?:[^\s,;&"'\\)\]}}>]|\\(?!["'\\]))
        )
      )
    )
    """,
    re.IGNORECASE | re.VERBOSE | re.ASCII,
)
_COOKIES: Final = re.compile(r"\b((?:set-)?cookie\s{0,4}:\s{0,4})[^\r\n\"']+", re.IGNORECASE)
_USERINFO: Final = re.compile(r"(://[^\s/@:\"']{0,64}:)[^\s/@\"']{1,256}(?=@)")
_PEM: Final = re.compile(r"(-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----)[A-Za-z0-9+/=\s\\:,.-]*?(-----END|\Z)")
_ARGON2: Final = re.compile(r"\$argon2(?:id|i|d)\$[A-Za-z0-9+/=,$]+")
_SECRET_NAME: Final = re.compile(rf"(?:^|[_.-]|[a-z](?=[A-Z]))(?:{_STRONG}|{_WEAK})(?:$|[_.-])", re.IGNORECASE)
_BEARER: Final = re.compile(r"\b(bearer\s{1,4})[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE | re.ASCII)
_JWT: Final = re.compile(r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{5,}(?:\.[A-Za-z0-9_-]*){1,4}")

# --------------------------------------------------------------------------------------------------------------------
# Addresses
# --------------------------------------------------------------------------------------------------------------------
_AT: Final = re.compile(r"@|%40")
_LOCAL: Final = re.compile(r"[\w.!#$%&'*+?^`{|}~-]")
_DOMAIN: Final = re.compile(r"[\w-]{1,63}(?:\.[\w-]{1,63})+")
_IPV4: Final = re.compile(r"(?<![0-9A-Za-z.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![0-9A-Za-z]|\.[0-9])")
_IPV6: Final = re.compile(
    r"(?<![0-9A-Za-z:.])(?:[0-9A-Fa-f:]{1,38}:(?:[0-9]{1,3}\.){3}[0-9]{1,3}|[0-9A-Fa-f:]{2,39})(?![0-9A-Za-z:]|\.[0-9])"
)

# --------------------------------------------------------------------------------------------------------------------
# Numbers
# --------------------------------------------------------------------------------------------------------------------
_IBAN: Final = re.compile(r"(?<![0-9A-Za-z])[A-Za-z]{2}[0-9]{2}(?=[ -]?[0-9A-Za-z])")
_RUN: Final = re.compile(r"(?:(?<![0-9A-Za-z])|(?=\+))\+?\(?[0-9](?:[ ./()-]{0,3}[0-9])+")
_GROUP: Final = re.compile(r"[0-9]+")
_OPAQUE: Final = re.compile(
    r"(?<![0-9A-Za-z])(?:[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}|[0-9A-Fa-f]{32,}"
    # traceparent, and times as this package and others write them
    r"|[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}|[12][0-9]{3}-[01][0-9]-[0-3][0-9]T[0-9:.]+)(?![0-9A-Za-z])"
)
_LETTERED: Final = tuple(
    (re.compile(rf"(?<![0-9A-Za-z])(?:{pattern})(?![0-9A-Za-z])", re.IGNORECASE | re.ASCII), check)
    for pattern, check in LETTER_FORMATS
)
_LONGEST: Final = max(len(form) for form in DIGIT_FORMATS)
_MAX_CARD_GROUPS: Final = 5

# What a text must hold for the patterns above to find anything: quick to look for, and absent from most lines.
_SECRET_WORDS: Final = (
    "pass", "pwd", "secret", "key", "auth", "cookie", "token", "cred", "session", "signature", "otp", "pin", "cvv",
    "cvc", "://", "$argon2", "-----begin",
)  # fmt: skip
_TWO_DIGITS: Final = re.compile(r"[A-Za-z][0-9]{2}")
_SIX_DIGITS: Final = re.compile(r"(?:[0-9][^0-9]*){6}")
_NUMBER: Final = re.compile(
    r"[0-9](?:[ ./()-]{0,3}[0-9]){6}|(?<![A-Za-z])(?:[A-Za-z]{6}[0-9]{2}|[A-Za-z]{2} ?[0-9]{2} ?[0-9]{2})"
)

_Span = tuple[int, int, str]


class Masker:
    """Masks text. Immutable, so threads may share it.

    ``kinds`` are of ``KINDS``; ``patterns`` are applied first.
    """

    def __init__(self, kinds: Iterable[str] = DEFAULT_KINDS, patterns: Sequence[CustomPattern] = ()) -> None:
        wanted = frozenset(kinds)
        self.kinds: Final = tuple(kind for kind in KINDS if kind in wanted)
        self._patterns: Final = tuple(patterns)
        self._secret: Final = "secret" in wanted
        self._token: Final = "token" in wanted
        self._email: Final = "email" in wanted
        self._iban: Final = "iban" in wanted
        self._ip: Final = "ip" in wanted
        self._numbers: Final = wanted & {"card", "identity", "phone"}

    def mask(self, text: str) -> str:
        """The text with everything found replaced."""
        for custom in self._patterns:
            text = custom.pattern.sub(f"[{custom.name}]", text)
        lower = text.lower()
        if self._secret and any(word in lower for word in _SECRET_WORDS):
            text = _mask_secrets(text)
        if self._token and ("eyJ" in text or "bearer" in lower):
            text = _JWT.sub("[token]", _BEARER.sub(r"\1[token]", text))
        if self._email and ("@" in text or "%40" in text):
            text = _mask_emails(text)
        if self._iban and _TWO_DIGITS.search(text) is not None:
            text = _mask_ibans(text)
        if self._numbers and _SIX_DIGITS.search(text) is not None and _NUMBER.search(text) is not None:
            text = self._mask_numbers(text)
        if self._ip:
            text = _IPV4.sub(_hide_address, _IPV6.sub(_hide_address, text))
        return text

    def mask_value(self, value: object, name: str = "") -> object:
        """A value of any kind with all text in it masked: mappings and lists to any depth that JSON has.

        ``name`` is what the value is called; what is called a secret is masked whatever it is. Numbers, flags and None
        stay as they are, other objects too: whoever writes them must turn them into text before.
        """
        if name and "secret" in self.kinds and value is not None and _SECRET_NAME.search(name):
            return "[secret]"
        if isinstance(value, str):
            return self.mask(value)
        if isinstance(value, dict):
            return {
                self.mask(key) if isinstance(key, str) else key: self.mask_value(
                    item, key if isinstance(key, str) else ""
                )
                for key, item in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [self.mask_value(item) for item in value]
        return value

    # Numbers -----------------------------------------------------------------------------------------------------
    def _mask_numbers(self, text: str) -> str:
        opaque = [match.span() for match in _OPAQUE.finditer(text)]
        spans: list[_Span] = []
        if "identity" in self._numbers:
            for pattern, check in _LETTERED:
                for match in pattern.finditer(text):
                    if check(_plain(match.group())):
                        spans.append((*match.span(), "identity"))
        for run in _RUN.finditer(text):
            if any(start < run.end() and run.start() < end for start, end in opaque):
                continue
            spans += self._numbers_of_run(text, run)
        return _replace(text, spans)

    def _numbers_of_run(self, text: str, run: re.Match[str]) -> list[_Span]:
        """What a run of digits and separators holds; a run may hold more than one number."""
        groups = [match.span() for match in _GROUP.finditer(text, run.start(), run.end())]
        if run.end() < len(text) and text[run.end()].isascii() and text[run.end()].isalpha():
            # The last digits belong to a word.
            groups.pop()
        digits = [text[start:end] for start, end in groups]
        international = text[run.start()] == "+"
        spans: list[_Span] = []
        index = 0
        while index < len(groups):
            count, kind = self._number_at(digits, index, international and index == 0)
            if kind == "phone" and international and index == 0:
                separators = ""
            else:
                separators = text[groups[index][1] : groups[index + count - 1][0]] if count else ""
            if count and not (
                kind == "phone" and "." in separators and digits[index][0] == "0" and count != _FRENCH_PAIRS
            ):
                start = run.start() if index == 0 else groups[index][0]
                spans.append((start, groups[index + count - 1][1], kind))
                index += count
            else:
                index += 1
        return spans

    def _number_at(self, digits: Sequence[str], index: int, international: bool) -> tuple[int, str]:
        """How many groups from ``index`` on are one number, and of which kind; 0 when they are none."""
        if not international:
            if "identity" in self._numbers and (count := _identity(digits, index)):
                return count, "identity"
            if "card" in self._numbers and (count := _card(digits, index)):
                return count, "card"
        if "phone" in self._numbers:
            count = _international(digits, index) if international else _national(digits, index)
            return count, "phone"
        return 0, ""


def _replace(text: str, spans: Iterable[_Span]) -> str:
    parts: list[str] = []
    done = 0
    for start, end, kind in sorted(spans):
        if start >= done:
            parts += [text[done:start], f"[{kind}]"]
        # Where two overlap, the rest of the second goes as well.
        done = max(done, end)
    return "".join(parts) + text[done:]


def _plain(text: str) -> str:
    return text.replace(" ", "").replace("-", "").upper()


_FRENCH_PAIRS: Final = 5
_PHONE_DIGITS: Final = range(7, 16)
_NATIONAL_DIGITS: Final = range(9, 13)
_CHINESE_MOBILE: Final = re.compile(r"1[3-9][0-9]{9}")
_NATIONAL_SINGLE: Final = re.compile(r"00[1-9][0-9]{7,13}|0[1-9][0-9]{8,10}")
_NATIONAL_HEAD: Final = re.compile(r"0[1-9][0-9]{0,4}")
_NORTH_AMERICA: Final = (3, 3, 4)
_CHINESE_GROUPS: Final = (3, 4, 4)


def _identity(digits: Sequence[str], index: int) -> int:
    """Number of groups that are an identity number."""
    for count in range(min(_LONGEST, len(digits) - index), 0, -1):
        window = digits[index : index + count]
        checks = DIGIT_FORMATS.get(tuple(map(len, window)))
        if checks is not None and any(check("".join(window)) for check in checks):
            return count
    return 0


def _card(digits: Sequence[str], index: int) -> int:
    """Number of groups that are a card: one group, or several that begin with four digits."""
    if is_card(digits[index]):
        return 1
    if len(digits[index]) == 4:  # noqa: PLR2004  # as cards are printed
        for count in range(min(_MAX_CARD_GROUPS, len(digits) - index), 1, -1):
            if is_card("".join(digits[index : index + count])):
                return count
    return 0


def _international(digits: Sequence[str], index: int) -> int:
    """Number of groups that are a number after ``+``: as many as have at most 15 digits (E.164)."""
    total = count = 0
    for group in digits[index:]:
        if total + len(group) >= _PHONE_DIGITS.stop:
            break
        total += len(group)
        count += 1
    return count if total in _PHONE_DIGITS else 0


def _national(digits: Sequence[str], index: int) -> int:
    """Number of groups that are a number without ``+``."""
    first = digits[index]
    if _NATIONAL_SINGLE.fullmatch(first) or _CHINESE_MOBILE.fullmatch(first):
        return 1
    lengths = tuple(map(len, digits[index : index + 3]))
    if lengths == _NORTH_AMERICA and first[0] in "23456789" and digits[index + 1][0] in "23456789":
        return 3
    if lengths == _CHINESE_GROUPS and _CHINESE_MOBILE.fullmatch("".join(digits[index : index + 3])):
        return 3
    if first == "00" or _NATIONAL_HEAD.fullmatch(first):
        limit = _PHONE_DIGITS.stop + 1 if first == "00" else _NATIONAL_DIGITS.stop - 1
        total = count = 0
        for group in digits[index:]:
            if total + len(group) > limit:
                break
            total += len(group)
            count += 1
        if count > 1 and total >= _NATIONAL_DIGITS.start:
            return count
    return 0


def _mask_secrets(text: str) -> str:
    if "-----BEGIN" in text:
        text = _PEM.sub(r"\1[secret]\2", text)
    if "$argon2" in text:
        text = _ARGON2.sub("[secret]", text)
    if "://" in text:
        text = _USERINFO.sub(r"\1[secret]", text)
    text = _COOKIES.sub(r"\1[secret]", text)
    parts: list[str] = []
    done = 0
    while (match := _SECRET.search(text, done)) is not None:
        if match["open"] is not None:
            # Quotes and what escapes them stay, so that JSON stays JSON.
            end = _end_of_quoted(text, match.end(), match["open"])
            parts += [text[done : match.end()], "[secret]" if end > match.end() else ""]
        else:
            # What had no quotes in JSON, such as a number, gets those of its name.
            mark, end = match["mark"] or "", match.end()
            parts += [text[done : match.start("bare")], mark, "[secret]", mark]
        done = end
    return "".join(parts) + text[done:]


def _end_of_quoted(text: str, start: int, mark: str) -> int:
    """Where a quoted value ends that begins at ``start`` after ``mark``, a quote with the backslashes that escape it.

    In JSON that is text in JSON, and so on, n backslashes before a quote end the value, and 2n + 1 are a quote inside
    of it; each backslash of the value is 2(n + 1) of them, and they may stand in front of either.
    """
    escapes, quote = len(mark) - 1, mark[-1]
    position = text.find(quote, start)
    while position >= 0:
        slashes = 0
        while position - slashes > start and text[position - slashes - 1] == "\\":
            slashes += 1
        if slashes % (2 * (escapes + 1)) == escapes:
            return position - escapes
        position = text.find(quote, position + 1)
    return len(text)


def _mask_emails(text: str) -> str:
    parts: list[str] = []
    done = floor = 0
    for match in _AT.finditer(text):
        start = at = match.start()
        while start > floor and _LOCAL.match(text, start - 1):
            start -= 1
        # Quotes around an address are not of it.
        while start < at and text[start] in "'`":
            start += 1
        # The part before is looked at once, however many of the marks there are.
        floor = match.end()
        domain = _DOMAIN.match(text, match.end())
        if start == at or domain is None:
            continue
        parts += [text[done:start], "[email]"]
        done = floor = domain.end()
    return "".join(parts) + text[done:] if parts else text


def _mask_ibans(text: str) -> str:
    spans: list[_Span] = []
    for match in _IBAN.finditer(text):
        length = IBAN_LENGTHS.get(match.group()[:2].upper())
        if length is None:
            continue
        position, taken = match.start(), 0
        while taken < length and position < len(text):
            character = text[position]
            if character.isascii() and character.isalnum():
                taken += 1
            elif character not in " -" or text[position - 1] in " -":
                break
            position += 1
        follows = text[position : position + 1]
        glued = follows.isascii() and follows.isalnum()
        if taken == length and not glued and is_iban(_plain(text[match.start() : position])):
            spans.append((match.start(), position, "iban"))
    return _replace(text, spans) if spans else text


def _hide_address(match: re.Match[str]) -> str:
    try:
        ipaddress.ip_address(match.group())
    except ValueError:
        return match.group()
    return "[ip]"
