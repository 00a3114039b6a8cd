"""What the tests of the readers share."""

import pytest

from preprocess.errors import DataError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One folder for all the examples of a module's properties, which overwrite each other's files."""
    return tmp_path_factory.mktemp("annotations")


@pytest.fixture(scope="session")
def make():
    """A function: writes ``{name: text or bytes}`` below a folder and returns the paths."""

    def write(root, files):
        paths = []
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
            paths.append(path)
        return paths

    return write


@pytest.fixture(scope="session")
def records():
    """A function: the records of a listing, which must be sound, or None for a DataError that names one of the files.

    Any other exception passes.
    """

    def is_one_line(text):
        return bool(text.encode()) and len(text.splitlines()) == 1

    def collect(files, list_them):
        try:
            listing = list_them()
            found = list(listing.records)
        except DataError as error:
            assert "\n" not in str(error)
            assert any(str(error).startswith(str(file)) for file in files), error
            return None
        assert all(map(is_one_line, listing.classes))
        for record in found:
            assert is_one_line(record.key)
            assert all(part.strip(".") for part in record.key.split("/"))
            assert all(0 <= label < len(listing.classes) for label in record.labels)
            assert record.split in ("train", "val", "test")
            assert not record.problem or is_one_line(record.problem)
            assert record.problem or record.source.exists()
        taken = [(record.split, record.key) for record in found if not record.problem.startswith("listed before")]
        assert len(set(taken)) == len(taken)
        return found

    return collect


@pytest.fixture(scope="session")
def message():
    """A function: the message of the DataError that a call must raise."""

    def of(list_them):
        with pytest.raises(DataError) as caught:
            list(list_them().records)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return of
