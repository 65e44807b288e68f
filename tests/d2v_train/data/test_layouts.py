"""Layouts of corpora: LibriSpeech, LJSpeech, Common Voice, Kaldi, manifests of wav2vec, lists."""

import json

import pytest
from media_files import check_account, classes, files_of, opened, write_picture, write_recording, write_text

from d2v_train.data.tables import TRANSCRIPT_COLUMNS


def heard(dataset):
    return dict(zip(files_of(dataset), dataset.transcripts, strict=True))


LJ = ["LJ001-0001|Dr. 5 \"x|Doctor five \"x", "LJ001-0002|plain|", "LJ001-0003|only"]  # fmt: skip


def make_ljspeech(root, lines=LJ):
    for line in lines:
        write_recording(root / "wavs" / f"{line.split('|')[0]}.wav")
    write_text(root / "metadata.csv", "".join(f"{line}\n" for line in lines))
    write_text(root / "README", "LJSpeech")
    return root


def test_ljspeech_for_pretraining_and_with_transcripts(tmp_path):
    make_ljspeech(tmp_path)
    write_recording(tmp_path / "wavs" / "LJ009-0001.wav")
    data = opened("audio", tmp_path)
    assert len(data) == 3 and data.labels is None and data[0]["audio"].size == 1600
    texts = {"wavs/LJ001-0001.wav": 'Doctor five "x', "wavs/LJ001-0002.wav": "plain", "wavs/LJ001-0003.wav": "only"}
    assert heard(opened("audio", tmp_path, text_column=TRANSCRIPT_COLUMNS)) == texts
    assert heard(opened("audio", tmp_path, text_column="raw_text"))["wavs/LJ001-0001.wav"] == 'Dr. 5 "x'
    assert data.inventory.layout == "recordings, LJSpeech" and data.inventory.samples == {"train": 3}
    assert data.inventory.left_out == {
        "it describes the data": ["README"],
        "it is not listed in metadata.csv": ["wavs/LJ009-0001.wav"],
    }
    check_account(data.inventory, tmp_path)


@pytest.mark.parametrize("wavs", ["wavs", ""])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_ljspeech_variants(tmp_path, wavs, ending):
    for name in ("a-1", "a-2"):
        write_recording(tmp_path / wavs / f"{name}.flac")
    write_text(tmp_path / "metadata.csv", f"\ufeffa-1|Eins, zwei{ending}a-2|„Drei“\u2028vier{ending}a-3|gone")
    data = opened("audio", tmp_path, text_column="text")
    assert data.transcripts == ["Eins, zwei", "„Drei“\u2028vier", "gone"]
    assert data.inventory.notes[0].startswith("1 listed files do not exist (")
    assert len(data.without_bad()) == 2


def test_suffixes_in_capitals(tmp_path):
    for number in range(2):
        write_recording(tmp_path / "lj" / "wavs" / f"a-{number}.WAV")
        write_recording(tmp_path / "ls" / "1" / "2" / f"1-2-{number}.FLAC", format="FLAC")
    write_text(tmp_path / "lj" / "metadata.csv", "a-0|x|y\na-1|x|y\n")
    write_text(tmp_path / "ls" / "1" / "2" / "1-2.trans.txt", "1-2-0 X\n1-2-1 Y\n")
    assert files_of(opened("audio", tmp_path / "lj")) == ["wavs/a-0.WAV", "wavs/a-1.WAV"]
    assert files_of(opened("audio", tmp_path / "ls")) == ["1/2/1-2-0.FLAC", "1/2/1-2-1.FLAC"]


def test_ljspeech_in_a_zip_file(tmp_path):
    import shutil

    make_ljspeech(tmp_path / "in" / "LJSpeech-1.1")
    archive = shutil.make_archive(str(tmp_path / "lj"), "zip", tmp_path / "in")
    data = opened("audio", archive, text_column="text")
    assert data.transcripts == ['Doctor five "x', "plain", "only"] and data[2]["audio"].size == 1600


CV = "client_id\tpath\tsentence\tlocale\n"


def make_common_voice(root):
    rows = {"train": ["a", "b"], "dev": ["c"], "test": ["d"], "validated": ["a", "b", "c", "d"], "other": ["e"]}
    for split, names in rows.items():
        lines = [f'{name}-id\t{name}.mp3\tDas "ist {name}\tde\n' for name in names]
        write_text(root / f"{split}.tsv", CV + "".join(lines))
        for name in names:
            write_recording(root / "clips" / f"{name}.mp3", seconds=0.2)
    write_text(root / "reported.tsv", "sentence\treason\nx\ty\n")
    write_recording(root / "clips" / "z.mp3")
    return root


