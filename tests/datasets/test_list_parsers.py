"""Every list parser: the same answer for harmless variants of a file, a clear error for a damaged one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.bupt import read_lst
from datasets.errors import BadList, DatasetNotFound
from datasets.fairface import read_labels
from datasets.image_folder import read_images_csv, read_pairs_csv
from datasets.insightface import read_property
from datasets.lfw import read_gender
from datasets.pair_lists import (
    PairList,
    name_before_number,
    read_calfw,
    read_cplfw,
    read_lfw_dev_pairs,
    read_lfw_pairs,
    read_lfw_people,
    read_rfw_pairs,
)
from datasets.protocols import agedb_gender, agedb_subject, cfp_subject, read_agedb, read_cfp
from datasets.rfw import read_landmarks, read_people


@dataclass(frozen=True)
class Case:
    """A parser, a small file that it reads, and a line (0-based) of it with a replacement of a wrong field count."""

    read: Callable[[Path], Any]
    text: str
    line: int
    broken: str


TWO_LINE = "".join(f"A_{k}_0001.jpg 1\nA_{k}_0002.jpg 1\n" for k in range(10)) + "".join(
    f"A_{k}_0001.jpg 0\nB_{k}_0001.jpg 0\n" for k in range(10)
)
CASES = {
    "lfw pairs": Case(read_lfw_pairs, "1\t1\nAda_L\t1\t2\nAda_L\t1\tBob\t1\n", 1, "Ada_L\t1"),
    "lfw dev pairs": Case(read_lfw_dev_pairs, "1\nAda_L\t1\t2\nAda_L\t1\tBob\t1\n", 2, "Ada_L\t1\tBob\t1\t1"),
    "lfw people": Case(read_lfw_people, "1\n2\nAda_L\t2\nBob\t1\n", 3, "Bob"),
    "lfw gender": Case(read_gender, "file,gender\nAda_L/Ada_L_0001.jpg,F\nBob/Bob_0001.jpg,\n", 1, "Ada_L/x.jpg,F,1"),
    "rfw pairs": Case(read_rfw_pairs, "m.0a\t1\t3\nm.0a\t1\tm.0b\t2\n", 1, "m.0a\t1\tm.0b\t2\t1"),
    "rfw people": Case(read_people, "m.0a\t4\nm.0b\t0\n", 0, "m.0a"),
    "rfw landmarks": Case(read_landmarks, "x/m.0a/m.0a_0001.jpg\t0" + "\t1.5" * 10 + "\n", 0, "a.jpg\t0" + "\t1" * 9),
    "calfw": Case(read_calfw, TWO_LINE, 7, "A_3_0002.jpg"),
    "cplfw": Case(read_cplfw, TWO_LINE, 0, "A_0_0001.jpg 1 1"),
    "fairface": Case(
        read_labels, "file,age,gender,race,service_test\nval/1.jpg,3-9,Male,White,True\n", 1, "val/1.jpg,3-9,Male,White"
    ),
    "images csv": Case(read_images_csv, "path,label,group\na.jpg,1,x\nb.jpg,2,y\n", 2, "b.jpg,2"),
    "pairs csv": Case(read_pairs_csv, "a,b,same\na.jpg,b.jpg,1\na.jpg,c.jpg,0\n", 1, "a.jpg,b.jpg,1,1"),
    "train.lst": Case(read_lst, "1\tAfrican/m.0a/1.jpg\t0\n1\tAfrican/m.0b/1.jpg\t1\n", 0, "1\tx.jpg"),
    "property": Case(read_property, "10,112,112\n", 0, "10,112"),
}
every_parser = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def plain(value: Any) -> Any:
    """Something that == compares."""
    if isinstance(value, PairList):
        return value.first, value.second, value.same.tolist(), value.fold.tolist()
    if hasattr(value, "service_test"):
        return value.files, value.age.tolist(), value.gender.tolist(), value.race.tolist()
    if isinstance(value, dict):
        return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in value.items()}
    return value


@every_parser
@pytest.mark.parametrize("variant", ["crlf", "bom", "blank lines at the end", "no line end", "bom and crlf"])
def test_harmless_variants_read_alike(tmp_path: Path, case: Case, variant: str) -> None:
    path = tmp_path / "list"
    path.write_text(case.text)
    expected = plain(case.read(path))
    data = case.text.encode()
    changed = {
        "crlf": data.replace(b"\n", b"\r\n"),
        "bom": b"\xef\xbb\xbf" + data,
        "blank lines at the end": data + b"\n\r\n",
        "no line end": data.rstrip(b"\n"),
        "bom and crlf": b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n"),
    }[variant]
    path.write_bytes(changed)
    assert plain(case.read(path)) == expected


@every_parser
@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf", b"\r\n"])
def test_empty_files(tmp_path: Path, case: Case, content: bytes) -> None:
    (tmp_path / "list").write_bytes(content)
    with pytest.raises(BadList, match="list is empty"):
        case.read(tmp_path / "list")


@every_parser
def test_missing_files(tmp_path: Path, case: Case) -> None:
    with pytest.raises(
        DatasetNotFound, match=r"is not there: .*list does not exist[\s\S]*Expected under the data root"
    ):
        case.read(tmp_path / "list")


@every_parser
def test_a_line_with_a_wrong_field_count_is_named(tmp_path: Path, case: Case) -> None:
    lines = case.text.splitlines()
    lines[case.line] = case.broken
    (tmp_path / "list").write_text("\n".join(lines))
    with pytest.raises(BadList, match=f"line {case.line + 1}: expected"):
        case.read(tmp_path / "list")


@every_parser
def test_binary_files_and_inner_blank_lines(tmp_path: Path, case: Case) -> None:
    (tmp_path / "list").write_bytes(b"\xff\xd8\xff\xe0" * 9)
    with pytest.raises(BadList, match="not UTF-8"):
        case.read(tmp_path / "list")
    (tmp_path / "list").write_text("\n" + case.text)
    with pytest.raises(BadList, match="line 1: blank line"):
        case.read(tmp_path / "list")


# -- parity with the published parsers ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("read", "source", "reference"),
    [(read_lfw_pairs, "lfw_pairs.txt", "lfw_pairs.npz"), (read_rfw_pairs, "African_pairs.txt", "rfw_pairs.npz")],
)
def test_lfw_and_rfw_pairs(golden: Path, read: Callable[[Path], PairList], source: str, reference: str) -> None:
    expected = np.load(golden / "_datasets" / reference)
    pairs = read(golden / "_datasets" / source)
    assert list(pairs.first) == expected["a"].tolist()
    assert list(pairs.second) == expected["b"].tolist()
    assert pairs.same.tolist() == expected["label"].astype(bool).tolist()


def test_lfw_folds_follow_the_blocks(golden: Path) -> None:
    pairs = read_lfw_pairs(golden / "_datasets" / "lfw_pairs.txt")
    assert pairs.fold.tolist() == [0] * 6 + [1] * 6
    some = pairs.select(pairs.fold == 1)
    assert len(some) == 6
    assert some.first == pairs.first[6:]


def test_lfw_people(golden: Path) -> None:
    expected = np.load(golden / "_datasets" / "lfw_people.npz")
    people = read_lfw_people(golden / "_datasets" / "lfw-py" / "people.txt")
    paths = [f"{n}/{n}_{k:04d}.jpg" for n, (_, count) in people.items() for k in range(1, count + 1)]
    assert paths == expected["path"].tolist()
    assert {fold for fold, _ in people.values()} == {0, 1}


@pytest.mark.parametrize(("read", "name"), [(read_calfw, "CALFW"), (read_cplfw, "CPLFW")])
def test_two_line_pairs_are_regrouped(golden: Path, read: Callable[[Path], PairList], name: str) -> None:
    expected = np.load(golden / "_datasets" / f"{name.lower()}_pairs.npz")
    pairs = read(golden / "_datasets" / f"pairs_{name}.txt")
    assert pairs.same.tolist() == expected["label"].astype(bool).tolist()
    assert [int(file[1:-5]) for file in pairs.first] == expected["order"].tolist()
    assert pairs.second[:3] == tuple(expected["first_b"].tolist())
    assert (np.bincount(pairs.fold) == 600).all()
    assert all(pairs.same[pairs.fold == fold].sum() == 300 for fold in range(10))


def test_agedb(golden: Path, tmp_path: Path) -> None:
    expected = np.load(golden / "_datasets" / "agedb_pairs.npz")
    pairs = read_agedb(golden / "_datasets" / "agedb_protocol.mat")
    assert pairs.same.tolist() == expected["label"].astype(bool).tolist()
    assert [*pairs.first[:50], *pairs.first[-50:]] == expected["a"].tolist()
    assert [*pairs.second[:50], *pairs.second[-50:]] == expected["b"].tolist()
    assert np.bincount(pairs.fold).tolist() == [600] * 10
    with pytest.raises(DatasetNotFound, match="iBUG"):
        read_agedb(tmp_path / "none.mat")
    for content in (b"", b"MATLAB 5.0 MAT-file" + bytes(200)):
        (tmp_path / "bad.mat").write_bytes(content)
        with pytest.raises(BadList, match="not AgeDB's protocol"):
            read_agedb(tmp_path / "bad.mat")


def cfp(folder: Path) -> Path:
    """A CFP tree with 4 frontal and 2 profile images of two people, the same two pairs in every fold."""
    (folder / "Protocol").mkdir()
    frontal = [f"{k + 1} ../Data/Images/00{k // 2 + 1}/frontal/0{k % 2 + 1}.jpg" for k in range(4)]
    profile = [f"{k + 1} ../Data/Images/00{k + 1}/profile/01.jpg" for k in range(2)]
    (folder / "Protocol" / "Pair_list_F.txt").write_text("\n".join(frontal))
    (folder / "Protocol" / "Pair_list_P.txt").write_text("\r\n".join(profile) + "\r\n")
    for protocol in ("FF", "FP"):
        for fold in range(1, 11):
            split = folder / "Protocol" / "Split" / protocol / f"{fold:02d}"
            split.mkdir(parents=True)
            (split / "same.txt").write_text("3,4\n" if protocol == "FF" else "3,2\n")
            (split / "diff.txt").write_text("1,4\n" if protocol == "FF" else "1,2\n")
    return folder


def test_cfp(tmp_path: Path) -> None:
    pairs = read_cfp(cfp(tmp_path), "FP")
    assert len(pairs) == 20
    assert pairs.first[:2] == ("Data/Images/002/frontal/01.jpg", "Data/Images/001/frontal/01.jpg")
    assert pairs.second[:2] == ("Data/Images/002/profile/01.jpg", "Data/Images/002/profile/01.jpg")
    assert pairs.same[:2].tolist() == [True, False]
    assert pairs.fold.tolist() == [k // 2 for k in range(20)]
    assert [cfp_subject(p) for p in (pairs.first[0], pairs.second[0])] == ["002", "002"]
    assert read_cfp(tmp_path, "FF").second[0] == "Data/Images/002/frontal/02.jpg"
    (tmp_path / "Protocol" / "Split" / "FP" / "04" / "diff.txt").write_text("1,3\n")
    with pytest.raises(BadList, match=r"diff\.txt, line 1: '1,3' names an image"):
        read_cfp(tmp_path, "FP")
    (tmp_path / "Protocol" / "Split" / "FP" / "02" / "same.txt").unlink()
    with pytest.raises(DatasetNotFound, match="Maryland"):
        read_cfp(tmp_path, "FP")
    with pytest.raises(ValueError, match="FF and FP"):
        read_cfp(tmp_path, "PP")


def test_identities_in_file_names() -> None:
    assert name_before_number("images/Ada_Lovelace_0003.jpg") == "Ada_Lovelace"
    assert agedb_subject("123_JaneDoe_47_f.jpg") == "JaneDoe"
    assert [agedb_gender(f"1_A_2_{g}.jpg") for g in "fmx"] == [0, 1, -1]


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (read_lfw_pairs, "1\t2\nA\t1\t2\nA\t1\tB\t1\n", "promises 1 x 2 x 2 = 4"),
        (read_lfw_pairs, "1\t1\nA\t1\tB\t1\nA\t1\t2\n", "line 2: expected a genuine pair"),
        (read_lfw_pairs, "1\t1\nA\t1\t2\nA\t1\t3\n", "line 3: expected an impostor pair"),
        (read_lfw_pairs, "1\t1\nA\t1\tx\nA\t1\tB\t1\n", "line 2: expected an integer >= 1, got 'x'"),
        (read_lfw_pairs, "1\t1\nA\t0\t2\nA\t1\tB\t1\n", "integer >= 1, got '0'"),
        (read_lfw_dev_pairs, "2\nA\t1\t2\nA\t1\tB\t1\n", "promises 2 x 2"),
        (read_lfw_people, "1\n3\nA\t1\nB\t1\n", "promises 3 people"),
        (read_lfw_people, "2\n1\nA\t1\n", "ends before fold 2 of 2"),
        (read_lfw_people, "1\n1\nA\t1\nB\t1\n", "more lines than"),
        (read_lfw_people, "1\n2\nA\t1\nA\t1\n", "named twice"),
        (read_gender, "file,sex\na/a.jpg,M\n", "lacks gender"),
        (read_gender, "file,gender\na/a.jpg,X\n", "gender is 'X'"),
        (read_gender, "file,gender\n", "no rows"),
        (read_people, "m.0a\t1\nm.0a\t2\n", "named twice"),
        (read_landmarks, "a/b.jpg\t0" + "\t1" * 9 + "\tx\n", "coordinate is no number"),
        (read_landmarks, "a/b.jpg\t0" + "\t1" * 9 + "\tnan\n", "not finite"),
        (read_calfw, "a.jpg 1\nb.jpg 0\n", "lines 1 and 2 are one pair"),
        (read_calfw, "a.jpg 1\nb.jpg 1\nc.jpg 1\n", "expected two lines a pair"),
        (read_calfw, "a.jpg 1\nb.jpg 1\n", "1 genuine and 0 impostor"),
        (read_images_csv, "path,label\na.jpg,\n", "must not be empty"),
        (read_images_csv, "path,label\na.jpg,1\na.jpg,2\n", "named twice"),
        (read_images_csv, "path,label,split\na.jpg,1,dev\n", "split is 'dev'"),
        (read_pairs_csv, "a,b,same\na.jpg,b.jpg,yes\n", "same is 'yes'"),
        (read_pairs_csv, "a,b,same,fold\na.jpg,b.jpg,1,-2\n", "integer >= 0"),
        (read_lst, "0\ta.jpg\t3\n", "expected 1"),
    ],
)
def test_contradictions_are_named(tmp_path: Path, read: Callable[[Path], Any], text: str, message: str) -> None:
    (tmp_path / "list").write_text(text)
    with pytest.raises(BadList, match=message):
        read(tmp_path / "list")
