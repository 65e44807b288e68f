from d2v_train.data.inventory import Inventory, visible_files


def test_links_are_followed_and_hidden_files_left_out(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.png").touch()
    source = tmp_path / "source"
    (source / ".hidden").mkdir(parents=True)
    (source / ".hidden" / "b.png").touch()
    (source / "c.png").touch()
    (source / "linked").symlink_to(tmp_path / "real")
    (source / "d.png").symlink_to(tmp_path / "real" / "a.png")
    assert [path.relative_to(source).as_posix() for path in visible_files(source)] == [
        "c.png",
        "d.png",
        "linked/a.png",
    ]


def test_a_folder_that_contains_itself_is_entered_once(tmp_path):
    (tmp_path / "a.png").touch()
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "b.png").touch()
    (tmp_path / "inner" / "back").symlink_to(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in visible_files(tmp_path)] == ["a.png", "inner/b.png"]


def test_summary_names_the_files_that_are_left_out():
    inventory = Inventory("pictures", "pictures, flat", {"train": 2}, ["a.png", "b.png"])
    inventory.leave_out("c.xyz", "unknown suffix .xyz")
    assert inventory.files == 3
    assert inventory.lines() == [
        "pictures: pictures, flat; samples: train 2; 2 of 3 files used",
        "  not used, unknown suffix .xyz: 1 (c.xyz)",
    ]