@pytest.mark.parametrize("below", ["", "de", "cv-corpus/de"])
def test_common_voice(tmp_path, below):
    make_common_voice(tmp_path / below)
    data = opened("audio", tmp_path, text_column=TRANSCRIPT_COLUMNS)
    assert data.transcripts == ['Das "ist a', 'Das "ist b'] and data.groups == ["a-id", "b-id"]
    assert [name.rpartition("/")[2] for name in files_of(opened("audio", tmp_path, "validation"))] == ["c.mp3"]
    assert len(opened("audio", tmp_path, "validated")) == 4 and len(opened("audio", tmp_path, "test")) == 1
    assert data.inventory.samples == {"dev": 1, "other": 1, "test": 1, "train": 2, "validated": 4}
    assert sum(map(len, data.inventory.left_out.values())) == 2  # reported.tsv and z.mp3
    check_account(data.inventory, tmp_path)


def test_common_voice_of_old_has_no_suffixes_and_a_table_may_be_the_source(tmp_path):
    make_common_voice(tmp_path)
    write_text(tmp_path / "train.tsv", CV + "i\ta\tx\tde\n")
    assert files_of(opened("audio", tmp_path)) == ["clips/a.mp3"]
    assert files_of(opened("audio", tmp_path / "other.tsv")) == ["clips/e.mp3"]
    write_text(tmp_path / "train.tsv", CV + "i\ta\n")
    with pytest.raises(ValueError, match="Line 2 of .*train.tsv has 2 cells"):
        opened("audio", tmp_path)


@pytest.mark.parametrize("root", ["absolute", ".", "moved"])
def test_a_manifest_of_wav2vec(tmp_path, root):
    for name in ("a/1.flac", "a/2.flac", "b/3.flac", "b/4.flac"):
        write_recording(tmp_path / "speech" / name)
    first = {"absolute": str(tmp_path / "speech"), ".": ".", "moved": "/gone/speech"}[root]
    folder = tmp_path / ("manifest" if root == "absolute" else "speech")
    write_text(folder / "train.tsv", f"{first}\na/1.flac\t1600\na/2.flac\t1600\n")
    write_text(folder / "valid.tsv", f"{first}\nb/3.flac\t1600\n")
    write_text(folder / "train.wrd", "GO ON\nSTOP\n")
    write_text(folder / "train.ltr", "G O | O N |\nS T O P |\n")
    write_text(folder / "valid.ltr", "N O | W A Y |\n")
    source = tmp_path if root == "absolute" else folder
    data = opened("audio", source, text_column="text", length_column="frames")
    assert data.transcripts == ["GO ON", "STOP"] and data.lengths.tolist() == [1600, 1600]
    assert opened("audio", source, "validation", text_column="text").transcripts == ["NO WAY"]
    ((reason, names),) = data.inventory.left_out.items()
    assert reason.startswith("it is not listed in ") and "train.tsv" in reason and "valid.tsv" in reason
    assert names == [f"{'speech/' if root == 'absolute' else ''}b/4.flac"]
    alone = opened("audio", folder / "valid.tsv")
    assert len(alone) == 1 and alone[0]["audio"].size == 1600
    write_text(folder / "train.wrd", "GO ON\n")
    with pytest.raises(ValueError, match="train.wrd has 1 lines for the 2 recordings"):
        opened("audio", source)


def test_kaldi(tmp_path):
    for split, keys in {"train": ["ann-1", "bob-1"], "test": ["eve-1"]}.items():
        for key in keys:
            write_recording(tmp_path / "wav" / f"{key}.wav")
        folder = tmp_path / "data" / split
        write_text(folder / "wav.scp", "".join(f"{key} {tmp_path}/wav/{key}.wav\n" for key in keys))
        write_text(folder / "text", "".join(f"{key} HELLO {key.upper()}\n" for key in keys[:1]))
        write_text(folder / "utt2spk", "".join(f"{key} {key[:3]}\n" for key in keys))
    data = opened("audio", tmp_path, text_column="text")
    assert data.transcripts == ["HELLO ANN-1", ""] and data.groups == ["ann", "bob"]
    assert opened("audio", tmp_path, "test", text_column="text").transcripts == ["HELLO EVE-1"]
    check_account(data.inventory, tmp_path)
    scp = tmp_path / "data" / "train" / "wav.scp"
    write_text(scp, "ann-1 sph2pipe -f wav a.sph |\n")
    with pytest.raises(ValueError, match="ann-1.*commands are not run"):
        opened("audio", tmp_path)
    write_text(scp.with_name("segments"), "ann-1-a ann-1 0 1\n")
    with pytest.raises(ValueError, match="segments cuts"):
        opened("audio", tmp_path)


