"""The header parser, against astropy's cards and the FITS Standard 4.0, section 4."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import pytest
from astropy.io import fits
from astropy.io.fits.card import Undefined
from hypothesis import given
from hypothesis import strategies as st

import dask_fits
from dask_fits import FitsFormatError
from dask_fits.format.header import check_text, find_end, parse_header, parse_value
from tests.support.fits_files import BLOCK, CARD, blocks, card, extension, header, primary

END = b"END".ljust(CARD)
FILLER = b"HISTORY a card that means nothing here".ljust(CARD)


def parsed(*cards: bytes, **kwargs: bytes):
    return parse_header(header(*cards, **kwargs), where="a.fits: HDU 3")


def astropy_value(field: str) -> object:
    value = fits.Card.fromstring(f"KEYWORD ={field}").value
    return None if isinstance(value, Undefined) else value


FIELDS = {
    # fixed format: columns 11 to 30
    "                     8": 8,
    "                   -32 / bits": -32,
    "                   +16 / bits": 16,
    "                     T / it is": True,
    "                     F": False,
    "                   1.0": 1.0,
    "               1.5D+03": 1500.0,
    "              -2.5E-01 / e": -0.25,
    " 'IMAGE   '           / what": "IMAGE",
    # free format
    " 8": 8,
    " T/no blank before the slash": True,
    " 8/8": 8,
    " 0042": 42,
    " -007": -7,
    " 1d2": 100.0,
    " .5": 0.5,
    " -.5": -0.5,
    " 5.": 5.0,
    " 1E3": 1000.0,
    " 1.e-3": 0.001,
    " 9223372036854775808": 9223372036854775808,
    "      'x'": "x",
    " 'a/b' / and a comment": "a/b",
    " 'a''b'": "a'b",
    " 'it''s' / isn't it": "it's",
    " '  leading blanks count'": "  leading blanks count",
    " 'trailing do not    '": "trailing do not",
    " ''": "",
    " '        '": "",
    # undefined
    "": None,
    "                      ": None,
    "                      / no value": None,
    " / 5": None,
}


@pytest.mark.parametrize("field", FIELDS)
def test_value_and_its_type(field: str) -> None:
    value = parse_value(field)
    assert (value, type(value)) == (FIELDS[field], type(FIELDS[field]))
    assert value == astropy_value(field)


def test_a_doubled_quote_before_a_blank_does_not_end_the_string() -> None:
    # Section 4.2.1.1. Here astropy is no oracle: it gives "a '".
    assert parse_value(" 'a '' / b' / c") == "a ' / b"


@pytest.mark.parametrize(
    "text", ["1.5D3", "1.5d3", "1.5D+3", "1.5 D 3", "1.5D +3", "15D2", "1500."]
)
def test_exponents(text: str) -> None:
    assert parse_value(f" {text}") == 1500.0
    assert type(parse_value(text)) is float


def test_a_sign_may_stand_apart_as_in_astropy() -> None:
    assert parse_value(" - 32") == astropy_value(" - 32") == -32


def test_a_number_past_the_largest_double_is_infinite_not_an_error() -> None:
    assert parse_value(" 1E400") == float("inf")


@pytest.mark.parametrize(
    "field",
    [
        "'no end / at all",
        "yes",
        "TRUE",
        "0x10",
        "1 2",
        "1.2.3",
        "--1",
        "1e",
        "nan",
        "inf",
        "1_000",
        "\N{SUPERSCRIPT TWO}",
    ],
)
def test_what_is_no_fits_value_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match="not a FITS value"):
        parse_value(f" {field}")


def test_an_unusable_value_names_file_hdu_keyword_and_what_was_found() -> None:
    with pytest.raises(FitsFormatError, match=r"a\.fits: HDU 3: BITPIX: found 'eight'.*FITS value"):
        parsed(card("BITPIX", b"eight")).value("BITPIX")


@pytest.mark.parametrize(
    ("value", "found"),
    [(b"16.0", "16.0"), (b"'16'", "'16'"), (b"T", "True"), (b"", "an undefined value")],
)
def test_an_integer_keyword_takes_no_other_type(value: bytes, found: str) -> None:
    raw = parsed(card("NAXIS1", value))
    with pytest.raises(FitsFormatError, match=f"HDU 3: NAXIS1: found {found}, expected an integer"):
        raw.integer("NAXIS1")
    with pytest.raises(FitsFormatError, match="NAXIS1"):
        raw.integer("NAXIS1", default=1)  # a default is for a missing card, not for a bad one


def test_a_missing_keyword() -> None:
    raw = parsed(FILLER)
    assert "PCOUNT" not in raw
    assert raw.value("PCOUNT") is None
    assert raw.integer("PCOUNT", default=7) == 7
    with pytest.raises(FitsFormatError, match=r"a\.fits: HDU 3: PCOUNT is missing"):
        raw.integer("PCOUNT")


# Keywords and the value indicator


@pytest.mark.parametrize(
    "image",
    [
        b"NAXIS1  =                   42",
        b"naxis1  =                   42",
        b"Naxis1  = 42 / NAXIS1 = 7",
        b"NAXIS1= 42",
        b"NAXIS1=  42 / = 7",
        b" NAXIS1 = 42",
        b"  NAXIS1= 42",
    ],
)
def test_keywords_are_found_in_any_case_and_with_the_value_indicator_too_early(
    image: bytes,
) -> None:
    assert parsed(image.ljust(CARD)).value("NAXIS1") == 42
    assert fits.Card.fromstring(image).value == 42


@pytest.mark.parametrize(
    "image",
    [
        b"NAXIS1    = 42",  # column 11: a keyword with no value
        b"NAXIS1 = 42",  # neither in column 9 nor right after the keyword
        b"NAXIS1  =42",
        b"NAXIS1  42",
        b"COMMENT NAXIS1  = 42",
        b"HISTORY = NAXIS1 = 42",
        b"HIERARCH NAXIS1 = 42",
        b"        NAXIS1  = 42",
        b"NAXIS1X = 42",
        b"XNAXIS1 = 42",
        b"NAXIS1 A= 42",
        b"CONTINUE  'NAXIS1  = 42'",
    ],
)
def test_what_only_looks_like_the_keyword_is_not_it(image: bytes) -> None:
    assert "NAXIS1" not in parsed(image.ljust(CARD))


def test_a_keyword_inside_a_string_is_not_a_card() -> None:
    raw = parsed(card("OBJECT", b"'x' / BITPIX  = 8".ljust(60)), card("BITPIX", 16))
    assert raw.value("BITPIX") == 16


def test_bytes_beyond_ascii_in_other_cards_do_no_harm() -> None:
    raw = parsed(
        card("OBSERVER", "Gr\N{LATIN SMALL LETTER E WITH ACUTE}ta".encode("latin-1") + b"'"),
        card("NAXIS", 0),
    )
    assert raw.value("NAXIS") == 0


# Duplicates


def test_the_last_of_duplicate_structural_cards_counts() -> None:
    assert parsed(card("BZERO", 1), card("BZERO", 2), card("bzero", 3)).value("BZERO") == 3


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("A", "B"), "A"),
        (("A", "B", "C"), "A"),
        (("COMPRESSED_IMAGE", "SCI"), "SCI"),
        (("COMPRESSED_IMAGE", "SCI", "ERR"), "SCI"),
        (("SCI", "COMPRESSED_IMAGE"), "SCI"),
    ],
)
def test_the_first_name_counts_but_for_the_compressors_own(
    names: tuple[str, ...], expected: str
) -> None:
    assert parsed(*(card("EXTNAME", name) for name in names)).value("EXTNAME") == expected


def test_the_first_version_counts() -> None:
    assert parsed(card("EXTVER", 4), card("EXTVER", 5)).integer("EXTVER") == 4


def test_duplicates_give_astropys_pixels_and_name() -> None:
    extra = [card("EXTNAME", "A"), card("EXTNAME", "B"), card("BZERO", 1), card("BZERO", 100)]
    content = primary() + extension(2, extra=extra) + blocks(b"\1\2")
    raw = parsed(*extra)
    with fits.open(io.BytesIO(content)) as expected:
        assert raw.value("BZERO") == expected[1].data[0] - 1
        assert raw.value("EXTNAME") == expected[1].name


# CONTINUE


@pytest.mark.parametrize(
    "name",
    [
        "N" * 100,
        "x" * 30 + "'" * 5 + "y" * 80,
        ("a/b & '" * 40).strip(),
        "&" * 150,
        "ends in an ampersand &",
    ],
)
def test_a_long_name_is_continued(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fits.verify.VerifyWarning)
        written = fits.Header([("EXTNAME", name), ("EXTVER", 2)])
    raw = parse_header(written.tostring().encode(), where="")
    assert raw.value("EXTNAME") == name == written["EXTNAME"]
    assert raw.value("EXTVER") == 2


def test_an_ampersand_without_continue_is_part_of_the_name() -> None:
    assert parsed(card("EXTNAME", "A&"), card("EXTVER", 1)).value("EXTNAME") == "A&"
    assert (
        parsed(card("EXTNAME", "A&"), FILLER, b"CONTINUE  'B'".ljust(CARD)).value("EXTNAME") == "A&"
    )


def test_a_continue_card_that_holds_no_string_ends_the_name() -> None:
    raw = parsed(card("EXTNAME", "A&"), b"CONTINUE  5".ljust(CARD), b"CONTINUE  'C'".ljust(CARD))
    assert raw.value("EXTNAME") == "A&"


def test_an_ampersand_in_the_very_last_card() -> None:
    text = FILLER * 35 + card("EXTNAME", "A&")
    assert parse_header(text, where="").value("EXTNAME") == "A&"


# END


@pytest.mark.parametrize("count", [0, 1, 34, 35, 36, 70, 71, 72, 107])
@pytest.mark.parametrize("after", [b"", b"\0" * BLOCK, END * 36, b"\xff" * 100])
def test_end_is_found_wherever_it_stands_in_a_block(count: int, after: bytes) -> None:
    text = header(*[FILLER] * count)
    assert len(text) == (count // 36 + 1) * BLOCK
    assert find_end(text + after, start=0) == len(text)


def test_the_search_goes_on_from_a_later_block() -> None:
    text = FILLER * 72 + END.ljust(BLOCK)
    assert find_end(text[: 2 * BLOCK], start=0) is None
    assert find_end(text, start=2 * BLOCK) == 3 * BLOCK
    assert find_end(END.ljust(BLOCK) + FILLER * 36, start=BLOCK) is None


@pytest.mark.parametrize(
    "image",
    [
        card("OBJECT", "END"),
        card("OBJECT", "END" + " " * 60),
        b"COMMENT " + b"END".ljust(72),
        b"HISTORY END",
        b" END",
        b"     END",
        b"ENDPOINT= 5",
        b"ENDPOINT",
        b"END_TIME= 'x'",
        b"ENDED",
        b"ENDX",
        b"END1",
        b"END" + b"\0" * 76 + b"1",
        b"END-1",
        b"END     = 5",
        b"END A",
        b"end",
    ],
)
def test_what_is_not_the_end_card(image: bytes) -> None:
    text = FILLER + image.ljust(CARD)
    assert find_end(text + FILLER * 34, start=0) is None
    assert find_end(text + FILLER * 34 + END.ljust(BLOCK), start=0) == 2 * BLOCK
    raw = parse_header(text + card("NAXIS", 1) + END.ljust(33 * CARD), where="")
    assert raw.value("NAXIS") == 1


def test_end_across_the_edge_of_two_cards_is_not_the_end_card() -> None:
    text = (b"COMMENT".ljust(79) + b"E" + b"ND".ljust(CARD)).ljust(BLOCK)
    assert find_end(text, start=0) is None


@pytest.mark.parametrize(
    "rest",
    [
        b"END" + b"\0" * 77,
        b"END" + b" " * 5 + b"\0" * 72,
        b"END" + b"\0" * (35 * CARD - 3),
        b"END\0" + b" " * 76,
        b"END".ljust(CARD) + b"\0" * 34 * CARD,
    ],
)
def test_an_end_card_padded_with_nul_bytes(rest: bytes) -> None:
    text = (card("NAXIS", 0) + rest).ljust(BLOCK)
    assert find_end(text + b"\xff" * BLOCK, start=0) == BLOCK
    assert parse_header(text, where="").value("NAXIS") == 0


def test_cards_after_end_do_not_count() -> None:
    text = (card("NAXIS", 0) + END + card("NAXIS", 5)).ljust(BLOCK)
    assert find_end(text, start=0) == BLOCK
    assert parse_header(text, where="").value("NAXIS") == 0


def test_pixels_are_not_taken_for_cards() -> None:
    check_text(FILLER * 36, start=0, where="")
    check_text(b"\0" * BLOCK, start=0, where="")
    check_text(b"COMMENT \xff\xfe\x01".ljust(CARD) * 36, start=0, where="")  # only keywords count
    check_text(b"\xff" * BLOCK + FILLER * 36, start=BLOCK, where="")
    for bad in (b"\x01EYWORD ", b"KEYWOR\x7f ", b"\xffEYWORD "):
        with pytest.raises(FitsFormatError, match=r"HDU 1: no END card.* byte 2880 of the header"):
            check_text(FILLER * 36 + bad.ljust(CARD) * 4, start=0, where="f: HDU 1")


def test_a_long_header_with_a_few_strange_keywords_is_read(tmp_path: Path) -> None:
    strange = b"CAF\xc9".ljust(CARD)
    cards = card("SIMPLE", True) + card("BITPIX", 8) + card("NAXIS", 0) + strange * 3
    text = blocks(cards + FILLER * 1000 + END, fill=b" ")
    (tmp_path / "long.fits").write_bytes(text)
    assert dask_fits.open(tmp_path / "long.fits")[0].header_range.nbytes == len(text)


# Whole headers, as astropy writes them

_ascii = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=60)
# Of a string too long for its card, astropy may put the two halves of a doubled quote into different
# cards, which the Standard does not allow.
_string = _ascii.filter(lambda text: len(text) + text.count("'") <= 68)
_value = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63),
    st.floats(allow_nan=False, allow_infinity=False),
    _string,
    st.none(),
)
_structural = st.sampled_from(
    [
        *(
            "SIMPLE",
            "XTENSION",
            "BITPIX",
            "NAXIS",
            "NAXIS1",
            "NAXIS12",
            "PCOUNT",
            "GCOUNT",
            "GROUPS",
        ),
        *("EXTNAME", "EXTVER", "INHERIT", "BSCALE", "BZERO", "BLANK"),
        *("ZIMAGE", "ZCMPTYPE", "ZBITPIX", "ZNAXIS", "ZNAXIS1", "ZTILE1"),
    ]
)
_other = st.sampled_from(
    ["ENDING", "ENDER", "EXTNAMEX", "NAXISX", "BSCALE2", "ZTILE", "A", "END_", "HISTORY", "COMMENT"]
)
_noise = st.sampled_from(["END", "END" + " " * 70, "BITPIX  = 99", "= 1", "'", "&", "/"])


@given(
    st.dictionaries(_structural, st.tuples(_value, _ascii), max_size=8),
    st.lists(st.tuples(_other, _noise | _string, _ascii), max_size=60),
    st.randoms(use_true_random=False),
)
def test_headers_written_by_astropy(structural, others, random) -> None:
    cards = [(keyword, *value) for keyword, value in structural.items()] + others
    random.shuffle(cards)
    written = fits.Header()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fits.verify.VerifyWarning)  # comments too long for a card
        for keyword, value, comment in cards:
            written.append(fits.Card(keyword, value, comment), end=True)
        text = written.tostring().encode()
    assert find_end(text + b"\0" * BLOCK, start=0) == len(text)
    check_text(text, start=0, where="")
    raw = parse_header(text, where="")
    assert set(structural) <= set(raw.cards)
    again = fits.Header.fromstring(text)
    for keyword, (value, comment) in structural.items():
        # astropy ends an empty string at a quote in the comment: 4.2.1.1 ends it at the next one.
        ends_later = value == "" and "'" in comment
        expected = "" if ends_later else again[keyword]
        expected = None if isinstance(expected, Undefined) else expected
        assert (raw.value(keyword), type(raw.value(keyword))) == (expected, type(expected))