def test_librispeech_for_pretraining_leaves_out_what_has_no_transcript(tmp_path):
    for key in ("19-198-0000", "19-198-0001"):
        write_recording(tmp_path / "train-clean-100" / "19" / "198" / f"{key}.flac")
    write_text(tmp_path / "train-clean-100" / "19" / "198" / "19-198.trans.txt", "19-198-0000 A B\n")
    write_text(tmp_path / "BOOKS.TXT", "books")
    data = opened("audio", tmp_path)
    assert len(data) == 1 and data.groups == ["19"] and data.labels is None
    assert data.inventory.samples == {"train-clean-100": 1} and data.inventory.files == 4
    check_account(data.inventory, tmp_path)


@pytest.mark.parametrize("suffix", [".txt", ".lst"])
def test_a_list_of_files(tmp_path, suffix):
    for name in ("cat/1.png", "dog/[2] ü.png", "dog/3.png", "train/4.png"):
        write_picture(tmp_path / "pictures" / name)
    names = [
        "../pictures/cat/1.png",
        "",
        str(tmp_path / "pictures" / "dog" / "[2] ü.png"),
        "../pictures/train/4.png",
        "no",
    ]
    source = write_text(tmp_path / "lists" / f"test{suffix}", "\r\n".join(names))
    data = opened("vision", source)
    assert len(data) == 4 and classes(data) == {"cat": 1, "dog": 1, "train": 1, None: 1}
    assert data[1]["image"].size == (6, 4)
    assert len(data.without_bad()) == 3 and "1 listed files do not exist (no)" in data.inventory.notes
    assert data.inventory.samples == {"train": 4} and data.inventory.files == 4
    with pytest.raises(ValueError, match="None of the 1 files"):
        opened("vision", write_text(tmp_path / "novel.txt", "It was a dark night."))


def test_one_file_is_a_source_of_one_sample(tmp_path):
    assert files_of(opened("vision", write_picture(tmp_path / "a" / "b.png"))) == ["b.png"]


@pytest.mark.parametrize("name", ["subset.csv", "subset.jsonl", "manifest.json"])
def test_a_table_of_files_is_a_source(tmp_path, name):
    rows = []
    for number in range(4):
        write_recording(tmp_path / ("train", "test")[number % 2] / f"{number}.wav")
        rows.append(
            {"audio_filepath": f"{('train', 'test')[number % 2]}/{number}.wav", "text": f"T{number}", "duration": 0.1}
        )
    content = "\n".join(map(json.dumps, rows)) if name.endswith("l") else json.dumps(rows)
    if name.endswith("csv"):
        content = "\n".join([",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)])
    write_text(tmp_path / name, content)
    data = opened("audio", tmp_path / name, text_column="text", length_column="duration")
    assert data.transcripts == ["T0", "T2"] and data.lengths.tolist() == [1600, 1600]
    assert opened("audio", tmp_path / name, "test", text_column="text").transcripts == ["T1", "T3"]
    assert data.inventory.files == len(data.inventory.used) == 5


@pytest.mark.parametrize("gone", ["LJ009-0001", "name", "LJ|", '"'])
def test_ljspeech_is_recognised_when_its_first_recording_is_missing(tmp_path, gone):
    make_ljspeech(tmp_path)
    content = (tmp_path / "metadata.csv").read_text(encoding="utf-8")
    write_text(tmp_path / "metadata.csv", f"{gone}|a|b\n{content}")
    data = opened("audio", tmp_path, text_column="text")
    assert data.transcripts[1:] == ['Doctor five "x', "plain", "only"] and len(data.without_bad()) == 3
    assert data.inventory.layout == "recordings, LJSpeech" and "1 listed files do not exist" in data.inventory.notes[0]


@pytest.mark.parametrize("header", ["file_name|text", "text|path", '"filename"|text'])
def test_a_header_between_bars_is_metadata_not_ljspeech(tmp_path, header):
    write_recording(tmp_path / "a.wav")
    row = "hello|a.wav" if header.startswith("text") else "a.wav|hello"
    write_text(tmp_path / "metadata.csv", f"{header}\n{row}\n")
    data = opened("audio", tmp_path, text_column="text")
    assert data.inventory.layout == "recordings, metadata" and heard(data) == {"a.wav": "hello"}
